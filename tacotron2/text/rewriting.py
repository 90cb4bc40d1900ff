"""Patterns that rewrite a text, and where each character of what they made of it came from.

    with Trace("Pay 20% now.") as trace:
        PERCENT.sub(lambda match: f"{cardinal(match[1])} percent", trace.text)
    trace.text  # "Pay twenty percent now."
    trace.origins[4:18]  # (4, 7) fourteen times: each character of "twenty percent" came from "20%"

Every rule rewrites by `Pattern.sub`, which records what it replaced while a trace is being made in its thread.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from threading import get_ident
from typing import Any

from tacotron2.text.tables import alternatives

Span = tuple[int, int]  # the first character, and the one after the last
_Edit = tuple[int, int, list[Span]]  # a replaced span, and the origin of each new character within it
_Function = Callable[[re.Match[str]], str]
Replacement = str | _Function
_TABLE = re.compile(r"\(\?&([A-Za-z-]+)\)")

_active: "dict[int, Trace]" = {}  # by thread; a dictionary, because to see that it is empty costs least


class Pattern:
    """A regular expression that is compiled at its first use, so that a process that reads no text doesn't wait for it.

    `(?&name)` in it stands for the words of a table, as `tables.alternatives` describes. Safe to share between threads.
    Methods as of `re.Pattern`.
    """

    def __init__(self, expression: str, flags: int = 0) -> None:
        self.pattern = expression
        self._flags = flags

    def sub(self, replacement: Replacement, text: str) -> str:
        if _active and (trace := _active.get(get_ident())):
            return trace.sub(self._compiled, replacement, text)
        return self._compiled.sub(replacement, text)

    @cached_property
    def _compiled(self) -> re.Pattern[str]:
        return re.compile(_TABLE.sub(lambda match: alternatives(match[1]), self.pattern), self._flags)

    @cached_property
    def search(self) -> Callable[..., re.Match[str] | None]:
        return self._compiled.search

    @cached_property
    def match(self) -> Callable[..., re.Match[str] | None]:
        return self._compiled.match

    @cached_property
    def fullmatch(self) -> Callable[..., re.Match[str] | None]:
        return self._compiled.fullmatch

    @cached_property
    def finditer(self) -> Callable[..., Iterator[re.Match[str]]]:
        return self._compiled.finditer

    @cached_property
    def findall(self) -> Callable[..., list[Any]]:
        return self._compiled.findall


class Rules:
    r"""Patterns and what they are replaced by, in the order in which they rewrite a text.

        TIMES = Rules(needs="[0-9]")

        @TIMES.rule(r"\b([0-9]+):([0-9]{2})\b")
        def _clock(match: re.Match[str]) -> str: ...

    Safe to share between threads.

    Args:
        needs: a regular expression; a text without a match is left at once.
    """

    def __init__(self, needs: str = "") -> None:
        self._needs = Pattern(needs)
        self._rules: list[tuple[Pattern, Replacement]] = []

    def add(self, pattern: str | Pattern, replacement: Replacement, flags: int = 0) -> None:
        """Adds the next rule."""
        self._rules.append((Pattern(pattern, flags) if isinstance(pattern, str) else pattern, replacement))

    def rule(self, pattern: str, flags: int = 0) -> Callable[[_Function], _Function]:
        """Adds the function below, as `add` does."""

        def decorated(function: _Function) -> _Function:
            self.add(pattern, function, flags)
            return function

        return decorated

    def __call__(self, text: str) -> str:
        if self._needs.search(text):
            for pattern, replacement in self._rules:
                text = pattern.sub(replacement, text)
        return text


class Trace:
    """A text that is being rewritten; a context in which the rewriting is recorded. Not thread-safe.

    A replacement came from all that it replaces, but for equal words at their ends. Substitutions that a replacement
    function makes within its match are recorded, too; those in other texts are not.

    Args:
        source, origins: where the text came from, if it is not the source itself.

    Attributes:
        source: the text as it was.
        text: as it is now.
        origins: of each of its characters: the first character of the source that it came from, and the one after the
            last. What was put in where nothing had been has an empty span.
    """

    def __init__(self, text: str, source: str | None = None, origins: Sequence[Span] | None = None) -> None:
        self.text = text
        self.source = text if source is None else source
        self.origins = list(origins or zip(range(len(text)), range(1, len(text) + 1), strict=True))
        self._outer: Trace | None = None

    def __enter__(self) -> "Trace":
        self._outer, _active[get_ident()] = _active.get(get_ident()), self
        return self

    def __exit__(self, *exception: object) -> None:
        if self._outer is None:
            del _active[get_ident()]
        else:
            _active[get_ident()], self._outer = self._outer, None

    def part(self, first: int, stop: int) -> "Trace":
        """A trace of a part of the text."""
        return Trace(self.text[first:stop], self.source, self.origins[first:stop])

    def follow(self, text: str) -> None:
        """Takes a text for what became of this one by other means than `Pattern.sub`."""
        if not self._is(text):
            before, after = _same_ends(self.text, text)
            stop = len(self.text) - after
            self._replace([(before, stop, [(0, stop - before)] * (len(text) - before - after))])
        self.text = text

    def sub(self, pattern: re.Pattern[str], replacement: Replacement, text: str) -> str:
        """As `re.Pattern.sub`, recorded if the text is this one."""
        if not self._is(text):
            return pattern.sub(replacement, text)
        edits: list[_Edit] = []

        def replaced(match: re.Match[str]) -> str:
            with Trace(match[0]) as inner:
                words = match.expand(replacement) if isinstance(replacement, str) else replacement(match)
            if words != match[0]:
                inner.follow(words)
                edits.append((*match.span(), inner.origins))
            return words

        self.text = pattern.sub(replaced, text)
        self._replace(edits)
        return self.text

    def _is(self, text: str) -> bool:
        """Whether a text is this one, perhaps in another case."""
        return text == self.text or (len(text) == len(self.text) and text.lower() == self.text.lower())

    def _replace(self, edits: list[_Edit]) -> None:
        origins: list[Span] = []
        done = 0
        for first, stop, inner in edits:
            origins += self.origins[done:first]
            origins += [self._span(first + inner_first, first + inner_stop) for inner_first, inner_stop in inner]
            done = stop
        self.origins = origins + self.origins[done:]

    def _span(self, first: int, stop: int) -> Span:
        """Where the characters from `first` to before `stop` came from."""
        if first == stop:
            index = self.origins[first - 1][1] if first else 0
            return index, index
        return self.origins[first][0], self.origins[stop - 1][1]


def _same_ends(old: str, new: str) -> tuple[int, int]:
    """How many characters at the beginning and at the end of two texts are the same words, white space included."""
    before = _same_beginning(old, new)
    after = _same_beginning(old[before:][::-1], new[before:][::-1])
    return before, after


def _same_beginning(old: str, new: str) -> int:
    same = next((index for index, (a, b) in enumerate(zip(old, new, strict=False)) if a != b), min(len(old), len(new)))
    if all(index == len(text) or text[index].isspace() for text, index in ((old, same), (new, same))):
        return same
    while same and not old[same - 1].isspace():
        same -= 1
    return same
