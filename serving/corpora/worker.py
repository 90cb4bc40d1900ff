"""A worker: one voice that speaks shards of lines to files. It runs as a Ray actor or in a process of its own."""

import logging
import os
import socket
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from itertools import chain
from typing import Any

import torch

from common.errors import Closed, UserError, explained
from pipeline import Voice
from pipeline.latency import prefer_latency
from pipeline.pieces import PieceResult
from pipeline.synthesizer import Synthesizer
from serving.corpora.job import CONFIGURATION, Identity, Job, VoiceSource, identity_of
from serving.corpora.layout import Shard
from serving.corpora.process import MOST_DEATHS, Process, SharedSamples
from serving.corpora.shard import ShardReading, ShardReport, give_up_shard, read_shard, write_shard

_log = logging.getLogger(__name__)


class Worker:
    """Speaks shards, one after the other. Not thread-safe.

    With a GPU, one process beside it reads the next shard and another writes the one before: the thread that feeds the
    GPU needs Python's lock for itself. Without a GPU the worker does everything itself.

    Args:
        source: of its voice, which `open` opens.
    """

    def __init__(self, source: VoiceSource) -> None:
        self._source = source
        self._name = f"{socket.gethostname()}:{os.getpid()}"
        self._voice: Voice | None = None
        self._reader: Process | None = None
        self._writer: Process | None = None
        self._samples = [SharedSamples(), SharedSamples()]  # of the shard that is spoken, and of the one before
        self._threads = ThreadPoolExecutor(3)  # they wait for the processes
        self._ahead: dict[str, Future[ShardReading]] = {}  # by its name: the shard that comes next
        self._writing: Future[ShardReport] | None = None

    def open(self) -> Identity:
        """Opens the voice, unless it is open. Raises UserError if it can't be opened."""
        if self._voice is None:
            self._voice = self._source.open()
            self._identity = identity_of(self._voice)
            prefer_latency()
            if self._voice.engines.on_gpu if self._source.beside is None else self._source.beside:
                self._reader, self._writer = Process(_begin_beside), Process(_begin_beside)
        return self._identity

    def speak(self, job: Job, shard: Shard, following: Shard | None = None) -> list[ShardReport]:
        """Speaks a shard and begins to write it.

        Args:
            following: the next shard, which is read meanwhile.

        Returns:
            reports of the shards that were recorded meanwhile: the one before and, without processes beside this one or
            without a following shard, this one.

        Raises:
            UserError: the voice can't be opened, differs from the job's, or this machine doesn't see the corpus.
            OSError: a file can't be written.
        """
        voice = self._checked_voice(job)
        began = time.time()
        try:
            reading = self._read(job, shard, following)
            started = time.perf_counter()
            results, sizes, audio = self._spoken(voice, job, reading)
            spoken = time.perf_counter()
        except Closed:  # this process can't use the GPU any more
            _log.exception("The worker ends")
            os._exit(1)
        except (UserError, OSError):
            raise
        except Exception as error:
            return [*self._finished(), self._failed(job, shard, error)]
        reports = self._finished()
        report = ShardReport(
            shard.name,
            self._name,
            began,
            reading_seconds=reading.seconds,
            speaking_seconds=spoken - started,
            waiting_seconds=time.perf_counter() - spoken,
        )
        self._writing = self._threads.submit(self._write, report, job, shard, reading.lines, results, sizes, audio.path)
        if following is None or self._writer is None:
            reports += self._finished()
        return reports

    def give_up(self, job: Job, shard: Shard, reason: str) -> list[ShardReport]:
        """Records a shard without audio. Returns its report and that of the shard before. Raises OSError."""
        return [*self._finished(), give_up_shard(self._name, job, shard, reason)]

    def close(self) -> None:
        """Ends the processes and closes the voice; may be called again."""
        for process in (self._reader, self._writer):
            if process is not None:
                process.close()
        self._threads.shutdown()
        for samples in self._samples:
            samples.close()
        if self._voice is not None:
            self._voice.close()

    def _checked_voice(self, job: Job) -> Voice:
        identity = self.open()
        if identity != job.identity:
            raise UserError(f"the workers differ: {self._name} has {identity}, not {job.identity}; install one version")
        if not (job.folder / CONFIGURATION).exists():
            raise UserError(f"{self._name} does not see {job.folder}: give a folder that all machines share")
        assert self._voice is not None
        return self._voice

    def _finished(self) -> list[ShardReport]:
        """Waits until the last shard is recorded, and returns its report. Raises OSError."""
        writing, self._writing = self._writing, None
        return [] if writing is None else [writing.result()]

    def _failed(self, job: Job, shard: Shard, error: Exception) -> ShardReport:
        """Gives up a shard after an exception that no single line explains."""
        return give_up_shard(self._name, job, shard, str(explained(error, f"shard {shard.name}")))

    def _read(self, job: Job, shard: Shard, following: Shard | None) -> ShardReading:
        def begin(one: Shard) -> "Future[ShardReading]":
            return self._threads.submit(_call, self._reader, read_shard, job.settings, job.identity, one)

        reading = self._ahead.get(shard.name) or begin(shard)
        self._ahead = {} if following is None or self._reader is None else {following.name: begin(following)}
        return reading.result()

    def _spoken(
        self, voice: Voice, job: Job, reading: ShardReading
    ) -> tuple[list[PieceResult], list[int], SharedSamples]:
        """The results of all pieces, how many samples each has, and the samples. If an engine fails, all is spoken once
        more: a failed batch was spoken in halves, which round otherwise, and a failure that passes leaves no trace.
        """
        settings = replace(job.settings, keep_pictures=False, sampling_rate=None)
        self._samples.reverse()
        audio = self._samples[0]
        for _ in range(2):
            audio.clear()
            results: list[PieceResult] = []
            sizes: list[int] = []
            with Synthesizer(voice.engines, settings) as synthesizer:
                for result in chain.from_iterable(synthesizer.speak_batches(reading.batches)):
                    results.append(replace(result, audio=None))
                    sizes.append(0 if result.audio is None else len(result.audio))
                    if result.audio is not None:
                        audio.append(result.audio)
            if not synthesizer.failures:
                break
        return results, sizes, audio

    def _write(self, report: ShardReport, job: Job, shard: Shard, *spoken: object) -> ShardReport:
        try:
            return _call(self._writer, write_shard, report, job, shard, *spoken)
        except (OSError, UserError):
            raise
        except Exception as error:
            return self._failed(job, shard, error)


def _call(process: Process | None, function: Callable[..., Any], *arguments: object) -> Any:
    """Calls a function, in the process if there is one."""
    return function(*arguments) if process is None else process.call(function, *arguments, attempts=MOST_DEATHS)


def _begin_beside() -> None:
    """Begins a process beside the worker, which leaves GPU and cores to the worker."""
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    torch.set_num_threads(1)
