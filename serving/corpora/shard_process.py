"""`ShardWork` in a process beside the worker: it takes Python's lock, which the thread that feeds the GPU needs."""

import mmap
import os
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from common.errors import UserError
from serving.corpora.job import Job
from serving.corpora.layout import Shard
from serving.corpora.shard_work import Batches, Outcome, Recorded, ShardWork, VoiceTraits, plain

SLOTS = 8  # batches whose audio waits to be written: a shard of 512 lines, as FLAC may take longer than the speaking


class ProcessEnded(Exception):
    """The process beside the worker has ended. The shard that it had is not recorded."""


class ShardProcess:
    """`ShardWork` in a process of its own, which ends when this one does. Used in the same way; not thread-safe.

    `write` returns before the audio is written: an error is told by the next call or the one after, at the latest by
    `record`. It waits while SLOTS batches are on their way. Each method raises ProcessEnded if the process has ended.

    A plain child rather than one of `multiprocessing`, whose workers may not have children.
    """

    def __init__(self) -> None:
        self._slots = [_Samples(os.memfd_create("samples")) for _ in range(SLOTS)]
        self._free = list(range(SLOTS))
        self._writing: deque[int] = deque()  # the slots of batches that no answer has come for
        self._connection, theirs = Pipe()
        handles = [theirs.fileno(), *(slot.handle for slot in self._slots)]
        program = f"import sys; sys.path[:] = {sys.path!r}; from serving.corpora import shard_process as p; p.serve()"
        self.process = subprocess.Popen(
            [sys.executable, "-c", program, *map(str, handles)],
            stdin=subprocess.DEVNULL,
            env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"},
            pass_fds=handles,
        )
        theirs.close()  # so that the connection ends with the process

    def begin(self, job: Job, traits: VoiceTraits) -> None:
        self._give_up()
        self._call("begin", job, traits)

    def read(self, shard: Shard) -> Batches:
        self._give_up()
        return self._call("read", shard)

    def write(self, outcomes: Sequence[Outcome], audio: Sequence[np.ndarray]) -> None:
        while self._writing and (not self._free or self._connection.poll()):
            self._written()
        slot = self._free.pop()  # the one that was free last: its memory is there already
        np.concatenate(audio, out=self._slots[slot].view(sum(map(len, audio))))
        self._writing.append(slot)
        self._send("write", slot, outcomes)

    def record(self) -> Recorded:
        while self._writing:
            self._written()
        return self._call("record")

    def close(self) -> None:
        """Ends the process; may be called again."""
        self.process.kill()
        self.process.wait()
        self._connection.close()
        for slot in self._slots:
            slot.close()

    def _call(self, method: str, *arguments: object) -> Any:
        self._send(method, *arguments)
        return self._answer()

    def _give_up(self) -> None:
        """Takes the answers that are still to come if the last shard was not recorded."""
        while self._writing:
            with suppress(OSError, UserError):
                self._written()

    def _written(self) -> None:
        """Takes the answer to the first `write` that has none yet. Raises what that raised."""
        try:
            self._answer()
        finally:
            self._free.append(self._writing.popleft())

    def _send(self, *request: object) -> None:
        try:
            self._connection.send(request)
        except OSError as error:
            raise self._ended() from error

    def _answer(self) -> Any:
        try:
            result, error = self._connection.recv()
        except (OSError, EOFError) as problem:
            raise self._ended() from problem
        if error is not None:
            raise error
        return result

    def _ended(self) -> ProcessEnded:
        return ProcessEnded(f"process {self.process.pid}, which reads and writes for the worker, has ended")


class _Samples:
    """Samples in memory that two processes share: a file without a name, which is gone with the last of them.

    Unlike /dev/shm, which is small in containers, its size is limited by memory alone.

    Args:
        handle: of the file, from `os.memfd_create`.
    """

    def __init__(self, handle: int) -> None:
        self.handle = handle
        self._samples = np.empty(0, np.float32)

    def view(self, count: int) -> np.ndarray:
        """The first `count` samples, float32 [count]. The file grows if it has fewer."""
        if count > len(self._samples):
            if os.fstat(self.handle).st_size < 4 * count:
                os.ftruncate(self.handle, 4 * count)
            self._samples = np.frombuffer(mmap.mmap(self.handle, 0), np.float32)
        return self._samples[:count]

    def close(self) -> None:
        """May be called again."""
        if self.handle >= 0:
            os.close(self.handle)
        self.handle = -1


def serve() -> None:
    """The process: answers until its worker has gone. Any error but those of `ShardWork`'s methods ends it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the driver's to handle
    first, *others = map(int, sys.argv[1:])
    connection = Connection(first)
    slots = [_Samples(handle) for handle in others]
    work = ShardWork()

    def write(slot: int, outcomes: Sequence[Outcome]) -> None:
        ends = np.cumsum([outcome.samples for outcome in outcomes])
        work.write(outcomes, np.split(slots[slot].view(ends[-1]), ends[:-1]))

    with suppress(EOFError, ConnectionError):
        while True:
            method, *arguments = connection.recv()
            answer: tuple[object, Exception | None]
            try:
                answer = (write if method == "write" else getattr(work, method))(*arguments), None
            except (OSError, UserError) as error:
                answer = None, plain(error)
            connection.send(answer)
