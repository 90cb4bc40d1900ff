"""WaveGlow from a checkpoint of any of NVIDIA's layouts."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from common.checkpoint import LoadedModel, State, count, load_model
from common.errors import UserError
from common.files import REPOSITORY
from waveglow.model import UPSAMPLE_STRIDE, WaveGlow

DEMO_WAVEGLOW = REPOSITORY / "checkpoints" / "waveglow_demo.pt"

# PyTorch's later form of a weight norm, and NeMo's name of the networks.
_RENAMED = {
    ".parametrizations.weight.original0": ".weight_g",
    ".parametrizations.weight.original1": ".weight_v",
    "wavenet.": "WN.",
}
# NeMo stores the inverted 1x1 convolutions and the filters of its mel spectrogram beside the weights.
_LEFT_OUT = (".inv_conv.", "audio_to_melspec_precessor.")
_KINDS = ("weight_g", "weight_v", "bias")


def load_waveglow(path: Path, flags: Mapping[str, Any] | None = None) -> LoadedModel[WaveGlow]:
    """Loads WaveGlow on the CPU in FP32; see `common.checkpoint.load_model` for `flags` and errors."""
    loaded = load_model(path, "WaveGlow", WaveGlow, flags or {}, _dimensions_of, _adapted)
    hop, group = loaded.audio.hop_length, loaded.config.n_group
    if hop != UPSAMPLE_STRIDE:
        raise UserError(
            f"{path}: its hop_length is {hop}, but WaveGlow makes {UPSAMPLE_STRIDE} samples of a mel frame; give a "
            f"checkpoint that was trained with a hop of {UPSAMPLE_STRIDE}"
        )
    if UPSAMPLE_STRIDE % group:
        raise UserError(f"{path}: n_group is {group}: it must divide the {UPSAMPLE_STRIDE} samples of a mel frame")
    return loaded


def _dimensions_of(state: State) -> dict[str, int]:
    channels = [state[f"convinv.{flow}.conv.weight"].shape[0] for flow in range(count(state, "convinv.{}.conv.weight"))]
    inputs = state["WN.0.in_layers.0.weight_v"]
    dimensions = {
        "n_mel_channels": state["upsample.weight"].shape[0],
        "n_flows": len(channels),
        "n_group": channels[0],
        "wn_layers": count(state, "WN.0.in_layers.{}.weight_v"),
        "wn_kernel_size": inputs.shape[2],
        "wn_channels": inputs.shape[1],
    }
    narrowed = [flow for flow in range(1, len(channels)) if channels[flow] < channels[flow - 1]]
    if narrowed:
        dimensions["n_early_every"] = narrowed[0]
        dimensions["n_early_size"] = channels[narrowed[0] - 1] - channels[narrowed[0]]
    return dimensions


def _adapted(state: State) -> State:
    """The weights in our model's layout: weight norms as direction and magnitude, one conditioning layer, and one layer
    for residual and skip, to each input layer."""
    adapted: State = {}
    for name, tensor in state.items():
        for other, ours in _RENAMED.items():
            name = name.replace(other, ours)  # noqa: PLW2901
        layer, _, kind = name.rpartition(".")
        if kind == "weight" and layer.startswith("WN.") and not layer.endswith(".end"):
            adapted |= _with_norm(layer, tensor)
        elif not any(left_out in name for left_out in _LEFT_OUT):
            adapted[name] = tensor
    for flow in range(count(adapted, "WN.{}.start.bias")):
        _split_conditioning(adapted, f"WN.{flow}")
        _join_residuals_and_skips(adapted, f"WN.{flow}")
    return adapted


def _with_norm(layer: str, weight: Tensor) -> State:
    """A plain weight (out, in, kernel) as direction and magnitude."""
    magnitude = weight.float().norm(dim=(1, 2), keepdim=True)
    direction = torch.where(magnitude == 0, torch.ones_like(weight), weight)  # of a row of zeros any will do
    return {f"{layer}.weight_g": magnitude, f"{layer}.weight_v": direction}


def _split_conditioning(state: State, network: str) -> None:
    # Some releases keep one `cond_layer` for all layers of a flow: the same rows, stacked.
    for kind in _KINDS:
        fused = state.pop(f"{network}.cond_layer.{kind}", None)
        if fused is not None:
            rows = fused.chunk(count(state, network + ".in_layers.{}.bias"))
            state.update({f"{network}.cond_layers.{layer}.{kind}": part for layer, part in enumerate(rows)})


def _join_residuals_and_skips(state: State, network: str) -> None:
    # The first releases keep residual and skip layers apart: the rows of `res_skip_layers`, the residual's first.
    for layer in range(count(state, network + ".skip_layers.{}.bias")):
        for kind in _KINDS:
            skip = state.pop(f"{network}.skip_layers.{layer}.{kind}")
            residual = state.pop(f"{network}.res_layers.{layer}.{kind}", None)
            joined = skip if residual is None else torch.cat((residual, skip))
            state[f"{network}.res_skip_layers.{layer}.{kind}"] = joined
