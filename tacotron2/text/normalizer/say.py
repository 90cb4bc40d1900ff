"""The words for figures and letters."""

import re

from tacotron2.text.numbers import SMALL, cardinal, year
from tacotron2.text.tables import table

DIGITS = SMALL[:10]
FIGURES = "[0-9]"

# A number as it is written: groups of three or a plain run, then perhaps decimals.
WHOLE = r"(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)"
NUMBER = rf"(?:{WHOLE}(?:\.[0-9]+)?|\.[0-9]+)"

MINUS = "[-\N{MINUS SIGN}]"
FREE = r"(?<![\w.,])"  # a number begins here

# Private use characters. Each stands for an untouched stretch while the rules work around it.
FIRST_HELD, LAST_HELD = 0xF0000, 0x10FFFD
HELD = f"{chr(FIRST_HELD)}-{chr(LAST_HELD)}"  # within a character class


def text_before(match: re.Match[str], most: int) -> str:
    """The last characters before a match, at most so many."""
    return match.string[max(0, match.start() - most) : match.start()]


def number(written: str) -> str:
    """ "1,234.05" is "one thousand, two hundred thirty-four point zero five"; a sign before it is read."""
    sign = "minus " if written.startswith(("-", "\N{MINUS SIGN}")) else ""
    whole, point, decimals = written.lstrip("+-\N{MINUS SIGN}").replace(",", "").partition(".")
    words = cardinal(whole) if whole or not decimals else ""
    return sign + (join(words, "point", digits(decimals)) if point and decimals else words)


def count(written: str) -> str:
    """A whole number as it stands alone: four figures from 1001 to 2999 as the years they mostly are."""
    if len(written) == 4 and written.isdecimal() and 1000 < int(written) < 3000:
        return year(int(written))
    if len(written) > 1 and written.startswith("0") and written.isdecimal():
        return digits(written)
    return number(written)


def digits(written: str) -> str:
    """Digit by digit; other characters are passed over."""
    return " ".join(DIGITS[int(digit)] for digit in written if digit in "0123456789")


def pairs(written: str) -> str:
    """Three or four figures of a flight, a room, a model: "747" is "seven forty-seven", "101" is "one oh one"."""
    if len(written) not in (3, 4) or written.startswith("0"):
        return digits(written) if written.startswith("0") else cardinal(written)
    first, last = written[:-2], written[-2:]
    if last == "00":
        return cardinal(written) if len(written) == 3 or first[-1] == "0" else f"{cardinal(first)} hundred"
    if len(written) == 4 and first[-1] == "0" and first[0] != "1":
        return f"{cardinal(first)} {two_digits(last)}" if last[0] != "0" else cardinal(written)
    return f"{cardinal(first)} {two_digits(last)}"


def two_digits(written: str) -> str:
    """ "05" is "oh five", as in times and years."""
    return f"oh {DIGITS[int(written[1])]}" if written[0] == "0" else cardinal(written)


def letters(written: str) -> str:
    """The names of letters: "GPU" is "gee pee you". Other characters are passed over."""
    names = table("letters")
    return " ".join(names[letter] for letter in written.lower() if letter in names)


def spelt(written: str) -> str:
    """Each letter, digit and sign by its name; others as they are."""
    names = table("letters") | dict(zip("0123456789", DIGITS, strict=True)) | table("signs-in-addresses")
    return " ".join(names.get(character.lower(), character) for character in written if not character.isspace())


def code(written: str) -> str:
    """The figures within a name: up to two as a number, three or four in pairs, more (or after a zero) one by one."""
    if written.startswith("0") or len(written) > 4:
        return digits(written)
    return cardinal(written) if len(written) < 3 else pairs(written)


def plural(words: str) -> str:
    """The plural of a noun that the rules put after a number."""
    if words.endswith("hertz"):
        return words
    if words.endswith(("s", "x", "ch", "sh")):
        return words + "es"
    if words.endswith("y") and words[-2] not in "aeiou":
        return words[:-1] + "ies"
    return words + "s"


def units(singular: str) -> str:
    """The plural of a unit: its first noun's, "miles per hour" and "degrees Celsius"."""
    for preposition in (" per ", " of "):
        head, found, rest = singular.partition(preposition)
        if found:
            return units(head) + found + rest
    if singular.startswith("degree "):
        return "degrees " + singular.removeprefix("degree ")
    first, space, last = singular.rpartition(" ")
    return first + space + (table("irregular-plurals").get(last) or plural(last))


def join(*parts: str | None) -> str:
    """The parts that are not empty, with a space between them."""
    return " ".join(part for part in parts if part)
