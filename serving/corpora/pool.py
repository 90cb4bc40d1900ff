"""Workers as processes of this machine, without Ray (with Ray: `serving.corpora.ray_pool`)."""

import os
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

import torch

from serving.corpora.job import VoiceSource
from serving.corpora.process import Process
from serving.corpora.worker import Worker

PoolWorker = Callable[..., Any]
"""Calls a method of a `Worker` in another process: its name, its arguments. Thread-safe.

It returns or raises what the method does, WorkerDied if the worker died before it returned, and WorkerStopped if its
pool was closed. After the worker has died, the next call goes to a new one.
"""


class Pool(Protocol):
    """Starts workers.

    Attributes:
        size: how many to start.
        on_gpus: whether each has a GPU.
    """

    size: int
    on_gpus: bool

    def start(self, source: VoiceSource) -> PoolWorker:
        """One more worker, which speaks with this voice. Returns at once."""
        ...

    def close(self) -> None:
        """Stops all workers, whatever they are doing; may be called again."""
        ...


class ProcessPool:
    """Workers in processes of this machine.

    Args:
        size: number of workers.
        on_gpus: whether each gets a GPU, of those that CUDA_VISIBLE_DEVICES leaves visible.
    """

    def __init__(self, size: int, on_gpus: bool) -> None:
        self.size, self.on_gpus = size, on_gpus
        self._processes: list[Process] = []

    def start(self, source: VoiceSource) -> PoolWorker:
        gpu = _visible_gpus()[len(self._processes) % count_gpus()] if self.on_gpus else None
        self._processes.append(Process(_begin, source, gpu))
        return partial(self._processes[-1].call, _call)

    def close(self) -> None:
        for process in self._processes:
            process.close()


_own: list[Worker] = []  # of a worker's process: its one worker


def _begin(source: VoiceSource, gpu: str | None) -> None:
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu
    _own.append(Worker(source))


def _call(method: str, *arguments: object) -> Any:
    return getattr(_own[0], method)(*arguments)


def count_gpus() -> int:
    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def _visible_gpus() -> list[str]:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return visible.split(",") if visible else [str(gpu) for gpu in range(count_gpus())]
