"""The text normaliser: what it promises whatever the text. How each kind of text is read: test_normalizer_pairs.py."""

import pytest

from common.errors import UserError
from tacotron2.text.normalizer import NORMALIZERS, Normalizer, get_normalizer


def test_a_normaliser_is_chosen_by_name() -> None:
    assert NORMALIZERS == ("english", "none")
    assert get_normalizer("none")("Dr. 5% “x”") == "Dr. 5% “x”"
    assert get_normalizer("english")("5%") == get_normalizer()("5%") == Normalizer()("5%") == "five percent"
    with pytest.raises(UserError, match='unknown text normaliser "klingon": choose english, none'):
        get_normalizer("klingon")


def test_arpabet_passes_through_untouched() -> None:
    assert (
        get_normalizer()("Say {HH AW1 S IH0 Z} & {K AE1 T} 5 times") == "Say {HH AW1 S IH0 Z} and {K AE1 T} five times"
    )
