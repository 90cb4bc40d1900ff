"""The HTTP server as its clients meet it: a process of its own, OpenAI's client, bad input and faults."""

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
import pytest

from pipeline.scheduler import FAILED_ROUNDS
from tests.http_servers import ServerProcess, eventually, metric_of, request, running_server

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


def sent(fields: dict) -> bytes:
    """A request for speech as a client sends it."""
    body = json.dumps(fields)
    head = ("POST /v1/audio/speech HTTP/1.1", "Host: localhost", "Content-Type: application/json")
    return "\r\n".join([*head, f"Content-Length: {len(body)}", "", body]).encode()


def metric(server: ServerProcess, name: str) -> float:
    return metric_of(httpx.get(f"{server.url}/metrics").text, name)


@pytest.mark.parametrize("audio_format", ["wav", "pcm", "flac", "mp3", "opus"])
def test_a_stream_begins_before_it_is_done(server: ServerProcess, audio_format: str) -> None:
    before = metric(server, "first_audio_seconds_count")
    body = request(LONG, frames=400, response_format=audio_format)
    with (
        server.fault("decoder_iter", "slow"),
        httpx.stream("POST", f"{server.url}/v1/audio/speech", json=body, timeout=60) as answer,
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
        assert len(data) == 2 * 400 * HOP
    else:
        with av.open(io.BytesIO(data)) as container:
            samples = sum(frame.samples for frame in container.decode(audio=0))
            assert samples / container.streams.audio[0].rate >= 400 * HOP / 22050


# Bad input


def test_the_server_keeps_to_its_description(server: ServerProcess, tmp_path: Path) -> None:
    command = [
        *(Path(sys.executable).with_name("schemathesis"), "run", f"{server.url}/openapi.json"),
        *("--phases", "coverage,fuzzing", "--max-examples", "15", "--seed", "1", "--generation-database", "none"),
        # Whether a text can be spoken, and what the voice is called, the description can't say.
        *("--exclude-checks", "positive_data_acceptance", "--no-color"),
        *("--exclude-path", "/dev/captioned_speech"),  # Kokoro-FastAPI's stream is many lines of JSON, and called JSON
    ]
    found = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert found.returncode == 0, found.stdout[-5000:] + found.stderr


# Leaving clients


def test_a_thousand_requests_leave_nothing_behind(server: ServerProcess) -> None:
    def ask(number: int) -> None:
        with server.connect() as client:
            client.sendall(sent(request("Hi.", frames=4, response_format=("pcm", "mp3")[number % 2])))
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
    with server.connect() as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.sendall(sent(request(LONG, frames=1600, sample_rate=48000)))
        assert slow.recv(12) == b"HTTP/1.1 200"
        for _ in range(3):
            assert server.speak().status_code == 200
        assert eventually(lambda: re.search("cancelled 200, .*: its client has read nothing", server.log()) is not None)
    assert eventually(lambda: server.status()["active"] == 0)


@pytest.mark.parametrize(
    "begun", [b"", b"GET /hea", b"GET /health HTTP/1.1\r\nHost: x\r\n\r\nGET /h"], ids=["nothing", "a part", "a second"]
)
def test_a_connection_whose_client_sends_no_more_is_closed(server: ServerProcess, begun: bytes) -> None:
    with server.connect() as silent:
        silent.sendall(begun)
        received = b"".join(iter(lambda: silent.recv(4096), b""))  # until the server closes
    assert received.count(b"HTTP/1.1 200") == begun.count(b"\r\n\r\n")


@pytest.mark.parametrize("hosts", ["", "Host: localhost\r\nHost: localhost\r\n"], ids=["none", "two"])
def test_a_request_names_one_host(server: ServerProcess, hosts: str) -> None:
    with server.connect() as connection:
        connection.sendall(f"GET /health HTTP/1.1\r\n{hosts}\r\n".encode())
        received = b"".join(iter(lambda: connection.recv(4096), b""))
    assert received.startswith(b"HTTP/1.1 400 ")
    assert received.count(b"HTTP/1.1") == 1


def test_a_body_that_does_not_come_is_refused(server: ServerProcess) -> None:
    with server.connect() as silent:
        silent.sendall(sent(request())[:-1])
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


# The end


@pytest.mark.parametrize("flags", [(), ("--engines", "1")], ids=["itself", "an engine's process"])
def test_a_server_whose_voice_can_not_speak_any_more_ends_with_a_reason(tmp_path: Path, flags: tuple[str, ...]) -> None:
    with running_server(tmp_path, *flags) as server, server.fault("decoder_iter", "error"):
        assert [server.speak().status_code for _ in range(FAILED_ROUNDS)] == [500] * FAILED_ROUNDS
        assert not flags or eventually(lambda: server.speak().status_code == 503)  # while it is started again
        assert server.process.wait(120) == 1
        assert "the voice can't speak any more" in server.log().splitlines()[-1]
