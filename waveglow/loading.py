"""WaveGlow from a checkpoint of NVIDIA's layout."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from common.checkpoint import LoadedModel, State, load_model
from common.config import WaveGlowConfig
from common.errors import UserError
from common.files import REPOSITORY
from waveglow.model import UPSAMPLE_STRIDE, WaveGlow

DEMO_WAVEGLOW = REPOSITORY / "checkpoints" / "waveglow_demo.pt"


def load_waveglow(path: Path, flags: Mapping[str, Any] | None = None) -> LoadedModel[WaveGlow]:
    """Loads WaveGlow on the CPU in FP32; see `common.checkpoint.load_model` for `flags` and errors."""
    loaded = load_model(path, "WaveGlow", WaveGlow, flags or {}, _split_conditioning)
    hop = loaded.audio.hop_length
    if hop != UPSAMPLE_STRIDE:
        raise UserError(
            f"{path}: its hop_length is {hop}, but WaveGlow makes {UPSAMPLE_STRIDE} samples of a mel frame; give a "
            f"checkpoint that was trained with a hop of {UPSAMPLE_STRIDE}"
        )
    return loaded


def _split_conditioning(state: State, config: WaveGlowConfig) -> State:
    # Some releases of NVIDIA's code keep one `cond_layer` for all layers of a flow: the same rows, stacked.
    split: State = {}
    for name, tensor in state.items():
        flow, found, kind = name.partition(".cond_layer.")
        if found:
            rows = tensor.chunk(config.wn_layers)
            split.update({f"{flow}.cond_layers.{layer}.{kind}": part for layer, part in enumerate(rows)})
        else:
            split[name] = tensor
    return split
