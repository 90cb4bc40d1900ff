"""The HTTP application without a server around it: what its answers carry, and what of a request is believed."""

import asyncio
import base64
import functools
import importlib
import io
import itertools
import json
import logging
import threading
import time
from collections.abc import Awaitable, Callable, Container, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from unittest import mock

import httpx
import numpy as np
import pytest
from starlette.testclient import TestClient, WebSocketDenialResponse
from starlette.types import Message
from torch import Tensor

from common.errors import UserError
from common.files import project_version
from common.metadata import PARTS, Part
from pipeline import Audio, Voice
from pipeline.scheduler import FAILED_ROUNDS
from tests.client_programs import TEXT
from tests.engine_doubles import Watched, tiny_engines
from tests.http_servers import NEVER, events_of, eventually, metric_of, request

pytest.importorskip("uvicorn")
av = pytest.importorskip("av")
soundfile = pytest.importorskip("soundfile")
from pipeline.encoders import FORMATS, make_encoder
from scripts.http_server import make_engines, make_parser, server_settings
from serving.flags import runs_on_gpu
from serving.http.api import OPENAI_VOICES, SpeechRequest
from serving.http.app import make_app
from serving.http.engine_pool import Engine, EnginePool
from serving.http.log import LineFormatter
from serving.http.messages import EngineSettings
from serving.http.server import bind
from serving.http.service import RequestRecord, ServerSettings, SpeechService

SPEECH = "/v1/audio/speech"
app_of = functools.cache(make_app)


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    yield loop
    loop.close()


@contextmanager
def engine_of(voice: Voice, loop: asyncio.AbstractEventLoop) -> Iterator[EnginePool]:
    """The voice as the one engine of a server, in this process; closed with it."""
    engines = EnginePool([Engine(EngineSettings("engine 0", lambda: voice), None)])
    loop.run_until_complete(engines.start())
    yield engines
    loop.run_until_complete(engines.close())


@pytest.fixture(autouse=True)
def log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)


@pytest.fixture(scope="module")
def voice() -> Voice:
    return Voice(tiny_engines())


@pytest.fixture(scope="module")
def service(voice: Voice, loop: asyncio.AbstractEventLoop) -> Iterator[SpeechService]:
    with engine_of(voice, loop) as engines:
        yield SpeechService(engines, ServerSettings(max_characters=100))


def ask(service: SpeechService, method: str, path: str, **options) -> httpx.Response:
    async def answer() -> httpx.Response:
        transport = httpx.ASGITransport(app_of(service), raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            return await client.request(method, path, **options)

    return asyncio.get_event_loop().run_until_complete(answer())


def metric(service: SpeechService, name: str) -> float:
    return metric_of(service.metrics.exposition({}, 0.0).decode(), name)


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
        pytest.param("GET", f"/{'x' * 4000}", {}, 404, id="long path"),
        ("GET", "/v1/models", {"headers": {"Host": "x" * 4000}}, 403),
        ("GET", SPEECH, {}, 405),
        ("POST", SPEECH, {"content": b"<script>"}, 415),
        ("POST", SPEECH, {"json": {}}, 400),
        ("POST", SPEECH, {"json": request() | {"x" * 4000: 1}}, 400),
        ("POST", SPEECH, {"json": request() | {"voice": {"id": "alloy", "x" * 4000: 1}}}, 400),
        ("POST", SPEECH, {"json": request("x" * 101)}, 413),
        ("POST", SPEECH, {"json": request()}, 200),
    ],
)
def test_every_answer_has_its_headers_and_errors_are_short(
    service: SpeechService, method: str, path: str, options: dict, status: int
) -> None:
    answer = ask(service, method, path, **options)
    assert answer.status_code == status
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "default-src 'self'" in answer.headers["content-security-policy"]
    assert answer.headers["content-type"]
    assert answer.headers["x-request-id"]
    assert status < 400 or ("error" in answer.json() and len(answer.content) < 1000)
    assert b"alert(1)" not in answer.content


def test_requests_have_ids_in_the_answer_and_in_the_log(
    service: SpeechService, caplog: pytest.LogCaptureFixture
) -> None:
    for given, kept in (("mine-1", True), ("two words", False)):
        answer = ask(service, "POST", SPEECH, json=request("Not for the log."), headers={"X-Request-Id": given})
        found = answer.headers["x-request-id"]
        assert found
        assert (found == given) is kept
        assert f"request {found}: done 200, pcm, 16 characters" in caplog.text
    assert "Not for the log" not in caplog.text


def test_metrics_count_what_happened(service: SpeechService) -> None:
    def values() -> dict[str, float]:
        exposition = ask(service, "GET", "/metrics").text
        return {name: metric_of(exposition, name) for name in grown}

    refused = 'requests_total{outcome="refused",status="400"}'
    grown = {"request_seconds_count": 1, "first_audio_seconds_count": 1, "characters_total": 12, refused: 1}
    grown |= {"audio_seconds_total": pytest.approx(100 * 256 / 22050), "queue_length": 0, "active_streams": 0}
    before = values()
    ask(service, "POST", SPEECH, json=request(""))
    ask(service, "POST", SPEECH, json=request("Hello there."))
    assert eventually(lambda: ask(service, "GET", "/health").json()["active"] == 0)
    assert {name: value - before[name] for name, value in values().items()} == grown
    assert metric(service, f'build_info{{version="{project_version()}"}}') == 1


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
def test_clients_can_not_forge_the_log(service: SpeechService, options: dict, caplog: pytest.LogCaptureFixture) -> None:
    generous = SpeechService(service.engines, ServerSettings(max_characters=10_000))
    assert ask(generous, "POST", SPEECH, **options).status_code in (400, 415)
    (record,) = [record for record in caplog.records if record.name == "serving.http.service"]
    line = LineFormatter("%(levelname)s %(message)s").format(record)
    assert line.startswith("INFO request ")
    assert line.isprintable()
    assert len(line) <= 500


def test_an_unforeseen_error_is_answered_logged_and_counted_as_a_failure(
    service: SpeechService, caplog: pytest.LogCaptureFixture
) -> None:
    before = metric(service, 'requests_total{outcome="failed",status="500"}')
    with mock.patch.object(Voice, "submit", side_effect=KeyError("401k)")):
        answer = ask(service, "POST", SPEECH, json=request())
    assert answer.status_code == 500
    assert answer.json()["error"]["type"] == "server_error"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert metric(service, 'requests_total{outcome="failed",status="500"}') == before + 1
    assert "failed 500" in caplog.text


def test_a_conversation_elsewhere_is_refused(service: SpeechService, caplog: pytest.LogCaptureFixture) -> None:
    client = TestClient(app_of(service))
    with pytest.raises(WebSocketDenialResponse) as refused, client.websocket_connect("/v1/listen"):
        pass
    assert refused.value.status_code == 404
    assert "refused 404, /v1/listen: WebSockets are served at /v1/speak alone" in caplog.text


def test_a_defect_in_a_conversation_is_no_client_that_left(
    service: SpeechService, caplog: pytest.LogCaptureFixture
) -> None:
    client = TestClient(app_of(service))
    with (
        mock.patch("serving.http.websocket.read_query", side_effect=KeyError("401k")),
        pytest.raises(KeyError),
        client.websocket_connect("/v1/speak", headers={"Host": "127.0.0.1"}) as socket,
    ):
        socket.receive()
    assert "failed 500, /v1/speak: internal error: KeyError" in caplog.text


@pytest.mark.parametrize("key", ["schlüssel", "two words", "a\nb", ""])
def test_a_key_that_no_header_can_carry_is_refused_at_the_start(key: str) -> None:
    with pytest.raises(UserError, match="--api-key: clients send it in a header" if key else "--api-key is empty"):
        server_settings(make_parser().parse_args(["--api-key", key]))


CUDA, ON_GPU = "CUDA_VISIBLE_DEVICES", ["--checkpoints", "--device", "cuda"]
FILES = [f"--{part}={part}.engine" for part in ("encoder", "decoder", "postnet", "waveglow")]


@pytest.mark.parametrize(
    ("flags", "visible", "environments"),
    [
        (["--checkpoints"], None, [None]),
        (["--checkpoints", "--engines", "2"], None, [{"OMP_NUM_THREADS": "3"}] * 2),
        (ON_GPU, None, [{CUDA: "0"}, {CUDA: "1"}] * 2),
        (FILES, None, [{CUDA: "0"}, {CUDA: "1"}] * 2),
        (ON_GPU, "5,7", [{CUDA: "5"}, {CUDA: "7"}] * 2),
        ([*ON_GPU, "--engines", "3"], None, [{CUDA: "0"}, {CUDA: "1"}, {CUDA: "0"}]),
        ([*ON_GPU, "--engines", "0"], None, [None]),
        (["--checkpoints", "--device", "cuda:1"], None, [{}] * 2),
    ],
)
def test_two_engines_share_each_gpu_and_on_a_cpu_the_server_speaks_itself(
    flags: list[str], visible: str | None, environments: list, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr("scripts.http_server.usable_cores", lambda: 6)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.delenv(CUDA, raising=False)
    if visible is not None:
        monkeypatch.setenv(CUDA, visible)
    engines = make_engines(make_parser().parse_args(flags), lambda: Voice(tiny_engines()))
    assert [engine.environment for engine in engines] == environments
    assert len({engine.name for engine in engines}) == len(engines)


def test_engines_of_a_folder_run_on_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "output"
    folder.mkdir()
    for part in PARTS:
        (folder / f"{part}_fp16.engine").touch()
    assert runs_on_gpu(make_parser().parse_args(["--models", str(folder)]))
    monkeypatch.chdir(tmp_path)  # ./output is taken where no voice is named
    assert runs_on_gpu(make_parser().parse_args([]))


@pytest.mark.parametrize(
    ("audio_format", "media_type", "padding"),
    [
        ("wav", "audio/wav", 0.0),
        ("pcm", "audio/pcm; rate=22050; channels=1", 0.0),
        ("flac", "audio/flac", 0.0),
        # Seconds that a codec may add: of its own delay, and up to the end of its frame.
        ("mp3", "audio/mpeg", 0.16),
        ("opus", "audio/ogg; codecs=opus", 0.06),
        ("aac", "audio/aac", 0.16),
    ],
)
def test_streams_and_whole_answers_hold_all_the_audio(
    service: SpeechService, audio_format: str, media_type: str, padding: float
) -> None:
    fields = request(frames=150, response_format=audio_format)
    streamed = ask(service, "POST", SPEECH, json=fields)
    whole = ask(service, "POST", SPEECH, json=fields | {"stream": False})
    pcm = ask(service, "POST", SPEECH, json=request(frames=150)).content
    assert int(whole.headers["content-length"]) == len(whole.content)
    assert "content-length" not in streamed.headers
    for answer in (streamed, whole):
        assert answer.headers["content-type"] == media_type
        if audio_format == "pcm":
            assert answer.content == pcm
            continue
        samples, rate = decoded(answer.content)
        assert 0 <= len(samples) / rate - 150 * 256 / 22050 <= padding
        if not padding:
            assert samples.tobytes() == pcm
    if audio_format in ("wav", "flac"):
        assert soundfile.info(io.BytesIO(whole.content)).frames == 150 * 256  # by its header
    if audio_format == "mp3":
        assert soundfile.info(io.BytesIO(whole.content)).frames == pytest.approx(150 * 256, abs=2400)


def decoded(data: bytes) -> tuple[np.ndarray, int]:
    """Samples, int16 or float [n], and their rate in Hz, of a file of any format."""
    with av.open(io.BytesIO(data)) as container:
        frames = [frame.to_ndarray().ravel() for frame in container.decode(audio=0)]
        return np.concatenate(frames), container.streams.audio[0].rate


def test_settings_are_those_of_the_library(service: SpeechService, voice: Voice) -> None:
    settings: dict[str, Any] = {"speed": 1.5, "seed": 7, "sigma": 0.4, "text_normalizer": "none"}
    answer = ask(service, "POST", SPEECH, json=request("At 5 o'clock.", sample_rate=16000, **settings))
    settings |= {"sampling_rate": 16000, "gate_threshold": NEVER, "max_decoder_steps": 100}
    expected = Audio.join(list(voice.stream("At 5 o'clock.", **settings)))
    assert answer.content == expected.pcm16()


def test_events_bring_audio_alignments_and_usage(service: SpeechService) -> None:
    fields = request(stream_format="sse", alignment=True, voice={"id": "default"})
    answer = ask(service, "POST", SPEECH, json=fields)
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = events_of(answer.text)
    deltas = [base64.b64decode(event["audio"]) for event in events if event["type"] == "speech.audio.delta"]
    assert len(deltas) > 1
    assert b"".join(deltas) == ask(service, "POST", SPEECH, json=request()).content
    (alignment,) = [event for event in events if event["type"] == "speech.alignment"]
    assert alignment["text"] == "hello there."
    weights = np.frombuffer(base64.b64decode(alignment["weights"]), np.uint8)
    assert weights.reshape(alignment["frames"], alignment["symbols"]).shape == (100, 12)
    usage = {"input_tokens": 12, "output_tokens": 100, "total_tokens": 112}
    assert events[-1] == {"type": "speech.audio.done", "usage": usage, "cut": True}


def test_lossy_formats_keep_what_is_above_9_kilohertz() -> None:
    noise = np.random.default_rng(0).standard_normal(22050).astype(np.float32) / 10
    for name in ("mp3", "aac", "opus"):
        rate = {"opus": 48000}.get(name, 22050)  # Opus is decoded at 48 kHz
        encoder = make_encoder(FORMATS[name], rate, whole=True)
        encoder.encode(noise)
        samples, _ = decoded(encoder.finish())
        spectrum = np.abs(np.fft.rfft(samples)) ** 2
        hertz = np.fft.rfftfreq(len(samples), 1 / rate)
        high, middle = (spectrum[(low < hertz) & (hertz < low + 500)].mean() for low in (9500, 4000))
        assert high > middle / 10, name  # white noise is as strong in both


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost:8000", 200),
        ("127.0.0.1", 200),
        ("[::1]:8000", 200),
        ("evil.example:8000", 403),
        ("127.0.0.1.evil.example", 403),
        ("", 403),
    ],
)
def test_a_name_of_another_site_is_no_way_to_a_local_server(service: SpeechService, host: str, status: int) -> None:
    assert ask(service, "GET", "/v1/models", headers={"Host": host}).status_code == status
    assert ask(service, "GET", "/health", headers={"Host": host}).status_code == 200
    open_to_all = SpeechService(service.engines, ServerSettings(local_only=False))
    assert ask(open_to_all, "GET", "/v1/models", headers={"Host": host}).status_code == 200


def test_pages_of_other_sites_need_to_be_allowed(service: SpeechService, caplog: pytest.LogCaptureFixture) -> None:
    origin = {"Origin": "https://my.example"}
    preflight = origin | {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type"}
    allowing = SpeechService(service.engines, ServerSettings(origins=("https://my.example",)))
    for one, allowed in ((service, None), (allowing, "https://my.example")):
        answers = [
            ask(one, "OPTIONS", SPEECH, headers=preflight),
            ask(one, "POST", SPEECH, json=request(), headers=origin),
            ask(one, "POST", SPEECH, json={}, headers=origin),  # errors are to be read, too
        ]
        assert [answer.headers.get("access-control-allow-origin") for answer in answers] == [allowed] * 3
    other = ask(allowing, "POST", SPEECH, json=request(), headers={"Origin": "https://evil.example"})
    assert "access-control-allow-origin" not in other.headers
    # The preflight is no request for speech.
    assert (metric(allowing, "requests_total"), metric(allowing, "request_seconds_count")) == (3, 2)
    assert caplog.text.count("done 200") == 3


POST = {"type": "http", "method": "POST", "path": SPEECH, "query_string": b"", "subprotocols": []}
LOCAL = [(b"host", b"127.0.0.1"), (b"content-type", b"application/json")]


async def under_way(
    service: SpeechService, messages: list[Message], send: Callable[[Message], Awaitable[None]], **scope: object
) -> asyncio.Task[None]:
    """A request, once the server has taken these messages of its client."""
    received = asyncio.Queue[Message]()
    for message in messages:
        received.put_nowait(message)
    task = asyncio.create_task(app_of(service)({**POST, "headers": LOCAL, **scope}, received.get, send))
    while not received.empty():
        await asyncio.sleep(0.001)
    return task


def test_a_request_whose_body_is_on_its_way_when_the_server_ends_is_refused(
    service: SpeechService, caplog: pytest.LogCaptureFixture
) -> None:
    sent = mock.AsyncMock()

    async def end() -> None:
        asking = await under_way(service, [{"type": "http.request", "body": b"{", "more_body": True}], sent)
        asking.cancel()
        await asking

    asyncio.get_event_loop().run_until_complete(end())
    assert sent.await_args_list[0].args[0]["status"] == 503
    assert f"refused 503, {SPEECH}: the server is shutting down" in caplog.text


def test_a_client_that_leaves_while_its_text_waits_to_be_read_gives_it_up(
    service: SpeechService, caplog: pytest.LogCaptureFixture
) -> None:
    read, submit = threading.Event(), Voice.submit

    async def leave() -> None:
        body = {"type": "http.request", "body": json.dumps(request()).encode()}
        asking = await under_way(service, [body, {"type": "http.disconnect"}], mock.AsyncMock())
        await service.engines.statuses()  # the engine has heard of it
        read.set()
        await asking

    with mock.patch.object(Voice, "submit", lambda *options: read.wait(30) and submit(*options)):
        asyncio.get_event_loop().run_until_complete(leave())
    assert "cancelled 499" in caplog.text


@pytest.mark.parametrize(
    ("settings", "headers", "status"),
    [
        ({}, {"Origin": "https://evil.example"}, 403),
        ({}, {"Origin": "http://127.0.0.1"}, None),
        ({"origins": ("https://my.example",)}, {"Origin": "https://my.example"}, None),
        ({"api_key": "secret"}, {}, 401),
        ({"api_key": "secret"}, {"Authorization": "Token wrong"}, 401),
        ({"api_key": "secret"}, {"Authorization": "Token secret"}, None),
        ({"api_key": "secret"}, {"Authorization": "Bearer secret"}, None),
        ({"api_key": "secret"}, {"Sec-WebSocket-Protocol": "token, secret"}, None),
        ({"api_key": "secret"}, {"Sec-WebSocket-Protocol": "token, wrong"}, 401),
        ({"api_key": "secret"}, {"Sec-WebSocket-Protocol": "other, secret"}, 401),
    ],
)
def test_conversations_of_other_sites_and_strangers_are_refused(
    service: SpeechService, settings: dict, headers: dict, status: int | None
) -> None:
    client = TestClient(app_of(SpeechService(service.engines, ServerSettings(**settings))))
    headers = {"Host": "127.0.0.1"} | headers
    if status is None:
        with client.websocket_connect("/v1/speak", headers=headers) as socket:
            assert socket.receive_json()["type"] == "Metadata"
    else:
        with pytest.raises(WebSocketDenialResponse) as refused, client.websocket_connect("/v1/speak", headers=headers):
            pass
        assert refused.value.status_code == status
        assert refused.value.json()["error"]["code"] == {401: "invalid_api_key", 403: "unknown_origin"}[status]


def test_a_port_in_use_is_named() -> None:
    with bind("127.0.0.1", 0) as taken:
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"can't listen at 127.0.0.1 port {port}"):
            bind("127.0.0.1", port)


def test_who_is_refused_learns_how_long_the_queue_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    now = itertools.count(step=2.0)
    monkeypatch.setattr("serving.http.service.time.monotonic", lambda: next(now))
    engines = SimpleNamespace(load=7)
    service = SpeechService(cast(EnginePool, engines), ServerSettings())
    assert service.seconds_to_wait() == 1  # nothing is known yet
    for _ in range(5):  # one every two seconds
        service.ended(RequestRecord("some", SPEECH, status=200, completed=True))
    assert service.seconds_to_wait() == 7
    engines.load = 1000
    assert service.seconds_to_wait() == 60


@pytest.mark.parametrize("name", ["default", *OPENAI_VOICES, {"id": "ash"}])
def test_all_voices_of_openai_are_answered(service: SpeechService, name: object) -> None:
    fields = request(frames=20, response_format=None) | {"voice": name, "model": "gpt-4o-mini-tts-2025-12-15"}
    answer = ask(service, "POST", SPEECH, json=fields)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "audio/mpeg")


def test_names_of_ones_own_are_added() -> None:
    voices = server_settings(make_parser().parse_args(["--voice-name", "linda", "--voice-name", "alloy"])).voices
    assert voices[:3] == ("linda", "alloy", "default")
    assert len(voices) == len({*voices}) == 15


def test_raw_samples_have_openais_rate_unless_another_is_asked_for(service: SpeechService) -> None:
    for asked, rate in ((None, 24000), (16000, 16000), (22050, 22050)):
        answer = ask(service, "POST", SPEECH, json=request(frames=200) | {"sample_rate": asked})
        assert answer.headers["x-sample-rate"] == str(rate)
        assert f"rate={rate};" in answer.headers["content-type"]
        assert len(answer.content) / 2 == pytest.approx(200 * 256 / 22050 * rate, abs=1)


@pytest.mark.parametrize(
    "unused",
    [
        dict.fromkeys(SpeechRequest.model_fields.keys() - request().keys()),  # null means not given
        {"instructions": "Cheerfully.", "language": "en", "lang_code": "a", "user": "me", "stream": True},
        {"normalization_options": {"normalize": True}, "download_format": "mp3", "return_download_link": True},
    ],
)
def test_fields_of_other_clients_are_taken(service: SpeechService, unused: dict) -> None:
    expected = ask(service, "POST", SPEECH, json=request()).content
    headers = {"Content-Type": "application/vnd.api+json"}
    answer = ask(service, "POST", SPEECH, content=json.dumps(request() | unused), headers=headers)
    assert answer.content == expected


def test_a_gain_is_limited_softly(service: SpeechService) -> None:
    def samples(gain: float) -> np.ndarray:
        answer = ask(service, "POST", SPEECH, json=request(volume_multiplier=gain))
        return np.frombuffer(answer.content, "<i2").astype(np.float64)

    plain = samples(1.0)
    assert np.abs(samples(0.5) - plain / 2).max() <= 1
    louder = samples(4.0)
    quiet = np.abs(4 * plain) < 0.7 * 32767
    assert np.abs(louder - 4 * plain)[quiet].max() <= 4
    assert (np.abs(louder) < 32768).all()
    assert not samples(0.0).any()


def test_answers_carry_the_times_of_words(service: SpeechService) -> None:
    text = "Pay 20% now, please."
    fields = request(text, frames=100, timestamps=True)
    answer = ask(service, "POST", SPEECH, json=fields)
    assert answer.headers["content-type"] == "application/json"
    found = answer.json()
    plain = ask(service, "POST", SPEECH, json=fields | {"timestamps": False}).content
    assert base64.b64decode(found["audio"]) == plain
    assert (found["format"], found["sample_rate"]) == ("pcm", 22050)
    events = events_of(ask(service, "POST", SPEECH, json=fields | {"stream_format": "sse"}).text)
    said = [word for event in events if event["type"] == "speech.words" for word in event["words"]]
    assert said == found["words"]
    assert said
    for word in said:
        assert text[slice(*word["span"])] == word["word"]
        assert 0 <= word["start"] <= word["end"] <= 100 * 256 / 22050


def test_kokoro_fast_api_with_captions(service: SpeechService) -> None:
    body = {
        **{"model": "kokoro", "voice": "af_bella", "input": TEXT, "response_format": "pcm", "speed": 1.0},
        **{"lang_code": "a", "volume_multiplier": 1.0, "normalization_options": {"normalize": True}},
        **{"return_download_link": False, "download_format": None, "gate_threshold": NEVER, "max_decoder_steps": 400},
    }

    def lines(stream: bool) -> list[dict]:
        answer = ask(service, "POST", "/dev/captioned_speech", json=body | {"stream": stream})
        return [json.loads(line) for line in answer.text.splitlines()]

    (whole,), streamed = lines(False), lines(True)
    assert len(streamed) > 1
    assert whole["audio_format"] == "pcm"
    seconds = len(base64.b64decode(whole["audio"])) / 2 / 24000
    assert seconds == pytest.approx(400 * 256 / 22050, abs=1e-4)
    assert b"".join(base64.b64decode(one["audio"]) for one in streamed) == base64.b64decode(whole["audio"])
    for times in (whole["timestamps"], [word for one in streamed for word in one["timestamps"]]):
        assert [word["word"] for word in times] == TEXT.split()[: len(times)]
        assert len(times) > 4  # an untrained voice may not get further
        assert all(0 <= word["start_time"] <= word["end_time"] <= seconds for word in times)


@pytest.mark.parametrize(
    ("function", "fields"), [("av.open", {"response_format": "mp3"}), ("base64.b64encode", {"timestamps": True})]
)
def test_what_takes_long_does_not_hold_up_other_requests(service: SpeechService, function: str, fields: dict) -> None:
    module, name = function.split(".")
    original, threads = getattr(importlib.import_module(module), name), []

    def watched(*args, **options) -> object:
        threads.append(threading.current_thread())
        return original(*args, **options)

    with mock.patch(function, watched):
        assert ask(service, "POST", SPEECH, json=request(**fields)).status_code == 200
    assert threads
    assert threading.main_thread() not in threads


@pytest.mark.parametrize(("gate_threshold", "cut"), [(NEVER, True), (0.01, False)])
def test_speech_that_the_limit_of_frames_cut_is_not_passed_off_as_whole(
    service: SpeechService, gate_threshold: float, cut: bool, caplog: pytest.LogCaptureFixture
) -> None:
    fields = request(gate_threshold=gate_threshold, stream=False)
    counted = metric(service, "requests_cut_total")
    assert ask(service, "POST", SPEECH, json=fields).headers.get("x-cut") == ("true" if cut else None)
    assert metric(service, "requests_cut_total") == counted + cut
    assert ("cut by the limit of frames" in caplog.text) is cut
    events = ask(service, "POST", SPEECH, json=fields | {"stream": True, "stream_format": "sse"}).text
    assert events_of(events)[-1]["cut"] is cut
    assert ask(service, "POST", SPEECH, json=fields | {"timestamps": True}).json()["cut"] is cut
    assert ask(service, "POST", "/dev/captioned_speech", json=fields).json()["cut"] is cut


def test_what_is_left_out_of_a_text_is_told(service: SpeechService) -> None:
    for text, told in (("Hello {there}.", "%7B%7D"), ("Hello there.", None)):
        assert ask(service, "POST", SPEECH, json=request(text)).headers.get("x-dropped-characters") == told


@pytest.mark.parametrize("path", ["/v1/models", "/v1/audio/models", "/v1/voices", "/v1/audio/voices"])
def test_what_there_is_is_listed_where_clients_look(service: SpeechService, path: str) -> None:
    answer = ask(service, "GET", path).json()
    names = [one["id"] for one in answer[path.rpartition("/")[2]]]
    if "voices" in path:
        assert names[:2] == ["default", "alloy"]
        assert names == [one["name"] for one in answer["voices"]]  # as Open WebUI shows them
        assert answer["max_characters"] == 100
    else:
        assert {"tts-1", "tacotron2-waveglow"} <= {*names}
        assert ask(service, "GET", "/v1/models/tts-1").json()["id"] == "tts-1"


@pytest.mark.parametrize(
    ("query", "body", "status", "words"),
    [
        ("encoding=linear16&container=none&sample_rate=16000", {"text": "Hello there."}, 200, ""),
        ("encoding=mp3", {"text": "Hello there."}, 400, "choose one of linear16"),
        ("", {"text": " "}, 400, "text is empty"),
        ("", {"text": "x" * 101}, 413, "at most 100"),
        ("", {"url": "https://example.com"}, 400, '{"text"'),
        ("", [], 400, "a JSON object"),
    ],
)
def test_deepgrams_whole_texts(service: SpeechService, query: str, body: object, status: int, words: str) -> None:
    address = f"/v1/speak?gate_threshold={NEVER}&max_decoder_steps=100&{query}"
    answer = ask(service, "POST", address, json=body)
    assert answer.status_code == status
    if status == 200:
        assert len(answer.content) / 2 == pytest.approx(100 * 256 / 22050 * 16000, abs=1)
    else:
        assert words in answer.json()["error"]["message"]


@pytest.mark.parametrize("path", [SPEECH, "/dev/captioned_speech", "/v1/speak"])
def test_nested_bodies_are_refused(service: SpeechService, path: str) -> None:
    nested = {"content": "[" * 10_000, "headers": {"Content-Type": "application/json"}}
    assert ask(service, "POST", path, **nested).status_code == 400


@pytest.mark.parametrize(
    ("fields", "status", "param", "words"),
    [
        ({"input": ""}, 400, "input", "empty"),
        ({"input": " \n"}, 400, "input", "empty"),
        ({"input": "\u266b \u2665"}, 400, "input", "nothing to speak"),
        ({"input": "x" * 101}, 413, "input", "101 characters, and at most 100"),
        ({"input": None}, 400, "input", "string"),
        ({"model": "whisper-1"}, 404, "model", "whisper-1"),
        ({"model": "tts-1-hd-x"}, 404, "model", "does not exist"),
        ({"voice": "nobody"}, 400, "voice", "default, alloy"),
        ({"voice": {"id": "alloy", "x": 1}}, 400, "voice", "voice.x: Extra inputs are not permitted"),
        ({"voice": 5}, 400, "voice", "valid string"),
        ({"response_format": "wma"}, 400, "response_format", "wav, pcm, flac, mp3, opus"),
        ({"speed": 3.0}, 400, "speed", "speed 3.0: must be between 0.5 and 2"),
        ({"speed": 0.25}, 400, "speed", "between 0.5 and 2"),
        ({"speed": "fast"}, 400, "speed", "number"),
        ({"seed": -1}, 400, "seed", "between 0 and"),
        ({"seed": 2**70}, 400, "seed", "between 0 and"),
        ({"sample_rate": 12345}, 400, "sample_rate", "sample_rate 12345: must be one of 8000"),
        ({"sample_rate": 44100, "response_format": "opus"}, 400, "sample_rate", "sample_rate 44100: opus takes 8000"),
        ({"text_normalizer": "klingon"}, 400, "text_normalizer", "english, none"),
        ({"stream_format": "video"}, 400, "stream_format", "sse"),
        ({"alignment": True}, 400, "alignment", "sse"),
        ({"sped": 1.2}, 400, "sped", "did you mean speed?"),
        ({"volume_multipler": 1}, 400, "volume_multipler", "did you mean volume_multiplier?"),
        ({"volume_multiplier": 5}, 400, "volume_multiplier", "less than or equal to 4"),
        ({"surprise": 1}, 400, "surprise", "unknown field"),
    ],
)
def test_errors_name_the_field_to_blame_as_openai_does(
    service: SpeechService, fields: dict, status: int, param: str, words: str
) -> None:
    answer = ask(service, "POST", SPEECH, json=request() | fields)
    assert answer.status_code == status
    error = answer.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert (error["type"], error["param"]) == ("invalid_request_error", param)
    assert words in error["message"]


@pytest.mark.parametrize(
    ("body", "content_type", "status", "words"),
    [
        (b'{"input": "caf\xe9"}', "application/json", 400, "UTF-8"),
        (b'{"input": ', "application/json", 400, "not JSON"),
        (b'{"input": "\\ud800"}', "application/json", 400, "half of a surrogate pair"),
        (b"[]", "application/json", 400, "object"),
        (b"", "application/json", 400, "not JSON"),
        (b'{"model": "tts-1", "voice": "alloy"}', "application/json", 400, "input is missing"),
        (b"input=Hello", "application/x-www-form-urlencoded", 415, "application/json"),
        (b" " * 1_000_000, "application/json", 413, "larger than"),
    ],
)
def test_bad_bodies_are_refused(
    service: SpeechService, body: bytes, content_type: str, status: int, words: str
) -> None:
    headers = {"content-type": content_type}
    answer = ask(service, "POST", SPEECH, content=body, headers=headers)
    assert answer.status_code == status
    assert words in answer.json()["error"]["message"]


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic secret"}])
def test_without_the_key_nothing_is_spoken(
    service: SpeechService, headers: dict, caplog: pytest.LogCaptureFixture
) -> None:
    guarded = SpeechService(service.engines, ServerSettings(api_key="secret"))
    for method, path in (("GET", "/v1/models"), ("GET", "/v1/voices"), ("GET", "/metrics"), ("POST", SPEECH)):
        answer = ask(guarded, method, path, headers=headers)
        assert answer.status_code == 401
        assert answer.json()["error"]["code"] == "invalid_api_key"
        assert f"refused 401, {path}: give the server's API key" in caplog.text
    assert ask(guarded, "GET", "/health").status_code == 200
    with_key = {"Authorization": "Bearer secret"}
    assert ask(guarded, "POST", SPEECH, json=request(frames=20), headers=with_key).status_code == 200


def test_the_description_of_the_api_can_be_followed(service: SpeechService) -> None:
    described = ask(service, "GET", "/openapi.json").json()
    references = set(_references(described))
    assert references
    for reference in references:
        found = described
        for step in reference.removeprefix("#/").split("/"):
            found = found[step]
    assert described["paths"].keys() >= {"/dev/captioned_speech", "/v1/speak"}
    speech = described["paths"][SPEECH]["post"]
    assert {"audio/mpeg", "audio/wav", "text/event-stream"} <= speech["responses"]["200"]["content"].keys()
    assert {"400", "401", "404", "408", "413", "415", "500", "503"} <= speech["responses"].keys()
    fields = described["components"]["schemas"]["SpeechRequest"]["properties"]
    assert (fields["speed"]["minimum"], fields["speed"]["maximum"]) == (0.5, 2.0)
    assert "mp3" in fields["response_format"]["enum"]
    with_key = SpeechService(service.engines, ServerSettings(api_key="secret"))
    assert "HTTPBearer" in ask(with_key, "GET", "/openapi.json").json()["components"]["securitySchemes"]


def _references(node: object) -> Iterator[str]:
    if isinstance(node, dict):
        for key, value in node.items():
            if key == "$ref":
                yield value
            yield from _references(value)
    if isinstance(node, list):
        for value in node:
            yield from _references(value)


# Faults


@contextmanager
def faulty_service(
    loop: asyncio.AbstractEventLoop, part: Part, fault: Callable[[Mapping[str, Tensor]], object]
) -> Iterator[SpeechService]:
    """A server whose engine meets a fault before each run of a part, once it is ready."""
    faults: list[Callable[[Mapping[str, Tensor]], object]] = []

    def meet(tensors: Mapping[str, Tensor]) -> None:
        for fault in faults:
            fault(tensors)

    quick = tiny_engines(decoder_no_early_stopping=True)
    engines = {one: Watched(engine, meet) if one == part else Watched(engine) for one, engine in quick.items()}
    for one, engine in engines.items():
        engine.name = f"/srv/my secrets/{one}.onnx"
    with engine_of(Voice(engines), loop) as pool:
        faults.append(fault)
        yield SpeechService(pool, ServerSettings())


def failing(calls: Container[int]) -> Callable[[Mapping[str, Tensor]], None]:
    """A fault that raises at the calls of these numbers."""
    number = itertools.count()

    def fail(tensors: object) -> None:
        if next(number) in calls:
            raise RuntimeError("no such kernel")

    return fail


@pytest.mark.parametrize(
    ("part", "call"),
    [*itertools.product(("encoder", "decoder_iter", "postnet", "waveglow"), (0,)), ("postnet", 1), ("waveglow", 1)],
)
def test_whatever_fails_fails_its_own_request_alone(part: Part, call: int, loop: asyncio.AbstractEventLoop) -> None:
    with faulty_service(loop, part, failing({call})) as service:
        answer = ask(service, "POST", SPEECH, json=request(frames=400, stream_format="sse"))
        last = answer.text.strip().rpartition("data: ")[2]  # an event where audio had been sent
        assert answer.status_code == (500 if call == 0 else 200)
        error = json.loads(last)["error"]
        assert (error["type"], error["code"]) == ("server_error", "speech_failed")
        assert "failed: RuntimeError; see the log" in error["message"]
        assert metric(service, 'requests_total{outcome="failed"') == 1
        again = ask(service, "POST", SPEECH, json=request())
        assert again.status_code == 200
        assert len(again.content) == 2 * 100 * 256


def test_a_voice_that_can_not_speak_any_more_says_so_everywhere(
    loop: asyncio.AbstractEventLoop, caplog: pytest.LogCaptureFixture
) -> None:
    with faulty_service(loop, "decoder_iter", failing(range(1000))) as service:
        assert ask(service, "GET", "/health").json()["status"] == "ready"
        for _ in range(FAILED_ROUNDS):
            assert ask(service, "POST", SPEECH, json=request()).status_code == 500

        async def fail() -> None:
            while not service.engines.failure:
                await asyncio.sleep(0.01)

        loop.run_until_complete(asyncio.wait_for(fail(), 20))
        for path in ("/health", "/health/ready", "/health/live"):
            answer = ask(service, "GET", path)
            assert (answer.status_code, answer.json()["status"]) == (503, "failed")
        assert "refused" not in caplog.text  # polls don't look like refused speech
        refused = ask(service, "POST", SPEECH, json=request())
        assert refused.status_code == 503
        assert refused.headers["retry-after"]
        assert 'speech_state{engine="engine 0",speech_state="failed"} 1.0' in ask(service, "GET", "/metrics").text


def test_a_conversation_whose_engine_ends_has_failed(
    loop: asyncio.AbstractEventLoop, caplog: pytest.LogCaptureFixture
) -> None:
    query = f"gate_threshold={NEVER}&max_decoder_steps=1600".encode()
    said = ({"type": "Speak", "text": "word " * 40}, {"type": "Flush"})
    messages: list[Message] = [{"type": "websocket.receive", "text": json.dumps(one)} for one in said]

    async def converse(service: SpeechService) -> Message:
        sent, scope = asyncio.Queue[Message](), {"type": "websocket", "path": "/v1/speak", "query_string": query}
        conversation = await under_way(service, [{"type": "websocket.connect"}, *messages], sent.put, **scope)
        while "bytes" not in await sent.get():
            pass
        await service.engines.close()
        await conversation
        return [sent.get_nowait() for _ in range(sent.qsize())][-1]

    with faulty_service(loop, "decoder_iter", lambda tensors: time.sleep(0.01)) as service:
        last = loop.run_until_complete(asyncio.wait_for(converse(service), 20))
    assert (last["type"], last["code"]) == ("websocket.close", 1011)
    assert "engine 0 has ended" in last["reason"]
    assert "failed 1011" in caplog.text


def test_the_log_alone_tells_where_the_models_are(
    loop: asyncio.AbstractEventLoop, caplog: pytest.LogCaptureFixture
) -> None:
    with faulty_service(loop, "waveglow", lambda tensors: tensors["z"].fill_(float("nan"))) as service:
        answer = ask(service, "POST", SPEECH, json=request())
    assert answer.status_code == 500
    assert answer.json()["error"]["message"].startswith("waveglow.onnx: NaN")
    assert "secrets" not in answer.text
    assert "/srv/my secrets/waveglow.onnx: NaN" in caplog.text
