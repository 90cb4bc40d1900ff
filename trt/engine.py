"""The TensorRT kind of engine: a plan, its contexts and their memory, behind the interface of `common.engine`."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from common.contract import TensorSpec, check_tensors, contract_of
from common.engine import Range, check_bound, sizes_of
from common.errors import UserError
from common.metadata import Part
from trt import bindings
from trt.bindings import PRODUCTS, Gpu, TensorRT, dotted, shape_tuple, tensor_spec
from trt.record import BUILD_AGAIN, check_part, profile_shapes, read_plan, read_record

if TYPE_CHECKING:
    import tensorrt

# Kernels read up to 16 bytes at a time. PyTorch aligns whole tensors far better; a slice may begin anywhere.
ALIGNMENT = 16


class OutOfDeviceMemory(UserError, torch.cuda.OutOfMemoryError):
    """Not enough GPU memory. As PyTorch's own error of the kind, so that callers need to catch only that one."""


class Workspace:
    """Scratch memory of a device, shared by all engines on it: they run one after another on one stream.

    It grows to the largest need. What was taken before stays valid for as long as it is held, which is what a captured
    CUDA graph needs.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._memory: Tensor | None = None

    def take(self, size: int) -> Tensor:
        """At least `size` bytes, aligned to 256. Raises torch.cuda.OutOfMemoryError."""
        if self._memory is None or self._memory.numel() < size:
            self._memory = None  # given back first, unless somebody still holds it
            self._memory = torch.empty(size, dtype=torch.uint8, device=self._device)
        return self._memory


_workspaces: weakref.WeakValueDictionary[torch.device, Workspace] = weakref.WeakValueDictionary()


@dataclass
class _Slot:
    """An execution context and the sizes that it is set to. TensorRT contexts are costly, so they are used again."""

    context: tensorrt.IExecutionContext | None
    sizes: dict[str, int]
    scratch_bytes: int


class BoundRun:
    """Runs the engine on the memory it was bound to: one enqueue on PyTorch's current stream, and nothing else.

    It allocates nothing and waits for nothing, so it can be captured into a CUDA graph, once it has run outside of a
    capture. Keep it for as long as a graph that captured it: it holds the context and all memory that the graph uses.
    """

    def __init__(self, engine: TensorRTEngine, slot: _Slot, memory: tuple[Any, ...]) -> None:
        self._engine = engine
        self._slot = slot
        self._memory = memory
        self._stream = engine.gpu.stream

    def __call__(self) -> None:
        context = self._slot.context
        if context is None:
            raise UserError(f"{self._engine.name}: the engine was closed; open it again")
        if not context.execute_async_v3(self._stream()):
            raise self._engine.error("could not run")


class TensorRTEngine:
    """An engine file that `trt/export_onnx2trt.py` built, on PyTorch's current GPU and stream.

    Engines of a process share scratch memory: run them on one stream, or on streams ordered by events, as CUDA graphs
    replayed on the current stream are.

    Args:
        path: the `.engine` or `.plan` file, with its JSON beside it.
        part: the part it has to hold.

    Raises:
        UserError: the file or its JSON is missing, damaged, of another part, of another TensorRT or for another GPU;
            TensorRT or the NVIDIA driver is missing; or the engine's tensors are not those of its part.
    """

    def __init__(self, path: Path, part: Part) -> None:
        self.name = str(path)
        self.record = read_record(path)
        check_part(path, self.record, part)
        plan = read_plan(path, self.record)
        self.metadata = self.record.metadata
        self.contract = contract_of(self.metadata)
        self._trt = self._load_tensorrt()
        self.gpu = self._find_gpu()
        self.device = self.gpu.device
        self._slots: list[_Slot] = []  # every slot, free or bound
        self._free: list[_Slot] = []
        self._workspace = _workspaces.setdefault(self.device, Workspace(self.device))
        self._trt.words.clear()
        self._runtime: tensorrt.Runtime | None = self._trt.api.Runtime(self._trt.logger)
        if self._runtime is None:
            raise self.error("could not start TensorRT's runtime")
        self._engine: tensorrt.ICudaEngine | None = self._runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            raise self.error("could not be opened", BUILD_AGAIN)
        self.limits: Mapping[str, Range] = self._check_tensors(self._engine)

    @property
    def cuda_engine(self) -> tensorrt.ICudaEngine:
        """TensorRT's own object. Raises UserError once the engine is closed."""
        if self._engine is None:
            raise UserError(f"{self.name}: the engine was closed; open it again")
        return self._engine

    def bind(self, tensors: Mapping[str, Tensor]) -> Callable[[], None]:
        """See `common.engine.Engine`. Not while a CUDA graph is being captured: it may allocate memory."""
        check_bound(self, tensors)
        for name, tensor in tensors.items():
            if tensor.data_ptr() % ALIGNMENT:
                raise UserError(f"{self.name}: {name} must begin at a multiple of {ALIGNMENT} bytes; pass a copy")
        slot = self._take_slot(sizes_of(self, tensors))
        try:
            run = self._bind_slot(slot, tensors)
        except BaseException:
            self._give_back(slot)
            raise
        weakref.finalize(run, self._give_back, slot).atexit = False
        return run

    def close(self) -> None:
        """Destroys contexts before the engine and the engine before the runtime, once the GPU has finished."""
        if self._engine is None:
            return
        self.gpu.synchronize()
        self._free.clear()
        for slot in self._slots:
            slot.context = None
        self._slots.clear()
        self._engine = None
        self._runtime = None

    def error(self, problem: str, advice: str = "run scripts/verify_gpu.sh and report what it says") -> UserError:
        """The error for something that TensorRT refused, with its own words."""
        words = self._trt.words
        if words.out_of_memory:
            return OutOfDeviceMemory(
                f"{self.name}: {problem}, out of device memory ({words}); use a smaller --batch-size or free the GPU"
            )
        return UserError(f"{self.name}: {problem}: {words}; {advice}")

    def _load_tensorrt(self) -> TensorRT:
        record = self.record
        try:
            trt = bindings.load(record.flavour)
        except UserError as error:
            raise UserError(f"{self.name} was built by {PRODUCTS[record.flavour]} {record.version}: {error}") from error
        if trt.version != record.version:
            raise UserError(
                f"{self.name}: built by {trt.product} {record.version}, but this is {trt.version}; {BUILD_AGAIN}"
            )
        return trt

    def _find_gpu(self) -> Gpu:
        try:
            gpu = bindings.find_gpu()
        except UserError as error:
            raise UserError(f"{self.name}: {error}; on this machine use the .onnx files") from error
        if gpu.compute_capability not in self.record.compute_capabilities:
            raise UserError(
                f"{self.name}: built by {self.record.built_by}, but this GPU is {gpu.name}, compute capability "
                f"{dotted(gpu.compute_capability)}; {BUILD_AGAIN} on this machine"
            )
        return gpu

    def _check_tensors(self, engine: tensorrt.ICudaEngine) -> dict[str, Range]:
        """Compares the engine's tensors and profile with the contract and the record; returns the limits."""
        input_mode = self._trt.api.TensorIOMode.INPUT
        names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
        is_input = {name: engine.get_tensor_mode(name) == input_mode for name in names}
        specs = [
            self._dynamic(tensor_spec(name, engine.get_tensor_dtype(name), engine.get_tensor_shape(name)))
            for name in names
        ]
        for expected, wanted in ((self.contract.inputs, True), (self.contract.outputs, False)):
            check_tensors(self.name, expected, [spec for spec in specs if is_input[spec.name] == wanted])
        for spec in self.contract.inputs:
            shapes = [shape_tuple(shape) for shape in engine.get_tensor_profile_shape(spec.name, 0)]
            described = profile_shapes(self.record, spec)
            if shapes != described:
                raise UserError(
                    f"{self.name}: its profile for {spec.name} is {shapes}, but its JSON says {described}; "
                    f"{BUILD_AGAIN}"
                )
        return {symbol: (sizes.min, sizes.max) for symbol, sizes in self.record.profile.items()}

    def _dynamic(self, spec: TensorSpec) -> TensorSpec:
        """The specification with dimensions that the profile allows a single size for taken as dynamic again."""
        expected = self.contract.tensors.get(spec.name)
        fixed = {symbol: sizes.max for symbol, sizes in self.record.profile.items() if sizes.min == sizes.max}
        if expected is None or len(expected.shape) != len(spec.shape):
            return spec
        dims = [
            symbol if isinstance(symbol, str) and dim == _size(symbol, fixed) else dim
            for symbol, dim in zip(expected.shape, spec.shape, strict=True)
        ]
        return TensorSpec(spec.name, spec.dtype, tuple(dims))

    def _take_slot(self, sizes: dict[str, int]) -> _Slot:
        """A free context that is set to these sizes already, or else any free one, or else a new one."""
        for slot in self._free:
            if slot.sizes == sizes:
                self._free.remove(slot)
                return slot
        slot = self._free.pop() if self._free else self._new_slot()
        if slot.sizes != sizes:
            try:
                self._resize(slot, sizes)
            except BaseException:
                self._give_back(slot)
                raise
        return slot

    def _new_slot(self) -> _Slot:
        strategy = self._trt.api.ExecutionContextAllocationStrategy.USER_MANAGED
        self._trt.words.clear()
        context = self.cuda_engine.create_execution_context(strategy)
        if context is None:
            raise self.error("no execution context could be made")
        slot = _Slot(context, {}, 0)
        self._slots.append(slot)
        return slot

    def _resize(self, slot: _Slot, sizes: dict[str, int]) -> None:
        context = slot.context
        assert context is not None
        if slot.sizes:
            # A graph that captured this context may still be running, which TensorRT can't know.
            self.gpu.synchronize()
        slot.sizes = {}  # neither the old sizes nor the new ones, should one of the calls below fail
        self._trt.words.clear()
        for spec in self.contract.inputs:
            if not context.set_input_shape(spec.name, spec.resolve(sizes)):
                raise self.error(f"refused the shape {list(spec.resolve(sizes))} of {spec.name}")
        missing = context.infer_shapes()
        if missing:
            raise self.error(f"has no shape for {', '.join(missing)}")
        for spec in self.contract.outputs:
            found = shape_tuple(context.get_tensor_shape(spec.name))
            if found != spec.resolve(sizes):
                raise self.error(f"gives {spec.name} the shape {list(found)}, not {list(spec.resolve(sizes))}")
        slot.scratch_bytes = context.update_device_memory_size_for_shapes()
        slot.sizes = sizes

    def _bind_slot(self, slot: _Slot, tensors: Mapping[str, Tensor]) -> BoundRun:
        context = slot.context
        assert context is not None
        try:
            scratch = self._workspace.take(max(slot.scratch_bytes, 1))
        except torch.cuda.OutOfMemoryError as error:
            raise OutOfDeviceMemory(
                f"{self.name}: the GPU has no {slot.scratch_bytes / 1e6:.0f} MB of scratch memory left for "
                f"{', '.join(f'{symbol} {size}' for symbol, size in slot.sizes.items())}; use a smaller --batch-size "
                "or --window, or free the GPU"
            ) from error
        self._trt.words.clear()
        if hasattr(context, "set_device_memory"):
            context.set_device_memory(scratch.data_ptr(), scratch.numel())
        else:
            oldest: Any = context  # TensorRT 10.0
            oldest.device_memory = scratch.data_ptr()
        for name, tensor in tensors.items():
            if not context.set_tensor_address(name, tensor.data_ptr()):
                raise self.error(f"refused the memory of {name}")
        return BoundRun(self, slot, (scratch, *tensors.values()))

    def _give_back(self, slot: _Slot) -> None:
        if slot.context is not None:
            self._free.append(slot)


def _size(symbol: str, sizes: Mapping[str, int]) -> int | None:
    factor, _, name = symbol.rpartition("*")
    return int(factor or 1) * sizes[name] if name in sizes else None
