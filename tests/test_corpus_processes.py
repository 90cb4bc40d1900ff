"""Workers whose lines are read and whose audio is written by processes beside them, as on a GPU."""

import errno
import os
import signal
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.pieces import Piece
from serving.corpora.corpus import Corpus
from serving.corpora.crew import ProcessCrew
from serving.corpora.job import VoiceSource, claim
from serving.corpora.shard_process import SLOTS, ProcessEnded, ShardProcess
from serving.corpora.shard_work import Outcome, VoiceTraits
from serving.corpora.worker import ShardReport, Worker
from tests.corpora import WORK, export_quick_voice, make, tree, write_lines

pytestmark = pytest.mark.slow  # each worker starts processes, which import PyTorch


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> VoiceSource:
    """Of workers that do everything themselves."""
    return VoiceSource(export_quick_voice(tmp_path_factory.mktemp("voice")), threads=1, work=WORK)


@pytest.fixture(scope="module")
def beside(source: VoiceSource) -> VoiceSource:
    """Of workers with processes beside them."""
    return replace(source, beside=True)


@pytest.fixture(scope="module")
def lines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_lines(tmp_path_factory.mktemp("lines") / "lines.txt", 40)


@pytest.fixture(scope="module")
def plain(source: VoiceSource, lines: Path, tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """The corpus of an undisturbed run, by a worker that does everything itself."""
    return make(source, lines, tmp_path_factory.mktemp("plain"))


def children_of(parent: int) -> list[int]:
    """Its processes that have not ended."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                state, its_parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
            except OSError:  # it has just ended
                continue
            if int(its_parent) == parent and state != "Z":
                found.append(int(entry.name))
    return found


def runs(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def eventually(is_so: Callable[[], bool]) -> bool:
    ends = time.monotonic() + 20
    while not is_so() and time.monotonic() < ends:
        time.sleep(0.05)
    return is_so()


@pytest.mark.parametrize("options", [{}, {"format": "webdataset", "audio": "flac", "sampling_rate": 16000}])
def test_the_bytes_are_those_of_a_worker_that_does_everything_itself(
    source: VoiceSource, beside: VoiceSource, tmp_path: Path, options: dict[str, Any]
) -> None:
    lines = write_lines(tmp_path / "lines.txt", 40)
    with open(lines, "a", encoding="utf-8") as file:  # more batches of one line than are on their way at once
        file.write("A long one, " * 400 + "\n\n...\nThe last.\n")
    make(source, lines, tmp_path / "itself", shard_lines=100, **options)
    before, children = set(os.listdir("/dev/shm")), children_of(os.getpid())
    make(beside, lines, tmp_path / "beside", shard_lines=100, **options)
    assert tree(tmp_path / "beside") == tree(tmp_path / "itself")
    assert set(os.listdir("/dev/shm")) <= before
    assert eventually(lambda: set(children_of(os.getpid())) <= set(children))


@pytest.mark.parametrize("victim", ["the worker", "the processes beside it"])
def test_who_is_killed_is_replaced_and_leaves_nothing_behind(
    beside: VoiceSource, lines: Path, plain: Corpus, tmp_path: Path, victim: str
) -> None:
    workers: list[int] = []
    helpers: list[int] = []

    def kill_first(report: ShardReport) -> None:
        workers.append(int(report.worker.rpartition(":")[2]))
        if len(workers) == 1:
            helpers.extend(children_of(workers[0]))
            for process in workers if victim == "the worker" else helpers:
                os.kill(process, signal.SIGKILL)

    make(beside, lines, tmp_path, ProcessCrew(beside, 1, on_gpus=False), on_report=kill_first)
    assert len(helpers) == 3
    assert len(set(workers)) == 2
    assert len(workers) == 5  # no shard was reported twice
    assert eventually(lambda: not any(map(runs, (*helpers, *workers))))
    assert tree(tmp_path) == tree(plain.job.folder)


def test_a_full_disk_names_the_file_and_the_rest_is_done_when_there_is_room(
    beside: VoiceSource, lines: Path, plain: Corpus, small_disk: Path
) -> None:
    folder = small_disk / "corpus"
    (small_disk / "something else").write_bytes(bytes(200_000))
    with pytest.raises(OSError, match="No space left") as caught:
        make(beside, lines, folder)
    assert caught.value.errno == errno.ENOSPC
    assert Path(caught.value.filename).parent == folder / "wavs"
    assert not list(folder.rglob("*.part"))
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    make(beside, lines, folder)
    assert tree(folder) == tree(plain.job.folder)


def test_a_worker_goes_on_after_a_shard_that_could_not_be_written(
    beside: VoiceSource, lines: Path, plain: Corpus, tmp_path: Path
) -> None:
    job = replace(plain.job, folder=tmp_path)
    claim(job)
    corpus = Corpus(job, lines)
    first, *others = corpus.shards(0, corpus.missing(0))
    in_the_way = [tmp_path / "wavs" / f"{line.id}.wav" for line in first.lines]
    for path in in_the_way:
        path.mkdir()
    worker = Worker(beside)
    try:
        worker.begin(job)
        error = worker.do(first).error
        assert isinstance(error, OSError)
        assert error.errno == errno.EISDIR
        assert Path(error.filename) in in_the_way
        for path in in_the_way:
            path.rmdir()
        reports = [worker.do(shard) for shard in (*others, first)]
    finally:
        worker.close()
        worker.close()
    assert [report.error for report in reports] == [None] * 5
    assert sum(report.lines for report in reports) == 40
    corpus.finish()
    assert tree(tmp_path) == tree(plain.job.folder)


def test_writing_waits_for_a_process_that_is_behind_and_ends_with_one_that_is_killed(
    lines: Path, plain: Corpus, tmp_path: Path
) -> None:
    job = replace(plain.job, folder=tmp_path, shard_lines=40)
    claim(job)
    (shard,) = Corpus(job, lines).shards(0, {0})
    process = ShardProcess()
    written: list[int] = []

    def write(batches: list[list[Piece]]) -> None:
        written.clear()
        for batch in batches:
            samples = [np.zeros(256 * len(piece.encoded.ids), np.float32) for piece in batch]
            process.write([Outcome(len(one), len(one) // 256, "gate") for one in samples], samples)
            written.append(len(batch))

    try:
        process.begin(job, VoiceTraits(batch_size=4, max_symbols=128, gain=1.0))
        for ending in (signal.SIGCONT, signal.SIGKILL):
            ((_, batches),) = process.read(shard)
            assert len(batches) > SLOTS
            process.process.send_signal(signal.SIGSTOP)
            with ThreadPoolExecutor(1) as pool:
                writing = pool.submit(write, batches)
                assert eventually(lambda: len(written) == SLOTS)
                time.sleep(0.2)
                assert len(written) == SLOTS
                process.process.send_signal(ending)
                if ending == signal.SIGCONT:
                    writing.result()
                    recorded = process.record()
                    assert (recorded.lines, recorded.unspoken) == (40, 0)
                else:
                    with pytest.raises(ProcessEnded):
                        writing.result()
    finally:
        process.close()
