"""Engines in processes of their own behind the HTTP server: the same audio, and what happens when one dies."""

import asyncio
import os
import re
import signal
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import httpx
import numpy as np
import pytest

from common.errors import Busy, EngineFailure
from pipeline import Audio, SpeakSettings, Voice
from pipeline.speech import CancelledError, Speech
from tests.engine_doubles import tiny_engines
from tests.http_servers import NEVER, ServerProcess, eventually, running_server

pytest.importorskip("uvicorn")
from serving.http import engine_process
from serving.http.engine_pool import Engine, EnginePool, RemoteSpeech
from serving.http.messages import EngineSettings

HOP = 256
STREAMS = 16


def test_an_engine_runs_ahead_of_a_slow_reader_by_a_bounded_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.policy.MAX_UNREAD_SECONDS", 1.0)
    monkeypatch.setattr(engine_process, "SENT_AHEAD_SECONDS", 0.5)
    bound = 1.0 + 0.5 + 2 * 100 * HOP / 22050  # with the pieces of text that are under way
    text = "One more sentence to say. " * 80
    settings = SpeakSettings(gate_threshold=NEVER, max_decoder_steps=100)

    async def samples_of(speech: RemoteSpeech) -> int:
        samples = 0
        while (chunk := await speech.next_chunk()) is not None:
            samples += len(chunk)
        return samples

    async def listen() -> None:
        voice = Voice(tiny_engines(decoder_no_early_stopping=True))
        engine = Engine(EngineSettings("engine 0", lambda: voice), None)
        engines = EnginePool([engine])
        await engines.start()
        try:
            before = (await engine.status()).audio_seconds
            speech = engines.submit(text, settings)
            while (await engine.status()).audio_seconds - before < 1.0:
                await asyncio.sleep(0.05)
            await asyncio.sleep(0.5)  # for more, if it came
            assert (await engine.status()).audio_seconds - before < bound
            samples = await samples_of(speech)
            assert samples / 22050 > 1.5 * bound
            assert samples == len(speech.results) * 100 * HOP
            assert engine.load == 0
            given_up = engines.submit(text, settings)
            given_up.cancel()
            with pytest.raises(CancelledError):
                await samples_of(given_up)
            while engine.load or (await engine.status()).active:
                await asyncio.sleep(0.01)
            before = (await engine.status()).audio_seconds
            unread = engines.submit("All of it is made.", settings)
            while (await engine.status()).audio_seconds - before < 100 * HOP / 22050:
                await asyncio.sleep(0.01)
            unread.cancel()
            while engine.load:
                await asyncio.sleep(0.01)
        finally:
            await engines.close()

    asyncio.run(asyncio.wait_for(listen(), 60))


@asynccontextmanager
async def blocked_pool(monkeypatch: pytest.MonkeyPatch, max_waiting: int) -> AsyncIterator[tuple[EnginePool, list]]:
    """A pool of one engine with two slots, which reads no text until the context ends; and the texts that it reads."""
    texts, go_on, submit = list[str](), threading.Event(), Voice.submit

    def slowly(voice: Voice, text: str, *options) -> Speech:
        texts.append(text)
        go_on.wait(30)
        return submit(voice, text, *options)

    voice = Voice(tiny_engines(decoder_no_early_stopping=True, max_decoder_steps=20))
    engines = EnginePool([Engine(EngineSettings("engine 0", lambda: voice, max_slots=2), None, max_waiting)])
    await engines.start()
    monkeypatch.setattr(Voice, "submit", slowly)
    try:
        yield engines, texts
    finally:
        go_on.set()
        await engines.close()


def test_a_full_server_refuses_before_it_reads_the_text(monkeypatch: pytest.MonkeyPatch) -> None:
    async def ask() -> None:
        async with blocked_pool(monkeypatch, max_waiting=1) as (engines, texts):
            for number in range(3):
                engines.submit(f"Text {number}.", SpeakSettings())
            with pytest.raises(Busy, match="3 requests wait or are under way"):
                engines.submit("One too many.", SpeakSettings())
            assert "One too many." not in texts

    asyncio.run(ask())


def test_a_request_that_is_given_up_before_its_text_is_read_is_never_read(monkeypatch: pytest.MonkeyPatch) -> None:
    async def ask() -> None:
        async with blocked_pool(monkeypatch, max_waiting=8) as (engines, texts):
            for number in range(engine_process.TEXT_READERS):
                engines.submit(f"Text {number}.", SpeakSettings())
            given_up = engines.submit("Never mind.", SpeakSettings())
            given_up.cancel()
            await engines.statuses()  # the engine has heard of it
        assert "Never mind." not in texts

    asyncio.run(ask())


@pytest.mark.slow
def test_an_engine_that_can_not_start_says_why(tmp_path: Path) -> None:
    engine = Engine(EngineSettings("engine 0", partial(Voice.load, tmp_path)), {})
    with pytest.raises(EngineFailure, match=f"^{re.escape(str(tmp_path))}: no model files"):
        asyncio.run(engine.start())


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with running_server(tmp_path_factory.mktemp("server"), "--engines", "2", "--max-queue", "8") as server:
        yield server


def engines_of(server: ServerProcess) -> list[int]:
    """The ids of its engines' processes."""
    pid = server.process.pid
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="utf-8").split()]


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").split()[2] != "Z"
    except OSError:
        return False


def heard(server: ServerProcess, seed: int, frames: int) -> int | None:
    """The samples of a request's answer; None where it fails."""
    try:
        answer = server.speak("word " * 40, seed=seed, frames=frames)
    except httpx.RemoteProtocolError:
        return None
    return len(answer.content) // 2 if answer.status_code == 200 else None


@pytest.mark.slow
def test_clients_at_once_each_hear_what_the_library_speaks(server: ServerProcess) -> None:
    assert server.status() == {"status": "ready", "waiting": 0, "active": 0, "engines": 2, "engines_ready": 2}
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda seed: server.speak(seed=seed, frames=60 + 10 * seed), range(8)))
    with Voice(tiny_engines()) as voice:
        for seed, answer in enumerate(answers):
            settings = {"seed": seed, "gate_threshold": NEVER, "max_decoder_steps": 60 + 10 * seed}
            chunks = voice.stream("Hello there.", **settings)
            expected = np.frombuffer(Audio.join(list(chunks)).pcm16(), "<i2").astype(np.int32)
            samples = np.frombuffer(answer.content, "<i2")
            assert len(samples) == len(expected)
            assert np.abs(samples - expected).max() <= 20  # rounding of other batches
    lines = httpx.get(f"{server.url}/metrics").text.splitlines()
    assert 'speech_state{engine="engine 1",speech_state="running"} 1.0' in lines


@pytest.mark.slow
def test_an_engine_that_is_killed_fails_its_own_requests_alone(server: ServerProcess) -> None:
    frames = 400
    with ThreadPoolExecutor(STREAMS) as pool:
        with server.fault("decoder_iter", "slow"):
            answers = [pool.submit(heard, server, seed, frames) for seed in range(STREAMS)]
            assert eventually(lambda: server.status()["active"] == STREAMS)
            os.kill(engines_of(server)[0], signal.SIGKILL)
            assert eventually(lambda: server.status()["status"] == "degraded", 10)
        assert server.speak(frames=20).status_code == 200
        assert server.status()["status"] == "degraded"  # it was spoken before the engine was there again
        lengths = [answer.result() for answer in answers]
    assert lengths.count(None) == STREAMS // 2
    assert lengths.count(frames * HOP) == STREAMS // 2
    assert eventually(lambda: server.status()["status"] == "ready", 60)
    assert len(engines_of(server)) == 2
    assert server.speak().status_code == 200


@pytest.mark.slow
def test_an_engine_that_does_not_answer_is_replaced(server: ServerProcess) -> None:
    stopped = engines_of(server)[0]
    os.kill(stopped, signal.SIGSTOP)
    try:
        assert eventually(lambda: server.status()["status"] == "degraded")
        assert eventually(lambda: stopped not in engines_of(server), 60)
    finally:
        if is_running(stopped):
            os.kill(stopped, signal.SIGCONT)
    assert eventually(lambda: server.status()["status"] == "ready", 60)


@pytest.mark.slow
def test_only_full_queues_of_all_engines_are_busy(server: ServerProcess) -> None:
    with server.fault("decoder_iter", "slow"), ThreadPoolExecutor(40) as pool:
        # Two engines with 8 slots and 8 that wait; the others are refused.
        answers = [pool.submit(server.speak, seed=seed, frames=150) for seed in range(40)]
        statuses = [answer.result().status_code for answer in answers]
    assert statuses.count(200) >= 32
    assert set(statuses) == {200, 503}


@pytest.mark.slow
def test_an_operators_stop_lets_requests_of_all_engines_end(tmp_path: Path) -> None:
    with running_server(tmp_path, "--engines", "2") as server, ThreadPoolExecutor(4) as pool:
        engines = engines_of(server)
        with server.fault("decoder_iter", "slow"):
            answers = [pool.submit(heard, server, seed, 200) for seed in range(4)]
            assert eventually(lambda: server.status()["active"] == 4)
            for pid in engines:  # as a supervisor of services and a terminal may do it
                os.kill(pid, signal.SIGTERM)
                os.kill(pid, signal.SIGINT)
            server.process.send_signal(signal.SIGINT)
            assert [answer.result() for answer in answers] == [200 * HOP] * 4
        assert server.process.wait(30) == 0
        assert not any(map(is_running, engines))
        assert "Traceback" not in server.log()


@pytest.mark.slow
def test_no_engine_outlives_a_server_that_is_killed(tmp_path: Path) -> None:
    with running_server(tmp_path, "--engines", "1") as server:
        engines = engines_of(server)
        assert all(map(is_running, engines))
        server.process.kill()
        server.process.wait()
        assert eventually(lambda: not any(map(is_running, engines)), 15)
