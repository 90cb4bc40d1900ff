"""A process that executes calls and is restarted when it dies, and memory that processes share."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import CancelledError, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

MOST_DEATHS = 3  # of processes, while they make the same call
# A process that uses CUDA can't be forked. The server that forks these uses none, and imports PyTorch once for all.
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["serving.corpora.worker"])


class WorkerDied(Exception):
    """A process ended before it returned from a call."""


class WorkerStopped(Exception):
    """A process was closed before it returned from a call."""


class Process:
    """One process, which starts at its first call and makes one call after the other. Thread-safe.

    It ends when this object is closed, and when the process that made this object ends, whatever it is doing. Its
    environment is that which the program had when its first `Process` started.

    Args:
        begin: called first in each new process, with `arguments`.
    """

    def __init__(self, begin: Callable[..., None], *arguments: object) -> None:
        # Nothing is ever sent. The process ends when the pipe does, which is when this process has ended or closed it.
        self._theirs, self._ours = _CONTEXT.Pipe(duplex=False)
        self._begin = begin, arguments
        self._lock = threading.Lock()
        self._closed = False
        self._executor = self._new_executor()

    def call(self, function: Callable[..., Any], *arguments: object, attempts: int = 1) -> Any:
        """What the function returns or raises in the process. It, its arguments and results are pickled.

        Args:
            attempts: how often to make the call if the process dies.

        Raises:
            WorkerDied: the process died each time.
            WorkerStopped: this object was closed.
        """
        for _ in range(attempts):
            with self._lock:
                if self._closed:
                    raise WorkerStopped
                executor = self._executor
            try:
                return executor.submit(function, *arguments).result()
            except (BrokenProcessPool, CancelledError):
                with self._lock:
                    if self._executor is executor and not self._closed:  # else another thread was quicker
                        executor.shutdown()
                        self._executor = self._new_executor()
        raise WorkerStopped if self._closed else WorkerDied("its process has ended")

    def close(self) -> None:
        """Ends the process; may be called again."""
        with self._lock:
            self._closed = True
            self._ours.close()
            self._executor.shutdown(cancel_futures=True)
            self._theirs.close()

    def _new_executor(self) -> ProcessPoolExecutor:
        begin, arguments = self._begin
        return ProcessPoolExecutor(1, _CONTEXT, _begin, (self._theirs, begin, arguments))


def _begin(alive: Connection, begin: Callable[..., None], arguments: tuple[object, ...]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the driver's to handle

    def end_with_the_caller() -> None:
        alive.poll(None)
        os._exit(1)  # no caller waits for the call that is under way

    threading.Thread(target=end_with_the_caller, daemon=True).start()
    begin(*arguments)


class SharedSamples:
    """float32 samples in memory that other processes of this machine can map: a file without a name.

    Unlike /dev/shm, which is small in containers, its size is limited by memory alone. It ends with its last user.
    """

    def __init__(self) -> None:
        self._handle = os.memfd_create("samples")
        self._samples = np.empty(0, np.float32)
        self._count = 0

    @property
    def path(self) -> str:
        """Where other processes find it."""
        return f"/proc/{os.getpid()}/fd/{self._handle}"

    def clear(self) -> None:
        """Removes the samples and keeps their memory: new memory is slow to write to."""
        self._count = 0

    def append(self, samples: np.ndarray) -> None:
        """Adds a copy of float32 [n]."""
        end = self._count + len(samples)
        if end > len(self._samples):
            size = max(end, 2 * len(self._samples), 1 << 20)
            self._samples = np.memmap(self.path, np.float32, "r+", shape=(size,))
        self._samples[self._count : end] = samples
        self._count = end

    def close(self) -> None:
        """May be called again."""
        if self._handle >= 0:
            os.close(self._handle)
        self._handle = -1
