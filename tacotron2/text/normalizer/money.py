"""Sums of money, and the ways in which the world groups figures."""

import re

from tacotron2.text.normalizer.dates import MONTH
from tacotron2.text.normalizer.say import (
    FIGURES,
    FREE,
    MINUS,
    NUMBER,
    WHOLE,
    cardinal,
    join,
    letters,
    number,
    text_before,
)
from tacotron2.text.rewriting import Pattern, Rules
from tacotron2.text.tables import table

# The ways to group figures, then sums of money.
MONEY = Rules(needs=FIGURES)

MONEY.add(r"(?<=[0-9]) ?[xX×] ?(?=[$£€][0-9])", " times ")

# Accountants' parentheses around what is below zero: "$(45)m".
MONEY.add(rf"([$£€])\(({NUMBER})\)|\(([$£€])({NUMBER})\)(?= ?(?&scales)\b)", r"-\1\3\2\4")

# The continent's decimal comma: where two figures or fewer follow it, it doesn't part thousands.
MONEY.add(
    r"(?<![\w.,])([0-9]{1,3}(?:\.[0-9]{3}){1,5}),([0-9]{1,2})(?![\w,]|\.[0-9])",
    lambda match: f"{match[1].replace('.', ',')}.{match[2]}",
)
_NO_FIRST_GROUP = Pattern(rf"(?:\b{MONTH}\.?|[0-9]) $")


# Groups of three, between spaces, apostrophes, underscores or points; India's: groups of two, the last of three.
@MONEY.rule(
    r"(?<![\w.,'/:-])([0-9]{1,3})((?: [0-9]{3}){1,6}|(?:['_][0-9]{3}){1,6})(?:,([0-9]{1,2}))?(?![\w']|[., -]?[0-9])"
)
def _spaced(match: re.Match[str]) -> str:
    """One number with spaces between its groups, unless it seems to be several numbers in a row."""
    first, rest, decimals = match.groups()
    before = text_before(match, 12)
    likely = len(first) < 3 or " 000" in rest or before.endswith(("$", "£", "€", "₹"))
    if rest[0] == " " and (first[0] == "0" or not likely or _NO_FIRST_GROUP.search(before)):
        return match[0]
    return first + re.sub("[ '_]", ",", rest) + (f".{decimals}" if decimals else "")


MONEY.add(
    r"(?<![\w.,])(?:[0-9]{1,3}(?:\.[0-9]{3}){2,6}(?![.,]?[0-9])|[0-9]{1,2}(?:,[0-9]{2}){1,6},[0-9]{3}(?!,[0-9]))(?!\w)",
    lambda match: f"{int(re.sub('[.,]', '', match[0])):,}",
)
MONEY.add(r"(?<=[$£€₹])( ?[0-9]+),([0-9]{1,2})(?![0-9]|,[0-9])", r"\1.\2")
MONEY.add(
    rf"(?<![\w.,])({NUMBER}) ?([kKmMbBtT]|bn|mn)(?= (?:[a-z]+ )?(?&counted-nouns)\b)",
    lambda match: f"{number(match[1])} {table('scales')[match[2]]}",
)
MONEY.add(r"(?<=[0-9]),(?=[0-9]{1,2} ?(?:[%€°]|[kcm]?[mgl]\b|km\b))", ".")
_SCALE = r"(?:[ -]?((?&scales))\b)?"


@MONEY.rule(
    rf"\b([Aa]|[Aa]nother|[Ee]very|[Tt]his|[Tt]hat) (\$|£|€)({NUMBER}){_SCALE}(?=[ -][a-z])"
    r"(?! (?:and|or|to|for|is|was|in|per|a|on)\b)"
)
def _note(match: re.Match[str]) -> str:
    """ "a $20 bill" is "a twenty-dollar bill"."""
    article, currency, written, scale = match.groups()
    if "." in written and not scale:
        return match[0]
    return join(article, number(written), table("scales")[scale] if scale else "", _currency(currency)[0])


_PER = r"(?: ?/ ?([A-Za-z]{1,12})\b)?"


@MONEY.rule(
    rf"(?<![\w.])({MINUS}?)((?&currency-signs)|(?&currency-codes)\b ?)({MINUS}?) ?({NUMBER})"
    rf"(?:(?: ?(million|billion|[kKmMbB]n?))? ?- ?(?&currency-signs)?({NUMBER}))?{_SCALE}(\+?){_PER}"
)
def _money(match: re.Match[str]) -> str:
    minus, currency, minus_inside, first, first_scale, last, scale, plus, unit = match.groups()
    currency = currency.strip()
    sign = "minus " if minus or minus_inside else ""
    more = " plus" if plus else ""
    if last is None:
        space = " " * match.string[match.end() : match.end() + 1].isalpha()  # "$1,000pcm"
        return sign + _amount(currency, first, scale) + more + _per(unit) + space
    if first_scale and first_scale != scale:
        one = f"{_amount(currency, first, first_scale)} to "
    else:
        one = f"{number(first)} to " if scale or "." not in first else f"{_amount(currency, first, None)} to "
    return sign + one + _amount(currency, last, scale) + more + _per(unit)


@MONEY.rule(
    rf"(?<![\w.,$£€])({MINUS}?)({WHOLE}(?:[.,][0-9]{{1,2}})?|{NUMBER}){_SCALE} ?([€£¥₹₽₺₴]|(?&currency-codes)\b){_PER}"
)
def _money_after(match: re.Match[str]) -> str:
    minus, written, scale, currency, unit = match.groups()
    whole, comma, part = written.rpartition(",")
    if comma and len(part) < 3:
        written = f"{whole}.{part}"  # as the continent writes it
    return ("minus " if minus else "") + _amount(currency, written, scale) + _per(unit)


@MONEY.rule(rf"{FREE}({NUMBER}) ?(¢)|{FREE}([0-9]{{1,2}})(p)\b")
def _cents(match: re.Match[str]) -> str:
    figures, _, pence, _ = match.groups()
    one, many = ("cent", "cents") if figures else ("penny", "pence")
    figures = figures or pence
    return f"{number(figures)} {one if figures == '1' else many}"


# Of a share ("$AAPL"), and of a pair of currencies ("EUR/USD"); and the prompt before a command.
TICKERS = Rules(needs=r"\$|[A-Z]{3}/?[A-Z]{3}")
TICKERS.add(r"\$(?=[A-Za-z])|^\$ (?=[a-z])", "")
TICKERS.add(
    r"\b(?:(?&currency-codes)/?(?&currency-codes)|(?&currency-codes)/[A-Z]{3}|[A-Z]{3}/(?&currency-codes))\b",
    lambda match: letters(match[0]),
)


def _currency(written: str) -> list[str]:
    """The names of one and of many, of one hundredth and of many; "" where nobody counts hundredths."""
    names = table("currency-signs").get(written) or table("currency-codes")[written]
    return [name.removeprefix("-") for name in names.split("\t")]


def _amount(currency: str, written: str, scale: str | None) -> str:
    """The words of a sum without its sign: "five dollars and ninety-nine cents"."""
    one, many, one_part, many_parts = _currency(currency)
    if scale:
        return f"{number(written)} {table('scales')[scale]} {many}"
    whole, _, part = written.replace(",", "").partition(".")
    if not one_part and not part.strip("0"):
        part = ""
    if len(part) > 2:
        part = part[:2] + part[2:].rstrip("0")
    if len(part) > 2 or (part and not one_part):
        return f"{number(written)} {many}"
    whole, part = whole.lstrip("0"), part.ljust(2, "0").lstrip("0") if part else ""
    said = []
    if whole or not part:
        said.append(f"{cardinal(whole or '0')} {one if whole == '1' else many}")
    if part:
        said.append(f"{cardinal(part)} {one_part if part == '1' else many_parts}")
    return " and ".join(said)


def _per(unit: str | None) -> str:
    if not unit:
        return ""
    return f" per {'month' if unit == 'm' else table('units').get(unit, unit)}"
