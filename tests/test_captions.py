"""Captions: lines within sentences, their times, and what each format takes for markup."""

import json
import re
from itertools import pairwise

import pytest

from pipeline.captions import LINE, captions, cues
from pipeline.words import Word


def spoken(text: str) -> list[Word]:
    """The words between spaces, half a second each."""
    found = re.finditer(r"\S+", text)
    return [Word(one[0], 0.5 * n, 0.5 * n + 0.4, one.span()) for n, one in enumerate(found)]


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("Hello there.", ["Hello there."]),
        ("One. Two?  Three!", ["One.", "Two?", "Three!"]),
        ("She said \u201cyes.\u201d Then\nshe left.", ["She said \u201cyes.\u201d", "Then she left."]),
        ("Ask Dr. J. Li (now). It is 1.8 m.", ["Ask Dr. J. Li (now).", "It is 1.8 m."]),
        ("word " * 20, ["word word word word word word word word"] * 2 + ["word word word word"]),
        ("so " + "x" * 60 + " on", ["so", "x" * 60, "on"]),
        ("", []),
    ],
)
def test_lines_are_short_and_break_at_sentences(text: str, lines: list[str]) -> None:
    made = list(cues(spoken(text)))
    assert [cue.text for cue in made] == lines
    assert all(len(cue.text) <= LINE or " " not in cue.text for cue in made)
    assert all(before.end <= after.start for before, after in pairwise(made))


def test_a_line_lasts_from_its_first_word_to_its_last() -> None:
    text = "One two. Three."
    assert list(cues(spoken(text))) == [(0.0, 0.9, "One two."), (1.0, 1.4, "Three.")]


def test_subrip_and_webvtt() -> None:
    text = "A <b> & c-->d."
    words = [Word("A", 3723.0004, 3723.0004, (0, 1)), Word("<b> &\nc-->d.", 3723.0005, 3723.0005, (2, 15))]
    srt = "1\n01:02:03,000 --> 01:02:03,001\nA <b> & c->d.\n"
    vtt = "WEBVTT\n\n01:02:03.000 --> 01:02:03.001\nA &lt;b&gt; &amp; c--&gt;d.\n"
    assert captions("srt", text, words) == srt
    assert captions("vtt", text, words) == vtt
    two = "One. Two."
    assert captions("srt", two, spoken(two)) == (
        "1\n00:00:00,000 --> 00:00:00,400\nOne.\n\n2\n00:00:00,500 --> 00:00:00,900\nTwo.\n"
    )
    assert captions("vtt", "", []) == "WEBVTT\n"


def test_json_has_all_that_is_known_of_a_word() -> None:
    text = "20% caf\u00e9"
    made = json.loads(captions("json", text, [Word("20%", 0.1, 0.75, (0, 3))]))
    assert made == {"text": text, "words": [{"text": "20%", "start": 0.1, "end": 0.75, "span": [0, 3]}]}
