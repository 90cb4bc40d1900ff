"""All of a shard but its voice: its lines are read into batches, their audio is written, and the shard is recorded."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import torch

from common.errors import UserError
from common.phrases import Phrase
from pipeline.audio import Resampler, limit
from pipeline.pieces import Piece, PreparedPhrase, prepare
from serving.corpora.job import Job
from serving.corpora.layout import Layout, Shard, SpokenLine, encode
from serving.corpora.lines import Line
from tacotron2.decoder import StopReason

Batches = list[tuple[float, list[list[Piece]]]]  # (speed, batches) for each speed that a shard's lines have


@dataclass(frozen=True)
class VoiceTraits:
    """What has to be known of a voice beside its sampling rate, which a job has.

    Attributes:
        batch_size: pieces that it speaks at once.
        max_symbols: of a piece.
        gain: by which its samples are brought to its level.
    """

    batch_size: int
    max_symbols: int
    gain: float


@dataclass(frozen=True)
class Outcome:
    """What became of a piece, beside its audio.

    Attributes:
        frames: mel frames, at the speed that was asked for.
        stop_reason: None if it failed.
        error: why it failed; then it has no samples.
    """

    samples: int
    frames: int = 0
    stop_reason: StopReason | None = None
    error: str | None = None


@dataclass(frozen=True)
class Recorded:
    """What a shard came to.

    Attributes:
        lines: done, with and without audio.
        unspoken: of them without audio.
        audio_seconds: of the audio that was written.
        reading_seconds: that reading the lines took.
        writing_seconds: that levelling, encoding, writing and recording took.
    """

    lines: int
    unspoken: int
    audio_seconds: float
    reading_seconds: float
    writing_seconds: float


class ShardWork:
    """Does one shard after the other: `begin` once a job, then for each shard `read`, `write` for each of its batches
    in order, and `record`. A shard may be given up at any point. Not thread-safe.
    """

    def begin(self, job: Job, traits: VoiceTraits) -> None:
        """Sets what the shards are part of, and who speaks them."""
        self._job, self._traits = job, traits
        self._layout = Layout(job)

    def read(self, shard: Shard) -> Batches:
        """The shard's pieces in batches of nearly one length, by speed. They depend on the shard's lines alone."""
        started = time.perf_counter()
        phrases = [Phrase(line.number - 1, line.text) for line in shard.lines]
        self._shard = shard
        self._phrases = prepare(phrases, self._job.settings, self._traits.max_symbols)
        self._positions = {phrase.index: position for position, phrase in enumerate(phrases)}
        self._parts: dict[int, dict[int, tuple[Outcome, np.ndarray]]] = {}  # of lines with pieces still to come
        self._lines: dict[int, SpokenLine] = {}
        batches = list(self._batches())
        self._unwritten = iter([batch for _, some in batches for batch in some])
        self._reading, self._writing = time.perf_counter() - started, 0.0
        return batches

    def write(self, outcomes: Sequence[Outcome], audio: Sequence[np.ndarray]) -> None:
        """Writes the lines whose last piece is in the next batch.

        Args:
            outcomes: of the batch's pieces.
            audio: of each, float32 [samples] at the model's own level. Free to be overwritten afterwards.

        Raises:
            OSError: a file can't be written.
            UserError: a package is missing.
        """
        started = time.perf_counter()
        for piece, outcome, samples in zip(next(self._unwritten), outcomes, audio, strict=True):
            position = self._positions[piece.phrase.index]
            parts = self._parts.setdefault(position, {})
            parts[piece.number] = outcome, limit(torch.from_numpy(samples), self._traits.gain).numpy()
            if len(parts) == len(self._phrases[position].pieces):
                del self._parts[position]
                self._lines[position] = self._finish(position, [parts[number] for number in sorted(parts)])
        self._writing += time.perf_counter() - started

    def record(self) -> Recorded:
        """Writes what is left, and the record that makes the shard done. Raises OSError."""
        started = time.perf_counter()
        for position, phrase in enumerate(self._phrases):
            if not phrase.pieces:
                self._lines[position] = self._finish(position, ())
        lines = [self._lines[position] for position in range(len(self._phrases))]
        unspoken = sum("reason" in line.entry for line in lines)
        audio_seconds = sum(line.entry.get("seconds", 0.0) for line in lines)
        self._layout.commit(self._shard, lines)
        self._writing += time.perf_counter() - started
        return Recorded(len(lines), unspoken, audio_seconds, self._reading, self._writing)

    def close(self) -> None:
        """There is nothing to give back."""

    def _batches(self) -> Iterator[tuple[float, list[list[Piece]]]]:
        by_speed: dict[float, list[Piece]] = {}
        for phrase, line in zip(self._phrases, self._shard.lines, strict=True):
            pieces = by_speed.setdefault(self._speed(line), [])
            pieces.extend(replace(piece, seed=self._seed(line)) for piece in phrase.pieces)
        for speed in sorted(by_speed):
            pieces = sorted(by_speed[speed], key=lambda piece: len(piece.encoded.ids))
            count = -(-len(pieces) // self._traits.batch_size)
            cuts = [len(pieces) * number // count for number in range(count + 1)] if count else []
            yield speed, [pieces[a:b] for a, b in pairwise(cuts)]

    def _finish(self, position: int, parts: Sequence[tuple[Outcome, np.ndarray]]) -> SpokenLine:
        """A line's audio, encoded and, if it is a file of its own, written; or why there is none."""
        line, phrase, outcomes = self._shard.lines[position], self._phrases[position], [outcome for outcome, _ in parts]
        reason = _reason(phrase, outcomes)
        if reason is not None:
            entry = {**line.to_dict(), "seed": self._seed(line), "speed": self._speed(line)}
            return SpokenLine({**entry, "reason": reason, "round": self._shard.round})
        job = self._job
        samples = parts[0][1] if len(parts) == 1 else np.concatenate([leveled for _, leveled in parts])
        if job.sampling_rate != job.identity.sampling_rate:
            samples = Resampler(job.identity.sampling_rate, job.sampling_rate)(samples, last=True)
        audio = encode(samples, job.sampling_rate, job.audio)
        path = self._layout.audio_path(self._shard, line)
        if not self._layout.in_tars:
            self._layout.write_audio(path, audio)
        entry = {
            **line.to_dict(),
            "reading": phrase.reading,
            "audio": path,
            "bytes": len(audio),
            "seconds": round(len(samples) / job.sampling_rate, 6),
            "frames": sum(outcome.frames for outcome in outcomes),
            "symbols": sum(len(piece.encoded.ids) for piece in phrase.pieces),
            "pieces": len(parts),
            "stop_reason": "gate",
            "seed": self._seed(line),
            "speed": self._speed(line),
            "round": self._shard.round,
        }
        return SpokenLine(entry, audio if self._layout.in_tars else None)

    def _seed(self, line: Line) -> int:
        return self._job.settings.seed if line.seed is None else line.seed

    def _speed(self, line: Line) -> float:
        return self._job.settings.speed if line.speed is None else line.speed


def _reason(phrase: PreparedPhrase, outcomes: Sequence[Outcome]) -> str | None:
    """Why a line has no audio; None if it has."""
    if phrase.error is not None:
        return str(phrase.error)
    failed = [outcome.error for outcome in outcomes if outcome.error is not None]
    if failed:
        return failed[0]
    cut = [number for number, outcome in enumerate(outcomes, 1) if outcome.stop_reason == "cap"]
    if cut:
        where = f"piece {cut[0]} of {len(outcomes)} was" if len(outcomes) > 1 else "it was"
        return f"{where} cut by the limit of frames before the text's end was recognised"
    return None


def plain(error: OSError | UserError) -> OSError | UserError:
    """The error as it survives the way to another process."""
    if isinstance(error, OSError):
        return OSError(error.errno, error.strerror or str(error), error.filename)
    return UserError(str(error))
