"""Errors by kind: what scripts print in one line, and what servers turn into status codes."""


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
