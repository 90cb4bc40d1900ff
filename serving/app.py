"""The HTTP application: OpenAI's speech API, health, metrics and a page to try it, on one voice."""

import hmac
import logging
import re
import time
import uuid
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Depends, FastAPI, Request
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.api import MODEL, MODEL_ALIASES, SERVER_ERROR, ApiError, SpeechRequest, read_order
from serving.encoders import available_formats
from serving.service import SpeechRecord, SpeechService
from serving.speech_response import SpeechResponse

BYTES_PER_CHARACTER = 12  # at most, in JSON: a surrogate pair as two \uXXXX
OTHER_BYTES = 16_384  # of a request, beside its text
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_PAGE = {
    "/": ("page.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
}
_PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data:; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}

_log = logging.getLogger(__name__)


def make_app(service: SpeechService) -> FastAPI:
    """The application on a service."""
    # FastAPI's own pages of the API fetch their scripts from elsewhere.
    app = FastAPI(title="Speech", docs_url=None, redoc_url=None)
    app.include_router(_api(service), dependencies=[Depends(_key_check(service.settings.api_key))])
    app.include_router(_public(service))
    app.add_exception_handler(ApiError, _answer_api_error)
    app.add_exception_handler(HTTPException, _answer_http_error)
    app.add_exception_handler(Exception, _answer_exception)
    app.add_middleware(RequestIds)
    return app


def _api(service: SpeechService) -> APIRouter:
    """What asks for the key, where there is one."""
    router = APIRouter()
    settings = service.settings

    @router.post("/v1/audio/speech", response_class=Response, openapi_extra=_BODY)
    async def speech(request: Request) -> Response:
        arrived = time.perf_counter()
        try:
            body = await _read_body(request, BYTES_PER_CHARACTER * settings.max_characters + OTHER_BYTES)
            order = read_order(body, settings.voices, settings.max_characters)
        except ApiError as error:
            service.metrics.ended(error.status, "refused")
            raise
        return SpeechResponse(service, SpeechRecord(request.state.request_id, order, arrived))

    @router.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [_model(name, service.started) for name in (MODEL, *MODEL_ALIASES)]}

    @router.get("/v1/models/{name}")
    async def model(name: str) -> dict[str, Any]:
        if name not in (MODEL, *MODEL_ALIASES):
            raise ApiError(404, f"model {name!r} does not exist", param="model", code="model_not_found")
        return _model(name, service.started)

    @router.get("/v1/audio/voices")
    async def voices() -> dict[str, Any]:
        return {
            "voices": [
                {
                    "id": settings.voices[0],
                    "name": settings.voices[0],
                    "description": service.voice.name,
                    "aliases": settings.voices[1:],
                    "sampling_rate": service.voice.sampling_rate,
                }
            ],
            "response_formats": available_formats(),
            "max_characters": settings.max_characters,
        }

    @router.get("/metrics")
    async def metrics() -> Response:
        return Response(service.metrics.exposition(), media_type="text/plain; version=0.0.4; charset=utf-8")

    return router


def _public(service: SpeechService) -> APIRouter:
    """What everybody may read: the page, and whether the server is well."""
    router = APIRouter()

    @router.get("/health/live")
    async def live() -> dict[str, Any]:
        return {"status": "live"}

    @router.get("/health/ready")
    @router.get("/health")
    async def ready() -> Response:
        status = service.scheduler.status()
        load = {"waiting": status.waiting, "active": status.active}
        if service.draining:
            return JSONResponse({"status": "draining", **load}, 503)
        return JSONResponse({"status": "ready", **load})

    for path, (name, media_type) in _PAGE.items():
        content = (Path(__file__).parent / name).read_bytes()
        page = Response(content, media_type=media_type, headers=_PAGE_HEADERS)
        router.add_api_route(path, lambda page=page: page, include_in_schema=False, response_class=Response)
    return router


class RequestIds:
    """Gives each request an id, the client's own if it sent one, and says it in the answer: `X-Request-Id`."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = request_id

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["X-Request-Id"] = request_id
            await send(message)

        await self._app(scope, receive, send_with_id)


def _key_check(api_key: str) -> Any:
    async def check(request: Request) -> None:
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        correct = scheme.lower() == "bearer" and hmac.compare_digest(given.strip().encode(), api_key.encode())
        if api_key and not correct:
            raise ApiError(401, "give the server's API key, as in Authorization: Bearer KEY", code="invalid_api_key")

    return check


async def _read_body(request: Request, max_bytes: int) -> bytes:
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type != "application/json":
        # Pages of other sites can send anything else without being asked whether they may.
        raise ApiError(415, f"Content-Type {content_type or 'missing'}: send application/json")
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > max_bytes:
            message = f"the body is larger than {max_bytes} bytes"
            raise ApiError(413, message, param="input", code="string_above_max_length")
    return bytes(body)


def _model(name: str, created: int) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": created, "owned_by": MODEL}


async def _answer_api_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    _log.info("request %s: refused %d: %s", request.state.request_id, error.status, error)
    return JSONResponse(error.body, error.status, error.headers)


async def _answer_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    message = f"{request.method} {request.url.path}: {error.detail}"
    answer = ApiError(error.status_code, message)
    return JSONResponse(answer.body, error.status_code, error.headers)


async def _answer_exception(request: Request, error: Exception) -> Response:
    answer = ApiError(500, f"internal error: {type(error).__name__}; see the log", kind=SERVER_ERROR)
    return JSONResponse(answer.body, answer.status)


_BODY = {
    "requestBody": {"required": True, "content": {"application/json": {"schema": SpeechRequest.model_json_schema()}}}
}
