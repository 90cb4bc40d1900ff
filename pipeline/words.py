"""When each word is heard, by where the decoder's attention was."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

_UNIT = re.compile(r"\{([^{}]*)\}|.", re.DOTALL)  # an ARPAbet group, which has a symbol for each sound, or a character


@dataclass(frozen=True)
class SpokenWord:
    """A word of a piece, punctuation included, and its time in the piece's audio, in seconds.

    Attributes:
        first: its first symbol in the piece.
    """

    text: str
    first: int
    start: float
    end: float


def spoken_words(text: str, alignment: np.ndarray, seconds: float) -> list[SpokenWord]:
    """The words of a piece with their times: a word lasts from when its first symbol is read until its last was.

    Args:
        text: what the symbols say, as in `EncodedText.text`.
        alignment: attention weights, float32 [frames, symbols].
        seconds: of audio that the frames became, at whatever speed.
    """
    frames, symbols = alignment.shape
    reading = np.maximum.accumulate(alignment.argmax(1))  # the furthest symbol read by each frame
    per_frame = seconds / frames
    words = []
    for word, first, stop in _words(text):
        start = int(np.searchsorted(reading, first))
        end = frames if stop >= symbols else int(np.searchsorted(reading, stop))
        words.append(SpokenWord(word, first, start * per_frame, end * per_frame))
    return words


def _words(text: str) -> Iterator[tuple[str, int, int]]:
    """Each word with its first symbol and the one after its last."""
    word, first, symbol = "", 0, 0
    for unit in _UNIT.finditer(text):
        size = 1 if unit[1] is None else len(unit[1].split())
        if unit[0] == " ":
            if word:
                yield word, first, symbol
            word = ""
        else:
            first = symbol if not word else first
            word += unit[0]
        symbol += size
    if word:
        yield word, first, symbol
