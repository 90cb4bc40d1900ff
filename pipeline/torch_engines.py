"""The four parts as PyTorch engines, from loaded checkpoints."""

from dataclasses import replace
from typing import get_args

import torch

from common.checkpoint import LoadedModel
from common.engine import Engine, TorchEngine
from common.errors import InvalidInput, UserError, check_choice, check_type
from common.graph_engine import GraphEngine
from common.metadata import Part, Precision
from common.triton_engine import best_engine
from tacotron2.gpu.decoder_engine import FusedDecoderEngine
from tacotron2.gpu.encoder_engine import FusedEncoderEngine
from tacotron2.model import Tacotron2
from tacotron2.parts import tacotron2_parts
from waveglow.conditioning import Conditioning, parse_conditioning
from waveglow.gpu.engine import FastWaveGlowEngine
from waveglow.model import WaveGlow
from waveglow.parts import waveglow_parts


def torch_engines(
    tacotron2: LoadedModel[Tacotron2],
    waveglow: LoadedModel[WaveGlow],
    precision: Precision,
    device: torch.device | str = "cpu",
    fast: bool = False,
    conditioning: Conditioning = "auto",
) -> dict[Part, Engine]:
    """The four parts as PyTorch engines: the baseline, and what GPU machines without TensorRT run.

    Args:
        fast: take this project's GPU kernels and CUDA graphs, where the device supports them.
        conditioning: of WaveGlow.

    Raises:
        InvalidInput: an argument is of another type, or none of its choices.
        UserError: there is no GPU, FP16 is asked for on a CPU, or WaveGlow's upsampling has no such rank or holds NaN.
    """
    check_type("device", device, str, torch.device)
    check_choice("precision", precision, get_args(Precision))
    try:
        conditioning = parse_conditioning(str(conditioning))
    except ValueError as error:
        raise InvalidInput(f"conditioning {error}", "conditioning") from None
    try:
        device = torch.device(device)
    except RuntimeError:
        raise InvalidInput(f"device {device}: give cpu, cuda or cuda:N", "device") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError(f"device {device}: PyTorch finds no NVIDIA GPU; use device cpu")
    if precision == "fp16" and device.type == "cpu":
        raise UserError("FP16 needs an NVIDIA GPU; run in FP32 on the CPU")
    parts = tacotron2_parts(tacotron2, precision)
    if not fast:
        parts |= waveglow_parts(waveglow, precision, conditioning=conditioning)
        return {part: TorchEngine(module, metadata, device) for part, (module, metadata) in parts.items()}
    # It is folded further before it is rounded.
    unrounded, metadata = waveglow_parts(waveglow, "fp32", conditioning=conditioning)["waveglow"]
    encoder = best_engine(FusedEncoderEngine, *parts["encoder"], device)
    return {
        "encoder": _captured(encoder) if isinstance(encoder, TorchEngine) else encoder,
        "decoder_iter": best_engine(FusedDecoderEngine, *parts["decoder_iter"], device),
        "postnet": _captured(TorchEngine(*parts["postnet"], device)),
        "waveglow": best_engine(FastWaveGlowEngine, unrounded, replace(metadata, precision=precision), device),
    }


def _captured(engine: Engine) -> Engine:
    return GraphEngine(engine) if engine.device.type == "cuda" else engine
