"""The voice behind a server, what the server allows, and how requests went."""

import asyncio
import logging
import time
from dataclasses import dataclass, field
from pathlib import Path

from common.errors import UserError
from pipeline import Voice
from pipeline.speech import Speech
from serving.http.api import ApiError, SpeechOrder, api_error
from serving.http.metrics import Metrics
from serving.http.speech_events import SpeechEvents

CLIENT_GONE = 499  # the status in logs, as servers have it, where nobody is left to read one
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
        local_only: whether the server listens on this machine's loopback addresses alone.
    """

    max_streams: int | None = None
    max_queue: int = 64
    max_characters: int = 4096  # OpenAI's limit
    api_key: str = field(default="", repr=False)
    voices: tuple[str, ...] = ("default", "alloy")
    local_only: bool = True


@dataclass
class RequestRecord:
    """How one request went, for the log and the metrics. Seconds count from its arrival."""

    request_id: str
    arrived: float = field(default_factory=time.perf_counter)
    order: SpeechOrder | None = None  # of a request for speech that could be read
    status: int = CLIENT_GONE  # until an answer begins
    completed: bool = False  # the answer was sent to its end
    failed: bool = False
    reason: str = ""  # why it was refused, failed or was given up
    first_audio_seconds: float | None = None
    audio_seconds: float = 0.0

    @property
    def outcome(self) -> str:
        if self.failed or self.status == 500:
            return "failed"
        if self.status == CLIENT_GONE or not self.completed:
            return "cancelled"
        return "refused" if self.status >= 400 else "done"

    def log(self) -> None:
        reason = f": {self.reason}" if self.reason else ""
        if self.order is None:
            _log.info("request %s: %s %d%s", self.request_id, self.outcome, self.status, reason)
            return
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
            reason,
        )


class SpeechService:
    """Speaks the requests of a server. For one event loop.

    Args:
        voice: stays the caller's, who closes it after the last request.
    """

    def __init__(self, voice: Voice, settings: ServerSettings) -> None:
        self.voice = voice
        self.settings = settings
        self.scheduler = voice.scheduler(max_slots=settings.max_streams, max_waiting=settings.max_queue)
        self.metrics = Metrics(self.scheduler.status)
        self.started = int(time.time())

    def warm_up(self) -> None:
        """Speaks a word, so that the first request doesn't wait for what is made at first use. Raises UserError."""
        self.scheduler.warm_up()
        for _ in self.voice.stream(WARM_UP_TEXT):
            pass

    async def submit(self, order: SpeechOrder, events: SpeechEvents) -> Speech:
        """Queues a request; its text is read beside the event loop. Raises UserError."""
        return await asyncio.to_thread(self.voice.submit, order.text, order.settings, events.notify)

    def answer_to(self, error: UserError) -> ApiError:
        """An error of the voice as clients may read it: without the folders of the model files."""
        answer = api_error(error)
        for engine in self.voice.engines.parts.values():
            answer.args = (str(answer).replace(engine.name, Path(engine.name).name),)
        return answer
