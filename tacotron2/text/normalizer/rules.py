"""The rules in the order in which they rewrite a text, block by block."""

from collections.abc import Callable

from tacotron2.text.normalizer.abbreviations import ABBREVIATIONS, NUMERALS
from tacotron2.text.normalizer.addresses import read_addresses
from tacotron2.text.normalizer.capitals import CAPITALS
from tacotron2.text.normalizer.dates import DATES, MONTHS, TIMES, WEEKDAYS
from tacotron2.text.normalizer.money import MONEY, TICKERS
from tacotron2.text.normalizer.quantities import NUMBERS, UNITS
from tacotron2.text.normalizer.say import Held
from tacotron2.text.normalizer.signs import SIGNS
from tacotron2.text.normalizer.telephones import TELEPHONES
from tacotron2.text.normalizer.typography import BLOCK, CLOSE_UP, blocks
from tacotron2.text.rewriting import Pattern, matched

RULES: tuple[Callable[[str], str], ...] = (
    *(read_addresses, TELEPHONES, WEEKDAYS, DATES, MONTHS, TIMES, MONEY, TICKERS, UNITS, ABBREVIATIONS, NUMERALS),
    *(NUMBERS, CAPITALS, SIGNS, CLOSE_UP),
)

_OUTER_BREAKS = Pattern(r"\A\n+|(?<!\n)\n+\Z")
_BLOCK_END = Pattern(r"([.!?:;,][\"')\]}]*)?\n+")


def normalize(text: str) -> str:
    """The text as it will be read, in one line. Each block but the last gets an end if it has none."""
    held = Held()
    text = BLOCK.sub(lambda match: _read(matched(match)), blocks(held.hold(text)))
    text = _BLOCK_END.sub(lambda match: f"{match[1] or '.'} ", _OUTER_BREAKS.sub("", text))
    return held.release(text)


def _read(block: str) -> str:
    for rule in RULES:
        block = rule(block)
    return block
