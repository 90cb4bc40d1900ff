"""Text in, speech out over a WebSocket, while both come: Deepgram's messages of `/v1/speak`.

Its client sends JSON: `Speak` (a bit of text), `Flush` (speak all that has come), `Clear` (stop, and forget what has
come), `Close`, `KeepAlive`. The server sends audio in binary messages (signed 16 bits, little-endian) and JSON.
"""

import asyncio
import json
import time
import uuid
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from enum import IntEnum
from typing import Any, Literal

from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from common.errors import Busy, Closed, InvalidInput, UserError
from common.files import project_version
from pipeline.speech import CancelledError
from pipeline.text_stream import QUIET_SECONDS, Stretch, TextStream, silence_before
from serving.http.api import MODEL, ApiError, SpeechOrder, read_json, read_query
from serving.http.engine_pool import RemoteSpeech
from serving.http.service import CLIENT_GONE, RequestRecord, SpeechService
from tacotron2.text import TextFrontEnd

FLUSH_SECONDS = 2.0  # without more text, after which the rest is spoken as it is
BUSY_SECONDS = 10.0  # that a text waits for an engine to have room, at most
PAUSE_SECONDS = 0.05  # before looking again whether an engine has room, or whether all is spoken
IDLE_SECONDS = 3600.0  # without any message: clients keep connections for their next text
MAX_UNSPOKEN = 4  # times the longest text of a message: what may wait in a connection
REASON_BYTES = 123  # of a close frame, by RFC 6455

Mark = Literal["flush", "close"]


class Code(IntEnum):
    """Close codes of RFC 6455."""

    DONE = 1000
    GOING_AWAY = 1001
    NO_TEXT = 1003
    BAD_DATA = 1007
    REFUSED = 1008
    TOO_LONG = 1009
    FAILED = 1011
    SERVER_ENDS = 1012
    TRY_AGAIN = 1013


class Ended(Exception):
    """A connection ends: close code and reason."""

    def __init__(self, code: Code, reason: str) -> None:
        super().__init__(reason)
        self.code = code


async def speak_messages(service: SpeechService, socket: WebSocket, subprotocol: str | None) -> None:
    """Serves a connection, which may be served, to its end."""
    record: RequestRecord = socket.state.record
    try:
        await socket.accept(subprotocol)
        try:
            order = read_query(socket.query_params, service.settings.voices)
        except ApiError as error:
            raise Ended(Code.REFUSED, str(error)) from error
        record.format = "websocket"
        try:
            await _Connection(service, record, socket, order).serve()
        except asyncio.CancelledError:  # the time that a server's end leaves is over
            raise Ended(Code.SERVER_ENDS, "the server is shutting down") from None
        raise Ended(Code.DONE, "")
    except WebSocketDisconnect:
        record.status, record.reason = CLIENT_GONE, record.reason or "its client has gone"
    except Ended as end:
        record.status, record.reason, record.completed = int(end.code), str(end), True
        record.failed = end.code == Code.FAILED
        reason = str(end).encode()[:REASON_BYTES].decode(errors="ignore")
        if socket.application_state is WebSocketState.CONNECTED:
            with suppress(WebSocketDisconnect, RuntimeError):
                await socket.close(end.code, reason)


class _Connection:
    """A conversation over one WebSocket: one task listens, one speaks, one waits for the server's end."""

    def __init__(self, service: SpeechService, record: RequestRecord, socket: WebSocket, order: SpeechOrder) -> None:
        self._service, self._record, self._socket, self._order = service, record, socket, order
        self._text = TextStream(TextFrontEnd(order.settings.text_normalizer))
        self._waiting: deque[Stretch | Mark] = deque()  # the first one is being spoken
        self._changed = asyncio.Event()
        self._speech: RemoteSpeech | None = None
        self._turn = 0  # a Clear begins another: what belongs to an earlier one is not sent
        self._counts = {"Flushed": 0, "Cleared": 0}
        self._sending = asyncio.Lock()

    async def serve(self) -> None:
        """Returns once all is spoken and the client wants no more. Raises Ended or WebSocketDisconnect."""
        voice = uuid.uuid5(uuid.NAMESPACE_URL, self._service.engines.voice.name)
        model: dict[str, Any] = {"model_name": MODEL, "model_version": project_version(), "model_uuid": str(voice)}
        await self._tell("Metadata", request_id=self._record.request_id, **model)
        tasks = {asyncio.create_task(task) for task in (self._listen(), self._speak(), self._wind_up())}
        try:
            ended, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in ended:
                task.result()
        finally:
            self._turn += 1
            self._stop_speaking()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _wind_up(self) -> None:
        """Ends the conversation when the server ends, once all that has come is spoken."""
        await self._service.draining.wait()
        await asyncio.sleep(PAUSE_SECONDS)  # for a text that is being read
        while self._waiting:
            await asyncio.sleep(PAUSE_SECONDS)
        raise Ended(Code.SERVER_ENDS, "the server is shutting down")

    # Listening

    async def _listen(self) -> None:
        while True:
            message = await self._next_message()
            kind = message.get("type")
            if self._service.draining.is_set() and kind != "Clear":
                continue  # nothing more is spoken, and the close code tells it
            if kind == "Speak":
                await self._take(message.get("text"))
            elif kind == "Flush":
                self._queue([*self._text.flush(), "flush"])
            elif kind == "Clear":
                self._turn += 1
                self._text.clear()
                self._waiting.clear()
                self._stop_speaking()
                await self._tell_count("Cleared")
            elif kind == "Close":
                self._queue([*self._text.flush(), "close"])
            elif kind != "KeepAlive":
                raise Ended(Code.REFUSED, f"type {kind!r} does not exist; send Speak, Flush, Clear, Close or KeepAlive")

    async def _next_message(self) -> dict[str, Any]:
        """The next message, waited for. Meanwhile, text that nothing has followed for a while is spoken."""
        waited = 0.0
        while True:
            pause = IDLE_SECONDS if not self._text.held else FLUSH_SECONDS if waited else QUIET_SECONDS
            try:
                received = await asyncio.wait_for(self._socket.receive(), pause)
                break
            except asyncio.TimeoutError:
                if pause == IDLE_SECONDS and not self._waiting:
                    raise Ended(Code.GOING_AWAY, f"nothing has come for {IDLE_SECONDS:g} s") from None
                ready = self._text.flush if waited else self._text.quiet
                self._queue(await asyncio.to_thread(ready))
                waited += pause
        if received["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(received["code"], received.get("reason"))
        if received.get("text") is None:
            raise Ended(Code.NO_TEXT, "messages are JSON in text, not binary")
        try:
            message = read_json(received["text"])
        except ValueError as error:
            raise Ended(Code.BAD_DATA, f"a message {error}") from error
        if not isinstance(message, dict):
            raise Ended(Code.REFUSED, "a message must be a JSON object")
        return message

    async def _take(self, text: object) -> None:
        if not isinstance(text, str):
            raise Ended(Code.REFUSED, "Speak needs text, a string")
        longest = self._service.settings.max_characters
        if len(text) > longest:
            raise Ended(
                Code.TOO_LONG, f"a text has {len(text)} characters, and at most {longest} are taken in one message"
            )
        waiting = sum(len(one.text) for one in self._waiting if isinstance(one, Stretch))
        if self._text.held + waiting + len(text) > MAX_UNSPOKEN * longest:
            raise Ended(Code.TOO_LONG, f"more than {MAX_UNSPOKEN * longest} characters wait to be spoken")
        self._record.characters += len(text)
        self._queue(await asyncio.to_thread(self._text.add, text))

    def _queue(self, items: Iterable[Stretch | Mark]) -> None:
        self._waiting += items
        self._changed.set()

    def _stop_speaking(self) -> None:
        if self._speech is not None:
            self._speech.cancel()

    # Speaking

    async def _speak(self) -> None:
        while True:
            while not self._waiting:
                self._changed.clear()
                await self._changed.wait()
            item, turn = self._waiting[0], self._turn
            if item == "close":
                return
            if item == "flush":
                await self._tell_count("Flushed")
            else:
                assert isinstance(item, Stretch)
                await self._say(item, turn)
            if turn == self._turn:
                self._waiting.popleft()

    async def _say(self, stretch: Stretch, turn: int) -> None:
        silence = self._order.settings.sentence_silence
        try:
            self._speech = speech = await self._submitted(stretch.text, turn)
            chunk = await speech.next_chunk()
            if speech.dropped:
                left_out = f"characters without a sound are left out: {''.join(speech.dropped)}"
                await self._warn("TEXT_LEFT_OUT", left_out, turn)
            for pause in silence_before(stretch, silence, speech.sampling_rate):
                await self._send(pause.pcm16(), turn)
            while chunk is not None:
                await self._send(chunk.pcm16(), turn)
                self._service.sent(self._record, chunk.seconds, speech.cut)
                chunk = await speech.next_chunk()
            if speech.cut:
                await self._warn("TEXT_CUT", f"cut by the limit of frames: {stretch.text}", turn)
        except CancelledError:
            return  # a Clear came
        except InvalidInput as error:
            await self._warn("TEXT_LEFT_OUT", str(error), turn)
        except UserError as error:
            raise Ended(Code.FAILED, str(error)) from error
        finally:
            self._stop_speaking()
            self._speech = None

    async def _submitted(self, text: str, turn: int) -> RemoteSpeech:
        """Sends a text to an engine, as soon as one has room.

        Raises:
            Ended: none has had room for a while, or none is ready.
            CancelledError: a Clear came meanwhile.
        """
        began = time.monotonic()
        while turn == self._turn:
            try:
                return self._service.engines.submit(text, self._order.settings)
            except (Busy, Closed) as error:
                if isinstance(error, Closed) or time.monotonic() - began > BUSY_SECONDS:
                    raise Ended(Code.TRY_AGAIN, str(error)) from error
            await asyncio.sleep(PAUSE_SECONDS)
        raise CancelledError

    async def _tell_count(self, kind: Literal["Flushed", "Cleared"]) -> None:
        number = self._counts[kind]
        self._counts[kind] += 1
        await self._tell(kind, sequence_id=number)

    async def _warn(self, code: str, message: str, turn: int) -> None:
        await self._tell("Warning", turn, code=code, description=message, warn_msg=message)

    async def _tell(self, kind: str, turn: int | None = None, **fields: Any) -> None:
        await self._send(json.dumps({"type": kind, **fields}), turn)

    async def _send(self, data: bytes | str, turn: int | None = None) -> None:
        """Sends it, unless it belongs to a turn that is over."""
        async with self._sending:
            if turn is not None and turn != self._turn:
                return
            await (self._socket.send_bytes(data) if isinstance(data, bytes) else self._socket.send_text(data))
