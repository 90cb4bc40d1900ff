"""Phrases to speak: the lines of a text file, or of standard input as they come."""

import codecs
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from common.errors import UserError
from common.files import dangling_link

_LINES_NAMED = 5  # in one note
# The usual line ends, and no others: an odd separator within a line must not shift the numbers of the rest. A carriage
# return at the very end may be the first half of a line end that isn't complete yet.
_LINE_END = re.compile(rb"\r\n|\r(?=[^\n])|\n")
_RULE = re.compile(r"[\s*_=~#.\u2026\u00b7\u2022\u2013\u2014-]*")  # what parts sections and scenes: "* * *", "---"
_STDIN = "standard input"


@dataclass(frozen=True)
class Phrase:
    """A line to speak.

    Attributes:
        index: the line's number in its file, from 0. Lines that are skipped count, so audio_i is line i.
        text: the line without white space at its ends; not empty, unless there is an error.
        error: why the line can't be read.
    """

    index: int
    text: str
    error: UserError | None = None

    @property
    def line(self) -> int:
        """The line's number as editors count, from 1: what messages name it by."""
        return self.index + 1


def read_phrases(source: Path, notes: list[str]) -> list[Phrase]:
    """Reads the phrases of a UTF-8 text file (with or without a BOM, any line ends), one a line.

    Args:
        notes: gets a line for the user where lines without words are skipped. Lines are numbered from 1 there.

    Raises:
        UserError: the file can't be read, isn't UTF-8 text, or holds nothing to speak.
    """
    name = str(source)
    lines = list(enumerate(_LINE_END.split(_content(source)), start=1))
    for number, line in lines:
        _refuse_utf16(line, number, name)
        _refuse_binary(line, number, name)
    texts = [_text(line, number, name) for number, line in lines]
    if not texts[-1]:
        texts.pop()  # the end of the last line, not a line of its own
    if not texts:
        raise _nothing(name, "is empty")
    phrases = [Phrase(index, text) for index, text in enumerate(texts) if not _RULE.fullmatch(text)]
    empty = [number for number, text in enumerate(texts, start=1) if not text]
    rules = [number for number, text in enumerate(texts, start=1) if text and _RULE.fullmatch(text)]
    if not phrases:
        raise _nothing(name, "holds only lines without words" if rules else "holds only empty lines")
    notes += [_skipped(name, empty, "empty")] if empty else []
    notes += [_skipped(name, rules, "without words")] if rules else []
    return phrases


def check_utf8(source: Path) -> None:
    """Raises UserError for a file that isn't UTF-8 text, with its first such line. Reads one line after the other."""
    with open(source, "rb") as file:
        for number, line in enumerate(file, start=1):
            _refuse_utf16(line, number, str(source))
            _text(line, number, str(source))


def live_phrases() -> Iterator[list[Phrase]]:
    """Reads the phrases of standard input as they come, one a line: yields those of all lines that are there.

    Waits for a line where there is none. Lines without words are skipped; a line that isn't UTF-8 text has an error.

    Raises:
        UserError: standard input is closed, is UTF-16, or ended without anything to speak.
    """
    if sys.stdin is None:
        raise UserError(f"{_STDIN} is closed: give a file of phrases instead")
    held, number, nothing = b"", 0, True
    while True:
        arrived = sys.stdin.buffer.read1(1 << 16)  # type: ignore[union-attr]
        *lines, held = _LINE_END.split(held + arrived)
        if not arrived and held:
            lines.append(held)
        phrases = []
        for line in lines:
            number += 1
            _refuse_utf16(line, number, _STDIN)
            try:
                _refuse_binary(line, number, _STDIN)
                text = _text(line, number, _STDIN)
                if not _RULE.fullmatch(text):
                    phrases.append(Phrase(number - 1, text))
            except UserError as error:
                phrases.append(Phrase(number - 1, "", error))
        if phrases:
            nothing = False
            yield phrases
        if not arrived:
            break
    if nothing:
        raise _nothing(_STDIN, "is empty" if number == 0 else "holds only lines without words")


def _content(source: Path) -> bytes:
    try:
        return source.read_bytes()
    except FileNotFoundError as error:
        reason = dangling_link(source) or "no such file of phrases; check the path"
        raise UserError(f"{source}: {reason}") from error
    except IsADirectoryError as error:
        raise UserError(f"{source} is a folder: give the text file in it that holds the phrases") from error
    except PermissionError as error:
        raise UserError(f"{source} can't be read (permission denied): check its permissions") from error
    except OSError as error:
        raise UserError(f"{source} can't be read ({error.strerror or error}): give another file") from error


def _text(line: bytes, number: int, name: str) -> str:
    """A line's text without white space at its ends. Raises UserError if it isn't UTF-8."""
    if number == 1:
        line = line.removeprefix(codecs.BOM_UTF8)
    try:
        return line.decode("utf-8").strip()
    except UnicodeDecodeError as error:
        raise UserError(
            f"{name} line {number} is not UTF-8 (its byte {error.start + 1} is 0x{line[error.start]:02x}): convert it, "
            f"from Windows-1252 for example with {_iconv('WINDOWS-1252', name)}"
        ) from error


def _refuse_utf16(line: bytes, number: int, name: str) -> None:
    if number == 1 and line.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise UserError(f"{name} is UTF-16, not UTF-8: convert it with {_iconv('UTF-16', name)}")


def _refuse_binary(line: bytes, number: int, name: str) -> None:
    if b"\0" in line:
        raise UserError(f"{name} is a binary file (line {number} holds a zero byte): give a UTF-8 text file")


def _nothing(name: str, why: str) -> UserError:
    return UserError(f"{name} {why}: write the phrases to speak in it, one a line")


def _iconv(encoding: str, name: str) -> str:
    source = "" if name == _STDIN else f' "{name}" > utf8{Path(name).suffix}'
    return f"iconv -f {encoding} -t UTF-8{source}"


def _skipped(name: str, numbers: Sequence[int], why: str) -> str:
    if len(numbers) == 1:
        return f"{name} line {numbers[0]} is {why}: skipped"
    if len(numbers) > _LINES_NAMED:
        listed = f"{', '.join(map(str, numbers[:_LINES_NAMED]))} and {len(numbers) - _LINES_NAMED} more"
    else:
        listed = f"{', '.join(map(str, numbers[:-1]))} and {numbers[-1]}"
    return f"{name} lines {listed} are {why}: skipped"
