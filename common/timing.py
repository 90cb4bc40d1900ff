"""Measuring where time goes."""

import time
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from common.engine import Engine


class TimedEngine:
    """An engine that adds up the wall time spent running it; for engines on the CPU, which return when done."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.seconds = 0.0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def bind(self, tensors: Mapping[str, Tensor]) -> Callable[[], None]:
        run = self._engine.bind(tensors)

        def timed_run() -> None:
            started = time.perf_counter()
            run()
            self.seconds += time.perf_counter() - started

        return timed_run
