"""Exports a part from PyTorch to an ONNX file, and checks the file against PyTorch."""

import logging
import warnings
from contextlib import closing
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from common.config import Tacotron2Config
from common.contract import PRECISION_DTYPES, TensorSpec, contract_of
from common.engine import infer
from common.errors import UserError
from common.files import written_whole
from common.int8_weights import store_in_int8
from common.metadata import METADATA_KEY, ModelMetadata, Part, Precision
from common.onnx_engine import OnnxEngine

OPSET = 17
# Nearly all of the decoder's weights; 8 bits in the small layers would gain nothing.
LSTM_WEIGHTS = ("attention_rnn.gates.weight", "decoder_rnn.gates.weight")
TRACED_SIZES = {"batch": 2, "text": 24, "mel": 4}
CHECKED_SIZES = {"batch": 3, "text": 37, "mel": 9}  # the written file is compared with PyTorch at other sizes

# Largest difference allowed between ONNX Runtime and PyTorch, relative to the largest value of the output. In FP32
# both round differently; in FP16 PyTorch runs the FP16 weights in FP32, so that all of FP16's rounding counts.
TOLERANCE: dict[Precision, dict[Part, float]] = {
    "fp32": {"encoder": 1e-4, "decoder_iter": 1e-4, "postnet": 1e-4, "waveglow": 1e-3},
    "fp16": {"encoder": 1e-2, "decoder_iter": 1e-2, "postnet": 2e-2, "waveglow": 5e-2},
}
INT8_TOLERANCE = 0.05  # the same, of one decoder step with 8-bit LSTMs


def export_part(module: nn.Module, metadata: ModelMetadata, path: Path) -> float:
    """Writes one part as an ONNX file with dynamic batch and lengths and its metadata inside, and proves it.

    The file gets its name only after ONNX Runtime has given PyTorch's results at another batch size and length.

    Returns:
        the largest relative difference found.

    Raises:
        UserError: the written file gives other results than the PyTorch module.
    """
    with written_whole(path) as temporary:
        _trace(module, metadata, temporary)
        model = onnx.load(temporary)
        entry = model.metadata_props.add()
        entry.key, entry.value = METADATA_KEY, metadata.to_json()
        if metadata.int8_lstms:
            store_in_int8(model, LSTM_WEIGHTS)
        onnx.save(model, temporary)
        tolerance = INT8_TOLERANCE if metadata.int8_lstms else TOLERANCE[metadata.precision][metadata.part]
        difference = _difference(temporary, module, metadata)
        if not difference <= tolerance:  # a NaN is not smaller than anything
            raise UserError(
                f"{path}: ONNX Runtime differs from PyTorch by {difference:.1e} of the output's range, more than "
                f"{tolerance:.0e}; no file was written. Is the checkpoint sound?"
            )
    return difference


def _trace(module: nn.Module, metadata: ModelMetadata, path: Path) -> None:
    contract = contract_of(metadata)
    dynamic = {
        spec.name: {axis: dim for axis, dim in enumerate(spec.shape) if isinstance(dim, str)}
        for spec in (*contract.inputs, *contract.outputs)
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of tracing: the check after it proves the file
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        torch.onnx.export(
            module,
            tuple(example_inputs(metadata, TRACED_SIZES).values()),
            str(path),
            input_names=[spec.name for spec in contract.inputs],
            output_names=[spec.name for spec in contract.outputs],
            dynamic_axes=dynamic,
            opset_version=OPSET,
            dynamo=False,  # the newer exporter fixed the lengths of the LSTM encoder without a word
        )


def example_inputs(metadata: ModelMetadata, sizes: dict[str, int], seed: int = 0) -> dict[str, Tensor]:
    """Random inputs of the part's shapes and dtypes, with sensible symbols, lengths, masks and dropout."""
    random = np.random.default_rng(seed)
    text = sizes.get("text", 1)
    lengths = random.integers(max(1, text // 2), text + 1, sizes["batch"])
    lengths[0] = text
    symbols = metadata.model.n_symbols if isinstance(metadata.model, Tacotron2Config) else 0
    return {
        spec.name: _example(spec, spec.resolve(sizes), symbols, lengths, random)
        for spec in contract_of(metadata).inputs
    }


def _example(
    spec: TensorSpec, shape: tuple[int, ...], symbols: int, lengths: np.ndarray, random: np.random.Generator
) -> Tensor:
    if spec.name == "sequences":
        return torch.from_numpy(random.integers(1, symbols, shape).astype(np.int32))
    if spec.name == "sequence_lengths":
        return torch.from_numpy(lengths.astype(np.int32))
    if spec.name == "mask":
        return torch.from_numpy(np.arange(shape[1]) >= lengths[:, None])
    if spec.name.startswith("attention_weights"):  # past attention never fell on padding
        weights = random.uniform(0, 1, shape) * (np.arange(shape[1]) < lengths[:, None])
        return torch.from_numpy(weights / weights.sum(1, keepdims=True)).to(spec.dtype)
    if spec.name == "prenet_dropout":
        return torch.from_numpy(2.0 * random.integers(0, 2, shape)).to(spec.dtype)
    if spec.name.startswith("mel"):
        return torch.from_numpy(random.uniform(-9, 0, shape)).to(spec.dtype)
    return torch.from_numpy(0.5 * random.standard_normal(shape)).to(spec.dtype)


def _difference(path: Path, module: nn.Module, metadata: ModelMetadata) -> float:
    contract = contract_of(metadata)
    inputs = example_inputs(metadata, CHECKED_SIZES, seed=1)
    with closing(OnnxEngine(path, metadata.part)) as engine:
        found = infer(engine, **inputs)
    reference_inputs = {name: t.float() if t.is_floating_point() else t for name, t in inputs.items()}
    with torch.inference_mode():
        reference = module.float()(*(reference_inputs[spec.name] for spec in contract.inputs))
    module.to(PRECISION_DTYPES[metadata.precision])
    references = (reference,) if isinstance(reference, Tensor) else reference
    return max(
        _relative(found[spec.name].float(), expected.float())
        for spec, expected in zip(contract.outputs, references, strict=True)
    )


def _relative(found: Tensor, expected: Tensor) -> float:
    worst = (found - expected).abs().max() / expected.abs().max().clamp_min(1e-6)
    return float(worst) if torch.isfinite(found).all() else float("nan")
