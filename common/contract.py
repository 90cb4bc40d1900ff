"""The tensors between the parts: names, dtypes and shapes, for exporters, engines and checks.

A dimension is a number, a symbol ("batch", "text", "mel") or a multiple of one ("32*mel").
"""

import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from common.config import Tacotron2Config, WaveGlowConfig
from common.errors import UserError
from common.metadata import ModelMetadata

Dim = int | str

PRECISION_DTYPES = {"fp32": torch.float32, "fp16": torch.float16}
# Element types: NumPy's name, and the names of ONNX Runtime (inside "tensor()"), OpenVINO and TensorRT.
_DTYPES = (
    (torch.float32, "float32", ("float", "f32", "FLOAT")),
    (torch.float16, "float16", ("float16", "f16", "HALF")),
    (torch.int32, "int32", ("int32", "i32", "INT32")),
    (torch.int64, "int64", ("int64", "i64", "INT64")),
    (torch.bool, "bool", ("bool", "boolean", "BOOL")),
)
NUMPY_DTYPES = {dtype: np.dtype(name) for dtype, name, _ in _DTYPES}
_DTYPES_BY_NAME = {name: dtype for dtype, _, names in _DTYPES for name in names}


def dtype_named(name: str) -> torch.dtype:
    """The element type that a runtime calls so; float64, which no part uses, for any other."""
    return _DTYPES_BY_NAME.get(name.removeprefix("tensor(").removesuffix(")"), torch.float64)


@functools.cache
def parse_dim(dim: Dim) -> tuple[int, str]:
    """A dimension as its factor and its symbol: "32*mel" -> (32, "mel"), "mel" -> (1, "mel"), 80 -> (80, "")."""
    if isinstance(dim, int):
        return dim, ""
    factor, _, symbol = dim.rpartition("*")
    return int(factor or 1), symbol


@dataclass(frozen=True)
class TensorSpec:
    """A tensor's name, dtype and shape, the last in the language of `parse_dim`."""

    name: str
    dtype: torch.dtype
    shape: tuple[Dim, ...]

    def resolve(self, sizes: Mapping[str, int]) -> tuple[int, ...]:
        """The shape with the symbols replaced by their sizes."""
        return tuple(factor * (sizes[symbol] if symbol else 1) for factor, symbol in map(parse_dim, self.shape))

    def sizes_in(self, shape: Iterable[int]) -> dict[str, int] | None:
        """The symbols' sizes if `shape` fits this spec, else None."""
        actual = tuple(shape)
        if len(actual) != len(self.shape):
            return None
        sizes: dict[str, int] = {}
        for (factor, symbol), size in zip(map(parse_dim, self.shape), actual, strict=True):
            if not symbol:
                if size != factor:
                    return None
            elif size % factor or sizes.setdefault(symbol, size // factor) != size // factor:
                return None
        return sizes

    def __str__(self) -> str:
        return f"{self.name} {str(self.dtype).removeprefix('torch.')}{list(self.shape)}".replace("'", "")


@dataclass(frozen=True)
class Contract:
    """The inputs and outputs of one part, in the order of its graph."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    @functools.cached_property
    def tensors(self) -> dict[str, TensorSpec]:
        return {spec.name: spec for spec in (*self.inputs, *self.outputs)}

    def check(
        self,
        where: str,
        inputs: Iterable[TensorSpec],
        outputs: Iterable[TensorSpec],
        remedy: str = "export the file again",
        fixed: Mapping[str, int] | None = None,
    ) -> None:
        """Raises UserError, naming `where` and the remedy, unless the tensors found are these, in any order.

        Symbols must be dynamic dimensions; those in `fixed` may have that size instead.
        """
        for expected, found in ((self.inputs, inputs), (self.outputs, outputs)):
            found_by_name = {spec.name: spec for spec in found}
            for spec in expected:
                actual = found_by_name.pop(spec.name, None)
                if actual is None:
                    raise UserError(f"{where}: tensor {spec} is missing; {remedy}")
                if actual.dtype != spec.dtype or not _fits(actual.shape, spec.shape, fixed or {}):
                    raise UserError(f"{where}: expected {spec}, found {actual}; {remedy}")
            if found_by_name:
                raise UserError(f"{where}: unexpected tensor {next(iter(found_by_name.values()))}; {remedy}")

    @property
    def symbols(self) -> list[str]:
        """The symbols of the inputs' sizes: "batch", "text", "mel", in the order of their first use."""
        found = [parse_dim(dim)[1] for spec in self.inputs for dim in spec.shape]
        return [symbol for symbol in dict.fromkeys(found) if symbol]


# The decoder's recurrent tensors: state field (and input name) -> output name.
DECODER_STATE = {
    "decoder_input": "decoder_output",
    "attention_hidden": "out_attention_hidden",
    "attention_cell": "out_attention_cell",
    "decoder_hidden": "out_decoder_hidden",
    "decoder_cell": "out_decoder_cell",
    "attention_weights": "out_attention_weights",
    "attention_weights_cum": "out_attention_weights_cum",
    "attention_context": "out_attention_context",
}


def contract_of(metadata: ModelMetadata) -> Contract:
    """The tensors that a file with this metadata must have."""
    dtype = PRECISION_DTYPES[metadata.precision]
    if isinstance(metadata.model, WaveGlowConfig):
        return _waveglow(metadata.model, metadata.audio.hop_length, dtype)
    return {"encoder": _encoder, "decoder_iter": _decoder_iter, "postnet": _postnet}[metadata.part](
        metadata.model, dtype
    )


def _encoder(config: Tacotron2Config, dtype: torch.dtype) -> Contract:
    return Contract(
        inputs=(
            TensorSpec("sequences", torch.int32, ("batch", "text")),
            TensorSpec("sequence_lengths", torch.int32, ("batch",)),
        ),
        outputs=(*_memory(config, dtype), TensorSpec("lens", torch.int32, ("batch",))),
    )


def _memory(config: Tacotron2Config, dtype: torch.dtype) -> tuple[TensorSpec, TensorSpec]:
    return (
        TensorSpec("memory", dtype, ("batch", "text", config.encoder_embedding_dim)),
        TensorSpec("processed_memory", dtype, ("batch", "text", config.attention_dim)),
    )


def _decoder_iter(config: Tacotron2Config, dtype: torch.dtype) -> Contract:
    state: dict[str, Dim] = {
        "decoder_input": config.n_mel_channels,
        "attention_hidden": config.attention_rnn_dim,
        "attention_cell": config.attention_rnn_dim,
        "decoder_hidden": config.decoder_rnn_dim,
        "decoder_cell": config.decoder_rnn_dim,
        "attention_weights": "text",
        "attention_weights_cum": "text",
        "attention_context": config.encoder_embedding_dim,
    }
    outputs = [TensorSpec(DECODER_STATE[name], dtype, ("batch", size)) for name, size in state.items()]
    return Contract(
        inputs=(
            *(TensorSpec(name, dtype, ("batch", size)) for name, size in state.items()),
            *_memory(config, dtype),
            TensorSpec("mask", torch.bool, ("batch", "text")),
            TensorSpec("prenet_dropout", dtype, ("batch", 2, config.prenet_dim)),
        ),
        outputs=(outputs[0], TensorSpec("gate_prediction", dtype, ("batch", 1)), *outputs[1:]),
    )


def _postnet(config: Tacotron2Config, dtype: torch.dtype) -> Contract:
    shape = ("batch", config.n_mel_channels, "mel")
    return Contract((TensorSpec("mel_outputs", dtype, shape),), (TensorSpec("mel_outputs_postnet", dtype, shape),))


def _waveglow(config: WaveGlowConfig, hop_length: int, dtype: torch.dtype) -> Contract:
    return Contract(
        inputs=(
            TensorSpec("mel", dtype, ("batch", config.n_mel_channels, "mel")),
            TensorSpec("z", dtype, ("batch", config.n_group, f"{hop_length // config.n_group}*mel")),
        ),
        outputs=(TensorSpec("audio", dtype, ("batch", f"{hop_length}*mel")),),
    )


def _fits(found: tuple[Dim, ...], expected: tuple[Dim, ...], fixed: Mapping[str, int]) -> bool:
    # A symbol stands for any dynamic dimension: files may name it otherwise.
    sizes = {"": 1, **fixed}
    return len(found) == len(expected) and all(
        (symbol in sizes and dim == factor * sizes[symbol]) if isinstance(dim, int) else symbol != ""
        for dim, (factor, symbol) in zip(found, map(parse_dim, expected), strict=True)
    )
