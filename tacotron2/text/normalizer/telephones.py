"""Telephone numbers and others that are read digit by digit."""

import re

from tacotron2.text.normalizer.say import FIGURES, digits, spelt
from tacotron2.text.rewriting import Pattern, Rules
from tacotron2.text.tables import table

# Numbers that are read digit by digit, with a pause between their groups.
TELEPHONES = Rules(needs=FIGURES)

TELEPHONES.add(
    r"\b[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}\b",
    lambda match: ", ".join(spelt(group) for group in match[0].split("-")),
)
TELEPHONES.add(r"\b0x[0-9a-fA-F]+\b", lambda match: spelt(match[0]))
_START, _END = r"(?<![\w.+$€£/-])", r"(?![\w/]|[.-][0-9])"
for _number in (
    r"\+[0-9]{1,3}(?:[ .-]?\(?[0-9]{1,4}\)?){2,5}",  # international
    r"(?:1[ .-]?)?(?:\([0-9]{3}\)[ -]?|[0-9]{3}[ .-])[0-9]{3}[ .-][0-9]{4}",  # American
    r"\(?0[0-9]{2,4}\)?(?: [0-9]{3,8}){1,3}",  # British, German
    r"(?:(?:[0-9]{4}[ -]){3}[0-9]{4}|[0-9]{3}-[0-9]{2}-[0-9]{4})",  # of cards and of social security
    r"[2-9][0-9]{2}-[0-9]{4}",  # local
):
    TELEPHONES.add(_START + _number + _END, lambda match: telephone(match[0]))
_NO = Pattern(r"\bno\b\.?", re.IGNORECASE)
# Codes after a word that names them, and ZIP codes after the name of a town.
TELEPHONES.add(
    r"\b((?:(?&codes)(?: (?:is|was|number|no\.?))?"
    r"|(?:ending|ends|ended) (?:in|with)|(?:last|first) (?:three|four|five|six) digits(?: are| of)?"
    r"|(?&coded) (?:number|no\.?)(?: is)?)[:,]? #?)([0-9]{3,12}(?: [0-9]{3,4}){0,4})(?![\w%]|[.,:/-][0-9])",
    lambda match: _NO.sub("number", match[1]) + ", ".join(map(digits, match[2].split())),
    re.IGNORECASE,
)


TELEPHONES.add(
    r"\b([Tt]ext(?:ing)? \S{1,20} to )([0-9]{5,6})\b(?![,.]?[0-9])", lambda match: match[1] + digits(match[2])
)


@TELEPHONES.rule(r"(?<![A-Za-z'])([A-Z][a-z]+) ([0-9]{5})(?= *(?:$|[,.;:!?)]))")
def _zip(match: re.Match[str]) -> str:
    """Five figures after a name are a code, but for round amounts."""
    amount = match[1] in table("openers") or match[1] in table("before-amounts") or match[2].endswith("00")
    return match[0] if amount else f"{match[1]} {digits(match[2])}"


@TELEPHONES.rule(rf"{_START}[0-9]{{1,12}}(?:-[0-9]{{1,12}}){{1,8}}(?:-[xX])?{_END}")
def _serial(match: re.Match[str]) -> str:
    """Many figures are no numbers to count with, unless they are years: an ISBN, an account."""
    groups = match[0].split("-")
    if len(groups) == 2 and (max(map(len, groups)) < 7 or len(groups[0]) == len(groups[1]) or groups[1].endswith("00")):
        return match[0]  # a range
    years = all(len(group) == 4 and group[0] in "12" for group in groups)
    if max(map(len, groups)) < 5 and (years or max(map(len, groups)) < 3 or sum(map(len, groups)) < 9):
        return match[0]
    return ", ".join(map(spelt, groups))


TELEPHONES.add(
    rf"{_START}(1)-(8[0-9]{{2}})-([A-Z]{{4,8}}){_END}",
    lambda match: f"{telephone(f'{match[1]} {match[2]}')}, {match[3].lower()}",
)
TELEPHONES.add(
    r"\b((?:[Cc]all|[Dd]ial|[Dd]ialed|[Dd]ialled|[Cc]alled|[Pp]hone|[Tt]ext)(?:ing)?) ([0-9]{3})\b(?![.,]?[0-9])",
    lambda match: f"{match[1]} {digits(match[2])}",
)
_FIGURES = Pattern(r"[0-9]+")


def telephone(written: str) -> str:
    """Reads a number's groups digit by digit, with a pause between groups; leaves an amount as it is."""
    found = _FIGURES.findall(written)
    total = sum(map(len, found))
    if total > 19 or (written[0] == "+" and (total < 7 or (len(found) == 2 and "." in written))):
        return written  # an amount
    groups = [_group(group) for group in found]
    return ("plus " if written.startswith("+") else "") + ", ".join(groups)


def _group(figures: str) -> str:
    return "eight hundred" if figures == "800" else digits(figures)
