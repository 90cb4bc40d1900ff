"""When each word is heard: a monotone path through the decoder's attention, found while frames come."""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from tacotron2.text import WordSpan

LAG = 4  # frames after its symbol is attended to in which a sound is heard
MOST_SKIPPED = 2  # symbols that the path may go on by from one frame to the next
FLOOR = 1e-3  # attention below it is as good as none
BEAM = 60.0  # paths whose logarithm is so much below the best one's are given up,
FRAMES_PER_PRUNING = 8  # once in so many frames
_UNIT = re.compile(r"\{([^{}]*)\}|.", re.DOTALL)  # an ARPAbet group, which has a symbol for each sound, or a character


@dataclass(frozen=True)
class Word:
    """A word as it is heard.

    Attributes:
        text: as the user wrote it: "20%" is one, though two are spoken for it.
        start, end: in seconds from the beginning of the audio; silence belongs to no word.
        span: the first character in the user's text, and the one after the last.
    """

    text: str
    start: float
    end: float
    span: tuple[int, int]

    def later(self, seconds: float) -> "Word":
        return replace(self, start=self.start + seconds, end=self.end + seconds) if seconds else self


class MonotonePath:
    """The likeliest way through attention that never goes back, by Viterbi's algorithm. Not thread-safe.

    What is known of it never changes: it is given out where all paths that are still possible agree, so that blocks
    of frames give what the whole would.

    Attributes:
        frames: how many it has seen.
        reached: the frame at which each symbol or one behind it was first read, as far as that is known.
    """

    def __init__(self, symbols: int) -> None:
        self.frames = 0
        self.reached: list[int] = []
        # The best path's logarithm to each symbol; none leads to the symbols before the first.
        scores = np.full(symbols + MOST_SKIPPED, -np.inf, np.float32)
        scores[MOST_SKIPPED] = 0.0
        self._scores = scores[MOST_SKIPPED:]
        self._before = sliding_window_view(scores, symbols)[::-1]  # by how far a path moves to get to a symbol: 0, 1, 2
        self._moves: list[np.ndarray] = []  # of the frames that are not decided: how far each symbol's best path came
        self._patience = 0  # frames to wait for until the paths are compared again

    def add(self, weights: np.ndarray) -> None:
        """Takes the attention weights of the next frames, float [frames, symbols]."""
        scores = self._scores
        for row in np.log(np.maximum(weights, FLOOR, dtype=np.float32)):
            self._moves.append(self._before.argmax(0))
            np.add(self._before.max(0), row, out=scores)
            self.frames += 1
            if self.frames % FRAMES_PER_PRUNING == 0:
                scores[scores < scores.max() - BEAM] = -np.inf
        self._patience -= len(weights)
        if self._patience <= 0:
            self._decide(np.flatnonzero(scores > -np.inf))
            self._patience = len(self._moves) // 4  # so that paths which stay apart take linear time, too

    def finish(self) -> None:
        """Decides what is open, after the last frame."""
        self._decide(np.array([self._scores.argmax()]))

    def _decide(self, symbols: np.ndarray) -> None:
        """Follows the paths that end at some symbols back to where they are one, which is decided then."""
        undecided = len(self._moves)
        while len(symbols) > 1 and undecided:
            undecided -= 1
            symbols = np.unique(symbols - self._moves[undecided][symbols])
        symbol, path = int(symbols[0]), []
        for moves in reversed(self._moves[:undecided]):
            path.append(symbol)
            symbol -= int(moves[symbol])
        first = self.frames - len(self._moves)
        for frame, symbol in enumerate(reversed(path), first):
            self.reached += [frame] * (symbol + 1 - len(self.reached))
        del self._moves[:undecided]


class WordAligner:
    """Times of the words of one piece, as early as they are known. Not thread-safe.

    Args:
        words: the piece's, in order.
        symbols: of the piece.
        frame_seconds: how long a decoded frame is heard, at the piece's speed.
    """

    def __init__(self, words: Sequence[WordSpan], symbols: int, frame_seconds: float) -> None:
        self._words = words
        self._frame_seconds = frame_seconds
        self._path = MonotonePath(symbols)
        self._done = 0

    def add(self, weights: np.ndarray) -> list[Word]:
        """The words that are known with the next frames' attention weights, float [frames, symbols]."""
        self._path.add(weights)
        known: list[Word] = []
        while self._done < len(self._words):
            times = self._times(self._words[self._done])
            if times is None or times[1] > self._path.frames:
                break
            known.append(self._word(*times))
        return known

    def finish(self, cut: bool) -> list[Word]:
        """The words that are left, after the last frame. Where the frame limit cut the piece, some were not spoken."""
        self._path.finish()
        reached, frames = self._path.reached, self._path.frames
        known = []
        while self._done < len(self._words) and not (cut and self._words[self._done].first >= len(reached)):
            start, end = self._times(self._words[self._done]) or (
                reached[first] + LAG if (first := self._words[self._done].first) < len(reached) else frames,
                frames,
            )
            known.append(self._word(min(start, frames), min(end, frames)))
        return known

    def _times(self, word: WordSpan) -> tuple[int, int] | None:
        """The frames at which a word begins and ends, if the path has passed it."""
        reached, following = self._path.reached, self._words[self._done + 1 : self._done + 2]
        # A space is no silence: what follows after nothing else begins where the word ends. Punctuation is one.
        joined = bool(following) and following[0].first <= word.stop + 1
        stop = following[0].first if joined else word.stop
        if stop >= len(reached):
            return None
        start = reached[word.first] + LAG
        return start, max(start, reached[stop] + (LAG if joined else 0))

    def _word(self, start: int, end: int) -> Word:
        word = self._words[self._done]
        self._done += 1
        return Word(word.text, start * self._frame_seconds, end * self._frame_seconds, word.span)


def piece_words(
    words: Sequence[WordSpan], alignment: np.ndarray, seconds: float, cut: bool = False
) -> tuple[Word, ...]:
    """The times of a whole piece's words.

    Args:
        words: the piece's, in order.
        alignment: attention weights, float32 [frames, symbols].
        seconds: of audio that the frames became, at whatever speed.
        cut: whether the frame limit cut the piece.
    """
    frames, symbols = alignment.shape
    aligner = WordAligner(words, symbols, seconds / frames)
    return (*aligner.add(alignment), *aligner.finish(cut))


def joined_words(pieces: Iterable[tuple[Sequence[Word], float]]) -> tuple[Word, ...]:
    """The words of pieces that are heard one after another, each with how many seconds it lasts."""
    joined: list[Word] = []
    start = 0.0
    for words, seconds in pieces:
        joined += [word.later(start) for word in words]
        start += seconds
    return tuple(joined)


def spoken_words(text: str, alignment: np.ndarray, seconds: float) -> tuple[Word, ...]:
    """The words of a piece as they are spoken, with their punctuation. Their spans are their symbols in the piece.

    Args:
        text: what the symbols say, as in `EncodedText.text`.
        alignment, seconds: as for `piece_words`.
    """
    return piece_words(list(_words(text)), alignment, seconds)


def _words(text: str) -> Iterator[WordSpan]:
    word, first, symbol = "", 0, 0
    for unit in _UNIT.finditer(f"{text} "):
        if unit[0] != " ":
            first = first if word else symbol
            word += unit[0]
        elif word:
            yield WordSpan(first, symbol, word, (first, symbol))
            word = ""
        symbol += 1 if unit[1] is None else len(unit[1].split())
