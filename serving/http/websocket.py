"""The WebSocket `/v1/speak` with Deepgram's messages: speaks text while more of it arrives.

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
from pipeline.text_stream import QUIET_SECONDS, Stretch, TextStream, silence_before
from serving.http.api import MODEL, ApiError, SpeechOrder, read_json, read_query
from serving.http.engine_pool import RemoteSpeech
from serving.http.service import CLIENT_GONE, RequestRecord, SpeechService
from tacotron2.text import TextFrontEnd

FLUSH_SECONDS = 2.0  # without more text, after which the rest is spoken as it is
BUSY_SECONDS = 10.0  # that a text waits for an engine to have room, at most
PAUSE_SECONDS = 0.05  # before looking again whether an engine has room
IDLE_SECONDS = 3600.0  # without any message: clients keep connections for their next text
MAX_UNSPOKEN = 4  # times the longest text of a message: what may wait in a connection
SHUTTING_DOWN = "the server is shutting down"
REASON_BYTES = 123  # of a close frame, by RFC 6455

Mark = Literal["flush", "close", "end"]


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
            await _Conversation(service, record, socket, order).serve()
        except asyncio.CancelledError:  # the time that a server's end leaves is over
            raise Ended(Code.SERVER_ENDS, SHUTTING_DOWN) from None
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


class _Conversation:
    """One WebSocket: one task listens, another one speaks."""

    def __init__(self, service: SpeechService, record: RequestRecord, socket: WebSocket, order: SpeechOrder) -> None:
        self._service, self._record, self._socket, self._order = service, record, socket, order
        self._text = TextStream(TextFrontEnd(order.settings.text_normalizer))
        self._waiting: deque[Stretch | Mark] = deque()  # the first one is being spoken
        self._changed = asyncio.Event()
        self._counts = {"Flushed": 0, "Cleared": 0}
        self._speaking: asyncio.Task[None]

    async def serve(self) -> None:
        """Returns once all is spoken and the client wants no more. Raises Ended or WebSocketDisconnect."""
        voice = uuid.uuid5(uuid.NAMESPACE_URL, self._service.engines.voice.name)
        model: dict[str, Any] = {"model_name": MODEL, "model_version": project_version(), "model_uuid": str(voice)}
        await self._tell("Metadata", request_id=self._record.request_id, **model)
        listening, self._speaking = asyncio.create_task(self._listen()), asyncio.create_task(self._speak())
        try:
            while True:
                tasks = {listening, self._speaking}
                ended, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                for task in ended:
                    if not task.cancelled():  # as a Clear does it, before another one speaks
                        return task.result()
        finally:
            for task in (listening, self._speaking):
                task.cancel()
            await asyncio.gather(listening, self._speaking, return_exceptions=True)

    # Listening

    async def _listen(self) -> None:
        draining = asyncio.create_task(self._service.draining.wait())
        try:
            while (message := await self._next_message(draining)) is not None:
                await self._take(message)
        finally:
            draining.cancel()
        # Sentences that have come are spoken, and nothing more. A Clear still stops them.
        self._queue([*await asyncio.to_thread(self._text.quiet), "end"])
        while (await self._received()).get("type") != "Clear":
            pass
        await self._clear()
        raise Ended(Code.SERVER_ENDS, SHUTTING_DOWN)

    async def _take(self, message: dict[str, Any]) -> None:
        kind = message.get("type")
        if kind == "Speak":
            await self._add(message.get("text"))
        elif kind == "Flush":
            self._queue([*self._text.flush(), "flush"])
        elif kind == "Clear":
            await self._clear()
        elif kind == "Close":
            self._queue([*self._text.flush(), "close"])
        elif kind != "KeepAlive":
            raise Ended(Code.REFUSED, f"type {kind!r} does not exist; send Speak, Flush, Clear, Close or KeepAlive")

    async def _next_message(self, draining: asyncio.Task) -> dict[str, Any] | None:
        """The next message, waited for; None when the server ends. Text that nothing follows for a while is spoken."""
        if draining.done():
            return None
        receiving, waited = asyncio.create_task(self._received()), 0.0
        try:
            while True:
                pause = IDLE_SECONDS if not self._text.held else FLUSH_SECONDS if waited else QUIET_SECONDS
                done, _ = await asyncio.wait({receiving, draining}, timeout=pause, return_when=asyncio.FIRST_COMPLETED)
                if done:
                    return receiving.result() if receiving in done else None
                if pause == IDLE_SECONDS and not self._waiting:
                    raise Ended(Code.GOING_AWAY, f"nothing has come for {IDLE_SECONDS:g} s")
                self._queue(await asyncio.to_thread(self._text.flush if waited else self._text.quiet))
                waited += pause
        finally:
            receiving.cancel()

    async def _received(self) -> dict[str, Any]:
        received = await self._socket.receive()
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

    async def _add(self, text: object) -> None:
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

    async def _clear(self) -> None:
        self._speaking.cancel()
        await asyncio.wait({self._speaking})
        self._text.clear()
        self._waiting.clear()
        self._speaking = asyncio.create_task(self._speak())
        await self._tell_count("Cleared")

    # Speaking

    async def _speak(self) -> None:
        while True:
            while not self._waiting:
                self._changed.clear()
                await self._changed.wait()
            item = self._waiting[0]
            if item == "close":
                return
            if item == "end":
                raise Ended(Code.SERVER_ENDS, SHUTTING_DOWN)
            if item == "flush":
                await self._tell_count("Flushed")
            else:
                await self._say(item)
            self._waiting.popleft()

    async def _say(self, stretch: Stretch) -> None:
        silence = self._order.settings.sentence_silence
        try:
            speech = await self._submitted(stretch.text)
            try:
                chunk = await speech.next_chunk()
                if speech.dropped:
                    left_out = f"characters without a sound are left out: {''.join(speech.dropped)}"
                    await self._warn("TEXT_LEFT_OUT", left_out)
                for pause in silence_before(stretch, silence, speech.sampling_rate):
                    await self._socket.send_bytes(pause.pcm16())
                while chunk is not None:
                    await self._socket.send_bytes(chunk.pcm16())
                    self._service.sent(self._record, chunk.seconds, speech.cut)
                    chunk = await speech.next_chunk()
                if speech.cut:
                    await self._warn("TEXT_CUT", f"cut by the limit of frames: {stretch.text}")
            finally:
                speech.cancel()
        except InvalidInput as error:
            await self._warn("TEXT_LEFT_OUT", str(error))
        except UserError as error:
            raise Ended(Code.FAILED, str(error)) from error

    async def _submitted(self, text: str) -> RemoteSpeech:
        """Sends a text to an engine, as soon as one has room. Raises Ended if none has, or none is ready."""
        began = time.monotonic()
        while True:
            try:
                return self._service.engines.submit(text, self._order.settings)
            except (Busy, Closed) as error:
                if isinstance(error, Closed) or time.monotonic() - began > BUSY_SECONDS:
                    raise Ended(Code.TRY_AGAIN, str(error)) from error
            await asyncio.sleep(PAUSE_SECONDS)

    async def _tell_count(self, kind: Literal["Flushed", "Cleared"]) -> None:
        number = self._counts[kind]
        self._counts[kind] += 1
        await self._tell(kind, sequence_id=number)

    async def _warn(self, code: str, message: str) -> None:
        await self._tell("Warning", code=code, description=message, warn_msg=message)

    async def _tell(self, kind: str, **fields: Any) -> None:
        await self._socket.send_text(json.dumps({"type": kind, **fields}))
