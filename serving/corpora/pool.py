"""Workers in processes of this machine, without Ray (`serving.corpora.ray_pool` has it)."""

import os
from typing import Any, Literal, Protocol

import torch

from serving.corpora.job import VoiceSource
from serving.corpora.process import Process
from serving.corpora.worker import Worker

Method = Literal["open", "speak", "finish", "give_up"]  # of Worker


class PoolWorker(Protocol):
    """A `Worker` in another process. After it has died, the next call goes to a new one."""

    def call(self, method: Method, *arguments: object) -> Any:
        """What the method returns or raises; thread-safe.

        Raises:
            WorkerDied: the worker died before it returned, or was stopped.
        """
        ...


class Pool(Protocol):
    """Starts workers.

    Attributes:
        size: how many to start.
        on_gpus: whether each has a GPU.
    """

    size: int
    on_gpus: bool

    def start(self) -> PoolWorker:
        """One more worker. Returns at once."""
        ...

    def close(self) -> None:
        """Stops all workers, whatever they are doing; may be called again."""
        ...


class ProcessPool:
    """Workers in processes of this machine.

    Args:
        source: of the workers' voice.
        size: number of workers.
        on_gpus: whether each gets a GPU, of those that CUDA_VISIBLE_DEVICES leaves visible.
    """

    def __init__(self, source: VoiceSource, size: int, on_gpus: bool) -> None:
        self.size, self.on_gpus = size, on_gpus
        self._source = source
        self._workers: list[_ProcessWorker] = []

    def start(self) -> PoolWorker:
        gpu = _visible_gpus()[len(self._workers) % count_gpus()] if self.on_gpus else None
        self._workers.append(_ProcessWorker(Process(_begin, self._source, gpu)))
        return self._workers[-1]

    def close(self) -> None:
        for worker in self._workers:
            worker.process.close()


class _ProcessWorker:
    def __init__(self, process: Process) -> None:
        self.process = process

    def call(self, method: Method, *arguments: object) -> Any:
        return self.process.call(_call, method, *arguments)


_own: list[Worker] = []  # of a worker's process: its one worker


def _begin(source: VoiceSource, gpu: str | None) -> None:
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu
    _own.append(Worker(source))


def _call(method: Method, *arguments: object) -> Any:
    return getattr(_own[0], method)(*arguments)


def count_gpus() -> int:
    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def _visible_gpus() -> list[str]:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return visible.split(",") if visible else [str(gpu) for gpu in range(count_gpus())]
