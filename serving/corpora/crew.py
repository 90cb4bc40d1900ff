"""Workers in processes of their own, one a GPU: on this machine alone, without Ray (`serving.corpora.ray_crew` has it).

A crew hires workers and tells of their deaths; what they do is `serving.corpora.worker`, the same everywhere.
"""

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any, Protocol

import torch

from common.errors import UserError
from pipeline.scheduler import SWITCH_INTERVAL
from serving.corpora.job import Identity, Job, VoiceSource
from serving.corpora.layout import Shard
from serving.corpora.worker import SHARDS_AT_ONCE, ShardReport, Worker


class WorkerDied(Exception):
    """A worker ended, or is of no more use, before it did what it was asked for."""


class Member(Protocol):
    """A worker as the driver sees it. Each future fails with WorkerDied if the worker has died."""

    opened: "Future[Identity]"  # or UserError

    def begin(self, job: Job) -> "Future[None]": ...

    def do(self, shard: Shard) -> "Future[ShardReport]": ...

    def dismiss(self) -> None:
        """Ends the worker at once. May be called again."""
        ...


class Crew(Protocol):
    """Hires workers.

    Attributes:
        size: how many there are to be.
        on_gpus: whether each has a GPU.
    """

    size: int
    on_gpus: bool

    def hire(self) -> Member:
        """Starts a worker, in the place of a dead one or as one more. Returns at once."""
        ...

    def close(self) -> None: ...


class ProcessCrew:
    """Workers in processes of this machine.

    Args:
        source: of the workers' voice.
        size: number of workers.
        on_gpus: whether each gets a GPU, of those that CUDA_VISIBLE_DEVICES leaves visible.
    """

    def __init__(self, source: VoiceSource, size: int, on_gpus: bool) -> None:
        self.size, self.on_gpus = size, on_gpus
        self._source = source
        self._members: list[_ProcessMember] = []

    def hire(self) -> Member:
        self._members = [member for member in self._members if member.is_alive]
        taken = {member.place for member in self._members}
        place = next(place for place in range(len(taken) + 1) if place not in taken)
        member = _ProcessMember(self._source, place, self.on_gpus)
        self._members.append(member)
        return member

    def close(self) -> None:
        for member in self._members:
            member.dismiss()


class _ProcessMember:
    def __init__(self, source: VoiceSource, place: int, on_gpu: bool) -> None:
        self.place = place
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, source), daemon=True)
        with _environment(on_gpu, place):
            self._process.start()
        theirs.close()  # so that the pipe ends with the process
        self._lock = threading.Lock()
        self._calls: dict[int, Future[Any]] = {}
        self._count = 0
        self._dead = False
        self.opened: Future[Identity] = self._call("identity")
        threading.Thread(target=self._receive, name="corpus worker", daemon=True).start()

    @property
    def is_alive(self) -> bool:
        return not self._dead

    def begin(self, job: Job) -> "Future[None]":
        return self._call("begin", job)

    def do(self, shard: Shard) -> "Future[ShardReport]":
        return self._call("do", shard)

    def dismiss(self) -> None:
        self._process.kill()
        self._process.join()

    def _call(self, method: str, *arguments: object) -> "Future[Any]":
        future: Future[Any] = Future()
        with self._lock:
            self._count += 1
            self._calls[self._count] = future
            with suppress(OSError):  # the reader of the pipe tells of its end
                self._connection.send((self._count, method, arguments))
            dead = self._dead
        if dead:
            self._end()
        return future

    def _receive(self) -> None:
        with suppress(EOFError, OSError):
            while True:
                number, result, error = self._connection.recv()
                with self._lock:
                    future = self._calls.pop(number)
                if error is not None:
                    future.set_exception(error)
                else:
                    future.set_result(result)
        self._end()

    def _end(self) -> None:
        with self._lock:
            self._dead = True
            calls, self._calls = self._calls, {}
        for future in calls.values():
            future.set_exception(WorkerDied(f"process {self._process.pid} has ended"))


class _environment:
    """What a worker's process finds in its environment: its own GPU alone."""

    def __init__(self, on_gpu: bool, place: int) -> None:
        self._values: dict[str, str] = {}
        if on_gpu:
            visible = os.environ.get("CUDA_VISIBLE_DEVICES")
            gpus = visible.split(",") if visible else [str(gpu) for gpu in range(torch.cuda.device_count())]
            self._values["CUDA_VISIBLE_DEVICES"] = gpus[place % len(gpus)]

    def __enter__(self) -> None:
        self._before = {name: os.environ.get(name) for name in self._values}
        os.environ.update(self._values)

    def __exit__(self, *exception: object) -> None:
        for name, value in self._before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _serve(connection: Connection, source: VoiceSource) -> None:
    """The worker's process: answers calls until the driver goes away."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the driver's to handle
    sys.setswitchinterval(SWITCH_INTERVAL)
    lock = threading.Lock()
    worker: Worker | None = None

    def answer(number: int, method: Callable[..., object], arguments: tuple[object, ...]) -> None:
        result: object = None
        error: Exception | None = None
        try:
            result = method(*arguments)
        except UserError as problem:
            error = problem
        except Exception as problem:  # a defect, or a GPU that failed: told, and the driver ends this process
            error = WorkerDied(f"{type(problem).__name__}: {problem}")
        with lock, suppress(OSError):
            connection.send((number, result, error))

    def identity() -> Identity:
        nonlocal worker
        worker = Worker(source)
        return worker.identity

    pool = ThreadPoolExecutor(SHARDS_AT_ONCE)
    with suppress(EOFError, OSError):
        while True:
            number, method, arguments = connection.recv()
            if method == "do":
                assert worker is not None
                pool.submit(answer, number, worker.do, arguments)
            else:
                answer(number, identity if method == "identity" else getattr(worker, method), arguments)
    os._exit(0)  # nobody waits for what is under way


def count_gpus() -> int:
    return torch.cuda.device_count() if torch.cuda.is_available() else 0
