"""The ONNX Runtime kind of engine: a `.onnx` file behind the interface of `common.engine`."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from common.contract import Dim, TensorSpec, check_tensors, contract_of
from common.engine import Range, check_bound, closed, export_command, read_metadata
from common.errors import UserError
from common.metadata import Part

_ORT_DTYPES = {
    "tensor(float)": torch.float32,
    "tensor(float16)": torch.float16,
    "tensor(int32)": torch.int32,
    "tensor(int64)": torch.int64,
    "tensor(bool)": torch.bool,
}
_NUMPY_DTYPES = {
    torch.float32: np.float32,
    torch.float16: np.float16,
    torch.int32: np.int32,
    torch.bool: np.bool_,
}


class OnnxEngine:
    """An ONNX file of this project on ONNX Runtime's CPU provider.

    Args:
        path: the `.onnx` file.
        part: the part it has to hold.
        threads: CPU threads; None takes every core that this process may use.

    Raises:
        UserError: the file is missing, damaged, not this project's, of another part, or its tensors are not those of
            its part.
    """

    def __init__(self, path: Path, part: Part, threads: int | None = None) -> None:
        import onnxruntime as ort  # imported here so that PyTorch-only and TensorRT-only runs don't pay for it

        if not path.is_file():
            raise UserError(f"{path}: no such ONNX file; make it with {export_command(part)}")
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads or usable_cores()
        options.log_severity_level = 3
        # Shapes change with every phrase: without this, what the arena keeps for old ones would grow.
        self._run_options = ort.RunOptions()
        if part != "decoder_iter":
            self._run_options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
        try:
            self._session: ort.InferenceSession | None = ort.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime's exceptions share no base class of their own
            raise UserError(f"{path}: not a readable ONNX file (truncated or damaged?); export it again") from error
        self.name = str(path)
        session = self._session
        self.metadata = read_metadata(path, part, session.get_modelmeta().custom_metadata_map)
        self.contract = contract_of(self.metadata)
        self.device = torch.device("cpu")
        self.limits: Mapping[str, Range] = {}
        for expected, found in (
            (self.contract.inputs, session.get_inputs()),
            (self.contract.outputs, session.get_outputs()),
        ):
            check_tensors(self.name, expected, [_ort_spec(tensor) for tensor in found])

    def bind(self, tensors: Mapping[str, Tensor]) -> Callable[[], None]:
        check_bound(self, tensors)
        if self._session is None:
            raise closed(self)
        binding = self._session.io_binding()
        for spec in self.contract.inputs:
            tensor = tensors[spec.name]
            binding.bind_input(spec.name, "cpu", 0, _NUMPY_DTYPES[tensor.dtype], tuple(tensor.shape), tensor.data_ptr())
        for spec in self.contract.outputs:
            tensor = tensors[spec.name]
            binding.bind_output(
                spec.name, "cpu", 0, _NUMPY_DTYPES[tensor.dtype], tuple(tensor.shape), tensor.data_ptr()
            )
        run, run_options, kept_alive = self._session.run_with_iobinding, self._run_options, dict(tensors)

        def run_bound(_kept_alive: Any = kept_alive) -> None:
            run(binding, run_options)

        return run_bound

    def close(self) -> None:
        self._session = None


def usable_cores() -> int:
    """The CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _ort_spec(tensor: Any) -> TensorSpec:
    dims: tuple[Dim, ...] = tuple(dim if isinstance(dim, int) else str(dim) for dim in tensor.shape)
    return TensorSpec(tensor.name, _ORT_DTYPES.get(tensor.type, torch.float64), dims)
