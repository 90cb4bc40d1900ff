"""A worker: one voice that speaks shards of lines to files. Of Ray it knows nothing; see `serving.corpora.crew`."""

import os
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import torch

from common.errors import UserError
from common.phrases import Phrase
from pipeline import SpeakSettings, Voice
from pipeline.audio import Resampler
from pipeline.pieces import Piece, PreparedPhrase, prepare
from pipeline.synthesizer import FailedPiece, SpokenPiece
from serving.corpora.job import CONFIGURATION, Identity, Job, VoiceSource, identity_of
from serving.corpora.layout import Layout, Shard, SpokenLine, encode
from serving.corpora.lines import Line
from serving.corpora.reader import ReadingProcess

# Of the shards that a worker has, one is read, one is spoken and one is written.
SHARDS_AT_ONCE = 3
ENCODERS = 3  # threads: more would only compete for Python's lock

Result = SpokenPiece | FailedPiece


@dataclass(frozen=True)
class ShardReport:
    """What a shard took and gave. Times are the worker's own clock's, in seconds.

    Attributes:
        lines: done, with and without audio.
        unspoken: of them without audio.
        audio_seconds: of the audio that was written.
        speaking_seconds: for which the voice was busy.
        worker: its machine and process.
        error: what stopped it, if the disk or the like is to blame; then nothing is recorded.
    """

    lines: int
    unspoken: int
    audio_seconds: float
    speaking_seconds: float
    began: float
    ended: float
    worker: str
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
        self._encoders = ThreadPoolExecutor(ENCODERS, thread_name_prefix="encoder")
        # What else computes in Python here keeps the thread waiting that feeds the GPU.
        self._reader = ReadingProcess() if self.voice.engines.on_gpu else None
        if self.voice.engines.on_gpu:
            torch.set_num_threads(1)  # of each encoder: what they do on tensors is little
        self._layout: Layout | None = None

    def begin(self, job: Job) -> None:
        """Sets what the shards are part of.

        Raises:
            UserError: this machine doesn't see the corpus's folder.
        """
        if not (job.folder / CONFIGURATION).exists():
            raise UserError(f"{self.name} does not see {job.folder}: give a folder that all machines share")
        self._layout = Layout(job)

    def do(self, shard: Shard) -> ShardReport:
        """Speaks, writes and records a shard."""
        assert self._layout is not None, "begin first"
        began = time.time()
        reading = _Reading(self.voice, self._layout, shard, self._reader)
        try:
            with self._speaking:
                speaking = time.perf_counter()
                written = list(self._spoken(reading))
                speaking = time.perf_counter() - speaking
            lines = [line.result() for line in written]
            audio_seconds = sum(line.entry.get("seconds", 0.0) for line in lines)
            self._layout.commit(shard, lines)
        except (OSError, UserError) as error:
            return ShardReport(0, 0, 0.0, 0.0, began, time.time(), self.name, _plain(error))
        unspoken = sum("reason" in line.entry for line in lines)
        return ShardReport(len(lines), unspoken, audio_seconds, speaking, began, time.time(), self.name)

    def close(self) -> None:
        self._encoders.shutdown()
        if self._reader is not None:
            self._reader.close()
        self.voice.close()

    def _spoken(self, reading: "_Reading") -> Iterator[Future[SpokenLine]]:
        """Speaks the batches; each line is handed to the encoders as soon as its last piece is there."""
        done: dict[int, Future[SpokenLine]] = {}
        waiting: dict[int, dict[int, Result]] = {}
        for index, phrase in enumerate(reading.phrases):
            if not phrase.pieces:
                done[index] = self._encoders.submit(reading.finish, index, ())
        for settings, batches in reading.batches():
            with self.voice.synthesizer(settings) as synthesizer:
                for batch in batches:
                    for result in synthesizer.speak_pieces(batch):
                        index = reading.positions[result.piece.phrase.index]
                        results = waiting.setdefault(index, {})
                        results[result.piece.number] = result
                        if len(results) == len(reading.phrases[index].pieces):
                            ordered = [results[number] for number in sorted(results)]
                            del waiting[index]
                            done[index] = self._encoders.submit(reading.finish, index, ordered)
        return iter([done[index] for index in range(len(reading.phrases))])


class _Reading:
    """A shard's lines as they will be read, and what becomes of each."""

    def __init__(self, voice: Voice, layout: Layout, shard: Shard, reader: ReadingProcess | None) -> None:
        self.voice, self.layout, self.shard = voice, layout, shard
        self.settings = replace(layout.job.settings, keep_pictures=False, sampling_rate=None)
        phrases = [Phrase(line.number - 1, line.text) for line in shard.lines]
        self.positions = {phrase.index: position for position, phrase in enumerate(phrases)}
        read = prepare if reader is None else reader.prepare
        self.phrases: list[PreparedPhrase] = read(phrases, self.settings, voice.engines.max_symbols)

    def batches(self) -> Iterator[tuple[SpeakSettings, list[list[Piece]]]]:
        """The shard's pieces in batches of nearly one length, by speed. They depend on the shard's lines alone."""
        by_speed: dict[float, list[Piece]] = {}
        for phrase, line in zip(self.phrases, self.shard.lines, strict=True):
            pieces = by_speed.setdefault(self._speed(line), [])
            pieces.extend(replace(piece, seed=self._seed(line)) for piece in phrase.pieces)
        size = self.voice.engines.batch_size
        for speed in sorted(by_speed):
            pieces = sorted(by_speed[speed], key=lambda piece: len(piece.encoded.ids))
            count = -(-len(pieces) // size)
            cuts = [len(pieces) * number // count for number in range(count + 1)] if count else []
            yield replace(self.settings, speed=speed), [pieces[a:b] for a, b in pairwise(cuts)]

    def finish(self, index: int, results: Sequence[Result]) -> SpokenLine:
        """A line's audio, encoded and, if it is a file of its own, written; or why there is none. Thread-safe."""
        line, phrase = self.shard.lines[index], self.phrases[index]
        reason = self._reason(phrase, results)
        if reason is not None:
            entry = {**line.to_dict(), "seed": self._seed(line), "speed": self._speed(line)}
            return SpokenLine({**entry, "reason": reason, "round": self.shard.round})
        spoken = [result for result in results if isinstance(result, SpokenPiece)]
        job = self.layout.job
        parts = [self.voice.leveled(piece).samples for piece in spoken]
        samples = parts[0] if len(parts) == 1 else np.concatenate(parts)
        if job.sampling_rate != self.voice.sampling_rate:
            samples = Resampler(self.voice.sampling_rate, job.sampling_rate)(samples, last=True)
        audio = encode(samples, job.sampling_rate, job.audio)
        path = self.layout.audio_path(self.shard, line)
        if not self.layout.in_tars:
            self.layout.write_audio(path, audio)
        entry = {
            **line.to_dict(),
            "reading": phrase.reading,
            "audio": path,
            "bytes": len(audio),
            "seconds": round(len(samples) / job.sampling_rate, 6),
            "frames": sum(piece.frames for piece in spoken),
            "symbols": sum(len(piece.encoded.ids) for piece in phrase.pieces),
            "pieces": len(spoken),
            "stop_reason": "gate",
            "seed": self._seed(line),
            "speed": self._speed(line),
            "round": self.shard.round,
        }
        return SpokenLine(entry, audio if self.layout.in_tars else None)

    def _reason(self, phrase: PreparedPhrase, results: Sequence[Result]) -> str | None:
        if phrase.error is not None:
            return str(phrase.error)
        failed = [str(result.error) for result in results if isinstance(result, FailedPiece)]
        if failed:
            return failed[0]
        cut = [r.piece.number + 1 for r in results if isinstance(r, SpokenPiece) and r.stop_reason == "cap"]
        if cut:
            where = f"piece {cut[0]} of {len(results)} was" if len(results) > 1 else "it was"
            return f"{where} cut by the limit of frames before the text's end was recognised"
        return None

    def _seed(self, line: Line) -> int:
        return self.settings.seed if line.seed is None else line.seed

    def _speed(self, line: Line) -> float:
        return self.settings.speed if line.speed is None else line.speed


def _plain(error: OSError | UserError) -> OSError | UserError:
    """The error as it survives the way to another process."""
    if isinstance(error, OSError):
        return OSError(error.errno, error.strerror or str(error), error.filename)
    return UserError(str(error))
