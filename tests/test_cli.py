"""What every command line promises: help, ranges, errors in a line, interrupts, and output that may go anywhere."""

import argparse
import errno
import os
import select
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from common.cli import ArgumentParser, Terminated, bounded_float, bounded_int, run, settings_from
from common.errors import UserError
from common.files import REPOSITORY


def outcome(
    main: Callable[[argparse.Namespace], None], capsys: pytest.CaptureFixture[str], *argv: str
) -> tuple[int, str]:
    """The exit status and standard error of a script with this `main`."""
    parser = ArgumentParser(prog="script")
    parser.add_argument("--batch-size", type=bounded_int(1, 64), default=8, help="phrases at once")
    parser.add_argument("--threshold", type=bounded_float(0, 1), help="ends a phrase [the model's]")
    with pytest.raises(SystemExit) as ended:
        run(main, parser, list(argv))
    assert isinstance(ended.value.code, int)
    return ended.value.code, capsys.readouterr().err


def nothing(args: argparse.Namespace) -> None:
    pass


def raising(error: BaseException) -> Callable[[argparse.Namespace], None]:
    def main(args: argparse.Namespace) -> None:
        raise error

    return main


def test_help_says_defaults_where_there_are_any(capsys: pytest.CaptureFixture[str]) -> None:
    parser = ArgumentParser(prog="script")
    parser.add_argument("phrases", help="a file")
    parser.add_argument("--batch", default=8, help="phrases at once")
    parser.add_argument("--rate", help="in Hz [the model's]")
    parser.add_argument("--csv", help="a file with one row")
    parser.add_argument("--name", default="", help="of the run")
    parser.add_argument("--fp16", action="store_true", help="half precision")
    lines = [" ".join(line.split()) for line in parser.format_help().splitlines()]
    assert "--batch BATCH phrases at once [default: 8]" in lines
    assert "--rate RATE in Hz [default: the model's]" in lines
    for line in ("phrases a file", "--csv CSV a file with one row", "--name NAME of the run", "--fp16 half precision"):
        assert line in lines


@pytest.mark.parametrize(
    ("flag", "value"),
    [("--batch-size", "0"), ("--batch-size", "65"), ("--batch-size", "1.5"), ("--threshold", "nan"),
     ("--threshold", "-0.1"), ("--threshold", "one")],
)  # fmt: skip
def test_numbers_out_of_range_are_told_with_the_range(
    capsys: pytest.CaptureFixture[str], flag: str, value: str
) -> None:
    status, err = outcome(nothing, capsys, f"{flag}={value}")
    assert status == 2
    assert err.count("\n") == 1
    assert f"argument {flag}: {value} must be a" in err
    assert "from 1 to 64" in err or "from 0 to 1" in err
    assert outcome(nothing, capsys, "--batch-size", "64", "--threshold", "1") == (0, "")


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB."),
        RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory: you tried"),
        Exception("[ONNXRuntimeError] : 6 : Failed to allocate memory for requested buffer of size 68719476736"),
        RuntimeError("std::bad_alloc"),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
    ],
    ids=lambda error: type(error).__name__ + str(error)[:10],
)
def test_too_little_memory_is_told_with_what_takes_less(capsys: pytest.CaptureFixture[str], error: Exception) -> None:
    status, err = outcome(raising(error), capsys)
    assert status == 1
    assert err.startswith("script: error: out of memory (")
    assert err.endswith("use a smaller --batch-size\n")


def test_pytorchs_own_allocator_fails_as_expected(capsys: pytest.CaptureFixture[str]) -> None:
    def main(args: argparse.Namespace) -> None:
        torch.empty(2**61, dtype=torch.uint8)

    assert "out of memory" in outcome(main, capsys)[1]


@pytest.mark.parametrize(
    ("argv", "hint"),
    [
        (("--text", "hi", "--sped", "2"), "unrecognized arguments: --sped 2; did you mean --speed for --sped? "),
        (("--tex", "hi"), "one of the arguments --text is required; did you mean --text for --tex? "),
        (("--text", "hi", "--zzz"), "unrecognized arguments: --zzz "),
        (("--text", "hi", "--spee", "-1"), "unrecognized arguments: --spee -1; did you mean --speed for --spee? "),
    ],
)
def test_an_unknown_flag_is_named_with_its_nearest(
    capsys: pytest.CaptureFixture[str], argv: tuple[str, ...], hint: str
) -> None:
    parser = ArgumentParser(prog="script")
    parser.add_mutually_exclusive_group(required=True).add_argument("--text")
    parser.add_argument("--speed")
    with pytest.raises(SystemExit, match="2"):
        parser.parse_args(argv)
    assert capsys.readouterr().err == f"script: error: {hint}(--help lists the flags)\n"


def test_other_errors_are_bugs_of_ours_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    status, err = outcome(raising(ValueError("odd\nnews")), capsys)
    internal = "script: error: internal error: ValueError: odd (run again with --debug for the traceback)\n"
    assert (status, err) == (1, internal)
    assert outcome(raising(UserError("no such voice")), capsys) == (1, "script: error: no such voice\n")


@pytest.mark.parametrize(("interrupt", "status"), [(KeyboardInterrupt, 130), (Terminated, 143)])
def test_an_interrupt_says_what_was_done(
    capsys: pytest.CaptureFixture[str], interrupt: type[KeyboardInterrupt], status: int
) -> None:
    whole = "script: interrupted; every file that was finished is whole\n"
    assert outcome(raising(interrupt()), capsys) == (status, whole)
    told = (status, "script: interrupted; 3 of 10 phrases are done\n")
    assert outcome(raising(interrupt("3 of 10 phrases are done")), capsys) == told


def test_settings_are_taken_from_the_flags_of_their_names() -> None:
    @dataclass(frozen=True)
    class Size:
        batch: int
        length: int = 3

    args = argparse.Namespace(batch=8, other=1)
    assert settings_from(args, Size) == Size(8, 3)
    assert settings_from(args, Size, length=5, batch=1) == Size(1, 5)


# In processes of their own: what is tested is the process's output, or a signal to it.

PRINTS = """
from common.cli import ArgumentParser, run
def main(args):
    try:
        for _ in range(20000):
            print("Crème brûlée " * 10)
    finally:
        open("cleaned", "w").close()
run(main, ArgumentParser(prog="script"), [])
"""

TERMINATES = """
import os, signal, time
from common.cli import ArgumentParser, run
def main(args):
    try:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(10)
    finally:
        print("cleaned")
before = signal.getsignal(signal.SIGTERM)
try:
    run(main, ArgumentParser(prog="script"), [])
finally:
    print(signal.getsignal(signal.SIGTERM) is before)
"""

WAITS = """
import sys
from common.cli import ArgumentParser, run
def main(args):
    for stream in (sys.stdout, sys.stderr):
        print("progress", file=stream)
    sys.stdin.read()
run(main, ArgumentParser())
"""


def environment(**variables: str) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(REPOSITORY)} | variables


def test_sigterm_cleans_up_as_ctrl_c_does() -> None:
    command = [sys.executable, "-c", TERMINATES]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)
    whole = "script: interrupted; every file that was finished is whole\n"
    assert (done.returncode, done.stdout, done.stderr) == (143, "cleaned\nTrue\n", whole)


@pytest.mark.parametrize(
    "program",
    [
        ["inference.py"],
        ["trt/inference_trt.py"],
        ["scripts/http_server.py"],
        ["-c", "from trt.inference_trt import speak"],  # as the console command does
    ],
    ids=lambda program: program[-1],
)
def test_ctrl_c_while_pytorch_is_imported_shows_no_traceback(tmp_path: Path, program: list[str]) -> None:
    (tmp_path / "torch.py").write_text("import os, signal; os.kill(os.getpid(), signal.SIGINT)")
    paths = environment(PYTHONPATH=f"{tmp_path}:{REPOSITORY}")
    done = subprocess.run([sys.executable, *program], cwd=REPOSITORY, env=paths, capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, b"", b"")


def test_an_ascii_terminal_takes_every_character(tmp_path: Path) -> None:
    ascii_only = environment(PYTHONIOENCODING="ascii")
    done = subprocess.run([sys.executable, "-c", PRINTS], cwd=tmp_path, env=ascii_only, capture_output=True, check=True)
    assert done.stdout.startswith(rb"Cr\xe8me br\xfbl\xe9e")
    assert done.stderr == b""


def test_a_script_whose_reader_goes_away_ends_quietly(tmp_path: Path) -> None:
    command = f"{sys.executable} -c '{PRINTS}' | head -n 1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, env=environment(), capture_output=True, check=True)
    assert done.stdout.decode().split("\n")[1] == "141"
    assert done.stderr == b""
    assert (tmp_path / "cleaned").exists()


def test_a_script_runs_without_streams() -> None:
    writes = 'import sys; from common.cli import *; run(lambda args: sys.stderr.write("Note"), ArgumentParser(), [])'
    subprocess.run(["bash", "-c", f"{sys.executable} -c '{writes}' >&- 2>&-"], env=environment(), check=True)


def test_unbuffered_output_is_written_at_once() -> None:
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    unbuffered = environment(PYTHONUNBUFFERED="1")
    with subprocess.Popen([sys.executable, "-c", WAITS], env=unbuffered, **pipes) as process:
        try:
            ready = {process.stdout, process.stderr}
            while ready:  # the program waits for its input all the while
                found, _, _ = select.select(list(ready), [], [], 60)
                assert found, "nothing was written"
                for stream in found:
                    assert stream.readline() == b"progress\n"
                    ready.remove(stream)
        finally:
            process.kill()
