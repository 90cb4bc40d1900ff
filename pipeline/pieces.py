"""Phrases, and the pieces of their text that are spoken in one go."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from common.errors import InvalidInput, UserError, explained
from common.phrases import Phrase
from pipeline.settings import SpeakSettings, settings_of
from pipeline.words import Word
from tacotron2.decoder import StopReason
from tacotron2.text import EncodedText, TextFrontEnd, TracedText, split
from tacotron2.text.encoding import WithoutWords
from tacotron2.text.ssml import Segment, parse_ssml, shown

_SENTENCE_END = re.compile(r"[.!?][)']*$")


@dataclass(frozen=True)
class Piece:
    """As much of a phrase as is spoken in one breath: all of it, unless the phrase is long.

    Attributes:
        number: within the phrase, from 0.
        last: whether it is the phrase's last.
        seed: of its random numbers; None takes the settings'. So phrases of different seeds share a batch.
        pause: seconds of silence after its audio.
        speed: None takes the settings'.
    """

    phrase: Phrase
    number: int
    last: bool
    encoded: EncodedText
    seed: int | None = None
    pause: float = 0.0
    speed: float | None = None

    def seed_in(self, settings: SpeakSettings) -> int:
        return settings.seed if self.seed is None else self.seed

    def speed_in(self, settings: SpeakSettings) -> float:
        return settings.speed if self.speed is None else self.speed


@dataclass(frozen=True)
class PieceResult:
    """What became of a piece: speech, or the error that ended it.

    Attributes:
        audio: float32 [frames * hop_length, and the pause] at the voice's level, a copy of its own. None where it
            failed, and in streams, which deliver audio in chunks.
        frames: mel frames, at the piece's speed; 0 where it failed.
        stop_reason: "gate" at the end of the text, "cap" where the frame limit cut it; None where it failed.
        seconds: of computing; a batch's time is shared out by frames. 0 in streams.
        mel: float32 [n_mel_channels, frames], where whole texts keep pictures.
        alignment: attention weights, float32 [frames as decoded, symbols], where pictures are kept.
        words: with their times from the beginning of its audio, where they are wanted and the piece is spoken whole.
        error: why it failed; the other pieces of its batch are not harmed.
    """

    piece: Piece
    audio: np.ndarray | None = None
    frames: int = 0
    stop_reason: StopReason | None = None
    seconds: float = 0.0
    mel: np.ndarray | None = None
    alignment: np.ndarray | None = None
    words: tuple[Word, ...] = ()
    error: UserError | None = None

    @property
    def cut(self) -> bool:
        """Whether the limit of frames cut it before its text's end was recognised."""
        return self.stop_reason == "cap"

    @property
    def samples(self) -> np.ndarray:
        """The audio of a piece that was spoken whole. Raises the error of one that failed."""
        if self.error is not None:
            raise self.error
        assert self.audio is not None, "a stream's audio is in its chunks"
        return self.audio


@dataclass(frozen=True)
class PreparedPhrase:
    """A phrase as it will be read, in pieces; or why it can't be read (then there are no pieces)."""

    phrase: Phrase
    reading: str
    pieces: tuple[Piece, ...]
    error: UserError | None = None

    @property
    def named_error(self) -> UserError | None:
        """The error with the phrase's line."""
        if isinstance(self.error, InvalidInput):
            return InvalidInput(f"line {self.phrase.line}: {self.error}")
        return self.error

    @property
    def without_words(self) -> bool:
        """Whether there is nothing to say for it."""
        return isinstance(self.error, WithoutWords)

    @property
    def dropped(self) -> tuple[str, ...]:
        """The characters that have no symbol and are left out, in order of first appearance."""
        return tuple(dict.fromkeys(char for piece in self.pieces for char in piece.encoded.dropped))


def prepare(phrases: Sequence[Phrase], settings: SpeakSettings, max_symbols: int) -> list[PreparedPhrase]:
    """Each phrase's pieces, none longer than `max_symbols`; a phrase that can't be spoken has an error instead."""
    front_end = TextFrontEnd(settings.text_normalizer, settings.lexicon)
    return [_prepare(phrase, settings, front_end, max_symbols) for phrase in phrases]


def _prepare(phrase: Phrase, settings: SpeakSettings, front_end: TextFrontEnd, max_symbols: int) -> PreparedPhrase:
    if phrase.error is not None:
        return PreparedPhrase(phrase, "", (), phrase.error)
    if not isinstance(phrase.text, str):
        wrong = InvalidInput(f"the text to speak must be a str, not {type(phrase.text).__name__}")
        return PreparedPhrase(phrase, "", (), wrong)
    readings: list[str] = []
    pieces: list[Piece] = []
    try:
        for segment in parse_ssml(phrase.text) if settings.ssml else [Segment(TracedText(phrase.text))]:
            reading, texts = _read(segment, settings, front_end, max_symbols)
            readings.append(reading)
            speed = None if segment.speed == 1 else _within_range(settings.speed * segment.speed)
            for text in texts:
                pieces.append(Piece(phrase, len(pieces), False, text, speed=speed))
            pieces[-1] = replace(pieces[-1], pause=segment.pause)
    except UserError as error:
        invalid = error if isinstance(error, InvalidInput) else InvalidInput(str(error))
        return PreparedPhrase(phrase, phrase.text, (), invalid)
    except Exception as error:
        return PreparedPhrase(phrase, phrase.text, (), explained(error, _named(phrase, phrase.text)))
    pieces[-1] = replace(pieces[-1], last=True)
    return PreparedPhrase(phrase, " ".join(readings), tuple(_with_silence(one, settings) for one in pieces))


def _read(
    segment: Segment, settings: SpeakSettings, front_end: TextFrontEnd, max_symbols: int
) -> tuple[str, list[EncodedText]]:
    """How a segment is read, and the texts of its pieces."""
    reading = front_end.read(segment.text if settings.timestamps else str(segment.text))
    final_period, by_sentence = settings.final_period and segment.ends, settings.sentence_silence > 0
    texts = split(reading, max_symbols, final_period, by_sentence)
    return reading, [shown(text) for text in texts] if settings.ssml else texts


def _with_silence(piece: Piece, settings: SpeakSettings) -> Piece:
    ends = not piece.last and _SENTENCE_END.search(piece.encoded.text)
    return replace(piece, pause=max(piece.pause, settings.sentence_silence)) if ends else piece


def _within_range(speed: float) -> float:
    slowest, fastest = settings_of(SpeakSettings)["speed"].range or (0, 0)
    return min(max(slowest, speed), fastest)


def describe(piece: Piece) -> str:
    """A piece in a message: its phrase's line and the beginning of its text."""
    return _named(piece.phrase, piece.encoded.text)


def _named(phrase: Phrase, text: str) -> str:
    return f'line {phrase.line} ("{text[:40]}{"..." if len(text) > 40 else ""}")'
