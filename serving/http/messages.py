"""Messages between the HTTP process and an engine's process over a socket, and how they become bytes.

Messages are pickled, since both processes run the same program. Arrays follow as raw bytes.
"""

import asyncio
import pickle
import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from pipeline import Audio, SpeakSettings, Voice
from pipeline.pieces import PieceResult

_SIZE = struct.Struct("<Q")  # bytes of a message, before each


@dataclass(frozen=True)
class EngineSettings:
    """What an engine is started with; the first message to its process.

    Attributes:
        name: of the engine in the log.
        load: opens the voice; raises UserError. The engine closes it.
        max_slots: most pieces of text decoded at a time; None takes what suits the device.
    """

    name: str
    load: Callable[[], Voice]
    max_slots: int | None = None


@dataclass(frozen=True)
class Speak:
    """A request. Its number is no other request's of the engine."""

    number: int
    text: str
    settings: SpeakSettings


@dataclass(frozen=True)
class Read:
    """So much more of a request's audio was read."""

    number: int
    seconds: float


@dataclass(frozen=True)
class Cancel:
    """A request is given up."""

    number: int


class AskStatus:
    """Answered with a `SchedulerStatus`."""


@dataclass(frozen=True)
class Ready:
    """The engine's voice is loaded and has spoken a word.

    Attributes:
        name: of the voice.
        sampling_rate: in Hz.
        max_slots: most pieces of text decoded at a time.
    """

    name: str
    sampling_rate: int
    max_slots: int


@dataclass(frozen=True)
class Failed:
    """The engine can't speak, or can't any more. Nothing follows."""

    reason: str


@dataclass(frozen=True)
class Chunk:
    """Audio of a request.

    Attributes:
        results: of the pieces of text that have ended since the chunk before.
        dropped: the characters of the whole text that have no symbol and are left out.
    """

    number: int
    audio: Audio
    results: tuple[PieceResult, ...]
    dropped: tuple[str, ...]


@dataclass(frozen=True)
class Ended:
    """Nothing more comes of a request: its audio is complete (None), or it was refused, failed or was cancelled."""

    number: int
    error: Exception | None


def packed(message: object) -> bytes:
    """A message with its size before it."""
    arrays: list[pickle.PickleBuffer] = []
    pickled = pickle.dumps(message, protocol=5, buffer_callback=arrays.append)
    views = [array.raw() for array in arrays]
    sizes = struct.pack(f"<{1 + len(views)}I", len(views), *map(len, views))
    # The pickled part comes last: so float32 arrays stay aligned.
    body = b"".join([sizes, *views, pickled])
    return _SIZE.pack(len(body)) + body


def _unpacked(body: bytes | bytearray) -> Any:
    count, *_ = struct.unpack_from("<I", body)
    sizes = struct.unpack_from(f"<{count}I", body, 4)
    view, start = memoryview(body), 4 + 4 * count
    arrays = []
    for size in sizes:
        arrays.append(view[start : start + size])
        start += size
    return pickle.loads(view[start:], buffers=arrays)


class MessageProtocol(asyncio.Protocol):
    """A connection's messages in an event loop.

    Args:
        on_message: called with each message. What it raises ends the connection.
        on_lost: called once the connection has ended, with the error that has ended it.
    """

    def __init__(self, on_message: Callable[[Any], object], on_lost: Callable[[Exception | None], object]) -> None:
        self._on_message, self._on_lost = on_message, on_lost
        self._data = bytearray()

    def data_received(self, data: bytes) -> None:
        self._data += data
        while len(self._data) >= _SIZE.size:
            end = _SIZE.size + _SIZE.unpack_from(self._data)[0]
            if len(self._data) < end:
                return
            body = self._data[_SIZE.size : end]
            del self._data[:end]
            self._on_message(_unpacked(body))

    def connection_lost(self, exc: Exception | None) -> None:
        self._on_lost(exc)


def receive_blocking(connection: socket.socket) -> Any:
    """The next message, waited for in this thread; None after the last whole one."""
    with suppress(ConnectionError):
        head = connection.recv(_SIZE.size, socket.MSG_WAITALL)
        if len(head) == _SIZE.size:
            (size,) = _SIZE.unpack(head)
            body = connection.recv(size, socket.MSG_WAITALL)
            return _unpacked(body) if len(body) == size else None
    return None
