"""Listens and serves until SIGTERM: time limits of connections, and an orderly shutdown."""

import asyncio
import logging
import os
import resource
import socket
from collections.abc import Sequence
from contextlib import suppress
from types import FrameType

import uvicorn
import uvloop
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from common.errors import EngineFailure, UserError
from pipeline.latency import prefer_latency
from serving.http.app import BYTES_PER_CHARACTER, OTHER_BYTES, make_app
from serving.http.engine_pool import Engine, EnginePool
from serving.http.service import RequestRecord, ServerSettings, SpeechService
from serving.http.speech_response import StreamCut

MAX_CONNECTIONS = 4096
BACKLOG = 128  # connections that wait to be accepted, at most; asyncio accepts as many at a time
FILES = 32  # that may be opened while connections are open
HEAD_SECONDS = 15.0  # that a client may take to send a request's head, or read nothing of an answer
STALLED_SECONDS = 60.0  # that a client may read nothing before its request is given up
HEAD_BYTES = 64 << 10  # of a request's head, at most

_log = logging.getLogger(__name__)


def bind(host: str, port: int) -> socket.socket:
    """A socket at the address, which `serve` listens at once there is a voice. Raises UserError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        bound.bind((host, port))
    except OSError as error:
        bound.close()
        reason = error.strerror or str(error)
        raise UserError(f"can't listen at {host} port {port}: {reason}; give another --port or --host") from error
    return bound


def serve(engines: Sequence[Engine], settings: ServerSettings, listener: socket.socket, drain_seconds: float) -> None:
    """Serves until SIGTERM or Ctrl-C, and then until the requests under way have been answered.

    Args:
        engines: started here, and closed at the end.
        listener: bound; closed at the end.
        drain_seconds: most of them that requests under way get; then they are cut.

    Raises:
        UserError: an engine can't be started, or all can't speak any more.
    """
    uvloop.run(_serve(EnginePool(engines), settings, listener, drain_seconds))


async def _serve(engines: EnginePool, settings: ServerSettings, listener: socket.socket, drain_seconds: float) -> None:
    await engines.start()
    try:
        await _listen(SpeechService(engines, settings), listener, drain_seconds)
    finally:
        await engines.close()
    if engines.failure:
        raise EngineFailure(f"the server has ended, because the voice can't speak any more: {engines.failure}")


async def _listen(service: SpeechService, listener: socket.socket, drain_seconds: float) -> None:
    logging.getLogger("uvicorn.error").addFilter(_is_news)
    connections, backlog = _connection_limits()
    config = uvicorn.Config(
        make_app(service),
        http=PunctualProtocol,
        ws=PatientWebSocket,
        ws_ping_timeout=None,  # a pong may wait behind the audio that a slow client still has to read
        ws_max_size=BYTES_PER_CHARACTER * service.settings.max_characters + OTHER_BYTES,
        backlog=backlog,
        limit_concurrency=connections,
        log_config=None,
        access_log=False,  # the application logs each request, with what it took
        timeout_graceful_shutdown=drain_seconds,  # type: ignore[arg-type]  # for asyncio.wait_for, which takes parts
        lifespan="off",
        server_header=False,
        proxy_headers=False,  # nothing depends on the client's address
    )
    config.load()
    prefer_latency()
    await SpeechServer(config, service).serve([listener])


class SpeechServer(uvicorn.Server):
    """Says where it listens. SIGTERM or Ctrl-C ends it once all requests are answered, a second one at once; it also
    ends when the voice can't speak any more."""

    def __init__(self, config: uvicorn.Config, service: SpeechService) -> None:
        super().__init__(config)
        self._service = service

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        host, port = self.servers[0].sockets[0].getsockname()[:2]
        print(f"Listening at http://{f'[{host}]' if ':' in host else host}:{port}", flush=True)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._service.draining.set()
        await super().shutdown(sockets)
        if self.force_exit:  # uvicorn cancels requests after its time limit alone
            for task in self.server_state.tasks:
                task.cancel()

    async def on_tick(self, counter: int) -> bool:
        return await super().on_tick(counter) or bool(self._service.engines.failure)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        # Not the parent's, which raises the signal again at the end: an operator's stop is no failure.
        self.force_exit, self.should_exit = self.should_exit, True


class WatchedConnection(asyncio.Protocol):
    """A connection whose client has to go on reading what is sent."""

    loop: asyncio.AbstractEventLoop
    transport: asyncio.Transport
    _stalled: asyncio.TimerHandle | None = None  # runs while what is sent waits for the client to read

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self.resume_writing()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stalled = self.loop.call_later(STALLED_SECONDS, self._cut_stalled)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._stalled is not None:
            self._stalled.cancel()

    def _cut_stalled(self) -> None:
        self.record().reason = f"its client has read nothing for {STALLED_SECONDS:g} s"
        self.transport.abort()

    def record(self) -> RequestRecord:
        """Of the request that is being answered."""
        raise NotImplementedError


class PatientWebSocket(WatchedConnection, WebSocketsSansIOProtocol):
    """A WebSocket that the server's end leaves open: `serving.http.websocket` ends the conversation, and closes it."""

    def shutdown(self) -> None:
        if self.close_sent or not self.handshake_complete:
            super().shutdown()

    def record(self) -> RequestRecord:
        return self.scope["state"]["record"]


class PunctualProtocol(WatchedConnection, HttpToolsProtocol):
    """A connection whose client has to send each request's head in time and within HEAD_BYTES; connections beyond their
    limit are cut."""

    _late: asyncio.TimerHandle | None = None
    _unsent = 0  # bytes of answers, when the timer was set
    _head: int | None = 0  # bytes of the request's head so far; None once it is whole

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        # uvicorn answers 503 to requests beyond its limit, but accepts every connection.
        if self.limit_concurrency and len(self.connections) > self.limit_concurrency + self.config.backlog:
            transport.abort()
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._stop_watching()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._head is not None:
            self._head += len(data)
            if self._head > HEAD_BYTES:
                self.transport.abort()
        self._watch()

    def record(self) -> RequestRecord:
        return self.cycle.scope["state"]["record"]

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._head = 0

    def on_headers_complete(self) -> None:
        if self.parser.get_http_version() == "1.1" and sum(name == b"host" for name, _ in self.headers) != 1:
            raise ValueError("a request of HTTP/1.1 names one host")  # answered with 400, as what is no HTTP
        super().on_headers_complete()
        self._head = None

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._watch()

    def _watch(self) -> None:
        is_websocket = self.transport.get_protocol() is not self
        if is_websocket or (self.cycle is not None and not self.cycle.response_complete):
            self._stop_watching()
        elif self._late is None and (self._left_to_send() or not self.transport.is_closing()):
            self._unsent = self._left_to_send()
            self._late = self.loop.call_later(HEAD_SECONDS, self._too_late)

    def _left_to_send(self) -> int:
        return self.transport.get_write_buffer_size()

    def _too_late(self) -> None:
        self._late = None
        if 0 < self._left_to_send() < self._unsent:  # the client goes on reading
            self._watch()
        else:
            self.transport.abort()

    def _stop_watching(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None


def _connection_limits() -> tuple[int, int]:
    """How many connections are served and how many wait, so that file descriptors suffice: an event loop that has none
    left fills its log. Allows as many descriptors as the system does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        soft = hard
    if soft == resource.RLIM_INFINITY:
        return MAX_CONNECTIONS, BACKLOG
    free = max(8, soft - len(os.listdir("/dev/fd")) - FILES)
    backlog = min(BACKLOG, free // 4)
    return min(MAX_CONNECTIONS, free - 2 * backlog), backlog


def _is_news(record: logging.LogRecord) -> bool:
    """Whether uvicorn's record isn't of what has its line already: a WebSocket, an answer that was cut on purpose."""
    if any(news in str(record.msg) for news in ('"WebSocket ', "connection ", "without completing handshake")):
        return False
    error = record.exc_info[1] if record.exc_info else None
    return not isinstance(error, (StreamCut, asyncio.CancelledError))
