"""One answer of the speech API: a stream of audio that begins as soon as there is any, or an error with its reason."""

import asyncio
import base64
import json
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
from starlette.responses import JSONResponse, Response
from starlette.types import Message, Receive, Scope, Send

from common.errors import UserError
from pipeline import Audio
from pipeline.scheduler import CancelledError, Speech
from serving.api import SERVER_ERROR, ApiError
from serving.encoders import Encoder, make_encoder
from serving.service import SpeechRecord, SpeechService, busy
from serving.speech_events import SpeechEvents

STALLED_SECONDS = 60.0  # that a client may read nothing before its request is given up
CLIENT_GONE = 499  # the status in logs, as servers have it, where nobody is left to read one

_log = logging.getLogger(__name__)


class SpeechResponse(Response):
    """Speaks a request and sends it while it is made.

    A failure before the first audio is an error of its own. After it the connection is cut, so that no client takes
    what came for the whole; events end with one that says why. A client that goes away cancels its speech.
    """

    def __init__(self, service: SpeechService, record: SpeechRecord) -> None:
        super().__init__()
        self._service = service
        self._record = record

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        record = self._record
        with self._service.under_way(record):
            try:
                await self._speak(receive, send)
            except ApiError as error:
                record.status, record.reason = error.status, str(error)
                await JSONResponse(error.body, error.status, error.headers)(scope, receive, send)

    async def _speak(self, receive: Receive, send: Send) -> None:
        """Raises ApiError where nothing has been sent."""
        record, events = self._record, SpeechEvents()
        record.outcome = "refused"
        speech = await self._service.submit(record.order, events)
        record.outcome = "cancelled"
        with self._service.holding(speech):
            watcher = asyncio.create_task(_cancel_when_gone(speech, receive))
            try:
                chunk = await self._first_chunk(speech, events)
                encoder = _encoder(record, speech)
                try:
                    await self._stream(_Body(speech, events, encoder, record), chunk, send)
                finally:
                    encoder.finish()
            finally:
                watcher.cancel()

    async def _first_chunk(self, speech: Speech, events: SpeechEvents) -> Audio:
        try:
            chunk = await events.next_chunk(speech)
        except CancelledError:
            if self._service.draining:
                raise busy("the server is shutting down", "shutting_down") from None
            raise ApiError(CLIENT_GONE, "the client has gone") from None
        except UserError as error:
            self._record.outcome = "failed"
            raise _failure(error) from error
        if chunk is None:
            self._record.outcome = "failed"
            raise _failure(UserError("the text gave no audio"))
        return chunk

    async def _stream(self, body: "_Body", chunk: Audio, send: Send) -> None:
        """Sends the head and the body. Where the body isn't completed, the server cuts the connection."""
        record = self._record
        head: Message = {"type": "http.response.start", "status": record.status, "headers": body.headers}
        try:
            await _timely(send(head))
            await body.send(chunk, send, self._service.metrics.first_audio)
            record.outcome = "done"
        except CancelledError:
            pass
        except asyncio.TimeoutError:
            record.reason = f"its client has read nothing for {STALLED_SECONDS:g} s"
        except UserError as error:
            record.outcome, record.reason = "failed", str(error)
            if record.order.events:
                await _timely(send(_message(_event("error", **_failure(error).body), last=True)))


class _Body:
    """The bytes of an answer: encoded audio, plain or in server-sent events."""

    def __init__(self, speech: Speech, events: SpeechEvents, encoder: Encoder, record: SpeechRecord) -> None:
        self._speech = speech
        self._events = events
        self._encoder = encoder
        self._record = record
        self._alignments = 0  # sent

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        order, rate = self._record.order, self._speech.sampling_rate
        media_type = "text/event-stream" if order.events else order.audio_format.media_type.format(rate=rate)
        headers = {
            "content-type": media_type,
            "x-sample-rate": str(rate),
            "cache-control": "no-store",
            "x-accel-buffering": "no",  # nginx would collect the audio before it passes it on
        }
        return [(name.encode(), value.encode()) for name, value in headers.items()]

    async def send(self, chunk: Audio | None, send: Send, on_first_audio: Callable[[float], None]) -> None:
        """Sends the first chunk and all that follow. Raises what `Speech.next_chunk` does."""
        record = self._record
        while chunk is not None:
            if data := self._framed(await self._encoded(chunk.samples)):
                await _timely(send(_message(data)))
            record.audio_seconds += chunk.seconds
            if record.first_audio_seconds is None:
                record.first_audio_seconds = time.perf_counter() - record.arrived
                on_first_audio(record.first_audio_seconds)
            chunk = await self._events.next_chunk(self._speech)
        rest = self._framed(await self._encoded(None))
        if record.order.events:
            rest += self._done_event()
        await _timely(send(_message(rest, last=True)))

    async def _encoded(self, samples: np.ndarray | None) -> bytes:
        """The encoder's next bytes, or its last ones. Codecs run beside the event loop."""
        encoder = self._encoder
        work: Callable[[], bytes] = encoder.finish if samples is None else lambda: encoder.encode(samples)
        return await asyncio.to_thread(work) if self._record.order.audio_format.container else work()

    def _framed(self, data: bytes) -> bytes:
        if not self._record.order.events:
            return data
        delta = _event("speech.audio.delta", audio=base64.b64encode(data).decode()) if data else b""
        return delta + self._alignment_events()

    def _alignment_events(self) -> bytes:
        """Of the pieces that have ended since the last call: weights as bytes, frame after frame, 255 for 1."""
        events = b""
        for number in range(self._alignments, len(self._speech.alignments)):
            weights = self._speech.alignments[number]
            frames, symbols = weights.shape
            data = base64.b64encode(np.rint(weights * 255).astype(np.uint8).tobytes()).decode()
            text = self._speech.reports[number].text
            events += _event("speech.alignment", text=text, frames=frames, symbols=symbols, weights=data)
            self._alignments = number + 1
        return events

    def _done_event(self) -> bytes:
        read = sum(len(report.text) for report in self._speech.reports)
        spoken = sum(report.frames for report in self._speech.reports)
        usage = {"input_tokens": read, "output_tokens": spoken, "total_tokens": read + spoken}
        return _event("speech.audio.done", usage=usage)


async def _cancel_when_gone(speech: Speech, receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    speech.cancel()


def _encoder(record: SpeechRecord, speech: Speech) -> Encoder:
    try:
        return make_encoder(record.order.audio_format, speech.sampling_rate)
    except UserError as error:
        raise ApiError(400, str(error), param="response_format", code="invalid_value") from error


def _failure(error: UserError) -> ApiError:
    return ApiError(500, str(error), kind=SERVER_ERROR, code="speech_failed")


def _message(body: bytes, last: bool = False) -> Message:
    return {"type": "http.response.body", "body": body, "more_body": not last}


async def _timely(sending: Awaitable[None]) -> None:
    await asyncio.wait_for(sending, STALLED_SECONDS)


def _event(kind: str, **fields: Any) -> bytes:
    return b"data: " + json.dumps({"type": kind, **fields}).encode() + b"\n\n"
