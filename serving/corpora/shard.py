"""The work on a shard that needs no voice: reading its lines into batches of pieces, and writing its audio.

Functions without state: they run in the worker's process or in those beside it.
"""

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from itertools import accumulate, pairwise
from typing import Any

import numpy as np

from common.errors import InvalidInput, UserError, explained
from common.phrases import Phrase
from pipeline.audio import Resampler
from pipeline.pieces import Piece, PieceResult, PreparedPhrase, prepare
from pipeline.settings import SpeakSettings
from pipeline.words import joined_words
from serving.corpora.job import Identity, Job
from serving.corpora.layout import Layout, Shard, SpokenLine, encode
from serving.corpora.lines import Line

WRITERS = 4  # threads: FLAC takes longer to encode than a GPU takes to speak


@dataclass(frozen=True)
class ShardReading:
    """A shard's lines as read, without their pieces; all pieces, in batches; and the seconds that reading took."""

    lines: tuple[PreparedPhrase, ...]
    batches: tuple[tuple[Piece, ...], ...]
    seconds: float


@dataclass(frozen=True)
class ShardReport:
    """What became of a shard. Times are in seconds, by the worker's clock.

    Attributes:
        shard: its name.
        worker: its machine and process.
        lines: with and without audio.
        audio_seconds: of the audio that was written.
        reading_seconds: spent on reading the lines.
        speaking_seconds: for which the voice was busy.
        waiting_seconds: for which the voice waited until the shard before was written.
        writing_seconds: spent on encoding and writing.
    """

    shard: str
    worker: str
    began: float
    ended: float = 0.0
    lines: int = 0
    audio_seconds: float = 0.0
    reading_seconds: float = 0.0
    speaking_seconds: float = 0.0
    waiting_seconds: float = 0.0
    writing_seconds: float = 0.0


def read_shard(settings: SpeakSettings, identity: Identity, shard: Shard) -> ShardReading:
    """Reads a shard's lines into pieces that the voice can speak, in batches of nearly one length.

    They depend on the shard's lines alone, so that a restarted run makes the same.
    """
    started = time.perf_counter()
    lines: list[PreparedPhrase] = []
    pieces: list[Piece] = []
    for line in shard.lines:
        own = _settings_of(settings, line)  # SSML's rates count from its speed
        (phrase,) = prepare([Phrase(line.number - 1, line.text)], own, identity.max_symbols)
        lines.append(replace(phrase, pieces=()))
        pieces += (replace(piece, seed=own.seed, speed=piece.speed_in(own)) for piece in phrase.pieces)
    pieces.sort(key=lambda piece: len(piece.encoded.ids))
    count = -(-len(pieces) // identity.batch_size)
    edges = (len(pieces) * number // max(1, count) for number in range(count + 1))
    batches = tuple(tuple(pieces[start:stop]) for start, stop in pairwise(edges))
    return ShardReading(tuple(lines), batches, time.perf_counter() - started)


def write_shard(
    report: ShardReport,
    job: Job,
    shard: Shard,
    readings: Sequence[PreparedPhrase],
    results: Sequence[PieceResult],
    sizes: Sequence[int],
    audio: str,
) -> ShardReport:
    """Writes the audio of a shard's lines, and last the record that makes it done. Returns the report, completed.

    Args:
        readings: of the shard's lines.
        results: of all pieces, without their audio.
        sizes: how many samples each piece has.
        audio: a file of all samples in the same order, float32.

    Raises:
        OSError: a file can't be written.
        UserError: a package is missing.
    """
    started = time.perf_counter()
    layout = Layout(job)
    total = sum(sizes)
    samples = np.asarray(np.memmap(audio, np.float32, "c", shape=(total,)) if total else np.empty(0, np.float32))
    pieces: dict[int, list[PieceResult]] = {line.number: [] for line in shard.lines}
    for result, stop, size in zip(results, accumulate(sizes), sizes, strict=True):
        pieces[result.piece.phrase.line].append(replace(result, audio=samples[stop - size : stop]))

    def write_line(line: Line, reading: PreparedPhrase) -> SpokenLine:
        own = sorted(pieces[line.number], key=lambda result: result.piece.number)
        reason = reason_of(reading, own)
        if reason is None:
            try:
                return _spoken_line(layout, shard, line, reading.reading, own)
            except (OSError, UserError):  # the fault is the disk's or a missing package's, not the line's
                raise
            except Exception as error:
                reason = str(explained(error, f"line {line.number}"))
        return _unspoken_line(job, shard, line, reason, text_at_fault=isinstance(reading.error, InvalidInput))

    with ThreadPoolExecutor(WRITERS) as pool:
        entries = layout.commit(shard, pool.map(write_line, shard.lines, readings))
    return _completed(report, entries, started)


def give_up_shard(worker: str, job: Job, shard: Shard, reason: str) -> ShardReport:
    """Records a shard's lines without audio, so that --retry finds them. Raises OSError."""
    report, started = ShardReport(shard.name, worker, time.time()), time.perf_counter()
    entries = Layout(job).commit(shard, (_unspoken_line(job, shard, line, reason) for line in shard.lines))
    return _completed(report, entries, started)


def _spoken_line(layout: Layout, shard: Shard, line: Line, reading: str, results: Sequence[PieceResult]) -> SpokenLine:
    """A line's audio, encoded and, where it is a file of its own, written."""
    job = layout.job
    samples = results[0].samples if len(results) == 1 else np.concatenate([result.samples for result in results])
    if job.sampling_rate != job.identity.sampling_rate:
        samples = Resampler(job.identity.sampling_rate, job.sampling_rate)(samples, last=True)
    audio = encode(samples, job.sampling_rate, job.audio)
    path = layout.audio_path(shard, line)
    if not layout.in_tars:
        layout.write_audio(path, audio)
    own = _settings_of(job.settings, line)
    entry = {
        **line.to_dict(),
        "reading": reading,
        "audio": path,
        "seconds": round(len(samples) / job.sampling_rate, 6),
        "frames": sum(result.frames for result in results),
        "symbols": sum(len(result.piece.encoded.ids) for result in results),
        "pieces": len(results),
        "stop_reason": "gate",
        "seed": own.seed,
        "speed": own.speed,
        "round": shard.round,
    }
    if job.settings.timestamps:
        entry["words"] = _words(results, job.identity.sampling_rate)
    return SpokenLine(entry, audio if layout.in_tars else None)


def _words(results: Sequence[PieceResult], sampling_rate: int) -> list[dict[str, Any]]:
    """The words of a line's pieces as JSON has them, with their times from the line's beginning."""
    words = joined_words((result.words, len(result.samples) / sampling_rate) for result in results)
    return [asdict(word) | {"start": round(word.start, 3), "end": round(word.end, 3)} for word in words]


def _unspoken_line(job: Job, shard: Shard, line: Line, reason: str, text_at_fault: bool = False) -> SpokenLine:
    own = _settings_of(job.settings, line)
    entry = {**line.to_dict(), "seed": own.seed, "speed": own.speed, "reason": reason}
    if text_at_fault:
        entry["text_at_fault"] = True
    return SpokenLine(entry | {"round": shard.round})


def reason_of(reading: PreparedPhrase, results: Sequence[PieceResult]) -> str | None:
    """Why a line has no audio, by its reading and the results of its pieces; None if it has."""
    for error in (reading.error, *(result.error for result in results)):
        if error is not None:
            return str(error)
    cut = [number for number, result in enumerate(results, 1) if result.cut]
    if cut:
        where = f"piece {cut[0]} of {len(results)} was" if len(results) > 1 else "it was"
        return f"{where} cut by the limit of frames before the text's end was recognised"
    return None


def _completed(report: ShardReport, entries: Sequence[Mapping[str, Any]], started: float) -> ShardReport:
    return replace(
        report,
        ended=time.time(),
        lines=len(entries),
        audio_seconds=sum(entry.get("seconds", 0.0) for entry in entries),
        writing_seconds=time.perf_counter() - started,
    )


def _settings_of(settings: SpeakSettings, line: Line) -> SpeakSettings:
    """The settings with the line's own seed and speed, if it has them."""
    seed = settings.seed if line.seed is None else line.seed
    return replace(settings, seed=seed, speed=settings.speed if line.speed is None else line.speed)
