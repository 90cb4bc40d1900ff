"""What the HTTP process and an engine's process tell one another over a socket, and how it becomes bytes.

Both run the same program, so messages are pickled; arrays are not: they follow as they lie in memory.
"""

import pickle
import socket
import struct
from asyncio import IncompleteReadError, StreamReader
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
        max_waiting: most requests that wait.
    """

    name: str
    load: Callable[[], Voice]
    max_slots: int | None = None
    max_waiting: int = 64


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
    """The engine's voice is loaded and has spoken a word."""

    name: str  # of the voice
    sampling_rate: int  # in Hz


@dataclass(frozen=True)
class Failed:
    """The engine can't speak, or can't any more. Nothing follows."""

    reason: str


@dataclass(frozen=True)
class Accepted:
    """A request is queued.

    Attributes:
        dropped: the characters of its text that have no symbol and are left out.
    """

    number: int
    dropped: tuple[str, ...]


@dataclass(frozen=True)
class Chunk:
    """Audio of a request, with the pieces of text that have ended since the chunk before."""

    number: int
    audio: Audio
    results: tuple[PieceResult, ...]


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


def _unpacked(body: bytes) -> Any:
    count, *_ = struct.unpack_from("<I", body)
    sizes = struct.unpack_from(f"<{count}I", body, 4)
    view, start = memoryview(body), 4 + 4 * count
    arrays = []
    for size in sizes:
        arrays.append(view[start : start + size])
        start += size
    return pickle.loads(view[start:], buffers=arrays)


async def receive(reader: StreamReader) -> Any:
    """The next message; None after the last."""
    with suppress(IncompleteReadError, ConnectionError):
        (size,) = _SIZE.unpack(await reader.readexactly(_SIZE.size))
        return _unpacked(await reader.readexactly(size))
    return None


def receive_blocking(connection: socket.socket) -> Any:
    """The next message, waited for in this thread; None after the last."""
    with suppress(EOFError, ConnectionError):
        (size,) = _SIZE.unpack(_read(connection, _SIZE.size))
        return _unpacked(_read(connection, size))
    return None


def _read(connection: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        received = connection.recv(size - len(data))
        if not received:
            raise EOFError
        data += received
    return bytes(data)
