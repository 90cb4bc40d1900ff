"""The HTTP server as its clients meet it: a process of its own, OpenAI's client, bad input and faults."""

import base64
import io
import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import httpx
import numpy as np
import pytest

from pipeline import Audio, Voice
from pipeline.scheduler import FAILED_ROUNDS
from tests.engine_doubles import tiny_engines
from tests.http_servers import NEVER, ServerProcess, events_of, eventually, request, running_server

av = pytest.importorskip("av")
pytest.importorskip("uvicorn")

pytestmark = pytest.mark.slow

HOP = 256
LONG = "word " * 40
MAX_CHARACTERS = 400


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    flags = ("--max-characters", str(MAX_CHARACTERS), "--max-streams", "4")
    with running_server(tmp_path_factory.mktemp("server"), *flags) as server:
        yield server
        assert server.stop() == 0


@pytest.fixture(scope="module")
def client(server: ServerProcess) -> Iterator:
    openai = pytest.importorskip("openai")
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="unused", max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def voice() -> Iterator[Voice]:
    with Voice(tiny_engines()) as voice:
        yield voice


def in_library(voice: Voice, text: str = "Hello there.", frames: int = 100, **settings) -> np.ndarray:
    """int16 samples of the library's stream."""
    stream = voice.stream(text, gate_threshold=NEVER, max_decoder_steps=frames, **settings)
    return np.frombuffer(Audio.join(list(stream)).pcm16(), "<i2")


def decoded(data: bytes) -> tuple[np.ndarray, int]:
    """Samples int16 or float [n] and their rate, of a file of any format."""
    with av.open(io.BytesIO(data)) as container:
        frames = [frame.to_ndarray().ravel() for frame in container.decode(audio=0)]
        return np.concatenate(frames), container.streams.audio[0].rate


def ours(frames: int = 100, **fields) -> dict:
    return {"extra_body": {"gate_threshold": NEVER, "max_decoder_steps": frames, **fields}}


def metric(server: ServerProcess, name: str) -> float:
    lines = httpx.get(f"{server.url}/metrics").text.splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(f"speech_{name}"))


def assert_equal(samples: np.ndarray, expected: np.ndarray) -> None:
    """Equal but for the rounding of processes that decode in other batches, a step of 16 bits or a few."""
    assert len(samples) == len(expected)
    assert np.abs(samples.astype(np.int32) - expected).max() <= 20


# OpenAI's client


@pytest.mark.parametrize("audio_format", ["wav", "pcm", "flac"])
def test_lossless_formats_hold_what_the_library_streams(client, voice: Voice, audio_format: str) -> None:
    answer = client.audio.speech.create(
        model="tts-1", voice="alloy", input="Hello there.", response_format=audio_format, **ours(sample_rate=22050)
    )
    assert answer.response.headers["x-sample-rate"] == "22050"
    if audio_format == "pcm":
        assert answer.response.headers["content-type"] == "audio/pcm; rate=22050; channels=1"
        samples, rate = np.frombuffer(answer.content, "<i2"), 22050
    else:
        samples, rate = decoded(answer.content)
    assert rate == 22050
    assert_equal(samples, in_library(voice))


@pytest.mark.parametrize(
    ("audio_format", "media_type", "padding"),
    # Seconds that a codec may add: of its own delay, and up to the end of its frame.
    [("mp3", "audio/mpeg", 0.16), ("opus", "audio/ogg; codecs=opus", 0.06), ("aac", "audio/aac", 0.16)],
)
def test_lossy_formats_lose_no_tail(client, audio_format: str, media_type: str, padding: float) -> None:
    answer = client.audio.speech.create(
        model="tts-1", voice="alloy", input=LONG, response_format=audio_format, **ours(frames=300)
    )
    assert answer.response.headers["content-type"] == media_type
    samples, rate = decoded(answer.content)
    seconds = 300 * HOP / 22050
    assert seconds <= len(samples) / rate <= seconds + padding


@pytest.mark.parametrize("audio_format", ["wav", "pcm", "flac", "mp3", "opus"])
def test_a_stream_begins_before_it_is_done(server: ServerProcess, client, audio_format: str) -> None:
    before = metric(server, "first_audio_seconds_count")
    with (
        server.fault("decoder_iter", "slow"),
        client.audio.speech.with_streaming_response.create(
            model="tts-1", voice="alloy", input=LONG, response_format=audio_format, **ours(frames=400)
        ) as answer,
    ):
        parts = answer.iter_bytes()
        data = next(parts)
        assert eventually(lambda: metric(server, "first_audio_seconds_count") == before + 1)
        assert server.status()["active"] == 1  # the rest is still being spoken
        data += b"".join(parts)
    if audio_format == "wav":
        assert data[:4] == b"RIFF"
        assert data[4:8] == data[40:44] == b"\xff\xff\xff\xff"
        assert len(data) == 44 + 2 * 400 * HOP
    elif audio_format == "pcm":
        assert len(data) // 2 == round(400 * HOP * 24000 / 22050)  # OpenAI's rate
    else:
        samples, rate = decoded(data)
        assert len(samples) / rate >= 400 * HOP / 22050


def test_events_bring_audio_alignments_and_usage(server: ServerProcess, client, voice: Voice) -> None:
    with client.audio.speech.with_streaming_response.create(
        model="gpt-4o-mini-tts",
        voice={"id": "default"},
        input="Hello there.",
        instructions="Cheerfully.",
        response_format="pcm",
        stream_format="sse",
        **ours(alignment=True, sample_rate=22050),
    ) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        events = events_of(answer.read().decode())
    deltas = [base64.b64decode(event["audio"]) for event in events if event["type"] == "speech.audio.delta"]
    assert len(deltas) > 1
    assert_equal(np.frombuffer(b"".join(deltas), "<i2"), in_library(voice))
    (alignment,) = [event for event in events if event["type"] == "speech.alignment"]
    assert alignment["text"] == "hello there."
    weights = np.frombuffer(base64.b64decode(alignment["weights"]), np.uint8)
    assert weights.reshape(alignment["frames"], alignment["symbols"]).shape == (100, 12)
    assert events[-1] == {
        "type": "speech.audio.done",
        "usage": {"input_tokens": 12, "output_tokens": 100, "total_tokens": 112},
        "cut": True,
    }


def test_settings_are_those_of_the_library(client, voice: Voice) -> None:
    answer = client.audio.speech.create(
        model="tts-1",
        voice="alloy",
        input="At 5 o'clock.",
        response_format="pcm",
        speed=1.5,
        **ours(seed=7, sample_rate=16000, sigma=0.4, text_normalizer="none"),
    )
    assert answer.response.headers["x-sample-rate"] == "16000"
    settings = {"speed": 1.5, "seed": 7, "sampling_rate": 16000, "sigma": 0.4, "text_normalizer": "none"}
    assert_equal(np.frombuffer(answer.content, "<i2"), in_library(voice, "At 5 o'clock.", **settings))


def test_eight_clients_at_once_each_hear_their_own(server: ServerProcess, voice: Voice) -> None:
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda seed: server.speak(seed=seed, frames=60 + 10 * seed), range(8)))
    for seed, answer in enumerate(answers):
        expected = in_library(voice, frames=60 + 10 * seed, seed=seed)
        assert_equal(np.frombuffer(answer.content, "<i2"), expected)


# Bad input


def test_the_server_keeps_to_its_description(server: ServerProcess, tmp_path: Path) -> None:
    command = [
        *(Path(sys.executable).with_name("schemathesis"), "run", f"{server.url}/openapi.json"),
        *("--phases", "coverage,fuzzing", "--max-examples", "15", "--seed", "1", "--generation-database", "none"),
        # Whether a text can be spoken, and what the voice is called, the description can't say.
        *("--exclude-checks", "positive_data_acceptance", "--no-color"),
    ]
    found = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert found.returncode == 0, found.stdout[-5000:] + found.stderr


# Leaving clients


def test_a_thousand_requests_leave_nothing_behind(server: ServerProcess) -> None:
    def ask(number: int) -> None:
        body = json.dumps(request("Hi.", frames=4, response_format=("pcm", "mp3")[number % 2])).encode()
        head = f"POST /v1/audio/speech HTTP/1.1\r\nHost: {server.url[7:]}\r\nContent-Type: application/json\r\n"
        with server.connect() as client:
            client.sendall(head.encode() + f"Content-Length: {len(body)}\r\n\r\n".encode() + body)
            if number % 4:  # the others leave at once
                client.recv(16)  # these within their answer

    def soak(requests: int) -> dict[str, float]:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(ask, range(requests)))
        assert eventually(lambda: server.status()["active"] == server.status()["waiting"] == 0)
        time.sleep(0.5)  # until the last connections are closed
        lines = httpx.get(f"{server.url}/metrics").text.splitlines()
        found = {name: float(value) for name, value in (line.split() for line in lines if line.startswith("process_"))}
        return found | {"threads": len(list(Path(f"/proc/{server.process.pid}/task").iterdir()))}

    before, after = soak(100), soak(600)  # the first ones start threads and take memory that stay
    assert after["process_open_fds"] <= before["process_open_fds"] + 2
    pools = min(32, (os.cpu_count() or 1) + 4) + 4 + 2  # asyncio's default one, uvloop's, and the readers' of texts
    assert after["threads"] <= before["threads"] + pools
    grown = after["process_resident_memory_bytes"] - before["process_resident_memory_bytes"]
    assert grown < 12e6  # as of 20 kB a request that stays
    assert server.speak().status_code == 200


# Faults


@pytest.mark.parametrize(("part", "fault"), [("waveglow", "error"), ("waveglow", "nan"), ("decoder_iter", "nan")])
@pytest.mark.parametrize("audio_format", ["wav", "mp3"])
def test_a_failure_within_a_stream_cuts_the_connection(
    server: ServerProcess, part: str, fault: str, audio_format: str
) -> None:
    after = 1 if part == "waveglow" else 200
    received: list[bytes] = []
    body = request(LONG, frames=600, response_format=audio_format)
    with (
        server.fault(part, fault, after),
        httpx.stream("POST", f"{server.url}/v1/audio/speech", json=body, timeout=60) as answer,
    ):
        assert answer.status_code == 200
        with pytest.raises(httpx.RemoteProtocolError, match="incomplete"):
            received.extend(answer.iter_bytes())
    assert 0 < len(b"".join(received)) < 600 * HOP * 2
    assert server.speak().status_code == 200
    assert eventually(lambda: server.status()["active"] == 0)


def test_events_of_a_failed_stream_end_with_its_reason(server: ServerProcess) -> None:
    with server.fault("waveglow", "nan", 1):
        answer = server.speak(LONG, frames=600, stream_format="sse")
    events = events_of(answer.text)
    assert events[0]["type"] == "speech.audio.delta"
    assert events[-1]["type"] == "error"
    assert "NaN" in events[-1]["error"]["message"]
    assert "speech.audio.done" not in [event["type"] for event in events]


def test_a_client_that_goes_away_frees_its_place(server: ServerProcess) -> None:
    with server.fault("decoder_iter", "slow"):
        with httpx.stream("POST", f"{server.url}/v1/audio/speech", json=request(LONG, frames=1600)) as answer:
            parts = answer.iter_bytes()  # kept: without its reader httpx would close the connection
            next(parts)
            assert server.status()["active"] == 1
        # All 1600 steps would take 16 s: it ends long before.
        assert eventually(lambda: server.status()["active"] == 0, seconds=8)
    assert eventually(lambda: "cancelled 200" in server.log())


def test_a_client_that_goes_away_before_the_first_audio_frees_its_place(server: ServerProcess) -> None:
    with server.fault("decoder_iter", "slow"):
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{server.url}/v1/audio/speech", json=request(LONG, frames=1600), timeout=0.5)
        assert eventually(lambda: server.status()["active"] == 0, seconds=8)
    assert eventually(lambda: "cancelled 499" in server.log())


def test_a_slow_reader_holds_up_nobody(server: ServerProcess) -> None:
    body = json.dumps(request(LONG, frames=1600, response_format="pcm", sample_rate=48000)).encode()
    with server.connect() as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        head = ["POST /v1/audio/speech HTTP/1.1", "Host: localhost", "Content-Type: application/json"]
        slow.sendall("\r\n".join([*head, f"Content-Length: {len(body)}", "", ""]).encode() + body)
        assert slow.recv(12) == b"HTTP/1.1 200"
        for _ in range(3):
            assert server.speak().status_code == 200
        assert eventually(lambda: re.search("cancelled 200, .*: its client has read nothing", server.log()) is not None)
    assert eventually(lambda: server.status()["active"] == 0)


@pytest.mark.parametrize(
    "sent", [b"", b"GET /hea", b"GET /health HTTP/1.1\r\nHost: x\r\n\r\nGET /h"], ids=["nothing", "a part", "a second"]
)
def test_a_connection_whose_client_sends_no_more_is_closed(server: ServerProcess, sent: bytes) -> None:
    with server.connect() as silent:
        silent.sendall(sent)
        received = b"".join(iter(lambda: silent.recv(4096), b""))  # until the server closes
    assert received.count(b"HTTP/1.1 200") == sent.count(b"\r\n\r\n")


def test_a_body_that_does_not_come_is_refused(server: ServerProcess) -> None:
    head = f"POST /v1/audio/speech HTTP/1.1\r\nHost: {server.url[7:]}\r\nContent-Type: application/json\r\n"
    with server.connect() as silent:
        silent.sendall(head.encode() + b"Content-Length: 100\r\n\r\n{")
        received = b"".join(iter(lambda: silent.recv(4096), b""))
    assert received.startswith(b"HTTP/1.1 408 ")
    assert b"not complete after" in received


def test_idle_connections_beyond_the_descriptors_end_and_fill_no_log(tmp_path: Path) -> None:
    with running_server(tmp_path, descriptors=160) as server, ExitStack() as idle:
        for _ in range(300):
            idle.enter_context(server.connect())
        assert eventually(server.is_healthy)
        assert server.speak().status_code == 200
        assert "Too many open files" not in server.log()
        assert len(server.log().splitlines()) < 100


def test_a_head_of_any_length_is_not_kept(server: ServerProcess) -> None:
    def send_for_ever(connection: socket.socket) -> None:
        connection.sendall(b"GET / HTTP/1.1\r\nX-Long: ")
        for _ in range(200):
            connection.sendall(b"x" * 4096)
            time.sleep(0.01)

    with server.connect() as connection, pytest.raises(ConnectionError):
        send_for_ever(connection)
    assert server.is_healthy()


# Load, ids, the end


@pytest.fixture(scope="module")
def small_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server with room for one stream and for one request that waits."""
    flags = ("--max-streams", "1", "--max-queue", "1")
    with running_server(tmp_path_factory.mktemp("small"), *flags) as server:
        yield server


def test_a_full_queue_is_refused_and_harms_nobody(small_server: ServerProcess, voice: Voice) -> None:
    url = f"{small_server.url}/v1/audio/speech"
    with small_server.fault("decoder_iter", "slow"), ThreadPoolExecutor(2) as pool:
        accepted = [pool.submit(httpx.post, url, json=request(frames=150), timeout=60)]
        assert eventually(lambda: small_server.status()["active"] == 1)
        accepted.append(pool.submit(httpx.post, url, json=request(frames=150), timeout=60))
        assert eventually(lambda: small_server.status()["waiting"] == 1)
        refused = httpx.post(url, json=request())
        assert refused.status_code == 503
        assert int(refused.headers["retry-after"]) >= 1
        assert refused.json()["error"]["code"] == "queue_full"
        for future in accepted:
            assert_equal(np.frombuffer(future.result().content, "<i2"), in_library(voice, frames=150))


def test_requests_have_ids_in_the_answer_and_in_the_log(server: ServerProcess) -> None:
    url = f"{server.url}/v1/audio/speech"
    answer = httpx.post(url, json=request("Not for the log."), headers={"X-Request-Id": "mine-1"})
    assert answer.headers["x-request-id"] == "mine-1"
    assert eventually(lambda: "request mine-1: done 200, pcm, 16 characters" in server.log())
    assert "Not for the log" not in server.log()
    forged = httpx.post(url, json=request(), headers={"X-Request-Id": "two words"})
    assert forged.headers["x-request-id"] not in ("", "two words")


def test_metrics_count_what_happened(server: ServerProcess) -> None:
    refused = 'requests_total{outcome="refused",status="400"}'
    grown = {"request_seconds_count": 1, "first_audio_seconds_count": 1, "characters_total": 12, refused: 1}
    grown["audio_seconds_total"] = pytest.approx(100 * HOP / 22050)
    before = {name: metric(server, name) for name in grown}
    server.speak("")
    server.speak("Hello there.", frames=100)
    assert eventually(lambda: metric(server, "request_seconds_count") > before["request_seconds_count"])
    assert {name: metric(server, name) - before[name] for name in grown} == grown
    assert metric(server, "queue_length") == metric(server, "active_streams") == 0


def test_a_server_whose_voice_can_not_speak_any_more_ends_with_a_reason(tmp_path: Path) -> None:
    with running_server(tmp_path) as server, server.fault("decoder_iter", "error"):
        statuses = [server.speak().status_code for _ in range(FAILED_ROUNDS)]
        assert statuses == [500] * FAILED_ROUNDS
        assert server.process.wait(30) == 1
        assert "the voice can't speak any more" in server.log().splitlines()[-1]
