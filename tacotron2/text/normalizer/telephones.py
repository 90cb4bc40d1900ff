"""Telephone numbers, and other numbers that are said digit by digit."""

import re

from tacotron2.text.normalizer.say import digits

_START, _END = r"(?<![\w.+$€£/-])", r"(?![\w/]|[.-][0-9])"
_INTERNATIONAL = re.compile(rf"{_START}\+[0-9]{{1,3}}(?:[ .-]?\(?[0-9]{{1,4}}\)?){{2,5}}{_END}")
_AMERICAN = re.compile(rf"{_START}(?:1[ .-]?)?(?:\([0-9]{{3}}\) ?|[0-9]{{3}}[ .-])[0-9]{{3}}[ .-][0-9]{{4}}{_END}")
_LOCAL = re.compile(rf"{_START}[2-9][0-9]{{2}}-[0-9]{{4}}{_END}")
_BRITISH = re.compile(rf"{_START}\(?0[0-9]{{2,4}}\)? [0-9]{{3,4}} [0-9]{{3,4}}{_END}")
_IN_LETTERS = re.compile(rf"{_START}(1)-(8[0-9]{{2}})-([A-Z]{{4,8}}){_END}")
_GROUPED = re.compile(
    rf"{_START}(?:[0-9]{{4}}[ -]){{3}}[0-9]{{4}}{_END}|{_START}[0-9]{{3}}-[0-9]{{2}}-[0-9]{{4}}{_END}"
)
_CALLED = re.compile(
    r"\b((?:[Cc]all|[Dd]ial|[Dd]ialed|[Dd]ialled|[Cc]alled|[Pp]hone|[Tt]ext)(?:ing)?) ([0-9]{3})\b(?![.,]?[0-9])"
)
_EXTENSION = re.compile(r"\b(?:ext\.?|x) ?([0-9]{2,5})\b")
_FIGURES = re.compile(r"[0-9]+")


def read_telephones(text: str) -> str:
    """Reads telephone, card and social security numbers digit by digit, with a pause between their groups."""
    for pattern in (_INTERNATIONAL, _AMERICAN, _BRITISH, _GROUPED, _LOCAL):
        text = pattern.sub(lambda match: _grouped(match[0]), text)
    text = _IN_LETTERS.sub(lambda match: f"{_grouped(f'{match[1]} {match[2]}')}, {match[3].lower()}", text)
    return _CALLED.sub(lambda match: f"{match[1]} {digits(match[2])}", text)


def _grouped(written: str) -> str:
    if sum(map(len, _FIGURES.findall(written))) > 19:
        return written
    groups = [_group(group) for group in _FIGURES.findall(written)]
    return ("plus " if written.startswith("+") else "") + ", ".join(groups)


def _group(figures: str) -> str:
    return "eight hundred" if figures == "800" else digits(figures)
