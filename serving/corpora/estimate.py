"""How many hours a corpus will have and how long it will take, by a sample of its lines."""

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from common.errors import UserError
from common.phrases import Phrase
from common.table import counted
from pipeline import SpeakSettings, Voice
from pipeline.pieces import PieceResult, prepare
from pipeline.synthesizer import Synthesizer
from serving.corpora.lines import Survey, read_lines
from serving.corpora.report import kind_of
from serving.corpora.shard import reason_of

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
    texts = list(_spread(path, found.lines, sample))
    phrases = [Phrase(index, text) for index, text in enumerate(texts)]
    prepared = prepare(phrases, settings, voice.engines.max_symbols)
    pieces = sorted((piece for phrase in prepared for piece in phrase.pieces), key=lambda piece: len(piece.encoded.ids))
    rounds = 2 if voice.engines.on_gpu else 1  # the first warms a GPU up
    with Synthesizer(voice.engines, settings) as synthesizer:
        for _ in range(rounds):
            started = time.perf_counter()
            spoken = list(synthesizer.speak(pieces))
            taken = time.perf_counter() - started
    results: dict[int, list[PieceResult]] = {index: [] for index in range(len(texts))}
    for one in spoken:
        results[one.piece.phrase.index].append(one)
    why = [str(phrase.error) if phrase.error else reason_of(results[index]) for index, phrase in enumerate(prepared)]
    reasons = Counter(kind_of(reason) for reason in why if reason is not None)
    if reasons.total() == len(texts):
        raise UserError(
            f"{path}: none of {counted(len(texts), 'line')} from all over it would have audio "
            f"({reasons.most_common(1)[0][0]}); check the texts and --max-decoder-steps"
        )
    whole = [one for one in spoken if why[one.piece.phrase.index] is None]
    seconds = sum(len(piece.samples) for piece in whole) / voice.sampling_rate
    hours = seconds * found.characters / sum(map(len, texts)) / 3600
    return Estimate(hours, seconds / taken, len(texts), reasons)


def _spread(path: Path, lines: int, sample: int) -> Iterator[str]:
    wanted = {lines * number // sample for number in range(sample)}
    for position, line in enumerate(read_lines(path)):
        if position in wanted:
            yield line.text
