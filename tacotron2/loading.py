"""Tacotron 2 from a checkpoint of NVIDIA's layout."""

import dataclasses
import string
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from common.checkpoint import LoadedModel, load_model
from common.errors import UserError
from common.files import REPOSITORY
from tacotron2.model import Tacotron2
from tacotron2.text.symbols import ARPABET, ARPABET_MARK, SYMBOL_IDS, SYMBOLS

DEMO_TACOTRON2 = REPOSITORY / "checkpoints" / "tacotron2_demo.pt"

# Training with weight decay, as NVIDIA's, takes symbols that no text had to zero, as the demo voice's capital letters
# show; its ARPAbet, which few texts had, is half as large as its letters.
UNTRAINED = 0.05  # of the letters' size


def load_tacotron2(path: Path, flags: Mapping[str, Any] | None = None) -> LoadedModel[Tacotron2]:
    """Loads Tacotron 2 on the CPU in FP32; see `common.checkpoint.load_model` for `flags` and errors.

    Where the checkpoint doesn't say whether it was trained on ARPAbet, the size of its embeddings may show that it was
    not.
    """
    loaded = load_model(path, "Tacotron 2", Tacotron2, flags or {})
    known = loaded.config.n_symbols
    if known < len(SYMBOLS):
        raise UserError(
            f"{path}: it knows {known} symbols, but text is read into {len(SYMBOLS)}; give a checkpoint trained on "
            "NVIDIA's symbols"
        )
    if loaded.arpabet is None and _never_saw_arpabet(loaded.model.embedding.weight):
        return dataclasses.replace(loaded, arpabet=False)
    return loaded


def _never_saw_arpabet(embedding: Tensor) -> bool:
    """Whether the rows (symbols, embedding_dim) of ARPAbet are next to nothing beside those of the letters."""
    sizes = embedding.detach().norm(dim=1)
    letters = sizes[[SYMBOL_IDS[letter] for letter in string.ascii_lowercase]]
    sounds = sizes[[SYMBOL_IDS[ARPABET_MARK + sound] for sound in ARPABET]]
    return bool(sounds.median() < UNTRAINED * letters.median())
