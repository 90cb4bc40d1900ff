"""The files of a corpus, their paths and contents: audio, records of shards, and the index that a training tool reads.

Nothing here depends on time, machine or user: the same audio gives the same bytes.
"""

import errno
import io
import json
import os
import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import UserError
from common.files import write_whole, written_whole
from common.wav import pcm16, wav_header
from serving.corpora.job import AudioName, FormatName, Job
from serving.corpora.lines import Line

RECORDS = "parts"  # folder: one file a shard, written when all files that it names are there
ROUNDS = "rounds"  # folder: the lines of each round of --retry
MANIFEST = "manifest.jsonl"
RETRY = "retry.jsonl"
_SYNCERS = 16  # threads: a disk does many such requests in the time of one


@dataclass(frozen=True)
class Shard:
    """Lines that are spoken, written and recorded together. Its batches depend on its lines alone.

    Attributes:
        round: 0, or the number of the --retry that it belongs to.
        number: within the round, from 0.
    """

    round: int
    number: int
    lines: tuple[Line, ...] = field(repr=False)

    @property
    def name(self) -> str:
        return shard_name(self.round, self.number)


def shard_name(round_number: int, shard_number: int) -> str:
    return f"{round_number:02d}-{shard_number:07d}"


@dataclass(frozen=True)
class SpokenLine:
    """What became of a line: audio, or the reason why there is none.

    Attributes:
        entry: its line of the manifest, without what all lines share; or of retry.jsonl, with `reason`,
            and with `text_at_fault` where no other seed can help.
        audio: the encoded file, if it isn't written yet.
    """

    entry: dict[str, Any]
    audio: bytes | None = None


def encode(samples: np.ndarray, sampling_rate: int, audio: AudioName) -> bytes:
    """float32 [n] within -1 and 1 -> a mono file of 16-bit integers.

    Raises:
        UserError: FLAC, and soundfile isn't installed.
    """
    if audio == "wav":
        return b"".join((wav_header(sampling_rate, "pcm16", len(samples)), pcm16(samples).data))
    try:
        import soundfile
    except ImportError as error:
        raise UserError("--audio flac needs soundfile: pip install soundfile") from error
    file = io.BytesIO()
    soundfile.write(file, pcm16(samples), sampling_rate, format="FLAC", subtype="PCM_16")
    return file.getvalue()


class Layout:
    """The paths of a corpus and the writing of its files. Safe to use in many threads and processes at once."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.folder = job.folder
        self._format = LAYOUTS[job.format]
        self.in_tars = self._format.audio.endswith(".tar")
        self._audio_folder = self.folder / self._format.audio.split("/")[0]
        self._hash = job.hash

    def folders(self) -> Iterator[Path]:
        """All folders that hold files. Each is there before the next one is asked for."""
        yield from (self.folder / RECORDS, self.folder / ROUNDS, self._audio_folder, self.folder)
        if self._format.audio.count("/") > 1:
            yield from (path for path in self._audio_folder.iterdir() if path.is_dir())

    def audio_path(self, shard: Shard, line: Line) -> str:
        """Where a line's audio goes, relative to the corpus: a file of its own, or the shard's tar."""
        return self._format.audio.format(shard=shard.name, id=line.id, suffix=self.job.audio)

    def write_audio(self, path: str, audio: bytes) -> None:
        """Writes an audio file, in whole or not at all. Raises OSError."""
        target = self.folder / path
        try:
            write_whole(target, audio)
        except FileNotFoundError:  # the first file of a shard that has a folder of its own
            target.parent.mkdir(exist_ok=True)
            write_whole(target, audio)

    def commit(self, shard: Shard, lines: Iterable[SpokenLine]) -> list[dict[str, Any]]:
        """Writes what is left of a shard, and last its record, which makes it done. Returns the lines' entries.

        The record is written when all other files are on the disk itself, so that it is true after a power cut.

        Raises:
            OSError: a file can't be written.
        """
        entries = self._write_tar(lines) if self.in_tars else [line.entry for line in lines]
        paths = list(dict.fromkeys(entry["audio"] for entry in entries if "audio" in entry))
        with ThreadPoolExecutor(_SYNCERS) as pool:
            files = dict(zip(paths, pool.map(lambda path: _sync(self.folder / path), paths), strict=True))
        for folder in {self._audio_folder, *((self.folder / path).parent for path in paths)}:
            _sync(folder)
        record = self.record(shard.name)
        with written_whole(record) as temporary:
            with open(temporary, "w", encoding="utf-8") as file:
                file.write(json_line({"configuration": self._hash, "files": files}))
                file.writelines(json_line(entry) for entry in entries)
            _sync(temporary)
        _sync(record.parent)
        return entries

    def record(self, shard: str) -> Path:
        return self.folder / RECORDS / f"{shard}.jsonl"

    def is_done(self, shard: str) -> bool:
        """Whether a shard's record is there, and every file that it names in its full size."""
        try:
            with open(self.record(shard), encoding="utf-8") as file:
                header = json.loads(file.readline())
            return header["configuration"] == self._hash and all(
                (self.folder / path).stat().st_size == size for path, size in header["files"].items()
            )
        except (FileNotFoundError, ValueError, KeyError):
            return False

    def entries(self, round_number: int, shards: int) -> Iterator[dict[str, Any]]:
        """The entries of a round's shards, in the order of its lines."""
        for number in range(shards):
            with open(self.record(shard_name(round_number, number)), encoding="utf-8") as file:
                next(file)
                yield from map(json.loads, file)

    def round_file(self, round_number: int) -> Path:
        return self.folder / ROUNDS / f"{round_number:02d}.jsonl"

    def _write_tar(self, lines: Iterable[SpokenLine]) -> list[dict[str, Any]]:
        """Writes a shard's tar, if it has audio. Returns the lines' entries."""
        entries = []
        with ExitStack() as stack:
            tar = None
            for line in lines:
                entries.append(line.entry)
                if line.audio is None:
                    continue
                if tar is None:
                    temporary = stack.enter_context(written_whole(self.folder / line.entry["audio"]))
                    tar = stack.enter_context(tarfile.open(temporary, "w", format=tarfile.USTAR_FORMAT))
                entry = {**line.entry, "sampling_rate": self.job.sampling_rate}
                for suffix, content in ((self.job.audio, line.audio), ("json", json_line(entry).encode())):
                    member = tarfile.TarInfo(f"{entry['id']}.{suffix}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
        return entries


def _sync(path: Path) -> int:
    """Waits until a file's content, or the names in a folder, are on the disk itself. Returns the size in bytes.

    Raises:
        OSError: names the path.
    """
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a file system that doesn't do this, for folders mostly
            raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        os.close(handle)
    return path.stat().st_size


def json_line(values: Mapping[str, Any]) -> str:
    """An object as a line of a JSON Lines file."""
    return json.dumps(values, ensure_ascii=False) + "\n"


def _ljspeech_line(entry: Mapping[str, Any]) -> str:
    # The format knows no quoting: bars and line breaks would be read as columns and lines.
    columns = (entry["id"], *(" ".join(entry[name].replace("|", " ").split()) for name in ("text", "reading")))
    return "|".join(columns) + "\n"


def _nemo_line(entry: Mapping[str, Any]) -> str:
    values = {"audio_filepath": entry["audio"], "duration": entry["seconds"], "text": entry["reading"]}
    return json_line(values | {name: entry[name] for name in ("words",) if name in entry})


@dataclass(frozen=True)
class FormatLayout:
    """Where a format's readers look.

    Attributes:
        audio: path of a line's audio, of which a tar holds a whole shard.
        index: the file that they open first, if there is one.
        index_line: an entry's line in it.
    """

    audio: str
    index: str | None = None
    index_line: Callable[[Mapping[str, Any]], str] = json_line


LAYOUTS: dict[FormatName, FormatLayout] = {
    "ljspeech": FormatLayout("wavs/{id}.{suffix}", "metadata.csv", _ljspeech_line),
    "nemo": FormatLayout("audio/{shard}/{id}.{suffix}", "nemo_manifest.jsonl", _nemo_line),
    "webdataset": FormatLayout("shards/{shard}.tar"),
}
