"""Clients of the load test: each speaks a text and yields the seconds of audio of each chunk as it comes.

The library's needs no packages of servers.
"""

import http.client
import json
import threading
import time
import urllib.parse
from abc import ABC, abstractmethod
from collections.abc import Iterator
from functools import partial
from typing import Any

from common.errors import UserError
from pipeline import SpeakSettings, Voice
from serving.triton import client as triton_client

TIMEOUT_SECONDS = 120.0  # of a connection, without anything coming
KEPT_SECONDS = 2.0  # that an idle connection is used again: servers close those that are idle for a while


class Client(ABC):
    """Something that speaks. Thread-safe."""

    @abstractmethod
    def speak(self, text: str, seed: int) -> Iterator[float]:
        """Yields the seconds of audio of each chunk when it has come. Raises whatever goes wrong."""

    def close(self) -> None:  # noqa: B027  most clients own nothing
        """Releases what the client owns."""


class LibraryClient(Client):
    """`Voice.stream` in this process.

    Args:
        voice: owned and closed by the client.
        limits: of `pipeline.scheduler.Scheduler`.
    """

    def __init__(self, voice: Voice, **limits: Any) -> None:
        self._voice = voice
        voice.scheduler(**limits).warm_up()

    def speak(self, text: str, seed: int) -> Iterator[float]:
        speech = self._voice.submit(text, SpeakSettings(seed=seed))
        try:
            for chunk in speech:
                yield chunk.seconds
        finally:
            speech.cancel()

    def close(self) -> None:
        self._voice.close()


class HttpClient(Client):
    """`POST /v1/audio/speech` as pcm. Each thread keeps its connection for the next request, as clients do.

    Raises UserError for another kind of address.
    """

    def __init__(self, url: str, api_key: str = "") -> None:
        parts = urllib.parse.urlsplit(url)
        kinds = {"http": http.client.HTTPConnection, "https": http.client.HTTPSConnection}
        if parts.scheme not in kinds:
            raise UserError(f"--url {url}: must begin with http:// or https://")
        self._open = partial(kinds[parts.scheme], parts.netloc, timeout=TIMEOUT_SECONDS)
        self._kept = threading.local()  # a connection, and until when
        self._path = parts.path.rstrip("/") + "/v1/audio/speech"
        self._headers = {"Content-Type": "application/json"}
        if api_key:
            self._headers["Authorization"] = f"Bearer {api_key}"

    def speak(self, text: str, seed: int) -> Iterator[float]:
        fields = {
            "model": "tts-1",
            "voice": "default",
            "input": text,
            "response_format": "pcm",
            "seed": seed,
            "sample_rate": 22050,
        }
        connection, until = vars(self._kept).pop("connection", (None, 0.0))
        if connection is None or time.monotonic() > until:
            connection = self._open()
        try:
            connection.request("POST", self._path, json.dumps(fields), self._headers)
            answer = connection.getresponse()
            if answer.status != http.client.OK:
                raise OSError(f"{answer.status}: {answer.read(500).decode(errors='replace')}")
            rate = int(answer.headers["X-Sample-Rate"])
            while data := answer.read1(1 << 20):
                yield len(data) / 2 / rate
        except BaseException:
            connection.close()
            raise
        self._kept.connection = connection, time.monotonic() + KEPT_SECONDS


class TritonClient(Client):
    """The model `tts_stream` of Triton Inference Server over gRPC, a connection for each request."""

    def __init__(self, address: str) -> None:
        self._address = address

    def speak(self, text: str, seed: int) -> Iterator[float]:
        for chunk in triton_client.stream(self._address, text, seed=seed):
            yield chunk.seconds
