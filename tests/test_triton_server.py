"""The real Triton Inference Server speaks, whole and streamed, to its own clients."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from common.errors import UserError
from common.files import REPOSITORY
from common.metadata import PARTS, Part
from exports.voice import export_voice
from pipeline import Audio, Voice
from serving.triton.repository import PLAIN_INSTANCES, make_repository
from serving.triton.server import server_command
from tests.http_servers import eventually, faults_in
from tests.models import TINY_TACOTRON2, tiny_tacotron2
from tests.scripts import assert_one_line_error, run_here

grpc = pytest.importorskip("tritonclient.grpc")
http = pytest.importorskip("tritonclient.http")
from serving.triton.client import speak, stream

SERVER = Path(os.environ.get("TRITON_SERVER", Path(sys.prefix) / "triton-server"))
MAX_CHARACTERS, MAX_WAITING = 300, 8
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


def onnx_files(folder: Path) -> dict[Part, Path]:
    return {part: folder / f"{part}.onnx" for part in PARTS}


@pytest.fixture(scope="module")
def lasting_folder(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoints: dict[str, Path]) -> Path:
    """The tiny models. Their untrained gate would fire at once: here a piece ends after 150 frames."""
    folder = tmp_path_factory.mktemp("voice")
    config = replace(TINY_TACOTRON2, decoder_no_early_stopping=True, max_decoder_steps=150)
    torch.save({"state_dict": tiny_tacotron2(config).state_dict(), "config": vars(config)}, folder / "tacotron2.pt")
    export_voice(folder, tacotron2=folder / "tacotron2.pt", waveglow=tiny_checkpoints["waveglow"])
    return folder


@pytest.fixture(scope="module")
def server(lasting_folder: Path) -> Iterator[dict[str, str]]:
    """A running server's addresses by protocol. The repository is moved after it was written."""
    with tempfile.TemporaryDirectory(prefix="triton.") as folder:
        written, moved = Path(folder, "written"), Path(folder, "moved")
        make_repository(written, onnx_files(lasting_folder), MAX_CHARACTERS, instances=2)
        shutil.move(written, moved)
        with running(moved) as (process, addresses):
            yield addresses
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0


@pytest.fixture(scope="module")
def faulty(tiny_folder: Path) -> Iterator[tuple[subprocess.Popen, dict[str, str], Path]]:
    """A server with engines that fail as a file says: its process, its addresses, that file."""
    with tempfile.TemporaryDirectory(prefix="triton.") as folder:
        repository, faults = Path(folder, "repository"), Path(folder, "faults.json")
        make_repository(repository, onnx_files(tiny_folder), max_waiting=MAX_WAITING)
        model = repository / "tts_stream" / "1" / "model.py"
        model.rename(model.with_name("served_model.py"))
        shutil.copy(REPOSITORY / "tests" / "faulty_triton_model.py", model)
        environment = {"FAULTS": str(faults), "REPOSITORY": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
        # Models that never end, as a failed one does, have these seconds; 30 without the flag.
        with running(repository, "--exit-timeout-secs=5", **environment) as started:
            yield (*started, faults)


@contextmanager
def running(repository: Path, *flags: str, **environment: str) -> Iterator[tuple[subprocess.Popen, dict[str, str]]]:
    """A server's process and its addresses by protocol."""
    with tempfile.TemporaryDirectory(prefix="triton.") as folder:
        ports = dict(zip(("http", "grpc", "metrics"), free_ports(3), strict=True))
        command, variables = server_command(SERVER, repository, "127.0.0.1", ports)
        log = Path(folder, "log")
        with open(log, "w", encoding="utf-8") as output:
            environment = variables | environment
            process = subprocess.Popen([*command, *flags], env=environment, stdout=output, stderr=subprocess.STDOUT)
        try:
            url = f"http://127.0.0.1:{ports['http']}/v2/health/ready"
            assert eventually(lambda: is_ready(url) or process.poll() is not None, 240)
            assert process.poll() is None, log.read_text(encoding="utf-8")[-3000:]
            yield process, {name: f"127.0.0.1:{port}" for name, port in ports.items()}
        finally:
            process.kill()
            process.wait()


def is_ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5):
            return True
    except OSError:
        return False


@pytest.fixture(scope="module")
def voice(lasting_folder: Path) -> Iterator[Voice]:
    with Voice.load(lasting_folder) as voice:
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
    options = {"speed": 1.3, "output_rate": 16000}
    whole = speak(server["http"], "Good morning!", **options)
    assert whole.sampling_rate == 16000
    assert_same(whole, Audio.join(list(stream(server["grpc"], "Good morning!", **options))))


def test_settings_of_every_type_reach_the_voice(server: dict[str, str], voice: Voice) -> None:
    given = {"seed": 3, "denoise": 0.1, "max_decoder_steps": 40, "final_period": False, "text_normalizer": "none"}
    assert_same(speak(server["http"], "In 1984", **given), voice.speak("In 1984", **given))
    with pytest.raises(UserError, match="no input TEMPERATURE; it has TEXT, SEED"):
        speak(server["http"], "Hi.", temperature=1.0)


def test_words_come_with_the_audio(server: dict[str, str], voice: Voice) -> None:
    given = {"ssml": True, "timestamps": True}
    text = "<speak>It rose <break time='200ms'/> by 20%.</speak>"
    expected = [(word.text, word.span) for word in voice.speak(text, **given).words]
    assert len(expected) > 1
    for audio in (speak(server["http"], text, **given), Audio.join(list(stream(server["grpc"], text, **given)))):
        assert [(word.text, word.span) for word in audio.words] == expected
        assert 0 < audio.words[0].start < audio.words[-1].end < audio.seconds


def test_many_requests_one_after_another_and_eight_at_once_of_two_instances(server: dict[str, str]) -> None:
    with grpc.InferenceServerClient(server["grpc"]) as client:
        (group,) = client.get_model_config("tts_stream").config.instance_group
    assert group.count == 2
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
        ("Hello.", {"speed": float("nan")}, "speed nan: must be between"),
        ("Hello.", {"seed": -1}, "seed -1: must be between"),
    ],
)
def test_what_cannot_be_spoken_is_refused_with_a_reason(
    server: dict[str, str], text: str, options: dict, reason: str
) -> None:
    with pytest.raises(UserError, match=reason):
        list(stream(server["grpc"], text, **options))
    with pytest.raises(UserError, match=rf"\[400\] .*{reason}"):
        speak(server["http"], text, **options)


@pytest.mark.parametrize("protocol", [grpc, http])
@pytest.mark.parametrize(
    ("name", "value", "reason"), [("TEXT", b"\xff", "TEXT is not UTF-8"), ("SEED", 1, "TEXT is missing")]
)
def test_what_is_no_text_has_the_code_of_bad_input(
    server: dict[str, str], protocol: Any, name: str, value: bytes | int, reason: str
) -> None:
    tensor = protocol.InferInput(name, [1], "INT64" if name == "SEED" else "BYTES")
    tensor.set_data_from_numpy(np.array([value], np.int64 if name == "SEED" else np.object_))
    with (
        protocol.InferenceServerClient(server[protocol.__name__.rpartition(".")[2]]) as client,
        pytest.raises(protocol.InferenceServerException) as found,
    ):
        client.infer("tts", [tensor])
    assert found.value.status() in ("StatusCode.INVALID_ARGUMENT", "400")
    assert found.value.message().count(reason) == 1


@pytest.mark.parametrize("part", ["encoder", "decoder_iter", "postnet", "waveglow"])
def test_what_fails_fails_its_own_request_alone(faulty, part: str) -> None:
    _, addresses, faults = faulty
    for ask in (lambda: list(stream(addresses["grpc"], "Hi.")), lambda: speak(addresses["http"], "Hi.")):
        with faults_in(faults, part, "error"), pytest.raises(UserError, match="failed: RuntimeError; see the log"):
            ask()
        assert ask()


def test_a_whole_answer_that_is_cancelled_is_not_spoken_to_its_end(faulty) -> None:
    _, addresses, faults = faulty
    with faults_in(faults, "decoder_iter", "slow"), grpc.InferenceServerClient(addresses["grpc"]) as client:
        # As many as there are instances. To its end one would take minutes.
        text = grpc.InferInput("TEXT", [1], "BYTES")
        text.set_data_from_numpy(
            np.array([b"Some words of a long text that is not heard to its end. " * 60], np.object_)
        )
        calls = [client.async_infer("tts", [text], callback=lambda result, error: None) for _ in range(PLAIN_INSTANCES)]
        time.sleep(1)
        for call in calls:
            call.cancel()
        began = time.monotonic()
        assert speak(addresses["http"], "Hi.").seconds > 0
        assert time.monotonic() - began < 60


def test_more_requests_than_may_wait_are_refused(faulty) -> None:
    _, addresses, faults = faulty

    def ask(_: int) -> str:
        try:
            speak(addresses["http"], "Hi there.")
        except UserError as error:
            return str(error)
        return ""

    with faults_in(faults, "decoder_iter", "slow"), ThreadPoolExecutor(40) as pool:
        answers = list(pool.map(ask, range(40)))
    refused = [answer for answer in answers if answer]
    assert 0 < len(refused) <= 40 - PLAIN_INSTANCES
    assert all("[503]" in answer for answer in refused)
    assert speak(addresses["http"], "Hi.").seconds > 0


def test_a_voice_that_can_not_speak_any_more_ends_the_server(faulty) -> None:
    process, addresses, faults = faulty
    http_url = f"http://{addresses['http']}/v2/health/ready"
    with faults_in(faults, "encoder", "error"):
        while is_ready(http_url):
            with pytest.raises(UserError):
                list(stream(addresses["grpc"], "Hi."))
        assert process.wait(90) != 0


def test_a_repository_is_not_written_over_another(tmp_path: Path, tiny_folder: Path) -> None:
    (tmp_path / "tts").mkdir()
    with pytest.raises(UserError, match="is there already"):
        make_repository(tmp_path, onnx_files(tiny_folder))
    assert os.listdir(tmp_path) == ["tts"]


def test_models_are_all_named_or_none(tmp_path: Path) -> None:
    flags = ("scripts/make_triton_repository.py", "-o", tmp_path / "repository", "--models", tmp_path)
    assert_one_line_error(run_here(*flags), "no model files")
    assert_one_line_error(run_here(*flags, "--encoder", "encoder.onnx"), "--decoder, --postnet, --waveglow missing")


def test_what_is_no_repository_is_not_served(tmp_path: Path) -> None:
    result = run_here("scripts/triton_server.py", "--server", tmp_path, tmp_path, cwd=tmp_path)
    assert_one_line_error(result, "no model repository; write one with scripts/make_triton_repository.py")


def test_a_folder_with_spaces_is_refused(tmp_path: Path) -> None:
    spaced = tmp_path / "my models"
    (spaced / "tts_stream").mkdir(parents=True)
    (spaced / "tts_stream" / "config.pbtxt").touch()
    result = run_here("scripts/triton_server.py", "--server", SERVER, spaced, cwd=tmp_path)
    assert_one_line_error(result, "my models: the server starts no models from a folder with spaces")


def test_no_empty_folder_is_searched_for_libraries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LD_LIBRARY_PATH", raising=False)
    _, environment = server_command(SERVER, tmp_path, "127.0.0.1", {})
    assert all(environment["LD_LIBRARY_PATH"].split(os.pathsep))


@pytest.mark.parametrize("flags", [[], ["--whole"]])
def test_a_client_without_a_server_says_so_in_a_line(tmp_path: Path, flags: list[str]) -> None:
    (port,) = free_ports(1)
    address = f"127.0.0.1:{port}"
    result = run_here("scripts/triton_client.py", "--text", "Hi.", "--url", address, *flags, cwd=tmp_path)
    assert_one_line_error(result, address, "onnect")
