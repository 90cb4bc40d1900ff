"""A strict stand-in for the `tensorrt` module, for machines without an NVIDIA GPU.

It has the part of TensorRT 10's API that this project uses, and nothing else: an attribute that isn't here is an
error, as a misspelt one is there. Engines compute through ONNX Runtime on the memory they are given. What TensorRT
refuses, it refuses the same way: a function returns False, None, 0 or an empty list and the reason goes to the logger,
wrong argument types raise TypeError. What NVIDIA's headers forbid and TensorRT does not check raises
`UndefinedBehaviour`: addresses that are not aligned, tensors that overlap, another GPU than the engine's being current.
Runs on CUDA's default stream, which are slow but allowed, are counted in `default_stream_runs`.

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
import onnx
import onnxruntime as ort
import torch

from common.contract import parse_dim
from common.cpu_backend import thread_count
from trt import bindings

__version__ = "10.3.0"

# What the lean runtime has too.
RUNTIME = ("DataType", "TensorIOMode", "ExecutionContextAllocationStrategy", "LayerInformationFormat", "ILogger")
RUNTIME += ("IHostMemory", "Runtime", "ICudaEngine", "IExecutionContext")
STREAM = 0x5712EA  # the handle of the pretended streams
CPU_ALIGNMENT = 16  # bytes; of NumPy's arrays, which on a CPU become tensors as they are
_MAGIC = b"double-of-a-plan\n"

_streams: list[int] = []  # entered by `stream()`; outside of them CUDA's default stream is current
_current_gpu = [0]
default_stream_runs = [0]
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


def install(monkeypatch: Any, module: ModuleType | None = None) -> None:
    """Makes the double a test's TensorRT, which no code has loaded yet."""
    module = module or sys.modules[__name__]
    name = "tensorrt" if module is sys.modules[__name__] else "tensorrt_rtx"
    default_stream_runs[0] = 0

    monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setitem(sys.modules, "tensorrt_lean", lean_runtime())
    monkeypatch.setattr(bindings, "find_gpu", lambda device=None: GPU)
    monkeypatch.setattr(bindings, "_loaded", {})
    monkeypatch.setattr(_FirstLogger, "logger", None)


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
LayerInformationFormat = Enum("LayerInformationFormat", {"ONELINE": 0, "JSON": 1})

_DTYPES = {
    "tensor(float)": (DataType.FLOAT, np.float32),
    "tensor(float16)": (DataType.HALF, np.float16),
    "tensor(int32)": (DataType.INT32, np.int32),
    "tensor(bool)": (DataType.BOOL, np.bool_),
}


class ILogger:
    Severity = IntEnum("Severity", ["INTERNAL_ERROR", "ERROR", "WARNING", "INFO", "VERBOSE"], start=0)

    def __init__(self) -> None:
        self._constructed = True

    def log(self, severity: "ILogger.Severity", msg: str) -> None:
        raise NotImplementedError("Tried to call pure virtual function ILogger::log")


class _FirstLogger:
    """The first logger of a process gets everything; later ones are passed over."""

    logger: ILogger | None = None

    @classmethod
    def register(cls, logger: ILogger) -> None:
        if not isinstance(logger, ILogger) or not getattr(logger, "_constructed", False):
            raise TypeError("ILogger.__init__() must be called when overriding __init__")
        cls.logger = cls.logger or logger

    @classmethod
    def error(cls, message: str) -> None:
        assert cls.logger is not None
        cls.logger.log(ILogger.Severity.ERROR, message)


class IHostMemory(bytes):
    pass


class IProgressMonitor:
    def __init__(self) -> None:
        self._constructed = True

    def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
        raise NotImplementedError

    def step_complete(self, phase_name: str, step: int) -> bool:
        raise NotImplementedError

    def phase_finish(self, phase_name: str) -> None:
        raise NotImplementedError


class ITensor:
    __slots__ = ("_dims", "_numpy", "dtype", "name", "shape")

    def __init__(self, value: ort.NodeArg) -> None:
        self.name: str = value.name
        self.dtype, self._numpy = _DTYPES[value.type]
        self._dims: list[int | str] = value.shape
        self.shape = tuple(dim if isinstance(dim, int) else -1 for dim in value.shape)


def _session(model: bytes) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = thread_count(None)  # as `OnnxEngine` has it: other numbers would round otherwise
    options.log_severity_level = 4
    options.enable_cpu_mem_arena = False
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


@dataclass(slots=True)
class INetworkDefinition:
    _flags: int
    _inputs: list[ITensor] = field(default_factory=list)
    _outputs: list[ITensor] = field(default_factory=list)
    _layers: list[str] = field(default_factory=list)
    _onnx: bytes = b""

    num_inputs = property(lambda self: len(self._inputs))
    num_outputs = property(lambda self: len(self._outputs))

    def get_input(self, index: int) -> ITensor:
        return self._inputs[index]

    def get_output(self, index: int) -> ITensor:
        return self._outputs[index]


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
        _FirstLogger.register(logger)
        self._network = network
        self._errors: list[ParserError] = []

    num_errors = property(lambda self: len(self._errors))

    def get_error(self, index: int) -> ParserError:
        return self._errors[index]

    def parse(self, model: bytes) -> bool:
        try:
            session = _session(bytes(model))
        except Exception as error:  # onnxruntime's exceptions share no base class of their own
            self._errors.append(ParserError(f"Failed to parse the ONNX model.\n{error}"))
            return False
        network = self._network
        network._inputs = [ITensor(value) for value in session.get_inputs()]
        network._outputs = [ITensor(value) for value in session.get_outputs()]
        network._layers = [node.name for node in onnx.load_from_string(bytes(model)).graph.node]
        network._onnx = bytes(model)
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
    _profiles: list[IOptimizationProfile] = field(default_factory=list)
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
                _FirstLogger.error("IBuilderConfig::addOptimizationProfile: invalid optimization profile")
                return -1
        self._profiles.append(profile)
        return len(self._profiles) - 1

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
        _FirstLogger.register(logger)

    def create_network(self, flags: int = 0) -> INetworkDefinition:
        return INetworkDefinition(flags)

    def create_builder_config(self) -> IBuilderConfig:
        return self._config_type()

    def create_optimization_profile(self) -> IOptimizationProfile:
        return IOptimizationProfile()

    def build_serialized_network(self, network: INetworkDefinition, config: IBuilderConfig) -> IHostMemory | None:
        problem = _problem(network, config)
        if problem:
            _FirstLogger.error(f"IBuilder::buildSerializedNetwork: Error Code 4: {problem}")
            return None
        if not _report_progress(config.progress_monitor):
            return None
        header = {
            "version": __version__,
            "compute_capability": GPU.compute_capability,
            "gpu": "any" if config.hardware_compatibility_level.value else GPU.name,
            "onnx_bytes": len(network._onnx),
            "profiles": [profile._shapes for profile in config._profiles],
            "layers": network._layers,
            "flags": sorted(flag.name for flag in config._flags),
        }
        return IHostMemory(_MAGIC + json.dumps(header).encode() + b"\n" + network._onnx)


def _problem(network: INetworkDefinition, config: IBuilderConfig) -> str | None:
    if not network._flags & 1 << NetworkDefinitionCreationFlag.STRONGLY_TYPED:
        return "this project builds strongly typed networks only"
    for tensor in network._inputs:
        if not any(tensor.name in profile._shapes for profile in config._profiles):
            return f"Dynamic input {tensor.name} does not have dimensions in profile 0"
        for shape in config._profiles[0]._shapes[tensor.name]:
            if any(fixed not in (-1, size) for fixed, size in zip(tensor.shape, shape, strict=True)):
                return f"profile of {tensor.name} contradicts its static dimensions {tensor.shape}"
    return None


def _report_progress(monitor: IProgressMonitor | None) -> bool:
    """Three phases inside one another, as TensorRT reports them. Returns False where the monitor says stop."""
    if monitor is None:
        return True
    if not getattr(monitor, "_constructed", False):
        raise TypeError("IProgressMonitor.__init__() must be called when overriding __init__")
    monitor.phase_start("Building Engine", None, 2)
    for outer in range(2):
        monitor.phase_start("Timing graph nodes", "Building Engine", 4)
        for inner in range(4):
            if not monitor.step_complete("Timing graph nodes", inner):
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
        _FirstLogger.register(logger)

    def __del__(self) -> None:
        destroyed.append("Runtime")

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> "ICudaEngine | None":
        plan = bytes(serialized_engine)
        if not plan.startswith(_MAGIC):
            _FirstLogger.error("IRuntime::deserializeCudaEngine: Error Code 1: Serialization (wrong magic tag)")
            return None
        header_line, _, model = plan.removeprefix(_MAGIC).partition(b"\n")
        header = json.loads(header_line)
        portable = {"VERSION_COMPATIBLE", "EXCLUDE_LEAN_RUNTIME"} <= set(header["flags"])
        if header["version"] != __version__ and not (portable and header["version"] < __version__):
            _FirstLogger.error(
                "IRuntime::deserializeCudaEngine: Error Code 6: The engine plan file is not compatible with this "
                f"version of TensorRT, expecting library version {header['version']} got {__version__}"
            )
            return None
        if header["compute_capability"] != GPU.compute_capability or header["gpu"] not in ("any", GPU.name):
            _FirstLogger.error(
                "IRuntime::deserializeCudaEngine: Error Code 6: The engine plan file is generated on an incompatible "
                "device"
            )
            return None
        if len(model) != header["onnx_bytes"]:
            _FirstLogger.error("IRuntime::deserializeCudaEngine: Error Code 1: Serialization (stream is truncated)")
            return None
        return self._engine_type(header, model)


@dataclass(slots=True)
class EngineInspector:
    _layers: list[str]

    def get_layer_information(self, layer_index: int, format: LayerInformationFormat) -> str:
        name = self._layers[layer_index]
        return json.dumps(name) if format is LayerInformationFormat.JSON else name + "\n"


class ICudaEngine:
    __slots__ = ("_flags", "_gpu", "_inputs", "_layers", "_names", "_outputs", "_profiles", "_session")

    def __init__(self, header: dict[str, Any], model: bytes) -> None:
        self._gpu = _current_gpu[0]  # it lives on the GPU that is current now
        self._flags: list[str] = header["flags"]
        self._session = _session(model)
        self._inputs = {value.name: ITensor(value) for value in self._session.get_inputs()}
        self._outputs = {value.name: ITensor(value) for value in self._session.get_outputs()}
        self._names = [*self._inputs, *self._outputs]
        self._profiles = [{k: [tuple(s) for s in v] for k, v in shapes.items()} for shapes in header["profiles"]]
        self._layers: list[str] = header["layers"]

    def __del__(self) -> None:
        destroyed.append("ICudaEngine")

    num_io_tensors = property(lambda self: len(self._names))
    num_layers = property(lambda self: len(self._layers))

    @property
    def device_memory_size_v2(self) -> int:
        return _scratch_bytes(self, {name: shapes[2] for name, shapes in self._profiles[0].items()})

    def get_tensor_name(self, index: int) -> str:
        return self._names[index]

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        return TensorIOMode.INPUT if name in self._inputs else TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name: str) -> DataType:
        return self._tensor(name).dtype

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self._tensor(name).shape

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[tuple[int, ...]]:
        return self._profiles[profile_index][name]

    def create_engine_inspector(self) -> EngineInspector:
        return EngineInspector(self._layers)

    def create_execution_context(
        self, strategy: ExecutionContextAllocationStrategy = ExecutionContextAllocationStrategy.STATIC
    ) -> "IExecutionContext":
        if not isinstance(strategy, ExecutionContextAllocationStrategy):
            raise TypeError("create_execution_context(): incompatible function arguments")
        _require_current(self._gpu, "createExecutionContext")
        return IExecutionContext(self, strategy is ExecutionContextAllocationStrategy.USER_MANAGED)

    def _tensor(self, name: str) -> ITensor:
        return self._inputs.get(name) or self._outputs[name]


def _scratch_bytes(engine: ICudaEngine, shapes: dict[str, tuple[int, ...]]) -> int:
    return 256 + sum(_bytes(engine._inputs[name], shape) for name, shape in shapes.items())


def _bytes(tensor: ITensor, shape: tuple[int, ...]) -> int:
    return int(np.prod(shape)) * np.dtype(tensor._numpy).itemsize


class IExecutionContext:
    __slots__ = ("_addresses", "_engine", "_scratch", "_scratch_needed", "_shapes", "_stream", "_user_managed")

    def __init__(self, engine: ICudaEngine, user_managed: bool) -> None:
        self._engine = engine
        self._user_managed = user_managed
        self._shapes = {name: tensor.shape for name, tensor in engine._inputs.items() if -1 not in tensor.shape}
        self._addresses: dict[str, int] = {}
        self._scratch = (0, 0)  # address and size
        self._scratch_needed = engine.device_memory_size_v2
        self._stream: int | None = None

    def __del__(self) -> None:
        destroyed.append("IExecutionContext")
        if _current_gpu[0] != self._engine._gpu:
            destroyed.append("while another GPU was current")  # undefined behaviour, which a destructor can't raise

    def set_input_shape(self, name: str, shape: Sequence[int]) -> bool:
        _require_current(self._engine._gpu, "setInputShape")
        if name not in self._engine._inputs:
            return self._refuse("setInputShape", f"{name} is not an input")
        low, _, high = self._engine.get_tensor_profile_shape(name, 0)
        shape = tuple(shape)
        if len(shape) != len(low) or not all(a <= b <= c for a, b, c in zip(low, shape, high, strict=True)):
            return self._refuse("setInputShape", f"{list(shape)} of {name} does not satisfy any optimization profile")
        if self._shapes.get(name) != shape:
            self._shapes[name] = shape
            self._scratch = (0, 0)  # memory measured for other shapes is not good for these
            self._scratch_needed = self._engine.device_memory_size_v2
        return True

    def infer_shapes(self) -> list[str]:
        return [name for name in self._engine._inputs if name not in self._shapes]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        if name in self._shapes:
            return self._shapes[name]
        static = self._engine._tensor(name).shape
        return static if self.infer_shapes() else self._output_shape(name)

    def update_device_memory_size_for_shapes(self) -> int:
        _require_current(self._engine._gpu, "updateDeviceMemorySizeForShapes")
        if self.infer_shapes():
            _FirstLogger.error("IExecutionContext::updateDeviceMemorySizeForShapes: not all input shapes are specified")
            return 0
        self._scratch_needed = _scratch_bytes(self._engine, self._shapes)
        return self._scratch_needed

    def set_device_memory(self, memory: int, size: int) -> None:
        if not self._user_managed:
            raise UndefinedBehaviour("device memory was given to a context that manages its own")
        _require_aligned(memory, "device memory")
        if size < self._scratch_needed:
            _FirstLogger.error(f"IExecutionContext::setDeviceMemoryV2: {size} bytes, {self._scratch_needed} needed")
            return
        self._scratch = (memory, size)

    def set_tensor_address(self, name: str, memory: int) -> bool:
        if name not in self._engine._names:
            return self._refuse("setTensorAddress", f"Given invalid tensor name: {name}")
        _require_aligned(memory, name)
        self._addresses[name] = memory
        return True

    def execute_async_v3(self, stream_handle: int) -> bool:
        _require_current(self._engine._gpu, "enqueueV3")
        missing = self.infer_shapes()
        if missing:
            return self._refuse("enqueueV3", f"Not all input shapes are specified: {missing}")
        unset = [name for name in self._engine._names if not self._addresses.get(name)]
        if unset:
            return self._refuse("enqueueV3", f"Neither address or allocator is set for tensor {unset[0]}")
        if self._user_managed and not self._scratch[0]:
            return self._refuse("enqueueV3", "device memory was not set, or was set before the shapes changed")
        if stream_handle != GPU.stream():
            raise UndefinedBehaviour(f"enqueued on stream {stream_handle:#x}, the current one is {GPU.stream():#x}")
        default_stream_runs[0] += stream_handle == bindings.DEFAULT_STREAM
        self._check_overlaps()
        if self._user_managed:  # its content is lost with every run
            self._spoil(self._scratch[0], self._scratch_needed)
        self._run()
        return True

    def _spoil(self, address: int, size: int) -> None:
        ctypes.memset(address, 0xA5, size)

    def _check_overlaps(self) -> None:
        spans = [
            (self._addresses[name], _bytes(self._engine._tensor(name), self.get_tensor_shape(name)), name)
            for name in self._engine._names
        ]
        if self._user_managed:
            spans.append((self._scratch[0], self._scratch_needed, "scratch memory"))
        inputs = set(self._engine._inputs)
        spans.sort()
        for (start, size, name), (following, _, other) in pairwise(spans):
            if start + size > following and not {name, other} <= inputs:
                raise UndefinedBehaviour(f"{name} and {other} overlap in memory")

    def _run(self) -> None:
        session = self._engine._session
        binding = session.io_binding()
        for names, bind in ((self._engine._inputs, binding.bind_input), (self._engine._outputs, binding.bind_output)):
            for name, tensor in names.items():
                bind(name, "cpu", 0, tensor._numpy, self.get_tensor_shape(name), self._addresses[name])
        session.run_with_iobinding(binding)

    def _output_shape(self, name: str) -> tuple[int, ...]:
        """An output's shape, from the names that its graph gives to dimensions ("batch", "mel", "256*mel")."""
        sizes: dict[int | str, int] = {}
        for tensor in self._engine._inputs.values():
            sizes.update(zip(tensor._dims, self._shapes[tensor.name], strict=True))
        shape = []
        for dim in self._engine._outputs[name]._dims:
            factor, symbol = parse_dim(dim)
            shape.append(factor * sizes[symbol] if symbol else factor)
        return tuple(shape)

    def _refuse(self, function: str, reason: str) -> bool:
        _FirstLogger.error(f"IExecutionContext::{function}: Error Code 3: API Usage Error ({reason})")
        return False


def plan_like(plan: bytes, **changes: Any) -> bytes:
    """A plan of this double with other header fields, e.g. another version."""
    header, _, model = plan.removeprefix(_MAGIC).partition(b"\n")
    return _MAGIC + json.dumps({**json.loads(header), **changes}).encode() + b"\n" + model
