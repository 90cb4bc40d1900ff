"""One answer of the speech API: a stream of audio that begins as soon as there is any, or an error with its reason."""

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack
from typing import Any

import numpy as np
from starlette.responses import Response, StreamingResponse
from starlette.types import Message, Receive, Scope, Send

from common.errors import EngineFailure, UserError
from pipeline import Audio
from pipeline.scheduler import CancelledError, Speech
from serving.api import ApiError, SpeechOrder, unavailable
from serving.encoders import Encoder, make_encoder
from serving.service import CLIENT_GONE, RequestRecord, SpeechService
from serving.speech_events import SpeechEvents

STALLED_SECONDS = 60.0  # that a client may read nothing before its request is given up


class StreamCut(Exception):
    """An answer that can't be completed: the server cuts the connection, so that nobody takes it for the whole."""


async def speak(service: SpeechService, record: RequestRecord, order: SpeechOrder, receive: Receive) -> Response:
    """Answers a request once there is a first chunk of its audio.

    A failure after it cuts the connection; events end with one that says why. A client that goes away cancels its
    speech.

    Raises:
        ApiError: there is no audio.
    """
    events = SpeechEvents()
    speech = await service.submit(order, events)
    with ExitStack() as owned:
        owned.callback(speech.cancel)
        watcher = asyncio.create_task(_cancel_when_gone(speech, receive))
        try:
            chunk = await _first_chunk(service, speech, events)
        finally:
            watcher.cancel()
        encoder = _encoder(order, speech)
        owned.callback(encoder.finish)
        body = _body(service, record, order, speech, events, encoder, chunk)
        return SpeechStream(record, body, _headers(order, speech), owned.pop_all())


class SpeechStream(StreamingResponse):
    """Sends the audio of a request while it is made. Owns what it takes to make it."""

    def __init__(
        self, record: RequestRecord, body: AsyncIterator[bytes], headers: dict[str, str], owned: ExitStack
    ) -> None:
        super().__init__(body, headers=headers)
        self._record = record
        self._owned = owned

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def timely(message: Message) -> None:
            await asyncio.wait_for(send(message), STALLED_SECONDS)

        with self._owned:
            try:
                await super().__call__(scope, receive, timely)
            except asyncio.TimeoutError:
                self._record.reason = f"its client has read nothing for {STALLED_SECONDS:g} s"
                raise StreamCut(self._record.reason) from None


async def _body(
    service: SpeechService,
    record: RequestRecord,
    order: SpeechOrder,
    speech: Speech,
    events: SpeechEvents,
    encoder: Encoder,
    chunk: Audio | None,
) -> AsyncIterator[bytes]:
    """The bytes of an answer: encoded audio, plain or in server-sent events, from its first chunk on."""
    frames = _EventFrames(speech) if order.events else None
    try:
        while chunk is not None:
            data = await _encoded(order, encoder, chunk.samples)
            if data := data if frames is None else frames.of(data):
                yield data
            record.audio_seconds += chunk.seconds
            if record.first_audio_seconds is None:
                record.first_audio_seconds = time.perf_counter() - record.arrived
                service.metrics.first_audio(record.first_audio_seconds)
            chunk = await events.next_chunk(speech)
        rest = await _encoded(order, encoder, None)
        yield rest if frames is None else frames.of(rest) + frames.done()
    except CancelledError as error:
        raise StreamCut(str(error)) from error
    except UserError as error:
        record.failed, record.reason = True, str(error)
        if not order.events:
            raise StreamCut(str(error)) from error
        yield _event("error", **service.answer_to(error).body)


class _EventFrames:
    """Server-sent events of one answer, as OpenAI names them, with those of the alignments beside."""

    def __init__(self, speech: Speech) -> None:
        self._speech = speech
        self._alignments = 0  # sent

    def of(self, data: bytes) -> bytes:
        """Events of the next bytes of audio, and of the pieces that have ended since the last call."""
        delta = _event("speech.audio.delta", audio=base64.b64encode(data).decode()) if data else b""
        return delta + self._alignment_events()

    def done(self) -> bytes:
        read = sum(len(report.text) for report in self._speech.reports)
        spoken = sum(report.frames for report in self._speech.reports)
        usage = {"input_tokens": read, "output_tokens": spoken, "total_tokens": read + spoken}
        return _event("speech.audio.done", usage=usage)

    def _alignment_events(self) -> bytes:
        """Weights as bytes, frame after frame, 255 for 1."""
        events = b""
        for number in range(self._alignments, len(self._speech.alignments)):
            weights = self._speech.alignments[number]
            frames, symbols = weights.shape
            data = base64.b64encode(np.rint(weights * 255).astype(np.uint8).tobytes()).decode()
            text = self._speech.reports[number].text
            events += _event("speech.alignment", text=text, frames=frames, symbols=symbols, weights=data)
            self._alignments = number + 1
        return events


async def _first_chunk(service: SpeechService, speech: Speech, events: SpeechEvents) -> Audio:
    try:
        chunk = await events.next_chunk(speech)
    except CancelledError:
        raise ApiError(CLIENT_GONE, "the client has gone") from None
    except UserError as error:
        raise service.answer_to(error) from error
    except asyncio.CancelledError:  # the time that requests under way get when the server ends is over
        raise unavailable("the server is shutting down", "shutting_down") from None
    if chunk is None:
        raise service.answer_to(EngineFailure("the text gave no audio"))
    return chunk


async def _cancel_when_gone(speech: Speech, receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    speech.cancel()


def _headers(order: SpeechOrder, speech: Speech) -> dict[str, str]:
    rate = speech.sampling_rate
    return {
        "Content-Type": "text/event-stream" if order.events else order.audio_format.media_type.format(rate=rate),
        "X-Sample-Rate": str(rate),
        "Cache-Control": "no-store",
        "X-Accel-Buffering": "no",  # nginx would collect the audio before it passes it on
    }


def _encoder(order: SpeechOrder, speech: Speech) -> Encoder:
    try:
        return make_encoder(order.audio_format, speech.sampling_rate)
    except UserError as error:
        raise ApiError(400, str(error), param="response_format", code="invalid_value") from error


async def _encoded(order: SpeechOrder, encoder: Encoder, samples: np.ndarray | None) -> bytes:
    """The encoder's next bytes, or its last ones. Codecs run beside the event loop."""
    work: Callable[[], bytes] = encoder.finish if samples is None else lambda: encoder.encode(samples)
    return await asyncio.to_thread(work) if order.audio_format.container else work()


def _event(kind: str, **fields: Any) -> bytes:
    return b"data: " + json.dumps({"type": kind, **fields}).encode() + b"\n\n"
