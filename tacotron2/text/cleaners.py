"""The classic's cleaners: they rewrite a text with the characters that have symbols."""

import unicodedata
from collections import Counter
from functools import lru_cache

from unidecode import unidecode

from tacotron2.text.numbers import expand_numbers
from tacotron2.text.rewriting import Pattern
from tacotron2.text.tables import table

_ABBREVIATION = Pattern(r"\b((?&classic-abbreviations))\.")
_WHITESPACE = Pattern(r"\s{2,}|[^\S ]")  # but single spaces, which stay
_TO_TRANSLITERATE = Pattern(r"[^\x00-\x7f£]")  # but £, which unidecode would hide from the rules for pounds
_SCRIPT = Pattern(r"(?!LATIN|MODIFIER|FULLWIDTH|MATHEMATICAL|COMBINING)([A-Z]+)\b.*\b(?:LETTER|SYLLABLE|IDEOGRAPH)\b")
_SILENT = {"Mn", "Me", "Cf"}  # Unicode categories of accents and of invisible marks


def english_cleaners(text: str) -> str:
    """ASCII, lower case, numbers and abbreviations in words, single spaces."""
    text = expand_numbers(_TO_TRANSLITERATE.sub(lambda match: _in_ascii(match[0]), text).lower())
    return _WHITESPACE.sub(" ", _ABBREVIATION.sub(lambda match: table("classic-abbreviations")[match[1]], text))


def other_scripts(text: str) -> dict[str, int]:
    """How many letters of each script but Latin a text holds: {"Chinese": 2}. The cleaners spell them in Latin."""
    names = (_script(character) for character in _TO_TRANSLITERATE.findall(text))
    return dict(Counter(name for name in names if name))


@lru_cache(maxsize=4096)
def _script(character: str) -> str | None:
    match = _SCRIPT.match(unicodedata.name(character, ""))
    return match and ("Chinese" if match[1] == "CJK" else match[1].capitalize())


@lru_cache(maxsize=4096)
def _in_ascii(character: str) -> str:
    spelled = unidecode(character)
    # A character without a spelling stays, so that it is reported among the dropped ones.
    return spelled if spelled or unicodedata.category(character) in _SILENT else character
