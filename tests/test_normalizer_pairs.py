"""How each kind of text is read: the pairs of tests/data/normalizer_pairs.tsv, by category.

A line holds a category, a text as it is written, and its reading (further readings, which only comparisons with other
normalisers take as well, may follow). Readings are compared as words, after the classic cleaners.
"""

import re
from collections import defaultdict
from pathlib import Path

import pytest

from tacotron2.text.cleaners import english_cleaners
from tacotron2.text.normalizer import get_normalizer

PAIRS: dict[str, list[tuple[str, str]]] = defaultdict(list)
for line in (Path(__file__).parent / "data" / "normalizer_pairs.tsv").read_text(encoding="utf-8").splitlines():
    category, written, read = line.split("\t")[:3]
    PAIRS[category].append((written, read))


def words(text: str) -> list[str]:
    return re.sub(r"[^a-z' ]", " ", english_cleaners(text)).split()


def test_the_list_is_long_and_broad() -> None:
    assert sum(map(len, PAIRS.values())) >= 400
    assert min(map(len, PAIRS.values())) >= 6


@pytest.mark.parametrize("category", sorted(PAIRS))
def test_the_pairs_of_a_category_hold_and_need_no_second_reading(category: str) -> None:
    normalize = get_normalizer()
    for written, read in PAIRS[category]:
        found = normalize(written)
        assert words(found) == words(read), written
        assert normalize(found) == found
