"""HTTP servers as processes of their own, for the tests that talk to them."""

import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import httpx

from common.files import REPOSITORY

STARTING_SECONDS = 120  # a busy machine loads PyTorch slowly
NEVER = 1 - 1e-6  # a gate threshold that no gate of the quick models passes: utterances end at their caps


class ServerProcess:
    """A running server on quick engines (see `faulty_http_server.py`)."""

    def __init__(self, process: subprocess.Popen, url: str, log: Path, faults: Path) -> None:
        self.process = process
        self.url = url
        self._log = log
        self._faults = faults

    def speak(self, text: str = "Hello there.", frames: int = 100, **fields) -> httpx.Response:
        """The answer to a request for speech, in whole."""
        return httpx.post(f"{self.url}/v1/audio/speech", json=request(text, frames, **fields), timeout=60)

    def status(self) -> dict:
        return httpx.get(f"{self.url}/health").json()

    def connect(self) -> socket.socket:
        """A connection of a client that sends what it likes."""
        host, port = self.url.removeprefix("http://").split(":")
        return socket.create_connection((host, int(port)), timeout=30)

    def is_listening(self) -> bool:
        try:
            self.connect().close()
        except OSError:
            return False
        return True

    def is_healthy(self) -> bool:
        try:
            return httpx.get(f"{self.url}/health").status_code == 200
        except httpx.TransportError:
            return False

    def log(self) -> str:
        return self._log.read_text()

    def fault(self, part: str, fault: str, after: int = 0) -> AbstractContextManager[None]:
        """Lets an engine fail for a while."""
        return faults_in(self._faults, part, fault, after)

    def stop(self, seconds: float = 30) -> int:
        """Ends the server as an operator does. Returns its exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(seconds)


@contextmanager
def faults_in(file: Path, part: str, fault: str, after: int = 0) -> Iterator[None]:
    """Lets an engine of a process that reads the file fail for a while (see `faulty_http_server.Faults`)."""
    temporary = file.with_suffix(".new")
    temporary.write_text(json.dumps({"part": part, "fault": fault, "after": after, "nonce": time.time()}))
    temporary.rename(file)
    try:
        yield
    finally:
        file.unlink()


def request(text: str = "Hello there.", frames: int = 100, **fields) -> dict:
    """The body of a request whose audio has a known length, at the voice's own rate where the format holds it."""
    rate = None if fields.get("response_format") == "opus" else 22050
    ours = {"gate_threshold": NEVER, "max_decoder_steps": frames, "sample_rate": rate}
    return {"model": "tts-1", "voice": "alloy", "input": text, "response_format": "pcm", **ours, **fields}


def events_of(text: str) -> list[dict]:
    """The server-sent events of an answer, each with its name."""
    found = []
    for part in text.split("\n\n")[:-1]:
        name, data = part.split("\n")
        found.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {found[-1]['type']}"
    return found


def metric_of(exposition: str, name: str) -> float:
    """A metric's value, over all its labels that the name leaves open."""
    lines = exposition.splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(f"speech_{name}"))


@contextmanager
def running_server(
    folder: Path, *flags: str, descriptors: int | None = None, frames: int = 2000
) -> Iterator[ServerProcess]:
    """Starts a server on a free port of the loopback interface; ends it by its id.

    Args:
        descriptors: that the system allows it.
        frames: of each text whose request doesn't say it.
    """
    faults, log = folder / "faults.json", folder / "server.log"
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", "FRAMES": str(frames)}
    limited = [] if descriptors is None else ["bash", "-c", f'ulimit -n {descriptors}; exec "$@"', "bash"]
    with log.open("w") as errors:
        process = subprocess.Popen(
            [*limited, sys.executable, "-m", "tests.faulty_http_server", str(faults), "--port", "0", *flags],
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=environment,
        )
    try:
        yield ServerProcess(process, _address(process, log), log, faults)
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        assert process.stdout is not None
        process.stdout.close()


def _address(process: subprocess.Popen, log: Path) -> str:
    assert process.stdout is not None
    ready, _, _ = select.select([process.stdout], [], [], STARTING_SECONDS)
    line = process.stdout.readline() if ready else ""
    found = re.fullmatch(r"Listening at (http://127\.0\.0\.1:\d+)\n", line)
    assert found, f"the server did not start: {line!r} {log.read_text(encoding='utf-8')}"
    return found[1]


def eventually(condition: Callable[[], bool], seconds: float = 20) -> bool:
    """Whether a condition comes true in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True
