"""The text front end: from a line of text to the ids that Tacotron 2 was trained on.

The ids are those of the classic front end (keithito's, in NVIDIA's examples), except where that one misreads a number
(see `numbers`) and at the ends of a text: no space begins or ends it, and a period ends what has no ending.

What people write beyond that (units, dates, addresses, initialisms) is read as words by a `TextFrontEnd` before.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from common.errors import InvalidInput, UserError
from tacotron2.text.cleaners import CLEANERS
from tacotron2.text.front_end import TextFrontEnd
from tacotron2.text.pieces import GROUP, SILENT, cut
from tacotron2.text.symbols import ARPABET_GROUP, ARPABET_MARK, LETTERS, PAD, SPACE, SYMBOL_IDS

__all__ = ["MIN_PIECE", "EncodedText", "TextFrontEnd", "describe_reading", "encode", "split"]

MIN_PIECE = 4  # symbols: less is no word and its punctuation

_SURROGATES = re.compile(r"[\ud800-\udfff]")  # what Python makes of arguments that are not UTF-8
_ENDINGS = set(".!?,;:")  # voices are trained on clauses as well as sentences: each of these ends a text well
_CLOSING = set(")'")
_CHARACTER_IDS = {symbol: index for symbol, index in SYMBOL_IDS.items() if len(symbol) == 1 and symbol != PAD}


@dataclass(frozen=True)
class EncodedText:
    """A text, or a piece of one, as the encoder takes it.

    Attributes:
        text: the cleaned text, as far as it has symbols: what the ids say.
        ids: int32 [symbols].
        dropped: the characters that are not among the symbols, in order of first appearance. Braces are among them,
            unless they hold ARPAbet.
    """

    text: str
    ids: np.ndarray = field(compare=False)
    dropped: tuple[str, ...]


class _Unit(NamedTuple):
    """A character, or a group of ARPAbet symbols, which is never taken apart."""

    text: str
    ids: tuple[int, ...]  # none if the character is dropped
    mark: str  # see `pieces.cut`


def encode(text: str, cleaner: str = "english_cleaners", final_period: bool = True) -> EncodedText:
    """Turns a text into ids. `{HH AW1 S}` within it gives a pronunciation in ARPAbet; other braces are dropped.

    Args:
        text: one line or many; any run of white space is one space.
        cleaner: "english_cleaners", "transliteration_cleaners" or "basic_cleaners".
        final_period: end a text that has no end punctuation with a period, after which voices stop more surely.

    Raises:
        InvalidInput: nothing is left to speak.
        UserError: an unknown cleaner.
    """
    units = _units(text, len(text) + 1, cleaner, final_period)
    return _encoded(units, dropped=_dropped(units))


def split(
    text: str, max_symbols: int, cleaner: str = "english_cleaners", final_period: bool = True
) -> list[EncodedText]:
    """Turns a text of any length into pieces of at most `max_symbols` ids, in linear time.

    It is cut at the ends of sentences, of clauses where a sentence doesn't fit, between words where a clause doesn't
    fit (before a conjunction or a preposition where there is one, and not after it), inside words and `{ARPAbet}` only
    where one doesn't fit. The pieces' texts, in order, make up the text, and each has something to speak. A piece that
    ends inside a sentence gets no period: it would sound like an end.

    Args:
        max_symbols: at least 4.
        text, cleaner, final_period: as for `encode`.

    Raises:
        InvalidInput, UserError: as `encode`.
        ValueError: `max_symbols` is below 4.
    """
    if max_symbols < MIN_PIECE:
        raise ValueError(f"max_symbols is {max_symbols}: pieces of text need at least {MIN_PIECE} symbols")
    units = _units(text, max_symbols, cleaner, final_period)
    marks = "".join(unit.mark for unit in units)
    sizes = [len(unit.ids) for unit in units]
    pieces = cut(marks, sizes, max_symbols)
    # What was dropped between two pieces is named with the first.
    edges = [0, *(start for start, _ in pieces[1:]), len(units)]
    return [
        _encoded(units[start:stop], dropped=_dropped(units[edge:next_edge]))
        for (start, stop), (edge, next_edge) in zip(pieces, pairwise(edges), strict=True)
    ]


def describe_reading(text: str, front_end: TextFrontEnd) -> str:
    """The text in the letters that the voice will get: read by the front end, then cleaned.

    Raises:
        InvalidInput: nothing is left to speak.
    """
    return encode(front_end.read(text), final_period=front_end.final_period).text


def _units(text: str, longest_group: int, cleaner: str, final_period: bool) -> list[_Unit]:
    """The units of the cleaned text, dropped characters among them. Raises as `encode` does."""
    if cleaner not in CLEANERS:
        raise UserError(f"unknown cleaner {_shown(cleaner)}: choose {', '.join(CLEANERS)}")
    text = _SURROGATES.sub("\N{REPLACEMENT CHARACTER}", text)
    units: list[_Unit] = []
    done = 0
    for match in ARPABET_GROUP.finditer(text):
        if match[1] is not None:
            units.extend(map(_character, CLEANERS[cleaner](text[done : match.start()])))
            sounds = match[1].split()
            units.extend(_group(sounds[at : at + longest_group]) for at in range(0, len(sounds), longest_group))
            done = match.end()
    units.extend(map(_character, CLEANERS[cleaner](text[done:])))
    if not any(unit.mark.isalpha() for unit in units):
        dropped = _dropped(units)
        without = f" once {_shown(''.join(dropped))} is left out, which the voice has no sound for" if dropped else ""
        raise InvalidInput(f"nothing to speak in {_shown(text)}{without}: write at least one word")
    if final_period:
        heard = (place for place in range(len(units) - 1, -1, -1) if _is_heard(units[place]))
        last = ending = next(heard)
        while units[ending].text in _CLOSING:
            ending = next(heard)
        if units[ending].text not in _ENDINGS:
            units.insert(last + 1, _character("."))
    return units


def _group(sounds: Sequence[str]) -> _Unit:
    return _Unit("{" + " ".join(sounds) + "}", tuple(SYMBOL_IDS[ARPABET_MARK + sound] for sound in sounds), GROUP)


@lru_cache(maxsize=4096)
def _character(character: str) -> _Unit:
    index = _CHARACTER_IDS.get(character)
    if index is None:
        return _Unit(character, (), SILENT)
    return _Unit(character, (index,), character.lower() if character in LETTERS else character)


def _encoded(units: Sequence[_Unit], dropped: tuple[str, ...]) -> EncodedText:
    places = [place for place, unit in enumerate(units) if _is_heard(unit)]
    heard = [unit for unit in units[places[0] : places[-1] + 1] if unit.ids]
    ids = [index for unit in heard for index in unit.ids]
    return EncodedText("".join(unit.text for unit in heard), np.array(ids, np.int32), dropped)


def _is_heard(unit: _Unit) -> bool:
    return bool(unit.ids) and unit.mark != SPACE


def _dropped(units: Sequence[_Unit]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(unit.text for unit in units if not unit.ids))


def _shown(text: str, longest: int = 40) -> str:
    """A text within a message of one line."""
    line = " ".join(text.split())
    return f'"{line[:longest]}{"..." if len(line) > longest else ""}"'
