"""Calls of users' callbacks, whose own errors are kept apart from errors of the work."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

News = TypeVar("News")


class CallbackError(BaseException):
    """A callback of the caller raised the cause. No engine and no phrase is to blame, so it is no `Exception`."""


def notify(callback: Callable[[News], object], news: News) -> None:
    """Calls a callback. Raises CallbackError for what it raises."""
    try:
        callback(news)
    except Exception as error:
        raise CallbackError from error


@contextmanager
def own_errors() -> Iterator[None]:
    """Raises what a callback raised, instead of the CallbackError."""
    try:
        yield
    except CallbackError as error:
        raise (error.__cause__ or error) from None


def ignore(*news: object) -> None:
    """The callback of callers that want none."""
