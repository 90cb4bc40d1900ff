"""A streamed request as its caller sees it: an iterator of audio that any thread may read."""

import logging
import queue
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import suppress
from inspect import GEN_CLOSED, getgeneratorstate

import numpy as np

from common.errors import UserError
from pipeline.audio import Audio, Resampler
from pipeline.pieces import PieceResult
from pipeline.policy import may_begin_piece
from pipeline.settings import SpeakSettings
from pipeline.words import Word

WATCH_SECONDS = 5.0  # after which a reader asks whether the worker is stuck

_log = logging.getLogger(__name__)


class CancelledError(Exception):
    """The request was cancelled before its audio was complete."""


class Closing:
    """Whether a stream has been closed, and what cancels it. Thread-safe."""

    def __init__(self) -> None:
        self.closed = False
        self._cancels: list[Callable[[], object]] = []

    def add(self, cancel: Callable[[], object]) -> None:
        """Calls `cancel` when the stream is closed; at once if it has been."""
        self._cancels.append(cancel)
        if self.closed:
            cancel()

    def close(self) -> None:
        self.closed = True
        for cancel in list(self._cancels):
            cancel()


class AudioStream(Iterator[Audio]):
    """Audio as it is made. `close`, or dropping it, cancels the rest.

    One thread at a time iterates. Any thread may close it, at any time: a wait for the next chunk ends then.

    Args:
        chunks: makes the chunks, and ends early when it is closed. It must not refer to the stream: that could not be
            dropped then.
    """

    def __init__(self, chunks: Callable[[Closing], Generator[Audio, None, None]]) -> None:
        self._closing = Closing()
        self._chunks = chunks(self._closing)
        self._reading = threading.Lock()

    def __repr__(self) -> str:
        return f"<AudioStream, {'ended' if getgeneratorstate(self._chunks) == GEN_CLOSED else 'open'}>"

    def __next__(self) -> Audio:
        """The next chunk, waited for. Raises UserError while another thread waits for it."""
        if not self._reading.acquire(blocking=False):
            raise UserError("another thread is waiting for this stream's next chunk; give each thread its own stream")
        try:
            if self._closing.closed:
                self.close()  # which another thread could not do in the middle of a chunk
                raise StopIteration
            return next(self._chunks)
        finally:
            self._reading.release()

    def close(self) -> None:
        self._closing.close()
        with suppress(ValueError):  # another thread is in it, and ends it
            self._chunks.close()


class Speech:
    """A request's audio as it comes: iterate over it, in any one thread.

    Iterating raises EngineFailure where the request failed (what came before is not the whole), Closed where the voice
    was closed or can't work any more, and CancelledError after `cancel`.

    Args:
        settings: how it is spoken.
        sampling_rate: the voice's own, in Hz.
        on_event: called in the worker thread whenever something new can be read. It must return at once.
        wake: called when the worker has something to do.
        watch: called before a reader waits without a limit, and now and then while it does; it may raise.

    Attributes:
        dropped: the characters of the text that have no symbol and are left out, in order of first appearance.
        results: of each piece that has ended; a stream's audio is in its chunks.
        first_audio_seconds: from submitting to the first chunk; None before.
    """

    def __init__(
        self,
        settings: SpeakSettings,
        sampling_rate: int,
        on_event: Callable[[], object],
        wake: Callable[[], None],
        watch: Callable[[], None],
    ) -> None:
        self.settings = settings
        self.sampling_rate = settings.sampling_rate or sampling_rate
        self.submitted = time.perf_counter()
        self.first_audio_seconds: float | None = None
        self.dropped: tuple[str, ...] = ()
        self.results: list[PieceResult] = []
        self._on_event, self._wake, self._watch = on_event, wake, watch
        self._chunks: queue.SimpleQueue[Audio | BaseException | None] = queue.SimpleQueue()
        self._unread_seconds = 0.0
        self._words: list[Word] = []  # that wait for samples, which the resampler holds back
        self._ended = False
        self._lock = threading.Lock()
        self._cancelled = threading.Event()
        different = self.sampling_rate != sampling_rate
        self._resampler = Resampler(sampling_rate, self.sampling_rate) if different else None

    def __iter__(self) -> Iterator[Audio]:
        while (chunk := self.next_chunk()) is not None:
            yield chunk

    def next_chunk(self, timeout: float | None = None) -> Audio | None:
        """The next chunk, waited for; None after the last.

        Args:
            timeout: most seconds to wait; None waits for as long as the worker works, 0 not at all.

        Raises:
            EngineFailure: the request failed.
            Closed: the voice was closed, or can't work any more.
            CancelledError: it was cancelled.
            UserError: a callback would wait for the voice that calls it.
            queue.Empty: nothing came within the timeout.
        """
        item = self._next_item(timeout)
        if item is None or isinstance(item, BaseException):
            self._chunks.put(item)  # the next call gets the same
            if item is None:
                return None
            raise item
        with self._lock:
            waited_for = not may_begin_piece(self._unread_seconds, draining=False)
            self._unread_seconds -= item.seconds
        if waited_for:
            self._wake()
        return item

    def _next_item(self, timeout: float | None) -> Audio | BaseException | None:
        if timeout is not None:
            return self._chunks.get(timeout > 0, timeout or None)
        while self._chunks.empty():
            self._watch()
            with suppress(queue.Empty):
                return self._chunks.get(timeout=WATCH_SECONDS)
        return self._chunks.get()

    def cancel(self) -> None:
        """Gives the request up: its slot is free at the next block. May be called at any time, from any thread."""
        self._cancelled.set()
        self._wake()

    @property
    def cancelled(self) -> bool:
        return self._cancelled.is_set()

    @property
    def unread_seconds(self) -> float:
        """Seconds of audio that have been delivered and not been read."""
        return self._unread_seconds

    def deliver(self, samples: np.ndarray, words: Sequence[Word], last: bool) -> None:
        """For the worker: adds a chunk, float32 [n] at the voice's rate, and the words that are known with it. Nothing
        is added to a request that has ended.
        """
        self._words += words
        if self._resampler is not None:
            samples = self._resampler(samples, last)
        if len(samples) or (last and self._words):
            if self.first_audio_seconds is None:
                self.first_audio_seconds = time.perf_counter() - self.submitted
            cut = any(piece.cut for piece in self.results)
            self._put(Audio(samples, self.sampling_rate, tuple(self._words), cut))
            self._words.clear()
        if last:
            self._put(None)
        self._notify()

    def fail(self, error: BaseException) -> None:
        """For the worker: ends the request with an error for its reader."""
        self._put(error)
        self._notify()

    def _put(self, item: Audio | BaseException | None) -> None:
        with self._lock:
            if self._ended:
                return
            if isinstance(item, Audio):
                self._unread_seconds += item.seconds
            self._ended = not isinstance(item, Audio)
            self._chunks.put(item)

    def _notify(self) -> None:
        try:
            self._on_event()
        except Exception:  # the caller's own: other requests must not suffer from it
            _log.exception("on_event failed")


def speak_whole(submit: Callable[[], Speech], closing: Closing) -> Generator[Audio, None, None]:
    """The chunks of a request that is queued when the first one is asked for."""
    speech = submit()
    closing.add(speech.cancel)
    try:
        yield from speech
    except CancelledError:
        if not closing.closed:
            raise
    finally:
        speech.cancel()
