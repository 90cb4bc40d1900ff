"""Other people's clients against the server, with nothing changed but the address: they play what the voice says.

The clients live in an environment of their own, since they want other versions than the tests' packages. It is made
once, in the user's cache.
"""

import asyncio
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline import Voice
from tests import client_programs
from tests.client_programs import KEY, PROGRAMS, TEXT
from tests.engine_doubles import tiny_engines
from tests.http_servers import ServerProcess, running_server

pytest.importorskip("uvicorn")
openai = pytest.importorskip("openai")

pytestmark = pytest.mark.slow

PACKAGES = (
    *("pipecat-ai[openai,deepgram]>=1.14,<2", "livekit-plugins-openai>=1.8,<2", "livekit-plugins-deepgram>=1.8,<2"),
    "litellm>=1.80,<2",
)
FRAMES = 1600  # at most; so codecs' padding is little beside the speech
NODE_PROGRAM = """
import OpenAI from "openai";
const client = new OpenAI({ baseURL: process.argv[2] + "/v1", apiKey: process.argv[3] });
const ask = { model: "tts-1", voice: "coral", input: process.argv[4], response_format: "pcm" };
const answer = await client.audio.speech.create(ask);
let bytes = 0;
for await (const chunk of answer.body) bytes += chunk.length;
console.log(JSON.stringify({ rate: 24000, samples: bytes / 2 }));
"""


def cached(name: str, *wanted: str) -> Path:
    """A folder in the user's cache for what was installed for the tests; not there before."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "tacotron2-waveglow-tests")
    cache.mkdir(parents=True, exist_ok=True)
    return cache / f"{name}-{hashlib.sha256(repr((sys.version_info[:2], wanted)).encode()).hexdigest()[:12]}"


def install(folder: Path, *commands: list[str]) -> None:
    """Runs commands that fill a folder, in whole or not at all; skips the test where they can't."""
    for command in commands:
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
            failure = done.stderr.strip()[-200:] if done.returncode else ""
        except (OSError, subprocess.TimeoutExpired) as error:
            failure = str(error)
        if failure:
            shutil.rmtree(folder, ignore_errors=True)
            pytest.skip(f"the clients can't be installed: {' '.join(command[:3])}: {failure}")


@pytest.fixture(scope="module")
def clients() -> Path:
    """The Python in which the clients are installed."""
    folder = cached("clients", *PACKAGES)
    python = folder / "bin/python"
    if not (folder / "whole").exists():
        create = [sys.executable, "-m", "venv", "--clear", str(folder)]
        install(folder, create, [str(python), "-m", "pip", "install", "-q", *PACKAGES])
        (folder / "whole").touch()
    return python


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with running_server(tmp_path_factory.mktemp("server"), "--api-key", KEY, frames=FRAMES) as server:
        yield server


@pytest.fixture(scope="module")
def seconds() -> float:
    """How long the library speaks."""
    with Voice(tiny_engines(decoder_no_early_stopping=True, max_decoder_steps=FRAMES)) as voice:
        return voice.speak(TEXT).seconds


@pytest.mark.parametrize("name", PROGRAMS)
def test_they_play_at_the_right_speed(clients: Path, server: ServerProcess, seconds: float, name: str) -> None:
    command = [str(clients), client_programs.__file__, name, server.url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    played = json.loads(done.stdout.splitlines()[-1])
    assert played["samples"] / played["rate"] == pytest.approx(seconds, rel=0.01)


def test_openai_for_node(server: ServerProcess, seconds: float) -> None:
    node, npm = shutil.which("node"), shutil.which("npm")
    if not (node and npm):
        pytest.skip("needs Node.js")
    folder = cached("node", "openai")
    if not (folder / "node_modules/openai").exists():
        install(folder, [npm, "install", "--prefix", str(folder), "--no-audit", "--no-fund", "openai@6"])
    program = folder / "client.mjs"
    program.write_text(NODE_PROGRAM)
    done = subprocess.run(
        [node, str(program), server.url, KEY, TEXT], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    played = json.loads(done.stdout)
    assert played["samples"] / played["rate"] == pytest.approx(seconds, rel=0.01)


def test_openai_for_python(server: ServerProcess, seconds: float) -> None:
    player = pytest.importorskip("openai.helpers.local_audio_player")
    options = {"base_url": f"{server.url}/v1", "api_key": KEY}
    ask = {"input": TEXT, "model": "gpt-4o-mini-tts-2025-12-15", "voice": "marin", "response_format": "pcm"}
    with openai.OpenAI(**options) as client:
        raw = client.audio.speech.with_raw_response.create(**ask)
        assert raw.headers["x-sample-rate"] == str(player.SAMPLE_RATE)
        answers = [client.audio.speech.create(**ask).content, raw.content]
        with client.audio.speech.with_streaming_response.create(**ask) as stream:
            answers.append(b"".join(stream.iter_bytes(1024)))

    async def ask_asynchronously() -> bytes:
        async with (
            openai.AsyncOpenAI(**options) as client,
            client.audio.speech.with_streaming_response.create(**ask) as stream,
        ):
            return b"".join([part async for part in stream.iter_bytes(1024)])

    answers.append(asyncio.run(ask_asynchronously()))
    for answer in answers:
        assert len(answer) / 2 / player.SAMPLE_RATE == pytest.approx(seconds, rel=0.01)
