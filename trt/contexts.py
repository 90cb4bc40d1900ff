"""TensorRT's execution contexts: scratch memory that all engines of a GPU share, and TensorRT-RTX's configuration."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from common.callbacks import ignore
from common.files import write_whole
from trt.bindings import TensorRT

if TYPE_CHECKING:
    import tensorrt

_log = logging.getLogger(__name__)


class Workspace:
    """Scratch memory of a device, shared by all engines on it: they run one after another on one stream.

    It grows to the largest need. Memory taken earlier stays valid while a reference to it exists, as a captured CUDA
    graph needs.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._memory: Tensor | None = None

    def take(self, size: int) -> Tensor:
        """At least `size` bytes, uint8, aligned as PyTorch aligns. Raises torch.cuda.OutOfMemoryError."""
        if self._memory is None or self._memory.numel() < size:
            self._memory = None  # released first, unless another reference holds it
            self._memory = torch.empty(size, dtype=torch.uint8, device=self._device)
        return self._memory


_workspaces: weakref.WeakValueDictionary[torch.device, Workspace] = weakref.WeakValueDictionary()


def workspace_of(device: torch.device) -> Workspace:
    """The workspace of a device, which lives as long as a reference to it exists."""
    return _workspaces.setdefault(device, Workspace(device))


def runtime_config(trt: TensorRT, engine: tensorrt.ICudaEngine, cache: Path) -> tuple[Any, Callable[[], object]]:
    """The argument that creates contexts, and a function that keeps their kernels for the next process.

    The caller manages the contexts' memory, and kernels are compiled at the first run. By default TensorRT-RTX
    specialises kernels to shapes in the background and installs them between two runs: a CUDA graph captured before
    would keep the slow ones.
    """
    strategy = trt.api.ExecutionContextAllocationStrategy.USER_MANAGED
    if trt.flavour != "tensorrt_rtx":
        return strategy, ignore
    rtx: Any = engine
    config = rtx.create_runtime_config()
    config.set_execution_context_allocation_strategy(strategy)
    eager = trt.api.DynamicShapesKernelSpecializationStrategy.EAGER
    config.dynamic_shapes_kernel_specialization_strategy = eager
    return config, _kept_kernels(config, cache)


def _kept_kernels(config: Any, path: Path) -> Callable[[], object]:
    """Loads the kernels that an earlier process compiled, if they still fit this GPU, driver and TensorRT-RTX.

    Returns:
        a function that writes all kernels, those compiled since included; it logs a failure.
    """
    cache = config.create_runtime_cache()
    try:
        before = path.read_bytes()
    except OSError:
        before = b""
    if before and not cache.deserialize(before):
        _log.info("%s: of another GPU, driver or TensorRT-RTX; kernels are compiled anew", path)
    config.set_runtime_cache(cache)

    def save() -> None:
        content = cache.serialize()
        if content is None or bytes(content) == before:
            return
        try:
            write_whole(path, memoryview(content))
        except OSError as error:
            _log.info("%s: compiled kernels were not kept (%s)", path, error.strerror or error)

    return save
