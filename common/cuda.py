"""Any engine as CUDA graphs: for parts whose many small kernels take longer to launch than to run."""

import os
import shutil
import sysconfig
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from common.engine import Engine, check_bound, sizes_of

OLDEST_CAPABILITY = (8, 0)  # Ampere
CACHED_SIZES = 16  # sizes that keep their graph; the one used longest ago goes first


@dataclass
class _Plan:
    """Memory of one set of sizes, what is bound to it, and from the second run on its graph."""

    tensors: dict[str, Tensor]
    run: Callable[[], None]
    runs: int = 0
    graph: torch.cuda.CUDAGraph | None = None

    def __call__(self) -> None:
        if self.graph is not None:
            self.graph.replay()
            return
        # Sizes that come once are not worth a capture; and engines allocate in their first run, which none allows.
        self.runs += 1
        if self.runs == 1:
            self.run()
            return
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            self.run()
        stream.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
            self.run()
        torch.cuda.current_stream().wait_stream(stream)
        self.graph = graph
        graph.replay()


class CapturedEngine:
    """An engine on a GPU, run as one CUDA graph for each set of sizes; inputs and outputs are copied."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._plans: OrderedDict[tuple[tuple[str, int], ...], _Plan] = OrderedDict()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def bind(self, tensors: Mapping[str, Tensor]) -> Callable[[], None]:
        check_bound(self._engine, tensors)
        plan = self._plan(tensors)
        names = [spec.name for spec in self._engine.contract.inputs], [s.name for s in self._engine.contract.outputs]

        def run() -> None:
            for name in names[0]:
                plan.tensors[name].copy_(tensors[name])
            plan()
            for name in names[1]:
                tensors[name].copy_(plan.tensors[name])

        return run

    def close(self) -> None:
        self._plans.clear()
        self._engine.close()

    def _plan(self, tensors: Mapping[str, Tensor]) -> _Plan:
        key = tuple(sorted(sizes_of(self._engine, tensors).items()))
        plan = self._plans.pop(key, None)
        if plan is None:
            own = {name: torch.zeros_like(tensor) for name, tensor in tensors.items()}
            plan = _Plan(own, self._engine.bind(own))
        self._plans[key] = plan
        if len(self._plans) > CACHED_SIZES:
            self._plans.popitem(last=False)
        return plan


def triton_obstacle(device: torch.device) -> str | None:
    """Why Triton kernels can't be compiled and run on this device; None if they can."""
    if device.type != "cuda" or not torch.cuda.is_available():
        return "it needs an NVIDIA GPU"
    if torch.cuda.get_device_capability(device) < OLDEST_CAPABILITY:
        return "the GPU's compute capability is below 8.0"
    try:
        import triton  # noqa: F401
    except ImportError:
        return "Triton is not installed"
    if not (os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")):
        return "Triton needs a C compiler (gcc or clang)"
    if not Path(sysconfig.get_paths()["include"], "Python.h").is_file():
        return "Triton needs Python's headers (python3-dev)"
    return None
