"""Corpora on Ray, as users run them: actors, drivers and nodes that are killed, and a disk that is full."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from common.files import REPOSITORY
from tests.corpora import MOST_STEPS, export_quick_voice, tree, write_lines
from tests.scripts import assert_one_line_error, run_script

pytestmark = pytest.mark.slow
LINES = 200


@pytest.fixture(scope="module")
def voice(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_quick_voice(tmp_path_factory.mktemp("voice"))


@pytest.fixture(scope="module")
def lines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_lines(tmp_path_factory.mktemp("lines") / "lines.txt", LINES)


def flags(voice: Path, lines: Path, folder: Path, *more: object) -> list[str]:
    words = ["-i", lines, "-o", folder, "--models", voice, "--threads", 1, "--max-decoder-steps", MOST_STEPS]
    return [str(word) for word in (*words, "--batch-size", 8, "--shard-lines", 10, *more)]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def plain(voice: Path, lines: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The corpus of an undisturbed run, by one worker without Ray."""
    folder = tmp_path_factory.mktemp("plain") / "corpus"
    result = run_script(
        "serving/corpus.py", *flags(voice, lines, folder, "--no-ray", "--workers", 1), env=environment()
    )
    assert result.returncode == 0, result.stderr
    assert f"in {folder}" in result.stdout
    return folder


def start(*words: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, str(REPOSITORY / "serving" / "corpus.py"), *words],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def records(folder: Path) -> int:
    return len(list((folder / "parts").glob("*.jsonl"))) if (folder / "parts").is_dir() else 0


def wait_for_records(folder: Path, count: int, process: subprocess.Popen) -> None:
    ends = time.monotonic() + 120
    while records(folder) < count and process.poll() is None and time.monotonic() < ends:
        time.sleep(0.02)


def workers_of(folder: Path) -> list[int]:
    """The actors' processes of the run that speaks to a folder: its driver has the folder in its environment."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                if b"ray::_Actor" in (entry / "cmdline").read_bytes():
                    environ = (entry / "environ").read_bytes()
                    if f"CORPUS_TEST={folder}".encode() in environ:
                        found.append(int(entry.name))
            except OSError:
                continue
    return found


def test_two_actors_of_which_one_is_killed_give_the_bytes_of_one_worker(
    voice: Path, lines: Path, plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "corpus"
    monkeypatch.setenv("CORPUS_TEST", str(folder))
    process = start(*flags(voice, lines, folder, "--workers", "2"))
    wait_for_records(folder, 4, process)
    victims = workers_of(folder)
    assert len(victims) == 2
    os.kill(victims[0], signal.SIGKILL)
    _, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors
    assert "A worker died" in errors
    assert "Traceback" not in errors
    assert tree(folder) == tree(plain)


def test_a_driver_killed_at_five_moments_loses_nothing_and_does_nothing_twice(
    voice: Path, lines: Path, plain: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "corpus"
    words = flags(voice, lines, folder, "--no-ray", "--workers", "2")
    chance = random.Random(1)
    for kill in range(5):
        process = start(*words)
        wait_for_records(folder, records(folder) + 1 + chance.randrange(3), process)
        time.sleep(chance.random() * 0.1)
        process.kill()
        process.communicate()
        assert records(folder) < LINES // 10, f"kill {kill} came too late"
    result = run_script("serving/corpus.py", *words, env=environment())
    assert result.returncode == 0, result.stderr
    assert tree(folder) == tree(plain)


def test_a_cluster_that_loses_a_node_half_way_ends_with_the_same_bytes(
    voice: Path, lines: Path, plain: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "corpus"
    result = subprocess.run(
        [sys.executable, "-c", CLUSTER, json.dumps(flags(voice, lines, folder, "--workers", "2"))],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-2000:]
    assert "removed" in result.stdout
    assert tree(folder) == tree(plain)


# A head without cores, two nodes of one core each, the second of which goes when some shards are recorded; then one
# that comes in its place.
CLUSTER = """
import json, os, sys, threading, time
from pathlib import Path
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
from ray.cluster_utils import Cluster
from serving.corpus import main, make_parser

words = json.loads(sys.argv[1])
small = {"object_store_memory": 80 << 20, "include_dashboard": False}
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **small})
nodes = [cluster.add_node(num_cpus=1, object_store_memory=80 << 20) for _ in range(2)]
args = make_parser().parse_args([*words, "--address", cluster.address])

def lose_a_node():
    while len(list(args.output.glob("parts/*.jsonl"))) < 5:
        time.sleep(0.05)
    cluster.remove_node(nodes[1], allow_graceful=False)
    print("removed", flush=True)
    cluster.add_node(num_cpus=1, object_store_memory=80 << 20)

thread = threading.Thread(target=lose_a_node)
thread.start()
main(args)
thread.join()
cluster.shutdown()
"""


def test_a_full_disk_is_told_in_a_line_and_the_rest_is_done_when_there_is_room(
    voice: Path, lines: Path, plain: Path, small_disk: Path
) -> None:
    folder = small_disk / "corpus"
    words = flags(voice, lines, folder, "--no-ray", "--workers", "1")
    assert_one_line_error(
        run_script("serving/corpus.py", *words, env=environment()), "No space left", "free some space"
    )
    assert not list(folder.rglob("*.part"))
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    result = run_script("serving/corpus.py", *words, env=environment())
    assert result.returncode == 0, result.stderr
    assert tree(folder) == tree(plain)


def test_the_demo_voice_speaks_a_corpus_whose_lines_all_end(demo_folder: Path, tmp_path: Path) -> None:
    lines = tmp_path / "lines.csv"
    lines.write_text("id,text\n" + "".join(f"a{n},{n}.\n" for n in range(20)))
    words = [
        "-i",
        lines,
        "-o",
        tmp_path / "corpus",
        "--models",
        demo_folder,
        "--no-ray",
        "--workers",
        2,
        "--threads",
        1,
    ]
    result = run_script("serving/corpus.py", *words, env=environment())
    assert result.returncode == 0, result.stderr
    assert "20 lines" in result.stdout
    entries = [json.loads(line) for line in (tmp_path / "corpus" / "manifest.jsonl").read_text().splitlines()]
    assert [entry["id"] for entry in entries] == [f"a{n}" for n in range(20)]
    assert all(0.3 < entry["seconds"] < 5 for entry in entries)


def test_a_dry_run_says_how_much_and_how_long_and_writes_nothing(voice: Path, lines: Path, tmp_path: Path) -> None:
    result = run_script("serving/corpus.py", *flags(voice, lines, tmp_path / "new", "--dry-run"), env=environment())
    assert result.returncode == 0, result.stderr
    assert "200 lines" in result.stdout
    assert "hours of audio" in result.stdout
    assert not (tmp_path / "new").exists()
