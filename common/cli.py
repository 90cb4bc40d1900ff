"""What every script's command line shares: strict flags with suggestions, and errors told in one line."""

import argparse
import difflib
import errno
import os
import re
import sys
from collections.abc import Callable
from typing import NoReturn

from common.errors import UserError

EXIT_USER_ERROR = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130  # 128 + SIGINT, what a shell reports for Ctrl-C


class ArgumentParser(argparse.ArgumentParser):
    """argparse with exact flags only: an unknown one is an error that names the nearest known one.

    Every parser has `--debug`, which lets `run` show the traceback of an error.
    """

    def __init__(self, **kwargs) -> None:
        kwargs.setdefault("formatter_class", argparse.ArgumentDefaultsHelpFormatter)
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


def run(
    main: Callable[[argparse.Namespace], None], parser: argparse.ArgumentParser, argv: list[str] | None = None
) -> NoReturn:
    """Parses `argv`, calls `main`, and ends the process with a status and at most one line of error.

    Expected failures are `UserError`, an `OSError` (its file and the system's reason), running out of memory and
    Ctrl-C. Anything else is a bug of ours: it is still told in one line, with the advice to pass `--debug`.
    """
    args = parser.parse_args(argv)
    try:
        main(args)
        sys.stdout.flush()
    except KeyboardInterrupt:
        _fail(parser, "interrupted; every file that was finished is whole", EXIT_INTERRUPTED, args.debug)
    except UserError as error:
        _fail(parser, str(error), EXIT_USER_ERROR, args.debug)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader of our output has gone
        sys.exit(EXIT_USER_ERROR)
    except OSError as error:
        _fail(parser, _describe_os_error(error), EXIT_USER_ERROR, args.debug)
    except MemoryError:
        _fail(parser, "out of memory: use a smaller --batch-size or shorter phrases", EXIT_USER_ERROR, args.debug)
    except Exception as error:  # the last line of defence: users never meet a raw traceback
        first_line = (str(error).strip() or "no message").splitlines()[0]
        message = f"internal error: {type(error).__name__}: {first_line} (run again with --debug for the traceback)"
        _fail(parser, message, EXIT_USER_ERROR, args.debug)
    sys.exit(0)


def _describe_os_error(error: OSError) -> str:
    reason = error.strerror or str(error)
    where = f"{error.filename}: " if error.filename else ""
    advice = {
        errno.ENOSPC: "; free some space or choose another output folder",
        errno.EDQUOT: "; free some space or choose another output folder",
        errno.EACCES: "; check the permissions or choose another folder",
        errno.EPERM: "; check the permissions or choose another folder",
        errno.EROFS: "; choose a folder that can be written",
    }.get(error.errno or 0, "")
    return f"{where}{reason}{advice}"


def _fail(parser: argparse.ArgumentParser, message: str, status: int, debug: bool) -> NoReturn:
    if debug and status != EXIT_INTERRUPTED:
        raise  # noqa: PLE0704  called from an except block: the original error with its traceback
    print(f"{parser.prog}: {'' if status == EXIT_INTERRUPTED else 'error: '}{message}", file=sys.stderr)
    sys.exit(status)
