"""The real Triton Inference Server speaks the demo voice, whole and streamed, to its own clients."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from common.errors import UserError
from pipeline import Audio, Voice
from serving.make_triton_repository import make_repository, model_paths
from serving.triton_server import server_command
from tests.scripts import assert_one_line_error, run_here

pytest.importorskip("tritonclient.grpc")
from serving.triton_client import speak, stream

SERVER = Path(os.environ.get("TRITON_SERVER", Path(sys.prefix) / "triton-server"))
MAX_CHARACTERS = 300
# Served and direct speech run the same engines, in batches of other sizes.
TOLERANCE = 1e-3

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (SERVER / "pytriton").is_dir(), reason="Triton Inference Server is not installed"),
]


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


@pytest.fixture(scope="module")
def server(demo_folder: Path) -> Iterator[dict[str, str]]:
    """A running server's addresses by protocol. The repository is moved after it was written."""
    with tempfile.TemporaryDirectory(prefix="triton.") as folder:
        written, moved = Path(folder, "written"), Path(folder, "moved")
        make_repository(written, model_paths(demo_folder, {}), MAX_CHARACTERS)
        shutil.move(written, moved)
        ports = dict(zip(("http", "grpc", "metrics"), free_ports(3), strict=True))
        command, environment = server_command(SERVER, moved, Path(folder, "backends"), "127.0.0.1", ports)
        log = Path(folder, "log")
        with open(log, "w", encoding="utf-8") as output:
            process = subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT)
        try:
            wait_until_ready(process, f"http://127.0.0.1:{ports['http']}/v2/health/ready", log)
            yield {name: f"127.0.0.1:{port}" for name, port in ports.items()}
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0, log.read_text(encoding="utf-8")[-3000:]
        finally:
            process.kill()
            process.wait()


def wait_until_ready(process: subprocess.Popen, url: str, log: Path) -> None:
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text(encoding="utf-8")[-3000:]
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    raise AssertionError(f"not ready: {log.read_text(encoding='utf-8')[-3000:]}")


@pytest.fixture(scope="module")
def voice(demo_folder: Path) -> Iterator[Voice]:
    with Voice.load(demo_folder) as voice:
        yield voice


def assert_same(found: Audio, expected: Audio) -> None:
    assert found.sampling_rate == expected.sampling_rate
    assert len(found.samples) == len(expected.samples)
    assert np.abs(found.samples - expected.samples).max() < TOLERANCE


def test_streamed_chunks_are_the_librarys(server: dict[str, str], voice: Voice) -> None:
    chunks = list(stream(server["grpc"], "Please call Stella.", seed=3))
    expected = list(voice.stream("Please call Stella.", seed=3))
    assert [len(chunk.samples) for chunk in chunks] == [len(chunk.samples) for chunk in expected]
    assert_same(Audio.join(chunks), Audio.join(expected))


def test_whole_audio_over_http_is_the_streams(server: dict[str, str]) -> None:
    whole = speak(server["http"], "Good morning!", speed=1.3, output_rate=16000)
    assert whole.sampling_rate == 16000
    assert_same(whole, Audio.join(list(stream(server["grpc"], "Good morning!", speed=1.3, output_rate=16000))))


def test_many_requests_one_after_another_and_eight_at_once(server: dict[str, str]) -> None:
    first = speak(server["http"], "Yes.")
    for _ in range(8):
        assert_same(Audio.join(list(stream(server["grpc"], "Yes."))), first)
    with ThreadPoolExecutor(8) as pool:
        for audio in pool.map(lambda _: speak(server["http"], "Yes."), range(8)):
            assert_same(audio, first)


def test_a_stream_that_is_given_up_holds_nobody_up(server: dict[str, str]) -> None:
    given_up = stream(server["grpc"], "This sentence is much longer than the other one, and nobody hears its end.")
    next(given_up)
    given_up.close()
    assert speak(server["http"], "Yes.").seconds > 0.3


@pytest.mark.parametrize(
    ("text", "options", "reason"),
    [
        ("", {}, "nothing to speak"),
        ("...", {}, "nothing to speak"),
        ("long " * 100, {}, f"at most {MAX_CHARACTERS}"),
        ("Hello.", {"speed": 9.0}, "speed 9.0: must be between 0.5 and 2"),
        ("Hello.", {"seed": -1}, "seed -1: must be between"),
    ],
)
def test_what_cannot_be_spoken_is_refused_with_a_reason(
    server: dict[str, str], text: str, options: dict, reason: str
) -> None:
    with pytest.raises(UserError, match=reason):
        list(stream(server["grpc"], text, **options))
    with pytest.raises(UserError, match=reason):
        speak(server["http"], text, **options)


def test_a_repository_is_not_written_over_another(tmp_path: Path, demo_folder: Path) -> None:
    (tmp_path / "tts").mkdir()
    with pytest.raises(UserError, match="is there already"):
        make_repository(tmp_path, model_paths(demo_folder, {}))
    assert os.listdir(tmp_path) == ["tts"]


def test_models_are_all_named_or_none(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no model files"):
        model_paths(tmp_path, {})
    with pytest.raises(UserError, match="--decoder, --postnet, --waveglow missing"):
        model_paths(tmp_path, {"encoder": tmp_path / "encoder.onnx"})


def test_what_is_no_repository_is_not_served(tmp_path: Path) -> None:
    result = run_here("serving/triton_server.py", "--server", tmp_path, tmp_path, cwd=tmp_path)
    assert_one_line_error(result, "no model repository; write one with serving/make_triton_repository.py")
