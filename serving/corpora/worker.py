"""A worker: one voice that speaks shards of lines to files. Of Ray it knows nothing; see `serving.corpora.crew`."""

import os
import socket
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from queue import SimpleQueue

import numpy as np

from common.errors import UserError
from pipeline.synthesizer import FailedPiece, SpokenPiece
from serving.corpora.job import CONFIGURATION, Identity, Job, VoiceSource, identity_of
from serving.corpora.layout import Shard
from serving.corpora.shard_process import ShardProcess
from serving.corpora.shard_work import Batches, Outcome, ShardWork, VoiceTraits, plain

# Of the shards that a worker has, one is read, one is spoken and one is written.
SHARDS_AT_ONCE = 3


@dataclass(frozen=True)
class ShardReport:
    """What a shard took and gave. Times are the worker's own clock's, in seconds.

    Attributes:
        worker: its machine and process.
        lines: done, with and without audio.
        unspoken: of them without audio.
        audio_seconds: of the audio that was written.
        speaking_seconds: for which the voice was busy.
        waiting_seconds: of them until earlier audio was taken over to be written: the voice is too fast for the disk.
        reading_seconds: that reading the lines took, beside the voice.
        writing_seconds: that encoding and writing took, beside the voice.
        error: what stopped it, if the disk or the like is to blame; then nothing is recorded.
    """

    worker: str
    began: float
    ended: float
    lines: int = 0
    unspoken: int = 0
    audio_seconds: float = 0.0
    speaking_seconds: float = 0.0
    waiting_seconds: float = 0.0
    reading_seconds: float = 0.0
    writing_seconds: float = 0.0
    error: OSError | UserError | None = None


class Worker:
    """Speaks shards. `do` may be called by SHARDS_AT_ONCE threads: the voice has one at a time, while the lines of
    the next are read and the audio of the last is encoded and written.

    Args:
        source: of its voice. Raises UserError if it can't be opened.
    """

    def __init__(self, source: VoiceSource) -> None:
        self.voice = source.open()
        self.identity: Identity = identity_of(self.voice)
        self.name = f"{socket.gethostname()}:{os.getpid()}"
        self._speaking = threading.Lock()
        beside = self.voice.engines.on_gpu if source.beside is None else source.beside
        self._works: list[ShardWork | ShardProcess] = [
            ShardProcess() if beside else ShardWork() for _ in range(SHARDS_AT_ONCE)
        ]
        self._idle: SimpleQueue[ShardWork | ShardProcess] = SimpleQueue()
        self._job: Job | None = None

    def begin(self, job: Job) -> None:
        """Sets what the shards are part of. To be called while none is under way.

        Raises:
            UserError: this machine doesn't see the corpus's folder.
        """
        if not (job.folder / CONFIGURATION).exists():
            raise UserError(f"{self.name} does not see {job.folder}: give a folder that all machines share")
        engines = self.voice.engines
        traits = VoiceTraits(engines.batch_size, engines.max_symbols, engines.gain)
        self._job, self._idle = job, SimpleQueue()
        for work in self._works:
            work.begin(job, traits)
            self._idle.put(work)

    def do(self, shard: Shard) -> ShardReport:
        """Speaks, writes and records a shard.

        Raises:
            ProcessEnded: a process beside this one was killed; the worker is of no more use.
        """
        assert self._job is not None, "begin first"
        began = time.time()
        work = self._idle.get()
        try:
            batches = work.read(shard)
            with ThreadPoolExecutor(1, "handing over") as pool:
                with self._speaking:
                    started = time.perf_counter()
                    last, waiting = self._speak(batches, work, pool)
                    speaking = time.perf_counter() - started
                last.result()
            done = work.record()
        except (OSError, UserError) as error:
            return ShardReport(self.name, began, time.time(), error=plain(error))
        finally:
            self._idle.put(work)
        times = began, time.time()
        return ShardReport(self.name, *times, speaking_seconds=speaking, waiting_seconds=waiting, **vars(done))

    def close(self) -> None:
        """Ends the processes and closes the voice; may be called again."""
        for work in self._works:
            work.close()
        self.voice.close()

    def _speak(self, batches: Batches, work: ShardWork | ShardProcess, pool: Executor) -> "tuple[Future[None], float]":
        """Speaks the batches. Each is handed over by another thread while the next is spoken, and none before the one
        before it is. Returns the last one's future, and the seconds of waiting for the others.
        """
        assert self._job is not None
        settings = replace(self._job.settings, keep_pictures=False, sampling_rate=None)
        last: Future[None] = Future()
        last.set_result(None)
        waiting = 0.0
        for speed, some in batches:
            with self.voice.synthesizer(replace(settings, speed=speed)) as synthesizer:
                for results in synthesizer.speak_batches(some):
                    outcomes, audio = _taken_apart(results)
                    waiting -= time.perf_counter()
                    last.result()
                    waiting += time.perf_counter()
                    last = pool.submit(work.write, outcomes, audio)
        return last, waiting


def _taken_apart(results: Sequence[SpokenPiece | FailedPiece]) -> tuple[list[Outcome], list[np.ndarray]]:
    """The pieces' outcomes, and the audio of each, float32 [samples]."""
    outcomes, audio = [], []
    for result in results:
        if isinstance(result, SpokenPiece):
            outcomes.append(Outcome(len(result.audio), result.frames, result.stop_reason))
            audio.append(result.audio)
        else:
            outcomes.append(Outcome(0, error=str(result.error)))
            audio.append(np.empty(0, np.float32))
    return outcomes, audio
