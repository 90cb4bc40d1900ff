"""What fails, at whatever stage, ends its own phrase; what can't work any more says so; nobody waits for ever."""

import errno
import fcntl
import io
import os
import queue
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
import torch
from torch import Tensor

from common.engine import Engine
from common.errors import Busy, Closed, EngineFailure, UserError
from common.files import REPOSITORY
from common.metadata import PARTS, Part
from common.phrases import Phrase
from pipeline import SpeakSettings, Voice, WorkSettings, encoders, stages
from pipeline.audio import Audio
from pipeline.encoders import FORMATS, AudioWriter, make_encoder
from pipeline.engine_set import EngineSet
from pipeline.scheduler import FAILED_ROUNDS
from pipeline.speak import Listener, OutputSettings, speak, stream
from pipeline.speech import CancelledError
from tacotron2.text.front_end import TextFrontEnd
from tests.engine_doubles import Watched, tiny_engines
from tests.scripts import run_script

SETTINGS = {"gate_threshold": 1.0, "max_decoder_steps": 20}


TEXTS = ("First one.", "The second one is longer. It has two pieces.", "The third one.")


def fail(*arguments: object) -> NoReturn:
    raise RuntimeError("no such kernel")


class Fault:
    """Raises a RuntimeError at one of its calls, by number from 0, and at no other."""

    def __init__(self, at: int) -> None:
        self.left = at

    def __call__(self, *arguments: object) -> None:
        self.left -= 1
        if self.left == -1:
            fail()

    def before(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def faulty(*arguments: Any, **named: Any) -> Any:
            self()
            return function(*arguments, **named)

        return faulty


def standing(engines: dict[Part, Engine], part: Part) -> tuple[threading.Event, threading.Event]:
    """Makes an engine stand in its first run: events for when it does, and to let it go."""
    entered, leave = threading.Event(), threading.Event()

    def stand(tensors: Mapping[str, Tensor]) -> None:
        entered.set()
        assert leave.wait(60)

    engines[part] = Watched(engines[part], stand)
    return entered, leave


@pytest.fixture
def faulty_voice(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Voice]:
    """A voice, and a program around it, in which one call of one stage raises."""
    stage, at, batch_size = request.param
    fault, engines = Fault(at), tiny_engines()
    if stage in PARTS:
        engines[stage] = Watched(engines[stage], fault)
    owner, name = {
        "reading": (TextFrontEnd, "read"),
        "leveling": (stages, "level"),
        "delivering": (encoders, "pcm16"),
        "writing": (AudioWriter, "append"),
        "finishing": (AudioWriter, "scaled"),
    }.get(stage, (None, ""))
    if owner is not None:
        monkeypatch.setattr(owner, name, fault.before(getattr(owner, name)))
    with Voice(engines, WorkSettings(batch_size=batch_size, max_symbols=30)) as voice:
        yield voice
        assert fault.left < 0, "the fault was never met"


@pytest.fixture(scope="module")
def undisturbed() -> list[np.ndarray]:
    with Voice(tiny_engines(), WorkSettings(batch_size=1, max_symbols=30)) as voice:
        return [voice.speak(text, **SETTINGS).samples for text in TEXTS]


FILE_STAGES = ("reading", *PARTS, "leveling", "writing", "finishing")
FILE_FAULTS = [(stage, at, 1) for stage in FILE_STAGES for at in (0, 1, 2)]


@pytest.mark.parametrize("faulty_voice", [*FILE_FAULTS, *((part, 0, 3) for part in PARTS)], indirect=True, ids=str)
def test_one_fault_costs_one_file_at_most(
    faulty_voice: Voice, undisturbed: list[np.ndarray], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    phrases = [Phrase(index, text) for index, text in enumerate(TEXTS)]
    summary = speak(faulty_voice, [phrases], SpeakSettings(**SETTINGS), OutputSettings(tmp_path, format="pcm16"))
    # A batch that fails is spoken again in halves, where a fault that comes once is met no more.
    assert len(summary.failed) == (1 if faulty_voice.engines.batch_size == 1 else 0)
    assert len(summary.failed) + len(summary.spoken) == len(TEXTS)
    for failed in summary.failed:
        assert isinstance(failed.error, EngineFailure)
        assert f"speaking line {failed.phrase.line}" in str(failed.error)
        assert "no such kernel" in caplog.text
    for spoken in summary.spoken:
        expected = undisturbed[spoken.phrase.index]
        written = np.frombuffer(spoken.file.read_bytes()[44:], "<i2") / 32767
        assert np.abs(written - expected / np.abs(expected).max()).max() < 1e-3  # half a step of 16 bits, and rounding


@pytest.mark.parametrize(
    "faulty_voice",
    [(stage, at, 1) for stage in ("reading", *PARTS, "delivering") for at in (0, 1, 2)],
    indirect=True,
    ids=str,
)
def test_one_fault_costs_one_streamed_line(
    faulty_voice: Voice, undisturbed: list[np.ndarray], caplog: pytest.LogCaptureFixture
) -> None:
    phrases = [Phrase(index, text) for index, text in enumerate(TEXTS)]
    out = io.BytesIO()
    encoder = make_encoder(FORMATS["pcm"], faulty_voice.sampling_rate)
    faulty = stream(faulty_voice, [phrases], SpeakSettings(**SETTINGS), out, encoder)
    (failed,) = [result for result in faulty if not result.cut]
    assert isinstance(failed.error, EngineFailure)
    assert f"speaking line {failed.phrase.line}" in str(failed.error)
    assert "no such kernel" in caplog.text
    written, lost = np.frombuffer(out.getvalue(), "<i2") / 32767, failed.phrase.index
    before, after = np.concatenate(undisturbed[:lost] or [[]]), np.concatenate(undisturbed[lost + 1 :] or [[]])
    assert np.abs(written[: len(before)] - before).max(initial=0) < 1e-3
    assert np.abs(written[len(written) - len(after) :] - after).max(initial=0) < 1e-3


@pytest.mark.parametrize(
    "faulty_voice", [("reading", 1, 1), ("postnet", 1, 1), ("leveling", 1, 1)], indirect=True, ids=str
)
def test_one_fault_costs_one_text(faulty_voice: Voice, undisturbed: list[np.ndarray]) -> None:
    (_, first), (_, second), (_, third) = faulty_voice.speak_many(TEXTS, **SETTINGS)
    assert isinstance(second, EngineFailure)
    for audio, expected in ((first, undisturbed[0]), (third, undisturbed[2])):
        assert isinstance(audio, Audio)
        assert np.abs(audio.samples - expected).max() < 1e-3


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_an_interruption_ends_the_run(tmp_path: Path, error: type[BaseException]) -> None:
    def interrupt(tensors: Mapping[str, Tensor]) -> None:
        raise error

    engines = tiny_engines()
    engines["postnet"] = Watched(engines["postnet"], interrupt)
    with Voice(engines) as voice, pytest.raises(error):
        speak(voice, [[Phrase(0, "Hello.")]], SpeakSettings(**SETTINGS), OutputSettings(tmp_path))


def test_a_file_that_can_not_be_written_costs_its_phrase_and_a_broken_disk_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    phrases = [Phrase(index, text) for index, text in enumerate(TEXTS)]
    (tmp_path / "audio_1_.wav").mkdir()
    with Voice(tiny_engines()) as voice:
        summary = speak(voice, [phrases], SpeakSettings(**SETTINGS), OutputSettings(tmp_path))
        assert [spoken.phrase.index for spoken in summary.spoken] == [0, 2]
        assert "line 2: " in str(summary.failed[0].error)
        assert "audio_1_.wav: Is a directory" in str(summary.failed[0].error)
        monkeypatch.setattr(AudioWriter, "append", full)
        with pytest.raises(OSError, match="No space left"):
            speak(voice, [phrases], SpeakSettings(**SETTINGS), OutputSettings(tmp_path))


def test_a_pipe_that_is_full_loses_nothing() -> None:
    read, write = os.pipe()
    fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, 4096)
    os.set_blocking(write, False)
    heard: list[bytes] = []

    def listen() -> None:
        time.sleep(0.2)  # until the pipe is full
        while block := os.read(read, 1000):
            heard.append(block)

    listener = threading.Thread(target=listen)
    listener.start()
    with Voice(tiny_engines()) as voice, open(write, "wb", buffering=0) as out:
        encoder = make_encoder(FORMATS["pcm"], voice.sampling_rate)
        (result,) = stream(voice, [[Phrase(0, TEXTS[0])]], SpeakSettings(**SETTINGS), out, encoder)
        assert (result.cut, result.error) == (True, None)
    listener.join(60)
    os.close(read)
    assert sum(map(len, heard)) == 20 * 256 * 2


def test_engines_that_keep_failing_are_given_up_with_a_reason() -> None:
    engines = tiny_engines()
    engines["waveglow"] = Watched(engines["waveglow"], fail)
    reasons: queue.SimpleQueue[str] = queue.SimpleQueue()
    with Voice(engines) as voice:
        scheduler = voice.scheduler(max_slots=1, on_failed=reasons.put)
        for _ in range(FAILED_ROUNDS):
            assert scheduler.status().state == "running"
            with pytest.raises(EngineFailure, match=r'speaking line 1 \("hello\."\) failed: RuntimeError; see the log'):
                list(voice.stream("Hello.", **SETTINGS))
        with pytest.raises(Closed, match="attempts to speak have failed"):
            list(voice.stream("Hello.", **SETTINGS))
        status = scheduler.status()
        assert (status.state, status.reason) == ("failed", reasons.get(timeout=60))
        assert reasons.empty()


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
    engines = tiny_engines()
    entered, leave = standing(engines, "encoder")
    with Voice(engines) as voice:
        speeches = [voice.submit("Hello.", **SETTINGS)]
        assert entered.wait(60)
        speeches.append(voice.submit("Hello.", **SETTINGS))
        monkeypatch.setattr(voice.engines, "running", lambda: 1 / 0)  # as a device that has failed for good
        leave.set()
        for speech in speeches:
            with pytest.raises(Closed, match="ZeroDivisionError; see the log"):
                list(speech)
        assert voice.scheduler().status().state == "failed"
        with pytest.raises(Closed, match="ZeroDivisionError"):
            voice.submit("Hello.", **SETTINGS)


@pytest.mark.parametrize(("errors", "kind", "state"), [(1, EngineFailure, "running"), (9, Closed, "failed")])
def test_a_device_error_that_stays_ends_everything_at_once(
    monkeypatch: pytest.MonkeyPatch, errors: int, kind: type[Exception], state: str
) -> None:
    """The device returns an error once, as for a kernel that failed, or at every call."""
    left = iter(range(errors))
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: fail() if next(left, None) is not None else None)

    def fail_on_a_gpu(tensors: Mapping[str, Tensor]) -> None:
        monkeypatch.setattr(voice.engines, "on_gpu", True)
        fail()

    engines = tiny_engines()
    engines["postnet"] = Watched(engines["postnet"], fail_on_a_gpu)
    with Voice(engines) as voice:
        with pytest.raises(kind):
            list(voice.stream("Hello.", **SETTINGS))
        assert voice.scheduler().status().state == state
        monkeypatch.setattr(voice.engines, "on_gpu", False)
        if kind is Closed:  # whole texts say so too, rather than fail one by one
            left = iter(range(errors))
            with pytest.raises(Closed, match="start the program again"):
                voice.speak("Hello.", **SETTINGS)


def test_nobody_waits_for_ever_for_an_engine_that_does_not_return(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.scheduler.STUCK_SECONDS", 0.2)
    monkeypatch.setattr("pipeline.speech.WATCH_SECONDS", 0.1)
    reasons: list[str] = []

    def on_failed(reason: str) -> None:
        reasons.append(reason)
        fail()  # which is nobody else's fault

    engines = tiny_engines()
    entered, leave = standing(engines, "waveglow")
    voice = Voice(engines)
    scheduler = voice.scheduler(on_failed=on_failed)
    speech = voice.submit("Hello.", **SETTINGS)
    assert entered.wait(60)
    with pytest.raises(Closed, match=r"has not returned for 0\.2 s"):
        list(speech)
    assert (scheduler.status().state, [scheduler.status().reason]) == ("failed", reasons)
    leave.set()
    voice.close()


def test_closing_waits_for_an_engine_no_longer_than_its_timeout() -> None:
    engines = tiny_engines()
    entered, leave = standing(engines, "encoder")
    voice = Voice(engines)
    speech = voice.submit("Hello.", **SETTINGS)
    assert entered.wait(60)
    voice.close(timeout=0.1)
    with pytest.raises(Closed, match="has not returned"):
        list(speech)
    leave.set()
    voice.close()


@pytest.mark.slow
def test_a_program_that_streams_and_forgets_to_close_ends_cleanly(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        "from pipeline import SpeakSettings, Voice\n"
        "from tests.engine_doubles import tiny_engines\n"
        "voice = Voice(tiny_engines())\n"
        "settings = SpeakSettings(gate_threshold=1.0, max_decoder_steps=600)\n"
        "speech = voice.submit('A long text. ' * 40, settings)\n"
        "print(speech.next_chunk(60).seconds > 0)\n"
    )
    done = run_script(str(program), env={**os.environ, "PYTHONPATH": str(REPOSITORY)})
    assert (done.stdout, done.stderr, done.returncode) == ("True\n", "", 0)


@pytest.mark.filterwarnings("ignore:.*fork")
def test_a_forked_process_is_refused_the_voice_at_once() -> None:
    with Voice(tiny_engines()) as voice:
        long = voice.submit("word " * 40, gate_threshold=1.0, max_decoder_steps=1600)
        child = os.fork()
        if child == 0:
            signal.alarm(20)  # ends a child that waits
            try:
                uses = [voice.speak, lambda text: next(voice.stream(text)), lambda text: next(voice.stream([text]))]
                for use in (*uses, lambda text: list(long)):
                    with pytest.raises(Closed, match="load the voice in each process"):
                        use("Hello.")
                voice.close()
                os._exit(0)
            finally:
                os._exit(1)
        assert os.waitpid(child, 0)[1] == 0
        long.cancel()


def test_draining_does_not_wait_for_a_reader_that_has_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.policy.MAX_UNREAD_SECONDS", 0.1)
    voice = Voice(tiny_engines())
    speech = voice.submit("A sentence. " * 50, **SETTINGS)
    speech.next_chunk(60)
    assert voice.scheduler().status().state == "running"
    began = time.monotonic()
    voice.close(drain=True)
    assert time.monotonic() - began < 50
    assert list(speech)


def test_requests_under_way_are_bounded_whoever_reads_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.policy.MAX_UNREAD_SECONDS", 0.1)
    settings = SpeakSettings(**SETTINGS)
    with Voice(tiny_engines()) as voice:
        scheduler = voice.scheduler(max_slots=2, max_waiting=3)
        accepted = []
        for _ in range(2 + 3):
            accepted.append(voice.submit("A sentence. " * 200, settings))
            accepted[-1].next_chunk(60)  # so that it is under way, and waits for its reader
        with pytest.raises(Busy, match="5 requests are under way"):
            voice.submit("Hello.", settings)
        accepted[0].cancel()
        with pytest.raises(CancelledError):
            list(accepted[0])
        assert list(voice.submit("Hello.", settings))
        assert scheduler.status().active <= 5


def test_a_request_without_sound_goes_before_one_that_has_some_unread() -> None:
    encoded: list[int] = []
    engines = tiny_engines()
    entered, leave = standing(engines, "encoder")
    engines["encoder"] = Watched(engines["encoder"], lambda tensors: encoded.append(tensors["sequences"].size(1)))
    with Voice(engines, WorkSettings(max_symbols=30)) as voice:
        voice.scheduler(max_slots=1)
        long = voice.submit("A sentence of thirty symbols. " * 6, **SETTINGS)
        assert entered.wait(60)
        short = voice.submit("Hi.", **SETTINGS)
        leave.set()
        assert list(short)
        assert list(long)
    assert encoded.index(len("hi.")) == 1
    assert len(encoded) == 7


def test_a_request_measures_no_bias_and_speaking_measures_it_once() -> None:
    measured: list[str] = []

    def measure() -> tuple[float, ...]:
        measured.append(threading.current_thread().name)
        return (0.0,) * 513

    with Voice(EngineSet(tiny_engines(), None, measure)) as voice:
        for strength in (0.1, 0.2):
            list(voice.stream("Hi.", denoise=strength, gate_threshold=1.0, max_decoder_steps=2))
    assert measured == ["speech"]


@pytest.mark.parametrize("callback", ["on_progress", "on_message"])
def test_what_a_callback_raises_reaches_its_caller_and_harms_nobody(tmp_path: Path, callback: str) -> None:
    def fail_at_once(*news: object) -> None:
        raise EngineFailure("the caller's own")

    settings, phrases = SpeakSettings(**SETTINGS), [[Phrase(0, TEXTS[0])]]
    with Voice(tiny_engines()) as voice:
        with pytest.raises(EngineFailure, match=r"^the caller's own$"):
            speak(voice, phrases, settings, OutputSettings(tmp_path), Listener(**{callback: fail_at_once}))
        with pytest.raises(EngineFailure, match=r"^the caller's own$"):
            voice.speak("Hello.", on_progress=fail_at_once, **SETTINGS)
        assert speak(voice, phrases, settings, OutputSettings(tmp_path)).failed == []


def closing_engines() -> tuple[dict[Part, Engine], threading.Event, list[bool]]:
    """Engines, an event for when WaveGlow is closed, and for each of its runs whether it was closed by the end."""
    engines, closed, after_closing = tiny_engines(), threading.Event(), []
    engines["waveglow"] = Watched(engines["waveglow"], after=lambda tensors: after_closing.append(closed.is_set()))
    engines["waveglow"].close = closed.set
    return engines, closed, after_closing


def test_a_callback_may_close_the_voice_but_not_speak_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.text_stream.WATCH_SECONDS", 0.1)
    engines, closed, after_closing = closing_engines()
    voice = Voice(engines, WorkSettings(batch_size=1))
    inner: list[Callable[[], object]] = [
        lambda: voice.speak("Inner."),
        lambda: next(voice.stream("Inner.")),
        lambda: list(voice.submit("Inner.")),
        lambda: next(voice.stream(["Inner."])),
    ]
    for speak_again in inner:
        with pytest.raises(UserError, match="a callback can't speak with the voice that calls it"):
            voice.speak("Hello.", on_progress=lambda done, symbols, again=speak_again: again(), **SETTINGS)
    with suppress(Closed):  # unless the last run of an engine was the text's last
        voice.speak("Hello.", on_progress=lambda done, symbols: voice.close(), **SETTINGS)
    assert closed.wait(60)
    assert not any(after_closing)
    with pytest.raises(Closed, match="the voice is closed"):
        voice.speak("Hello.", **SETTINGS)


def test_the_event_of_a_stream_may_close_the_voice() -> None:
    engines, closed, after_closing = closing_engines()
    voice = Voice(engines, WorkSettings(max_symbols=30))
    speech = voice.submit("A sentence. " * 500, on_event=voice.close, **SETTINGS)
    with pytest.raises(Closed):
        list(speech)
    assert closed.wait(60)
    assert after_closing
    assert not any(after_closing)


def test_windows_that_fail_together_are_refined_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU, where windows of several requests are computed together."""
    monkeypatch.setattr("pipeline.policy.next_windows", lambda ready, **_: [request for request, _ in ready])
    settings = {"gate_threshold": 1.0, "max_decoder_steps": 200}
    with Voice(tiny_engines()) as voice:
        expected = [voice.speak(text, **settings).samples for text in TEXTS[::2]]
        fault = Fault(0)
        monkeypatch.setattr("pipeline.streaming.at_speed", fault.before(stages.at_speed))
        with voice.engines.lock:  # until both wait
            speeches = [voice.submit(text, **settings) for text in TEXTS[::2]]
        found = [Audio.join(list(speech)).samples for speech in speeches]
    for whole, samples in zip(expected, found, strict=True):
        assert np.abs(samples - whole).max() < 1e-3
