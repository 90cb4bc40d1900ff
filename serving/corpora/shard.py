"""All of a shard but its voice: its lines are read into batches of pieces, and what was spoken of them is written.

Functions without state, for whichever process has the time.
"""

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from common.errors import UserError, explained
from common.phrases import Phrase
from pipeline.audio import Resampler, limit
from pipeline.pieces import Piece, prepare
from pipeline.words import Word, joined_words
from serving.corpora.job import Job
from serving.corpora.layout import Layout, Shard, SpokenLine, encode
from serving.corpora.lines import Line
from tacotron2.decoder import StopReason

WRITERS = 4  # threads: FLAC takes longer to encode than a GPU takes to speak


@dataclass(frozen=True)
class LineReading:
    """How a line is read: its text as read and its symbols in all pieces; or why it can't be read."""

    text: str
    pieces: int
    symbols: int
    error: str | None


@dataclass(frozen=True)
class ShardReading:
    """A shard's lines as read, their pieces in batches, and the seconds that it took."""

    lines: tuple[LineReading, ...]
    batches: tuple[tuple[Piece, ...], ...]
    seconds: float


@dataclass(frozen=True)
class PieceSummary:
    """What became of a piece, beside its audio.

    Attributes:
        line: the number of its line in the file.
        number: of the piece within its line, from 0.
        samples: of its audio; 0 if it failed.
        frames: mel frames, at the speed that was asked for.
        stop_reason: None if it failed.
        words: with their times from the beginning of its audio, if they were asked for.
        error: why it failed.
    """

    line: int
    number: int
    samples: int = 0
    frames: int = 0
    stop_reason: StopReason | None = None
    words: tuple[Word, ...] = ()
    error: str | None = None


@dataclass(frozen=True)
class ShardReport:
    """What a shard took and gave. Times are the worker's own clock's, in seconds.

    Attributes:
        shard: its name.
        worker: its machine and process.
        lines: done, with and without audio.
        unspoken: of them without audio.
        audio_seconds: of the audio that was written.
        speaking_seconds: for which the voice was busy.
        waiting_seconds: for which it waited for the shard before to be written.
        reading_seconds: that reading the lines took.
        writing_seconds: that encoding and writing took.
    """

    shard: str
    worker: str
    began: float
    ended: float = 0.0
    lines: int = 0
    unspoken: int = 0
    audio_seconds: float = 0.0
    reading_seconds: float = 0.0
    speaking_seconds: float = 0.0
    waiting_seconds: float = 0.0
    writing_seconds: float = 0.0


def read_shard(job: Job, batch_size: int, max_symbols: int, shard: Shard) -> ShardReading:
    """Reads a shard's lines into pieces of at most `max_symbols`, in batches of nearly one length.

    They depend on the shard's lines alone, whatever is missing or done.
    """
    started = time.perf_counter()
    lines: list[LineReading] = []
    pieces: list[Piece] = []
    for line in shard.lines:
        seed, speed = _seed(job, line), _speed(job, line)
        settings = replace(job.settings, speed=speed)  # SSML's rates count from it
        (phrase,) = prepare([Phrase(line.number - 1, line.text)], settings, max_symbols)
        own = [replace(one, seed=seed, speed=one.speed_in(settings)) for one in phrase.pieces]
        symbols = sum(len(piece.encoded.ids) for piece in own)
        lines.append(LineReading(phrase.reading, len(own), symbols, str(phrase.error) if phrase.error else None))
        pieces += own
    pieces.sort(key=lambda piece: len(piece.encoded.ids))
    count = -(-len(pieces) // batch_size)
    edges = (len(pieces) * number // max(1, count) for number in range(count + 1))
    batches = tuple(tuple(pieces[start:stop]) for start, stop in pairwise(edges))
    return ShardReading(tuple(lines), batches, time.perf_counter() - started)


def write_shard(
    report: ShardReport,
    job: Job,
    gain: float,
    shard: Shard,
    readings: Sequence[LineReading],
    results: Sequence[PieceSummary],
    audio: str,
) -> ShardReport:
    """Writes the audio of a shard's lines, and last the record that makes it done. Returns the report, completed.

    Args:
        gain: by which samples are brought to the voice's level.
        results: of all pieces.
        audio: a file of their samples in the same order, float32 at the model's own level.

    Raises:
        OSError: a file can't be written.
        UserError: a package is missing.
    """
    started = time.perf_counter()
    layout = Layout(job)
    pieces: dict[int, list[tuple[PieceSummary, np.ndarray]]] = {line.number: [] for line in shard.lines}
    total, start = sum(result.samples for result in results), 0
    samples = np.memmap(audio, np.float32, "c", shape=(total,)) if total else np.empty(0, np.float32)
    for result in results:
        pieces[result.line].append((result, samples[start : start + result.samples]))
        start += result.samples

    def write_line(position: int) -> SpokenLine:
        line = shard.lines[position]
        parts = sorted(pieces[line.number], key=lambda part: part[0].number)
        reason = _reason(readings[position], [result for result, _ in parts])
        if reason is None:
            try:
                return _spoken_line(layout, shard, line, readings[position], parts, gain)
            except (OSError, UserError):  # the disk or a missing package is to blame, and not the line
                raise
            except Exception as error:
                reason = str(explained(error, f"line {line.number}"))
        return _unspoken_line(job, shard, line, reason)

    with ThreadPoolExecutor(WRITERS) as pool:
        entries = layout.commit(shard, pool.map(write_line, range(len(shard.lines))))
    return _completed(report, entries, started)


def give_up_shard(report: ShardReport, job: Job, shard: Shard, reason: str) -> ShardReport:
    """Records a shard's lines without audio, so that --retry finds them. Raises OSError."""
    started = time.perf_counter()
    entries = Layout(job).commit(shard, (_unspoken_line(job, shard, line, reason) for line in shard.lines))
    return _completed(report, entries, started)


def _spoken_line(
    layout: Layout,
    shard: Shard,
    line: Line,
    reading: LineReading,
    parts: Sequence[tuple[PieceSummary, np.ndarray]],
    gain: float,
) -> SpokenLine:
    """A line's audio, encoded and, where it is a file of its own, written."""
    job = layout.job
    leveled = [limit(torch.from_numpy(samples), gain).numpy() for _, samples in parts]
    samples = leveled[0] if len(leveled) == 1 else np.concatenate(leveled)
    if job.sampling_rate != job.identity.sampling_rate:
        samples = Resampler(job.identity.sampling_rate, job.sampling_rate)(samples, last=True)
    audio = encode(samples, job.sampling_rate, job.audio)
    path = layout.audio_path(shard, line)
    if not layout.in_tars:
        layout.write_audio(path, audio)
    entry = {
        **line.to_dict(),
        "reading": reading.text,
        "audio": path,
        "bytes": len(audio),
        "seconds": round(len(samples) / job.sampling_rate, 6),
        "frames": sum(result.frames for result, _ in parts),
        "symbols": reading.symbols,
        "pieces": len(parts),
        "stop_reason": "gate",
        "seed": _seed(job, line),
        "speed": _speed(job, line),
        "round": shard.round,
    }
    if job.settings.timestamps:
        entry["words"] = _words([result for result, _ in parts], job.identity.sampling_rate)
    return SpokenLine(entry, audio if layout.in_tars else None)


def _words(results: Sequence[PieceSummary], sampling_rate: int) -> list[dict[str, Any]]:
    """The words of a line's pieces as JSON has them, with their times from the line's beginning."""
    words = joined_words((result.words, result.samples / sampling_rate) for result in results)
    return [asdict(word) | {"start": round(word.start, 3), "end": round(word.end, 3)} for word in words]


def _unspoken_line(job: Job, shard: Shard, line: Line, reason: str) -> SpokenLine:
    settings = {"seed": _seed(job, line), "speed": _speed(job, line)}
    return SpokenLine({**line.to_dict(), **settings, "reason": reason, "round": shard.round})


def _reason(reading: LineReading, results: Sequence[PieceSummary]) -> str | None:
    """Why a line has no audio; None if it has."""
    if reading.error is not None:
        return reading.error
    failed = [result.error for result in results if result.error is not None]
    if failed:
        return failed[0]
    cut = [number for number, result in enumerate(results, 1) if result.stop_reason == "cap"]
    if cut:
        where = f"piece {cut[0]} of {len(results)} was" if len(results) > 1 else "it was"
        return f"{where} cut by the limit of frames before the text's end was recognised"
    return None


def _completed(report: ShardReport, entries: Sequence[Mapping[str, Any]], started: float) -> ShardReport:
    return replace(
        report,
        ended=time.time(),
        lines=len(entries),
        unspoken=sum("reason" in entry for entry in entries),
        audio_seconds=sum(entry.get("seconds", 0.0) for entry in entries),
        writing_seconds=time.perf_counter() - started,
    )


def _seed(job: Job, line: Line) -> int:
    return job.settings.seed if line.seed is None else line.seed


def _speed(job: Job, line: Line) -> float:
    return job.settings.speed if line.speed is None else line.speed
