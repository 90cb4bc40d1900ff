"""Patterns that rewrite a text, and texts that know where each of their characters came from.

    text = PERCENT.sub(lambda match: f"{cardinal(match[1])} percent", TracedText("Pay 20% now."))
    text  # "Pay twenty percent now."
    text.origins[4:18]  # (4, 7) fourteen times: each character of "twenty percent" came from "20%"

Every rule rewrites by `Pattern.sub`, which also takes plain text.
"""

import re
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any, SupportsIndex

from tacotron2.text.tables import alternatives

Span = tuple[int, int]  # the first character, and the one after the last
_Function = Callable[[re.Match[str]], str]
Replacement = str | _Function
_TABLE = re.compile(r"\(\?&([A-Za-z-]+)\)")


class Pattern:
    """A regular expression that is compiled at its first use, so that a process that reads no text doesn't wait for it.

    `(?&name)` in it stands for the words of a table, as `tables.alternatives` describes. Safe to share between threads.
    Methods as of `re.Pattern`.
    """

    def __init__(self, expression: str, flags: int = 0) -> None:
        self.pattern = expression
        self._flags = flags

    def sub(self, replacement: Replacement, text: str) -> str:
        """As of `re.Pattern`; of a `TracedText` it makes another one."""
        if type(text) is TracedText:
            return text.sub(self.compiled, replacement)
        return self.compiled.sub(replacement, text)

    @cached_property
    def compiled(self) -> re.Pattern[str]:
        return re.compile(_TABLE.sub(lambda match: alternatives(match[1]), self.pattern), self._flags)

    @cached_property
    def search(self) -> Callable[..., re.Match[str] | None]:
        return self.compiled.search

    @cached_property
    def match(self) -> Callable[..., re.Match[str] | None]:
        return self.compiled.match

    @cached_property
    def fullmatch(self) -> Callable[..., re.Match[str] | None]:
        return self.compiled.fullmatch

    @cached_property
    def finditer(self) -> Callable[..., Iterator[re.Match[str]]]:
        return self.compiled.finditer

    @cached_property
    def findall(self) -> Callable[..., list[Any]]:
        return self.compiled.findall


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
            traced = type(text) is TracedText
            for pattern, replacement in self._rules:
                text = pattern.sub(replacement, text) if traced else pattern.compiled.sub(replacement, text)
        return text


class TracedText(str):
    """A text that knows where each of its characters came from.

    What `Pattern.sub` makes of it knows that, too, as its slices do and itself in lower case; other methods of `str`
    return plain text.

    Args:
        source, origins: where the text came from, if it is not the source itself.

    Attributes:
        source: the text as it was.
        origins: of each character: the first character of the source that it came from, and the one after the last.
            What was put in where nothing had been has an empty span.
    """

    source: str
    origins: list[Span]

    def __new__(cls, text: str, source: str | None = None, origins: list[Span] | None = None) -> "TracedText":
        self = super().__new__(cls, text)
        self.source = text if source is None else source
        self.origins = [(index, index + 1) for index in range(len(text))] if origins is None else origins
        return self

    def __getitem__(self, key: SupportsIndex | slice) -> str:
        text = super().__getitem__(key)
        return TracedText(text, self.source, self.origins[key]) if isinstance(key, slice) else text

    def lower(self) -> str:
        text = super().lower()
        return TracedText(text, self.source, self.origins) if len(text) == len(self) else text

    def sub(self, pattern: re.Pattern[str], replacement: Replacement) -> "TracedText":
        """As `re.Pattern.sub`. A replacement came from all that it replaces, but for equal words at their ends.

        A function may rewrite what was `matched` by further patterns: these are traced, too.
        """
        origins: list[Span] = []
        done = 0

        def replaced(match: re.Match[str]) -> str:
            nonlocal done
            words = match.expand(replacement) if isinstance(replacement, str) else replacement(match)
            origins.extend(self.origins[done : match.start()])
            origins.extend(words.origins if type(words) is TracedText else self._origins_within(match, words))
            done = match.end()
            return words

        text = pattern.sub(replaced, self)
        return TracedText(text, self.source, origins + self.origins[done:]) if done or origins else self

    def _origins_within(self, match: re.Match[str], words: str) -> list[Span]:
        """Where the characters of a match's replacement came from."""
        first, stop = match.span()
        if len(words) == stop - first and words.lower() == match[0].lower():
            return self.origins[first:stop]
        before, after = _same_ends(match[0], words)
        kept_first, kept_stop = self.origins[first : first + before], self.origins[stop - after : stop]
        return [*kept_first, *[self.span(first + before, stop - after)] * (len(words) - before - after), *kept_stop]

    def span(self, first: int, stop: int) -> Span:
        """Where the characters from `first` to before `stop` came from."""
        if first < stop:
            return self.origins[first][0], self.origins[stop - 1][1]
        index = self.origins[first - 1][1] if first else 0
        return index, index


def matched(match: re.Match[str]) -> str:
    """What a pattern has found, with its origins if the text has them."""
    return match.string[match.start() : match.end()]


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
