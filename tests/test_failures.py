"""What fails, at whatever stage, ends its own phrase; what can't work any more says so; nobody waits for ever."""

import threading
import time
from collections.abc import Mapping

import pytest
from torch import Tensor

from common.errors import Closed, EngineFailure
from pipeline import SpeakSettings, Voice
from pipeline.scheduler import FAILED_ROUNDS
from tests.engine_doubles import Watched, tiny_engines

SETTINGS = {"gate_threshold": 1.0, "max_decoder_steps": 20}


def fail(tensors: Mapping[str, Tensor]) -> None:
    raise RuntimeError("no such kernel")


def test_engines_that_keep_failing_are_given_up_with_a_reason() -> None:
    engines = tiny_engines()
    engines["waveglow"] = Watched(engines["waveglow"], fail)
    reasons: list[str] = []
    with Voice(engines) as voice:
        scheduler = voice.scheduler(max_slots=1, on_failed=reasons.append)
        for _ in range(FAILED_ROUNDS):
            assert scheduler.status().state == "running"
            with pytest.raises(EngineFailure, match=r'speaking line 1 \("hello\."\) failed: RuntimeError; see the log'):
                list(voice.stream("Hello.", **SETTINGS))
        with pytest.raises(Closed, match="attempts to speak have failed"):
            list(voice.stream("Hello.", **SETTINGS))
        status = scheduler.status()
        assert (status.state, [status.reason]) == ("failed", reasons)


def test_failures_with_speech_between_them_do_not_add_up() -> None:
    broken = threading.Event()
    engines = tiny_engines()
    engines["encoder"] = Watched(engines["encoder"], lambda tensors: fail(tensors) if broken.is_set() else None)
    with Voice(engines) as voice:
        for _ in range(FAILED_ROUNDS):
            broken.set()
            with pytest.raises(EngineFailure):
                list(voice.stream("Hello.", **SETTINGS))
            broken.clear()
            assert list(voice.stream("Hello.", **SETTINGS))


def test_an_error_outside_of_a_round_ends_every_request(monkeypatch: pytest.MonkeyPatch) -> None:
    entered, leave = threading.Event(), threading.Event()

    def stand(tensors: Mapping[str, Tensor]) -> None:
        entered.set()
        assert leave.wait(60)

    engines = tiny_engines()
    engines["encoder"] = Watched(engines["encoder"], stand)
    with Voice(engines) as voice:
        speeches = [voice.submit("Hello.", SpeakSettings(**SETTINGS))]
        assert entered.wait(60)
        speeches.append(voice.submit("Hello.", SpeakSettings(**SETTINGS)))
        monkeypatch.setattr(voice.engines, "running", lambda: 1 / 0)  # as a device that has failed for good
        leave.set()
        for speech in speeches:
            with pytest.raises(Closed, match="ZeroDivisionError; see the log"):
                list(speech)
        assert voice.scheduler().status().state == "failed"
        with pytest.raises(Closed, match="ZeroDivisionError"):
            voice.submit("Hello.", SpeakSettings(**SETTINGS))


def test_closing_waits_for_an_engine_no_longer_than_it_is_told() -> None:
    entered, leave = threading.Event(), threading.Event()

    def stand(tensors: Mapping[str, Tensor]) -> None:
        entered.set()
        assert leave.wait(60)

    engines = tiny_engines()
    engines["encoder"] = Watched(engines["encoder"], stand)
    voice = Voice(engines)
    speech = voice.submit("Hello.", SpeakSettings(**SETTINGS))
    assert entered.wait(60)
    voice.close(timeout=0.1)
    with pytest.raises(Closed, match="has not returned"):
        list(speech)
    leave.set()
    voice.close()


def test_draining_does_not_wait_for_a_reader_that_has_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.scheduler.MAX_UNREAD_SECONDS", 0.1)
    voice = Voice(tiny_engines())
    speech = voice.submit("A sentence. " * 50, SpeakSettings(**SETTINGS))
    speech.next_chunk(60)
    assert voice.scheduler().status().state == "running"
    began = time.monotonic()
    voice.close(drain=True)
    assert time.monotonic() - began < 50
    assert list(speech)
