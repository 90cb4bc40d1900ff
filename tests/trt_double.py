"""A strict stand-in for the `tensorrt` module, for machines without an NVIDIA GPU.

It has the part of TensorRT 10's API that this project uses, and nothing else: an attribute that isn't here is an
error, as a misspelt one is there. Engines compute through ONNX Runtime on the memory they are given. What TensorRT
refuses, it refuses the same way: a function returns False, None, 0 or an empty list and the reason goes to the logger,
wrong argument types raise TypeError. What NVIDIA's headers forbid and TensorRT does not check raises
`UndefinedBehaviour`: addresses that are not aligned, tensors that overlap, another GPU than the engine's being current,
a stream that isn't the current one.

It can't show memory used while a run is in flight: on a CPU a run is over when its call returns. On a GPU it can, since
there it computes through PyTorch on the stream that it is given.

`install` makes it a test's `tensorrt`, on a pretended Tesla T4 with the CPU's memory. `tests.rtx_double` has what
TensorRT-RTX has beyond it.
"""

import ctypes
import json
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum, IntEnum
from itertools import pairwise
from types import ModuleType
from typing import Any

import numpy as np
import onnxruntime as ort
import torch

from common.contract import TensorSpec
from common.cpu_backend import thread_count
from trt import bindings

__version__ = "10.3.0"

# What the lean runtime has too.
RUNTIME = ("DataType", "TensorIOMode", "ExecutionContextAllocationStrategy", "ILogger", "IHostMemory", "Runtime")
RUNTIME += ("ICudaEngine", "IExecutionContext")
STREAM = 0x5712EA  # the handle of the pretended streams
CPU_ALIGNMENT = 16  # bytes; of NumPy's arrays, which on a CPU become tensors as they are
_MAGIC = b"double-of-a-plan\n"

_streams: list[int] = []  # entered by `stream()`; outside of them CUDA's default stream is current
_current_gpu = [0]
destroyed: deque[str] = deque(maxlen=100)  # classes of destroyed objects in order, and what was wrong about it


class UndefinedBehaviour(AssertionError):
    """The caller did what the documentation forbids and TensorRT does not check."""


@contextmanager
def stream(handle: int = STREAM) -> Iterator[None]:
    """Makes a pretended stream the current one."""
    _streams.append(handle)
    try:
        yield
    finally:
        _streams.pop()


@dataclass(frozen=True)
class CpuGpu(bindings.Gpu):
    """The pretended GPU: PyTorch's CPU under a T4's name."""

    alignment: int = CPU_ALIGNMENT
    number: int = 0

    def stream(self) -> int:
        return _streams[-1] if _streams else bindings.DEFAULT_STREAM

    def synchronize(self) -> None:
        pass

    def own_stream(self) -> Any:
        return stream()

    @contextmanager
    def current(self) -> Iterator[None]:
        before, _current_gpu[0] = _current_gpu[0], self.number
        try:
            yield
        finally:
            _current_gpu[0] = before


GPU: bindings.Gpu = CpuGpu(torch.device("cpu"), "Tesla T4", 75)
SECOND_GPU = CpuGpu(torch.device("cpu"), "Tesla T4", 75, number=1)


def install(monkeypatch: Any, rtx: ModuleType | None = None) -> None:
    """Makes the double a test's TensorRT, which no code has loaded yet; or `rtx` its TensorRT-RTX, without TensorRT."""
    modules = {"tensorrt": None if rtx else sys.modules[__name__], "tensorrt_rtx": rtx, "tensorrt_lean": lean_runtime()}
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(bindings, "find_gpu", lambda device=None: GPU)
    monkeypatch.setattr(bindings, "_loaded", {})
    _loggers.clear()


def lean_runtime() -> ModuleType:
    """What `tensorrt_lean` is: the runtime without builder and parser."""
    lean = ModuleType("tensorrt_lean")
    vars(lean).update({name: globals()[name] for name in (*RUNTIME, "__version__")})
    return lean


def _require_current(number: int, function: str) -> None:
    if _current_gpu[0] != number:
        raise UndefinedBehaviour(f"{function}: GPU {_current_gpu[0]} is current, but the engine is on GPU {number}")


def _require_aligned(address: int, what: str) -> None:
    if address % GPU.alignment:
        raise UndefinedBehaviour(f"{what} begins at {address:#x}, which is no multiple of {GPU.alignment} bytes")


DataType = Enum("DataType", {"FLOAT": 0, "HALF": 1, "INT32": 3, "BOOL": 4})
TensorIOMode = Enum("TensorIOMode", {"NONE": 0, "INPUT": 1, "OUTPUT": 2})
NetworkDefinitionCreationFlag = IntEnum("NetworkDefinitionCreationFlag", {"STRONGLY_TYPED": 1})
BuilderFlag = Enum("BuilderFlag", {"TF32": 7, "VERSION_COMPATIBLE": 11, "EXCLUDE_LEAN_RUNTIME": 12})
HardwareCompatibilityLevel = Enum("HardwareCompatibilityLevel", {"NONE": 0, "SAME_COMPUTE_CAPABILITY": 2})
MemoryPoolType = Enum("MemoryPoolType", {"WORKSPACE": 0})
ExecutionContextAllocationStrategy = Enum(
    "ExecutionContextAllocationStrategy", {"STATIC": 0, "ON_PROFILE_CHANGE": 1, "USER_MANAGED": 2}
)

_DTYPES = {
    "tensor(float)": (DataType.FLOAT, np.float32),
    "tensor(float16)": (DataType.HALF, np.float16),
    "tensor(int32)": (DataType.INT32, np.int32),
    "tensor(bool)": (DataType.BOOL, np.bool_),
}


class _Overridable:
    """A class of C++ that Python code derives from."""

    def __init__(self) -> None:
        self._constructed = True

    @classmethod
    def _require(cls, value: object) -> None:
        if not isinstance(value, cls) or not getattr(value, "_constructed", False):
            raise TypeError(f"{cls.__name__}.__init__() must be called when overriding __init__")


class ILogger(_Overridable):
    Severity = IntEnum("Severity", ["INTERNAL_ERROR", "ERROR", "WARNING", "INFO", "VERBOSE"], start=0)

    def log(self, severity: "ILogger.Severity", msg: str) -> None:
        raise NotImplementedError("Tried to call pure virtual function ILogger::log")


_loggers: list[ILogger] = []  # the first of a process gets everything


def _register(logger: ILogger) -> None:
    ILogger._require(logger)
    _loggers.append(logger)


def _log_error(message: str) -> None:
    _loggers[0].log(ILogger.Severity.ERROR, message)


class IHostMemory(bytes):
    pass


class IProgressMonitor(_Overridable):
    def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
        raise NotImplementedError

    def step_complete(self, phase_name: str, step: int) -> bool:
        raise NotImplementedError

    def phase_finish(self, phase_name: str) -> None:
        raise NotImplementedError


class ITensor:
    __slots__ = ("_numpy", "_spec", "dtype", "name", "shape")

    def __init__(self, value: ort.NodeArg) -> None:
        self.name: str = value.name
        self.dtype, self._numpy = _DTYPES[value.type]
        self._spec = TensorSpec(value.name, torch.float32, tuple(value.shape))  # its type is of no use here
        self.shape = tuple(dim if isinstance(dim, int) else -1 for dim in value.shape)

    def _bytes(self, shape: tuple[int, ...]) -> int:
        return int(np.prod(shape)) * np.dtype(self._numpy).itemsize


class _Model:
    """An ONNX file's content, its tensors, and the session that computes it."""

    def __init__(self, content: bytes) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = thread_count(None)  # as `OnnxEngine` has it: other numbers would round otherwise
        options.log_severity_level = 4
        options.enable_cpu_mem_arena = False
        self.content = content
        self.session = ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        self.inputs = {value.name: ITensor(value) for value in self.session.get_inputs()}
        self.outputs = {value.name: ITensor(value) for value in self.session.get_outputs()}
        self.tensors = {**self.inputs, **self.outputs}


class INetworkDefinition:
    __slots__ = ("_flags", "_model")
    _model: _Model  # once it is parsed

    def __init__(self, flags: int) -> None:
        self._flags = flags

    num_inputs = property(lambda self: len(self._model.inputs))
    num_outputs = property(lambda self: len(self._model.outputs))

    def get_input(self, index: int) -> ITensor:
        return list(self._model.inputs.values())[index]

    def get_output(self, index: int) -> ITensor:
        return list(self._model.outputs.values())[index]


@dataclass(slots=True)
class ParserError:
    _text: str

    def desc(self) -> str:
        return self._text

    def node(self) -> int:
        return -1  # the failure belongs to no node

    def node_name(self) -> str:
        return ""

    def node_operator(self) -> str:
        return ""


class OnnxParser:
    __slots__ = ("_errors", "_network")

    def __init__(self, network: INetworkDefinition, logger: ILogger) -> None:
        _register(logger)
        self._network = network
        self._errors: list[ParserError] = []

    num_errors = property(lambda self: len(self._errors))

    def get_error(self, index: int) -> ParserError:
        return self._errors[index]

    def parse(self, model: bytes) -> bool:
        try:
            self._network._model = _Model(bytes(model))
        except Exception as error:  # onnxruntime's exceptions share no base class of their own
            self._errors.append(ParserError(f"Failed to parse the ONNX model.\n{error}"))
            return False
        return True


@dataclass(slots=True)
class IOptimizationProfile:
    _shapes: dict[str, list[tuple[int, ...]]] = field(default_factory=dict)

    def set_shape(self, input: str, min: Sequence[int], opt: Sequence[int], max: Sequence[int]) -> None:
        self._shapes[input] = [tuple(min), tuple(opt), tuple(max)]


@dataclass(slots=True)
class ITimingCache:
    _matches: bool = True

    def serialize(self) -> IHostMemory:
        return IHostMemory(f"timings of {__version__} on {GPU.name}".encode())


@dataclass(slots=True)
class IBuilderConfig:
    max_aux_streams: int = -1
    builder_optimization_level: int = 3
    hardware_compatibility_level: HardwareCompatibilityLevel = HardwareCompatibilityLevel.NONE
    progress_monitor: IProgressMonitor | None = None
    _flags: set[Enum] = field(default_factory=lambda: {BuilderFlag.TF32})
    _pools: dict[MemoryPoolType, int] = field(default_factory=dict)
    _profile: IOptimizationProfile = field(default_factory=IOptimizationProfile)
    _cache: ITimingCache = field(default_factory=ITimingCache)

    def set_flag(self, flag: Any) -> None:
        self._flags.add(flag)

    def clear_flag(self, flag: BuilderFlag) -> None:
        self._flags.discard(flag)

    def get_flag(self, flag: BuilderFlag) -> bool:
        return flag in self._flags

    def set_memory_pool_limit(self, pool: MemoryPoolType, pool_size: int) -> None:
        self._pools[pool] = pool_size

    def get_memory_pool_limit(self, pool: MemoryPoolType) -> int:
        return self._pools[pool]

    def add_optimization_profile(self, profile: IOptimizationProfile) -> int:
        for shapes in profile._shapes.values():
            if not all(0 < low <= best <= high for low, best, high in zip(*shapes, strict=True)):
                _log_error("IBuilderConfig::addOptimizationProfile: invalid optimization profile")
                return -1
        self._profile = profile
        return 0

    def create_timing_cache(self, serialized_timing_cache: bytes) -> ITimingCache:
        return ITimingCache(serialized_timing_cache in (b"", bytes(self._cache.serialize())))

    def set_timing_cache(self, cache: ITimingCache, ignore_mismatch: bool) -> bool:
        if not (cache._matches or ignore_mismatch):
            return False
        self._cache = cache
        return True

    def get_timing_cache(self) -> ITimingCache:
        return self._cache


class Builder:
    __slots__ = ()
    _config_type = IBuilderConfig

    def __init__(self, logger: ILogger) -> None:
        _register(logger)

    def create_network(self, flags: int = 0) -> INetworkDefinition:
        return INetworkDefinition(flags)

    def create_builder_config(self) -> IBuilderConfig:
        return self._config_type()

    def create_optimization_profile(self) -> IOptimizationProfile:
        return IOptimizationProfile()

    def build_serialized_network(self, network: INetworkDefinition, config: IBuilderConfig) -> IHostMemory | None:
        problem = _problem(network, config)
        if problem:
            _log_error(f"IBuilder::buildSerializedNetwork: Error Code 4: {problem}")
            return None
        if not _report_progress(config.progress_monitor):
            return None
        content = network._model.content
        header = {
            "version": __version__,
            "compute_capability": GPU.compute_capability,
            "gpu": "any" if config.hardware_compatibility_level.value else GPU.name,
            "onnx_bytes": len(content),
            "profile": config._profile._shapes,
            "flags": sorted(flag.name for flag in config._flags),
        }
        return IHostMemory(_MAGIC + json.dumps(header).encode() + b"\n" + content)


def _problem(network: INetworkDefinition, config: IBuilderConfig) -> str | None:
    if not network._flags & 1 << NetworkDefinitionCreationFlag.STRONGLY_TYPED:
        return "this project builds strongly typed networks only"
    for name, tensor in network._model.inputs.items():
        if name not in config._profile._shapes:
            return f"Dynamic input {name} does not have dimensions in profile 0"
        for shape in config._profile._shapes[name]:
            if any(fixed not in (-1, size) for fixed, size in zip(tensor.shape, shape, strict=True)):
                return f"profile of {name} contradicts its static dimensions {tensor.shape}"
    return None


def _report_progress(monitor: IProgressMonitor | None) -> bool:
    """Phases inside one another, as TensorRT reports them. Returns False where the monitor says stop."""
    if monitor is None:
        return True
    IProgressMonitor._require(monitor)
    monitor.phase_start("Building Engine", None, 2)
    for outer in range(2):
        monitor.phase_start("Timing graph nodes", "Building Engine", 4)
        if not all(monitor.step_complete("Timing graph nodes", inner) for inner in range(4)):
            return False
        monitor.phase_finish("Timing graph nodes")
        if not monitor.step_complete("Building Engine", outer):
            return False
    monitor.phase_finish("Building Engine")
    return True


class Runtime:
    __slots__ = ()

    @property
    def _engine_type(self) -> "type[ICudaEngine]":
        return ICudaEngine

    def __init__(self, logger: ILogger) -> None:
        _register(logger)

    def __del__(self) -> None:
        destroyed.append("Runtime")

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> "ICudaEngine | None":
        magic, _, plan = bytes(serialized_engine).partition(b"\n")
        header_line, _, content = plan.partition(b"\n")
        header = json.loads(header_line) if magic + b"\n" == _MAGIC else {}
        problem = _obstacle(header, content)
        if problem:
            _log_error(f"IRuntime::deserializeCudaEngine: {problem}")
            return None
        return self._engine_type(header, content)


def _obstacle(header: dict[str, Any], content: bytes) -> str | None:
    if not header:
        return "Error Code 1: Serialization (wrong magic tag)"
    portable = {"VERSION_COMPATIBLE", "EXCLUDE_LEAN_RUNTIME"} <= set(header["flags"])
    if header["version"] != __version__ and not (portable and header["version"] < __version__):
        return (
            "Error Code 6: The engine plan file is not compatible with this version of TensorRT, expecting library "
            f"version {header['version']} got {__version__}"
        )
    if header["compute_capability"] != GPU.compute_capability or header["gpu"] not in ("any", GPU.name):
        return "Error Code 6: The engine plan file is generated on an incompatible device"
    if len(content) != header["onnx_bytes"]:
        return "Error Code 1: Serialization (stream is truncated)"
    return None


class ICudaEngine:
    __slots__ = ("_flags", "_gpu", "_model", "_profile")

    def __init__(self, header: dict[str, Any], content: bytes) -> None:
        self._gpu = _current_gpu[0]  # it lives on the GPU that is current now
        self._flags: list[str] = header["flags"]
        self._profile = {name: [tuple(shape) for shape in shapes] for name, shapes in header["profile"].items()}
        self._model = _Model(content)

    def __del__(self) -> None:
        destroyed.append("ICudaEngine")

    num_io_tensors = property(lambda self: len(self._model.tensors))

    @property
    def device_memory_size_v2(self) -> int:
        return _scratch_bytes(self, {name: shapes[2] for name, shapes in self._profile.items()})

    def get_tensor_name(self, index: int) -> str:
        return list(self._model.tensors)[index]

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        return TensorIOMode.INPUT if name in self._model.inputs else TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name: str) -> DataType:
        return self._model.tensors[name].dtype

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self._model.tensors[name].shape

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[tuple[int, ...]]:
        assert profile_index == 0
        return self._profile[name]

    def create_execution_context(
        self, strategy: ExecutionContextAllocationStrategy = ExecutionContextAllocationStrategy.STATIC
    ) -> "IExecutionContext":
        if not isinstance(strategy, ExecutionContextAllocationStrategy):
            raise TypeError("create_execution_context(): incompatible function arguments")
        return IExecutionContext(self, strategy)


def _scratch_bytes(engine: ICudaEngine, shapes: dict[str, tuple[int, ...]]) -> int:
    return 256 + sum(engine._model.inputs[name]._bytes(shape) for name, shape in shapes.items())


class IExecutionContext:
    __slots__ = ("_addresses", "_engine", "_scratch", "_scratch_needed", "_shapes")

    def __init__(self, engine: ICudaEngine, allocation: ExecutionContextAllocationStrategy) -> None:
        _require_current(engine._gpu, "createExecutionContext")
        if allocation is not ExecutionContextAllocationStrategy.USER_MANAGED:
            raise UndefinedBehaviour("device memory can't be given to a context that manages its own")
        self._engine = engine
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._addresses: dict[str, int] = {}
        self._scratch = 0  # its address; 0 where none has been given since the shapes changed
        self._scratch_needed = engine.device_memory_size_v2

    def __del__(self) -> None:
        destroyed.append("IExecutionContext")
        if hasattr(self, "_engine") and _current_gpu[0] != self._engine._gpu:
            destroyed.append("while another GPU was current")  # undefined behaviour, which a destructor can't raise

    def set_input_shape(self, name: str, shape: Sequence[int]) -> bool:
        _require_current(self._engine._gpu, "setInputShape")
        if name not in self._engine._model.inputs:
            return self._refuse("setInputShape", f"{name} is not an input")
        low, _, high = self._engine.get_tensor_profile_shape(name, 0)
        shape = tuple(shape)
        if len(shape) != len(low) or not all(a <= b <= c for a, b, c in zip(low, shape, high, strict=True)):
            return self._refuse("setInputShape", f"{list(shape)} of {name} does not satisfy any optimization profile")
        if self._shapes.get(name) != shape:
            self._shapes[name] = shape
            self._scratch = 0  # memory measured for other shapes is not good for these
            self._scratch_needed = self._engine.device_memory_size_v2
        return True

    def infer_shapes(self) -> list[str]:
        return [name for name in self._engine._model.inputs if name not in self._shapes]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        if self.infer_shapes():
            return self._engine.get_tensor_shape(name)
        sizes: dict[str, int] = {}
        for input_name, tensor in self._engine._model.inputs.items():
            sizes |= tensor._spec.sizes_in(self._shapes[input_name]) or {}
        return self._engine._model.tensors[name]._spec.resolve(sizes)

    def update_device_memory_size_for_shapes(self) -> int:
        _require_current(self._engine._gpu, "updateDeviceMemorySizeForShapes")
        if self.infer_shapes():
            _log_error("IExecutionContext::updateDeviceMemorySizeForShapes: not all input shapes are specified")
            return 0
        self._scratch_needed = _scratch_bytes(self._engine, self._shapes)
        return self._scratch_needed

    def set_device_memory(self, memory: int, size: int) -> None:
        _require_aligned(memory, "device memory")
        if size < self._scratch_needed:
            _log_error(f"IExecutionContext::setDeviceMemoryV2: {size} bytes, {self._scratch_needed} needed")
            return
        self._scratch = memory

    def set_tensor_address(self, name: str, memory: int) -> bool:
        if name not in self._engine._model.tensors:
            return self._refuse("setTensorAddress", f"Given invalid tensor name: {name}")
        _require_aligned(memory, name)
        self._addresses[name] = memory
        return True

    def execute_async_v3(self, stream_handle: int) -> bool:
        _require_current(self._engine._gpu, "enqueueV3")
        missing = self.infer_shapes()
        if missing:
            return self._refuse("enqueueV3", f"Not all input shapes are specified: {missing}")
        unset = [name for name in self._engine._model.tensors if not self._addresses.get(name)]
        if unset:
            return self._refuse("enqueueV3", f"Neither address or allocator is set for tensor {unset[0]}")
        if not self._scratch:
            return self._refuse("enqueueV3", "device memory was not set, or was set before the shapes changed")
        if stream_handle != GPU.stream():
            raise UndefinedBehaviour(f"enqueued on stream {stream_handle:#x}, the current one is {GPU.stream():#x}")
        self._check_overlaps()
        self._spoil(self._scratch, self._scratch_needed)  # its content is lost with every run
        self._run()
        return True

    def _spoil(self, address: int, size: int) -> None:
        ctypes.memset(address, 0xA5, size)

    def _check_overlaps(self) -> None:
        model = self._engine._model
        spans = [
            (self._addresses[name], tensor._bytes(self.get_tensor_shape(name)), name)
            for name, tensor in model.tensors.items()
        ]
        spans = sorted([*spans, (self._scratch, self._scratch_needed, "scratch memory")])
        for (start, size, name), (following, _, other) in pairwise(spans):
            if start + size > following and not {name, other} <= set(model.inputs):
                raise UndefinedBehaviour(f"{name} and {other} overlap in memory")

    def _run(self) -> None:
        model = self._engine._model
        binding = model.session.io_binding()
        for tensors, bind in ((model.inputs, binding.bind_input), (model.outputs, binding.bind_output)):
            for name, tensor in tensors.items():
                bind(name, "cpu", 0, tensor._numpy, self.get_tensor_shape(name), self._addresses[name])
        model.session.run_with_iobinding(binding)

    def _refuse(self, function: str, reason: str) -> bool:
        _log_error(f"IExecutionContext::{function}: Error Code 3: API Usage Error ({reason})")
        return False
