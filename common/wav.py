"""The wav files that phrases become."""

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np

from common.errors import UserError
from common.files import written_whole


class WavWriter:
    """Takes the audio of one wav file block by block; made by `wav_file`. Memory is bounded by one block."""

    BLOCK = 1 << 20  # samples scaled at a time
    HEADER = struct.Struct("<4sI4s 4sIHHIIHHH 4sII 4sI")  # RIFF, fmt of IEEE float, fact, data
    MAX_SAMPLES = (2**32 - HEADER.size) // 4  # RIFF's sizes have 32 bits: 13 hours at 22,050 Hz

    def __init__(self, path: Path, file: BinaryIO, sampling_rate: int) -> None:
        self.path = path
        self.sampling_rate = sampling_rate
        self.samples = 0
        self.peak = 0.0
        self._file = file
        self._write_header()

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
        """Scales what was written so that the loudest sample is 1 (silence stays silence) and completes the header."""
        if self.samples == 0:
            raise UserError(f"{self.path.name}: no audio was made; no file was written")
        scale = np.float32(1.0 / self.peak if self.peak > 0 else 1.0)
        for start in range(0, self.samples, self.BLOCK):
            position = self.HEADER.size + 4 * start
            self._file.seek(position)
            block = np.frombuffer(self._file.read(4 * self.BLOCK), "<f4") * scale
            self._file.seek(position)
            self._file.write(block.tobytes())
        self._file.seek(0)
        self._write_header()

    def _write_header(self) -> None:
        size, rate = 4 * self.samples, self.sampling_rate
        riff = (b"RIFF", self.HEADER.size - 8 + size, b"WAVE")
        fmt = (b"fmt ", 18, 3, 1, rate, 4 * rate, 4, 32, 0)  # format 3: IEEE float, one channel
        self._file.write(self.HEADER.pack(*riff, *fmt, b"fact", 4, self.samples, b"data", size))


@contextmanager
def wav_file(path: Path, sampling_rate: int) -> Iterator[WavWriter]:
    """A float32 mono wav file at `path`, peak-normalised, there in whole or not at all.

    Leaving the context in good order finishes the file and renames it into place; an exception removes it.

    Raises:
        UserError: the audio is empty, not finite or too long.
        OSError: the disk is full or the folder can't be written.
    """
    with written_whole(path) as temporary, open(temporary, "r+b") as file:
        writer = WavWriter(path, file, sampling_rate)
        yield writer
        writer.finish()
