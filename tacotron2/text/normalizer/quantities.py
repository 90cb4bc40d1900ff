"""Units, percent, fractions, ranges, powers, versions and every other number."""

import re

from tacotron2.text.normalizer.dates import is_seconds
from tacotron2.text.normalizer.say import (
    FIGURES,
    FREE,
    MINUS,
    NUMBER,
    WHOLE,
    cardinal,
    code,
    count,
    join,
    letters,
    number,
    pairs,
    plural,
    text_before,
    units,
)
from tacotron2.text.numbers import ordinal
from tacotron2.text.rewriting import Pattern, Rules
from tacotron2.text.tables import table

# Numbers with units, percentages, heights in feet and inches, and dimensions.
UNITS = Rules(needs=FIGURES)

# How often: "q4-6h" and "x 7 days" on prescriptions, "eggs (x2)".
UNITS.add(r"q(?<!\w.) ?([0-9]{1,2})(?: ?(-) ?([0-9]{1,2}))? ?h(?:rs?)?\b", r"every \1\2\3 hours")
UNITS.add(r"(?<= \()[xX×] ?(?=[0-9]{1,3}\))", "times ")
UNITS.add(r"(?<=[A-Za-z)] )x ?(?=[0-9]{1,3} (?:day|week|month|hour|minute|wk|hr|min)s?\b)", "for ")

_BEFORE_PLURAL = Pattern(r"(?<![A-Za-z])(?:(?=[a-z]{0,3}[A-Z])[A-Za-z]{2,}|(?&several)) $")
_BOEING = Pattern("7[0-9]7")


UNITS.add(r"(?:(?<=[0-9] ft )|(?<=[0-9] feet )|(?<=[0-9] foot ))([0-9]{1,2}) in\b(?! (?&determiners)\b)", r"\1in")


@UNITS.rule(r"((?<=[A-Za-z])-|(?<![\w.,$£€-]))([0-9]{1,4})'?s(?!\w)")
def _plural(match: re.Match[str]) -> str:
    """ "Boeing 747s" and "three 9s"; "15s" alone are seconds."""
    before = text_before(match, 16)
    several = _BEFORE_PLURAL.search(before) and not is_seconds(match)
    if match[1]:
        return f" {plural(code(match[2]))}"
    return plural(code(match[2])) if several or _BOEING.fullmatch(match[2]) else match[0]


UNITS.add(r"\. (?=(?:mi|ft|in|yd|m|km|cm|oz)\b)(?<=\b(?:sq|cu|fl)..)", " ")


@UNITS.rule(
    rf"(?<![\w.])(?:({MINUS}?{NUMBER}) ?[x×*·] ?)?10\^({MINUS}|\+)?([0-9]{{1,3}})"
    rf"(?:(?: ((?&units)))?((?:/[A-Za-zµμΩ]{{1,5}}(?:\^[23])?)?)(?![A-Za-z0-9]))?"
)
def _times_ten(match: re.Match[str]) -> str:
    words = f"ten {_to_the_power(match[2], match[3])}"
    if match[1]:
        words = f"{number(match[1])} times {words}"
    return join(words, units(table("units")[match[4]]) if match[4] else "") + _per_unit(match[5] or "")


UNITS.add(r"(?<![\w])[~≈] ?(?=[$£€]?[0-9])", "about ")
_PRIMES = '(?:"|′′)'  # as Unicode's compatibility forms write ″


@UNITS.rule(rf"(?<=[0-9]°) ?([0-9]{{1,2}})['′](?: ?([0-9]{{1,2}}(?:\.[0-9]+)?)(?:{_PRIMES}|''))?(?: ?([NSEW])\b)?")
def _arc(match: re.Match[str]) -> str:
    """The minutes and seconds of an angle, after its degrees."""
    minutes, seconds, towards = match.groups()
    words = f" {cardinal(minutes)} minute{'' if int(minutes) == 1 else 's'}"
    if seconds:
        words += f" {number(seconds)} second{'' if seconds == '1' else 's'}"
    return f"{words} {table('directions')[towards].lower()}" if towards else words


UNITS.add(r"(?:(?<=\b(?:to|at|of) )([0-9]{2,3})|(?<=[0-9])(\.[0-9])) ?(?=[CF]\b(?!\.\w))", r"\1\2 degrees ")
UNITS.add(r"(?<=[0-9] degrees )C\b(?!\.\w)", "Celsius")
UNITS.add(r"(?<=[0-9] degrees )F\b(?!\.\w)", "Fahrenheit")


UNITS.add(
    rf"(?<![\w.,])([0-9]{{1,3}})['′] ?([0-9]{{1,2}}(?:\.[0-9]+)?)(?:{_PRIMES}|'')?(?![\w'])",
    lambda match: f"{cardinal(match[1])} {'foot' if match[1] == '1' else 'feet'} {number(match[2])}",
)
_MARKED = dict.fromkeys(('"', "′′"), " inches") | dict.fromkeys("'′", " feet")
_SIZE = Pattern(rf"{NUMBER} ?(?:[x×\"″′']|[mcd]?m\b|km\b|in\b|ft\b|inch|feet|meter)|[0-9]{{3}}")


@UNITS.rule(
    rf"{FREE}({NUMBER})((?: ?(?&units)|{_PRIMES}|['′])?) ?([x×]|X(?![0-9.]+[A-Z])) ?"
    rf"(?={NUMBER}(?![0-9]* ?\^)( ?= ?[0-9]| ?(?:k?g|mg|m?[lL]|oz|lbs?)\b)?)"
)
def _dimension(match: re.Match[str]) -> str:
    """ "5 by 7 cm", but a product ("6 x 7 = 42") and how often ("2 x 400g")."""
    first, unit, sign, is_product = match.groups()
    if is_product and not unit:
        return f"{first} times "
    if sign == "×" and not unit and len(first) < 3 and not _SIZE.match(match.string, match.end()):
        return match[0]
    return f"{first}{_MARKED.get(unit, unit)} by "


_OPEN_QUOTE = Pattern(r"(?<!\w)'(?=\w)")


@UNITS.rule(r"(?<![\w.,'])([0-9]{1,5}(?:\.[0-9]+)?)(['′])(?![\w′])")
def _feet(match: re.Match[str]) -> str:
    """An apostrophe after a number, unless it closes a quotation."""
    if match[2] == "'" and _OPEN_QUOTE.search(text_before(match, 300)):
        return match[0]
    return f"{number(match[1])} {'foot' if match[1] == '1' or _describes(match) else 'feet'}"


_MIXED = r"(?:[0-9]{1,6}[ -])?[0-9]{1,4}/[0-9]{1,4}"
_INCH = rf"({_MIXED}|[0-9]{{1,5}}(?:\.[0-9]+)?)"
# A quotation that is not closed yet: a mark after a figure may be one of inches.
_OPEN_DOUBLE = Pattern(r'(?<![\w.,!?")])"(?:[^"]|(?<=[0-9])")*\Z')


@UNITS.rule(rf"(?<![\w.,/\"])(?:{_INCH}{_PRIMES}? ?- ?)?{_INCH}({_PRIMES})(?!\w)")
def _inches(match: re.Match[str]) -> str:
    """A quotation mark after a number, unless it closes a quotation."""
    first, last, sign = match.groups()
    if sign == '"' and _OPEN_DOUBLE.search(text_before(match, 300)):
        return match[0]
    one = (not first and last in ("1", "1/2", "1/4", "1/8")) or _describes(match)
    return f"{f'{_quantity(first)} to ' if first else ''}{_quantity(last)} {'inch' if one else 'inches'}"


@UNITS.rule(rf"(?<![\w.,])({MINUS}?)({NUMBER}) ?%?(?: ?- ?({NUMBER}))? ?(%|‰)(?!\w)")
def _percent(match: re.Match[str]) -> str:
    minus, first, last, sign = match.groups()
    more = f" to {number(last)}" if last else ""
    return f"{number(minus + first)}{more} {'percent' if sign == '%' else 'per thousand'}"


@UNITS.rule(
    r"(?:(?<=[0-9s])|(?<=[0-9]x)|(?<=people)|(?<=/kg))(?<!/[0-9])(?<!/[0-9]{2})(?: ?/ ?| per )"
    r"(sq (?:mi|km|ft|m|yd)|(?:km|mi|m|cm|ft)\^?[23]|(?&per))(?![\w/^])"
)
def _rate(match: re.Match[str]) -> str:
    """ "500/day"; the figures or the noun before it are left for others."""
    unit = match[1].replace("^", "")
    return f" per {table('units').get(unit, unit)}"


_QUANTITY = rf"(?:{_MIXED}|{NUMBER})"
_POWERS = {"2": "square", "3": "cubic"}


@UNITS.rule(
    rf"(?:(?<![\w.,/^])|(?<=°[CF]/))(?<!\^-)(?<![A-Z]-)({MINUS}?)({_QUANTITY})"
    rf"(?:( ?- ?| to | or |/-)({MINUS}?{_QUANTITY}))?(\+?)( ?|-)((?&units))"
    r"(?:\^([23]))?((?: ?/ ?(?:[A-Za-zµμΩ]{1,5}|100 ?km)(?:\^?[23])?)?)(?![A-Za-z0-9^])(\.(?![\w.]))?"
)
def _with_unit(match: re.Match[str]) -> str:
    minus, first, joint, last, plus, gap, unit, power, per, point = match.groups()
    after = match.string[match.end() : match.end() + 2]
    joined = gap == after[:1] == "-" and (unit == "in" or len(unit) == 1)  # "3-in-1"
    if joined or (unit in table("attached-units") and gap == " " and not (point and unit in ("in", "mo", "pt"))):
        return match[0]
    thousands = unit == "K" and gap != " "  # "300 K" is kelvin
    if thousands or not _is_a_unit(match, unit, gap, after):
        return match[0]
    singular = f"{_POWERS[power]} {table('units')[unit]}" if power else table("units")[unit]
    words = _quantity(first)
    if last:
        words += f" {'to' if '-' in joint else joint.strip()} {_quantity(last)}"
    words += " plus" if plus else ""
    describes = _ARTICLE.search(text_before(match, 16)) and not per and after[:1] == " "
    one = gap == "-" or describes or (_is_one(first) and not (last or plus))  # "a 5-kg bag"
    named = singular if one else units(singular)
    end = "." if point and (not after.strip() or after[1:].isupper() or table("units")[unit] == unit) else ""
    return f"{'minus ' if minus else ''}{words} {named}{_per_unit(per)}{end}"


UNITS.add(
    r"(?<![\w/=])(km|m|cm|mm|ft|mi|in|yd)\^([23])(?![\w^])",
    lambda match: f"{_POWERS[match[2]]} {units(table('units')[match[1]])}",
)

# The numbers that the other rules left.
NUMBERS = Rules(needs=r"[0-9^]")

NUMBERS.add(
    r"(?:(?<![\w./,-])|(?<=[a-z]-))((?&special-numbers))(?![\w/]|[.,][0-9])",
    lambda match: table("special-numbers")[match[0]],
)
NUMBERS.add(r"(?<!\w)# ?(?=[0-9])", "number ")
NUMBERS.add(r"(?<=[A-Za-z]{2})# ?(?=[0-9])", " number ")  # "PO# 12"
NUMBERS.add(  # of a law: "401(k)", "501(c)(3)"
    r"(?<![\w.,/$-])([0-9]{3})\(([a-z])\)?(?:\(([0-9]{1,2})\))?(?!\w)",
    lambda match: join(pairs(match[1]), letters(match[2]), match[3] and cardinal(match[3])),
)


NUMBERS.add(
    rf"(?<![\w.])({MINUS}?{NUMBER})[eE]([+-]?)([0-9]{{1,3}})(?!\w|\.\w)",
    lambda match: f"{number(match[1])} times ten {_to_the_power(match[2], match[3])}",
)


@NUMBERS.rule(r"(?<=[\w)])\^(\()?([-+\N{MINUS SIGN}]?)([0-9]{1,4}|[a-z])(?(1)\))(?!\w|\.\w)")
def _power(match: re.Match[str]) -> str:
    _, sign, exponent = match.groups()
    if not sign and exponent in ("2", "3"):
        return " squared" if exponent == "2" else " cubed"
    if exponent.isalpha():
        return f" to the {exponent}"
    return f" {_to_the_power(sign, exponent)}"


NUMBERS.add(r"(?<=[0-9])\.(?=[xX]\b)", " point ")  # "3.x"


@NUMBERS.rule(r"(?<![\w.])([vV](?:\. ?)?)?([0-9]{1,6}(?:\.[0-9]{1,6}){1,5})(?=([A-Za-z]{0,5}[0-9]*)(?![\w.]*[0-9]))")
def _version(match: re.Match[str]) -> str:
    mark, written, rest = match.groups()
    parts = written.split(".")
    if not mark and len(parts) == 2:
        return match[0]  # a decimal
    words = number(written) if len(parts) == 2 else " point ".join(map(count, parts))
    return f"{'version ' if mark else ''}{words}{' ' if rest else ''}"


NUMBERS.add(r"(?<![\w.])v\.? ?([0-9]{1,4})(?![\w.]*[0-9])", lambda match: f"version {cardinal(match[1])}")
NUMBERS.add(r"(?:(?<=/[0-9])|(?<=/[0-9]{2}))-(?=[0-9]{1,2}/[0-9])", " to ")  # "1/4-1/2"
_FRACTION = Pattern(
    rf"(?<![\w./,])(?:({WHOLE})[ -])?([0-9]{{1,4}})/([0-9]{{1,4}})((?:st|nd|rd|th)s?)?(?![\w/]|[.,][0-9])"
)


def _fraction(match: re.Match[str]) -> str:
    whole, numerator, denominator, suffix = match.groups()
    words = _fraction_words(numerator, denominator, bool(suffix))
    if not whole:
        return words
    if words.startswith("one half"):
        words = words.replace("one half", "a half", 1)
    return f"{number(whole)} and {words}"


NUMBERS.add(_FRACTION, _fraction)
NUMBERS.add(r"(?<=[0-9]\.[0-9])/(?=(?:5|10|100)\b(?![/.,][0-9]))", " out of ")
NUMBERS.add(r"(?:(?<=[0-9]st)|(?<=[0-9]nd)|(?<=[0-9]rd)|(?<=[0-9]th))-(?=[0-9]{1,3}(?:st|nd|rd|th)\b)", " to ")
NUMBERS.add(rf"(?<![\w.,])({WHOLE})(?:st|nd|rd|th|ST|ND|RD|TH)(?![A-Za-z0-9])", lambda match: ordinal(match[1]))


@NUMBERS.rule(rf"(?<![\w:.])({NUMBER}):({NUMBER})(?::({NUMBER}))?(?![\w:]|\.[0-9])")
def _ratio(match: re.Match[str]) -> str:
    """ "3:1" is "three to one"; the year of a standard, "9001:2015", follows without a word."""
    first, last, third = match.groups()
    if len(first) > 3 and last[:2] in ("19", "20") and len(last) == 4:
        return f"{number(first)} {count(last)}"
    return f"{number(first)} to {number(last)}{f' to {number(third)}' if third else ''}"


NUMBERS.add(r"(?<![\w.])([A-Z])\.(?=[0-9]{2})", r"\1-")  # "H.264"


# Codes: "CVE-2021-44228", "ABC-123-XYZ".
NUMBERS.add(
    r"(?<![\w.-])[A-Z]{2,6}(?:-[A-Z]{1,6})?(?:-[0-9]{1,7})(?:-(?:[0-9]{1,7}|[A-Z]{1,6})){1,4}(?![\w-])",
    lambda match: " ".join(code(part) if part.isdecimal() else part for part in match[0].split("-")),
)


# Models: "737-800", "C-130"; and more than one of a kind: "F-16s", "747s", "three 9s".
@NUMBERS.rule(
    r"(?<![\w.,-])(7[0-9]7|(?<=Airbus )[0-9]{3})-([0-9]{1,4})(?![\w-])|\b([A-Z]{1,3})-([0-9]{3,4})(?![\w-]|\.[0-9])"
)
def _model(match: re.Match[str]) -> str:
    first, last, letters_before, figures = match.groups()
    return f"{pairs(first)} {code(last)}" if first else f"{letters_before} {pairs(figures)}"


_HOUSE = Pattern(r" [A-Z][a-z]")
_QUANTIFIED = Pattern(r"\b(?&quantified) $", re.IGNORECASE)


@NUMBERS.rule(rf"(?<![\w.,:])(?<!\w-)(?:({NUMBER}) ?- ?)?({NUMBER})(k|K|M|B|bn|mn|T)(\+?)(?![A-Za-z0-9])")
def _scaled(match: re.Match[str]) -> str:
    """ "5M" is five million, but for a name: "Apt. 4B". Billions and trillions want a word that counts beside them."""
    first, last, scale, plus = match.groups()
    before = text_before(match, 16)
    counts = first or plus or len(scale) > 1 or _QUANTIFIED.search(before)
    if _HOUSE.match(match.string, match.end()) or not (counts or scale in "kKM") or _is_numbered(before):
        return match[0]
    more = f"{number(first)} to" if first else ""
    return join(more, number(last), table("scales")[scale], "plus" if plus else "")


NUMBERS.add(
    r"(?<![\w.,-])[0-9]{1,4}(?:-[0-9]{1,4}){2,9}(?![\w-])",
    lambda match: " ".join(count(part) for part in match[0].split("-")),
)
NUMBERS.add(
    rf"(?<![\w.,-])({NUMBER}) ?- ?({NUMBER})(?![\w-]|\.[0-9])(?! ?=)",
    lambda match: f"{count(match[1])} {'' if re.match('0[0-9]', match[2]) else 'to '}{count(match[2])}",
)


# "3x faster", but for the x of a formula: "= 3x^2 - 2x".
@NUMBERS.rule(
    rf"(?<![\w.,=])(?:(?<![=+-] )|(?=[0-9.]+[xX] [a-z]))(?:({NUMBER}) ?- ?)?({NUMBER}[x×]|[0-9]{{1,2}}X)"
    r"(?![A-Za-z0-9]| ?[+=^]| - [0-9]| squared| cubed| to the)"
)
def _times(match: re.Match[str]) -> str:
    first, last = match.groups()
    return f"{f'{number(first)} to ' if first else ''}{number(last[:-1])} times"


NUMBERS.add(r"\b((?&Said-in-pairs) )([0-9]{3,4})\b(?![.,:/%-]?[0-9])", lambda match: match[1] + pairs(match[2]))


@NUMBERS.rule(rf"(^|[\s(\[=<>,;:/*×÷+|\"']|\b[a-z]\^)([-+±\N{{MINUS SIGN}}]) ?(?={NUMBER})")
def _sign(match: re.Match[str]) -> str:
    sign = {"+": "plus", "±": "plus or minus"}.get(match[2], "minus")
    return f"{match[1]}{'' if match[1] in ' (' else ' '}{sign} "


NUMBERS.add(r"(?<![\w.])([0-9]+\.[0-9]+)(?=[A-Za-z]{1,3}\b)", lambda match: f"{number(match[1])} ")  # "802.11ac"
NUMBERS.add(r"(?<=[A-Za-z])([0-9]{1,3}\.[0-9]{1,3})(?!\w|\.\w)", lambda match: f" {number(match[1])}")  # "PM2.5"
NUMBERS.add(r"(?<=[A-Za-z])-(?=[0-9])", " ")
NUMBERS.add(rf"(?<![A-Za-z0-9])({NUMBER})(?![A-Za-z0-9])", lambda match: count(match[1]))
_PER_UNIT = Pattern(r" ?/ ?([A-Za-zµμΩ]{1,5}|100 ?km)(?:\^?([23]))?")
# After a measure: the thing that it measures, so that "12-inch pizza" takes the singular.
_DESCRIBED = Pattern(r" (?!(?&after-measures)\b)[a-z]{2}")
# "a 5 kg bag" takes the singular, and so do both measures of "a 6 ft 2 in man".
_ARTICLE = Pattern(r"\b[Aa]n? (?:[0-9]{1,3} (?:ft|feet|foot) )?$")
# Before a figure and a letter that are a name ("Bus 5B"); and after a house number, a street.
_NUMBERED = Pattern(r"\b(?i:(?&numbered))\.? $|(?<![.!?] )(?<!^)\b[A-Z][A-Za-z]*\.? $")


def _is_numbered(before: str) -> bool:
    """Whether the text before a figure is numbered by it."""
    return bool(_NUMBERED.search(before)) and not _QUANTIFIED.search(before)


def _quantity(written: str) -> str:
    return _FRACTION.sub(_fraction, written) if "/" in written else number(written)


def _is_one(written: str) -> bool:
    numerator, slash, denominator = written.partition("/")
    return written == "1" or bool(slash and numerator.isdecimal() and int(numerator) < int(denominator))


def _is_a_unit(match: re.Match[str], unit: str, gap: str, after: str) -> bool:
    """Whether a single letter is a unit: "5 A" in a list is an A, "708 N 1st St" goes north."""
    if len(unit) > 1 or not unit.isalpha():
        return True
    if gap == " " and unit not in "mghsKlLVWJN":
        return False
    if unit.isupper() and after[:1] == " " and after[1:].isalnum() and not after[1:].islower():
        return False
    return not (unit.isupper() or gap == " ") or not _is_numbered(text_before(match, 16))


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


def _describes(match: re.Match[str]) -> bool:
    """Whether a measure stands before what it measures."""
    return bool(_ARTICLE.search(text_before(match, 16)) or _DESCRIBED.match(match.string, match.end()))


def _to_the_power(sign: str | None, figures: str) -> str:
    return f"to the power of {'minus ' if sign in ('-', chr(0x2212)) else ''}{cardinal(figures)}"


def _fraction_words(numerator: str, denominator: str, with_suffix: bool) -> str:
    above, below = int(numerator), int(denominator)
    if not with_suffix:
        if above > 9 and below == above + 1:  # two versions: "Windows 10/11"
            return f"{cardinal(numerator)} slash {cardinal(denominator)}"
        if above + below == 100 and above >= 10 <= below:  # shares: "70/30"
            return f"{cardinal(numerator)} {cardinal(denominator)}"
        if below in (10, 100) and above > 1:
            return f"{cardinal(numerator)} out of {cardinal(denominator)}"
        if (above >= below and (below > 9 or above > 99)) or below > 1000:
            return f"{cardinal(numerator)} over {cardinal(denominator)}"
    if below < 2:
        return f"{cardinal(numerator)} over {cardinal(denominator)}"
    name = {2: "half", 4: "quarter"}.get(below) or ordinal(denominator)
    if above != 1:
        name = "halves" if below == 2 else plural(name)
    return f"{cardinal(numerator)} {name}"
