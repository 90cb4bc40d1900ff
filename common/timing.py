"""Measuring where time goes."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from common.engine import Engine


class Stages:
    """Time by stage; as a context: `with stages("decoder"):`.

    On a GPU it is the device's time between two events of the current stream, so that nothing waits while stages run;
    on a CPU it is wall time.
    """

    def __init__(self, device: torch.device) -> None:
        self._seconds: dict[str, float] = {}
        self._device = device
        self._pending: list[tuple[str, torch.cuda.Event, torch.cuda.Event]] = []

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        if self._device.type == "cuda":
            stream = torch.cuda.current_stream(self._device)
            began = stream.record_event(torch.cuda.Event(enable_timing=True))
            yield
            self._pending.append((name, began, stream.record_event(torch.cuda.Event(enable_timing=True))))
        else:
            started = time.perf_counter()
            yield
            self._add(name, time.perf_counter() - started)

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds by stage, since the last `clear`. Waits for what is still running on a GPU."""
        for name, began, ended in self._pending:
            ended.synchronize()
            self._add(name, began.elapsed_time(ended) / 1e3)
        self._pending.clear()
        return self._seconds

    def clear(self) -> None:
        """Begins anew."""
        self._pending.clear()
        self._seconds.clear()

    def _add(self, name: str, seconds: float) -> None:
        self._seconds[name] = self._seconds.get(name, 0.0) + seconds


class TimedEngine:
    """An engine that adds up the wall time spent running it; for engines on the CPU, which return when done.

    It runs what is bound, and has no other ability of the engine's.
    """

    def __init__(self, engine: Engine) -> None:
        self.name, self.metadata, self.contract = engine.name, engine.metadata, engine.contract
        self.device, self.limits, self.backend = engine.device, engine.limits, engine.backend
        self.capturable = engine.capturable
        self.seconds = 0.0
        self._engine = engine

    def bind(self, tensors: Mapping[str, Tensor]) -> Callable[[], None]:
        run = self._engine.bind(tensors)

        def timed_run() -> None:
            started = time.perf_counter()
            run()
            self.seconds += time.perf_counter() - started

        return timed_run

    def close(self) -> None:
        self._engine.close()
