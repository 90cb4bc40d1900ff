"""Workers, drivers and nodes are killed at every stage of a corpus, and its disk is full: the bytes stay the same.

A process that is to be killed ends itself at its stage, or waits there for its end: nothing here depends on speed.
"""

import errno
import os
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import pytest

from common.errors import UserError
from common.files import REPOSITORY
from pipeline import Voice
from serving.corpora.job import VoiceSource
from serving.corpora.pool import ProcessPool
from serving.corpora.ray_pool import RayPool
from tests.corpora import MOST_STEPS, STAGES, WORK, FaultySource, export_quick_voice, make, tree, write_lines
from tests.http_servers import eventually
from tests.scripts import assert_one_line_error, run_here

pytestmark = pytest.mark.slow  # workers are processes, which import PyTorch
LINES = 64  # 8 shards


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> VoiceSource:
    return VoiceSource(export_quick_voice(tmp_path_factory.mktemp("voice")), threads=1, work=WORK)


@pytest.fixture(scope="module")
def lines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_lines(tmp_path_factory.mktemp("lines") / "lines.txt", LINES)


@pytest.fixture(scope="module")
def plain(source: VoiceSource, lines: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The corpus of an undisturbed run, by one worker in this process."""
    folder = tmp_path_factory.mktemp("plain")
    make(source, lines, folder)
    return folder


def flags(voice: VoiceSource, lines: Path, folder: Path, *more: object) -> list[str]:
    words = ["-i", lines, "-o", folder, "--models", voice.folder, "--threads", 1, "--max-decoder-steps", MOST_STEPS]
    return [str(word) for word in (*words, "--batch-size", 4, "--max-symbols", 128, "--shard-lines", 8, *more)]


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", **more}


def living() -> dict[int, int]:
    """The parent of each process that has not ended."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with suppress(OSError):  # it has just ended
                state, parent = (entry / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()[:2]
                found |= {int(entry.name): int(parent)} if state != "Z" else {}
    return found


def descendants(process: int) -> set[int]:
    """The living processes that a process has started, and those that they have."""
    parents, found, more = living(), set(), {process}
    while more := {child for child, parent in parents.items() if parent in more} - found:
        found |= more
    return found


def end(processes: set[int]) -> bool:
    return eventually(lambda: not processes & living().keys(), 60)


@pytest.mark.parametrize("kind", ["processes", "processes with others beside them", "actors with others beside them"])
def test_workers_killed_at_every_stage_are_started_anew_and_leave_no_trace(
    source: VoiceSource, lines: Path, plain: Path, tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "marks").mkdir()
    beside = kind != "processes"
    faulty = FaultySource(**vars(replace(source, beside=beside)), stages=tuple(STAGES), marks=tmp_path / "marks")
    forkserver.ensure_running()  # which ends with the tests, as Python's resource tracker does
    before = descendants(os.getpid())
    if kind.startswith("actors"):
        pool: Any = RayPool(1, False, 1)
    else:
        pool = ProcessPool(1 if beside else 2, on_gpus=False)
    make(faulty, lines, tmp_path / "corpus", pool)
    assert {path.name for path in (tmp_path / "marks").iterdir()} == STAGES.keys()
    assert "A worker died" in caplog.text
    assert tree(tmp_path / "corpus") == tree(plain)
    assert not list((tmp_path / "corpus").rglob("*.part"))
    assert end(descendants(os.getpid()) - before)


class GpuTeller(VoiceSource):
    """No voice: it says which GPUs its worker sees."""

    def open(self) -> Voice:
        raise UserError(os.environ.get("CUDA_VISIBLE_DEVICES", "all"))


@pytest.mark.parametrize("visible", [["4", "2"], None])
def test_each_worker_has_its_own_gpu_whatever_the_first_process_had(
    visible: list[str] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    forkserver.ensure_running()  # processes begin with its environment
    monkeypatch.setattr("serving.corpora.pool.count_gpus", lambda: 2)
    if visible:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", ",".join(visible))
    else:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    pool = ProcessPool(3, on_gpus=True)
    first, second = visible or ["0", "1"]
    workers = [pool.start(GpuTeller(None)) for _ in range(3)]
    for worker, gpu in reversed([*zip(workers, (first, second, first), strict=True)]):
        with pytest.raises(UserError, match=f"^{gpu}$"):
            worker("open")
    pool.close()


@pytest.mark.parametrize("options", [{}, {"format": "webdataset", "audio": "flac", "sampling_rate": 16000}])
def test_the_bytes_of_workers_with_processes_beside_them_are_those_of_one_that_does_all_itself(
    source: VoiceSource, tmp_path: Path, options: dict[str, Any]
) -> None:
    lines = write_lines(tmp_path / "lines.txt", 40)
    with open(lines, "a", encoding="utf-8") as file:
        file.write("A long one, " * 400 + "\n\n...\nThe last.\n")
    for name, beside in (("itself", False), ("beside", True)):
        make(replace(source, beside=beside), lines, tmp_path / name, shard_lines=20, **options)
    assert tree(tmp_path / "beside") == tree(tmp_path / "itself")


DRIVER = """
import json, sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from common.cli import run
from scripts import corpus
from tests.corpora import FaultySource

marks, hold_at, *words = sys.argv[1:]
real = corpus._source
corpus._source = lambda *given: FaultySource(**vars(real(*given)), marks=Path(marks), hold_at=int(hold_at))
run(corpus.main, corpus.make_parser(), words)
"""


def start_driver(marks: Path, hold_at: int, *words: str) -> subprocess.Popen:
    """`scripts/corpus.py` in the C locale, with workers that wait before they write the shards from `hold_at` on."""
    marks.mkdir(exist_ok=True)
    plain_c = environment(LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")
    command = [sys.executable, "-c", DRIVER, str(marks), str(hold_at), *words]
    return subprocess.Popen(command, env=plain_c, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_driver_that_is_stopped_takes_its_workers_along_and_the_next_does_the_rest(
    source: VoiceSource, lines: Path, plain: Path, tmp_path: Path
) -> None:
    words = flags(source, lines, tmp_path / "corpus", "--no-ray", "--workers", "2")
    for hold_at, by in ((1, signal.SIGINT), (5, signal.SIGKILL)):
        marks = tmp_path / by.name
        driver = start_driver(marks, hold_at, *words)
        assert eventually(lambda marks=marks: any(marks.glob("waits *")), 120)
        processes = descendants(driver.pid)
        driver.send_signal(by)
        _, errors = driver.communicate(timeout=60)
        assert end(processes)
        if by == signal.SIGINT:
            assert driver.returncode == 130
            assert errors.splitlines()[-1].endswith("interrupted; every file that was finished is whole")
            assert "died" not in errors
    assert not (tmp_path / "corpus" / "manifest.jsonl").exists()
    result = run_here("scripts/corpus.py", *words)
    assert result.returncode == 3, result.stderr  # some lines are cut
    assert "Traceback" not in result.stderr
    assert tree(tmp_path / "corpus") == tree(plain)


def test_a_cluster_that_loses_a_node_half_way_ends_with_the_same_bytes(
    source: VoiceSource, lines: Path, plain: Path, tmp_path: Path
) -> None:
    (tmp_path / "marks").mkdir()
    words = flags(source, lines, tmp_path / "corpus", "--workers", "2")
    result = subprocess.run(
        [sys.executable, "-c", CLUSTER, str(tmp_path / "marks"), "4", *words],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == 3, result.stderr[-2000:]
    assert "removed" in result.stdout
    assert "A worker died" in result.stderr
    assert tree(tmp_path / "corpus") == tree(plain)


# A head without cores and two nodes of one core each. One node goes while both have a shard, and none comes instead.
CLUSTER = """
import os, threading, time
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
from ray.cluster_utils import Cluster
from tests.test_corpus_faults import living

small = {"object_store_memory": 80 << 20}
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False, **small})
nodes = [cluster.add_node(num_cpus=1, **small) for _ in range(2)]

def lose_a_node():
    while len(waiting := {int(mark.name.split()[1]) for mark in Path(marks).glob("waits *")}) < 2:
        time.sleep(0.02)
    cluster.remove_node(nodes[1], allow_graceful=False)
    while waiting <= living().keys():  # the node's worker notices a little later
        time.sleep(0.02)
    print("removed", flush=True)
    (Path(marks) / "go on").touch()

thread = threading.Thread(target=lose_a_node, daemon=True)
""" + DRIVER.replace("run(corpus", "thread.start()\nwords += ['--address', cluster.address]\nrun(corpus")


def test_a_full_disk_is_told_in_a_line_and_the_rest_is_done_when_there_is_room(
    source: VoiceSource, lines: Path, plain: Path, small_disk: Path
) -> None:
    folder = small_disk / "corpus"
    (small_disk / "something else").write_bytes(bytes(150_000))
    words = flags(source, lines, folder, "--no-ray", "--workers", "1")
    assert_one_line_error(run_here("scripts/corpus.py", *words), "No space left", "free some space")
    with pytest.raises(OSError, match="No space left") as caught:
        make(replace(source, beside=True), lines, folder)
    assert caught.value.errno == errno.ENOSPC
    assert Path(caught.value.filename).parent in (folder / "wavs", folder / "parts")
    assert not list(folder.rglob("*.part"))
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    make(replace(source, beside=True), lines, folder)
    assert tree(folder) == tree(plain)
