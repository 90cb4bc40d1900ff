"""An answer of the speech API: audio, streamed from the first chunk on, or an error with its reason."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any
from urllib.parse import quote

import numpy as np
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from common.errors import EngineFailure, UserError
from pipeline import Audio
from pipeline.audio import with_gain
from pipeline.encoders import Encoder, make_encoder
from pipeline.speech import CancelledError
from pipeline.words import Word
from serving.http.api import SpeechOrder, api_error
from serving.http.engine_pool import RemoteSpeech
from serving.http.service import RequestRecord, SpeechService

MOST_NAMED = 100  # characters in a header


class StreamCut(Exception):
    """An answer that can't be completed: the server cuts the connection, so that nobody takes it for the whole."""


async def speak(service: SpeechService, order: SpeechOrder, scope: Scope, receive: Receive, send: Send) -> None:
    """Answers a request: once there is a first chunk of its audio, or once there is all where it wants a whole answer.

    Events end with one that says why speaking failed. A client that goes away cancels its speech.

    Raises:
        UserError: there is no audio, and no answer.
        CancelledError: of `pipeline.speech`: the client has gone before there was any.
        StreamCut: the answer has begun, and can't be completed.
    """
    record: RequestRecord = scope["state"]["record"]
    with ExitStack() as owned:
        speech = service.engines.submit(order.text, order.settings)
        owned.callback(speech.cancel)
        watcher = asyncio.create_task(_cancel_when_gone(speech, receive))
        owned.callback(watcher.cancel)
        opening = partial(make_encoder, order.audio_format, speech.sampling_rate, order.whole)
        if order.audio_format.container:  # codecs are loaded, opened, run and closed beside the event loop
            encoder = await asyncio.to_thread(opening)
            owned.callback(asyncio.get_running_loop().run_in_executor, None, encoder.finish)
        else:
            encoder = opening()
        answer = _Answer(service, record, order, speech, encoder)
        chunk = await speech.next_chunk()
        if chunk is None:
            raise EngineFailure("the text gave no audio")
        body = {"audio": answer.audio, "events": answer.event_stream}.get(order.shape, answer.with_words)(chunk)
        if order.whole:
            whole = b"".join([part async for part in body])
            sending = Response(whole, headers=answer.headers)(scope, receive, send)
        else:
            sending = StreamingResponse(body, headers=answer.headers).stream_response(send)
        try:
            await sending
        except (asyncio.CancelledError, CancelledError, UserError) as error:
            if isinstance(error, UserError):
                record.failed, record.reason = True, str(error)
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
        media_types = {"audio": self.order.audio_format.media_type.format(rate=rate), "events": "text/event-stream"}
        named = quote("".join(self.speech.dropped[:MOST_NAMED]), errors="replace")
        dropped = {"X-Dropped-Characters": named} if named else {}
        cut = {"X-Cut": "true"} if self.speech.cut else {}
        return {
            "Content-Type": media_types.get(self.order.shape, "application/json"),
            "X-Sample-Rate": str(rate),
            "Cache-Control": "no-store",
            "X-Accel-Buffering": "no",  # nginx would collect the audio before it passes it on
            **dropped,
            **cut,
        }

    async def audio(self, chunk: Audio | None) -> AsyncIterator[bytes]:
        """The encoded audio, from its first chunk on. Raises what `RemoteSpeech.next_chunk` does."""
        async for data, _ in self._encoded_chunks(chunk):
            if data:
                yield data

    async def event_stream(self, chunk: Audio | None) -> AsyncIterator[bytes]:
        """The audio in server-sent events, as OpenAI names them. The last one says how it ended."""
        seen = 0  # pieces
        try:
            async for data, words in self._encoded_chunks(chunk):
                if words:
                    yield _event("speech.words", words=[_word(word) for word in words])
                if data:
                    yield _event("speech.audio.delta", audio=_base64(data))
                for piece in self.speech.results[seen:]:
                    if piece.alignment is not None and self.order.settings.keep_pictures:
                        yield _alignment(piece.alignment, piece.piece.encoded.text)
                    seen += 1
            read = sum(len(piece.piece.encoded.text) for piece in self.speech.results)
            spoken = sum(piece.frames for piece in self.speech.results)
            usage = {"input_tokens": read, "output_tokens": spoken, "total_tokens": read + spoken}
            yield _event("speech.audio.done", usage=usage, cut=self.speech.cut)
        except UserError as error:
            self.record.failed, self.record.reason = True, str(error)
            yield _event("error", **api_error(error).body)

    async def with_words(self, chunk: Audio | None) -> AsyncIterator[bytes]:
        """The audio and its words as JSON: a line a chunk, or all in one."""
        joined, spoken = bytearray(), list[Word]()
        async for data, words in self._encoded_chunks(chunk):
            if self.order.whole:
                joined += data
                spoken += words
            elif data or words:
                yield self._json(data, words) + b"\n"
        if self.order.whole:
            yield await asyncio.to_thread(self._json, joined, spoken)

    def _json(self, data: bytes | bytearray, words: Sequence[Word]) -> bytes:
        name = self.order.audio_format.name
        if self.order.shape == "captions":  # as Kokoro-FastAPI has them
            times = [{"word": word.text, "start_time": word.start, "end_time": word.end} for word in words]
            fields: dict[str, Any] = {"audio_format": name, "timestamps": times}
        else:
            rate = self.speech.sampling_rate
            fields = {"format": name, "sample_rate": rate, "words": [_word(word) for word in words]}
        return json.dumps({"audio": _base64(data), **fields, "cut": self.speech.cut}).encode()

    async def _encoded_chunks(self, chunk: Audio | None) -> AsyncIterator[tuple[bytes, Sequence[Word]]]:
        """Each chunk in its format, and the words that are known with it; and what the encoder held back."""
        while chunk is not None:
            yield await self._encoded(with_gain(chunk, self.order.gain).samples), chunk.words
            self.service.sent(self.record, chunk.seconds, self.speech.cut)
            chunk = await self.speech.next_chunk()
        yield await self._encoded(None), ()

    async def _encoded(self, samples: np.ndarray | None) -> bytes:
        """The encoder's next bytes, or its last ones."""
        encoder = self.encoder
        work: Callable[[], bytes] = encoder.finish if samples is None else lambda: encoder.encode(samples)
        return await asyncio.to_thread(work) if self.order.audio_format.container else work()


async def _cancel_when_gone(speech: RemoteSpeech, receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    speech.cancel()


def _alignment(weights: np.ndarray, text: str) -> bytes:
    """An event of float32 [frames, symbols]: weights as bytes, frame after frame, 255 for 1."""
    frames, symbols = weights.shape
    data = _base64(np.rint(weights * 255).astype(np.uint8).tobytes())
    return _event("speech.alignment", text=text, frames=frames, symbols=symbols, weights=data)


def _word(word: Word) -> dict[str, Any]:
    return {"word": word.text, "start": word.start, "end": word.end, "span": word.span}


def _base64(data: bytes | bytearray) -> str:
    return base64.b64encode(data).decode()


def _event(kind: str, **fields: Any) -> bytes:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **fields})}\n\n".encode()
