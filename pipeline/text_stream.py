"""Text that arrives in bits, as from a language model: cuts it into stretches, and speaks these one after the other."""

import contextlib
import queue
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from common.errors import InvalidInput
from pipeline.audio import Audio
from pipeline.settings import SpeakSettings
from pipeline.speech import WATCH_SECONDS, Closing, Speech
from tacotron2.text import TextFrontEnd, TracedText, split

QUIET_SECONDS = 0.3  # without more text, after which what may be a whole sentence is taken for one
CLAUSE_WORDS = 3  # at least, in a first stretch that is a clause,
FEW_WORDS = 5  # or less than one
CONTEXT = 200  # characters that show whether a point ends a sentence or an abbreviation
LONGEST_HELD = 1000  # characters without the end of a sentence: then a clause or a word ends a stretch

_ENDED = re.compile(
    r"(?:[.!?\u2026][\W_]{0,16}?\s|\n)[\W_]{0,16}[^\W_]\S*\s"
)  # what may end a sentence, and a word behind it
# Ends inside a sentence, between words in small letters: what stands at them doesn't change how the rest is read.
_CLAUSE = re.compile(r"(?<![^\W\d_])[a-z]{2,}[,;:]\s+(?=[a-z]{2,}\s)")
_WORD = re.compile(r"(?<![^\W\d_])[a-z]{2,}\s+(?=[a-z]{2,}\s)")
_NEXT = " Smith "  # a sentence may begin with it, and it may follow "Dr.": the front end decides
AHEAD = 2  # stretches that are spoken at a time
BITS_AHEAD = 64  # of text that are read before they are needed


class Stretch(NamedTuple):
    """Text that can be spoken by itself.

    Attributes:
        text: to be spoken; a stretch that ends inside a clause ends with a comma instead of its space.
        start: its first character in all of the text.
        follows: whether the end of a sentence stands before it.
        written: how many of its characters the user wrote.
    """

    text: str
    start: int
    follows: bool
    written: int


class TextStream:
    """Sentences, as soon as they are whole; of the first one a clause, if that comes sooner. Not thread-safe.

    A sentence is whole when a word follows it, or when nothing has come for `QUIET_SECONDS` and the front end sees an
    end there: not after `Dr.` or `No.`.

    Args:
        front_end: what reads the text, and knows where its sentences end.
    """

    def __init__(self, front_end: TextFrontEnd) -> None:
        self._front_end = front_end
        self._held = ""
        self._start = 0  # of it
        self._seen = 0  # characters of it that hold no end
        self._is_first, self._follows = True, False

    @property
    def held(self) -> int:
        """Characters that wait for more."""
        return len(self._held)

    def add(self, text: str) -> list[Stretch]:
        """Takes more text. Returns what can be spoken now."""
        self._held += text
        found: list[Stretch] = []
        while (ended := _ENDED.search(self._held, self._seen)) is not None:
            begin = self._held.rfind(" ", 0, max(0, ended.start() - CONTEXT)) + 1
            end = begin + self._sentence_end(self._held[begin : ended.end()])
            if end > begin and end >= ended.start():
                found.append(self._take(end))
            else:
                self._seen = ended.start() + 1
        if self._is_first and (clause := self._last(_CLAUSE, CLAUSE_WORDS)):
            found.append(self._take(clause))
        while len(self._held) > LONGEST_HELD:
            found.append(self._take(self._last(_CLAUSE, 1) or self._last(_WORD, 1) or LONGEST_HELD))
        return found

    def quiet(self) -> list[Stretch]:
        """Nothing has come for `QUIET_SECONDS`. Returns what can be spoken now."""
        if re.search(r"[.!?\u2026][\W_]*$", self._held) and (
            self._sentence_end(self._held + _NEXT) >= len(self._held.rstrip())
        ):
            return [self._take(len(self._held.rstrip()))]
        if self._is_first and (end := self._last(_WORD, FEW_WORDS)):
            return [self._take(end)]
        return []

    def flush(self) -> list[Stretch]:
        """The text that is held, whole: the client wants it spoken now, or the text has ended."""
        rest = [self._take(len(self._held.rstrip()))] if self._held.strip() else []
        self.clear()
        return rest

    def clear(self) -> None:
        """Drops the text that is held. The next text starts a new sentence."""
        self._start += len(self._held)
        self._held, self._seen, self._is_first, self._follows = "", 0, True, False

    def _take(self, end: int) -> Stretch:
        text, self._held = self._held[:end], self._held[end:]
        start, follows, spoken = self._start, self._follows, text.rstrip()
        self._start, self._seen, self._is_first = start + end, 0, False
        # A sentence ends without the space behind it, a clause or a word with it.
        self._follows = spoken == text
        if spoken != text and spoken[-1:].isalpha():
            return Stretch(f"{spoken},", start, follows, len(spoken))
        return Stretch(text, start, follows, len(text))

    def _sentence_end(self, text: str) -> int:
        """Where the last sentence but one of a text ends; 0 if there is but one."""
        try:
            reading = self._front_end.read(TracedText(text))
            sentences = split(reading, len(reading) + 2, final_period=False, by_sentence=True)
        except InvalidInput:
            return 0
        return sentences[-2].words[-1].span[1] if len(sentences) > 1 and sentences[-2].words else 0

    def _last(self, pattern: re.Pattern[str], words: int) -> int:
        """The last end of a pattern behind at least so many words; 0 if there is none."""
        ends = [match.end() for match in pattern.finditer(self._held[:LONGEST_HELD])]
        return ends[-1] if ends and len(self._held[: ends[-1]].split()) >= words else 0


def speak_bits(
    bits: Iterable[str],
    settings: SpeakSettings,
    submit: Callable[[str, Callable[[], object]], Speech],
    watch: Callable[[], object],
    closing: Closing,
) -> Generator[Audio, None, None]:
    """Speaks text while it comes.

    Args:
        bits: of the text; iterated in a thread of its own.
        settings: how they are spoken.
        submit: queues a stretch, with what to call when something of it can be read.
        watch: called now and then during a wait; it raises why there will be no audio.
        closing: ends it, from any thread.

    Raises:
        InvalidInput: nothing in all of the text can be spoken.
        Exception: what speaking raises; or iterating the text, once all before it is spoken.
    """
    reader = _Reader(bits, TextStream(TextFrontEnd(settings.text_normalizer, settings.lexicon)), watch)
    closing.add(reader.close)
    seconds, began, last = 0.0, 0.0, None
    with contextlib.closing(_spoken(reader, submit, closing)) as chunks:
        for stretch, chunk in chunks:
            if stretch is not last:
                for pause in silence_before(stretch, settings.sentence_silence, chunk.sampling_rate):
                    seconds += pause.seconds
                    yield pause
                began, last = seconds, stretch
            seconds += chunk.seconds
            yield _moved(chunk, began, stretch)


def _spoken(
    reader: "_Reader", submit: Callable[[str, Callable[[], object]], Speech], closing: Closing
) -> Generator[tuple[Stretch, Audio], None, None]:
    """The chunks of all stretches in order, each with its stretch. Arguments and errors as for `speak_bits`."""
    waiting: deque[Stretch] = deque()
    under_way: deque[tuple[Stretch, Speech]] = deque()
    refusal, has_sound = InvalidInput("nothing to speak: there is no text"), False
    try:
        while not closing.closed and (reader.reading or waiting or under_way):
            if len(waiting) < AHEAD:  # a book would be cut before its first sentence is spoken
                waiting += reader.take()
            while waiting and len(under_way) < AHEAD:
                stretch = waiting.popleft()
                try:
                    under_way.append((stretch, submit(stretch.text, reader.wake)))
                except InvalidInput as error:  # signs between sentences have no sound
                    refusal = error
            if not under_way:
                if not waiting and reader.reading:
                    reader.wait(for_text=True)
                continue
            stretch, speech = under_way[0]
            try:
                chunk = speech.next_chunk(timeout=0)
            except queue.Empty:
                reader.wait(for_text=len(waiting) < AHEAD)
                continue
            if chunk is None:
                under_way.popleft()
                continue
            has_sound = True
            yield stretch, chunk
        if closing.closed:
            return
        if reader.error is not None:
            raise reader.error
        if not has_sound:
            raise refusal
    finally:
        reader.close()
        for _, speech in under_way:
            speech.cancel()


class _Reader:
    """Reads bits of text in a thread of its own, not too far ahead, and cuts them in its caller's.

    Args:
        bits, watch: as for `speak_bits`.
        stream: cuts the bits into stretches.

    Attributes:
        reading: whether more may come.
        error: what iterating the bits has raised.
    """

    def __init__(self, bits: Iterable[str], stream: TextStream, watch: Callable[[], object]) -> None:
        self.reading = True
        self.error: BaseException | None = None
        self._bits, self._stream, self._watch = bits, stream, watch
        self._news: queue.SimpleQueue[str | BaseException] = queue.SimpleQueue()
        self._room, self._closed = threading.Semaphore(BITS_AHEAD), threading.Event()
        self._something = threading.Event()  # has changed
        self._last, self._is_quiet = time.monotonic(), False  # when text came, and whether it was taken to end there
        threading.Thread(target=self._read, name="text", daemon=True).start()

    def wake(self) -> None:
        """Ends a wait. For any thread."""
        self._something.set()

    def take(self) -> list[Stretch]:
        """The next text that can be spoken, if it has come."""
        with contextlib.suppress(queue.Empty):
            while True:
                if found := self._add(self._news.get_nowait()):
                    return found
        if self._may_end and time.monotonic() >= self._last + QUIET_SECONDS:
            self._is_quiet = True
            return self._stream.quiet()
        return []

    def wait(self, for_text: bool) -> None:
        """Returns once there may be audio, or if it is wanted text to take."""
        if for_text and not self._news.empty():
            return
        quiet_in = self._last + QUIET_SECONDS - time.monotonic()
        if self._something.wait(max(0.0, quiet_in) if for_text and self._may_end else WATCH_SECONDS):
            self._something.clear()
        else:
            self._watch()

    @property
    def _may_end(self) -> bool:
        return self.reading and self._stream.held > 0 and not self._is_quiet

    def _add(self, item: str | BaseException) -> list[Stretch]:
        self._last, self._is_quiet = time.monotonic(), False
        if isinstance(item, str):
            self._room.release()
            return self._stream.add(item)
        self.reading = False
        if isinstance(item, StopIteration):
            return self._stream.flush()
        self.error = item
        return []

    def close(self) -> None:
        """Reads no more, and ends a wait. The iterator stays the caller's."""
        self._closed.set()
        self.wake()
        self._room.release()

    def _put(self, item: str | BaseException) -> None:
        self._news.put(item)
        self.wake()

    def _read(self) -> None:
        try:
            for bit in self._bits:
                if not isinstance(bit, str):
                    raise InvalidInput(f"text that comes in bits must be of str, not {type(bit).__name__}")
                self._put(bit)
                self._room.acquire()
                if self._closed.is_set():
                    return
        except BaseException as error:  # to be raised in the thread that waits for the bits
            self._put(error)
        else:
            self._put(StopIteration())


def silence_before(stretch: Stretch, seconds: float, sampling_rate: int) -> Iterator[Audio]:
    """The silence between a stretch and the sentence before it, if there are both."""
    samples = round(seconds * sampling_rate) if stretch.follows else 0
    if samples:
        yield Audio(np.zeros(samples, np.float32), sampling_rate)


def _moved(chunk: Audio, seconds: float, stretch: Stretch) -> Audio:
    """A chunk of a stretch that begins so much later, with its words as the user wrote them: without an added comma."""
    words = []
    for word in chunk.words:
        first, stop = word.span[0], min(word.span[1], stretch.written)
        span = first + stretch.start, stop + stretch.start
        words.append(replace(word.later(seconds), text=word.text[: stop - first], span=span))
    return replace(chunk, words=tuple(words))
