"""Measures how long each stage takes."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch


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
