"""What every script's command line shares: strict flags with suggestions, and errors told in one line."""

import argparse
import dataclasses
import difflib
import io
import math
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn, TypeVar

from common.errors import UserError, is_out_of_memory
from common.files import describe_os_error

EXIT_USER_ERROR = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130  # 128 + SIGINT, what a shell reports for Ctrl-C
EXIT_TERMINATED = 143  # 128 + SIGTERM
_MEMORY_FLAGS = ("--batch-size", "--window", "--frames")  # less of it takes less memory

Settings = TypeVar("Settings")


class HelpFormatter(argparse.HelpFormatter):
    """Ends the help of a flag with its default, "[default: 8]", but for switches and flags that have none.

    A help text that ends with words in brackets says the default itself: "in Hz [the model's]".
    """

    def _get_help_string(self, action: argparse.Action) -> str | None:
        text = action.help
        if text and text.endswith("]"):
            return re.sub(r"\[(?!default: )([^\[\]]+)\]$", r"[default: \1]", text)
        shown = action.option_strings and action.nargs != 0 and action.default not in (None, "", argparse.SUPPRESS)
        return f"{text or ''} [default: %(default)s]".strip() if shown else text


class ArgumentParser(argparse.ArgumentParser):
    """argparse with exact flags only: an unknown one is an error that names the nearest known one.

    Every parser has `--debug`, which lets `run` show the traceback of an error.
    """

    def __init__(self, **kwargs) -> None:
        kwargs.setdefault("formatter_class", HelpFormatter)
        super().__init__(allow_abbrev=False, **kwargs)
        self.add_argument("--debug", action="store_true", help="show a traceback when something goes wrong")

    def error(self, message: str) -> NoReturn:
        self.exit(EXIT_USAGE, f"{self.prog}: error: {message}{self._suggestion(message)} (--help lists the flags)\n")

    def _suggestion(self, message: str) -> str:
        known = [flag for action in self._actions for flag in action.option_strings]
        unknown = [word.split("=")[0] for word in re.findall(r"(?<!\S)-[\w=./-]+", message.partition("arguments:")[2])]
        close = {word: difflib.get_close_matches(word, known, n=1, cutoff=0.6) for word in unknown}
        hints = [f"{matches[0]} for {word}" for word, matches in close.items() if matches]
        return f"; did you mean {', '.join(hints)}?" if hints else ""


def bounded_int(low: int, high: int) -> Callable[[str], int]:
    """An argparse type: whole numbers from `low` to `high`, both included."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = low - 1
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{text} must be a whole number from {low} to {high}")
        return value

    return parse


def bounded_float(low: float, high: float) -> Callable[[str], float]:
    """An argparse type: numbers from `low` to `high`, both included; no NaN."""

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not low <= value <= high:  # a NaN is not between anything
            raise argparse.ArgumentTypeError(f"{text} must be a number from {low:g} to {high:g}")
        return value

    return parse


def settings_from(args: argparse.Namespace, kind: type[Settings], **others: Any) -> Settings:
    """A settings dataclass from the flags that are named as its fields; `others` go before flags. None is not given."""
    names = {field.name for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    given = {name: value for name, value in vars(args).items() if name in names and value is not None}
    return kind(**given | others)


class Terminated(KeyboardInterrupt):
    """SIGTERM, by which containers and schedulers stop a process: what cleans up after Ctrl-C does so after it."""


def run(
    main: Callable[[argparse.Namespace], None], parser: argparse.ArgumentParser, argv: list[str] | None = None
) -> NoReturn:
    """Parses `argv`, calls `main`, and ends the process with a status and at most one line of error.

    Expected failures are `UserError`, an `OSError` (its file and the system's reason), running out of memory, Ctrl-C
    and SIGTERM. Anything else is a bug of ours: it is still told in one line, with the advice to pass `--debug`.

    Whoever catches a `KeyboardInterrupt` on its way may put what was done by then into its `args`, to be told.
    A reader of the output that goes away (`| head -1`) doesn't end the work.
    """
    args = parser.parse_args(argv)
    try:
        with _patient_output(), _sigterm_as_interrupt():
            main(args)
    except KeyboardInterrupt as error:
        status = EXIT_TERMINATED if isinstance(error, Terminated) else EXIT_INTERRUPTED
        done = str(error) or "every file that was finished is whole"
        _fail(parser, f"interrupted; {done}", status, args.debug)
    except UserError as error:
        _fail(parser, str(error), EXIT_USER_ERROR, args.debug)
    except Exception as error:
        _fail(parser, _describe(error, parser), EXIT_USER_ERROR, args.debug)
    sys.exit(0)


@contextmanager
def _patient_output() -> Iterator[None]:
    """Standard output and error that take every character, on an ASCII terminal too, and outlive their readers."""
    streams = {"stdout": sys.stdout, "stderr": sys.stderr}
    for name, stream in streams.items():
        if stream is not None and stream is getattr(sys, f"__{name}__"):  # not what a test has put there
            stream.flush()
            raw = io.BufferedWriter(_PatientFile(stream.fileno(), "w", closefd=False))
            # A stream that Python leaves unbuffered (PYTHONUNBUFFERED) is told by its `write_through`.
            at_once = stream.line_buffering or stream.write_through
            setattr(sys, name, io.TextIOWrapper(raw, stream.encoding, "backslashreplace", line_buffering=at_once))
    try:
        yield
        if sys.stdout is not None:
            sys.stdout.flush()
    finally:
        for name, stream in streams.items():
            if getattr(sys, name) is not stream:
                getattr(sys, name).flush()
                setattr(sys, name, stream)


class _PatientFile(io.FileIO):
    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except BrokenPipeError:  # the reader has gone: from now on everything goes nowhere
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())
            os.close(nowhere)
            return len(memoryview(data).cast("B"))


@contextmanager
def _sigterm_as_interrupt() -> Iterator[None]:
    def terminate(number: int, frame: object) -> NoReturn:
        raise Terminated

    if threading.current_thread() is not threading.main_thread():  # others may set no handlers
        yield
        return
    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


def _describe(error: Exception, parser: argparse.ArgumentParser) -> str:
    first_line = (str(error).strip() or "no message").splitlines()[0]
    if is_out_of_memory(error):
        flags = [flag for flag in _MEMORY_FLAGS if flag in parser.format_usage()]
        less = f"a smaller {' or '.join(flags)}" if flags else "a machine with more"
        return f"out of memory ({first_line[:120]}): use {less}"
    if isinstance(error, OSError):
        return describe_os_error(error)
    # The last line of defence: users never meet a raw traceback.
    return f"internal error: {type(error).__name__}: {first_line} (run again with --debug for the traceback)"


def _fail(parser: argparse.ArgumentParser, message: str, status: int, debug: bool) -> NoReturn:
    interrupted = status in (EXIT_INTERRUPTED, EXIT_TERMINATED)
    if debug and not interrupted:
        raise  # noqa: PLE0704  called from an except block: the original error with its traceback
    print(f"{parser.prog}: {'' if interrupted else 'error: '}{message}", file=sys.stderr)
    sys.exit(status)
