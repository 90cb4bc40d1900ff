"""The engines behind a server, the server's limits, and the records of its requests."""

import asyncio
import logging
import math
import time
from collections import deque
from dataclasses import dataclass, field

from serving.http.api import OPENAI_VOICES
from serving.http.engine_pool import EnginePool
from serving.http.metrics import Metrics

CLIENT_GONE = 499  # the status in logs, as servers have it, where nobody is left to read one
RECENT_REQUESTS = 32
MOST_SECONDS_TO_WAIT = 60

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ServerSettings:
    """What a server allows.

    Attributes:
        max_characters: of one request's text.
        api_key: that clients must send; "" asks for none.
        voices: names that the voice answers to; the first one is its own.
        origins: of other sites, whose pages may use the server.
        local_only: whether the server listens on this machine's loopback addresses alone.
    """

    max_characters: int = 4096  # OpenAI's limit
    api_key: str = field(default="", repr=False)
    voices: tuple[str, ...] = ("default", *OPENAI_VOICES)
    origins: tuple[str, ...] = ()
    local_only: bool = True


@dataclass
class RequestRecord:
    """How one request went, for the log and the metrics. Seconds count from its arrival."""

    request_id: str
    path: str
    is_speech: bool = False  # an endpoint that speaks has taken it, so it is no browser's preflight
    arrived: float = field(default_factory=time.perf_counter)
    format: str = ""  # of a request for speech that could be read
    characters: int = 0  # of its text
    status: int = 500  # of HTTP, or a WebSocket's close code; what ends without any is a defect
    completed: bool = False  # the answer was sent to its end
    failed: bool = False
    cut: bool = False  # the limit of frames has cut its speech
    reason: str = ""  # why it was refused, failed or was given up
    first_audio_seconds: float | None = None
    audio_seconds: float = 0.0

    @property
    def outcome(self) -> str:
        if self.failed or self.status == 500:
            return "failed"
        if self.status == CLIENT_GONE or not self.completed:
            return "cancelled"
        return "done" if self.status < 400 or self.status == 1000 else "refused"

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self.arrived

    @property
    def is_conversation(self) -> bool:
        """Whether it is a WebSocket's. Its client decides how long it takes."""
        return self.format == "websocket"

    def log(self) -> None:
        reason = f": {self.reason}" if self.reason else ""
        cut = ", cut by the limit of frames" if self.cut else ""
        if not self.format:
            _log.info("request %s: %s %d, %s%s", self.request_id, self.outcome, self.status, self.path, reason)
            return
        first = "none" if self.first_audio_seconds is None else f"after {self.first_audio_seconds:.3f} s"
        _log.info(
            "request %s: %s %d, %s, %d characters, first audio %s, audio %.2f s%s, took %.3f s%s",
            self.request_id,
            self.outcome,
            self.status,
            self.format,
            self.characters,
            first,
            self.audio_seconds,
            cut,
            self.seconds,
            reason,
        )


class SpeechService:
    """What answers requests are made from: engines that speak, what is allowed, and the metrics.

    Args:
        engines: not owned; the caller closes them after the last request.
    """

    def __init__(self, engines: EnginePool, settings: ServerSettings) -> None:
        self.engines = engines
        self.settings = settings
        self.metrics = Metrics()
        self.started = int(time.time())
        self.draining = asyncio.Event()  # set when the server ends
        self._ends: deque[float] = deque(maxlen=RECENT_REQUESTS)  # of those that were spoken, by time.monotonic

    def sent(self, record: RequestRecord, seconds: float, cut: bool) -> None:
        """So much of a request's audio has been sent; the limit of frames has cut it, or not."""
        record.audio_seconds += seconds
        record.cut |= cut
        if record.first_audio_seconds is None:
            record.first_audio_seconds = record.seconds
            if not record.is_conversation:
                self.metrics.first_audio.observe(record.first_audio_seconds)

    def ended(self, record: RequestRecord) -> None:
        """A request for speech has ended."""
        self.metrics.ended(record.status, record.outcome, record.characters, record.cut)
        if record.outcome == "done" and not record.is_conversation:
            self.metrics.seconds.observe(record.seconds)
            self._ends.append(time.monotonic())

    def seconds_to_wait(self) -> int:
        """After which half of the requests that wait or are under way will have ended, if they do as the last ones."""
        if len(self._ends) < 2:
            return 1
        pace = (self._ends[-1] - self._ends[0]) / (len(self._ends) - 1)
        return min(max(1, math.ceil(pace * self.engines.load / 2)), MOST_SECONDS_TO_WAIT)
