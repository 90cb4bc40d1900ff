"""Cuts text that is written in words into pieces, and encodes them as symbol ids."""

import sys
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import accumulate, pairwise
from typing import NamedTuple

import numpy as np

from common.errors import InvalidInput
from tacotron2.text.cleaners import english_cleaners
from tacotron2.text.pieces import GROUP, SILENT, cut
from tacotron2.text.rewriting import Pattern, Span, TracedText
from tacotron2.text.symbols import ARPABET_GROUP, ARPABET_MARK, LETTERS, PAD, SPACE, SYMBOL_IDS

MIN_PIECE = 4  # symbols: room for a word with its punctuation

_SURROGATES = Pattern(r"[\ud800-\udfff]")  # Python makes them of arguments that are not UTF-8
_ENDINGS = set(".!?,;:")  # after each of these a voice stops: it was trained on clauses and sentences
_CLOSING = set(")'")
_CLINGING = set(".,;:!?\"'()[]{}\u2026\u2018\u2019\u201c\u201d\u00ab\u00bb")  # belong to the word that they touch
_CHARACTER_IDS = {symbol: index for symbol, index in SYMBOL_IDS.items() if len(symbol) == 1 and symbol != PAD}


class WithoutWords(InvalidInput):
    """A text has no words, as an emoji or a row of asterisks. Letters without a sound are another error."""


class WordSpan(NamedTuple):
    """Where a word stands in the text and in its piece. What is written without a space is one word, as "20%" is.

    Attributes:
        first, stop: its first symbol in the piece, and the one after its last; punctuation is outside.
        text: as it is written, with its punctuation.
        span: the first character of that in the text, and the one after the last.
    """

    first: int
    stop: int
    text: str
    span: tuple[int, int]


@dataclass(frozen=True)
class EncodedText:
    """A text, or a piece of one, as the encoder takes it.

    Attributes:
        text: the cleaned text, as far as it has symbols: what the ids say.
        ids: int32 [symbols].
        dropped: the characters that are not among the symbols, in order of first appearance. Braces are among them,
            unless they hold ARPAbet.
        words: where each word is spoken and written, if the text was traced.
    """

    text: str
    ids: np.ndarray = field(compare=False)
    dropped: tuple[str, ...]
    words: tuple[WordSpan, ...] = field(default=(), compare=False)


class _Unit(NamedTuple):
    """A character, or a group of ARPAbet symbols, which is never taken apart."""

    text: str
    ids: tuple[int, ...]  # empty if the character is dropped
    mark: str  # see `pieces.cut`


def encode(text: str, final_period: bool = True) -> EncodedText:
    """Turns a text into ids. `{HH AW1 S}` within it gives a pronunciation in ARPAbet; other braces are dropped.

    Args:
        text: one line or many; any run of white space is one space.
        final_period: end a text that has no end punctuation with a period, after which voices stop more surely.

    Raises:
        InvalidInput: nothing is left to speak.
    """
    return split(text, sys.maxsize, final_period)[0]


def split(text: str, max_symbols: int, final_period: bool = True, by_sentence: bool = False) -> list[EncodedText]:
    """Turns a text of any length into pieces of at most `max_symbols` ids, in linear time.

    It is cut at the ends of sentences, of clauses where a sentence doesn't fit, between words where a clause doesn't
    fit (before a conjunction or a preposition where there is one, and not after it), inside words and `{ARPAbet}` only
    where one doesn't fit. The pieces' texts, in order, make up the text, and each has something to speak. A piece that
    ends inside a sentence gets no period: it would sound like an end.

    Args:
        text: as for `encode`; of a `TracedText` the pieces have words.
        max_symbols: at least 4.
        final_period: as for `encode`.
        by_sentence: end a piece with every sentence.

    Raises:
        InvalidInput: as `encode`.
        ValueError: `max_symbols` is below 4.
    """
    if max_symbols < MIN_PIECE:
        raise ValueError(f"max_symbols is {max_symbols}: pieces of text need at least {MIN_PIECE} symbols")
    units, words = _units(text, max_symbols, final_period)
    marks = "".join(unit.mark for unit in units)
    sizes = [len(unit.ids) for unit in units]
    pieces = cut(marks, sizes, max_symbols, by_sentence)
    # Characters that were dropped between two pieces are reported with the first.
    edges = [0, *(start for start, _ in pieces[1:]), len(units)]
    return [
        _encoded(units, start, stop, _dropped(units[edge:next_edge]), words)
        for (start, stop), (edge, next_edge) in zip(pieces, pairwise(edges), strict=True)
    ]


def _units(text: str, longest_group: int, final_period: bool) -> tuple[list[_Unit], list[WordSpan]]:
    """The units of the cleaned text, with the dropped characters; and its words, if it is traced.

    Raises as `encode` does.
    """
    text = _SURROGATES.sub("\N{REPLACEMENT CHARACTER}", text)
    units: list[_Unit] = []
    origins: list[Span] = []

    def clean(part: str) -> None:
        cleaned = english_cleaners(part)
        units.extend(map(_character, cleaned))
        if isinstance(cleaned, TracedText):
            origins.extend(cleaned.origins)

    done = 0
    for match in ARPABET_GROUP.finditer(text):
        if match[1] is not None:
            clean(text[done : match.start()])
            sounds = match[1].split()
            groups = [_group(sounds[at : at + longest_group]) for at in range(0, len(sounds), longest_group)]
            units.extend(groups)
            if isinstance(text, TracedText):
                origins.extend([text.span(*match.span())] * len(groups))
            done = match.end()
    clean(text[done:])
    if not any(unit.mark.isalpha() for unit in units):
        raise nothing_to_speak(text, _dropped(units))
    words = _words(units, origins, text.source) if isinstance(text, TracedText) else []
    if final_period:
        heard = (index for index in range(len(units) - 1, -1, -1) if _is_heard(units[index]))
        last = ending = next(heard)
        while units[ending].text in _CLOSING:
            ending = next(heard)
        if units[ending].text not in _ENDINGS:
            units.insert(last + 1, _character("."))
    return units, words


def _words(units: Sequence[_Unit], origins: Sequence[Span], source: str) -> list[WordSpan]:
    """The words in order, `first` and `stop` as indices of units; their spans don't overlap."""
    found: list[WordSpan] = []
    between = True  # whether a space stands between the last word and the next unit
    for index, (unit, span) in enumerate(zip(units, origins, strict=True)):
        if unit.mark.isalpha():
            # Text without a gap is one word, also where several words are spoken for it.
            if found and (not between or span[0] <= found[-1].span[1]):
                first, _, _, (begun, ended) = found.pop()
                found.append(WordSpan(first, index + 1, "", (begun, max(ended, span[1]))))
            else:
                found.append(WordSpan(index, index + 1, "", span))
            between = False
        elif unit.mark == SPACE:
            between = True
    done = 0
    for number, word in enumerate(found):
        first, stop = word.span
        limit = found[number + 1].span[0] if number + 1 < len(found) else len(source)
        while stop < limit and source[stop] in _CLINGING:
            stop += 1
        while first > done and source[first - 1] in _CLINGING:
            first -= 1
        found[number] = word._replace(text=source[first:stop], span=(first, stop))
        done = stop
    return found


def _group(sounds: Sequence[str]) -> _Unit:
    return _Unit("{" + " ".join(sounds) + "}", tuple(SYMBOL_IDS[ARPABET_MARK + sound] for sound in sounds), GROUP)


@lru_cache(maxsize=4096)
def _character(character: str) -> _Unit:
    index = _CHARACTER_IDS.get(character)
    if index is None:
        return _Unit(character, (), SILENT)
    return _Unit(character, (index,), character.lower() if character in LETTERS else character)


def _encoded(
    units: Sequence[_Unit], start: int, stop: int, dropped: tuple[str, ...], words: Sequence[WordSpan]
) -> EncodedText:
    heard = [unit for unit in units[start:stop] if unit.ids]
    ids = [symbol for unit in heard for symbol in unit.ids]
    symbols = [0, *accumulate(len(unit.ids) for unit in units[start:stop])]
    first_word = bisect_right(words, start, key=lambda word: word.stop)
    last_word = bisect_left(words, stop, key=lambda word: word.first)
    spoken = tuple(
        WordSpan(symbols[max(first, start) - start], symbols[min(end, stop) - start], text, span)
        for first, end, text, span in words[first_word:last_word]
    )
    return EncodedText("".join(unit.text for unit in heard), np.array(ids, np.int32), dropped, spoken)


def _is_heard(unit: _Unit) -> bool:
    return bool(unit.ids) and unit.mark != SPACE


def _dropped(units: Sequence[_Unit]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(unit.text for unit in units if not unit.ids))


def nothing_to_speak(text: str, dropped: Sequence[str] = ()) -> InvalidInput:
    """The error for a text without words, once these characters are dropped; WithoutWords if there are none."""
    without = f" once {quoted(''.join(dropped))} is left out, which the voice has no sound for" if dropped else ""
    kind = InvalidInput if dropped else WithoutWords
    return kind(f"nothing to speak in {quoted(text)}{without}: write at least one word")


def quoted(text: str, longest: int = 40) -> str:
    """A text within a message: its beginning, in one line."""
    line = " ".join(text.split())
    return f'"{line[:longest]}{"..." if len(line) > longest else ""}"'
