"""The job that makes a corpus: everything that decides the corpus's bytes, in one hash."""

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from common.errors import UserError
from common.files import project_version, written_whole
from common.metadata import Precision
from pipeline import SpeakSettings, Voice, WorkSettings, identity
from tacotron2.loading import DEMO_TACOTRON2
from waveglow.loading import DEMO_WAVEGLOW

FormatName = Literal["ljspeech", "nemo", "webdataset"]
AudioName = Literal["wav", "flac"]
FORMATS: tuple[FormatName, ...] = get_args(FormatName)
AUDIOS: tuple[AudioName, ...] = get_args(AudioName)
CONFIGURATION = "corpus.json"
_COMPUTING = ("torch", "triton", "onnxruntime", "tensorrt", "numpy", "soundfile", "soxr")  # packages that make bytes


@dataclass(frozen=True)
class VoiceSource:
    """Where a worker finds the voice, and how it runs it. Sent to other processes and machines.

    Attributes:
        folder: of .engine or .onnx files; None takes the checkpoints.
        device: for the checkpoints.
        precision: None takes what the folder has, and FP32 for checkpoints.
        threads: of a worker on a CPU.
        beside: whether processes beside the worker's read lines and write audio [on a GPU].
    """

    folder: Path | None
    tacotron2: Path = DEMO_TACOTRON2
    waveglow: Path = DEMO_WAVEGLOW
    device: str = "cpu"
    precision: Precision | None = None
    threads: int | None = None
    work: WorkSettings = field(default_factory=WorkSettings)
    beside: bool | None = None

    def open(self) -> Voice:
        """Loads the voice. Raises UserError."""
        if self.threads is not None:
            torch.set_num_threads(self.threads)
        if self.folder is not None:
            return Voice.load(self.folder, precision=self.precision, work=self.work, threads=self.threads)
        return Voice.from_checkpoints(
            self.tacotron2, self.waveglow, device=self.device, precision=self.precision or "fp32", work=self.work
        )


@dataclass(frozen=True)
class Identity:
    """What a worker's voice and packages are, as far as they decide bytes. It is equal for all workers of a corpus.

    Attributes:
        voice: as `pipeline.identity.identity_of` has it.
        batch_size: pieces spoken at once, at most.
        versions: of this project and the packages that compute.
    """

    voice: dict[str, Any]
    batch_size: int
    versions: dict[str, str]

    @property
    def models(self) -> dict[str, str]:
        """SHA-256 of the two checkpoints that the engines were exported from."""
        parts = {"tacotron2": "encoder", "waveglow": "waveglow"}
        return {model: self.voice["models"][part]["checkpoint_sha256"] for model, part in parts.items()}

    @property
    def device(self) -> str:
        """ "cuda" or "cpu"."""
        return self.voice["device"]

    @property
    def max_symbols(self) -> int:
        """Of a piece."""
        return self.voice["max_symbols"]

    @property
    def sampling_rate(self) -> int:
        """Of the voice, in Hz."""
        return self.voice["settings"]["sampling_rate"]


def identity_of(voice: Voice) -> Identity:
    # Through JSON, so that it equals what another process or a file says.
    of_voice = identity.identity_of(voice.engines, SpeakSettings())
    return Identity(json.loads(json.dumps(of_voice)), voice.engines.batch_size, _versions())


@dataclass(frozen=True)
class Job:
    """A corpus to be made, as all workers know it.

    Attributes:
        folder: where it goes; on a cluster, one that all machines share.
        input_sha256: of the file of lines.
        lines: to speak.
        settings: of speaking; a line's own seed and speed replace theirs.
        work: how the work is cut. It is part of what decides bytes, because numbers round by the batch.
        shard_lines: lines that are spoken, written and recorded together.
        sampling_rate: of the files, in Hz.
    """

    folder: Path
    input_sha256: str
    lines: int
    settings: SpeakSettings
    work: WorkSettings
    shard_lines: int
    format: FormatName
    audio: AudioName
    sampling_rate: int
    identity: Identity

    def configuration(self) -> dict[str, Any]:
        """All that decides the corpus's bytes, as JSON has it: each field but the folder."""
        values = {one.name: getattr(self, one.name) for one in fields(self) if one.name != "folder"}
        settings = {one.name: getattr(self.settings, one.name) for one in fields(SpeakSettings)}
        lexicon = self.settings.lexicon
        settings["lexicon"] = lexicon and lexicon.sha256()
        return values | {"settings": settings, "work": asdict(self.work), "identity": asdict(self.identity)}

    @property
    def hash(self) -> str:
        """SHA-256 of the configuration, 64 hexadecimal digits."""
        return hashlib.sha256(json.dumps(self.configuration(), sort_keys=True).encode()).hexdigest()


def claim(job: Job) -> None:
    """Writes corpus.json into an empty folder, or checks that the one that is there says the same.

    Raises:
        UserError: the folder holds a corpus of another configuration, or something else.
    """
    path = job.folder / CONFIGURATION
    if not path.exists():
        found = sorted(entry.name for entry in job.folder.iterdir())
        if found:
            raise UserError(f"{job.folder}: holds {found[0]} and is no corpus; choose a new or an empty folder")
        text = json.dumps({"hash": job.hash, "configuration": job.configuration()}, indent=2, sort_keys=True)
        with written_whole(path) as temporary:
            temporary.write_text(text + "\n", encoding="utf-8")
        return
    try:
        before = json.loads(path.read_text(encoding="utf-8"))["configuration"]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: damaged; choose another folder") from error
    # Through JSON, which knows neither tuples nor whole floats.
    differences = _differences(before, json.loads(json.dumps(job.configuration())))
    if differences:
        raise UserError(
            f"{job.folder}: holds a corpus of another configuration ({'; '.join(differences[:4])}); use the same, or "
            "another folder"
        )


def _differences(before: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> list[str]:
    found: list[str] = []
    for name in sorted(before.keys() | now.keys()):
        old, new = before.get(name), now.get(name)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            found += _differences(old, new, f"{prefix}{name}.")
        elif old != new:
            found.append(f"{prefix}{name} was {_short(old)}, is {_short(new)}")
    return found


def _short(value: Any) -> Any:
    return f"{value[:12]}..." if isinstance(value, str) and len(value) > 30 else value


def _versions() -> dict[str, str]:
    found = {"project": project_version()}
    for package in _COMPUTING:
        with suppress(PackageNotFoundError):  # not installed here, so that it made nothing
            found[package] = version(package)
    return found
