"""Estimates a corpus's hours of audio and the time that it takes, from a sample of its lines."""

import time
from collections import Counter
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from common.errors import UserError
from common.table import counted
from pipeline import SpeakSettings, Voice
from pipeline.pieces import PieceResult
from pipeline.synthesizer import Synthesizer
from serving.corpora.job import identity_of
from serving.corpora.layout import Shard
from serving.corpora.lines import Survey, read_lines
from serving.corpora.report import kind_of
from serving.corpora.shard import read_shard, reason_of

FLAC_SHARE = 0.55  # of a wav file's size: what speech of the demo voice takes


@dataclass(frozen=True)
class Estimate:
    """What a sample of the lines says about all.

    Attributes:
        hours: of audio.
        rate: seconds of audio that one worker makes in a second, without encoding and writing.
        sample_lines: how many were spoken.
        reasons: why some of them have no audio, and how many for each reason.
    """

    hours: float
    rate: float
    sample_lines: int
    reasons: Counter[str]

    def working_hours(self, workers: int) -> float:
        return self.hours / self.rate / workers

    def gigabytes(self, sampling_rate: int, flac: bool) -> float:
        return self.hours * 3600 * sampling_rate * 2 * (FLAC_SHARE if flac else 1.0) / 1e9


def estimate(path: Path, found: Survey, voice: Voice, settings: SpeakSettings, sample: int) -> Estimate:
    """Speaks lines from all over a file and scales up by characters.

    Args:
        found: what the file's survey says.
        sample: number of lines to speak, at most.

    Raises:
        UserError: none of the sample would have audio.
    """
    wanted = {found.lines * number // sample for number in range(sample)}
    lines = tuple(line for position, line in enumerate(read_lines(path)) if position in wanted)
    reading = read_shard(settings, identity_of(voice), Shard(0, 0, lines))
    rounds = 2 if voice.engines.on_gpu else 1  # the first warms a GPU up
    with Synthesizer(voice.engines, settings) as synthesizer:
        for _ in range(rounds):
            started = time.perf_counter()
            spoken = list(chain.from_iterable(synthesizer.speak_batches(reading.batches)))
            taken = time.perf_counter() - started
    results: dict[int, list[PieceResult]] = {line.number: [] for line in lines}
    for one in spoken:
        results[one.piece.phrase.line].append(one)
    why = {phrase.phrase.line: reason_of(phrase, results[phrase.phrase.line]) for phrase in reading.lines}
    reasons = Counter(kind_of(reason) for reason in why.values() if reason is not None)
    if reasons.total() == len(lines):
        raise UserError(
            f"{path}: none of {counted(len(lines), 'line')} from all over it would have audio "
            f"({reasons.most_common(1)[0][0]}); check the texts and --max-decoder-steps"
        )
    seconds = sum(len(one.samples) for one in spoken if why[one.piece.phrase.line] is None) / voice.sampling_rate
    hours = seconds * found.characters / sum(len(line.text) for line in lines) / 3600
    return Estimate(hours, seconds / taken, len(lines), reasons)
