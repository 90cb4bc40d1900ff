"""The voice behind a server, what the server allows, and the requests under way."""

import asyncio
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from common.errors import Busy, UserError
from pipeline import Voice
from pipeline.scheduler import Speech
from serving.api import SERVER_ERROR, ApiError, SpeechOrder, setting_error
from serving.metrics import Metrics
from serving.speech_events import SpeechEvents

RETRY_AFTER = 1  # seconds
WARM_UP_TEXT = "Ready."

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ServerSettings:
    """What a server allows.

    Attributes:
        max_streams: most pieces of text decoded at a time; None takes what suits the device.
        max_queue: most requests that wait; further ones are refused.
        max_characters: of one request's text.
        api_key: that clients must send; "" asks for none.
        voices: names that the voice answers to; the first one is its own.
    """

    max_streams: int | None = None
    max_queue: int = 64
    max_characters: int = 4096  # OpenAI's limit
    api_key: str = field(default="", repr=False)
    voices: tuple[str, ...] = ("default", "alloy")


@dataclass
class SpeechRecord:
    """How one request went, for the log and the metrics. Seconds count from its arrival."""

    request_id: str
    order: SpeechOrder
    arrived: float  # by time.perf_counter
    status: int = 200
    outcome: str = "cancelled"  # until it is known better: done, failed, refused
    reason: str = ""  # of a failure
    first_audio_seconds: float | None = None
    audio_seconds: float = 0.0

    def log(self) -> None:
        first = "none" if self.first_audio_seconds is None else f"after {self.first_audio_seconds:.3f} s"
        _log.info(
            "request %s: %s %d, %s, %d characters, first audio %s, audio %.2f s, took %.3f s%s",
            self.request_id,
            self.outcome,
            self.status,
            self.order.audio_format.name,
            len(self.order.text),
            first,
            self.audio_seconds,
            time.perf_counter() - self.arrived,
            f": {self.reason}" if self.reason else "",
        )


class SpeechService:
    """Speaks the requests of a server. For one event loop, that is running when this is made.

    Args:
        voice: stays the caller's, who closes it after the last request.
    """

    def __init__(self, voice: Voice, settings: ServerSettings) -> None:
        self.voice = voice
        self.settings = settings
        self.scheduler = voice.scheduler(max_slots=settings.max_streams, max_waiting=settings.max_queue)
        self.metrics = Metrics(self.scheduler.status)
        self.started = int(time.time())
        self.draining = False
        self._speeches: set[Speech] = set()
        self._answers = 0  # requests accepted and not yet answered in full
        self._idle = asyncio.Event()

    def warm_up(self) -> None:
        """Speaks a word, so that the first request doesn't wait for what is made at first use. Raises UserError."""
        self.scheduler.warm_up()
        for _ in self.voice.stream(WARM_UP_TEXT):
            pass

    def begin_drain(self) -> None:
        """From now on new requests are refused; those under way go on."""
        self.draining = True
        if not self._answers:
            self._idle.set()

    async def drained(self) -> None:
        """Waits, after `begin_drain`, until the last request has been answered."""
        await self._idle.wait()

    def cancel_all(self) -> None:
        """Gives up the requests under way; their connections are cut."""
        for speech in self._speeches:
            speech.cancel()

    @contextmanager
    def under_way(self, record: SpeechRecord) -> Iterator[None]:
        """What a request lives in until it has been answered in full. Counts and logs how it ended."""
        self._answers += 1
        try:
            yield
        finally:
            self._answers -= 1
            if self.draining and not self._answers:
                self._idle.set()
            self.metrics.ended(record.status, record.outcome)
            record.log()

    async def submit(self, order: SpeechOrder, events: SpeechEvents) -> Speech:
        """Queues a request; its text is read beside the event loop. Raises ApiError."""
        if self.draining:
            raise busy("the server is shutting down", "shutting_down")
        try:
            return await asyncio.to_thread(self.voice.submit, order.text, order.settings, events.notify)
        except Busy as error:
            raise busy(str(error), "queue_full") from error
        except UserError as error:
            raise setting_error(error) from error

    @contextmanager
    def holding(self, speech: Speech) -> Iterator[None]:
        """Cancels a speech at the end, or when `cancel_all` is called."""
        self._speeches.add(speech)
        try:
            yield
        finally:
            self._speeches.discard(speech)
            speech.cancel()


def busy(message: str, code: str) -> ApiError:
    """A request that would be accepted at another time."""
    return ApiError(503, message, kind=SERVER_ERROR, code=code, retry_after=RETRY_AFTER)
