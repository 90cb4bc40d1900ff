"""How each kind of text is read: the pairs of tests/data/normalizer_pairs.tsv, by category.

A line holds a category, a text as it is written, and its reading (further readings, which only comparisons with other
normalisers take as well, may follow). Readings are compared as words, after the classic cleaners.
"""

import re
from collections import Counter
from pathlib import Path

import pytest

from tacotron2.text.cleaners import english_cleaners
from tacotron2.text.normalizer import get_normalizer

PAIRS = [
    line.split("\t")[:3]
    for line in (Path(__file__).parent / "data" / "normalizer_pairs.tsv").read_text(encoding="utf-8").splitlines()
]
CATEGORIES = sorted({category for category, _, _ in PAIRS})
HOLDS = 0.98  # the share of all pairs that is read as written here; and of each category:
HOLDS_IN_CATEGORY = 0.9


def words(text: str) -> list[str]:
    return re.sub(r"[^a-z' ]", " ", english_cleaners(text)).split()


def misread(category: str) -> list[str]:
    return [
        f"{written!r}: {get_normalizer()(written)!r}, not {read!r}"
        for of, written, read in PAIRS
        if of == category and words(get_normalizer()(written)) != words(read)
    ]


def test_the_list_is_long_and_broad() -> None:
    assert len(PAIRS) >= 400
    assert min(Counter(category for category, _, _ in PAIRS).values()) >= 6


@pytest.mark.parametrize("category", CATEGORIES)
def test_the_pairs_of_a_category_hold(category: str) -> None:
    wrong = misread(category)
    pairs = sum(of == category for of, _, _ in PAIRS)
    assert len(wrong) <= (1 - HOLDS_IN_CATEGORY) * pairs, wrong


def test_the_share_of_all_pairs_that_holds() -> None:
    wrong = [text for category in CATEGORIES for text in misread(category)]
    assert 1 - len(wrong) / len(PAIRS) >= HOLDS, wrong


def test_what_was_read_needs_no_second_reading() -> None:
    read = [get_normalizer()(written) for _, written, _ in PAIRS]
    assert [get_normalizer()(text) for text in read] == read
