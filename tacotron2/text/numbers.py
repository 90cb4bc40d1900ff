"""Numbers, ordinals and sums of money in English words, as the classic front end words them.

Where the classic says another number than the one written, this module doesn't follow it: 1.05 ("one point five"),
$1.5 ("one dollar, five cents"), $1.234 ("one dollar, two hundred thirty-four cents"), $2.5 million ("two dollars, five
cents million"). Pounds, which never got as far as its rule for them, are read like dollars.
"""

import functools
import re
from typing import Any

_DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_MOST_DIGITS = 36  # longer numbers have no name and are read digit by digit
_CURRENCIES = {  # one, many, one of the hundredth part, many of them
    "$": ("dollar", "dollars", "cent", "cents"),
    "£": ("pound", "pounds", "penny", "pence"),
}

# A pattern that begins with a run of digits begins only at the run's first digit: without that, a long run that does
# not match would be tried again from each of its digits, in quadratic time.
_GROUPED = re.compile(r"[0-9][0-9,]+[0-9]")
_MONEY = re.compile(r"([$£])([0-9.,]*[0-9])( (?:hundred|thousand|million|billion|trillion)\b)?")
_DECIMAL = re.compile(r"(?<![0-9])([0-9]+)\.([0-9]+)")
_ORDINAL = re.compile(r"(?<![0-9])([0-9]+)(?:st|nd|rd|th)")
_NUMBER = re.compile(r"[0-9]+")


def expand_numbers(text: str) -> str:
    """Replaces every number, ordinal and sum in $ or £ of a lower-case text by words. Takes linear time."""
    text = _GROUPED.sub(lambda match: match[0].replace(",", ""), text)
    text = _MONEY.sub(_money, text)
    text = _DECIMAL.sub(_decimal, text)
    text = _ORDINAL.sub(lambda match: ordinal(match[1]), text)
    return _NUMBER.sub(lambda match: _plain(match[0]), text)


@functools.cache
def _inflect() -> Any:
    import inflect  # takes seconds to load: only texts with numbers wait for it

    return inflect.engine()


def cardinal(digits: str) -> str:
    """The words of a number given as decimal digits: "1234" is "one thousand, two hundred thirty-four"."""
    digits = digits.lstrip("0") or "0"
    if len(digits) > _MOST_DIGITS:
        return " ".join(_DIGITS[int(digit)] for digit in digits)
    return _inflect().number_to_words(digits, andword="")


def ordinal(digits: str) -> str:
    """The words of an ordinal: "101" is "one hundred and first" (the classic says "and" in ordinals alone)."""
    digits = digits.lstrip("0") or "0"
    if len(digits) > _MOST_DIGITS:
        return f"{cardinal(digits[:-1])} {ordinal(digits[-1])}"
    return _inflect().number_to_words(_inflect().ordinal(digits))


def year(number: int) -> str:
    """A number from 1001 to 2999 as years are read: "nineteen eighty-four", "nineteen oh five", "two thousand one"."""
    if number == 2000:
        return "two thousand"
    if 2000 < number < 2010:
        return f"two thousand {cardinal(str(number % 100))}"
    if number % 100 == 0:
        return f"{cardinal(str(number // 100))} hundred"
    return _inflect().number_to_words(number, andword="", zero="oh", group=2).replace(", ", " ")


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
    one, many, one_part, many_parts = _CURRENCIES[match[1]]
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
