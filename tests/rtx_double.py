"""What TensorRT-RTX has beyond `tests.trt_double`: building for other GPUs, asking whether a run can be captured."""

import json
import sys
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from tests import trt_double
from tests.trt_double import *  # noqa: F403  the API that TensorRT and TensorRT-RTX share
from tests.trt_double import ExecutionContextAllocationStrategy, IHostMemory, UndefinedBehaviour

__version__ = "1.7.1"

compiled: list[str] = []  # kernels, by their shapes, in order


BuilderFlag = Enum("BuilderFlag", {"TF32": 7, "REQUIRE_USER_ALLOCATION": 26})
ComputeCapability = Enum("ComputeCapability", {"SM75": 75, "SM86": 86})
DynamicShapesKernelSpecializationStrategy = Enum(
    "DynamicShapesKernelSpecializationStrategy", {"LAZY": 0, "EAGER": 1, "NONE": 2}
)


@dataclass(slots=True)
class IBuilderConfig(trt_double.IBuilderConfig):
    num_compute_capabilities: int = 0
    _flags: set[Enum] = field(default_factory=lambda: {BuilderFlag.TF32})

    def set_compute_capability(self, compute_capability: ComputeCapability, index: int) -> bool:
        return index < self.num_compute_capabilities


class Builder(trt_double.Builder):
    __slots__ = ()
    _config_type = IBuilderConfig


@dataclass(slots=True)
class IRuntimeCache:
    """Kernels by the shapes that they were compiled for."""

    _kernels: set[str] = field(default_factory=set)

    def deserialize(self, blob: bytes) -> bool:
        machine, _, kernels = bytes(blob).partition(b"\n")
        if machine != self._machine():
            return False
        self._kernels = set(json.loads(kernels))
        return True

    def serialize(self) -> IHostMemory:
        return IHostMemory(self._machine() + b"\n" + json.dumps(sorted(self._kernels)).encode())

    def _machine(self) -> bytes:
        return f"kernels of {__version__} on {trt_double.GPU.name}".encode()


@dataclass(slots=True)
class IRuntimeConfig:
    dynamic_shapes_kernel_specialization_strategy: Enum = DynamicShapesKernelSpecializationStrategy.LAZY
    _allocation: ExecutionContextAllocationStrategy = ExecutionContextAllocationStrategy.STATIC
    _cache: IRuntimeCache = field(default_factory=IRuntimeCache)

    def create_runtime_cache(self) -> IRuntimeCache:
        return IRuntimeCache()

    def set_runtime_cache(self, cache: IRuntimeCache) -> bool:
        self._cache = cache
        return True

    def set_execution_context_allocation_strategy(self, strategy: ExecutionContextAllocationStrategy) -> None:
        self._allocation = strategy


class ICudaEngine(trt_double.ICudaEngine):
    __slots__ = ()

    def create_runtime_config(self) -> IRuntimeConfig:
        return IRuntimeConfig()

    def create_execution_context(self, runtime_config: Any = None) -> "IExecutionContext":
        if not isinstance(runtime_config, IRuntimeConfig):
            raise TypeError("create_execution_context(): incompatible function arguments")
        return IExecutionContext(self, runtime_config)


class IExecutionContext(trt_double.IExecutionContext):
    __slots__ = ("_config",)

    def __init__(self, engine: ICudaEngine, config: IRuntimeConfig) -> None:
        super().__init__(engine, config._allocation)
        self._config = config

    def _run(self) -> None:
        kernel = str(sorted(self._shapes.items()))
        if kernel not in self._config._cache._kernels:
            compiled.append(kernel)
            self._config._cache._kernels.add(kernel)
        super()._run()

    def is_stream_capturable(self, stream: int) -> bool:
        if stream == trt_double.bindings.DEFAULT_STREAM:
            raise UndefinedBehaviour("CUDA can't capture its default stream")
        lazy = self._config.dynamic_shapes_kernel_specialization_strategy is (
            DynamicShapesKernelSpecializationStrategy.LAZY
        )
        return "REQUIRE_USER_ALLOCATION" in self._engine._flags and not lazy and not self.infer_shapes()


class Runtime(trt_double.Runtime):
    __slots__ = ()

    @property
    def _engine_type(self) -> type[ICudaEngine]:
        return ICudaEngine


def install(monkeypatch: Any) -> None:
    """Makes this double a test's TensorRT-RTX, and leaves it no TensorRT."""
    trt_double.install(monkeypatch, sys.modules[__name__])
