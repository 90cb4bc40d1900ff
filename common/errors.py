"""Errors by kind: what scripts print in one line, and what servers turn into status codes."""

import errno
import logging
import re
from collections.abc import Collection
from numbers import Integral

# What the allocators of PyTorch, ONNX Runtime, CUDA and C++ say; only PyTorch's for GPUs has an exception of its own.
_OUT_OF_MEMORY = re.compile(r"out of memory|(can't|cannot|failed to) allocate|bad[ _]alloc", re.IGNORECASE)

_log = logging.getLogger(__name__)


class UserError(Exception):
    """Something the user can put right.

    The message is one line that says what is wrong, with which file or phrase, and what to do. Scripts print it
    without a traceback and exit with a non-zero status (see `common.cli.run`).
    """


class InvalidInput(UserError):
    """A text or a setting that can't be spoken. Servers answer 400.

    Attributes:
        setting: the name of the setting or argument to blame; None blames the text.
    """

    def __init__(self, message: str, setting: str | None = None) -> None:
        super().__init__(message)
        self.setting = setting


class EngineFailure(UserError):
    """An engine failed, gave NaN, or ran out of memory; or the program has a defect. Servers answer 500."""


class Busy(UserError):
    """The queue is full and nothing was accepted: try again later. Servers answer 503."""


class Closed(UserError):
    """The voice was closed, or can't work any more, and takes no requests. Servers answer 503."""


def check_type(name: str, value: object, *kinds: type) -> None:
    """Raises InvalidInput, which names the argument, for a value of none of these types."""
    if not isinstance(value, kinds):
        wanted = " or ".join(kind.__name__ for kind in kinds)
        raise InvalidInput(f"{name}: must be {wanted}, not {type(value).__name__}", name)


def check_positive(name: str, value: object) -> None:
    """Raises InvalidInput, which names the argument, for what isn't a whole number from 1."""
    if not isinstance(value, Integral) or isinstance(value, bool) or value < 1:
        raise InvalidInput(f"{name} {value!r}: must be a whole number from 1", name)


def check_choice(name: str, value: object, choices: Collection[str]) -> None:
    """Raises InvalidInput, which names the argument, for a value that is none of the choices."""
    if not isinstance(value, str) or value not in choices:
        raise InvalidInput(f"{name} {value!r}: must be {' or '.join(choices)}", name)


def explained(error: Exception, what: str) -> UserError:
    """Any exception that ended a phrase, as an error of a kind that callers tell apart.

    InvalidInput, EngineFailure, Busy and Closed are returned as they are. All else is an EngineFailure: with the
    message of a UserError that an engine raised, else with no more than the exception's type, and the log has the
    traceback.

    Args:
        what: names the phrase: 'line 3 ("Hello")'.
    """
    if isinstance(error, (InvalidInput, EngineFailure, Busy, Closed)):
        return error
    if isinstance(error, UserError):
        failure = EngineFailure(str(error))
    else:
        _log.error("speaking %s failed", what, exc_info=error)
        if is_out_of_memory(error):
            failure = EngineFailure(f"out of memory for {what}; use shorter text or a smaller window, or try later")
        else:
            failure = EngineFailure(f"speaking {what} failed: {type(error).__name__}; see the log")
    failure.__cause__ = error
    return failure


def is_out_of_memory(error: BaseException) -> bool:
    """The host's or a GPU's memory was not enough, by whichever library it was found."""
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return True
    return not isinstance(error, (UserError, OSError)) and _OUT_OF_MEMORY.search(str(error)) is not None
