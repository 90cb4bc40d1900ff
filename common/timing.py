"""Measuring where time goes."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from common.engine import Engine


class Stages:
    """Wall time by stage, with the device waited for at the end of each; as a context: `with stages("decoder"):`."""

    def __init__(self, device: torch.device) -> None:
        self.seconds: dict[str, float] = {}
        self._device = device

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - started


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
