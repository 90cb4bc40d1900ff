"""What every script's command line shares: strict flags with suggestions, and errors in one line."""

import argparse
import dataclasses
import difflib
import io
import os
import re
import select
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from types import TracebackType
from typing import Any, NoReturn, TextIO, TypeVar

from common.errors import UserError, is_out_of_memory
from common.files import describe_os_error

EXIT_USER_ERROR = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130  # 128 + SIGINT, what a shell reports for Ctrl-C
EXIT_NO_READER = 141  # 128 + SIGPIPE
EXIT_TERMINATED = 143  # 128 + SIGTERM
_MEMORY_FLAGS = ("--batch-size", "--window", "--frames")  # to lower when out of memory

Settings = TypeVar("Settings")
Number = TypeVar("Number", int, float)


class HelpFormatter(argparse.HelpFormatter):
    """Ends the help of a flag with its default, "[default: 8]", if it has one.

    Brackets at the end of a help text hold a default in words: "in Hz [the model's]".
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
        self._words: list[str] = []
        self.add_argument("--debug", action="store_true", help="show a traceback when something goes wrong")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        self._words = list(sys.argv[1:] if args is None else args)
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        self.exit(EXIT_USAGE, f"{self.prog}: error: {message}{self._suggestion()} (--help lists the flags)\n")

    def _suggestion(self) -> str:
        known = [flag for action in self._actions for flag in action.option_strings]
        flags = [word.split("=")[0] for word in self._words if re.match(r"--?[a-zA-Z]", word)]
        close = {flag: difflib.get_close_matches(flag, known, n=1, cutoff=0.6) for flag in flags if flag not in known}
        hints = [f"{matches[0]} for {flag}" for flag, matches in close.items() if matches]
        return f"; did you mean {', '.join(hints)}?" if hints else ""


def bounded_int(low: int, high: int) -> Callable[[str], int]:
    """An argparse type: whole numbers from `low` to `high`, both included."""

    return partial(_bounded, int, low, high, f"a whole number from {low} to {high}")


def bounded_float(low: float, high: float) -> Callable[[str], float]:
    """An argparse type: numbers from `low` to `high`, both included; no NaN."""

    return partial(_bounded, float, low, high, f"a number from {low:g} to {high:g}")


def _bounded(kind: Callable[[str], Number], low: float, high: float, wanted: str, text: str) -> Number:
    with suppress(ValueError):
        value = kind(text)
        if low <= value <= high:  # a NaN is not between anything
            return value
    raise argparse.ArgumentTypeError(f"{text} must be {wanted}")


def given_flags(args: argparse.Namespace, *kinds: type) -> dict[str, Any]:
    """The values of the flags that are named as the fields of dataclasses; without those that are None."""
    names = {field.name for kind in kinds for field in dataclasses.fields(kind)}
    return {name: value for name, value in vars(args).items() if name in names and value is not None}


def settings_from(args: argparse.Namespace, kind: type[Settings], **others: Any) -> Settings:
    """A settings dataclass from the flags that are named as its fields; `others` go before flags."""
    return kind(**given_flags(args, kind) | others)


def _without_traceback(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        sys.exit(EXIT_INTERRUPTED)
    sys.__excepthook__(kind, error, trace)


# Scripts import this module before PyTorch, which takes seconds: Ctrl-C by then is no defect either.
if sys.excepthook is sys.__excepthook__:
    sys.excepthook = _without_traceback


class Terminated(KeyboardInterrupt):
    """SIGTERM, by which containers and schedulers stop a process. It is cleaned up after as after Ctrl-C."""


def run(
    main: Callable[[argparse.Namespace], None], parser: argparse.ArgumentParser, argv: list[str] | None = None
) -> NoReturn:
    """Parses `argv`, calls `main`, and ends the process with a status and at most one line of error.

    Expected failures are `UserError`, an `OSError` (its file and the system's reason), running out of memory, Ctrl-C
    and SIGTERM. Anything else is a defect: it is reported in one line too, with the advice to pass `--debug`. Code that
    catches a `KeyboardInterrupt` on its way may put what was done by then into its `args`, which are printed.

    Where nobody reads the output any more (`| head -1`), the script ends quietly, as Unix tools do.
    """
    # A stream that the parent process has closed is None.
    sys.stdout, sys.stderr = sys.stdout or _nowhere(), sys.stderr or _nowhere()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a test may have put another kind there
            stream.reconfigure(errors="backslashreplace")  # an ASCII terminal takes every character
    args = parser.parse_args(argv)
    try:
        with _sigterm_as_interrupt():
            main(args)
        print(end="", flush=True)  # now an error can still be reported
        sys.exit(0)
    except (Exception, KeyboardInterrupt) as error:
        no_reader = output_closed()
        if isinstance(error, BrokenPipeError) and no_reader:
            sys.exit(EXIT_NO_READER)
        if args.debug and isinstance(error, Exception):
            raise
        status, message = _ending(error, parser)
        print(f"{parser.prog}: {message}", file=sys.stderr)
        sys.exit(status)
    finally:
        output_closed()  # or Python would report it at its end


def is_open(stream: TextIO) -> bool:
    """Whether a standard stream was open when `run` began."""
    return getattr(stream, "name", "") != os.devnull


def output_closed() -> bool:
    """Whether standard output or error is a pipe without a reader; what is written to it from now on is discarded."""
    closed = False
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):
            stream.flush()
        with suppress(io.UnsupportedOperation):  # no file
            poll = select.poll()
            poll.register(stream.fileno(), 0)  # errors alone
            if any(event & select.POLLERR for _, event in poll.poll(0)):
                with _nowhere() as nowhere:
                    os.dup2(nowhere.fileno(), stream.fileno())
                closed = True
    return closed


def _nowhere() -> TextIO:
    return open(os.devnull, "w", encoding="utf-8")


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


def _ending(error: BaseException, parser: argparse.ArgumentParser) -> tuple[int, str]:
    """The status and the line that an error ends a script with."""
    first_line = (str(error).strip() or "no message").splitlines()[0]
    if isinstance(error, KeyboardInterrupt):
        status = EXIT_TERMINATED if isinstance(error, Terminated) else EXIT_INTERRUPTED
        return status, f"interrupted; {str(error) or 'every file that was finished is whole'}"
    if isinstance(error, UserError):
        text = str(error)
    elif is_out_of_memory(error):
        flags = [flag for flag in _MEMORY_FLAGS if flag in parser.format_usage()]
        less = f"a smaller {' or '.join(flags)}" if flags else "a machine with more"
        text = f"out of memory ({first_line[:120]}): use {less}"
    elif isinstance(error, OSError):
        text = describe_os_error(error)
    else:  # a defect; users never meet a raw traceback
        text = f"internal error: {type(error).__name__}: {first_line} (run again with --debug for the traceback)"
    return EXIT_USER_ERROR, f"error: {text}"
