"""Runs any engine as CUDA graphs, for parts whose many small kernels take longer to launch than to run."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from common.cuda import ShapeCache, capture, on_device, with_index
from common.engine import Engine, check_bound

CACHED_SIZES = 32  # sizes that keep their graph


class GraphRun:
    """Runs directly at its first call, and captures at its second.

    While a larger graph is being captured it is recorded there, launch by launch.

    Args:
        run: works at fixed addresses on `device` and does not wait for it.
        warm_up: see `common.cuda.capture`.
    """

    def __init__(self, run: Callable[[], None], device: torch.device, warm_up: bool = True) -> None:
        self._run = run
        self._device = device
        self._warm_up = warm_up
        self._has_run = False
        self._replay: Callable[[], None] | None = None

    def __call__(self) -> None:
        if not self._has_run or torch.cuda.is_current_stream_capturing():
            self._run()
            self._has_run = True
            return
        if self._replay is None:
            self._replay = capture(self._run, self._device, warm_up=self._warm_up)
        self._replay()


class GraphEngine:
    """An engine on a GPU as one CUDA graph for each set of sizes; inputs and outputs are copied.

    The last CACHED_SIZES sets of sizes keep their memory and their graph. Not thread-safe; closing closes the engine
    inside.
    """

    capturable = True

    def __init__(self, engine: Engine) -> None:
        self.name, self.metadata, self.contract = engine.name, engine.metadata, engine.contract
        self.limits, self.backend = engine.limits, engine.backend
        self.device = with_index(engine.device)
        self._engine = engine
        self._plans = ShapeCache[tuple[tuple[str, int], ...], tuple[dict[str, Tensor], GraphRun]](CACHED_SIZES)

    @property
    def plain(self) -> Engine:
        """The engine itself, for sizes that won't come again."""
        return self._engine

    def bind(self, tensors: Mapping[str, Tensor]) -> Callable[[], None]:
        sizes = tuple(sorted(check_bound(self, tensors).items()))
        own, run_own = self._plans.get(sizes, lambda: self._plan(tensors))
        inputs = [(own[spec.name], tensors[spec.name]) for spec in self.contract.inputs]
        outputs = [(tensors[spec.name], own[spec.name]) for spec in self.contract.outputs]

        @torch.inference_mode()
        def run() -> None:
            with on_device(self.device):
                for target, source in inputs:
                    target.copy_(source)
                run_own()
                for target, source in outputs:
                    target.copy_(source)

        return run

    def close(self) -> None:
        self._plans.clear()
        self._engine.close()

    def _plan(self, tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], GraphRun]:
        # Memory of these sizes, and what runs the engine on it.
        with on_device(self.device), torch.inference_mode():
            own = {name: torch.zeros_like(tensor) for name, tensor in tensors.items()}
            return own, GraphRun(self._engine.bind(own), self.device)
