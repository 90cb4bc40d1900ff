"""Engines behind one HTTP process: each a voice with its scheduler, in a process of its own or in a thread of this one.

Requests go to the engine that has the fewest. One that dies fails its own requests alone, and is started again.

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

from common.errors import Busy, Closed, EngineFailure, UserError
from common.files import REPOSITORY
from pipeline import Audio, SpeakSettings
from pipeline.pieces import PieceResult
from pipeline.scheduler import SchedulerStatus
from serving.http import engine_process
from serving.http.messages import (
    Accepted,
    AskStatus,
    Cancel,
    Chunk,
    Ended,
    EngineSettings,
    Failed,
    Read,
    Ready,
    Speak,
    packed,
    receive,
)

WATCH_SECONDS = 5.0  # between looks whether an engine still works
ANSWER_SECONDS = 60.0  # for which an engine may leave a look unanswered, before its process is killed
STATUS_SECONDS = 1.0  # that whoever asks for the state waits for an engine
STOP_SECONDS = 10.0  # that an engine gets to end, before its process is killed
MOST_FAILURES = 3  # in a row, each at once after a start: of all engines, before they are given up
WORKED_SECONDS = 60.0  # after which an engine's end is no failure of its start
PAUSES = (0.0, 1.0, 3.0, 10.0, 30.0)  # seconds before another start, after so many failures
BUFFER_BYTES = 1 << 20  # of what an engine has sent: larger than most chunks

_log = logging.getLogger(__name__)


class RemoteSpeech:
    """A request's audio as it comes from its engine. For the event loop's thread.

    Attributes:
        sampling_rate: of the audio, in Hz.
        results: of the pieces of text that have ended, as far as their audio was read.
        dropped: the characters of the text that are left out, once it is accepted.
    """

    def __init__(self, engine: "Engine", number: int, sampling_rate: int) -> None:
        self.sampling_rate = sampling_rate
        self.results: list[PieceResult] = []
        self.dropped: tuple[str, ...] = ()
        self._engine = engine
        self._number = number
        self._messages: asyncio.Queue[Accepted | Chunk | Ended] = asyncio.Queue()
        self._ended = False
        self._unsaid = 0.0  # seconds of audio that were read, and the engine doesn't know

    async def accepted(self) -> None:
        """Returns once the request is queued. Raises UserError where it is refused."""
        message = await self._messages.get()
        if isinstance(message, Accepted):
            self.dropped = message.dropped
        elif isinstance(message, Ended) and message.error is not None:
            raise message.error

    async def next_chunk(self) -> Audio | None:
        """The next chunk, waited for; None after the last.

        Raises:
            EngineFailure: the request failed.
            Closed: the engine can't work any more.
            CancelledError: of `pipeline.speech`: it was cancelled.
        """
        message = await self._messages.get()
        if isinstance(message, Ended):
            self._messages.put_nowait(message)  # for whoever asks again
            if message.error is not None:
                raise message.error
            return None
        assert isinstance(message, Chunk)
        self._unsaid += message.audio.seconds
        if self._unsaid >= engine_process.SENT_AHEAD_SECONDS / 2:
            self._engine.send(Read(self._number, self._unsaid))
            self._unsaid = 0.0
        self.results += message.results
        return message.audio

    def cancel(self) -> None:
        """Gives the request up: its slot is free at the next block. May be called at any time."""
        if not self._ended:
            self._engine.send(Cancel(self._number))

    def receive(self, message: Accepted | Chunk | Ended) -> None:
        """What the engine says of the request."""
        self._ended = isinstance(message, Ended)
        self._messages.put_nowait(message)


class Engine:
    """One voice behind a socket. For one event loop.

    Args:
        environment: variables for its process beside this one's; None runs it in a thread of this process instead.
    """

    def __init__(self, settings: EngineSettings, environment: Mapping[str, str] | None) -> None:
        self.name = settings.name
        self.environment = environment
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
        self._writer: asyncio.StreamWriter | None = None
        self._reading: asyncio.Task | None = None

    @property
    def load(self) -> int:
        """Requests that wait or are under way."""
        return len(self._speeches)

    async def start(self) -> None:
        """Returns once it has spoken a word. Raises UserError where it can't."""
        ours, theirs = socket.socketpair()
        reader, self._writer = await asyncio.open_connection(sock=ours, limit=BUFFER_BYTES)
        if self.environment is not None:
            with theirs:
                await self._start_process(theirs.fileno(), self.environment)
            self.send(self._settings)
        else:
            server = engine_process.EngineServer(theirs, self._settings)
            self._thread = threading.Thread(target=server.run, name="engine", daemon=True)
            self._thread.start()
        message = await receive(reader)
        if not isinstance(message, Ready):
            self.reason = message.reason if isinstance(message, Failed) else "its process ended while it was started"
            await self.close()
            raise EngineFailure(self.reason)
        self.ready = message
        self._reading = asyncio.create_task(self._read(reader))

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
        """Sends a request; `accepted` tells whether it is queued. The engine must be ready."""
        assert self.ready is not None
        self._requests += 1
        speech = RemoteSpeech(self, self._requests, settings.sampling_rate or self.ready.sampling_rate)
        self._speeches[self._requests] = speech
        self.send(Speak(self._requests, text, settings))
        return speech

    def send(self, message: object) -> None:
        """Sends it, where somebody is there who reads it."""
        if self._writer is not None and not self._writer.is_closing():
            self._writer.write(packed(message))

    async def status(self, seconds: float = STATUS_SECONDS) -> SchedulerStatus:
        """Its state and load as it tells them; "failed" where it isn't ready or doesn't answer in time."""
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
        assert self._reading is not None
        while not self._reading.done():
            await asyncio.wait({self._reading}, timeout=WATCH_SECONDS)
            # An engine that is asked looks whether its worker is stuck.
            status = await self.status(ANSWER_SECONDS)
            if status.state == "failed":
                await self.close()
                self.reason = status.reason

    async def close(self) -> None:
        """Ends it; may be called again. Requests that are not done fail with Closed."""
        if self._writer is not None:
            self._writer.close()
        if self._process is not None:
            if self.ready is not None:
                with suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(self._process.wait(), STOP_SECONDS)
            with suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join, STOP_SECONDS)
        if self._reading is not None:
            await asyncio.wait({self._reading})

    async def _read(self, reader: asyncio.StreamReader) -> None:
        try:
            reason = await self._receive(reader)
        except Exception as error:
            _log.exception("what %s said can't be read", self.name)
            reason = f"what it said can't be read: {type(error).__name__}"
        self.ready, self.reason = None, reason
        speeches, self._speeches = self._speeches, {}
        for number, speech in speeches.items():
            speech.receive(Ended(number, Closed(f"{self.name} has ended before the request did: {reason}; try again")))
        for answer in self._asked:
            if not answer.done():
                answer.set_result(SchedulerStatus(0, 0, 0.0, "failed", reason))
        self._asked.clear()

    async def _receive(self, reader: asyncio.StreamReader) -> str:
        """Passes messages on to whom they are for, until nothing more can come; returns why."""
        while (message := await receive(reader)) is not None:
            if isinstance(message, Failed):
                return message.reason
            if isinstance(message, SchedulerStatus):
                answer = self._asked.popleft()
                if not answer.done():  # it is waited for
                    answer.set_result(message)
                if message.state == "failed":
                    return message.reason
                continue
            speech = self._speeches[message.number]
            if isinstance(message, Chunk):
                self.audio_seconds += message.audio.seconds
                self.failures = 0
            if isinstance(message, Ended):
                del self._speeches[message.number]
            speech.receive(message)
        return "its process has ended"


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

    async def submit(self, text: str, settings: SpeakSettings) -> RemoteSpeech:
        """Queues a request with the engine that has the fewest.

        Raises:
            InvalidInput: nothing can be spoken, or a setting is out of range.
            Busy: the queues of all engines are full.
            Closed: no engine is ready.
        """
        refusal: UserError = Closed("no engine is ready: each is being started again; try again later")
        ready = [engine for engine in self.engines if engine.ready is not None]
        for engine in sorted(ready, key=lambda engine: engine.load):
            if engine.ready is None:
                continue  # it has ended since
            speech = engine.submit(text, settings)
            try:
                await speech.accepted()
                return speech
            except (Busy, Closed) as error:
                refusal = error
            except BaseException:
                speech.cancel()
                raise
        raise refusal

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
