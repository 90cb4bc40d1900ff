"""Wav files: their header, and a writer that scales them."""

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np

from common.errors import UserError
from common.files import written_whole

SampleFormat = Literal["float32", "pcm16"]
SAMPLE_FORMATS: tuple[SampleFormat, ...] = ("float32", "pcm16")

_HEADERS = {
    "float32": struct.Struct("<4sI4s 4sIHHIIHHH 4sII 4sI"),  # RIFF, fmt of IEEE float, fact, data
    "pcm16": struct.Struct("<4sI4s 4sIHHIIHH 4sI"),  # RIFF, fmt of integers, data
}
_SAMPLE_BYTES = {"float32": 4, "pcm16": 2}


def wav_header(sampling_rate: int, sample_format: SampleFormat, samples: int | None) -> bytes:
    """The header of a mono wav file; `samples` None is a stream whose length isn't known (sizes of 0xFFFFFFFF)."""
    header, width = _HEADERS[sample_format], _SAMPLE_BYTES[sample_format]
    size = 0xFFFFFFFF if samples is None else width * samples
    riff = (b"RIFF", 0xFFFFFFFF if samples is None else header.size - 8 + size, b"WAVE")
    rates = (1, sampling_rate, width * sampling_rate, width, 8 * width)  # one channel
    if sample_format == "pcm16":
        return header.pack(*riff, b"fmt ", 16, 1, *rates, b"data", size)
    return header.pack(*riff, b"fmt ", 18, 3, *rates, 0, b"fact", 4, samples or 0, b"data", size)


class WavWriter:
    """Takes the audio of one wav file block by block. Memory is bounded by one block."""

    BLOCK = 1 << 20  # samples scaled at a time
    MAX_SAMPLES = (2**32 - _HEADERS["float32"].size) // 4  # RIFF's sizes have 32 bits: 13 hours at 22,050 Hz

    def __init__(
        self, path: Path, file: BinaryIO, sampling_rate: int, normalize: bool, sample_format: SampleFormat
    ) -> None:
        self.path = path
        self.sampling_rate = sampling_rate
        self.samples = 0
        self.peak = 0.0
        self._file = file
        self._normalize = normalize
        self._format: SampleFormat = sample_format
        self._start = len(wav_header(sampling_rate, "float32", 0))  # floats stand behind it until the end
        self._file.write(b"\0" * self._start)

    @property
    def seconds(self) -> float:
        return self.samples / self.sampling_rate

    def append(self, audio: np.ndarray) -> None:
        """Adds samples, float [n]. Raises UserError for a NaN or an infinity: a broken wav is never written."""
        if not np.isfinite(audio).all():
            raise UserError(f"{self.path.name}: the audio holds NaN or infinite samples; no file was written")
        if self.samples + len(audio) > self.MAX_SAMPLES:
            raise UserError(f"{self.path.name}: longer than a wav file can be (4 GiB); split the phrase")
        self.peak = max(self.peak, float(np.abs(audio).max(initial=0.0)))
        self.samples += len(audio)
        self._file.write(np.ascontiguousarray(audio, "<f4").tobytes())

    def finish(self) -> None:
        """Scales what was written so that the loudest sample is 1 (silence stays silence) and completes the file."""
        if self.samples == 0:
            raise UserError(f"{self.path.name}: no audio was made; no file was written")
        scale = np.float32(1.0 / self.peak if self._normalize and self.peak > 0 else 1.0)
        header = wav_header(self.sampling_rate, self._format, self.samples)
        width = _SAMPLE_BYTES[self._format]
        for first in range(0, self.samples, self.BLOCK):
            self._file.seek(self._start + 4 * first)
            block = np.frombuffer(self._file.read(4 * self.BLOCK), "<f4") * scale
            if self._format == "pcm16":
                block = np.rint(np.clip(block, -1.0, 1.0) * 32767.0).astype("<i2")
            self._file.seek(len(header) + width * first)  # never beyond what was read: integers are narrower
            self._file.write(block.tobytes())
        self._file.truncate(len(header) + width * self.samples)
        self._file.seek(0)
        self._file.write(header)


def pcm16(samples: np.ndarray) -> np.ndarray:
    """float32 [n] within -1 and 1 as signed 16-bit little-endian integers, int16 [n]."""
    scaled = samples * np.float32(32767)
    return np.rint(scaled, out=scaled).astype("<i2")


@contextmanager
def wav_file(
    path: Path, sampling_rate: int, *, normalize: bool = True, sample_format: SampleFormat = "float32"
) -> Iterator[WavWriter]:
    """A mono wav file at `path`, there in whole or not at all.

    Leaving the context in good order finishes the file and renames it into place; an exception removes it.

    Args:
        normalize: scale the loudest sample to 1, as the classic's files have it.
        sample_format: IEEE float, or signed 16-bit integers.

    Raises:
        UserError: the audio is empty, not finite or too long.
        OSError: the disk is full or the folder can't be written.
    """
    with written_whole(path) as temporary, open(temporary, "r+b") as file:
        writer = WavWriter(path, file, sampling_rate, normalize, sample_format)
        yield writer
        writer.finish()
