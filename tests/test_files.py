"""Files that appear whole or not at all, what killed runs leave, and folders with one writer."""

import errno
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from common.errors import UserError
from common.files import (
    REPOSITORY,
    appearing_together,
    finish_appearing,
    locked_folder,
    output_folder,
    write_whole,
    written_whole,
)

# Opens what the tests below want a living process to hold, says so, and waits until it is killed.
HOLDER = """
import sys, time
from pathlib import Path
from common import files
with getattr(files, sys.argv[1])(Path(sys.argv[2])):
    print("ready", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def hold():
    """Starts a process that stays in a context of common.files on a path."""
    started = []

    def start(context: str, path: Path) -> subprocess.Popen:
        command = [sys.executable, "-c", HOLDER, context, str(path)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=REPOSITORY)
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def kill(process: subprocess.Popen) -> None:
    process.send_signal(signal.SIGKILL)
    process.wait()


@pytest.mark.parametrize("context", ["written_whole", "appearing_together"])
def test_what_a_killed_run_left_is_removed_by_the_next_and_what_a_living_one_writes_is_not(
    tmp_path: Path, hold, context: str
) -> None:
    process = hold(context, tmp_path / "a.wav" if context == "written_whole" else tmp_path)
    [temporary] = tmp_path.iterdir()
    output_folder(tmp_path)
    assert list(tmp_path.iterdir()) == [temporary]
    kill(process)
    output_folder(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_files_of_others_are_never_taken_for_leftovers(tmp_path: Path) -> None:
    mine = [tmp_path / name for name in ("a.part", ".a.part", ".movie.12345678x.part", ".exported.txt", ".hidden")]
    for path in mine:
        path.touch()
    output_folder(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted(mine)


def test_a_second_run_into_a_folder_is_refused_until_the_first_has_ended(tmp_path: Path, hold) -> None:
    process = hold("locked_folder", tmp_path)
    with pytest.raises(UserError, match="another run is writing here"), locked_folder(tmp_path):
        pass
    kill(process)
    with locked_folder(tmp_path), pytest.raises(UserError, match=str(tmp_path)), locked_folder(tmp_path):
        pass
    with locked_folder(tmp_path):
        assert list(tmp_path.iterdir()) == []


def test_written_files_have_ordinary_permissions_and_the_umask_is_not_touched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(mask: int) -> int:
        raise AssertionError("the umask belongs to the whole process")

    umask = os.umask(0)
    os.umask(umask)
    monkeypatch.setattr(os, "umask", refuse)
    with written_whole(tmp_path / "a") as temporary:
        temporary.write_text("x")
    assert (tmp_path / "a").read_text() == "x"
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o666 & ~umask


def test_many_threads_write_the_same_file_whole(tmp_path: Path) -> None:
    def write(letter: str) -> None:
        for _ in range(20):
            with written_whole(tmp_path / "a") as temporary:
                temporary.write_text(letter * 1000)
            output_folder(tmp_path)

    threads = [threading.Thread(target=write, args=(letter,)) for letter in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set((tmp_path / "a").read_text())) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_errors_name_the_file_that_was_asked_for(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file") as missing, written_whole(tmp_path / "no folder" / "a.bin"):
        pass
    assert str(missing.value) == f"[Errno 2] No such file or directory: '{tmp_path / 'no folder' / 'a.bin'}'"
    with pytest.raises(OSError, match="No space") as full, written_whole(tmp_path / "a.wav"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # as a write gives it
    assert full.value.filename == str(tmp_path / "a.wav")


@pytest.mark.parametrize("below", ["", "below"])
def test_an_output_folder_that_can_not_be_made_is_refused(tmp_path: Path, below: str) -> None:
    (tmp_path / "link").symlink_to("/nowhere/at all")
    with pytest.raises(UserError, match="link is a link to /nowhere/at all, which isn't there"):
        output_folder(tmp_path / "link" / below)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="can't be written"):
        output_folder(tmp_path / "file" / below)


def test_all_files_of_a_set_appear_or_none(tmp_path: Path) -> None:
    with appearing_together(tmp_path) as folder:
        (folder / "a").touch()
        (folder / "b").touch()
        assert not (tmp_path / "a").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]

    def write_until_interrupted() -> None:
        with appearing_together(tmp_path) as folder:
            (folder / "c").touch()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_until_interrupted()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


NAMES = ("a.onnx", "b.onnx", "c.onnx")


def write_set(folder: Path, text: str) -> None:
    with appearing_together(folder) as temporary:
        for name in NAMES:
            (temporary / name).write_text(text)


def contents(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() if path.is_file() else "a folder" for path in folder.iterdir()}


@pytest.mark.parametrize("moved", range(len(NAMES)))
def test_a_process_killed_while_a_set_appears_leaves_what_others_complete(
    moved: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_set(tmp_path, "old")
    replace, moves = os.replace, []

    def killed(source: Path, target: Path) -> None:
        if len(moves) == moved:
            raise KeyboardInterrupt
        moves.append(target)
        replace(source, target)

    with monkeypatch.context() as context:
        context.setattr(os, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            write_set(tmp_path, "new")
    assert list(contents(tmp_path).values()).count("new") == moved
    finish_appearing(tmp_path)
    assert contents(tmp_path) == dict.fromkeys(NAMES, "new")


def test_a_second_process_completes_the_set_of_the_first_before_its_own(tmp_path: Path) -> None:
    finished = tmp_path / ".exported"
    finished.mkdir()
    for name in (*NAMES, "d.onnx"):
        (finished / name).write_text("first")
    write_set(tmp_path, "second")
    assert contents(tmp_path) == {**dict.fromkeys(NAMES, "second"), "d.onnx": "first"}
    finish_appearing(tmp_path / "missing")  # which has nothing to finish


def test_content_written_whole_replaces_a_file_or_leaves_it_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "audio.wav"
    write_whole(path, b"old")
    write, written = os.write, []

    def two_bytes_then_full(handle: int, content: bytes) -> int:
        if written:
            raise OSError(errno.ENOSPC, "No space left on device")
        written.append(write(handle, bytes(content)[:2]))
        return 2

    with monkeypatch.context() as disk:
        disk.setattr(os, "write", two_bytes_then_full)
        with pytest.raises(OSError, match=r"No space left on device: .*audio\.wav"):
            write_whole(path, b"newer")
    assert [file.name for file in tmp_path.iterdir()] == ["audio.wav"]
    assert path.read_bytes() == b"old"
    monkeypatch.setattr(os, "write", lambda handle, content: write(handle, bytes(content)[:2]))  # as a pipe may
    write_whole(path, b"newer")
    assert path.read_bytes() == b"newer"
    with pytest.raises(FileNotFoundError, match="nowhere"):
        write_whole(tmp_path / "nowhere" / "audio.wav", b"")


def test_exports_at_the_same_time_leave_one_whole_set(tmp_path: Path) -> None:
    rounds, exporters = 40, 4
    start = threading.Barrier(exporters)

    def export(number: int) -> None:
        start.wait(60)
        for _ in range(rounds):
            write_set(tmp_path, str(number))

    with ThreadPoolExecutor(exporters) as pool:
        for _ in pool.map(export, range(exporters)):
            pass
    assert contents(tmp_path) in [dict.fromkeys(NAMES, str(number)) for number in range(exporters)]
