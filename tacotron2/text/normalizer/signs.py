"""Signs: those with a name, and those without a sound."""

import re

from tacotron2.text.normalizer.say import count
from tacotron2.text.rewriting import Pattern
from tacotron2.text.tables import table

_PLAIN = Pattern(r"[A-Za-z\s.,;:!?'()-]*")
_FIGURES = Pattern("[0-9]+")
_AND = Pattern(r"&+")
_COMPARED = Pattern("(?<![<>=!-])(?&comparisons)(?![<>=])")
_SIGN = Pattern("(?&signs)")
_SILENT_SIGN = Pattern("[′″¿¡]")
_AND_OR = Pattern(r"\b(and|either)/or\b", re.IGNORECASE)
_ALTERNATIVES = Pattern(r"\b((?&Alternatives))/(?=[A-Za-z])")
_SLASH = Pattern(r"(?<=[\w.)]) ?/ ?(?=[\w(])")
_TIMES = Pattern(r"(?<=[a-z)])( ?)\*{1,2}\1(?=[a-z(])")
_ARROW = Pattern(r"(?<![-=<])(?:<?[-=]{1,9}>|<[-=]{1,9})")
_BAR = Pattern(r"\|+")
_SILENT = Pattern(r"[\"*_~^`\\/|<>=#+@%&$\[\]]")
_REPEATED = Pattern(r"([!?,;:])\1{2,}|\.{4,}|-{3,}")
_BRACE = Pattern(r"(?<=[\w}])(?=\{)|(?<=\})(?=\w)")
_UNDERSCORE = Pattern(r"(?<=\w)_+(?=\w)")


def read_signs(text: str) -> str:
    """Reads mathematical and commercial signs; drops quotation marks and other signs without a sound."""
    if not _PLAIN.fullmatch(text):
        text = _every_sign(text)
    return _REPEATED.sub(lambda match: match[1] or ("..." if match[0][0] == "." else "--"), text)


def _every_sign(text: str) -> str:
    text = _FIGURES.sub(lambda match: f" {count(match[0])} ", text)  # that no rule knows
    text = _AND.sub(" and ", text)
    text = _COMPARED.sub(lambda match: f" {table('comparisons')[match[0]]} ", text)
    text = _ARROW.sub(" to ", text)
    text = _AND_OR.sub(r"\1 or", text)
    text = _ALTERNATIVES.sub(r"\1 or ", text)
    text = _TIMES.sub(" times ", _SLASH.sub(" slash ", text))
    text = _BRACE.sub(" ", _UNDERSCORE.sub(" ", text))
    text = _BAR.sub(", ", text)
    return _SILENT.sub("", _SIGN.sub(_said, _SILENT_SIGN.sub(" ", text)))


def _said(match: re.Match[str]) -> str:
    """The word for a sign between words or numbers; a sign among letters of its own script, or alone, is left."""
    before = match.string[match.start() - 1 : match.start()]
    after = match.string[match.end() : match.end() + 1]
    if "\u0370" <= match[0] <= "\u03ff" and any("\u0370" <= neighbour <= "\u03ff" for neighbour in before + after):
        return match[0]
    return f" {table('signs')[match[0]]} "
