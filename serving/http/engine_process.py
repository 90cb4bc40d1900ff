"""An engine process: one voice that speaks the requests of a socket (`python -m serving.http.engine_process FD`).

The HTTP process may also run an `EngineServer` in a thread. The server ends when the other end of the socket is closed.
"""

import logging
import os
import queue
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass

from common.errors import explained
from pipeline import Voice
from pipeline.engine_set import EngineSet
from pipeline.latency import prefer_latency
from pipeline.speech import CancelledError, Speech
from serving.http.log import log_to_stderr
from serving.http.messages import (
    AskStatus,
    Cancel,
    Chunk,
    Ended,
    EngineSettings,
    Failed,
    Ready,
    Speak,
    packed,
    receive_blocking,
)

SENT_AHEAD_SECONDS = 5.0  # of audio: what is not read yet beyond it stays with the scheduler, which then waits
TEXT_READERS = 2  # threads: a long text takes a while to be read
WARM_UP_TEXT = "Ready."
CLOSING_SECONDS = 5.0  # that an engine gets to return when nobody listens any more

_log = logging.getLogger(__name__)


@dataclass(eq=False)
class _Request:
    """A request under way. Only the sending thread reads its audio."""

    number: int
    speech: Speech | None = None  # from when it is queued until it has ended
    cancelled: bool = False
    sent: float = 0.0  # seconds of audio
    read: float = 0.0  # of them, by the HTTP process's `Read` messages
    pieces: int = 0  # sent

    def begin(self, speech: Speech) -> None:
        self.speech = speech
        if self.cancelled:
            speech.cancel()

    def cancel(self) -> None:
        self.cancelled = True
        if (speech := self.speech) is not None:
            speech.cancel()

    def news(self) -> Iterator[Chunk | Ended]:
        """What has come since, as far as it may be sent."""
        while (speech := self.speech) is not None and (self.sent - self.read < SENT_AHEAD_SECONDS or self.cancelled):
            error: Exception | None = None
            try:
                audio = speech.next_chunk(timeout=0)
            except queue.Empty:
                return
            except Exception as failure:
                audio, error = None, failure
            if audio is None:
                self.speech = None
                yield Ended(self.number, error)
                return
            results = tuple(speech.results[self.pieces :])
            self.pieces += len(results)
            self.sent += audio.seconds
            if not self.cancelled:
                yield Chunk(self.number, audio, results, speech.dropped)


class EngineServer:
    """Speaks what the other end of a connection asks for.

    Args:
        connection: owned, and closed at the end.
    """

    def __init__(self, connection: socket.socket, settings: EngineSettings) -> None:
        self._connection = connection
        self._settings = settings
        self._requests: dict[int, _Request] = {}
        self._engines: EngineSet  # once the voice is loaded
        self._outbox: queue.SimpleQueue[object] = queue.SimpleQueue()  # messages, and requests that have news

    def run(self) -> None:
        """Loads the voice, sends Ready or Failed, and speaks until the other end is closed."""
        sender = threading.Thread(target=self._send, name="send", daemon=True)
        sender.start()
        try:
            voice = self._settings.load()
            self._engines = voice.engines
            try:
                self._warm_up(voice)
                prefer_latency()
                self._outbox.put(Ready(voice.name, voice.sampling_rate, voice.scheduler().max_slots))
                self._receive(voice)
            finally:
                voice.close(timeout=CLOSING_SECONDS)
        except Exception as error:
            self._outbox.put(Failed(str(explained(error, "a first word"))))
        finally:
            self._outbox.put(None)
            sender.join(CLOSING_SECONDS)
            self._connection.close()

    def _warm_up(self, voice: Voice) -> None:
        """Speaks a word, so that the first request doesn't wait for what is made at first use."""
        scheduler = voice.scheduler(
            max_slots=self._settings.max_slots,
            max_waiting=sys.maxsize,  # the HTTP process bounds them, before a text is read
            on_failed=lambda reason: self._outbox.put(Failed(reason)),
        )
        scheduler.warm_up()
        for _ in voice.stream(WARM_UP_TEXT):
            pass

    def _receive(self, voice: Voice) -> None:
        with ThreadPoolExecutor(TEXT_READERS, "text") as readers:
            while (message := receive_blocking(self._connection)) is not None:
                if isinstance(message, AskStatus):
                    self._outbox.put(voice.scheduler().status())
                elif isinstance(message, Speak):
                    self._requests[message.number] = _Request(message.number)
                    readers.submit(self._begin, voice, message, self._requests[message.number])
                elif (request := self._requests.get(message.number)) is None:  # it has ended
                    continue
                else:
                    if isinstance(message, Cancel):
                        request.cancel()
                    else:
                        request.read += message.seconds
                    self._outbox.put(request)  # what was held back may be sent now, or dropped

    def _begin(self, voice: Voice, message: Speak, request: _Request) -> None:
        try:
            if request.cancelled:
                raise CancelledError
            request.begin(voice.submit(message.text, message.settings, lambda: self._outbox.put(request)))
            self._outbox.put(request)
        except CancelledError as error:
            self._outbox.put(Ended(message.number, error))
        except Exception as error:
            self._outbox.put(Ended(message.number, explained(error, "a request")))

    def _send(self) -> None:
        try:
            ended = False
            while not ended:
                items = self._taken()
                ended = None in items
                messages = [message for item in items if item is not None for message in self._messages(item)]
                self._connection.sendall(b"".join(map(packed, messages)))
        except OSError:  # nobody reads any more
            return
        except Exception:  # requests must not wait for an engine that can't answer
            _log.exception("the engine ends, because it can't send its answers")
            self._connection.shutdown(socket.SHUT_RDWR)

    def _taken(self) -> list[object]:
        """Waits for the outbox, and empties it: messages that go out together cost both processes less."""
        items = [self._outbox.get()]
        with suppress(queue.Empty):
            while True:
                items.append(self._outbox.get_nowait())
        return items

    def _messages(self, item: object) -> Iterator[object]:
        """What is sent for an item of the outbox."""
        for message in item.news() if isinstance(item, _Request) else [item]:
            if isinstance(message, Ended):
                self._requests.pop(message.number, None)
                if message.error is not None:
                    self._engines.hide_folders(message.error)
            yield message


def main(handle: int) -> None:
    """Speaks over a socket until its other end is closed. `handle` is its inherited file descriptor."""
    for stop in (signal.SIGINT, signal.SIGTERM):  # the HTTP process lets requests end, and then closes the socket
        signal.signal(stop, signal.SIG_IGN)
    connection = socket.socket(fileno=handle)
    settings: EngineSettings | None = receive_blocking(connection)
    if settings is None:
        return
    log_to_stderr(f"{settings.name}: ")
    threading.Thread(target=_end_without_server, args=(connection,), daemon=True).start()
    EngineServer(connection, settings).run()


def _end_without_server(connection: socket.socket) -> None:
    """Ends the process if the HTTP process ends while the voice is loaded: until it is, nothing is sent."""
    with suppress(OSError):
        if not connection.recv(1, socket.MSG_PEEK):
            os._exit(1)


if __name__ == "__main__":
    main(int(sys.argv[1]))
