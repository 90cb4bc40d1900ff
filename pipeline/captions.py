"""Captions of speech, from the times of its words: SubRip (srt), WebVTT (vtt) or JSON."""

import dataclasses
import json
import re
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from typing import NamedTuple

from pipeline.words import Word

CAPTION_FORMATS = ("srt", "vtt", "json")
LINE = 42  # characters of a caption, as subtitlers have it; one longer word stands alone
_SENTENCE_END = re.compile(r"[.!?\u2026]\W*$")
_ABBREVIATION = re.compile(r"\b(?:[A-Za-z]|[DM]r|Mrs|Ms|Prof|St|Mt|Gen|Col|Capt|Lt|Sgt|Rev|Hon|[JS]r|vs|No)\.$")


class Cue(NamedTuple):
    """A line of captions; times in seconds."""

    start: float
    end: float
    text: str


def captions(name: str, text: str, words: Sequence[Word]) -> str:
    """A file of captions.

    Args:
        name: of CAPTION_FORMATS.
        text: what was spoken, as the user wrote it.
    """
    if name == "json":
        content = {"text": text, "words": [dataclasses.asdict(word) for word in words]}
        return json.dumps(content, ensure_ascii=False) + "\n"
    if name == "srt":
        numbered = enumerate(cues(words), start=1)
        return "\n".join(f"{number}\n{_times(cue, ',')}\n{_srt(cue.text)}\n" for number, cue in numbered)
    return "\n".join(["WEBVTT\n", *(f"{_times(cue, '.')}\n{_vtt(cue.text)}\n" for cue in cues(words))])


def cues(words: Sequence[Word]) -> Iterator[Cue]:
    """Lines of at most LINE characters, each within a sentence."""
    line, start = "", 0.0
    for word, following in zip_longest(words, words[1:]):
        start = start if line else word.start
        line = _joined(line, word)
        ends = _SENTENCE_END.search(word.text) and not _ABBREVIATION.search(word.text)
        if following is None or ends or len(_joined(line, following)) > LINE:
            yield Cue(start, word.end, line)
            line = ""


def _joined(line: str, word: Word) -> str:
    return " ".join([*line.split(), *word.text.split()])


def _times(cue: Cue, point: str) -> str:
    start = round(1000 * cue.start)
    end = max(round(1000 * cue.end), start + 1)  # a cue has to last
    return f"{_time(start, point)} --> {_time(end, point)}"


def _time(milliseconds: int, point: str) -> str:
    seconds, thousandths = divmod(milliseconds, 1000)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02}:{minutes:02}:{seconds:02}{point}{thousandths:03}"


def _srt(text: str) -> str:
    return text.replace("-->", "->")  # SubRip has no escapes, and this would be taken for times


def _vtt(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
