"""The HTTP application: OpenAI's speech API, health, metrics and a page to try it, on the engines of one voice."""

import asyncio
import re
import uuid
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Depends, FastAPI, Request, Security
from fastapi.routing import APIRoute
from fastapi.security import HTTPBearer
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, HTTPConnection
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocket

from pipeline.encoders import FORMATS, available_formats
from serving.http.access import SUBPROTOCOL, check_access
from serving.http.api import (
    MODEL,
    MODEL_ALIASES,
    SERVER_ERROR,
    ApiError,
    ErrorBody,
    SpeechOrder,
    SpeechRequest,
    check_model,
    read_order,
    read_spoken,
    unavailable,
)
from serving.http.service import CLIENT_GONE, RequestRecord, SpeechService
from serving.http.speech_response import StreamCut, speak
from serving.http.websocket import speak_messages

BYTES_PER_CHARACTER = 12  # at most, in JSON: a surrogate pair as two \uXXXX
OTHER_BYTES = 16_384  # of a request, beside its text
BODY_SECONDS = 30.0  # that a client may take to send one
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_JSON = re.compile(r"application/([\w.-]+\+)?json")
_BEARER = HTTPBearer(auto_error=False)
_PAGE = {
    "/": ("page.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
}
_SPEECH_PATH, _CAPTIONS_PATH, _SPEAK_PATH = "/v1/audio/speech", "/dev/captioned_speech", "/v1/speak"
_READ_BY_PAGES = ("X-Sample-Rate", "X-Request-Id", "X-Dropped-Characters", "X-Cut", "Retry-After")
_SAFE_HEADERS = (  # of every answer
    (b"content-security-policy", b"default-src 'self'; img-src 'self' data:; frame-ancestors 'none'"),
    (b"x-content-type-options", b"nosniff"),
)
Endpoint = Callable[[Request], Awaitable[Response]]


def make_app(service: SpeechService) -> ASGIApp:
    """The application on a service."""
    # FastAPI's own pages of the API fetch their scripts from elsewhere.
    app = FastAPI(title="Speech", docs_url=None, redoc_url=None)
    api = _api(service)
    app.include_router(api, dependencies=_guard(service))
    app.include_router(_public(service))

    @app.websocket(_SPEAK_PATH)
    async def speak_bits(socket: WebSocket) -> None:
        try:
            check_access(socket, service.settings)
        except ApiError as error:
            await socket.send_denial_response(await _answer_api_error(socket, error))
            return
        await speak_messages(service, socket, SUBPROTOCOL if SUBPROTOCOL in socket.scope["subprotocols"] else None)

    app.add_exception_handler(ApiError, _answer_api_error)
    app.add_exception_handler(HTTPException, _answer_http_error)
    app.add_exception_handler(Exception, _answer_exception)
    app.openapi()["components"]["schemas"].update(_request_schemas())
    posts = {one.path: one.endpoint for one in api.routes if isinstance(one, APIRoute) and one.methods == {"POST"}}
    quick: ASGIApp = QuickPosts(app, service, posts)
    if service.settings.origins:
        origins, read_by_pages = list(service.settings.origins), list(_READ_BY_PAGES)
        quick = CORSMiddleware(quick, origins, allow_methods=["*"], allow_headers=["*"], expose_headers=read_by_pages)
    return RecordedRequests(quick, service)


def _api(service: SpeechService) -> APIRouter:
    """What asks for the key, where there is one."""
    router = APIRouter(responses={401: {"model": ErrorBody}, 403: {"model": ErrorBody}})
    settings = service.settings

    async def answer(request: Request, read: Callable[[bytes], SpeechOrder]) -> Response:
        record: RequestRecord = request.state.record
        order = read(await _read_body(request, BYTES_PER_CHARACTER * settings.max_characters + OTHER_BYTES))
        record.format, record.characters = order.audio_format.name, len(order.text)
        return await speak(service, record, order, request.receive)

    @router.post(_SPEECH_PATH, response_class=Response, openapi_extra=_SPEECH_BODY, responses=_SPEECH_ANSWERS)
    async def speech(request: Request) -> Response:
        return await answer(request, lambda body: read_order(body, settings.voices, settings.max_characters))

    @router.post(_CAPTIONS_PATH, response_class=Response, include_in_schema=False)
    async def captioned_speech(request: Request) -> Response:
        # Kokoro-FastAPI's. Its models and voices mean the ones that are here.
        ours = {"model": MODEL, "voice": settings.voices[0]}
        return await answer(request, lambda body: read_order(body, settings.voices, settings.max_characters, ours))

    @router.post(_SPEAK_PATH, response_class=Response, include_in_schema=False)
    async def speak_text(request: Request) -> Response:
        # Deepgram's, for whole texts.
        query = request.query_params
        return await answer(request, lambda body: read_spoken(body, query, settings.voices, settings.max_characters))

    @router.get("/v1/models")
    @router.get("/v1/audio/models")
    async def models() -> dict[str, Any]:
        data = [_model(name, service.started) for name in (MODEL, *MODEL_ALIASES)]
        return {"object": "list", "data": data, "models": data}  # the second is what Open WebUI reads

    @router.get("/v1/models/{name}", responses={"4XX": {"model": ErrorBody}})
    async def model(name: str) -> dict[str, Any]:
        check_model(name)
        return _model(name, service.started)

    @router.get("/v1/voices")
    @router.get("/v1/audio/voices")
    async def voices() -> dict[str, Any]:
        voice = service.engines.voice
        one = {"description": voice.name, "sampling_rate": voice.sampling_rate}
        return {
            "voices": [{"id": name, "name": name, **one} for name in settings.voices],
            "response_formats": available_formats(),
            "max_characters": settings.max_characters,
        }

    @router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
    async def metrics() -> Response:
        engines = service.engines
        names = (engine.name for engine in engines.engines)
        states = dict(zip(names, await engines.statuses(), strict=True))
        exposition = service.metrics.exposition(states, engines.audio_seconds)
        return Response(exposition, media_type="text/plain; version=0.0.4; charset=utf-8")

    return router


def _public(service: SpeechService) -> APIRouter:
    """What everybody may read: the page, and whether the server is well."""
    router = APIRouter()

    @router.get("/health/live", responses={503: {}})
    async def live() -> Response:
        failed = bool(service.engines.failure)
        return JSONResponse({"status": "failed" if failed else "live"}, 503 if failed else 200)

    @router.head("/health", include_in_schema=False)
    @router.get("/health/ready", responses={503: {}})
    @router.get("/health", responses={503: {}})
    async def ready() -> Response:
        statuses = await service.engines.statuses()
        running = sum(status.state == "running" for status in statuses)
        state = "ready" if running == len(statuses) else "degraded" if running else "failed"
        load = {"waiting": sum(one.waiting for one in statuses), "active": sum(one.active for one in statuses)}
        counts = {"engines": len(statuses), "engines_ready": running}
        return JSONResponse({"status": state, **load, **counts}, 200 if running else 503)

    for path, (name, media_type) in _PAGE.items():
        router.add_api_route(path, _file(name, media_type), methods=["GET", "HEAD"], include_in_schema=False)
    return router


def _file(name: str, media_type: str) -> Callable[[], Awaitable[Response]]:
    content = (Path(__file__).parent / name).read_bytes()

    async def answer() -> Response:
        return Response(content, media_type=media_type, headers={"Cache-Control": "no-cache"})

    return answer


class QuickPosts:
    """Answers POST requests, which are those for speech, without FastAPI: its routing and dependencies take longer than
    all else in them. FastAPI describes them, and refuses other methods."""

    def __init__(self, app: ASGIApp, service: SpeechService, posts: Mapping[str, Endpoint]) -> None:
        self._app, self._settings, self._posts = app, service.settings, posts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        post = self._posts.get(scope["path"]) if scope.get("method") == "POST" else None
        if post is None:
            await self._app(scope, receive, send)
            return
        request = Request(scope, receive)
        try:
            check_access(request, self._settings)
            answer = await post(request)
        except ApiError as error:
            answer = await _answer_api_error(request, error)
        except asyncio.CancelledError:  # the time that requests under way get when the server ends is over
            answer = await _answer_api_error(request, unavailable("the server is shutting down", "shutting_down"))
        except Exception as error:
            await (await _answer_exception(request, error))(scope, receive, send)
            raise
        await answer(scope, receive, send)


class RecordedRequests:
    """Gives each request an id (the client's own if it sent one) and each answer its headers; counts and logs them."""

    def __init__(self, app: ASGIApp, service: SpeechService) -> None:
        self._app = app
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
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
        is_speech = record.path in (_SPEECH_PATH, _CAPTIONS_PATH, _SPEAK_PATH)
        if is_speech:
            self._service.ended(record)
        is_poll = record.path.startswith("/health")  # engines' ends and starts have lines of their own
        if is_speech or (record.status >= 400 and not is_poll):
            record.log()


def _guard(service: SpeechService) -> list[Any]:
    """The dependencies that decide whether a request may ask for anything."""

    async def guard(request: Request) -> None:
        check_access(request, service.settings)

    # The scheme is there for the description alone.
    return [Depends(guard), *([Security(_BEARER)] if service.settings.api_key else [])]


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


def _model(name: str, created: int) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": created, "owned_by": MODEL}


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
    message = f"internal error: {type(error).__name__}; see the log"
    return await _answer_api_error(request, ApiError(500, message, kind=SERVER_ERROR))


def _request_schemas() -> dict[str, Any]:
    schema = SpeechRequest.model_json_schema(ref_template=_SCHEMA)
    return schema.pop("$defs") | {SpeechRequest.__name__: schema}


_SCHEMA = "#/components/schemas/{model}"
_SPEECH_BODY = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": {"$ref": _SCHEMA.format(model=SpeechRequest.__name__)}}},
    }
}
_MEDIA_TYPES = [known.media_type.partition(";")[0] for known in FORMATS.values()]
_SPEECH_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "the audio as it is made",
        "content": {
            **{media_type: {"schema": {"type": "string", "format": "binary"}} for media_type in _MEDIA_TYPES},
            "text/event-stream": {"schema": {"type": "string"}},
            "application/json": {"schema": {"type": "object"}},  # with timestamps
        },
        "headers": {"X-Sample-Rate": {"description": "of the audio, in Hz", "schema": {"type": "integer"}}},
    },
    **{status: {"model": ErrorBody} for status in (400, 404, 408, 413, 415, 500, 503)},
}
