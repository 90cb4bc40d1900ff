"""The load test: what it calls an underrun, its loops, and the clients that need no other server."""

import json
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import load as load_test
from benchmarks.clients import Client, HttpClient, LibraryClient
from benchmarks.load import Answer, Load, load_table, run_load, summarise
from common.cli import run
from tests.engine_doubles import tiny_engines


class TimedClient(Client):
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
    return Answer(chunks, error, ended=2.0)


def test_an_underrun_is_a_chunk_that_comes_after_the_listener_has_heard_all() -> None:
    assert answer((0.1, 1.0), (1.0, 1.0), (2.0, 1.0)).waits == []
    assert answer((0.1, 1.0), (1.3, 1.0)).waits == pytest.approx([0.2])
    # A listener who has waited once is behind: he plays the later chunks later.
    assert answer((0.0, 1.0), (1.5, 1.0), (2.4, 1.0), (3.6, 1.0)).waits == pytest.approx([0.5, 0.1])


def test_figures_leave_out_what_failed() -> None:
    answers = [answer((0.1, 1.0), (0.5, 2.0)), answer((0.3, 1.0)), answer((0.9, 9.0), error="OSError: cut")]
    result = summarise(answers, Load(streams=2), "http")
    assert result.percentile("first_chunk", 50) == pytest.approx(0.2)
    assert result.percentile("last_chunk", 50) == pytest.approx(0.4)
    assert result.rate("audio") == pytest.approx(2.0)
    assert result.errors == {"OSError: cut": 1}
    assert "| 2 streams | http | 3 | 200.0 / " in load_table([result])


def test_a_closed_loop_keeps_so_many_requests_under_way() -> None:
    client = TimedClient(((0.01, 1.0),))
    answers = run_load(client, ["Hello."], Load(streams=3, requests=12))
    assert len(answers) == 12
    assert client.most <= 3
    assert min(answer.chunks[0][0] for answer in answers) >= 0.01


def test_an_open_loop_waits_for_no_answer() -> None:
    client = TimedClient(((0.4, 1.0),))
    assert len(run_load(client, ["Hello."], Load(rate=200, requests=20))) == 20
    assert client.most > 3


def test_a_load_ends_in_time() -> None:
    answers = run_load(TimedClient(((0.01, 1.0),)), ["Hello."], Load(streams=1, requests=10_000, seconds=0.3))
    assert 0 < len(answers) < 40


@pytest.mark.parametrize("load", [Load(streams=5, requests=13), Load(rate=10.0, requests=2)])
def test_processes_share_a_load(load: Load) -> None:
    shares = [load.share(index, 3) for index in range(3)]
    assert sum(share.streams for share in shares) == load.streams
    assert sum(share.rate for share in shares) == pytest.approx(load.rate)
    assert sum(share.requests for share in shares) == load.requests
    assert len({share.seed for share in shares}) == 3


def test_sentences_have_the_length_that_was_asked_for() -> None:
    flags = ["--characters", "100"]
    texts = load_test.read_texts(load_test.make_parser().parse_args(flags))
    assert len(set(texts)) == load_test.SENTENCES
    assert all(80 < len(text) < 130 for text in texts)


def test_the_library_can_be_measured() -> None:
    from pipeline import Voice

    client = LibraryClient(Voice(tiny_engines()))
    try:
        answers = run_load(client, ["Hello.", "Good morning."], Load(streams=2, requests=4, seconds=60))
    finally:
        client.close()
    result = summarise(answers, Load(streams=2))
    assert result.errors == {}
    assert sum(result.values["audio"]) > 0


@pytest.mark.slow
def test_http_can_be_measured_from_several_processes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("uvicorn")
    from tests.http_servers import running_server

    with running_server(tmp_path, "--api-key", "secret") as server:
        flags = ["--client", "http", "--url", server.url, "--api-key", "secret", "--seconds", "60", "--warm-up", "1"]
        loads = ["--streams", "1", "2", "--rate", "20", "--requests", "4", "--processes", "2"]
        files = ["--json", str(tmp_path / "load.json"), "--plot", str(tmp_path / "load.png")]
        with pytest.raises(SystemExit) as ended:
            run(load_test.main, load_test.make_parser(), [*flags, *loads, *files])
        assert ended.value.code == 0
        assert "| 2 streams | http | 4 |" in capsys.readouterr().out
        results = json.loads((tmp_path / "load.json").read_text())
        assert [result["errors"] for result in results] == [{}] * 3
        assert results[1]["statistics"]["first_chunk"]["p95"] > 0
        assert (tmp_path / "load.png").read_bytes()[:4] == b"\x89PNG"
        [refused] = run_load(HttpClient(server.url), ["Hello."], Load(streams=1, requests=1))
        assert refused.error.startswith("OSError: 401")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--url", "http://127.0.0.1:9"], "the client doesn't speak: ConnectionRefusedError"),
        (["--url", "127.0.0.1:9"], "--url 127.0.0.1:9: must begin with http:// or https://"),
    ],
)
def test_servers_that_cannot_be_asked_are_named(capsys: pytest.CaptureFixture[str], flags, words: str) -> None:
    with pytest.raises(SystemExit) as ended:
        run(load_test.main, load_test.make_parser(), ["--client", "http", "--warm-up", "1", *flags])
    assert ended.value.code == 1
    assert words in capsys.readouterr().err


def test_the_librarys_client_needs_no_packages_of_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("uvicorn", "starlette", "pydantic", "prometheus_client", "av", "httpx")
    ours = ("serving", "benchmarks")
    for name in [name for name in sys.modules if name.partition(".")[0] in (*ours, *names)]:
        monkeypatch.delitem(sys.modules, name)
    for name in names:
        monkeypatch.setitem(sys.modules, name, None)
    import importlib

    assert importlib.import_module("benchmarks.load").LibraryClient
