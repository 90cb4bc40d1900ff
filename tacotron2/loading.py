"""Tacotron 2 from a checkpoint of NVIDIA's layout."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from common.checkpoint import LoadedModel, load_model
from common.files import REPOSITORY
from tacotron2.model import Tacotron2

DEMO_TACOTRON2 = REPOSITORY / "checkpoints" / "tacotron2_demo.pt"


def load_tacotron2(path: Path, flags: Mapping[str, Any] | None = None) -> LoadedModel[Tacotron2]:
    """Loads Tacotron 2 on the CPU in FP32; see `common.checkpoint.load_model` for `flags` and errors."""
    return load_model(path, "Tacotron 2", Tacotron2, flags or {})
