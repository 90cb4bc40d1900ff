"""Cleaners: what is done to a text before its characters are looked up among the symbols."""

import re
import unicodedata
from collections.abc import Callable
from functools import lru_cache

from unidecode import unidecode

from tacotron2.text.numbers import expand_numbers

_ABBREVIATIONS = {
    "mrs": "misess",  # the classic's spelling, which its voices were trained on
    "mr": "mister",
    "dr": "doctor",
    "st": "saint",
    "co": "company",
    "jr": "junior",
    "maj": "major",
    "gen": "general",
    "drs": "doctors",
    "rev": "reverend",
    "lt": "lieutenant",
    "hon": "honorable",
    "sgt": "sergeant",
    "capt": "captain",
    "esq": "esquire",
    "ltd": "limited",
    "col": "colonel",
    "ft": "fort",
}
_ABBREVIATION = re.compile(rf"\b({'|'.join(_ABBREVIATIONS)})\.")
_WHITESPACE = re.compile(r"\s+")
_TO_TRANSLITERATE = re.compile(r"[^\x00-\x7f£]")  # unidecode would make "ps" of £, and no rule for pounds would see it
_SILENT = {"Mn", "Me", "Cf"}  # Unicode categories of accents and of marks that nobody sees


def english_cleaners(text: str) -> str:
    """ASCII, lower case, numbers and abbreviations in words, single spaces."""
    text = expand_numbers(_transliterated(text).lower())
    return _single_spaced(_ABBREVIATION.sub(lambda match: _ABBREVIATIONS[match[1]], text))


def transliteration_cleaners(text: str) -> str:
    """ASCII, lower case, single spaces; for languages whose script can be spelled in Latin letters."""
    return _single_spaced(_transliterated(text).lower())


def basic_cleaners(text: str) -> str:
    """Lower case, single spaces."""
    return _single_spaced(text.lower())


CLEANERS: dict[str, Callable[[str], str]] = {
    cleaner.__name__: cleaner for cleaner in (english_cleaners, transliteration_cleaners, basic_cleaners)
}


def _transliterated(text: str) -> str:
    return _TO_TRANSLITERATE.sub(lambda match: _in_ascii(match[0]), text)


@lru_cache(maxsize=4096)
def _in_ascii(character: str) -> str:
    spelled = unidecode(character)
    # What has no spelling stays, so that it is named among the dropped characters instead of vanishing.
    return spelled if spelled or unicodedata.category(character) in _SILENT else character


def _single_spaced(text: str) -> str:
    return _WHITESPACE.sub(" ", text)
