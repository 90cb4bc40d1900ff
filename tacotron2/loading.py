"""Tacotron 2 from a checkpoint of NVIDIA's layout."""

import dataclasses
import hashlib
import string
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from common.checkpoint import LoadedModel, State, count, load_model
from common.errors import UserError
from common.files import REPOSITORY
from tacotron2.model import Tacotron2
from tacotron2.text.symbols import ARPABET, ARPABET_MARK, SPACE, SYMBOLS

DEMO_TACOTRON2 = REPOSITORY / "checkpoints" / "tacotron2_demo.pt"


def load_tacotron2(
    path: Path, flags: Mapping[str, Any] | None = None, symbols: Path | None = None
) -> LoadedModel[Tacotron2]:
    """Loads Tacotron 2 on the CPU in FP32; see `common.checkpoint.load_model` for `flags` and errors.

    Args:
        symbols: a file with the symbols that the checkpoint was trained on, one a line in the order of their ids; None
            for NVIDIA's 148. The model that is returned has NVIDIA's, whatever the checkpoint's are.

    Raises:
        UserError: also for a checkpoint of another number of symbols than those.
    """
    loaded = load_model(path, "Tacotron 2", Tacotron2, flags or {}, _dimensions_of)
    known = loaded.config.n_symbols
    if symbols is not None:
        return _with_nvidias_symbols(loaded, path, symbols)
    if known != len(SYMBOLS):
        raise UserError(
            f"{path}: it knows {known} symbols, but text is read into NVIDIA's {len(SYMBOLS)}; give its own with "
            "--symbols FILE, one a line"
        )
    return loaded


def _dimensions_of(state: State) -> dict[str, int]:
    encoder, postnet = state["encoder.convolutions.0.0.conv.weight"], state["postnet.convolutions.0.0.conv.weight"]
    location = state["decoder.attention_layer.location_layer.location_conv.conv.weight"]
    frames = state["decoder.linear_projection.linear_layer.weight"].shape[0]
    return {
        "n_mel_channels": postnet.shape[1],
        "n_symbols": state["embedding.weight"].shape[0],
        "symbols_embedding_dim": state["embedding.weight"].shape[1],
        "encoder_kernel_size": encoder.shape[2],
        "encoder_n_convolutions": count(state, "encoder.convolutions.{}.0.conv.weight"),
        "encoder_embedding_dim": encoder.shape[0],
        "n_frames_per_step": frames // postnet.shape[1],
        "decoder_rnn_dim": state["decoder.decoder_rnn.weight_hh"].shape[1],
        "prenet_dim": state["decoder.prenet.layers.0.linear_layer.weight"].shape[0],
        "attention_rnn_dim": state["decoder.attention_rnn.weight_hh"].shape[1],
        "attention_dim": state["decoder.attention_layer.query_layer.linear_layer.weight"].shape[0],
        "attention_location_n_filters": location.shape[0],
        "attention_location_kernel_size": location.shape[2],
        "postnet_embedding_dim": postnet.shape[0],
        "postnet_kernel_size": postnet.shape[2],
        "postnet_n_convolutions": count(state, "postnet.convolutions.{}.0.conv.weight"),
    }


def _with_nvidias_symbols(loaded: LoadedModel[Tacotron2], path: Path, file: Path) -> LoadedModel[Tacotron2]:
    """The model with the rows of its embedding in the order of NVIDIA's symbols."""
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: can't be read as a list of symbols, UTF-8, one a line ({error})") from error
    own = text.removesuffix("\n").split("\n")
    if len(own) != loaded.config.n_symbols:
        raise UserError(f"{file}: {len(own)} symbols, but {path} knows {loaded.config.n_symbols}; one a line, in order")
    ids = {symbol: index for index, symbol in enumerate(own)}
    missing = [symbol for symbol in (*string.ascii_lowercase, SPACE) if not {symbol, symbol.upper()} & ids.keys()]
    if missing:
        raise UserError(f"{file}: lacks {', '.join(map(repr, missing))}, without which no English can be read")
    # For a letter that it lacks, the same in the other case; for anything else, a space.
    order = torch.tensor([ids.get(symbol, ids.get(symbol.swapcase(), ids[SPACE])) for symbol in SYMBOLS])
    config = dataclasses.replace(loaded.config, n_symbols=len(SYMBOLS))
    model = loaded.model
    model.config = config
    model.embedding = torch.nn.Embedding.from_pretrained(model.embedding.weight[order])
    arpabet = loaded.arpabet if all(ARPABET_MARK + sound in ids for sound in ARPABET) else False
    # Another list gives other speech: it is another voice to whoever compares.
    sha256 = hashlib.sha256(f"{loaded.sha256}\n{text}".encode()).hexdigest()
    return dataclasses.replace(loaded, model=model, sha256=sha256, arpabet=arpabet)
