"""From loaded models to the PyTorch modules of the four parts and their metadata."""

import copy

import torch
from torch import nn

from common.cuda import CapturedEngine
from common.checkpoint import LoadedModel
from common.contract import PRECISION_DTYPES
from common.engine import Engine, TorchEngine
from common.metadata import DEFAULT_SIGMA, ModelMetadata, Part, Precision
from tacotron2.triton_engine import best_decoder_engine
from tacotron2.model import Tacotron2
from tacotron2.parts import DecoderIterPart, EncoderPart, PostnetPart
from waveglow.triton_engine import best_waveglow_engine
from waveglow.model import WaveGlow
from waveglow.parts import WaveGlowPart


def make_parts(
    loaded: LoadedModel, precision: Precision, sigma: float | None = None
) -> dict[Part, tuple[nn.Module, ModelMetadata]]:
    """The parts of a model in the given precision, on the CPU, independent of the model they come from.

    Constants are folded in FP32 and only then rounded to FP16.
    """
    model = copy.deepcopy(loaded.model)
    modules: dict[Part, nn.Module]
    if isinstance(model, Tacotron2):
        modules = {
            "encoder": EncoderPart(model),
            "decoder_iter": DecoderIterPart(model),
            "postnet": PostnetPart(model),
        }
    else:
        assert isinstance(model, WaveGlow)
        modules = {"waveglow": WaveGlowPart(model)}
        sigma = sigma if sigma is not None else loaded.sigma if loaded.sigma is not None else DEFAULT_SIGMA
    return {
        part: (
            module.eval().requires_grad_(False).to(PRECISION_DTYPES[precision]),
            ModelMetadata(part, precision, loaded.config, loaded.audio, loaded.sha256, sigma, loaded.voice),
        )
        for part, module in modules.items()
    }


def torch_engines(
    tacotron2: LoadedModel,
    waveglow: LoadedModel,
    precision: Precision,
    device: torch.device | str = "cpu",
    fast: bool = False,
) -> dict[Part, Engine]:
    """The four parts as PyTorch engines: the baseline, and what GPU machines without TensorRT run.

    Args:
        fast: take this project's GPU kernels for the decoder step and WaveGlow, where the device supports them.
    """
    parts = {**make_parts(tacotron2, precision), **make_parts(waveglow, precision)}
    engines: dict[Part, Engine] = {
        part: TorchEngine(module, metadata, device)
        for part, (module, metadata) in parts.items()
        if not (fast and part in ("decoder_iter", "waveglow"))
    }
    if fast:
        if torch.device(device).type == "cuda":
            engines["encoder"] = CapturedEngine(engines["encoder"])  # type: ignore[assignment]
        engines["decoder_iter"] = best_decoder_engine(*parts["decoder_iter"], device)  # type: ignore[arg-type]
        unrounded, _ = make_parts(waveglow, "fp32")["waveglow"]  # it is folded further before it is rounded
        engines["waveglow"] = best_waveglow_engine(unrounded, parts["waveglow"][1], device)  # type: ignore[arg-type]
    return engines
