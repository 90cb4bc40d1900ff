"""Tacotron 2 from a checkpoint of NVIDIA's layout."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from common.checkpoint import LoadedModel, load_model
from common.errors import UserError
from common.files import REPOSITORY
from tacotron2.model import Tacotron2
from tacotron2.text.symbols import SYMBOLS

DEMO_TACOTRON2 = REPOSITORY / "checkpoints" / "tacotron2_demo.pt"


def load_tacotron2(path: Path, flags: Mapping[str, Any] | None = None) -> LoadedModel[Tacotron2]:
    """Loads Tacotron 2 on the CPU in FP32; see `common.checkpoint.load_model` for `flags` and errors."""
    loaded = load_model(path, "Tacotron 2", Tacotron2, flags or {})
    known = loaded.config.n_symbols
    if known < len(SYMBOLS):
        raise UserError(
            f"{path}: it knows {known} symbols, but text is read into {len(SYMBOLS)}; give a checkpoint trained on "
            "NVIDIA's symbols"
        )
    return loaded
