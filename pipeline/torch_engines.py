"""The four parts as PyTorch engines, from loaded checkpoints."""

import torch

from common.checkpoint import LoadedModel
from common.engine import Engine, TorchEngine
from common.graph_engine import GraphEngine
from common.metadata import Part, Precision
from common.triton_engine import best_engine
from tacotron2.model import Tacotron2
from tacotron2.parts import tacotron2_parts
from tacotron2.triton_engine import FusedDecoderEngine
from waveglow.model import WaveGlow
from waveglow.parts import waveglow_parts
from waveglow.triton_engine import FastWaveGlowEngine


def torch_engines(
    tacotron2: LoadedModel[Tacotron2],
    waveglow: LoadedModel[WaveGlow],
    precision: Precision,
    device: torch.device | str = "cpu",
    fast: bool = False,
) -> dict[Part, Engine]:
    """The four parts as PyTorch engines: the baseline, and what GPU machines without TensorRT run.

    Args:
        fast: take this project's GPU kernels for the decoder step and WaveGlow, where the device supports them.
    """
    parts = {**tacotron2_parts(tacotron2, precision), **waveglow_parts(waveglow, precision)}
    engines: dict[Part, Engine] = {
        part: TorchEngine(module, metadata, device)
        for part, (module, metadata) in parts.items()
        if not (fast and part in ("decoder_iter", "waveglow"))
    }
    if fast:
        if torch.device(device).type == "cuda":
            for part in ("encoder", "postnet"):
                engines[part] = GraphEngine(engines[part])
        engines["decoder_iter"] = best_engine(FusedDecoderEngine, *parts["decoder_iter"], device)
        unrounded, _ = waveglow_parts(waveglow, "fp32")["waveglow"]  # it is folded further before it is rounded
        engines["waveglow"] = best_engine(
            FastWaveGlowEngine,
            unrounded,
            parts["waveglow"][1],
            device,
        )
    return engines
