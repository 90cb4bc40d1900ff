"""The lines of a corpus: text, JSON Lines or CSV, checked before anything is spoken.

A file is read twice: `survey` checks all of it, `read_lines` feeds the workers. Neither keeps it in memory.
"""

import csv
import hashlib
import json
import re
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import InvalidInput, UserError
from common.files import sha256_of
from common.phrases import check_utf8
from common.table import counted
from pipeline.settings import SpeakSettings, settings_of

_SAFE_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,99}")  # no dot: WebDataset's keys end at the first one
_READABLE = 60  # characters of an unsafe id that are kept
_NAMED = 5  # lines named in full for each kind of note
_LONGEST_FIELD = 1 << 26  # characters of a CSV field


@dataclass(frozen=True)
class Line:
    """A line to speak.

    Attributes:
        number: the line's number in its file, from 1.
        id: names its files: letters, digits, _ and -, at most 100.
        text: without white space at its ends; may be empty.
        seed: its own, or None for the corpus's.
        speed: its own, or None for the corpus's.
        source_id: its id in the file of lines, if that can't name files.
    """

    number: int
    id: str
    text: str
    seed: int | None = None
    speed: float | None = None
    source_id: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Its fields that are not None, as JSON; `line_of` reads them."""
        values = asdict(self)
        return {"line": values.pop("number")} | {name: value for name, value in values.items() if value is not None}


def line_of(values: dict[str, Any]) -> Line:
    """The line that `Line.to_dict` wrote; other keys are ignored."""
    chosen = {name: values.get(name) for name in ("id", "text", "seed", "speed", "source_id")}
    return Line(number=values["line"], **chosen)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Survey:
    """What is in a file of lines.

    Attributes:
        lines: to speak.
        characters: of all their texts.
        sha256: of the file.
        notes: for the user, a line each.
    """

    lines: int
    characters: int
    sha256: str
    notes: tuple[str, ...]


def survey(path: Path) -> Survey:
    """Reads all of a file once and checks it: 8 bytes of memory a line.

    Raises:
        UserError: it can't be read, a line is malformed, two lines have one id, or there is nothing to speak.
    """
    with _readable(path):
        digest = sha256_of(path)
    hashes = array("Q")
    characters = empty = unsafe = 0
    notes: list[str] = []
    for line in _read(path):
        if line is None:
            empty += 1
            continue
        hashes.append(_hash(line.id))
        characters += len(line.text)
        if line.source_id is not None:
            unsafe += 1
            if unsafe <= _NAMED:
                shown = line.source_id if len(line.source_id) <= 40 else line.source_id[:40] + "..."
                notes.append(f"{path.name} line {line.number}: id {shown!r} can't name a file; it is {line.id} here")
    if not hashes:
        raise UserError(f"{path}: nothing to speak in it ({counted(empty, 'empty line')}); write a text on each line")
    _check_unique(path, hashes)
    if unsafe > _NAMED:
        notes.append(f"{path.name}: {unsafe - _NAMED:,} more such ids; manifest.jsonl has them as source_id")
    if empty:
        notes.append(f"{path.name}: skipped {counted(empty, 'empty line')}")
    return Survey(len(hashes), characters, digest, tuple(notes))


def read_lines(path: Path) -> Iterator[Line]:
    """The lines of a file in order; its suffix says what it is: .txt, .jsonl or .csv.

    Plain text has a text a line. JSON Lines have objects with `text`, and maybe `id`, `seed` and `speed`; CSV files
    have a header with these names, or are LJSpeech's metadata (id|text|...), without header or quotes.

    Raises:
        UserError: the file has another suffix or can't be read, or a line is malformed.
    """
    return (line for line in _read(path) if line is not None)


def _read(path: Path) -> Iterator[Line | None]:
    """As `read_lines`, with None for each empty line."""
    reader = {".txt": _read_text, ".jsonl": _read_json, ".csv": _read_csv}.get(path.suffix.lower())
    if reader is None:
        raise UserError(f"{path}: lines are read from .txt, .jsonl and .csv files; rename it (a .csv may have tabs)")
    with _readable(path), open(path, encoding="utf-8-sig", newline="" if reader is _read_csv else None) as file:
        try:
            for number, values in reader(path, file):
                yield None if values is None else _line(path, number, values)
        except UnicodeDecodeError:
            check_utf8(path)  # names the line
            raise


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(f"{path}: can't be read ({error.strerror or error}); check the path") from error


def _read_text(path: Path, file: Any) -> Iterator[tuple[int, dict[str, Any] | None]]:
    for number, line in enumerate(file, start=1):
        text = line.strip()
        yield number, {"text": text} if text else None


def _read_json(path: Path, file: Any) -> Iterator[tuple[int, dict[str, Any] | None]]:
    for number, line in enumerate(file, start=1):
        if not line.strip():
            yield number, None
            continue
        try:
            values = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path} line {number}: not JSON ({error}); write one object a line") from error
        if not isinstance(values, dict):
            raise UserError(f'{path} line {number}: not a JSON object; write {{"id": ..., "text": ...}}')
        yield number, values


def _read_csv(path: Path, file: Any) -> Iterator[tuple[int, dict[str, Any] | None]]:
    csv.field_size_limit(_LONGEST_FIELD)
    first = file.readline()
    file.seek(0)
    separator = next((one for one in ",|\t" if "text" in _header(first, one)), None)
    if separator is not None:
        names = _header(first, separator)
        reader = csv.reader(file, delimiter=separator, strict=True)
        next(reader)
    elif "|" in first:
        names = ["id", "text"]
        reader = csv.reader(file, delimiter="|", quoting=csv.QUOTE_NONE)
    else:
        raise UserError(f"{path}: its first line names no column text; begin with a line such as id,text")
    number = reader.line_num + 1
    try:
        for row in reader:
            yield number, _row(path, number, names, row) if any(row) else None
            number = reader.line_num + 1
    except csv.Error as error:
        raise UserError(f"{path} line {number}: not CSV ({error}); check its quotes") from error


def _header(line: str, separator: str) -> list[str]:
    return [name.strip().strip('"').lower() for name in line.strip().split(separator)]


def _row(path: Path, number: int, names: list[str], row: list[str]) -> dict[str, Any]:
    values: dict[str, Any] = dict(zip(names, row, strict=False))
    if "text" not in values:
        raise UserError(f"{path} line {number}: has {len(row)} columns, and no text among them")
    for name, kind in (("seed", int), ("speed", float)):
        word = (values.get(name) or "").strip()
        try:
            values[name] = kind(word) if word else None
        except ValueError:
            raise UserError(f"{path} line {number}: {name} {word!r} is not a number") from None
    return values


def _line(path: Path, number: int, values: dict[str, Any]) -> Line:
    text, found = values.get("text"), values.get("id")
    if not isinstance(text, str):
        raise UserError(f"{path} line {number}: its text is {'missing' if text is None else 'not a string'}")
    if found is not None and (isinstance(found, bool) or not isinstance(found, str | int)):
        raise UserError(f"{path} line {number}: its id must be a string or a whole number")
    # Half a surrogate pair, which JSON can hold, can be written to no file.
    text = text.encode("utf-8", "replace").decode().strip()
    name, source = _safe_id(number, found)
    return Line(number, name, text, source_id=source, **_own_settings(path, number, values))


def _own_settings(path: Path, number: int, values: dict[str, Any]) -> dict[str, Any]:
    """The settings that a line has of its own. Raises UserError for one of another type or out of range."""
    given = {name: values[name] for name in ("seed", "speed") if values.get(name) is not None}
    try:
        return {name: settings_of(SpeakSettings)[name].checked(value) for name, value in given.items()}
    except InvalidInput as error:
        raise UserError(f"{path} line {number}: {error}") from error


def _safe_id(number: int, found: str | int | None) -> tuple[str, str | None]:
    """The id that files are named by, and the one that was found where it can't name files."""
    if found is None:
        return f"line-{number:08d}", None
    source = str(found)
    if _SAFE_ID.fullmatch(source):
        return source, None
    readable = re.sub(r"[^A-Za-z0-9_]+", "_", source).strip("_")[:_READABLE]
    source = source.encode("utf-8", "replace").decode()
    if not readable:
        return f"line-{number:08d}", source
    return f"{readable}-{hashlib.sha256(source.encode()).hexdigest()[:10]}", source


def _check_unique(path: Path, hashes: array) -> None:
    sorted_hashes = np.sort(np.frombuffer(hashes, np.uint64))
    repeated = set(sorted_hashes[1:][sorted_hashes[1:] == sorted_hashes[:-1]].tolist())
    if not repeated:
        return
    first: dict[str, int] = {}
    doubles: list[str] = []
    count = 0
    for line in read_lines(path):
        if _hash(line.id) not in repeated:
            continue
        earlier = first.setdefault(line.id.lower(), line.number)
        if earlier != line.number:
            count += 1
            if len(doubles) < _NAMED:
                doubles.append(f"line {line.number} has line {earlier}'s id {line.id}")
    if doubles:
        more = f" and {count - len(doubles):,} more" if count > len(doubles) else ""
        raise UserError(f"{path}: {', '.join(doubles)}{more}; give each line an id of its own, or none")


def _hash(name: str) -> int:
    # Ids that differ in case alone would be one file on some file systems.
    return int.from_bytes(hashlib.blake2b(name.lower().encode(), digest_size=8).digest(), "little")
