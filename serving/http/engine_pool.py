"""Engines behind one HTTP process: each a voice with its scheduler, in a process of its own or in a thread of this one.

Requests go to the engine that has the fewest. An engine that dies fails only its own requests, and is restarted.

    submit -> least loaded engine -> socket -> EngineServer -> Scheduler -> socket -> RemoteSpeech
"""

import asyncio
import logging
import os
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from common.errors import Busy, Closed, EngineFailure, UserError
from common.files import REPOSITORY
from pipeline import Audio, SpeakSettings
from pipeline.pieces import PieceResult
from pipeline.scheduler import QUEUE_LENGTH, SchedulerStatus
from pipeline.speech import CancelledError
from serving.http import engine_process
from serving.http.messages import (
    AskStatus,
    Cancel,
    Chunk,
    Ended,
    EngineSettings,
    Failed,
    MessageProtocol,
    Read,
    Ready,
    Speak,
    packed,
)

WATCH_SECONDS = 5.0  # between looks whether an engine still works
ANSWER_SECONDS = 60.0  # for which an engine may leave a look unanswered, before its process is killed
STATUS_SECONDS = 1.0  # that an engine gets to tell its state
STOP_SECONDS = 10.0  # that an engine gets to end, before its process is killed
MOST_FAILURES = 3  # in a row, each at once after a start: of all engines, before they are given up
WORKED_SECONDS = 60.0  # after which an engine's end is no failure of its start
PAUSES = (0.0, 1.0, 3.0, 10.0, 30.0)  # seconds before another start, after so many failures

_log = logging.getLogger(__name__)


class RemoteSpeech:
    """A request's audio as it comes from its engine. For the event loop's thread.

    Attributes:
        sampling_rate: of the audio, in Hz.
        results: of the pieces of text that have ended, as far as their audio was read.
        cut: whether the limit of frames has cut a piece, by the last chunk that was read.
        dropped: the characters of the text that are left out, once there is a chunk.
    """

    def __init__(self, engine: "Engine", number: int, sampling_rate: int) -> None:
        self.sampling_rate = sampling_rate
        self.results: list[PieceResult] = []
        self.cut = False
        self.dropped: tuple[str, ...] = ()
        self._engine = engine
        self._number = number
        self._messages: asyncio.Queue[Chunk | Ended] = asyncio.Queue()
        self._ended = self._cancelled = False
        self._unreported = 0.0  # seconds of audio that were read since the last `Read`

    async def next_chunk(self) -> Audio | None:
        """The next chunk, waited for; None after the last.

        Raises:
            InvalidInput: nothing can be spoken, or a setting is out of range.
            EngineFailure: the request failed.
            Closed: the engine can't work any more.
            CancelledError: of `pipeline.speech`: it was cancelled.
        """
        message = await self._messages.get()
        if self._cancelled:
            raise CancelledError("the request was cancelled")
        if isinstance(message, Ended):
            self._messages.put_nowait(message)  # for the next call
            if message.error is not None:
                raise message.error
            return None
        self._unreported += message.audio.seconds
        if self._unreported >= engine_process.SENT_AHEAD_SECONDS / 2:
            self._engine.send(Read(self._number, self._unreported))
            self._unreported = 0.0
        self.results += message.results
        self.cut = message.audio.cut
        self.dropped = message.dropped
        return message.audio

    def cancel(self) -> None:
        """Gives the request up, at any time: `next_chunk` returns at once, and its slot is free at the next block."""
        if not self._ended:
            self._engine.send(Cancel(self._number))
        self._cancelled = True
        self._messages.put_nowait(Ended(self._number, None))

    def receive(self, message: Chunk | Ended) -> None:
        """Takes a message of the engine about the request."""
        self._ended = isinstance(message, Ended)
        self._messages.put_nowait(message)


class Engine:
    """One voice behind a socket. For one event loop.

    Args:
        environment: variables for its process beside this one's; None runs it in a thread of this process instead.
        max_waiting: most requests that wait, beside those that are spoken.
    """

    def __init__(
        self, settings: EngineSettings, environment: Mapping[str, str] | None, max_waiting: int = QUEUE_LENGTH
    ) -> None:
        self.name = settings.name
        self.environment = environment
        self.max_waiting = max_waiting
        self.ready: Ready | None = None
        self.reason = "it is being started"  # why it isn't ready
        self.audio_seconds = 0.0  # that came from it since the server's start
        self.failures = 0  # of starts, in a row
        self._settings = settings
        self._speeches: dict[int, RemoteSpeech] = {}
        self._requests = 0  # since the server's start
        self._asked: deque[asyncio.Future[SchedulerStatus]] = deque()
        self._process: asyncio.subprocess.Process | None = None
        self._thread: threading.Thread | None = None
        self._transport: asyncio.Transport | None = None
        self._started: asyncio.Future[None]  # done when it is ready
        self._gone: asyncio.Future[None]  # done when its connection has ended

    @property
    def load(self) -> int:
        """Requests that wait or are under way."""
        return len(self._speeches)

    @property
    def is_full(self) -> bool:
        """Whether it can take no more requests."""
        return self.ready is not None and self.load >= self.ready.max_slots + self.max_waiting

    async def start(self) -> None:
        """Returns once it has spoken a word. Raises UserError where it can't."""
        ours, theirs = socket.socketpair()
        loop = asyncio.get_running_loop()
        self._started, self._gone = loop.create_future(), loop.create_future()
        self.reason = ""
        protocol = MessageProtocol(self._receive, self._lost)
        self._transport, _ = await loop.create_connection(lambda: protocol, sock=ours)
        if self.environment is not None:
            try:
                with theirs:
                    await self._start_process(theirs.fileno(), self.environment)
            except OSError:
                await self.close()
                raise
            self.send(self._settings)
        else:
            server = engine_process.EngineServer(theirs, self._settings)
            self._thread = threading.Thread(target=server.run, name="engine", daemon=True)
            self._thread.start()
        await asyncio.wait({self._started, self._gone}, return_when=asyncio.FIRST_COMPLETED)
        if self.ready is None:
            await self.close()
            raise EngineFailure(self.reason)

    async def _start_process(self, handle: int, environment: Mapping[str, str]) -> None:
        paths = [str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])]
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", engine_process.__name__, str(handle)),
            pass_fds=(handle,),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=2,
            env={**os.environ, **environment, "PYTHONPATH": os.pathsep.join(paths)},
            start_new_session=True,  # Ctrl-C is for the HTTP process: it lets requests end first
        )

    def submit(self, text: str, settings: SpeakSettings) -> RemoteSpeech:
        """Sends a request. The engine must be ready."""
        assert self.ready is not None
        self._requests += 1
        speech = RemoteSpeech(self, self._requests, settings.sampling_rate or self.ready.sampling_rate)
        self._speeches[self._requests] = speech
        self.send(Speak(self._requests, text, settings))
        return speech

    def send(self, message: object) -> None:
        """Sends it, unless the engine has ended."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(packed(message))

    async def status(self, seconds: float = STATUS_SECONDS) -> SchedulerStatus:
        """Its state and load; "failed" where it isn't ready or doesn't answer in time."""
        if self.ready is None:
            return SchedulerStatus(0, 0, 0.0, "failed", self.reason)
        answer: asyncio.Future[SchedulerStatus] = asyncio.get_running_loop().create_future()
        self._asked.append(answer)
        self.send(AskStatus())
        try:
            return await asyncio.wait_for(answer, seconds)
        except asyncio.TimeoutError:
            return SchedulerStatus(self.load, 0, 0.0, "failed", f"it has not answered for {seconds:g} s")

    async def ended(self) -> None:
        """Returns when it has ended, whatever the reason; kills a process that doesn't answer."""
        while not self._gone.done():
            await asyncio.wait({self._gone}, timeout=WATCH_SECONDS)
            # An engine that is asked looks whether its worker is stuck.
            status = await self.status(ANSWER_SECONDS)
            if status.state == "failed":
                await self.close()
                self.reason = status.reason

    async def close(self) -> None:
        """Ends it; may be called again. Requests that are not done fail with Closed."""
        if self._transport is not None:
            self._transport.close()
        if self._process is not None:
            if self.ready is not None:
                with suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(self._process.wait(), STOP_SECONDS)
            with suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join, STOP_SECONDS)
        if self._transport is not None:
            self._transport.abort()
            await asyncio.wait({self._gone})

    def _lost(self, error: Exception | None) -> None:
        if error is not None and not isinstance(error, OSError):  # the event loop has logged it
            self._end(f"its message can't be read: {type(error).__name__}")
        self._end("its process has ended" if self._started.done() else "its process ended while it was started")
        self._gone.set_result(None)

    def _end(self, reason: str) -> None:
        """Ends the connection. Only the first reason counts."""
        assert self._transport is not None
        self._transport.abort()
        self.ready, self.reason = None, self.reason or reason
        speeches, self._speeches = self._speeches, {}
        for number, speech in speeches.items():
            error = Closed(f"{self.name} has ended before the request did: {self.reason}; try again")
            speech.receive(Ended(number, error))
        for answer in self._asked:
            if not answer.done():
                answer.set_result(SchedulerStatus(0, 0, 0.0, "failed", self.reason))
        self._asked.clear()

    def _receive(self, message: Any) -> None:
        assert self._transport is not None
        if self._transport.is_closing():
            return
        if isinstance(message, Chunk):
            self.audio_seconds += message.audio.seconds
            self.failures = 0
            self._speeches[message.number].receive(message)
        elif isinstance(message, Ended):
            self._speeches.pop(message.number).receive(message)
        elif isinstance(message, Ready):
            self.ready = message
            self._started.set_result(None)
        elif isinstance(message, Failed):
            self._end(message.reason)
        else:
            answer = self._asked.popleft()
            if not answer.done():  # it is waited for
                answer.set_result(message)
            if message.state == "failed":
                self._end(message.reason)


class EnginePool:
    """All engines of a server. For one event loop.

    Attributes:
        voice: of all engines, once they are started.
        failure: why nothing can be spoken any more, once that is so: the server has to end.
    """

    voice: Ready

    def __init__(self, engines: Sequence[Engine]) -> None:
        self.engines = engines
        self.failure = ""
        self._closing = False
        self._keepers: list[asyncio.Task] = []

    @property
    def audio_seconds(self) -> float:
        """That came from all engines since the start."""
        return sum(engine.audio_seconds for engine in self.engines)

    @property
    def load(self) -> int:
        """Requests that wait or are under way."""
        return sum(engine.load for engine in self.engines)

    async def start(self) -> None:
        """Returns once all engines have spoken a word. Raises UserError if one can't."""
        try:
            first, *others = self.engines
            await first.start()  # alone: what is made once, as the demo voice's models, is made by then
            await asyncio.gather(*(engine.start() for engine in others))
            if first.ready is None:
                raise EngineFailure(f"{first.name} has ended: {first.reason}")
        except BaseException:
            await self.close()
            raise
        self.voice = first.ready
        self._keepers = [asyncio.create_task(self._keep(engine)) for engine in self.engines]

    def submit(self, text: str, settings: SpeakSettings) -> RemoteSpeech:
        """Sends a request to the engine that has the fewest.

        Raises:
            Busy: the queues of all engines are full.
            Closed: no engine is ready.
        """
        ready = [engine for engine in self.engines if engine.ready is not None]
        if not ready:
            raise Closed("no engine is ready: each is being started again; try again later")
        engine = min(ready, key=lambda engine: engine.load)
        if engine.is_full:
            raise Busy(f"busy: {self.load} requests wait or are under way; try again later")
        return engine.submit(text, settings)

    async def statuses(self) -> list[SchedulerStatus]:
        """Of each engine: "failed" while it isn't ready."""
        return await asyncio.gather(*(engine.status() for engine in self.engines))

    async def close(self) -> None:
        """Ends all engines; may be called again. Requests that are not done fail with Closed."""
        self._closing = True
        for keeper in self._keepers:
            keeper.cancel()
        # First: a keeper whose engine answers at this moment isn't cancelled (`asyncio.wait_for`), and sees its end.
        await asyncio.gather(*(engine.close() for engine in self.engines))
        await asyncio.gather(*self._keepers, return_exceptions=True)

    async def _keep(self, engine: Engine) -> None:
        """Starts an engine's process again whenever it has ended, until all engines fail at once after their starts."""
        while True:
            started = time.monotonic()
            await engine.ended()
            if self._closing:
                return
            _log.error("%s has ended: %s", engine.name, engine.reason)
            if time.monotonic() - started > WORKED_SECONDS:
                engine.failures = 0
            while engine.ready is None:
                engine.failures += 1
                given_up = all(one.ready is None and one.failures >= MOST_FAILURES for one in self.engines)
                if given_up or engine.environment is None:
                    self.failure = engine.reason
                    return
                await asyncio.sleep(PAUSES[min(engine.failures, len(PAUSES)) - 1])
                try:
                    await engine.start()
                    _log.info("%s is ready again", engine.name)
                except (UserError, OSError) as error:
                    _log.error("%s can't be started: %s", engine.name, error)
