"""The HTTP application without a server around it: what its answers carry, and what of a request is believed."""

import asyncio
import logging
from collections.abc import Iterator
from unittest import mock

import httpx
import pytest

from common.errors import UserError
from pipeline import Voice
from tests.engine_doubles import tiny_engines
from tests.http_servers import request

pytest.importorskip("uvicorn")
from serving import http_server
from serving.app import make_app
from serving.service import ServerSettings, SpeechService

SPEECH = "/v1/audio/speech"


@pytest.fixture(scope="module")
def voice() -> Iterator[Voice]:
    with Voice(tiny_engines()) as voice:
        yield voice


@pytest.fixture(scope="module")
def service(voice: Voice) -> SpeechService:
    return SpeechService(voice, ServerSettings(max_characters=100))


def ask(service: SpeechService, method: str, path: str, **options) -> httpx.Response:
    async def answer() -> httpx.Response:
        transport = httpx.ASGITransport(make_app(service), raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            return await client.request(method, path, **options)

    return asyncio.run(answer())


def metric(service: SpeechService, labels: str) -> float:
    lines = service.metrics.exposition().decode().splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(f"speech_requests_total{labels}"))


@pytest.mark.parametrize(
    ("method", "path", "options", "status"),
    [
        ("GET", "/", {}, 200),
        ("HEAD", "/", {}, 200),
        ("GET", "/?page=<script>alert(1)</script>", {}, 200),
        ("GET", "/page.js?page=alert(1)", {}, 200),
        ("GET", "/page.css", {}, 200),
        ("GET", "/health", {}, 200),
        ("HEAD", "/health", {}, 200),
        ("GET", "/health/live", {}, 200),
        ("GET", "/metrics", {}, 200),
        ("GET", "/openapi.json", {}, 200),
        ("GET", "/v1/models", {}, 200),
        ("GET", "/v1/models/<script>", {}, 404),
        ("GET", "/nothing", {}, 404),
        ("GET", SPEECH, {}, 405),
        ("POST", SPEECH, {"content": b"<script>"}, 415),
        ("POST", SPEECH, {"json": {}}, 400),
        ("POST", SPEECH, {"json": request("x" * 101)}, 413),
        ("POST", SPEECH, {"json": request()}, 200),
    ],
)
def test_every_answer_has_its_headers(
    service: SpeechService, method: str, path: str, options: dict, status: int
) -> None:
    answer = ask(service, method, path, **options)
    assert answer.status_code == status
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "default-src 'self'" in answer.headers["content-security-policy"]
    assert answer.headers["content-type"]
    assert answer.headers["x-request-id"]
    assert b"alert(1)" not in answer.content


@pytest.mark.parametrize(
    "options",
    [
        {"json": {"a\nINFO request fake: done 200": 1}},
        {"json": {"\x1b[31mred\x07": 1}},
        {"json": {"\u202eright to left": 1}},
        {"json": {"x" * 40_000: 1}},
        {"json": request() | {"voice": "a\nb"}},
        {"content": b"{}", "headers": {"Content-Type": "text/\x1b[31mx"}},
    ],
)
def test_clients_can_not_forge_the_log(
    service: SpeechService, options: dict, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    generous = SpeechService(service.voice, ServerSettings(max_characters=10_000))
    assert ask(generous, "POST", SPEECH, **options).status_code in (400, 415)
    (line,) = [record.getMessage() for record in caplog.records if record.name == "serving.service"]
    assert line.isprintable()
    assert len(line) < 500


def test_an_unforeseen_error_is_answered_logged_and_counted_as_a_failure(
    service: SpeechService, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    before = metric(service, '{outcome="failed",status="500"}')
    with mock.patch.object(Voice, "submit", side_effect=KeyError("401k)")):
        answer = ask(service, "POST", SPEECH, json=request())
    assert answer.status_code == 500
    assert answer.json()["error"]["type"] == "server_error"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert metric(service, '{outcome="failed",status="500"}') == before + 1
    assert "failed 500" in caplog.text


@pytest.mark.parametrize("key", ["schlüssel", "two words", "a\nb"])
def test_a_key_that_no_header_can_carry_is_refused_at_the_start(key: str) -> None:
    args = http_server.make_parser().parse_args(["--api-key", key])
    with pytest.raises(UserError, match="--api-key: clients send it in a header"):
        http_server.server_settings(args)
