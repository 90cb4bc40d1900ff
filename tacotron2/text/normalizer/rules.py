"""The rules in the order in which they rewrite a text. Each takes linear time and leaves words for the next ones."""

from collections.abc import Callable

from tacotron2.text.normalizer.abbreviations import read_abbreviations
from tacotron2.text.normalizer.addresses import read_addresses
from tacotron2.text.normalizer.capitals import read_capitals
from tacotron2.text.normalizer.dates import read_dates, read_times
from tacotron2.text.normalizer.money import read_money
from tacotron2.text.normalizer.quantities import read_numbers, read_units
from tacotron2.text.normalizer.signs import read_signs
from tacotron2.text.normalizer.telephones import read_telephones
from tacotron2.text.normalizer.typography import close_up

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
