"""Wav files: their header, and integer samples."""

import struct
from typing import Literal

import numpy as np

SampleFormat = Literal["float32", "pcm16"]
SAMPLE_FORMATS: tuple[SampleFormat, ...] = ("float32", "pcm16")

_HEADERS = {
    "float32": struct.Struct("<4sI4s 4sIHHIIHHH 4sII 4sI"),  # RIFF, fmt of IEEE float, fact, data
    "pcm16": struct.Struct("<4sI4s 4sIHHIIHH 4sI"),  # RIFF, fmt of integers, data
}
_SAMPLE_BYTES = {"float32": 4, "pcm16": 2}
MAX_SAMPLES = (2**32 - _HEADERS["float32"].size) // 4  # RIFF's sizes have 32 bits: 13 hours at 22,050 Hz


def wav_header(sampling_rate: int, sample_format: str, samples: int | None) -> bytes:
    """The header of a mono wav file; `samples` None is a stream whose length isn't known (sizes of 0xFFFFFFFF)."""
    header, width = _HEADERS[sample_format], _SAMPLE_BYTES[sample_format]
    size = 0xFFFFFFFF if samples is None else width * samples
    riff = (b"RIFF", 0xFFFFFFFF if samples is None else header.size - 8 + size, b"WAVE")
    rates = (1, sampling_rate, width * sampling_rate, width, 8 * width)  # one channel
    if sample_format == "pcm16":
        return header.pack(*riff, b"fmt ", 16, 1, *rates, b"data", size)
    return header.pack(*riff, b"fmt ", 18, 3, *rates, 0, b"fact", 4, samples or 0, b"data", size)


def pcm16(samples: np.ndarray) -> np.ndarray:
    """float32 [n] as signed 16-bit little-endian integers, int16 [n]; what is beyond -1 and 1 is clipped."""
    scaled = samples * np.float32(32767)
    return np.rint(np.clip(scaled, -32767, 32767, out=scaled), out=scaled).astype("<i2")
