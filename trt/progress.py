"""Reports a build's progress as one fraction, and stops it on Ctrl-C without an exception in TensorRT's C++ code."""

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
    """The methods of TensorRT's IProgressMonitor: its nested phases as one fraction that never falls.

    Attributes:
        error: stops the builder once it is set. An exception must not reach the calling C++ code, so that of
            `on_progress` is kept here.
    """

    def __init__(self, on_progress: Callable[[float], object]) -> None:
        self.error: BaseException | None = None
        self._on_progress = on_progress
        self._phases: dict[str, tuple[str | None, int, int]] = {}  # name -> parent, steps, steps done
        self._reported = 0.0

    def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
        self._phases[phase_name] = (parent_phase, max(1, num_steps), 0)

    def step_complete(self, phase_name: str, step: int) -> bool:
        """Whether the builder may go on."""
        if phase_name in self._phases:
            parent, steps, _ = self._phases[phase_name]
            self._phases[phase_name] = (parent, steps, step + 1)
            fraction, name = 0.0, phase_name  # of a phase's present step, from the inside out
            while name in self._phases:
                parent, steps, done = self._phases[name]
                fraction, name = min(1.0, (done + fraction) / steps), parent or ""
            self._report(fraction)
        return self.error is None

    def phase_finish(self, phase_name: str) -> None:
        parent, _, _ = self._phases.pop(phase_name, (None, 1, 0))
        if parent is None:
            self._report(1.0)

    def _report(self, fraction: float) -> None:
        if fraction > self._reported and self.error is None:
            self._reported = fraction
            try:
                self._on_progress(fraction)
            except Exception as error:
                self.error = error


@contextmanager
def monitored(trt: TensorRT, config: tensorrt.IBuilderConfig, on_progress: Callable[[float], object]) -> Iterator[None]:
    """Has the builder report its progress for a `with` block, and stop at Ctrl-C.

    Raises:
        KeyboardInterrupt: Ctrl-C was pressed; raised once the builder has returned.
        Exception: of `on_progress`, likewise.
    """
    api: Any = trt.api

    class Monitor(Progress, api.IProgressMonitor):
        def __init__(self) -> None:
            api.IProgressMonitor.__init__(self)
            Progress.__init__(self, on_progress)

    def stop(number: int, frame: object) -> None:
        monitor.error = KeyboardInterrupt()

    monitor = Monitor()
    config.progress_monitor = monitor
    previous = signal.getsignal(signal.SIGINT)
    # None is a handler that Python didn't install, and can't restore.
    handled = threading.current_thread() is threading.main_thread() and previous is not None
    if handled:
        signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        if handled:
            signal.signal(signal.SIGINT, previous)
    if monitor.error is not None:
        raise monitor.error
