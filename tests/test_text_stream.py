"""Text that comes in bits: where it is cut, and how it sounds."""

import itertools
import threading
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from common.errors import InvalidInput
from pipeline import Audio, SpeakSettings, Voice
from pipeline.speech import Closing, Speech
from pipeline.text_stream import TextStream, speak_bits
from tacotron2.text import TextFrontEnd
from tests.engine_doubles import tiny_engines
from tests.http_servers import NEVER, eventually

FRONT_END = TextFrontEnd()
SETTINGS = {"gate_threshold": NEVER, "max_decoder_steps": 40}


@pytest.fixture(scope="module")
def voice() -> Iterator[Voice]:
    with Voice(tiny_engines(decoder_no_early_stopping=True)) as voice:
        yield voice


def stretches(text: str, size: int) -> list[str]:
    """What bits of so many characters are cut into."""
    stream = TextStream(FRONT_END)
    found = [stretch for at in range(0, len(text), size) for stretch in stream.add(text[at : at + size])]
    return [stretch.text for stretch in (*found, *stream.flush())]


@pytest.mark.parametrize("size", [1, 3, 7, 1000])
@pytest.mark.parametrize(
    "sentences",
    [
        ["He met Dr. Smith at 3.5 p.m. on Oak St.", " It was fine.", " Then he left!", " Really?  Yes."],
        ["On May 5, 2024 it cost $5 million, e.g. too much.", ' He said "Stop."', " Then ran."],
        ["J. R. Smith e.g. said so.", " The U.S. economy grew.", " See Fig. 3.", " And so on."],
        ["A heading", "\n\nIt begins here.", " And it goes on"],
    ],
)
def test_sentences_are_read_as_they_are_in_the_whole(sentences: list[str], size: int) -> None:
    text = "".join(sentences)
    found = stretches(text, size)
    assert "".join(found) == text
    if size < 1000:
        assert found[: len(sentences) - 1] == sentences[: len(sentences) - 1]
    whole = FRONT_END.read(text).replace(".", "").split()
    assert " ".join(map(FRONT_END.read, found)).replace(".", "").split() == whole


def test_the_first_clause_comes_before_its_sentence_has_ended() -> None:
    stream = TextStream(FRONT_END)
    assert stream.add("Well, when the cat came home, it ") == [("Well, when the cat came home, ", 0, False, 30)]
    assert stream.add("slept, and slept, and that was all. Then ") == [
        ("it slept, and slept, and that was all.", 30, False, 38)
    ]
    assert stream.quiet() == []
    assert stream.add("it woke.") == []
    assert stream.quiet() == [(" Then it woke.", 68, True, 14)]


def test_a_pause_ends_what_may_be_a_sentence_and_nothing_else() -> None:
    stream = TextStream(FRONT_END)
    assert stream.add("He met Dr.") == stream.quiet() == []
    assert stream.add(" Smith and his wife for") == []
    assert stream.quiet() == [("He met Dr. Smith and his,", 0, False, 24)]  # the first sound is worth a cut
    assert stream.quiet() == []
    assert stream.flush() == [("wife for", 25, False, 8)]
    assert stream.flush() == []


def test_text_without_ends_is_cut_in_linear_time() -> None:
    for text in ("word " * 250, "x" * 1250, "." * 1250, "\n" * 1250, "e.g. " * 250):
        began = time.process_time()
        assert all(len(stretch) <= 1001 for stretch in stretches(text, 100))
        assert time.process_time() - began < 5


def test_bits_are_spoken_as_their_sentences_are(voice: Voice) -> None:
    bits = ["Hel", "lo there. How", " are you? \u266b ", "Fine it is."]
    spoken = Audio.join(list(voice.stream(bits, **SETTINGS)))
    alone = [voice.stream(text, **SETTINGS) for text in ("Hello there.", " How are you?", "Fine it is.")]
    expected = Audio.join(list(itertools.chain(*alone)))
    assert np.abs(spoken.samples - expected.samples).max() < 1e-3  # as far as batches round


def test_words_and_silence_count_from_the_beginning(voice: Voice) -> None:
    text = "Hello there. Pay 20% now. Bye"
    chunks = list(voice.stream(iter(text), timestamps=True, sentence_silence=0.5, **SETTINGS))
    words = [word for chunk in chunks for word in chunk.words]
    assert [text[slice(*word.span)] for word in words] == [word.text for word in words] == text.split()
    assert [word.start for word in words] == sorted(word.start for word in words)
    piece = 40 * 256 / 22050
    assert sum(chunk.seconds for chunk in chunks) == pytest.approx(3 * piece + 2 * 0.5, abs=1e-3)
    assert piece + 0.5 <= words[2].start < 2 * piece + 0.5


def test_words_are_as_the_user_wrote_them_where_a_pause_cuts_a_clause(voice: Voice) -> None:
    heard = threading.Event()

    def bits() -> Iterator[str]:
        yield "One two three four five six "
        assert heard.wait(60)
        yield "seven."

    stream = voice.stream(bits(), timestamps=True, **SETTINGS)
    chunks = [next(stream)]
    heard.set()
    words = [word for chunk in (*chunks, *stream) for word in chunk.words]
    assert [(word.text, word.span) for word in words[4:]] == [
        ("five", (19, 23)),
        ("six", (24, 27)),
        ("seven.", (28, 34)),
    ]


def test_text_is_taken_in_while_audio_is_ready(voice: Voice) -> None:
    submitted: list[str] = []
    given = threading.Event()

    def bits() -> Iterator[str]:
        yield "The first sentence is here. And "
        assert given.wait(20)
        yield "another one follows it. So "
        done.set()
        yield "."

    def submit(text: str, wake: Callable[[], object]) -> Speech:
        submitted.append(text)
        return voice.submit(text, settings, wake)

    done = threading.Event()
    settings = SpeakSettings(**{**SETTINGS, "max_decoder_steps": 400})
    stream = speak_bits(bits(), settings, submit, lambda: None, Closing())
    next(stream)
    while voice.scheduler().status().active:
        time.sleep(0.01)  # until all chunks of the first sentence are ready
    given.set()
    assert done.wait(60)
    next(stream)
    next(stream)
    assert len(submitted) == 2
    stream.close()


def test_a_book_is_not_read_before_its_first_sentence_is_spoken(voice: Voice) -> None:
    read = itertools.count()
    sentences = ("One more sentence to say. " for _ in zip(range(10_000), read, strict=False))
    stream = voice.stream(sentences, **SETTINGS)
    listener = threading.Thread(target=lambda: next(stream))
    with voice.engines.lock:  # until then nothing is spoken
        listener.start()
        time.sleep(0.3)
        assert next(read) < 100
    listener.join(60)
    stream.close()


def test_closing_gives_the_rest_up(voice: Voice) -> None:
    stream = voice.stream(itertools.repeat("One more sentence to say. "), **SETTINGS)
    next(stream)
    stream.close()
    assert eventually(lambda: voice.scheduler().status().active == 0)
    assert eventually(lambda: not any(thread.name == "text" for thread in threading.enumerate()))


@pytest.mark.parametrize(
    ("bits", "settings", "words"),
    [
        ([], {}, "no text"),
        (["...", " "], {}, "nothing to speak"),
        (["Hello. ", 3], {}, "not int"),
        (["<speak>Hi</speak>"], {"ssml": True}, "SSML"),
    ],
)
def test_what_can_not_be_spoken_says_why(voice: Voice, bits: list, settings: dict, words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        list(voice.stream(bits, **settings))


def test_an_error_of_the_iterator_reaches_the_caller(voice: Voice) -> None:
    def bits() -> Iterator[str]:
        yield "Hello there. So "
        raise OSError("the line is dead")

    stream = voice.stream(bits(), **SETTINGS)
    assert next(stream).seconds > 0
    with pytest.raises(OSError, match="the line is dead"):
        list(stream)
