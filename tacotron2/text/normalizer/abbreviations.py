"""Titles, street names, Latin abbreviations, states and Roman numerals."""

import re

from tacotron2.text.normalizer.quantities import house_number
from tacotron2.text.normalizer.say import HELD, cardinal, digits, ordinal
from tacotron2.text.normalizer.tables import (
    ABBREVIATIONS,
    BEFORE_NUMBERS,
    ENDING_ABBREVIATIONS,
    LATIN,
    RULER_TITLES,
    RULERS,
    STATES,
    STREETS,
)

_CAPITAL = f"[A-Z{HELD}]"
_LATIN = re.compile(
    rf"(?<![\w/.])({'|'.join(re.escape(short) for short in sorted(LATIN, key=len, reverse=True))})(?![A-Za-z])",
    re.IGNORECASE,
)
_STREET = "|".join(sorted(STREETS, key=len, reverse=True))
_DIRECTIONS = {
    "N": "North",
    "S": "South",
    "E": "East",
    "W": "West",
    "NE": "Northeast",
    "NW": "Northwest",
    "SE": "Southeast",
    "SW": "Southwest",
}
_NUMBERED_STREET = re.compile(
    r"(?<![\w.,-])([0-9]{1,5})( (?:[NSEW]|NE|NW|SE|SW)\.?)?"
    rf"((?: (?:[A-Z][A-Za-z']+|[0-9]{{1,3}}(?:st|nd|rd|th))\.?){{1,3}}?)"
    rf" ({_STREET}|Street|Drive|Avenue|Boulevard|Road|Lane|Court|Place|Square|Highway|Parkway|Way)"
    r"\b(\.?)(?![a-z])",
    re.IGNORECASE,
)
# Saint or street, doctor or drive: a street after a name and before what isn't one.
_STREET_AFTER_NAME = re.compile(
    rf"(?<=[a-z]) (St)(?=,|\s*$)|(?<=[a-z]) (St|Dr)\.(?= +(?!{_CAPITAL})|[,;:!?)]|\s*$)"
    r"|(?<=[a-z]) (Ave|Blvd|Rd|Ln|Pkwy|Hwy|Sq)\b\.?(?! ?[0-9])"
)
_BEFORE_NAME = re.compile(rf"\b(St|Ste|Dr|Drs|Ft|Mt)\.? (?={_CAPITAL}[a-z{HELD}]|[{HELD}])")
_SAINT_DOCTOR = {"St": "Saint", "Ste": "Saint", "Dr": "Doctor", "Drs": "Doctors", "Ft": "Fort", "Mt": "Mount"}
_TITLE = re.compile(rf"\b({'|'.join(ABBREVIATIONS)})\.(?=(\s|$|[,;:!?)]))", re.IGNORECASE)
_MISTER = re.compile(r"\b(Mr|Mrs|Ms|Dr|Prof)(?= [A-Z])")
_ENDING = re.compile(rf"\b({'|'.join(ENDING_ABBREVIATIONS)})\.(?![A-Za-z0-9])(\s*(?:[A-Z{HELD}\"(]|$))?", re.IGNORECASE)
_VERSUS = re.compile(r"(?<=\s)(?:vs|v\.(?=\s[A-Z]))(?=\s[A-Z0-9a-z])")
_BEFORE_NUMBER = re.compile(rf"\b({'|'.join(BEFORE_NUMBERS)})\.? ?(?=[#(]?[0-9]|(?<!\bNo\. )[IVX]+\b)", re.IGNORECASE)
_STATE = re.compile(rf"(?<=[a-z.]), ({'|'.join(STATES)})\b(?:,? ([0-9]{{5}})(?:-([0-9]{{4}}))?(?![0-9]))?")
_ZIP = re.compile(rf"\b({'|'.join(STATES)}) ([0-9]{{5}})(?:-([0-9]{{4}}))?(?![\w,.-]*[0-9])")

_ROMAN = "[MDCLXVI]{1,15}"
_VALUES = {"I": 1, "V": 5, "X": 10, "L": 50, "C": 100, "D": 500, "M": 1000}
_COUNTED = (
    "Chapter|Part|Act|Scene|Volume|Vol\\.|Book|Section|Article|Appendix|Phase|Stage|Type|Title|Class|Level|Grade|Table"
    "|Figure|War|Bowl|Episode|Season|Apollo|Rocky|Fantasy|Unit|Lesson|Mark|Canto|Psalm|Olympiad|Group|Category|Tier"
    "|chapter|part|act|scene|volume|book|section|article|appendix|phase|stage|type|level|grade|table|figure|unit|tier"
)
_AFTER_NOUN = re.compile(rf"\b({_COUNTED}) ({_ROMAN})(?![A-Za-z'.]?[A-Za-z])")
_AFTER_RULER = re.compile(
    rf"\b(?:({'|'.join(sorted(RULER_TITLES))}) )?([A-Z][a-z]{{1,15}}) ({_ROMAN})(?![A-Za-z])"
    r"(?=('s|[,.;:)]|\s(?:of|and|or)\b|\s*$)?)"
)
_CENTURY = re.compile(r"\b([XVI]{1,6})(?:th|st|nd|rd)?(?= [Cc]entur)")
_ALONE = re.compile(r"(?<![A-Za-z.'&-])([XVI]{2,8}|[MDCLXVI]{4,12})(?![A-Za-z.'&-]?[A-Za-z])")
_INITIALISMS = frozenset({"IV", "VI", "DC", "CD"})  # numerals only after a name or another numeral
_NO_NUMERALS = frozenset({"XI", "MIX", "DIM", "MILD", "CIVIL", "VIVID", "LIVID", "CIVIC", "MIMIC", "MDI", "XXX"})


def read_abbreviations(text: str) -> str:
    """Writes abbreviations out, by what stands beside them where they have two meanings."""
    text = _LATIN.sub(lambda match: _as_typed(match[1], LATIN[match[1].lower()]), text)
    text = _NUMBERED_STREET.sub(_numbered_street, text)
    text = _STATE.sub(_state, text)
    text = _ZIP.sub(lambda match: f"{STATES[match[1]]} {_zip(match[2], match[3])}", text)
    text = _STREET_AFTER_NAME.sub(_street, text)
    text = _BEFORE_NAME.sub(lambda match: f"{_SAINT_DOCTOR[match[1]]} ", text)
    text = _BEFORE_NUMBER.sub(_before_number, text)
    if "." in text:
        text = _ENDING.sub(_ending, _TITLE.sub(_title, text))
    text = _MISTER.sub(lambda match: {"Dr": "Doctor"}.get(match[1]) or ABBREVIATIONS[match[1].lower()], text)
    text = _VERSUS.sub("versus", text)
    return _roman_numerals(text)


def _as_typed(short: str, words: str) -> str:
    """The words with a capital where the abbreviation began a sentence."""
    return words[0].upper() + words[1:] if short[0].isupper() else words


def _numbered_street(match: re.Match[str]) -> str:
    house, direction, name, street, point = match.groups()
    if not name.strip()[0].isupper() and not name.strip()[0].isdigit():
        return match[0]
    if not street[0].isupper():
        return match[0]
    towards = f" {_DIRECTIONS[direction.strip(' .').upper()]}" if direction else ""
    rest = match.string[match.end() : match.end() + 1]
    words = f"{house_number(house)}{towards}{name} {STREETS.get(street.lower(), street)}"
    return words + point if point and street.lower() in STREETS and not rest else words


def _state(match: re.Match[str]) -> str:
    state = f", {STATES[match[1]]}"
    return f"{state} {_zip(match[2], match[3])}" if match[2] else state


def _zip(code: str, more: str | None) -> str:
    return digits(code) + (f", {digits(more)}" if more else "")


def _street(match: re.Match[str]) -> str:
    short = match[1] or match[2] or match[3]
    ends = match[0].endswith(".") and not match.string[match.end() :].strip()[:1]
    return f" {STREETS[short.lower()].capitalize()}{'.' if ends else ''}"


def _before_number(match: re.Match[str]) -> str:
    short = match[1].lower()
    pointed = "." in match[0]
    if not pointed and (
        short not in ("fig", "vol", "pp", "eq", "chap", "nos", "figs")
        and match[1] not in ("No", "Ch", "Sec", "Ste", "Apt")
    ):
        return match[0]
    if not pointed and match[1] == "No" and not match[0].endswith(" "):
        return match[0]
    return f"{_as_typed(match[1], BEFORE_NUMBERS[short])} "


def _title(match: re.Match[str]) -> str:
    short = match[1].lower()
    if short in ("lt", "col") and match[1][0].islower():
        return match[0]
    if short in ("gen", "rep", "pres", "adm", "ft", "mt", "rev", "hon") and match[1][0].islower():
        return match[0]
    words = ABBREVIATIONS[short]
    ends = not match.string[match.end() :].strip() if match.end() > len(match.string) - 3 else False
    return f"{words}." if ends else words


def _ending(match: re.Match[str]) -> str:
    short, follows = match[1].lower(), match[2]
    words = _as_typed(match[1], ENDING_ABBREVIATIONS[short])
    if (
        short in ("min", "max", "temp", "ext", "est", "mar", "dec", "co", "apt")
        and follows is not None
        and not match[1][0].isupper()
        and not follows.strip()
    ):
        return match[0]
    if follows is None:
        return words
    # A capital after it begins a sentence, but for what is followed by names.
    goes_on = follows.strip() and short in (
        "vs",
        "inc",
        "corp",
        "co",
        "ltd",
        "approx",
        "dept",
        "univ",
        "est",
        "bros",
        "assoc",
        "incl",
        "excl",
    )
    return words + ("" if goes_on else ".") + follows


def roman(numeral: str) -> int:
    """The value of a Roman numeral; 0 for what is not the usual way to write it."""
    total = 0
    for letter, following in zip(numeral, [*numeral[1:], ""], strict=True):
        value = _VALUES[letter]
        total += -value if following and value < _VALUES[following] else value
    return total if _as_roman(total) == numeral else 0


def _as_roman(number: int) -> str:
    written = ""
    for value, letters in (
        *((1000, "M"), (900, "CM"), (500, "D"), (400, "CD"), (100, "C"), (90, "XC"), (50, "L"), (40, "XL")),
        *((10, "X"), (9, "IX"), (5, "V"), (4, "IV"), (1, "I")),
    ):
        while number >= value > 0:
            written, number = written + letters, number - value
    return written


def _roman_numerals(text: str) -> str:
    text = _CENTURY.sub(lambda match: ordinal(str(roman(match[1]))) if roman(match[1]) else match[0], text)
    text = _AFTER_NOUN.sub(_counted, text)
    text = _AFTER_RULER.sub(_ruler, text)
    return _ALONE.sub(_alone, text)


def _counted(match: re.Match[str]) -> str:
    value = roman(match[2])
    if match[2] == "I" and match[1][0].islower() and match[1] not in ("part", "chapter", "phase", "act", "type"):
        return match[0]
    return f"{match[1]} {cardinal(str(value))}" if value else match[0]


def _ruler(match: re.Match[str]) -> str:
    title, name, numeral, after = match.groups()
    value = roman(numeral)
    if not value or not (title or name in RULERS):
        return match[0]
    if numeral == "I" and after is None:
        return match[0]  # the pronoun
    if not title and len(numeral) == 1 and numeral != "I" and numeral not in "VX":
        return match[0]
    return f"{f'{title} ' if title else ''}{name} the {ordinal(str(value))}"


def _alone(match: re.Match[str]) -> str:
    value = roman(match[1])
    before = match.string[max(0, match.start() - 20) : match.start()]
    follows_name = bool(re.search(r"[A-Z][A-Za-z]+ $", before))
    in_a_row = bool(re.search(r"\bI{1,3},? ", before))
    if not value or match[1] in _NO_NUMERALS or (match[1] in _INITIALISMS and not follows_name and not in_a_row):
        return match[0]
    return cardinal(str(value))
