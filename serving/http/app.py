"""The HTTP application: OpenAI's speech API, health, metrics and a page to try it, on the engines of one voice."""

import asyncio
import json
import re
import uuid
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, HTTPConnection, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocket

from common.errors import Busy, UserError
from pipeline.encoders import available_formats
from pipeline.speech import CancelledError
from serving.http.access import SUBPROTOCOL, check_access
from serving.http.api import MODEL, MODELS, ApiError, SpeechOrder, api_error, check_model, read_order, read_spoken
from serving.http.description import CAPTIONS_PATH, MODEL_PATHS, SPEAK_PATH, SPEECH_PATH, VOICE_PATHS, describe
from serving.http.service import CLIENT_GONE, RequestRecord, SpeechService
from serving.http.speech_response import StreamCut, speak
from serving.http.websocket import speak_messages

BYTES_PER_CHARACTER = 12  # at most, in JSON: a surrogate pair as two \uXXXX
OTHER_BYTES = 16_384  # of a request, beside its text
BODY_SECONDS = 30.0  # that a client may take to send one
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_JSON = re.compile(r"application/([\w.-]+\+)?json")
_PAGE = {
    "/": ("page.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
}
_READ_BY_PAGES = ("X-Sample-Rate", "X-Request-Id", "X-Dropped-Characters", "X-Cut", "Retry-After")
_SAFE_HEADERS = (  # of every answer
    (b"content-security-policy", b"default-src 'self'; img-src 'self' data:; frame-ancestors 'none'"),
    (b"x-content-type-options", b"nosniff"),
)
Endpoint = Callable[[Request], Awaitable[Response]]
Reader = Callable[[Request, bytes], SpeechOrder]  # of a body


def make_app(service: SpeechService) -> ASGIApp:
    """The application on a service."""
    routes = [*_speech_routes(service), *_listing_routes(service), *_public_routes(service)]
    answers = {ApiError: _answer_api_error, HTTPException: _answer_http_error, Exception: _answer_exception}
    app: ASGIApp = Starlette(routes=routes, exception_handlers=answers)  # type: ignore[arg-type]  # each has its type
    if service.settings.origins:
        origins, read_by_pages = list(service.settings.origins), list(_READ_BY_PAGES)
        app = CORSMiddleware(app, origins, allow_methods=["*"], allow_headers=["*"], expose_headers=read_by_pages)
    return RecordedRequests(app, service)


def _speech_routes(service: SpeechService) -> Iterator[BaseRoute]:
    """The addresses that speak."""
    settings = service.settings
    voices, most = settings.voices, settings.max_characters
    ours = {"model": MODEL, "voice": voices[0]}  # instead of Kokoro-FastAPI's
    readers: dict[str, Reader] = {
        SPEECH_PATH: lambda request, body: read_order(body, voices, most),
        CAPTIONS_PATH: lambda request, body: read_order(body, voices, most, ours),
        SPEAK_PATH: lambda request, body: read_spoken(body, request.query_params, voices, most),
    }
    for path, read in readers.items():
        yield Route(path, _SpeechEndpoint(service, read), methods=["POST"])

    async def speak_bits(socket: WebSocket) -> None:
        socket.state.record.is_speech = True
        check_access(socket, settings)
        await speak_messages(service, socket, SUBPROTOCOL if SUBPROTOCOL in socket.scope["subprotocols"] else None)

    yield WebSocketRoute(SPEAK_PATH, speak_bits)

    async def refuse(socket: WebSocket) -> None:
        raise ApiError(404, f"WebSockets are served at {SPEAK_PATH} alone")

    yield WebSocketRoute("/{path:path}", refuse)


class _SpeechEndpoint:
    """Answers requests for speech.

    Args:
        read: checks a request's body; raises ApiError.
    """

    def __init__(self, service: SpeechService, read: Reader) -> None:
        self._service, self._read = service, read

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request, settings = Request(scope, receive), self._service.settings
        record: RequestRecord = request.state.record
        record.is_speech = True
        try:
            check_access(request, settings)
            body = await _read_body(request, BYTES_PER_CHARACTER * settings.max_characters + OTHER_BYTES)
            order = self._read(request, body)
            record.format, record.characters = order.audio_format.name, len(order.text)
            await speak(self._service, order, scope, receive, send)
        except asyncio.CancelledError:  # the time that requests under way get when the server ends is over
            raise ApiError(503, "the server is shutting down", code="shutting_down") from None
        except CancelledError:
            raise ApiError(CLIENT_GONE, "the client has gone") from None
        except UserError as error:
            refusal = api_error(error)
            if isinstance(error, Busy):
                refusal.retry_after = self._service.seconds_to_wait()
            raise refusal from error


def _listing_routes(service: SpeechService) -> Iterator[BaseRoute]:
    """The lists of models and voices, and the metrics. They need the key if there is one."""
    settings = service.settings

    def route(path: str, endpoint: Endpoint) -> Route:
        async def answer(request: Request) -> Response:
            check_access(request, settings)
            return await endpoint(request)

        return Route(path, answer)

    def described(name: str) -> dict[str, Any]:
        return {"id": name, "object": "model", "created": service.started, "owned_by": MODEL}

    async def models(request: Request) -> Response:
        data = [described(name) for name in MODELS]
        return JSONResponse({"object": "list", "data": data, "models": data})  # the second is what Open WebUI reads

    async def model(request: Request) -> Response:
        check_model(request.path_params["name"])
        return JSONResponse(described(request.path_params["name"]))

    async def voices(request: Request) -> Response:
        voice = service.engines.voice
        one = {"description": voice.name, "sampling_rate": voice.sampling_rate}
        listed = [{"id": name, "name": name, **one} for name in settings.voices]
        limits = {"response_formats": available_formats(), "max_characters": settings.max_characters}
        return JSONResponse({"voices": listed, **limits})

    async def metrics(request: Request) -> Response:
        engines = service.engines
        names = (engine.name for engine in engines.engines)
        states = dict(zip(names, await engines.statuses(), strict=True))
        exposition = service.metrics.exposition(states, engines.audio_seconds)
        return Response(exposition, media_type="text/plain; version=0.0.4; charset=utf-8")

    for path in MODEL_PATHS:
        yield route(path, models)
    for path in VOICE_PATHS:
        yield route(path, voices)
    yield route("/v1/models/{name}", model)
    yield route("/metrics", metrics)


def _public_routes(service: SpeechService) -> Iterator[BaseRoute]:
    """Without a key: the page, the API's description, and whether the server is well."""

    async def live(request: Request) -> Response:
        failed = bool(service.engines.failure)
        return JSONResponse({"status": "failed" if failed else "live"}, 503 if failed else 200)

    async def ready(request: Request) -> Response:
        statuses = await service.engines.statuses()
        running = sum(status.state == "running" for status in statuses)
        state = "ready" if running == len(statuses) else "degraded" if running else "failed"
        load = {"waiting": sum(one.waiting for one in statuses), "active": sum(one.active for one in statuses)}
        counts = {"engines": len(statuses), "engines_ready": running}
        return JSONResponse({"status": state, **load, **counts}, 200 if running else 503)

    yield Route("/health/live", live)
    yield Route("/health/ready", ready)
    yield Route("/health", ready)
    for path, (name, media_type) in _PAGE.items():
        yield Route(path, _file((Path(__file__).parent / name).read_bytes(), media_type))
    description = json.dumps(describe(needs_key=bool(service.settings.api_key)))
    yield Route("/openapi.json", _file(description.encode(), "application/json"))


def _file(content: bytes, media_type: str) -> Endpoint:
    async def answer(request: Request) -> Response:
        return Response(content, media_type=media_type, headers={"Cache-Control": "no-cache"})

    return answer


class RecordedRequests:
    """Gives each request an id (the client's own if it sent one) and each answer its headers; counts and logs them."""

    def __init__(self, app: ASGIApp, service: SpeechService) -> None:
        self._app = app
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        given = Headers(scope=scope).get("x-request-id", "")
        record = RequestRecord(given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex, scope["path"])
        scope.setdefault("state", {})["record"] = record

        async def recorded(message: Message) -> None:
            kind = message["type"].removeprefix("websocket.")
            if kind in ("http.response.start", "accept"):
                record.status = message.get("status", record.status)
                own = [(b"x-request-id", record.request_id.encode()), *_SAFE_HEADERS]
                message["headers"] = [*message.get("headers", []), *own]
            await send(message)
            if kind.startswith("http."):
                record.completed = kind == "http.response.body" and not message.get("more_body")

        try:
            await self._app(scope, receive, recorded)
        except StreamCut:
            raise
        except Exception as error:
            record.failed, record.reason = True, f"internal error: {type(error).__name__}"
            raise
        finally:
            self._end(record)

    def _end(self, record: RequestRecord) -> None:
        if record.is_speech:
            self._service.ended(record)
        is_poll = record.path.startswith("/health")  # engines' ends and starts have lines of their own
        if record.is_speech or (record.status >= 400 and not is_poll):
            record.log()


async def _read_body(request: Request, max_bytes: int) -> bytes:
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if not _JSON.fullmatch(content_type):
        # Pages of other sites can send anything else without being asked whether they may.
        raise ApiError(415, f"Content-Type {content_type!r}: send application/json")
    try:
        return await asyncio.wait_for(_read_all(request, max_bytes), BODY_SECONDS)
    except ClientDisconnect:
        raise ApiError(CLIENT_GONE, "the client has gone before its request was complete") from None
    except asyncio.TimeoutError:
        raise ApiError(408, f"the body was not complete after {BODY_SECONDS:g} s") from None


async def _read_all(request: Request, max_bytes: int) -> bytes:
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > max_bytes:
            message = f"the body is larger than {max_bytes} bytes"
            raise ApiError(413, message, param="input", code="string_above_max_length")
    return bytes(body)


async def _answer_api_error(request: HTTPConnection, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    request.state.record.reason = str(error)
    return JSONResponse(error.body, error.status, error.headers)


async def _answer_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    message = f"{request.method} {request.url.path}: {error.detail}"
    answer = await _answer_api_error(request, ApiError(error.status_code, message))
    answer.headers.update(error.headers or {})  # as Allow, with which methods there are
    return answer


async def _answer_exception(request: Request, error: Exception) -> Response:
    # Starlette asks for this even where an answer has begun: the record is not touched.
    refusal = ApiError(500, f"internal error: {type(error).__name__}; see the log")
    return JSONResponse(refusal.body, refusal.status)
