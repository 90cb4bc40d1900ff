"""One answer of the speech API: a stream of audio that begins as soon as there is any, or an error with its reason."""

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from starlette.responses import Response, StreamingResponse
from starlette.types import Message, Receive, Scope, Send

from common.errors import EngineFailure, UserError
from pipeline import Audio
from pipeline.encoders import Encoder, make_encoder
from pipeline.speech import CancelledError
from serving.http.api import ApiError, SpeechOrder, api_error, unavailable
from serving.http.engine_pool import RemoteSpeech
from serving.http.service import CLIENT_GONE, RequestRecord, SpeechService

STALLED_SECONDS = 60.0  # that a client may read nothing before its request is given up


class StreamCut(Exception):
    """An answer that can't be completed: the server cuts the connection, so that nobody takes it for the whole."""


async def speak(service: SpeechService, record: RequestRecord, order: SpeechOrder, receive: Receive) -> Response:
    """Answers a request: once there is a first chunk of its audio, or once there is all where it wants a whole answer.

    A failure after the answer has begun cuts the connection; events end with one that says why. A client that goes away
    cancels its speech.

    Raises:
        ApiError: there is no audio.
    """
    with _as_answers(), ExitStack() as owned:
        speech = await service.engines.submit(order.text, order.settings)
        owned.callback(speech.cancel)
        watcher = asyncio.create_task(_cancel_when_gone(speech, receive))
        owned.callback(watcher.cancel)
        encoder = make_encoder(order.audio_format, speech.sampling_rate, order.whole)
        owned.callback(encoder.finish)
        answer = _Answer(service, record, order, speech, encoder)
        chunk = await speech.next_chunk()
        if chunk is None:
            raise EngineFailure("the text gave no audio")
        if order.whole:
            return Response(b"".join([part async for part in answer.audio(chunk)]), headers=answer.headers)
        watcher.cancel()  # the stream watches by itself
        body = answer.event_stream(chunk) if order.events else answer.audio(chunk)
        return SpeechStream(record, body, answer.headers, owned.pop_all())


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
                raise StreamCut from None
            except CancelledError as error:
                raise StreamCut from error
            except UserError as error:
                self._record.failed, self._record.reason = True, str(error)
                raise StreamCut from error


@dataclass(frozen=True)
class _Answer:
    """What an answer with audio is made of."""

    service: SpeechService
    record: RequestRecord
    order: SpeechOrder
    speech: RemoteSpeech
    encoder: Encoder

    @property
    def headers(self) -> dict[str, str]:
        rate = self.speech.sampling_rate
        media_type = "text/event-stream" if self.order.events else self.order.audio_format.media_type.format(rate=rate)
        return {
            "Content-Type": media_type,
            "X-Sample-Rate": str(rate),
            "Cache-Control": "no-store",
            "X-Accel-Buffering": "no",  # nginx would collect the audio before it passes it on
        }

    async def audio(self, chunk: Audio | None) -> AsyncIterator[bytes]:
        """The encoded audio, from its first chunk on. Raises what `RemoteSpeech.next_chunk` does."""
        record = self.record
        while chunk is not None:
            if data := await self._encoded(chunk.samples):
                yield data
            record.audio_seconds += chunk.seconds
            if record.first_audio_seconds is None:
                record.first_audio_seconds = time.perf_counter() - record.arrived
                self.service.metrics.first_audio(record.first_audio_seconds)
            chunk = await self.speech.next_chunk()
        yield await self._encoded(None)

    async def event_stream(self, chunk: Audio | None) -> AsyncIterator[bytes]:
        """The audio in server-sent events, as OpenAI names them. The last one says how it ended."""
        seen = 0  # pieces
        try:
            async for data in self.audio(chunk):
                if data:
                    yield _event("speech.audio.delta", audio=base64.b64encode(data).decode())
                for piece in self.speech.results[seen:]:
                    if piece.alignment is not None and self.order.settings.keep_pictures:
                        yield _alignment(piece.alignment, piece.piece.encoded.text)
                    seen += 1
            read = sum(len(piece.piece.encoded.text) for piece in self.speech.results)
            spoken = sum(piece.frames for piece in self.speech.results)
            usage = {"input_tokens": read, "output_tokens": spoken, "total_tokens": read + spoken}
            yield _event("speech.audio.done", usage=usage)
        except UserError as error:
            self.record.failed, self.record.reason = True, str(error)
            yield _event("error", **api_error(error).body)

    async def _encoded(self, samples: np.ndarray | None) -> bytes:
        """The encoder's next bytes, or its last ones. Codecs run beside the event loop."""
        encoder = self.encoder
        work: Callable[[], bytes] = encoder.finish if samples is None else lambda: encoder.encode(samples)
        return await asyncio.to_thread(work) if self.order.audio_format.container else work()


@contextmanager
def _as_answers() -> Iterator[None]:
    """What may come before an answer begins, as ApiError."""
    try:
        yield
    except CancelledError:
        raise ApiError(CLIENT_GONE, "the client has gone") from None
    except UserError as error:
        raise api_error(error) from error
    except asyncio.CancelledError:  # the time that requests under way get when the server ends is over
        raise unavailable("the server is shutting down", "shutting_down") from None


async def _cancel_when_gone(speech: RemoteSpeech, receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    speech.cancel()


def _alignment(weights: np.ndarray, text: str) -> bytes:
    """An event of float32 [frames, symbols]: weights as bytes, frame after frame, 255 for 1."""
    frames, symbols = weights.shape
    data = base64.b64encode(np.rint(weights * 255).astype(np.uint8).tobytes()).decode()
    return _event("speech.alignment", text=text, frames=frames, symbols=symbols, weights=data)


def _event(kind: str, **fields: Any) -> bytes:
    return b"data: " + json.dumps({"type": kind, **fields}).encode() + b"\n\n"
