"""Audio formats: encode float samples to a stream of bytes, or to a whole file.

wav and pcm need no package; the others need PyAV (FFmpeg's libraries), which the extra `serve` installs.
"""

import importlib.util
import io
import tempfile
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from common.errors import InvalidInput, UserError
from common.files import written_whole
from common.wav import MAX_SAMPLES, SAMPLE_FORMATS, pcm16, wav_header

OPUS_RATES = (8000, 16000, 24000, 48000)  # Hz of our sampling rates, those that Opus codes
BIT_RATE = 96_000
OPUS_DEFAULT_RATE = 24000  # above what a voice of 22,050 Hz holds
LOSSY_PEAK = 0.89  # of full scale (-1 dBFS), in files: what a lossy decoder gives overshoots what was encoded


@dataclass(frozen=True)
class AudioFormat:
    """A format that audio can be asked for in.

    Attributes:
        media_type: of HTTP; `{rate}` is the sampling rate.
        container, codec: FFmpeg's names; empty where PyAV isn't needed.
        options: of a stream's container.
        bit_rate: of a lossy codec, in bits a second. FFmpeg's own choice for mp3 leaves nothing above 9.5 kHz.
    """

    name: str
    media_type: str
    container: str = ""
    codec: str = ""
    options: tuple[tuple[str, str], ...] = ()
    bit_rate: int = 0

    def sampling_rate(self, asked: int | None) -> int | None:
        """The rate that samples must have for this format; None is the voice's own.

        Raises:
            InvalidInput: the format can't hold the rate asked for.
        """
        if self.name != "opus":
            return asked
        if asked is not None and asked not in OPUS_RATES:
            rates = ", ".join(map(str, OPUS_RATES))
            raise InvalidInput(f"sampling_rate {asked}: opus takes {rates}", "sampling_rate")
        return asked or OPUS_DEFAULT_RATE

    def rate_of(self, rate: int) -> int:
        """The rate that audio of some rate gets in this format: its own, if the format holds it."""
        return rate if self.name != "opus" or rate in OPUS_RATES else OPUS_DEFAULT_RATE


# A stream's sizes can't be written at the beginning afterwards: no Xing header. Ogg's pages would hold back a second of
# audio.
FORMATS = {
    known.name: known
    for known in (
        AudioFormat("wav", "audio/wav"),
        AudioFormat("pcm", "audio/pcm; rate={rate}; channels=1"),
        AudioFormat("flac", "audio/flac", "flac", "flac"),
        AudioFormat("mp3", "audio/mpeg", "mp3", "libmp3lame", (("write_xing", "0"),), BIT_RATE),
        AudioFormat("opus", "audio/ogg; codecs=opus", "ogg", "libopus", (("page_duration", "20000"),), BIT_RATE),
        AudioFormat("aac", "audio/aac", "adts", "aac", (), BIT_RATE),
    )
}


class Encoder(ABC):
    """Turns the chunks of one stream into the bytes of one file. Not thread-safe.

    `encode` every chunk, then `finish`: encoders hold samples back, and without it the tail would be lost.
    """

    @abstractmethod
    def encode(self, samples: np.ndarray) -> bytes:
        """Takes the next samples, float32 [n] within -1 and 1; may give nothing yet."""

    @abstractmethod
    def finish(self) -> bytes:
        """The rest of the file. Gives everything back; may be called again, and then gives nothing."""


def make_encoder(audio_format: AudioFormat, sampling_rate: int, whole: bool = False) -> Encoder:
    """An encoder of mono audio.

    Args:
        whole: `finish` gives the whole file, whose header has true sizes, and `encode` nothing.

    Raises:
        InvalidInput: PyAV isn't installed, and the format needs it.
    """
    if audio_format.container:
        return _AvEncoder(audio_format, sampling_rate, whole)
    return _IntegerEncoder(sampling_rate, audio_format.name == "wav", whole)


class AudioWriter:
    """Takes the audio of one file block by block, and keeps it on disk: the loudest sample is known at the end."""

    BLOCK = 1 << 20  # samples scaled at a time

    def __init__(self, path: Path, floats: BinaryIO, sampling_rate: int) -> None:
        self.path = path
        self.sampling_rate = sampling_rate
        self.samples = 0
        self._peak = 0.0
        self._floats = floats

    @property
    def seconds(self) -> float:
        return self.samples / self.sampling_rate

    def append(self, audio: np.ndarray) -> None:
        """Adds samples, float [n]. Raises UserError for a NaN or an infinity: a broken file is never written."""
        if not np.isfinite(audio).all():
            raise UserError(f"{self.path.name}: the audio holds NaN or infinite samples; no file was written")
        if self.samples + len(audio) > MAX_SAMPLES:
            raise UserError(f"{self.path.name}: longer than a wav file can be (4 GiB); split the phrase")
        self._peak = max(self._peak, float(np.abs(audio).max(initial=0.0)))
        self.samples += len(audio)
        self._floats.write(np.ascontiguousarray(audio, "<f4").tobytes())

    def scaled(self, normalize: bool) -> Iterator[np.ndarray]:
        """Yields all audio in blocks; where it is normalised, the loudest sample is 1, and silence stays silence."""
        if self.samples == 0:
            raise UserError(f"{self.path.name}: no audio was made; no file was written")
        scale = np.float32(1.0 / self._peak if normalize and self._peak > 0 else 1.0)
        self._floats.seek(0)
        while block := self._floats.read(4 * self.BLOCK):
            yield np.frombuffer(block, "<f4") * scale


@contextmanager
def audio_file(path: Path, sampling_rate: int, name: str, *, normalize: bool = True) -> Iterator[AudioWriter]:
    """A mono audio file at `path`, there in whole or not at all.

    Leaving the context in good order writes the file; after an exception there is none, or an older one stays.

    Args:
        name: of FORMATS, or of a wav file's SAMPLE_FORMATS.
        normalize: scale the loudest sample to full scale, or to LOSSY_PEAK.

    Raises:
        InvalidInput: PyAV isn't installed, and the format needs it.
        UserError: the audio is empty, not finite or too long.
        OSError: the disk is full or the folder can't be written.
    """
    encoder = None if name in SAMPLE_FORMATS else make_encoder(FORMATS[name], sampling_rate, whole=True)
    with written_whole(path) as temporary, tempfile.TemporaryFile(dir=path.parent) as floats:
        writer = AudioWriter(path, floats, sampling_rate)
        yield writer
        with open(temporary, "wb") as file:
            if encoder is None:
                file.write(wav_header(sampling_rate, name, writer.samples))
                for block in writer.scaled(normalize):
                    file.write((block if name == "float32" else pcm16(block)).data)
            else:
                scale = np.float32(LOSSY_PEAK if normalize and FORMATS[name].bit_rate else 1.0)
                for block in writer.scaled(normalize):
                    encoder.encode(block * scale)
                file.write(encoder.finish())


def available_formats() -> Sequence[str]:
    """The names of the formats that can be made here."""
    has_av = importlib.util.find_spec("av") is not None
    return [name for name, known in FORMATS.items() if not known.container or has_av]


class _IntegerEncoder(Encoder):
    """s16le, for wav behind a header, which goes out with the first samples."""

    def __init__(self, sampling_rate: int, has_header: bool, whole: bool) -> None:
        self._sampling_rate = sampling_rate
        self._has_header = has_header
        self._whole = whole
        self._held = bytearray()

    def encode(self, samples: np.ndarray) -> bytes:
        self._held += pcm16(samples).data
        return b"" if self._whole else self._take(None)

    def finish(self) -> bytes:
        return self._take(len(self._held) // 2 if self._whole else None)

    def _take(self, samples: int | None) -> bytes:
        header = wav_header(self._sampling_rate, "pcm16", samples) if self._has_header else b""
        self._has_header = False
        held, self._held = header + bytes(self._held), bytearray()
        return held


class _AvEncoder(Encoder):
    def __init__(self, audio_format: AudioFormat, sampling_rate: int, whole: bool) -> None:
        try:
            import av
        except ImportError as error:
            message = f"{audio_format.name} needs PyAV: pip install av; wav and pcm need nothing"
            raise InvalidInput(message, "response_format") from error
        self._av = av
        self._sampling_rate = sampling_rate
        self._whole = whole
        self._sink: Any = io.BytesIO() if whole else _Sink()
        options = {} if whole else {"flush_packets": "1", **dict(audio_format.options)}
        self._container: Any = av.open(self._sink, "w", format=audio_format.container, options=options)
        self._stream: Any = self._container.add_stream(
            audio_format.codec, rate=sampling_rate, layout="mono", bit_rate=audio_format.bit_rate
        )
        self._samples = 0
        self._lock = threading.Lock()  # a stream that is given up is finished while a thread may still encode

    def encode(self, samples: np.ndarray) -> bytes:
        with self._lock:
            if self._container is None:
                return b""
            frame = self._av.AudioFrame.from_ndarray(pcm16(samples)[None], format="s16", layout="mono")
            frame.sample_rate = self._sampling_rate
            frame.time_base = Fraction(1, self._sampling_rate)
            frame.pts = self._samples
            self._samples += len(samples)
            self._container.mux(self._stream.encode(frame))
            return b"" if self._whole else self._sink.take()

    def finish(self) -> bytes:
        with self._lock:
            container, self._container = self._container, None
            if container is None:
                return b""
            try:
                container.mux(self._stream.encode(None))
            finally:
                container.close()
            return self._sink.getvalue() if self._whole else self._sink.take()


class _Sink:
    """The file that PyAV writes a stream to. It has no `seek`, so nothing is written twice."""

    def __init__(self) -> None:
        self._written = bytearray()

    def write(self, data: bytes) -> int:
        self._written += data
        return len(data)

    def take(self) -> bytes:
        """What was written since the last call."""
        taken, self._written = bytes(self._written), bytearray()
        return taken
