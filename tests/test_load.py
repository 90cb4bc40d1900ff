"""The load test: what it calls an underrun, its loops, and the doors that need no other server."""

import json
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import load as load_test
from benchmarks.clients import Door, HttpDoor, LibraryDoor
from benchmarks.load import Answer, Load, Result, run_load, summarise, table
from common.cli import run
from tests.engine_doubles import tiny_engines


class TimedDoor(Door):
    """Speaks chunks of given lengths at given times."""

    def __init__(self, chunks: tuple[tuple[float, float], ...]) -> None:
        self.chunks = chunks
        self.most = 0  # requests at a time
        self._now = 0
        self._lock = threading.Lock()

    def speak(self, text: str, seed: int) -> Iterator[float]:
        with self._lock:
            self._now += 1
            self.most = max(self.most, self._now)
        try:
            begun = time.perf_counter()
            for comes, seconds in self.chunks:
                time.sleep(max(0.0, begun + comes - time.perf_counter()))
                yield seconds
        finally:
            with self._lock:
                self._now -= 1


def answer(*chunks: tuple[float, float], error: str = "") -> Answer:
    return Answer(chunks, error, due=0.0, ended=2.0)


def test_an_underrun_is_a_chunk_that_comes_after_the_listener_has_heard_all() -> None:
    assert answer((0.1, 1.0), (1.0, 1.0), (2.0, 1.0)).waits == []
    assert answer((0.1, 1.0), (1.3, 1.0)).waits == pytest.approx([0.2])
    # A listener who has waited once is behind: he plays the later chunks later.
    assert answer((0.0, 1.0), (1.5, 1.0), (2.4, 1.0), (3.6, 1.0)).waits == pytest.approx([0.5, 0.1])


def test_figures_leave_out_what_failed() -> None:
    answers = [answer((0.1, 1.0), (0.5, 2.0)), answer((0.3, 1.0)), answer((0.9, 9.0), error="OSError: cut")]
    result = summarise(answers, Load(streams=2))
    assert result.requests == 3
    assert result.first_chunk["p50"] == pytest.approx(0.2)
    assert result.last_chunk["p50"] == pytest.approx(0.4)
    assert result.audio_seconds == pytest.approx(4.0)
    assert result.audio_per_second == pytest.approx(2.0)
    assert result.errors == {"OSError: cut": 1}
    assert "| 2 streams | 3 | 200.0 / " in table([result])


def test_a_closed_loop_keeps_so_many_requests_under_way() -> None:
    door = TimedDoor(((0.01, 1.0),))
    result = run_load(door, ["Hello."], Load(streams=3, requests=12))
    assert result.requests == 12
    assert door.most <= 3
    assert result.first_chunk["p50"] >= 0.01


def test_an_open_loop_waits_for_no_answer() -> None:
    door = TimedDoor(((0.4, 1.0),))
    result = run_load(door, ["Hello."], Load(rate=200, requests=20))
    assert result.requests == 20
    assert door.most > 3


def test_a_load_ends_in_time() -> None:
    result = run_load(TimedDoor(((0.01, 1.0),)), ["Hello."], Load(streams=1, requests=10_000, seconds=0.3))
    assert 0 < result.requests < 40


def test_the_library_can_be_measured() -> None:
    from pipeline import Voice

    door = LibraryDoor(Voice(tiny_engines()))
    try:
        result = run_load(door, ["Hello.", "Good morning."], Load(streams=2, requests=4, seconds=60))
    finally:
        door.close()
    assert result.errors == {}
    assert result.audio_seconds > 0


@pytest.mark.slow
def test_http_can_be_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("uvicorn")
    from tests.http_servers import running_server

    with running_server(tmp_path, "--api-key", "secret") as server:
        flags = ["--door", "http", "--url", server.url, "--api-key", "secret", "--seconds", "60", "--warm-up", "1"]
        loads = ["--streams", "2", "--rate", "20", "--requests", "4"]
        files = ["--json", str(tmp_path / "load.json"), "--plot", str(tmp_path / "load.png")]
        with pytest.raises(SystemExit) as ended:
            run(load_test.main, load_test.make_parser(), [*flags, *loads, *files])
        assert ended.value.code == 0
        assert "| 2 streams | 4 |" in capsys.readouterr().out
        closed, opened = json.loads((tmp_path / "load.json").read_text())
        assert closed.keys() == Result.__dataclass_fields__.keys()
        assert closed["errors"] == opened["errors"] == {}
        assert (tmp_path / "load.png").read_bytes()[:4] == b"\x89PNG"
        refused = run_load(HttpDoor(server.url), ["Hello."], Load(streams=1, requests=1))
        assert next(iter(refused.errors)).startswith("OSError: 401")


def test_a_door_that_nobody_answers_is_told_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--door", "http", "--url", "http://127.0.0.1:9", "--warm-up", "1"]
    with pytest.raises(SystemExit) as ended:
        run(load_test.main, load_test.make_parser(), flags)
    assert ended.value.code == 1
    assert "the door doesn't speak: ConnectionRefusedError" in capsys.readouterr().err


def test_the_librarys_door_needs_no_packages_of_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("fastapi", "uvicorn", "starlette", "pydantic", "prometheus_client", "av", "httpx")
    for name in [name for name in sys.modules if name.partition(".")[0] in ("serving", *names)]:
        monkeypatch.delitem(sys.modules, name)
    for name in names:
        monkeypatch.setitem(sys.modules, name, None)
    import importlib

    assert importlib.import_module("benchmarks.load").LibraryDoor
