"""The part of SSML that is used in practice: pauses, pronunciation and speed in the text.

`speak`, `p`, `s`, `break`, `sub`, `say-as`, `phoneme` (IPA and ARPAbet) and `prosody rate` do what W3C's SSML 1.1 says;
all other elements are ignored, and their text is spoken. A text without a `speak` element counts as one's content.
"""

import html
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from typing import NoReturn
from xml.parsers import expat

from common.errors import InvalidInput
from tacotron2.text.encoding import EncodedText, WithoutWords, quoted
from tacotron2.text.normalizer.dates import date_words
from tacotron2.text.normalizer.say import digits, number, spelt
from tacotron2.text.normalizer.telephones import telephone
from tacotron2.text.numbers import ordinal
from tacotron2.text.phonemes import from_arpabet, from_ipa
from tacotron2.text.rewriting import Span, TracedText

MAX_DEPTH = 32  # elements within one another
MAX_PAUSE, MAX_PAUSES = 10.0, 60.0  # seconds of one break, and of all: silence takes memory too
MAX_LENGTH = 1_000_000  # characters
_STRENGTHS = {"none": 0.0, "x-weak": 0.25, "weak": 0.5, "medium": 0.75, "strong": 1.0, "x-strong": 1.25}  # seconds
_RATES = {"x-slow": 0.5, "slow": 0.75, "medium": 1.0, "default": 1.0, "fast": 1.25, "x-fast": 1.6}
_ROOT = re.compile(r"\s*(?:<\?xml\s|<!DOCTYPE|(?:<!--(?:(?!-->).)*-->\s*)*<speak[\s/>])", re.DOTALL)
_OPENED = "<speak>"
_DURATION = re.compile(r"\+?([0-9]{1,9}(?:\.[0-9]{0,9})?|\.[0-9]{1,9})(ms|s)")
_RATE = re.compile(r"([+-]?)([0-9]{1,6}(?:\.[0-9]{0,6})?|\.[0-9]{1,6})(%?)")
_ENTITY = re.compile(r"&[#\w]{2,10};")
_CLOSING = ".,;:!?"
_HIDDEN = "\0"  # stands for each character of markup in what words are taken from
_NUMBER = re.compile(r"[+-]?[0-9][0-9, ]*(?:\.[0-9]+)?|\.[0-9]+")
_WHOLE = re.compile(r"[0-9][0-9, ]*")
_FIGURES = re.compile(r"(?=[^0-9]*[0-9])[^A-Za-z]+")


@dataclass
class Segment:
    """A stretch of text that is spoken in one way.

    Attributes:
        text: plain, but for `{ARPAbet}`; from what was written, without the markup.
        pause: seconds of silence after it.
        speed: times the speed that is set.
        ends: whether it is to sound like the end of a sentence.
    """

    text: TracedText
    pause: float = 0.0
    speed: float = 1.0
    ends: bool = True


def parse_ssml(source: str) -> list[Segment]:
    """The segments that have something in them, in order. A pause before the first text is left out.

    Raises:
        InvalidInput: the text isn't well-formed, or holds a DTD, a processing instruction or a wrong value: the message
            names the line and the column. Or nothing is left to speak.
    """
    if len(source) > MAX_LENGTH:
        raise InvalidInput(f"SSML: {len(source)} characters are too many; {MAX_LENGTH} may be")
    segments = _Reader(source).segments()
    if not segments:
        raise WithoutWords("SSML: nothing to speak: write at least one word")
    return segments


def shown(piece: EncodedText) -> EncodedText:
    """A piece whose words are as the user sees them: entities are characters, and markup is left out.

    What is spoken for an element without text is no word.
    """
    words = (word._replace(text=html.unescape(word.text.replace(_HIDDEN, ""))) for word in piece.words)
    return replace(piece, words=tuple(word for word in words if word.text.strip()))


@dataclass
class _Stretch:
    """What becomes a segment, as it grows."""

    speed: float = 1.0
    texts: list[str] = field(default_factory=list)
    origins: list[Span] = field(default_factory=list)  # of each character of the texts
    has_word: bool = False
    pause: float = 0.0


@dataclass
class _Element:
    """An element that is open.

    Attributes:
        speed: of the text in it.
        say: reads its text, which is collected in `content`; None leaves it to the normaliser.
        start: where its text begins in the source.
    """

    speed: float
    say: Callable[[str], str] | None = None
    content: list[str] = field(default_factory=list)
    start: int | None = None


class _Reader:
    """Reads one source, by expat's events."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._wrapped = _ROOT.match(source) is None
        encoded = [len(character.encode("utf-8", "replace")) for character in source]
        self._characters = [0] * (sum(encoded) + 1)  # by byte
        for character, byte in enumerate(accumulate(encoded, initial=0)):
            self._characters[byte] = character
        self._visible = [_HIDDEN] * len(source)  # the characters that are no markup
        self._elements = [_Element(1.0)]  # the first for what stands around them
        self._stretches = [_Stretch()]
        self._parser = expat.ParserCreate("utf-8")
        self._parser.StartElementHandler = self._started
        self._parser.EndElementHandler = self._ended
        self._parser.CharacterDataHandler = self._text
        self._parser.StartDoctypeDeclHandler = lambda *_: self._refuse("a DTD is refused: take it out")
        self._parser.ProcessingInstructionHandler = lambda *_: self._refuse("a processing instruction is refused")

    def segments(self) -> list[Segment]:
        text = f"{_OPENED}{self._source}</speak>" if self._wrapped else self._source
        try:
            self._parser.Parse(text.encode("utf-8", "replace"), True)
        except expat.ExpatError as error:
            why = expat.ErrorString(error.code).removeprefix("not well-formed ").strip("()")
            self._refuse(f"not well-formed: {why}", error.lineno, error.offset)
        source = "".join(self._visible)
        spoken: list[Segment] = []
        for stretch in self._stretches:
            if stretch.has_word:
                said = TracedText("".join(stretch.texts), source, stretch.origins)
                spoken.append(Segment(said, stretch.pause, stretch.speed))
            elif spoken:
                spoken[-1].pause += stretch.pause
        if sum(segment.pause for segment in spoken) > MAX_PAUSES:
            self._refuse(f"the breaks are longer than {MAX_PAUSES:g} s together")
        for segment in spoken[:-1]:
            segment.ends = segment.pause > 0 or segment.text.endswith("\n\n")
        return spoken

    def _started(self, name: str, attributes: Mapping[str, str]) -> None:
        if len(self._elements) > MAX_DEPTH:
            self._refuse(f"more than {MAX_DEPTH} elements within one another")
        outer = self._elements[-1]
        element = _Element(outer.speed)
        if outer.say:  # its content is read as a whole
            element.say = outer.say
        elif name == "sub":
            alias = self._needed(name, attributes, "alias")
            element.say = lambda _: alias
        elif name == "phoneme":
            element.say = self._phoneme(attributes)
        elif name == "say-as":
            kind = attributes.get("interpret-as", "").strip().lower()
            form = attributes.get("format", "").strip().lower()
            element.say = _date(form) if kind == "date" else _SAY_AS.get(kind)
        elif name == "prosody" and "rate" in attributes:
            element.speed *= self._rate(attributes["rate"])
        elif name == "break":
            self._stretches[-1].pause += self._pause(attributes)
        elif name in ("p", "s"):
            self._end_sentence()
        self._elements.append(element)

    def _ended(self, name: str) -> None:
        element = self._elements.pop()
        outer = self._elements[-1]
        if outer.say:
            outer.content += element.content
            outer.start = element.start if outer.start is None else outer.start
        elif element.say:
            stop = self._index()
            span = stop if element.start is None else element.start, stop
            said = element.say("".join(element.content))
            self._say(said, [span] * len(said), element.speed)
        elif name in ("p", "s"):
            self._end_sentence()

    def _text(self, text: str) -> None:
        element, first = self._elements[-1], self._index()
        entity = _ENTITY.match(self._source, first) if len(text) == 1 else None
        stop = entity.end() if entity else first + len(text)
        self._visible[first:stop] = self._source[first:stop]
        if element.say:
            element.content.append(text)
            element.start = first if element.start is None else element.start
        else:
            spans = [(first, stop)] if entity else [(index, index + 1) for index in range(first, stop)]
            self._say(text, spans, element.speed)

    def _say(self, text: str, origins: Sequence[Span], speed: float) -> None:
        """Adds a text to what is spoken; its characters are from these spans."""
        last = self._stretches[-1]
        closing = len(text) - len(text.lstrip(_CLOSING)) if last.origins else 0  # stays with the words before it
        self._add(text[:closing], origins[:closing])
        text, origins = text[closing:], origins[closing:]
        if text and (last.pause or (last.speed != speed and not text.isspace())):
            if last.has_word or last.pause:
                self._stretches.append(_Stretch())
            self._stretches[-1].speed = speed
        self._add(text, origins)

    def _add(self, text: str, origins: Sequence[Span]) -> None:
        last = self._stretches[-1]
        last.texts.append(text)
        last.origins += origins
        last.has_word = last.has_word or any(map(str.isalnum, text))

    def _end_sentence(self) -> None:
        last = self._stretches[-1]
        if last.origins:
            index = last.origins[-1][1]
            self._say("\n\n", [(index, index)] * 2, last.speed)

    def _index(self) -> int:
        """Where the current event is in the source, in characters."""
        byte = self._parser.CurrentByteIndex - (len(_OPENED) if self._wrapped else 0)
        return self._characters[min(max(0, byte), len(self._characters) - 1)]

    def _pause(self, attributes: Mapping[str, str]) -> float:
        if "time" in attributes:
            duration = _DURATION.fullmatch(attributes["time"].strip())
            if duration is None:
                self._refuse(
                    f"break time {quoted(attributes['time'])}: write seconds or milliseconds, as 1.5s or 500ms"
                )
            seconds = float(duration[1]) / (1000 if duration[2] == "ms" else 1)
            if seconds > MAX_PAUSE:
                self._refuse(f"break time {quoted(attributes['time'])}: at most {MAX_PAUSE:g} s")
            return seconds
        strength = attributes.get("strength", "medium").strip()
        if strength not in _STRENGTHS:
            self._refuse(f"break strength {quoted(strength)}: must be one of {', '.join(_STRENGTHS)}")
        return _STRENGTHS[strength]

    def _rate(self, written: str) -> float:
        if written.strip() in _RATES:
            return _RATES[written.strip()]
        rate = _RATE.fullmatch(written.strip())
        if rate is None:
            self._refuse(
                f"prosody rate {quoted(written)}: write {', '.join(_RATES)}, a number as 1.2, or per cent as 80%"
            )
        sign, figures, percent = rate.groups()
        change = float(figures) / (100 if percent else 1)
        factor = {"+": 1 + change, "-": 1 - change}.get(sign, change)
        if not 0.01 <= factor <= 100:
            self._refuse(f"prosody rate {quoted(written)}: too far from the usual speed")
        return factor

    def _phoneme(self, attributes: Mapping[str, str]) -> Callable[[str], str]:
        sounds, alphabet = self._needed("phoneme", attributes, "ph"), attributes.get("alphabet", "ipa").strip().lower()
        try:
            if alphabet == "ipa":
                said = from_ipa(sounds)
            elif alphabet.removeprefix("x-") in ("arpabet", "cmu-arpabet", "cmu", "cmudict"):
                said = from_arpabet(sounds)
            else:
                raise InvalidInput(f"alphabet {quoted(alphabet)}: must be ipa or cmu-arpabet")
        except InvalidInput as error:
            self._refuse(f"phoneme: {error}")
        return lambda _: said

    def _needed(self, element: str, attributes: Mapping[str, str], name: str) -> str:
        if not attributes.get(name, "").strip():
            self._refuse(f"{element} needs {name}")
        return attributes[name]

    def _refuse(self, why: str, line: int = 0, column: int = -1) -> NoReturn:
        line = line or self._parser.CurrentLineNumber
        column = column if column >= 0 else self._parser.CurrentColumnNumber
        if self._wrapped and line == 1:
            column = max(0, column - len(_OPENED))
        raise InvalidInput(f"SSML, line {line}, column {column + 1}: {why}")


def _date(form: str) -> Callable[[str], str]:
    """A reader of dates. Their figures stand in an order like "mdy"; without one it is guessed."""

    def say(content: str) -> str:
        figures = re.findall("[0-9]+", content)
        order = form or ("ymd" if figures and len(figures[0]) == 4 else "mdy")
        return content if re.search("[A-Za-z]", content) else date_words(order, figures) or content

    return say


def _if(pattern: re.Pattern[str], say: Callable[[str], str]) -> Callable[[str], str]:
    """A reader of contents that match a pattern; others are left to the normaliser."""
    return lambda content: say(content) if pattern.fullmatch(content.strip()) else content


def _closed_up(figures: str) -> str:
    return re.sub("[, ]", "", figures.strip())


# By interpret-as. What the normaliser reads by itself (time, currency, unit, fraction...) is left to it.
_SAY_AS: dict[str, Callable[[str], str]] = {
    **dict.fromkeys(("characters", "spell-out", "verbatim"), spelt),
    **dict.fromkeys(("cardinal", "number"), _if(_NUMBER, lambda content: number(_closed_up(content)))),
    "ordinal": _if(_WHOLE, lambda content: ordinal(_closed_up(content))),
    "digits": _if(_FIGURES, digits),
    "telephone": _if(_FIGURES, telephone),
}
