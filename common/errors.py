"""The one exception that library code raises for anything a user can put right."""


class UserError(Exception):
    """Something the user can put right.

    The message is one line that says what is wrong, with which file or phrase, and what to do. Scripts print it
    without a traceback and exit with a non-zero status (see `common.cli.run`).
    """
