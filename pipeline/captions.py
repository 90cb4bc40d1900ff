"""Captions of speech, from the times of its words: SubRip (srt), WebVTT (vtt) or JSON."""

import dataclasses
import json
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from pipeline.words import Word

CAPTION_FORMATS = ("srt", "vtt", "json")
LINE = 42  # characters of a caption, as subtitlers have it; one longer word stands alone
_SENTENCE_END = re.compile(r"[.!?\u2026][^\w\s]*\s|\n\s*\n")
_ABBREVIATION = re.compile(r"\b(?:[A-Za-z]|[DM]r|Mrs|Ms|Prof|St|Mt|Gen|Col|Capt|Lt|Sgt|Rev|Hon|[JS]r|vs|No)\.\s")


class Cue(NamedTuple):
    """A line of captions; times in seconds."""

    start: float
    end: float
    text: str


def captions(name: str, text: str, words: Sequence[Word]) -> str:
    """A file of captions.

    Args:
        name: of CAPTION_FORMATS.
        text: what was spoken, as the user wrote it; the words' spans are its characters.
    """
    if name == "json":
        return (
            json.dumps({"text": text, "words": [dataclasses.asdict(word) for word in words]}, ensure_ascii=False) + "\n"
        )
    if name == "srt":
        numbered = enumerate(cues(text, words), start=1)
        return "\n".join(f"{number}\n{_times(cue, ',')}\n{_srt(cue.text)}\n" for number, cue in numbered)
    return "\n".join(["WEBVTT\n", *(f"{_times(cue, '.')}\n{_vtt(cue.text)}\n" for cue in cues(text, words))])


def cues(text: str, words: Sequence[Word]) -> Iterator[Cue]:
    """Lines of at most LINE characters, each within a sentence: the user's text, with its punctuation."""
    first = 0
    for last, word in enumerate(words):
        following = words[last + 1] if last + 1 < len(words) else None
        start = words[first].span[0] if first else 0
        stop = following.span[0] if following else len(text)
        if following:
            token = text[word.span[0] : stop]
            ends = _SENTENCE_END.search(token) and not _ABBREVIATION.search(token)
            if not ends and len(_shown(text[start : following.span[1]])) <= LINE:
                continue
        yield Cue(words[first].start, word.end, _shown(text[start:stop]))
        first = last + 1


def _shown(text: str) -> str:
    return " ".join(text.split())


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
