"""Text in pieces over the server's WebSocket: Deepgram's messages, barge-in, limits, and clients that go away."""

import json
import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from socket import SO_RCVBUF, SOL_SOCKET

import httpx
import pytest

from common.files import project_version
from tests.http_servers import NEVER, ServerProcess, eventually, request, running_server

pytest.importorskip("uvicorn")
pytest.importorskip("websockets")
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from tests.faulty_http_server import PATIENCE_SECONDS

pytestmark = pytest.mark.slow

FRAMES = 50
SECONDS = FRAMES * 256 / 22050
MAX_CHARACTERS = 400


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    flags = ("--max-characters", str(MAX_CHARACTERS), "--max-streams", "1", "--max-queue", "1")
    with running_server(tmp_path_factory.mktemp("server"), *flags, frames=FRAMES) as server:
        yield server
        assert server.stop() == 0


def speak_socket(server: ServerProcess, query: str = "", **options) -> ClientConnection:
    address = f"{server.url.replace('http', 'ws', 1)}/v1/speak?gate_threshold={NEVER}&{query}"
    return connect(address, max_size=None, **options)


def say(socket: ClientConnection, kind: str, **fields: str) -> None:
    socket.send(json.dumps({"type": kind, **fields}))


def say_all(socket: ClientConnection, text: str) -> None:
    say(socket, "Speak", text=text)
    say(socket, "Flush")


def has_come(socket: ClientConnection) -> bool:
    """Whether all that was sent has come to the server, which answers a ping in its turn."""
    return socket.ping().wait(30)


def until(socket: ClientConnection, kind: str) -> tuple[bytes, dict]:
    """The audio up to a message of a kind, and the message."""
    audio = b""
    while True:
        received = socket.recv(30)
        if isinstance(received, bytes):
            audio += received
        elif (message := json.loads(received))["type"] == kind:
            return audio, message


def closed(socket: ClientConnection) -> tuple[int, str]:
    """The close code and reason, with which the server ends the connection."""
    for _ in messages_of(socket):
        pass
    assert socket.close_code is not None
    assert socket.close_reason is not None
    return socket.close_code, socket.close_reason


def messages_of(socket: ClientConnection) -> Iterator[bytes | str]:
    with suppress(ConnectionClosed):
        while True:
            yield socket.recv(30)


def seconds_of(audio: bytes, rate: int = 24000) -> float:
    return len(audio) / 2 / rate


def test_sentences_are_spoken_as_they_come(server: ServerProcess) -> None:
    with speak_socket(server, "model=aura-2-helena-en&encoding=linear16&sample_rate=16000") as socket:
        _, metadata = until(socket, "Metadata")
        assert {"request_id", "model_name", "model_uuid"} <= metadata.keys()
        assert metadata["model_version"] == project_version()
        for bit in ("Hel", "lo there. ", "How are "):
            say(socket, "Speak", text=bit)
        first = socket.recv(30)  # before anything is flushed
        assert isinstance(first, bytes)
        say_all(socket, "you?")
        audio, flushed = until(socket, "Flushed")
        assert seconds_of(first + audio, 16000) == pytest.approx(2 * SECONDS, abs=1e-3)
        assert flushed["sequence_id"] == 0
        say(socket, "Speak", text="And so on.")
        say(socket, "Close")
        assert closed(socket) == (1000, "")
    assert eventually(lambda: "done 1000, websocket, 35 characters" in server.log())
    lines = httpx.get(f"{server.url}/metrics").text.splitlines()
    assert any(line.startswith('speech_requests_total{outcome="done",status="1000"}') for line in lines)
    assert {"speech_first_audio_seconds_count 0.0", "speech_request_seconds_count 0.0"} <= {*lines}


def test_what_is_not_flushed_is_spoken_after_a_while(server: ServerProcess) -> None:
    with speak_socket(server) as socket:
        say(socket, "Speak", text="A whole sentence.")  # sounds after a short pause
        began = time.monotonic()
        audio = b""
        until(socket, "Metadata")
        while seconds_of(audio) < SECONDS - 1e-3:
            audio += socket.recv(30)
        assert time.monotonic() - began < 1.9  # before what is no sentence would sound
        assert until(socket, "Warning")[1]["description"] == "cut by the limit of frames: A whole sentence."
        say(socket, "Speak", text="Not one")
        assert isinstance(socket.recv(30), bytes)


def test_clear_stops_at_once_and_frees_the_slot(server: ServerProcess) -> None:
    with speak_socket(server, "max_decoder_steps=1600") as socket, server.fault("decoder_iter", "slow"):
        say_all(socket, "word " * 60)
        assert eventually(lambda: server.status()["active"] == 1)
        began = time.monotonic()
        say(socket, "Clear")
        assert until(socket, "Cleared")[1]["sequence_id"] == 0
        assert eventually(lambda: server.status()["active"] == 0)
        assert time.monotonic() - began < 3  # all steps would take longer
        say_all(socket, "Hi.")
        audio, flushed = until(socket, "Flushed")
        assert flushed["sequence_id"] == 0  # the one before was never done
        assert 0 < seconds_of(audio) < 3


def test_a_client_that_goes_away_frees_its_slot(server: ServerProcess) -> None:
    with server.fault("decoder_iter", "slow"):
        with speak_socket(server, "max_decoder_steps=1600") as socket:
            say_all(socket, "word " * 60)
            assert eventually(lambda: server.status()["active"] == 1)
            socket.socket.close()
        assert eventually(lambda: server.status()["active"] == 0, 8)


def test_a_client_that_reads_nothing_is_dropped(server: ServerProcess) -> None:
    connection = server.connect()
    connection.setsockopt(SOL_SOCKET, SO_RCVBUF, 4096)
    with speak_socket(server, "max_decoder_steps=1600&sample_rate=48000", sock=connection) as socket:
        say_all(socket, "word " * 60)
        dropped = re.compile("cancelled 499, websocket, .*: its client has read nothing")
        assert eventually(lambda: dropped.search(server.log()) is not None)
    assert eventually(lambda: server.status()["active"] == 0)


def test_a_connection_may_be_silent_for_longer_than_a_request_head(server: ServerProcess) -> None:
    with speak_socket(server) as socket:
        time.sleep(PATIENCE_SECONDS + 0.5)
        say(socket, "Flush")
        until(socket, "Flushed")


def test_what_has_no_sound_is_told(server: ServerProcess) -> None:
    with speak_socket(server) as socket:
        say_all(socket, "\u266b")
        assert "nothing to speak" in until(socket, "Warning")[1]["description"]
        until(socket, "Flushed")


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("encoding=mulaw", "choose one of linear16"),
        ("container=wav", "choose one of none"),
        ("sample_rate=1", "must be one of 8000"),
        ("speed=9", "between 0.5 and 2"),
        ("sped=1", "did you mean speed?"),
        ("model=whisper-1", "does not exist"),
        ("ssml=true", "not for this address"),
        ("input=Hello", "not for this address"),
    ],
)
def test_bad_addresses_are_refused(server: ServerProcess, query: str, words: str) -> None:
    with speak_socket(server, query) as socket:
        code, reason = closed(socket)
    assert code == 1008
    assert words in reason


@pytest.mark.parametrize(
    ("message", "code", "words"),
    [
        (b"Hello", 1003, "not binary"),
        ("Hello", 1007, "not JSON"),
        ("[]", 1008, "a JSON object"),
        (r'{"type": "Speak", "text": "\ud800"}', 1007, "half of a surrogate pair"),
        pytest.param("[" * 5000, 1007, "not JSON", id="nested"),
        ('{"type": "Sing"}', 1008, "'Sing' does not exist"),
        ('{"type": "Speak"}', 1008, "needs text"),
        (json.dumps({"type": "Speak", "text": "x" * (MAX_CHARACTERS + 1)}), 1009, "at most 400"),
        (json.dumps({"type": "Speak", "text": "x" * 100_000}), 1009, ""),
    ],
)
def test_bad_messages_end_the_connection(server: ServerProcess, message: str | bytes, code: int, words: str) -> None:
    with speak_socket(server) as socket:
        socket.send(message)
        found, reason = closed(socket)
    assert found == code
    assert words in reason


def test_too_much_text_ends_the_connection(server: ServerProcess) -> None:
    with speak_socket(server, "max_decoder_steps=1600") as socket, server.fault("decoder_iter", "slow"):
        for _ in range(5):
            say(socket, "Speak", text="word " * 80)
        assert closed(socket)[0] == 1009
    assert eventually(lambda: server.status()["active"] == 0)


def test_a_failure_is_no_end_of_speech(server: ServerProcess) -> None:
    with server.fault("waveglow", "nan"), speak_socket(server) as socket:
        say_all(socket, "Hello.")
        code, reason = closed(socket)
    assert code == 1011
    assert "NaN" in reason


def one_too_many(server: ServerProcess, stack: ExitStack, steps: int) -> list[ClientConnection]:
    """Three conversations: one speaks, one waits for a slot, one finds the queue full."""
    sockets = [stack.enter_context(speak_socket(server, f"max_decoder_steps={steps}")) for _ in range(3)]
    for socket, state in zip(sockets, ({"active": 1}, {"waiting": 1}, {}), strict=True):
        say_all(socket, "word " * 60)
        assert eventually(lambda state=state: state.items() <= server.status().items())
    return sockets


def test_a_full_queue_is_told(server: ServerProcess) -> None:
    with server.fault("decoder_iter", "slow"), ExitStack() as stack:
        crowd = one_too_many(server, stack, 1600)
        refused = server.speak()
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "queue_full")
        assert int(refused.headers["retry-after"]) >= 1
        assert closed(crowd[2])[0] == 1013
    assert eventually(lambda: server.status()["active"] == server.status()["waiting"] == 0)


def test_a_text_waits_for_a_busy_engine(server: ServerProcess) -> None:
    with ExitStack() as stack:
        with server.fault("decoder_iter", "slow"):
            sockets = one_too_many(server, stack, 80)
            assert has_come(sockets[2])  # and is refused, until the first one ends
        for socket in sockets:
            assert seconds_of(until(socket, "Flushed")[0]) > 0


def test_what_was_asked_for_is_spoken_before_the_server_ends(tmp_path: Path) -> None:
    with (
        running_server(tmp_path, frames=150) as server,
        speak_socket(server) as unflushed,
        speak_socket(server) as socket,
        ThreadPoolExecutor(1) as pool,
    ):
        with server.fault("decoder_iter", "slow"):
            answer = pool.submit(server.speak, frames=150)
            say_all(socket, "Hello there.")
            assert eventually(lambda: server.status()["active"] == 2)
            say(unflushed, "Speak", text="A whole sentence.")
            assert has_come(unflushed)
            server.process.terminate()
            assert eventually(lambda: not server.is_listening())
            say(socket, "Speak", text="Too late.")
            say(socket, "Close")
        for one in (socket, unflushed):
            messages = list(messages_of(one))
            audio = b"".join(message for message in messages if isinstance(message, bytes))
            assert seconds_of(audio) == pytest.approx(3 * SECONDS, abs=1e-3)
            assert json.loads(messages[-1])["type"] == ("Flushed" if one is socket else "Warning")
            assert closed(one) == (1012, "the server is shutting down")
        assert seconds_of(answer.result().content, 22050) == pytest.approx(3 * SECONDS, abs=1e-3)
        assert server.process.wait(30) == 0
        assert server.log().count("1012, websocket, ") == 2  # they are no clients that left


@pytest.mark.parametrize("flags", [("--drain-seconds", "0.3"), ()], ids=["a time limit", "a second signal"])
def test_an_end_cuts_speech_when_its_time_is_over(tmp_path: Path, flags: tuple[str, ...]) -> None:
    with running_server(tmp_path, *flags) as server, server.fault("decoder_iter", "slow"):
        url, body = f"{server.url}/v1/audio/speech", request("word " * 40, frames=1600)
        with speak_socket(server) as socket, httpx.stream("POST", url, json=body) as answer:
            parts = answer.iter_bytes()
            next(parts)
            say_all(socket, "word " * 40)
            assert eventually(lambda: server.status()["active"] == 2)
            began = time.monotonic()
            server.process.terminate()
            assert eventually(lambda: not server.is_listening())
            if not flags:
                server.process.terminate()
            assert closed(socket) == (1012, "the server is shutting down")
            with pytest.raises(httpx.RemoteProtocolError):
                list(parts)
        assert server.process.wait(20) == 0
        assert time.monotonic() - began < 15  # all steps would take longer
        assert not {"Traceback", "failed"} & {*re.findall(r"\w+", server.log())}
