"""The result of each phrase of a run, and the folder's record of earlier runs, from which `--resume` goes on.

`manifest.jsonl` gets a line for each phrase once its audio file is whole.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common.errors import UserError
from common.phrases import Phrase
from pipeline.pieces import PreparedPhrase

MANIFEST = "manifest.jsonl"
MADE = ("size", "seconds", "taken", "cut", "pictures", "captions")  # fields that only a spoken phrase has


@dataclass
class PhraseResult:
    """A phrase and what became of it; its fields are filled in as it is spoken.

    Attributes:
        prepared: how it is read, in pieces.
        file: of its audio; "-" is standard output.
        configuration: as `configuration_of` gives it.
        size: of the file, in bytes.
        seconds: of audio.
        taken: seconds of computing.
        cut: by the frame limit, before the text's end was recognised.
        limit: the one that cut it, in words; empty where an earlier run made it.
        pictures: of its pieces: names in the file's folder.
        captions: their name there; empty if none were made with the file.
        resumed: whether an earlier run has made it.
        error: why it could not be spoken.
    """

    prepared: PreparedPhrase
    file: Path = Path("-")
    configuration: str = ""
    size: int = 0
    seconds: float = 0.0
    taken: float = 0.0
    cut: bool = False
    limit: str = ""
    pictures: list[str] = field(default_factory=list)
    captions: str = ""
    resumed: bool = False
    error: UserError | None = None

    @property
    def phrase(self) -> Phrase:
        return self.prepared.phrase

    @property
    def spoken_text(self) -> str:
        """The words and sounds that are spoken for it."""
        return " ".join(piece.encoded.text for piece in self.prepared.pieces)

    @property
    def stopped_by(self) -> str:
        return "frame limit" if self.cut else "end of speech"


def configuration_of(identity: Mapping[str, Any], audio_format: str, phrase: PreparedPhrase) -> str:
    """What decides a phrase's file, as a hash: the voice and its settings (`identity_of`), and the text as read."""
    pieces = [(piece.encoded.text, piece.pause, piece.speed) for piece in phrase.pieces]
    content = json.dumps([identity, audio_format, pieces], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:16]


class Manifest:
    """The records of a folder's whole phrases. One writer at a time."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / MANIFEST
        self._records = {record.get("file"): record for record in _json_lines(self._path)}

    def resume(self, result: PhraseResult, with_pictures: bool, captions: Path | None = None) -> None:
        """Fills in a phrase that an earlier run has made, if its files are there, whole and of its configuration."""
        record = self._records.get(result.file.name, {})
        if record.get("configuration") != result.configuration or not record.keys() >= {*MADE}:
            return
        if not result.file.is_file() or result.file.stat().st_size != record["size"]:
            return
        if captions is not None and not (record["captions"] == captions.name and captions.is_file()):
            return
        pictures = [result.file.with_name(name) for name in record["pictures"]]
        if with_pictures and not (pictures and all(picture.is_file() for picture in pictures)):
            return
        for name in MADE:
            setattr(result, name, record[name])
        result.resumed = True

    def add(self, result: PhraseResult) -> None:
        """Adds the record of a phrase. Its file is whole."""
        record = {
            "file": result.file.name,
            "configuration": result.configuration,
            "text": result.phrase.text,
            "reading": result.prepared.reading,
            "pieces": len(result.prepared.pieces),
        } | {name: getattr(result, name) for name in MADE}
        with open(self._path, "ab+") as file:
            file.seek(max(0, file.tell() - 1))
            half_line = file.read() not in (b"", b"\n")  # of a run that was killed
            file.write(b"\n" * half_line + json.dumps(record).encode() + b"\n")


def _json_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The JSON objects of a file, a line each. A line that a killed run left half-written is skipped."""
    if not path.is_file():
        return
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            fields = json.loads(line)
        except ValueError:
            continue
        if isinstance(fields, dict):
            yield fields
