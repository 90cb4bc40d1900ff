"""An engine on OpenVINO: a `.onnx` file on the CPU, behind the interface of `common.engine`."""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from common.contract import Dim, TensorSpec, contract_of, dtype_named
from common.cpu_backend import CpuPrecision, return_large_buffers, thread_count
from common.engine import Range, check_bound, closed
from common.errors import UserError
from common.files import user_cache_folder
from common.metadata import METADATA_KEY, Part
from common.onnx_file import check_onnx_path, read_metadata, unreadable

_HINTS = {"fp32": "f32", "bf16": "bf16"}
_METADATA_PATH = ["framework", METADATA_KEY]  # of an ONNX file's metadata in an OpenVINO model
CACHED_PARTS: tuple[Part, ...] = ("waveglow",)  # the others compile as fast as a cached model loads

logger = logging.getLogger(__name__)


class OpenVINOEngine:
    """An ONNX file of this project on OpenVINO's CPU plugin, with dynamic shapes.

    Tensors are read and written in place. Bound runs of one engine may not run at the same time.

    Args:
        path: the `.onnx` file.
        part: the part it has to hold.
        threads: CPU threads; None takes every core that this process may use.
        precision: of its computations. OpenVINO's own choice would be BF16 on a processor with AMX.

    Raises:
        UserError: the file is missing, damaged, not this project's, of another part, its tensors are not those of its
            part, or OpenVINO can't run it.
    """

    capturable = False  # it runs on a CPU

    def __init__(self, path: Path, part: Part, threads: int | None = None, precision: CpuPrecision = "fp32") -> None:
        import openvino as ov  # imported late: other engines don't need it

        check_onnx_path(path, part)
        settings = {
            "INFERENCE_PRECISION_HINT": _HINTS[precision],
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
            "INFERENCE_NUM_THREADS": thread_count(threads),
            "CPU_RUNTIME_CACHE_CAPACITY": 0,  # of kernels by shape: lengths hardly repeat, and the cache would grow
            "ENABLE_CPU_PINNING": False,  # pinned threads of two processes would share cores
        }
        cache = user_cache_folder("openvino") if part in CACHED_PARTS else None
        if cache is not None:
            settings["CACHE_DIR"] = str(cache)
        return_large_buffers()
        core = ov.Core()
        try:
            model = core.read_model(str(path))
        except RuntimeError as error:  # OpenVINO has no exceptions of its own
            raise unreadable(path) from error
        known = model.has_rt_info(_METADATA_PATH)
        stored = {METADATA_KEY: model.get_rt_info(_METADATA_PATH).astype(str)} if known else {}
        self.name = str(path)
        self.backend = f"openvino {precision}"
        self.metadata = read_metadata(path, part, stored)
        self.contract = contract_of(self.metadata)
        self.device = torch.device("cpu")
        self.limits: Mapping[str, Range] = {}
        self.contract.check(self.name, map(_spec, model.inputs), map(_spec, model.outputs))
        try:
            self._model: Any = core.compile_model(model, "CPU", settings)
        except RuntimeError as error:
            logger.debug("OpenVINO: %s", error)
            raise UserError(f"{path}: OpenVINO can't run it; use cpu_backend onnxruntime") from error
        self._tensor_class: Any = ov.Tensor

    def bind(self, tensors: Mapping[str, Tensor]) -> Callable[[], None]:
        check_bound(self, tensors)
        if self._model is None:
            raise closed(self)
        request = self._model.create_infer_request()  # cheap: its memory is the compiled model's
        for name, tensor in tensors.items():
            request.set_tensor(name, self._tensor_class(tensor.detach().numpy(), shared_memory=True))
        kept_alive = dict(tensors)  # OpenVINO holds no reference to the memory

        def run(_kept_alive: Any = kept_alive) -> None:
            request.infer()

        return run

    def close(self) -> None:
        self._model = None


def _spec(port: Any) -> TensorSpec:
    dims: tuple[Dim, ...] = tuple(dim.get_length() if dim.is_static else "?" for dim in port.partial_shape)
    return TensorSpec(port.get_any_name(), dtype_named(port.element_type.get_type_name()), dims)
