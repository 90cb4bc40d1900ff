"""Audio as callers get it: samples that know their rate, at the voice's own level, never clipped."""

from base64 import b64encode
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, BinaryIO, TypeVar

import numpy as np
import torch
from torch import Tensor

from common.errors import InvalidInput, UserError, check_choice, check_positive, check_type
from common.files import path_of
from common.wav import SAMPLE_FORMATS, SampleFormat, pcm16
from pipeline.encoders import FORMATS, audio_file
from pipeline.words import Word

Target = TypeVar("Target", str, Path, BinaryIO)
LIMITER_THRESHOLD = 0.8  # of full scale (-1.9 dBFS): below it the limiter changes nothing

# MKL sets itself up in a process's first call of such a function. Where threads make that call at the same time, some
# compute in its low accuracy, and a sentence's bytes would depend on chance: one call before any thread.
torch.tanh(torch.zeros(1))


@dataclass(frozen=True, eq=False, repr=False)
class Audio:
    """Mono audio. Its length is the number of samples; NumPy takes it for its samples; equal audio has equal ones.

    Attributes:
        samples: float32 [n], within -1 and 1.
        sampling_rate: in Hz.
        words: with their times, if they were asked for; of a chunk, those that became known with it; their times
            count from the beginning of the stream.
        cut: whether the limit of frames has cut a piece of the text, up to here.

    Raises:
        InvalidInput: the samples aren't such an array, or the rate isn't a whole number from 1.
    """

    samples: np.ndarray
    sampling_rate: int
    words: tuple[Word, ...] = ()
    cut: bool = False

    def __post_init__(self) -> None:
        check_type("samples", self.samples, np.ndarray)
        if self.samples.dtype != np.float32 or self.samples.ndim != 1:
            found = f"{self.samples.dtype} of shape {self.samples.shape}"
            raise InvalidInput(f"samples: must be float32 of one dimension, not {found}", "samples")
        check_positive("sampling_rate", self.sampling_rate)

    def __repr__(self) -> str:
        return f"<Audio of {self.seconds:.2f} s, {self.sampling_rate} Hz>"

    def __len__(self) -> int:
        return len(self.samples)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self.samples, dtype) if copy else np.asarray(self.samples, dtype)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Audio):
            return NotImplemented
        return self.sampling_rate == other.sampling_rate and np.array_equal(self.samples, other.samples)

    __hash__ = None  # type: ignore[assignment]

    @property
    def seconds(self) -> float:
        return len(self.samples) / self.sampling_rate

    @classmethod
    def join(cls, chunks: "Iterable[Audio]") -> "Audio":
        """Chunks of one stream as one. Raises ValueError if there are none or their rates differ."""
        chunks = list(chunks)
        rates = {chunk.sampling_rate for chunk in chunks}
        if len(rates) != 1:
            found = f"of {' and '.join(map(str, sorted(rates)))} Hz" if rates else "none"
            raise ValueError(f"chunks of one sampling rate are needed, and there are {found}")
        words = tuple(word for chunk in chunks for word in chunk.words)
        samples = np.concatenate([chunk.samples for chunk in chunks])
        return cls(samples, rates.pop(), words, any(chunk.cut for chunk in chunks))

    def resampled(self, sampling_rate: int | None) -> "Audio":
        """The same at another rate, in Hz; None is its own. Raises InvalidInput as `Resampler`."""
        if sampling_rate in (None, self.sampling_rate):
            return self
        samples = Resampler(self.sampling_rate, sampling_rate)(self.samples, last=True)
        return replace(self, samples=samples, sampling_rate=sampling_rate)

    def save(
        self,
        target: Target,
        *,
        normalize: bool = True,
        sample_format: SampleFormat = "float32",
        format: str | None = None,
    ) -> Target:
        """Writes an audio file: to a path in whole or not at all, or to an open binary file. Returns the target.

        Args:
            normalize: scale the loudest sample to full scale, as the classic's files have it, or to
                `pipeline.encoders.LOSSY_PEAK`.
            sample_format: of a wav file: IEEE float, or 16-bit integers (half the size).
            format: a name of `pipeline.encoders.FORMATS` [the suffix of a path, else wav]. Opus holds few sampling
                rates, and is resampled to 24 kHz from others.

        Raises:
            InvalidInput: there is no such format or sample format, a package for it is missing, or the target is
                neither a file nor its path.
            UserError: there are no samples, or they aren't finite.
            OSError: the disk is full or the folder can't be written.
        """
        if hasattr(target, "write"):
            target.write(self._encoded(format or "wav", normalize, sample_format))
            return target
        path = path_of("target", target)
        if path.is_dir():
            raise InvalidInput(f"target {str(target)!r}: is a folder; name a file", "target")
        name = format or path.suffix[1:].lower() or "wav"
        if name not in FORMATS:
            raise InvalidInput(f"{path.name}: there is no format {name}; there are {', '.join(FORMATS)}", "format")
        check_choice("sample_format", sample_format, SAMPLE_FORMATS)
        audio = self.resampled(FORMATS[name].rate_of(self.sampling_rate))
        kind = sample_format if name == "wav" else name
        with audio_file(path, audio.sampling_rate, kind, normalize=normalize) as file:
            file.append(audio.samples)
        return target

    def _encoded(self, format: str, normalize: bool, sample_format: SampleFormat) -> bytes:
        """The bytes of an audio file; see `save`."""
        with TemporaryDirectory() as folder:
            options: dict[str, Any] = {"normalize": normalize, "sample_format": sample_format, "format": format}
            return self.save(Path(folder, "audio"), **options).read_bytes()

    def _repr_html_(self) -> str:
        """A player, which notebooks show."""
        if not len(self):
            return repr(self)
        wav = b64encode(self._encoded("wav", False, "pcm16")).decode()
        return f'<audio controls src="data:audio/wav;base64,{wav}"></audio>'

    def pcm16(self) -> bytes:
        """The samples as signed 16-bit little-endian integers. Raises UserError unless they are finite."""
        if not np.isfinite(self.samples).all():
            raise UserError("samples: the audio holds NaN or infinite samples")
        return pcm16(self.samples).tobytes()


def limit(samples: Tensor, gain: float) -> Tensor:
    """Samples times a gain, bent softly where they would pass LIMITER_THRESHOLD so that none passes full scale.

    Each sample alone decides what becomes of it, so chunks of a stream come out as the whole would.

    Args:
        samples: float32 (n,), on any device; finite.
    """
    louder = samples * gain
    magnitude = louder.abs()
    if magnitude.device.type == "cpu" and (not len(samples) or magnitude.max() <= LIMITER_THRESHOLD):
        return louder
    room = 1.0 - LIMITER_THRESHOLD
    bent = LIMITER_THRESHOLD + room * torch.tanh((magnitude - LIMITER_THRESHOLD) / room)
    return torch.where(magnitude > LIMITER_THRESHOLD, torch.copysign(bent, louder), louder)


def with_gain(audio: Audio, gain: float) -> Audio:
    """The audio louder or quieter, limited as `limit` does it; a gain of 1 changes nothing."""
    if gain == 1:
        return audio
    return replace(audio, samples=limit(torch.tensor(audio.samples), gain).numpy())


class Resampler:
    """Chunks of one stream at another sampling rate, by soxr; what the whole would give, whatever the chunks.

    Raises:
        InvalidInput: soxr isn't installed, or the new rate isn't a whole number from 1.
    """

    def __init__(self, from_rate: int, to_rate: int) -> None:
        check_positive("sampling_rate", to_rate)
        try:
            import soxr
        except ImportError as error:
            raise InvalidInput(
                "sampling_rate: another than the voice's needs soxr: pip install soxr", "sampling_rate"
            ) from error
        self.sampling_rate = to_rate
        self._stream = soxr.ResampleStream(from_rate, to_rate, 1, dtype="float32")

    def __call__(self, samples: np.ndarray, last: bool = False) -> np.ndarray:
        """float32 [n] at the old rate -> float32 [m] at the new one; `last` flushes what is held back."""
        return np.clip(self._stream.resample_chunk(samples, last=last), -1.0, 1.0)
