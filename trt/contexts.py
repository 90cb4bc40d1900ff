"""Execution contexts of one engine and the scratch memory that all engines of a GPU share."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from common.callbacks import ignore
from common.contract import Contract
from common.errors import UserError
from common.files import written_whole
from trt.bindings import Gpu, TensorRT, one_line, shape_tuple

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


@dataclass
class SizedContext:
    """An execution context, the sizes that it is set to, and the scratch memory that they take."""

    context: tensorrt.IExecutionContext | None  # None once the engine is closed
    sizes: dict[str, int]
    scratch_bytes: int


class Contexts:
    """The execution contexts of one engine. They are costly, so they are used again, at other sizes too.

    Every method is called with the engine's GPU as the current one. Not thread-safe.

    Args:
        refusal: makes an error of a description and the reasons that TensorRT logged.
        runtime_cache: the file that TensorRT-RTX's compiled kernels are kept in.
    """

    def __init__(
        self,
        engine: tensorrt.ICudaEngine,
        trt: TensorRT,
        gpu: Gpu,
        contract: Contract,
        refusal: Callable[[str], UserError],
        runtime_cache: Path,
    ) -> None:
        self._engine: tensorrt.ICudaEngine | None = engine
        self._trt = trt
        self._gpu = gpu
        self._contract = contract
        self._refusal = refusal
        self._config, self._save_kernels = _runtime_config(trt, engine, runtime_cache)
        self._all: list[SizedContext] = []  # free and taken ones
        self._free: list[SizedContext] = []

    def take(self, sizes: dict[str, int]) -> SizedContext:
        """A context set to these sizes: a free one that has them already, else any free one, else a new one.

        Raises:
            UserError: TensorRT refused the sizes or a new context.
        """
        for sized in self._free:
            if sized.sizes == sizes:
                self._free.remove(sized)
                return sized
        sized = self._free.pop() if self._free else self._new_context()
        try:
            self._resize(sized, sizes)
        except BaseException:
            self.release(sized)
            raise
        return sized

    def release(self, sized: SizedContext) -> None:
        if sized.context is not None:
            self._free.append(sized)

    def close(self) -> None:
        """Destroys all contexts, taken ones too. The GPU must have finished with them."""
        self._save_kernels()
        self._save_kernels = ignore  # and TensorRT-RTX's cache is released
        self._free.clear()
        for sized in self._all:
            sized.context = None
        self._all.clear()
        self._config = self._engine = None

    def _new_context(self) -> SizedContext:
        assert self._engine is not None
        self._trt.errors.clear()
        context = self._engine.create_execution_context(self._config)
        if context is None:
            raise self._refusal("no execution context could be made")
        sized = SizedContext(context, {}, 0)
        self._all.append(sized)
        return sized

    def _resize(self, sized: SizedContext, sizes: dict[str, int]) -> None:
        context = sized.context
        assert context is not None
        if sized.sizes:
            # A graph that captured this context may still be running, which TensorRT can't know.
            self._gpu.synchronize()
        sized.sizes = {}  # if a call below fails, it has neither the old sizes nor the new ones
        self._trt.errors.clear()
        for spec in self._contract.inputs:
            if not context.set_input_shape(spec.name, spec.resolve(sizes)):
                raise self._refusal(f"refused the shape {list(spec.resolve(sizes))} of {spec.name}")
        try:
            missing = context.infer_shapes()
        except RuntimeError as error:  # its answer to sizes that don't go together
            raise self._refusal(f"can't infer its shapes ({one_line(str(error))})") from error
        if missing:
            raise self._refusal(f"has no shape for {', '.join(missing)}")
        for spec in self._contract.outputs:
            found = shape_tuple(context.get_tensor_shape(spec.name))
            if found != spec.resolve(sizes):
                raise self._refusal(f"gives {spec.name} the shape {list(found)}, not {list(spec.resolve(sizes))}")
        sized.scratch_bytes = context.update_device_memory_size_for_shapes()
        # 0 means an error (NvInferRuntime.h), or an engine that needs no memory; an error is in the log.
        if sized.scratch_bytes <= 0 and self._trt.errors:
            raise self._refusal(f"has no scratch memory size for {described(sizes)}")
        sized.sizes = sizes


def _runtime_config(trt: TensorRT, engine: tensorrt.ICudaEngine, cache: Path) -> tuple[Any, Callable[[], object]]:
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
            with written_whole(path) as temporary:
                temporary.write_bytes(content)
        except OSError as error:
            _log.info("%s: compiled kernels were not kept (%s)", path, error.strerror or error)

    return save


def described(sizes: Mapping[str, int]) -> str:
    """ "batch 4, mel 768" """
    return ", ".join(f"{symbol} {size}" for symbol, size in sizes.items())
