"""Numbers, ordinals and sums of money in English words, as the classic front end words them.

The classic asks the package inflect for the words. Importing it takes as long as loading a model and each number 0.15
ms, so the few rules that matter are here; the tests hold them against inflect.

Where the classic says another number than the one written, this module doesn't follow it: 1.05 ("one point five"),
$1.5 ("one dollar, five cents"), $1.234 ("one dollar, two hundred thirty-four cents"), $2.5 million ("two dollars, five
cents million"). Pounds, which never got as far as its rule for them, are read like dollars.
"""

import re

# ruff: noqa: SIM905  rows of words are easier to read than rows of quotation marks
_TEENS = "ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen"
_ONES = f"zero one two three four five six seven eight nine {_TEENS}".split()
_TENS = "_ _ twenty thirty forty fifty sixty seventy eighty ninety".split()
_BIG_SCALES = "quadrillion quintillion sextillion septillion octillion nonillion decillion"
_SCALES = f"_ thousand million billion trillion {_BIG_SCALES}".split()
_MOST_DIGITS = 3 * len(_SCALES)  # longer numbers have no name and are read digit by digit
_ORDINALS = {
    "one": "first",
    "two": "second",
    "three": "third",
    "five": "fifth",
    "eight": "eighth",
    "nine": "ninth",
    "twelve": "twelfth",
}
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


def cardinal(digits: str, before_tens: str = " ") -> str:
    """The words of a number given as decimal digits: "1234" is "one thousand, two hundred thirty-four".

    Args:
        digits: any number of them; beyond 36 each is read on its own.
        before_tens: what stands between hundreds and the rest; " and " in British style.
    """
    digits = digits.lstrip("0") or "0"
    if len(digits) > _MOST_DIGITS:
        return " ".join(_ONES[int(digit)] for digit in digits)
    if digits == "0":
        return _ONES[0]
    groups = []
    rest = int(digits)
    for scale in _SCALES:
        rest, group = divmod(rest, 1000)
        if group:
            words = _below_thousand(group, before_tens)
            groups.append(words if scale == "_" else f"{words} {scale}")
    # "three thousand one", but "three thousand, one hundred one"
    ends_below_hundred = 0 < int(digits) % 1000 < 100 and len(groups) > 1
    higher = ", ".join(reversed(groups[1:] if ends_below_hundred else groups))
    return f"{higher}{before_tens}{groups[0]}" if ends_below_hundred else higher


def ordinal(digits: str) -> str:
    """The words of an ordinal: "101" is "one hundred and first" (the classic says "and" in ordinals alone)."""
    words = cardinal(digits, before_tens=" and ")
    start = max(words.rfind(" "), words.rfind("-")) + 1
    last = words[start:]
    if last in _ORDINALS:
        return words[:start] + _ORDINALS[last]
    return words[:start] + (last[:-1] + "ieth" if last.endswith("y") else last + "th")


def year(number: int) -> str:
    """A number from 1001 to 2999 as years are read: "nineteen eighty-four", "nineteen oh five", "two thousand one"."""
    century, rest = divmod(number, 100)
    if number == 2000:
        return "two thousand"
    if 2000 < number < 2010:
        return f"two thousand {_ONES[rest]}"
    if rest == 0:
        return f"{_below_hundred(century)} hundred"
    return f"{_below_hundred(century)} {'oh ' if rest < 10 else ''}{_below_hundred(rest)}"


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


def _below_hundred(number: int) -> str:
    if number < len(_ONES):
        return _ONES[number]
    tens, ones = divmod(number, 10)
    return f"{_TENS[tens]}-{_ONES[ones]}" if ones else _TENS[tens]


def _below_thousand(number: int, before_tens: str) -> str:
    hundreds, rest = divmod(number, 100)
    if not hundreds:
        return _below_hundred(rest)
    return f"{_ONES[hundreds]} hundred{before_tens + _below_hundred(rest) if rest else ''}"
