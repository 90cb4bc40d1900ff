"""Phrases to speak: the lines of a text file or of standard input."""

import codecs
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from common.errors import UserError
from common.files import dangling_link

_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_LINES_NAMED = 5  # in one note


@dataclass(frozen=True)
class Phrase:
    """A line to speak.

    Attributes:
        index: the line's number in its file, from 0. Lines that are skipped count, so audio_i is line i.
        text: the line without white space at its ends; never empty.
    """

    index: int
    text: str

    @property
    def line(self) -> int:
        """The line's number as editors count, from 1: what messages name it by."""
        return self.index + 1


def read_phrases(source: Path | None, notes: list[str]) -> list[Phrase]:
    """Reads the phrases of a UTF-8 text file (with or without a BOM, any line ends), one a line.

    Args:
        source: the file; None is standard input.
        notes: gets a line for the user where empty lines are skipped. Lines are numbered from 1 there, as editors do.

    Raises:
        UserError: the file can't be read, isn't UTF-8 text, or holds nothing but empty lines.
    """
    name = "standard input" if source is None else str(source)
    lines = _decoded(_content(source, name), name).split("\n")
    if not lines[-1]:
        lines.pop()  # the end of the last line, not a line of its own
    if not lines:
        raise UserError(f"{name} is empty: write the phrases to speak in it, one a line")
    phrases = [Phrase(index, line.strip()) for index, line in enumerate(lines) if line.strip()]
    if not phrases:
        raise UserError(f"{name} holds only empty lines: write the phrases to speak in it, one a line")
    empty = [number for number, line in enumerate(lines, start=1) if not line.strip()]
    if empty:
        notes.append(_skipped(name, empty))
    return phrases


def _content(source: Path | None, name: str) -> bytes:
    try:
        if source is not None:
            return source.read_bytes()
        if sys.stdin is None:
            raise UserError("standard input is closed: give a file of phrases instead")
        return sys.stdin.buffer.read()
    except FileNotFoundError as error:
        reason = dangling_link(Path(name)) or "no such file of phrases; check the path"
        raise UserError(f"{name}: {reason}") from error
    except IsADirectoryError as error:
        raise UserError(f"{name} is a folder: give the text file in it that holds the phrases") from error
    except PermissionError as error:
        raise UserError(f"{name} can't be read (permission denied): check its permissions") from error
    except OSError as error:
        raise UserError(f"{name} can't be read ({error.strerror or error}): give another file") from error


def _decoded(content: bytes, name: str) -> str:
    if content.startswith(_UTF16):
        raise UserError(f"{name} is UTF-16, not UTF-8: convert it with {_iconv('UTF-16', name)}")
    # The commonest line ends, and no others: an odd separator within a line must not shift the numbers of the rest.
    content = content.removeprefix(codecs.BOM_UTF8).replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    zero = content.find(b"\0")
    if zero >= 0:
        line = content.count(b"\n", 0, zero) + 1
        raise UserError(f"{name} is a binary file (line {line} holds a zero byte): give a UTF-8 text file")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        column = error.start - content.rfind(b"\n", 0, error.start)
        raise UserError(
            f"{name} line {line} is not UTF-8 (its byte {column} is 0x{content[error.start]:02x}): convert the file, "
            f"from Windows-1252 for example with {_iconv('WINDOWS-1252', name)}"
        ) from error


def _iconv(encoding: str, name: str) -> str:
    return f'iconv -f {encoding} -t UTF-8 "{name}" > utf8.txt'


def _skipped(name: str, numbers: Sequence[int]) -> str:
    if len(numbers) == 1:
        return f"{name} line {numbers[0]} is empty: skipped"
    if len(numbers) > _LINES_NAMED:
        listed = f"{', '.join(map(str, numbers[:_LINES_NAMED]))} and {len(numbers) - _LINES_NAMED} more"
    else:
        listed = f"{', '.join(map(str, numbers[:-1]))} and {numbers[-1]}"
    return f"{name} lines {listed} are empty: skipped"
