"""An engine on TensorRT: a plan on a GPU behind the interface of `common.engine`."""

from __future__ import annotations

import functools
import logging
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from common.callbacks import ignore
from common.contract import TensorSpec, contract_of
from common.engine import Range, check_bound, closed
from common.errors import EngineFailure, UserError
from common.metadata import Part
from common.onnx_file import check_part
from trt import bindings
from trt.bindings import (
    DEFAULT_STREAM,
    PRODUCTS,
    Flavour,
    Gpu,
    TensorRT,
    dotted,
    one_line,
    shape_tuple,
    tensor_spec,
    version_numbers,
)
from trt.contexts import runtime_config, workspace_of
from trt.record import BUILD_AGAIN, EngineRecord, profile_shapes, read_plan, read_record

if TYPE_CHECKING:
    import tensorrt

_log = logging.getLogger(__name__)


class OutOfDeviceMemory(EngineFailure, torch.cuda.OutOfMemoryError):
    """Not enough GPU memory: an error of PyTorch's own class too, so that callers catch only that one."""


@dataclass
class Context:
    """An execution context, the sizes that it is set to, and the scratch memory that they take.

    Contexts are costly: once no run uses one, it is used again, at other sizes too.
    """

    handle: tensorrt.IExecutionContext | None  # None once the engine is closed
    sizes: Mapping[str, int]
    scratch_bytes: int
    user: weakref.ref[BoundRun] | None = None  # the latest run that was bound to it

    @property
    def is_free(self) -> bool:
        return self.user is None or self.user() is None


class BoundRun:
    """Runs the engine on the memory it was bound to: one enqueue on PyTorch's current stream.

    It allocates nothing and waits for nothing, so after a first run a CUDA graph can capture it. CUDA's default stream
    is the exception: there TensorRT makes the host wait for the whole GPU. Keep a run as long as a graph that captured
    it: the run holds the context and all memory that the graph uses. Not thread-safe.
    """

    def __init__(self, engine: TensorRTEngine, context: Context, memory: tuple[Tensor, ...]) -> None:
        self._engine = engine
        self._context = context
        self._memory = memory
        self._gpu = engine.gpu

    def __call__(self) -> None:
        handle = self._context.handle
        if handle is None:
            raise closed(self._engine)
        with self._gpu.current():
            stream = self._gpu.stream()
            if stream == DEFAULT_STREAM:
                self._engine.warn_of_default_stream()
            if not handle.execute_async_v3(stream):
                raise self._engine.error("could not run")

    def capturable(self) -> bool:
        """Whether TensorRT-RTX can run it in a stream capture, asked for a stream of its own."""
        handle: Any = self._context.handle
        with self._gpu.current(), self._gpu.own_stream():
            return bool(handle.is_stream_capturable(self._gpu.stream()))


class TensorRTEngine:
    """An engine file that `trt/export_onnx2trt.py` built, on one GPU and on PyTorch's current stream there.

    Run engines inside `torch.cuda.stream(torch.cuda.Stream())`: on CUDA's default stream TensorRT makes the host wait
    at each run, and a warning is logged once. Engines of a GPU share scratch memory: run them on one stream, or on
    streams ordered by events, as CUDA graphs replayed on the current stream are. Not thread-safe.

    Args:
        path: the `.engine` or `.plan` file, with its JSON beside it.
        part: the part it has to hold.
        device: the GPU, such as "cuda:1"; None takes PyTorch's current one. Later calls work with any current GPU.

    Raises:
        UserError: the file or its JSON is missing, damaged, of another part, of another TensorRT or for another GPU;
            TensorRT or the NVIDIA driver is missing; or the engine's tensors are not those of its part.
    """

    backend = "tensorrt"

    def __init__(self, path: Path, part: Part, device: torch.device | str | None = None) -> None:
        self.name = str(path)
        self.record = read_record(path)
        check_part(path, self.record.metadata, part)
        plan = read_plan(path, self.record)
        self.metadata = self.record.metadata
        self.contract = contract_of(self.metadata)
        self._trt = tensorrt_of(self.name, self.record)
        self.gpu = gpu_for(self.name, self.record, device)
        self.device = self.gpu.device
        self._warned_of_default_stream = False
        self._workspace = workspace_of(self.device)
        with self.gpu.current():
            self._trt.errors.clear()
            self._runtime: tensorrt.Runtime | None = self._trt.api.Runtime(self._trt.logger)
            if self._runtime is None:
                raise self.error("could not start TensorRT's runtime")
            self._engine: tensorrt.ICudaEngine | None = self._runtime.deserialize_cuda_engine(plan)
            if self._engine is None:
                raise self.error("could not be opened", BUILD_AGAIN)
            self._check_tensors(self._engine)
            kernels = path.with_name(path.name + ".cache")
            self._config, self._save_kernels = runtime_config(self._trt, self._engine, kernels)
        self.limits: Mapping[str, Range] = {
            symbol: (sizes.min, sizes.max) for symbol, sizes in self.record.profile.items()
        }
        self._contexts: list[Context] = []

    @property
    def cuda_engine(self) -> tensorrt.ICudaEngine:
        """TensorRT's own object. Raises UserError once the engine is closed."""
        if self._engine is None:
            raise closed(self)
        return self._engine

    @functools.cached_property
    def capturable(self) -> bool:
        """Whether bound runs may be captured into CUDA graphs: always with TensorRT; TensorRT-RTX is asked once, at the
        sizes that the engine is tuned for. Where the answer is no, a warning is logged. Raises UserError as `bind`."""
        if self._trt.flavour != "tensorrt_rtx" or self._bound_to_nothing().capturable():
            return True
        _log.warning(
            "%s: %s can't record it in a CUDA graph; the host launches it at each step, which is slower",
            self.name,
            self._trt.product,
        )
        return False

    def bind(self, tensors: Mapping[str, Tensor]) -> BoundRun:
        """See `common.engine.Engine`. Not while a CUDA graph is being captured: it may allocate memory."""
        if self._engine is None:
            raise closed(self)
        sizes = check_bound(self, tensors)
        for name, tensor in tensors.items():
            if tensor.data_ptr() % self.gpu.alignment:
                raise UserError(
                    f"{self.name}: {name} must begin at a multiple of {self.gpu.alignment} bytes; pass a copy"
                )
        with self.gpu.current():
            context = self._context_of(sizes)
            run = BoundRun(self, context, self._give_memory(context, tensors))
        context.user = weakref.ref(run)
        return run

    def close(self) -> None:
        """Destroys contexts before the engine and the engine before the runtime, once the GPU has finished."""
        if self._engine is None:
            return
        with self.gpu.current():
            self.gpu.synchronize()
            self._save_kernels()
            for context in self._contexts:  # those in use too
                context.handle = None
            self._contexts.clear()
            self._config, self._save_kernels = None, ignore  # both hold TensorRT-RTX's cache
            self._engine = None
            self._runtime = None

    def error(self, problem: str, advice: str = "run scripts/verify_gpu.sh and report what it says") -> UserError:
        """The error for a refusal of TensorRT, with the reasons that it logged."""
        errors = self._trt.errors
        if errors.out_of_memory:
            return OutOfDeviceMemory(
                f"{self.name}: {problem}, out of device memory ({errors}); use a smaller --batch-size or free the GPU"
            )
        return UserError(f"{self.name}: {problem}: {errors}; {advice}")

    def warn_of_default_stream(self) -> None:
        """Logs, once for this engine, that it runs on CUDA's default stream."""
        if not self._warned_of_default_stream:
            self._warned_of_default_stream = True
            _log.warning(
                "%s: runs on CUDA's default stream, where TensorRT makes the host wait for the whole GPU at each run; "
                "enter a stream of your own",
                self.name,
            )

    def _bound_to_nothing(self) -> BoundRun:
        """A run at the sizes that the engine is tuned for, on memory of its own."""
        sizes = {symbol: sizes.opt for symbol, sizes in self.record.profile.items()}
        return self.bind(
            {
                name: torch.zeros(spec.resolve(sizes), dtype=spec.dtype, device=self.device)
                for name, spec in self.contract.tensors.items()
            }
        )

    def _context_of(self, sizes: dict[str, int]) -> Context:
        """A free context set to these sizes: one that has them already, else another, else a new one."""
        free = [context for context in self._contexts if context.is_free]
        for context in free:
            if context.sizes == sizes:
                return context
        context = free[-1] if free else self._new_context()
        self._resize(context, sizes)
        return context

    def _new_context(self) -> Context:
        self._trt.errors.clear()
        handle = self.cuda_engine.create_execution_context(self._config)
        if handle is None:
            raise self.error("no execution context could be made")
        self._contexts.append(Context(handle, {}, 0))
        return self._contexts[-1]

    def _resize(self, context: Context, sizes: dict[str, int]) -> None:
        handle = context.handle
        assert handle is not None
        if context.sizes:
            # A graph that captured this context may still be running, which TensorRT can't know.
            self.gpu.synchronize()
        context.sizes = {}  # if a call below fails, it has neither the old sizes nor the new ones
        self._trt.errors.clear()
        for spec in self.contract.inputs:
            if not handle.set_input_shape(spec.name, spec.resolve(sizes)):
                raise self.error(f"refused the shape {list(spec.resolve(sizes))} of {spec.name}")
        try:
            missing = handle.infer_shapes()
        except RuntimeError as error:  # its answer to sizes that don't go together
            raise self.error(f"can't infer its shapes ({one_line(str(error))})") from error
        if missing:
            raise self.error(f"has no shape for {', '.join(missing)}")
        for spec in self.contract.outputs:
            found = shape_tuple(handle.get_tensor_shape(spec.name))
            if found != spec.resolve(sizes):
                raise self.error(f"gives {spec.name} the shape {list(found)}, not {list(spec.resolve(sizes))}")
        context.scratch_bytes = handle.update_device_memory_size_for_shapes()
        # 0 means an error (NvInferRuntime.h), or an engine that needs no memory; an error is in the log.
        if context.scratch_bytes <= 0 and self._trt.errors:
            raise self.error(f"has no scratch memory size for {described(sizes)}")
        context.sizes = sizes

    def _give_memory(self, context: Context, tensors: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        """Ties a context to scratch memory and to the tensors; returns all of that memory."""
        handle = context.handle
        assert handle is not None
        try:
            scratch = self._workspace.take(max(context.scratch_bytes, 1))
        except torch.cuda.OutOfMemoryError as error:
            raise OutOfDeviceMemory(
                f"{self.name}: the GPU has no {context.scratch_bytes / 1e6:.0f} MB of scratch memory left for "
                f"{described(context.sizes)}; use a smaller --batch-size or --window, or free the GPU"
            ) from error
        self._trt.errors.clear()
        if hasattr(handle, "set_device_memory"):
            handle.set_device_memory(scratch.data_ptr(), scratch.numel())
        else:
            oldest: Any = handle  # TensorRT 10.0
            oldest.device_memory = scratch.data_ptr()
        for name, tensor in tensors.items():
            if not handle.set_tensor_address(name, tensor.data_ptr()):
                raise self.error(f"refused the memory of {name}")
        return scratch, *tensors.values()

    def _check_tensors(self, engine: tensorrt.ICudaEngine) -> None:
        """Compares the engine's tensors and profile with the contract and the record."""
        found: dict[bool, list[TensorSpec]] = {True: [], False: []}  # inputs, outputs
        for name in map(engine.get_tensor_name, range(engine.num_io_tensors)):
            spec = tensor_spec(name, engine.get_tensor_dtype(name), engine.get_tensor_shape(name))
            found[engine.get_tensor_mode(name) == self._trt.api.TensorIOMode.INPUT].append(spec)
        # A builder may fix a dimension of one size.
        fixed = {symbol: sizes.max for symbol, sizes in self.record.profile.items() if sizes.min == sizes.max}
        self.contract.check(self.name, found[True], found[False], BUILD_AGAIN, fixed)
        for spec in self.contract.inputs:
            shapes = [shape_tuple(shape) for shape in engine.get_tensor_profile_shape(spec.name, 0)]
            recorded = profile_shapes(self.record, spec)
            if shapes != recorded:
                raise UserError(
                    f"{self.name}: its profile for {spec.name} is {shapes}, but its JSON says {recorded}; {BUILD_AGAIN}"
                )


def described(sizes: Mapping[str, int]) -> str:
    """ "batch 4, mel 768" """
    return ", ".join(f"{symbol} {size}" for symbol, size in sizes.items())


def tensorrt_of(name: str, record: EngineRecord) -> TensorRT:
    """The TensorRT that runs an engine: its builder's, or for a portable engine a later version or the lean runtime.

    Raises:
        UserError: none of them is installed.
    """
    flavours: tuple[Flavour, ...] = (
        (record.flavour, "tensorrt_lean") if record.version_compatible else (record.flavour,)
    )
    try:
        trt = bindings.load(*flavours)
    except UserError as error:
        raise UserError(f"{name} was built by {PRODUCTS[record.flavour].name} {record.version}: {error}") from error
    if record.version_compatible and version_numbers(trt.version) >= version_numbers(record.version):
        return trt
    if trt.version != record.version:
        raise UserError(f"{name}: built by {trt.product} {record.version}, but this is {trt.version}; {BUILD_AGAIN}")
    return trt


def gpu_for(name: str, record: EngineRecord, device: torch.device | str | None = None) -> Gpu:
    """The GPU, which must be one that the engine was built for. Raises UserError."""
    try:
        gpu = bindings.find_gpu(device)
    except UserError as error:
        raise UserError(f"{name}: {error}; this machine can run the .onnx files") from error
    if gpu.compute_capability not in record.compute_capabilities:
        raise UserError(
            f"{name}: built by {record.built_by}, but this GPU is {gpu.name}, compute capability "
            f"{dotted(gpu.compute_capability)}; {BUILD_AGAIN} on this machine"
        )
    # TensorRT would run it, though its kernels were chosen for the multiprocessors and the memory of another model.
    if record.flavour == "tensorrt" and not record.same_compute_capability and gpu.name != record.gpu:
        raise UserError(
            f"{name}: built for {record.gpu}, but this GPU is {gpu.name}; {BUILD_AGAIN} on this machine, or with "
            "--same-compute-capability for both"
        )
    return gpu
