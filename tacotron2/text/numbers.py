"""Numbers, ordinals and sums of money in English words, as the classic front end words them.

This module departs from the classic where the classic's reading, here in brackets, is wrong: 1.05 ("one point five"),
$1.5 ("one dollar, five cents"), $1.234 ("one dollar, two hundred thirty-four cents"), $2.5 million ("two dollars, five
cents million"). It reads pounds like dollars: the classic's own rule for them never ran.
"""

import re

from tacotron2.text.rewriting import Pattern
from tacotron2.text.tables import table

# The libraries for these words load slowly (inflect) or depend on a package without a wheel (num2words).
SMALL = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"),
    *("thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
)
_TENS = ("", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_SCALES = (
    *("", " thousand", " million", " billion", " trillion", " quadrillion", " quintillion", " sextillion"),
    *(" septillion", " octillion", " nonillion", " decillion"),
)
NUMBER_WORDS = frozenset(word for words in (*SMALL, *_TENS, *_SCALES, "hundred", "point") for word in words.split())
_MOST_DIGITS = 3 * len(_SCALES)  # longer numbers have no name: they are read digit by digit
_ORDINALS = {
    **{"one": "first", "two": "second", "three": "third", "five": "fifth", "eight": "eighth", "nine": "ninth"},
    "twelve": "twelfth",
}

# Patterns that begin with a run of digits match at its first digit alone: tried from each digit, a long run would take
# quadratic time.
_GROUPED = Pattern(r"[0-9][0-9,]+[0-9]")
_MONEY = Pattern(r"([$£])([0-9.,]*[0-9])( (?:hundred|thousand|million|billion|trillion)\b)?")
_DECIMAL = Pattern(r"(?<![0-9])([0-9]+)\.([0-9]+)")
_ORDINAL = Pattern(r"(?<![0-9])([0-9]+)(?:st|nd|rd|th)")
_NUMBER = Pattern(r"[0-9]+")


def expand_numbers(text: str) -> str:
    """Replaces every number, ordinal and sum in $ or £ of a lower-case text by words. Takes linear time."""
    text = _GROUPED.sub(lambda match: match[0].replace(",", ""), text)
    text = _MONEY.sub(_money, text)
    text = _DECIMAL.sub(_decimal, text)
    text = _ORDINAL.sub(lambda match: ordinal(match[1]), text)
    return _NUMBER.sub(lambda match: _plain(match[0]), text)


def cardinal(digits: str) -> str:
    """The words of a number given as decimal digits: "1234" is "one thousand, two hundred thirty-four"."""
    digits = digits.lstrip("0") or "0"
    if len(digits) > _MOST_DIGITS:
        return " ".join(SMALL[int(digit)] for digit in digits)
    return _scaled(digits, "")


def ordinal(digits: str) -> str:
    """The words of an ordinal: "1,001" is "one thousand and first" (the classic says "and" in ordinals alone)."""
    digits = digits.replace(",", "").lstrip("0") or "0"
    if len(digits) > _MOST_DIGITS:
        return f"{cardinal(digits[:-1])} {ordinal(digits[-1])}"
    words = _scaled(digits, " and")
    start = max(words.rfind(" "), words.rfind("-")) + 1
    last = words[start:]
    if last in _ORDINALS:
        return words[:start] + _ORDINALS[last]
    return words[:-1] + "ieth" if last.endswith("y") else words + "th"


def year(number: int) -> str:
    """A number from 1001 to 2999 as years are read: "nineteen eighty-four", "nineteen oh five", "two thousand one"."""
    if number == 2000:
        return "two thousand"
    if 2000 < number < 2010:
        return f"two thousand {SMALL[number % 100]}"
    century, rest = divmod(number, 100)
    if rest == 0:
        return f"{_below_hundred(century)} hundred"
    return f"{_below_hundred(century)} {'oh ' if rest < 10 else ''}{_below_hundred(rest)}"


def _scaled(digits: str, hundred_and: str) -> str:
    """A number of at most 36 digits, in groups of three; `hundred_and` stands between the hundreds and what follows."""
    groups = [int(digits[max(0, stop - 3) : stop]) for stop in range(len(digits), 0, -3)]
    said = [
        _below_thousand(group, hundred_and) + _SCALES[scale]
        for scale, group in reversed(list(enumerate(groups)))
        if group
    ]
    if len(said) > 1 and 0 < groups[0] < 100:
        return ", ".join(said[:-1]) + f"{hundred_and} {said[-1]}"
    return ", ".join(said) or SMALL[0]


def _below_thousand(number: int, hundred_and: str) -> str:
    hundreds, rest = divmod(number, 100)
    if not hundreds:
        return _below_hundred(rest)
    return f"{SMALL[hundreds]} hundred" + (f"{hundred_and} {_below_hundred(rest)}" if rest else "")


def _below_hundred(number: int) -> str:
    if number < 20:
        return SMALL[number]
    tens, units = divmod(number, 10)
    return f"{_TENS[tens]}-{SMALL[units]}" if units else _TENS[tens]


def _plain(digits: str) -> str:
    significant = digits.lstrip("0")
    if len(significant) == 4 and 1000 < int(significant) < 3000:
        return year(int(significant))
    return cardinal(digits)


def _decimal(match: re.Match[str]) -> str:
    whole, fraction = match.groups()
    significant = fraction.lstrip("0")
    zeros = len(fraction) - len(significant) if significant else 0
    return f"{whole} point {'zero ' * zeros}{fraction[zeros:]}"


def _money(match: re.Match[str]) -> str:
    one, many, one_part, many_parts = table("currency-signs")[match[1]].split("\t")
    amount, scale = match[2].replace(",", ""), match[3] or ""
    whole, _, fraction = amount.partition(".")
    if scale or len(fraction) > 2:
        return f"{amount}{scale} {many}"
    whole, parts = whole.lstrip("0"), fraction.ljust(2, "0").lstrip("0")
    said = []
    if whole:
        said.append(f"{whole} {one if whole == '1' else many}")
    if parts:
        said.append(f"{parts} {one_part if parts == '1' else many_parts}")
    return ", ".join(said) or f"zero {many}"
