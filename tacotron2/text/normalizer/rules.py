"""The rules in the order in which they rewrite a text, block by block."""

from collections.abc import Callable

from tacotron2.text.normalizer.abbreviations import read_abbreviations
from tacotron2.text.normalizer.addresses import read_addresses
from tacotron2.text.normalizer.capitals import read_capitals
from tacotron2.text.normalizer.dates import read_dates, read_times
from tacotron2.text.normalizer.money import read_money
from tacotron2.text.normalizer.quantities import read_numbers, read_units
from tacotron2.text.normalizer.say import Held
from tacotron2.text.normalizer.signs import read_signs
from tacotron2.text.normalizer.telephones import read_telephones
from tacotron2.text.normalizer.typography import BLOCK, blocks, close_up
from tacotron2.text.rewriting import Pattern

RULES: tuple[Callable[[str], str], ...] = (
    read_addresses,
    read_telephones,
    read_dates,
    read_times,
    read_money,
    read_units,
    read_abbreviations,
    read_numbers,
    read_capitals,
    read_signs,
    close_up,
)

_OUTER_BREAKS = Pattern(r"\A\n+|(?<!\n)\n+\Z")
_BLOCK_END = Pattern(r"([.!?:;,][\"')\]}]*)?\n+")


def normalize(text: str) -> str:
    """The text as it will be read, in one line. Each block but the last gets an end if it has none."""
    held = Held()
    text = BLOCK.sub(lambda match: _read(match[0]), blocks(held.hold(text)))
    text = _BLOCK_END.sub(lambda match: f"{match[1] or '.'} ", _OUTER_BREAKS.sub("", text))
    return held.release(text)


def _read(block: str) -> str:
    for rule in RULES:
        block = rule(block)
    return block
