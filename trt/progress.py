"""A build's progress as one fraction, and Ctrl-C during a build without an exception in TensorRT's C++ code."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from trt.bindings import TensorRT

if TYPE_CHECKING:
    import tensorrt


class Progress:
    """TensorRT's nested phases as one fraction that never falls."""

    def __init__(self, on_progress: Callable[[float], object]) -> None:
        self._on_progress = on_progress
        self._phases: dict[str, tuple[str | None, int, int]] = {}  # name -> parent, steps, steps done
        self._reported = 0.0

    def start(self, phase: str, parent: str | None, steps: int) -> None:
        self._phases[phase] = (parent, max(1, steps), 0)

    def step(self, phase: str, step: int) -> None:
        if phase not in self._phases:
            return
        parent, steps, _ = self._phases[phase]
        self._phases[phase] = (parent, steps, step + 1)
        fraction, name = 0.0, phase  # of a phase's present step, from the inside out
        while name in self._phases:
            parent, steps, done = self._phases[name]
            fraction, name = min(1.0, (done + fraction) / steps), parent or ""
        self._report(fraction)

    def finish(self, phase: str) -> None:
        parent, _, _ = self._phases.pop(phase, (None, 1, 0))
        if parent is None:
            self._report(1.0)

    def _report(self, fraction: float) -> None:
        if fraction > self._reported:
            self._reported = fraction
            self._on_progress(fraction)


@contextmanager
def monitored(trt: TensorRT, config: tensorrt.IBuilderConfig, on_progress: Callable[[float], object]) -> Iterator[None]:
    """Has the builder report its progress for a `with` block, and stop at Ctrl-C.

    Raises:
        KeyboardInterrupt: Ctrl-C was pressed; raised once the builder has returned.
        Exception: of `on_progress`, likewise.
    """
    with _interruptible() as interrupted:
        monitor = _monitor(trt, config, Progress(on_progress), interrupted)
        yield
    if interrupted.is_set():
        raise KeyboardInterrupt
    if monitor.error is not None:
        raise monitor.error


@contextmanager
def _interruptible() -> Iterator[threading.Event]:
    """Ctrl-C sets the event that is yielded: an exception must not pass through TensorRT's C++ frames."""
    interrupted = threading.Event()
    previous = signal.getsignal(signal.SIGINT)
    # None is a handler that Python didn't install, and can't restore.
    if threading.current_thread() is not threading.main_thread() or previous is None:
        yield interrupted
        return
    signal.signal(signal.SIGINT, lambda number, frame: interrupted.set())
    try:
        yield interrupted
    finally:
        signal.signal(signal.SIGINT, previous)


def _monitor(trt: TensorRT, config: tensorrt.IBuilderConfig, progress: Progress, interrupted: threading.Event) -> Any:
    api: Any = trt.api

    class Monitor(api.IProgressMonitor):
        error: Exception | None = None

        def __init__(self) -> None:
            api.IProgressMonitor.__init__(self)

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self._safely(lambda: progress.start(phase_name, parent_phase, num_steps))

        def step_complete(self, phase_name: str, step: int) -> bool:
            self._safely(lambda: progress.step(phase_name, step))
            return not interrupted.is_set() and self.error is None

        def phase_finish(self, phase_name: str) -> None:
            self._safely(lambda: progress.finish(phase_name))

        def _safely(self, report: Callable[[], None]) -> None:
            # An exception must not reach the calling C++ code: `monitored` raises it once the builder has returned.
            try:
                report()
            except Exception as error:
                self.error = error

    monitor = Monitor()
    config.progress_monitor = monitor
    return monitor
