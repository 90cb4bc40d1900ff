"""What an output folder holds of earlier runs, so that a later one can go on where one was stopped.

`manifest.jsonl` gets a line for each phrase whose wav is whole.
"""

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from pipeline.pieces import PreparedPhrase

MANIFEST = "manifest.jsonl"

Record = TypeVar("Record")


@dataclass(frozen=True)
class PieceRecord:
    """A spoken piece of a phrase. `taken` are seconds of computing; `picture` is a name in the output folder."""

    number: int
    text: str
    stop_reason: Literal["gate", "cap"]
    taken: float
    picture: str | None


@dataclass(frozen=True)
class PhraseRecord:
    """A phrase whose wav is whole.

    Attributes:
        file: its name in the folder.
        configuration: of the run that made it, as `configuration_of` gives it.
        size: of the file, in bytes.
        seconds: of audio.
    """

    file: str
    configuration: str
    size: int
    text: str
    reading: str
    seconds: float
    pieces: tuple[PieceRecord, ...]

    @property
    def cut(self) -> bool:
        return any(piece.stop_reason == "cap" for piece in self.pieces)


def configuration_of(identity: Mapping[str, Any], sample_format: str, phrase: PreparedPhrase) -> str:
    """What decides a phrase's wav, as a hash: the voice and its settings (`Voice.identity`), and the text as read."""
    texts = [piece.encoded.text for piece in phrase.pieces]
    content = json.dumps([identity, sample_format, texts], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:16]


class Manifest:
    """The record of a folder's whole phrases. One writer at a time."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path = folder / MANIFEST
        self._records = {record.file: record for record in _phrases(_lines(self._path))}

    def whole(self, file: str, configuration: str, with_pictures: bool) -> PhraseRecord | None:
        """The record of a file that is there, whole and of this configuration; None if it has to be made."""
        record = self._records.get(file)
        if record is None or record.configuration != configuration:
            return None
        path = self._folder / file
        if not path.is_file() or path.stat().st_size != record.size:
            return None
        if with_pictures and not all(has_picture(self._folder, piece) for piece in record.pieces):
            return None
        return record

    def add(self, record: PhraseRecord) -> None:
        """Adds a record and brings it to disk."""
        _append(self._path, record)
        self._records[record.file] = record


def has_picture(folder: Path, piece: PieceRecord) -> bool:
    return piece.picture is not None and (folder / piece.picture).is_file()


def _append(path: Path, record: Any) -> None:
    with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(dataclasses.asdict(record)) + "\n")


def _lines(path: Path) -> Iterator[Mapping[str, Any]]:
    """The JSON objects of a file, a line each; a line that a killed run left half-written is passed over."""
    if not path.is_file():
        return
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            fields = json.loads(line)
        except ValueError:
            continue
        if isinstance(fields, dict):
            yield fields


def _phrases(lines: Iterator[Mapping[str, Any]]) -> Iterator[PhraseRecord]:
    for fields in lines:
        pieces = tuple(_made(PieceRecord, piece) for piece in fields.get("pieces", ()))
        record = _made(PhraseRecord, {**fields, "pieces": pieces})
        if record is not None and None not in pieces:
            yield record


def _made(kind: type[Record], fields: Mapping[str, Any]) -> Record | None:
    """A record from its fields; None for another version's."""
    try:
        return kind(**fields)
    except TypeError:
        return None
