"""Units, percent, fractions, ranges, powers, versions and every other number."""

import re

from tacotron2.text.normalizer.dates import is_seconds
from tacotron2.text.normalizer.say import (
    FREE,
    MINUS,
    NUMBER,
    WHOLE,
    cardinal,
    code,
    count,
    digits,
    has_figures,
    join,
    number,
    ordinal,
    ordinal_of,
    pairs,
    plural,
    text_before,
    units,
)
from tacotron2.text.rewriting import Pattern
from tacotron2.text.tables import table

# Quantities: they may stand before a unit
_MIXED = r"(?:[0-9]{1,6}[ -])?[0-9]{1,4}/[0-9]{1,4}"
_QUANTITY = rf"(?:{_MIXED}|{NUMBER})"
_WITH_UNIT = Pattern(
    rf"(?:(?<![\w.,/^])|(?<=°[CF]/))(?<!\^-)({MINUS}?)({_QUANTITY})(?:( ?- ?| to | or |/-)({MINUS}?{_QUANTITY}))?"
    r"( ?|-)((?&units))"
    r"(?:\^([23]))?((?: ?/ ?(?:[A-Za-zµμΩ]{1,5}|100 ?km)(?:\^?[23])?)?)(?![A-Za-z0-9^])(\.(?![\w.]))?"
)
_SHORT_MEASURE = Pattern(r"\b(sq|cu|fl)\. (?=(?:mi|ft|in|yd|m|km|cm|oz)\b)")
_RATE = Pattern(
    r"(?:(?<=[0-9s])|(?<=people))(?<!/[0-9])(?<!/[0-9]{2})(?: ?/ ?| per )"
    r"(sq (?:mi|km|ft|m|yd)|(?:km|mi|m|cm|ft)\^?[23]|(?&per))(?![\w/^])"
)
_SQUARED = Pattern(r"(?<![\w/=])(km|m|cm|mm|ft|mi|in|yd)\^([23])(?![\w^])")
_PER_UNIT = Pattern(r" ?/ ?([A-Za-zµμΩ]{1,5}|100 ?km)(?:\^?([23]))?")
_POWERS = {"2": "square", "3": "cubic"}
_PRIMES = '(?:"|′′)'  # as Unicode's compatibility forms write ″
_FEET_INCHES = Pattern(rf"(?<![\w.,])([0-9]{{1,3}})['′] ?([0-9]{{1,2}}(?:\.[0-9]+)?)(?:{_PRIMES}|'')?(?![\w'])")
_FEET = Pattern(r"(?<![\w.,'])([0-9]{1,5}(?:\.[0-9]+)?)(['′])(?![\w′])")
# After degrees: minutes and seconds.
_ARC = Pattern(rf"(?<=[0-9]°) ?([0-9]{{1,2}})['′](?: ?([0-9]{{1,2}}(?:\.[0-9]+)?)(?:{_PRIMES}|''))?(?: ?([NSEW])\b)?")
_DEGREES = Pattern(r"(?<=[0-9] degrees )([CF])\b(?!\.\w)")
_DEGREES_OF = {"C": "Celsius", "F": "Fahrenheit"}
_OPEN_QUOTE = Pattern(r"(?<!\w)'(?=\w)")
# A quotation that is not closed yet: a mark after a figure may be one of inches.
_OPEN_DOUBLE = Pattern(r'(?<![\w.,!?")])"(?:[^"]|(?<=[0-9])")*\Z')
_INCH = rf"({_MIXED}|[0-9]{{1,5}}(?:\.[0-9]+)?)"
_INCHES = Pattern(rf"(?<![\w.,/\"])(?:{_INCH}{_PRIMES}? ?- ?)?{_INCH}({_PRIMES})(?!\w)")
# After a measure: the thing that it measures, so that "12-inch pizza" takes the singular.
_DESCRIBED = Pattern(r" (?!(?&after-measures)\b)[a-z]{2}")
_DIMENSIONS = Pattern(
    rf"{FREE}({NUMBER})((?: ?(?&units)|{_PRIMES}|['′])?) ?([x×]|X(?![0-9.]+[A-Z])) ?"
    rf"(?={NUMBER}(?![0-9]* ?\^| ?= ?[0-9]))"
)
_MARKED = dict.fromkeys(('"', "′′"), " inches") | dict.fromkeys("'′", " feet")
_SIZE = Pattern(rf"{NUMBER} ?(?:[x×\"″′']|[mcd]?m\b|km\b|in\b|ft\b|inch|feet|meter)|[0-9]{{3}}")
_ARTICLE = Pattern(r"\b[Aa]n? $")  # "a 5 kg bag" takes the singular
_PERCENT = Pattern(rf"(?<![\w.,])({MINUS}?)({NUMBER}) ?%?(?: ?- ?({NUMBER}))? ?(%|‰)(?!\w)")
_PERCENT_LEFT = Pattern(r"(?<=[0-9]) ?%")

# Numbers
_SCIENTIFIC = Pattern(rf"(?<![\w.])({MINUS}?{NUMBER})[eE]([+-]?)([0-9]{{1,3}})(?!\w|\.\w)")
_TIMES_TEN = Pattern(
    rf"(?<![\w.])(?:({MINUS}?{NUMBER}) ?[x×*·] ?)?10\^({MINUS}|\+)?([0-9]{{1,3}})"
    rf"(?: ((?&units))((?:/[A-Za-zµμΩ]{{1,5}}(?:\^[23])?)?)(?![A-Za-z0-9]))?"
)
# Before a figure and a letter that are a name ("Bus 5B"); and after a house number, a street.
_NUMBERED = Pattern(r"\b(?i:(?&numbered))\.? $|(?<![.!?] )(?<!^)\b[A-Z][A-Za-z]*\.? $")
_HOUSE = Pattern(r" [A-Z][a-z]")
_QUANTIFIED = Pattern(r"\b(?&quantified) $", re.IGNORECASE)
_POWER = Pattern(r"(?<=[\w)])\^([-+\N{MINUS SIGN}]?)\(?([0-9]{1,4}|[a-z])\)?(?!\w|\.\w)")
_VERSION = Pattern(
    r"(?<![\w.])([vV](?:\. ?)?)?([0-9]{1,6}(?:\.[0-9]{1,6}){1,5})(?=([A-Za-z]{0,5}[0-9]*)(?![\w.]*[0-9]))"
)
_ANY_VERSION = Pattern(r"(?<=[0-9])\.(?=[xX]\b)")  # "3.x"
_SHORT_VERSION = Pattern(r"(?<![\w.])v\.? ?([0-9]{1,4})(?![\w.]*[0-9])")
_SPECIAL = Pattern(r"(?:(?<![\w./,-])|(?<=[a-z]-))((?&special-numbers))(?![\w/]|[.,][0-9])")
_FRACTION = Pattern(
    rf"(?<![\w./,])(?:({WHOLE})[ -])?([0-9]{{1,4}})/([0-9]{{1,4}})((?:st|nd|rd|th)s?)?(?![\w/]|[.,][0-9])"
)
_RATIO = Pattern(rf"(?<![\w:.])({WHOLE}):({WHOLE})(?![\w:]|\.[0-9])")
_RANGE = Pattern(rf"(?<![\w.,-])({NUMBER}) ?- ?({NUMBER})(?![\w-]|\.[0-9])(?! ?=)")
_SERIES = Pattern(r"(?<![\w.,-])[0-9]{1,4}(?:-[0-9]{1,4}){2,9}(?![\w-])")
_ORDINAL = Pattern(rf"(?<![\w.,])({WHOLE})(?:st|nd|rd|th|ST|ND|RD|TH)(?![A-Za-z0-9])")
_FROM_TO = Pattern(r"(?:(?<=/[0-9])|(?<=/[0-9]{2}))-(?=[0-9]{1,2}/[0-9])")  # "1/4-1/2"
_SCALED = Pattern(rf"(?<![\w.,:])(?<!\w-)(?:({NUMBER}) ?- ?)?({NUMBER})(k|K|M|B|bn|mn|T)(\+?)(?![A-Za-z0-9])")
_TIMES = Pattern(rf"(?<![\w.,])(?:({NUMBER}) ?- ?)?({NUMBER}[x×]|[0-9]{{1,2}}X)(?![A-Za-z0-9])")
_HASH_NUMBER = Pattern(r"(?<!\w)# ?(?=[0-9])")
_PLUS_AFTER = Pattern(r"(?<=[0-9])\+(?=[\s,.;:!?)]|$)(?! ?[0-9])")
_SIGNED = Pattern(rf"(^|[\s(\[=<>,;:/*×÷+|\"']|\b[a-z]\^)([-+±\N{{MINUS SIGN}}]) ?(?={NUMBER})")
_ABOUT = Pattern(r"(?<![\w])[~≈] ?(?=[$£€]?[0-9])")
_PAIRED = Pattern(r"\b((?&Said-in-pairs) )([0-9]{3,4})\b(?![.,:/%-]?[0-9])")
# Models: "737-800", "C-130"; and more than one of a kind: "F-16s", "747s", "three 9s".
_MODEL = Pattern(
    r"(?<![\w.,-])(7[0-9]7|(?<=Airbus )[0-9]{3})-([0-9]{1,4})(?![\w-])|\b([A-Z]{1,3})-([0-9]{3,4})(?![\w-]|\.[0-9])"
)
_PLURAL = Pattern(r"((?<=[A-Za-z])-|(?<![\w.,$£€-]))([0-9]{1,4})'?s(?!\w)")
_BEFORE_PLURAL = Pattern(r"(?<![A-Za-z])(?:(?=[a-z]{0,3}[A-Z])[A-Za-z]{2,}|(?&several)) $")
_BOEING = Pattern("7[0-9]7")
_LETTER_POINT = Pattern(r"(?<![\w.])([A-Z])\.(?=[0-9]{2})")  # "H.264"
_DECIMAL_CODE = Pattern(r"(?<![\w.])([0-9]+\.[0-9]+)(?=[A-Za-z]{1,3}\b)")  # "802.11ac"
_WORD_NUMBER = Pattern(r"(?<=[A-Za-z])-(?=[0-9])")
_ANY_NUMBER = Pattern(rf"(?<![A-Za-z0-9])({NUMBER})(?![A-Za-z0-9])")


def read_units(text: str) -> str:
    """Reads numbers with units, percentages, heights in feet and inches, and dimensions."""
    if not has_figures(text):
        return text
    text = _PLURAL.sub(_plural, text)
    text = _SHORT_MEASURE.sub(r"\1 ", text)
    text = _TIMES_TEN.sub(_times_ten, text)
    text = _ABOUT.sub("about ", text)
    text = _ARC.sub(_arc, text)
    text = _DEGREES.sub(lambda match: _DEGREES_OF[match[1]], text)
    text = _FEET_INCHES.sub(_feet_inches, text)
    text = _DIMENSIONS.sub(_dimension, text)
    text = _FEET.sub(_feet, text)
    text = _INCHES.sub(_inches, text)
    text = _PERCENT.sub(_percent, text)
    text = _RATE.sub(_rate, text)
    text = _WITH_UNIT.sub(_with_unit, text)
    return _SQUARED.sub(lambda match: f"{_POWERS[match[2]]} {units(table('units')[match[1]])}", text)


def read_numbers(text: str) -> str:
    """Reads the numbers that the other rules left."""
    if not has_figures(text):
        return text
    text = _PERCENT_LEFT.sub(" percent", text)
    text = _SPECIAL.sub(lambda match: table("special-numbers")[match[0]], text)
    text = _HASH_NUMBER.sub("number ", text)
    text = _SCIENTIFIC.sub(_scientific, text)
    text = _POWER.sub(_power, text)
    text = _VERSION.sub(_version, _ANY_VERSION.sub(" point ", text))
    text = _SHORT_VERSION.sub(lambda match: f"version {cardinal(match[1])}", text)
    text = _FRACTION.sub(_fraction, _FROM_TO.sub(" to ", text))
    text = _ORDINAL.sub(lambda match: ordinal_of(match[1]), text)
    text = _RATIO.sub(_ratio, text)
    text = _MODEL.sub(_model, _LETTER_POINT.sub(r"\1-", text))
    text = _SCALED.sub(_scaled, text)
    text = _SERIES.sub(lambda match: " ".join(count(part) for part in match[0].split("-")), text)
    text = _RANGE.sub(lambda match: f"{count(match[1])} to {count(match[2])}", text)
    text = _TIMES.sub(_times, text)
    text = _PAIRED.sub(lambda match: match[1] + pairs(match[2]), text)
    text = _PLUS_AFTER.sub(" plus", text)
    text = _SIGNED.sub(_sign, text)
    text = _DECIMAL_CODE.sub(lambda match: f"{number(match[1])} ", text)
    text = _WORD_NUMBER.sub(" ", text)
    return _ANY_NUMBER.sub(lambda match: count(match[1]), text)


def _scaled(match: re.Match[str]) -> str:
    """ "5M" is five million, but for a name: "Apt. 4B". Billions and trillions want a word that counts beside them."""
    first, last, scale, plus = match.groups()
    before = text_before(match, 16)
    counts = first or plus or len(scale) > 1 or _QUANTIFIED.search(before)
    if _HOUSE.match(match.string, match.end()) or not (counts or scale in "kKM") or _is_numbered(before):
        return match[0]
    more = f"{number(first)} to" if first else ""
    return join(more, number(last), table("scales")[scale], "plus" if plus else "")


def _is_numbered(before: str) -> bool:
    """Whether the text before a figure is numbered by it."""
    return bool(_NUMBERED.search(before)) and not _QUANTIFIED.search(before)


def _plural(match: re.Match[str]) -> str:
    """ "Boeing 747s" and "three 9s"; "15s" alone are seconds."""
    before = text_before(match, 16)
    several = _BEFORE_PLURAL.search(before) and not is_seconds(match.string, match.start(), match.end())
    if match[1]:
        return f" {plural(code(match[2]))}"
    return plural(code(match[2])) if several or _BOEING.fullmatch(match[2]) else match[0]


def _model(match: re.Match[str]) -> str:
    first, last, letters_before, figures = match.groups()
    return f"{pairs(first)} {code(last)}" if first else f"{letters_before} {pairs(figures)}"


def _ratio(match: re.Match[str]) -> str:
    """ "3:1" is "three to one"; the year of a standard, "9001:2015", follows without a word."""
    first, last = match.groups()
    if len(first) > 3 and last[:2] in ("19", "20") and len(last) == 4:
        return f"{number(first)} {count(last)}"
    return f"{number(first)} to {number(last)}"


def _times(match: re.Match[str]) -> str:
    first, last = match.groups()
    return f"{f'{number(first)} to ' if first else ''}{number(last[:-1])} times"


def _sign(match: re.Match[str]) -> str:
    sign = {"+": "plus", "±": "plus or minus"}.get(match[2], "minus")
    return f"{match[1]}{'' if match[1] in ('', ' ') else ' '}{sign} "


def _quantity(written: str) -> str:
    return _FRACTION.sub(_fraction, written) if "/" in written else number(written)


def _is_one(written: str) -> bool:
    return written == "1" or ("/" in written and " " not in written)


def _with_unit(match: re.Match[str]) -> str:
    minus, first, joint, last, gap, unit, power, per, point = match.groups()
    after = match.string[match.end() : match.end() + 2]
    joined = gap == "-" and after[:1] == "-"  # "3-in-1"
    if joined or (unit in table("attached-units") and gap == " " and not (point and unit in ("in", "mo", "pt"))):
        return match[0]
    thousands = unit == "K" and gap != " "  # "300 K" is kelvin
    if thousands or not _is_a_unit(match, unit, gap, after):
        return match[0]
    singular = f"{_POWERS[power]} {table('units')[unit]}" if power else table("units")[unit]
    words = _quantity(first)
    if last:
        words += f" {'to' if '-' in joint else joint.strip()} {_quantity(last)}"
    describes = _after_article(match) and not per and after[:1] == " "
    named = singular if gap == "-" or describes or (_is_one(first) and not last) else units(singular)  # "a 5-kg bag"
    end = "." if point and (not after.strip() or after[1:].isupper() or table("units")[unit] == unit) else ""
    return f"{'minus ' if minus else ''}{words} {named}{_per_unit(per)}{end}"


def _is_a_unit(match: re.Match[str], unit: str, gap: str, after: str) -> bool:
    """Whether a single letter is a unit: "5 A" in a list is an A, "708 N 1st St" goes north."""
    if len(unit) > 1 or not unit.isalpha():
        return True
    if gap == " " and unit not in "mghsKlLVWJN":
        return False
    if unit.isupper() and after[:1] == " " and after[1:].isalnum() and not after[1:].islower():
        return False
    return not (unit.isupper() or gap == " ") or not _is_numbered(text_before(match, 16))


def _rate(match: re.Match[str]) -> str:
    """ "500/day"; the figures or the noun before it are left for others."""
    unit = match[1].replace("^", "")
    return f" per {table('units').get(unit, unit)}"


def _per_unit(written: str) -> str:
    match = _PER_UNIT.fullmatch(written)
    if match is None:
        return ""
    if match[1].startswith("100"):
        return " per one hundred kilometers"
    unit = {"m": "meter", "in": "inch"}.get(match[1]) or table("units").get(match[1], match[1])
    if match[2]:
        return f" per {unit} squared" if unit == "second" else f" per {_POWERS[match[2]]} {unit}"
    return f" per {unit}"


def _feet(match: re.Match[str]) -> str:
    """An apostrophe after a number, unless it closes a quotation."""
    if match[2] == "'" and _OPEN_QUOTE.search(match.string, max(0, match.start() - 300), match.start(2)):
        return match[0]
    return f"{number(match[1])} {'foot' if match[1] == '1' or _describes(match) else 'feet'}"


def _arc(match: re.Match[str]) -> str:
    """Minutes and seconds of an angle."""
    minutes, seconds, towards = match.groups()
    words = f" {cardinal(minutes)} minute{'' if int(minutes) == 1 else 's'}"
    if seconds:
        words += f" {number(seconds)} second{'' if seconds == '1' else 's'}"
    return f"{words} {table('directions')[towards].lower()}" if towards else words


def _feet_inches(match: re.Match[str]) -> str:
    feet, inches = match.groups()
    return f"{cardinal(feet)} {'foot' if feet == '1' else 'feet'} {number(inches)}"


def _after_article(match: re.Match[str]) -> bool:
    return bool(_ARTICLE.search(match.string, max(0, match.start() - 4), match.start()))


def _describes(match: re.Match[str]) -> bool:
    """Whether a measure stands before what it measures."""
    return _after_article(match) or bool(_DESCRIBED.match(match.string, match.end()))


def _inches(match: re.Match[str]) -> str:
    """A quotation mark after a number, unless it closes a quotation."""
    first, last, sign = match.groups()
    if sign == '"' and _OPEN_DOUBLE.search(match.string, max(0, match.start() - 300), match.start()):
        return match[0]
    one = (not first and last in ("1", "1/2", "1/4", "1/8")) or _describes(match)
    return f"{f'{_quantity(first)} to ' if first else ''}{_quantity(last)} {'inch' if one else 'inches'}"


def _dimension(match: re.Match[str]) -> str:
    first, unit, sign = match.groups()
    if sign == "×" and not unit and len(first) < 3 and not _SIZE.match(match.string, match.end()):
        return match[0]
    return f"{first}{_MARKED.get(unit, unit)} by "


def _percent(match: re.Match[str]) -> str:
    minus, first, last, sign = match.groups()
    words = ("minus " if minus else "") + number(first)
    if last:
        words += f" to {number(last)}"
    return f"{words} {'percent' if sign == '%' else 'per thousand'}"


def _to_the_power(sign: str | None, figures: str) -> str:
    return f"to the power of {'minus ' if sign in ('-', chr(0x2212)) else ''}{cardinal(figures)}"


def _times_ten(match: re.Match[str]) -> str:
    words = f"ten {_to_the_power(match[2], match[3])}"
    if match[1]:
        words = f"{number(match[1])} times {words}"
    return f"{words} {units(table('units')[match[4]])}{_per_unit(match[5])}" if match[4] else words


def _scientific(match: re.Match[str]) -> str:
    return f"{number(match[1])} times ten {_to_the_power(match[2], match[3])}"


def _power(match: re.Match[str]) -> str:
    sign, exponent = match.groups()
    if not sign and exponent in ("2", "3"):
        return " squared" if exponent == "2" else " cubed"
    if exponent.isalpha():
        return f" to the {exponent}"
    return f" {_to_the_power(sign, exponent)}"


def _version(match: re.Match[str]) -> str:
    mark, written, rest = match.groups()
    parts = written.split(".")
    if not mark and len(parts) == 2:
        return match[0]  # a decimal
    words = number(written) if len(parts) == 2 else " point ".join(map(_version_part, parts))
    return f"{'version ' if mark else ''}{words}{' ' if rest else ''}"


def _version_part(figures: str) -> str:
    return digits(figures) if figures.startswith("0") and len(figures) > 1 else cardinal(figures)


def _fraction(match: re.Match[str]) -> str:
    whole, numerator, denominator, suffix = match.groups()
    words = _fraction_words(numerator, denominator, bool(suffix))
    if not whole:
        return words
    if words.startswith("one half"):
        words = words.replace("one half", "a half", 1)
    return f"{number(whole)} and {words}"


def _fraction_words(numerator: str, denominator: str, with_suffix: bool) -> str:
    above, below = int(numerator), int(denominator)
    if not with_suffix:
        if above + below == 100 and above >= 10 <= below:  # shares: "70/30"
            return f"{cardinal(numerator)} {cardinal(denominator)}"
        if below in (10, 100) and above > 1:
            return f"{cardinal(numerator)} out of {cardinal(denominator)}"
        if (above >= below and below > 9) or below > 1000:
            return f"{cardinal(numerator)} over {cardinal(denominator)}"
    if below < 2:
        return f"{cardinal(numerator)} over {cardinal(denominator)}"
    name = {2: "half", 4: "quarter"}.get(below) or ordinal(denominator)
    if above != 1:
        name = "halves" if below == 2 else plural(name)
    return f"{cardinal(numerator)} {name}"


def house_number(written: str) -> str:
    return pairs(written) if len(written) > 2 else code(written)
