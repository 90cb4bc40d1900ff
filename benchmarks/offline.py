"""Measuring, once for all benchmarks: every backend is timed over the same region.

The region is from symbol ids on the host to float audio on the host, device synchronised. Text to ids
(pre-processing) and writing wavs (post-processing) are timed apart. Warm-ups come first and don't count.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from common.checkpoint import LoadedModel
from common.config import AudioConfig, Tacotron2Config, WaveGlowConfig
from common.errors import UserError
from common.files import REPOSITORY
from common.phrases import Phrase, read_phrases
from common.wav import wav_file
from pipeline.pieces import Piece
from pipeline.scheduler import Scheduler
from pipeline.settings import SpeakSettings, WorkSettings
from pipeline.synthesizer import Synthesizer
from tacotron2.model import Tacotron2
from tacotron2.text import EncodedText, encode
from waveglow.model import WaveGlow

WARMUPS = 3
RANDOM_FRAMES = 600  # of each utterance when weights are random: 6.97 s of audio
NEVER = 1.0  # a gate threshold that no gate passes


@dataclass(frozen=True)
class Benchmark:
    """What is measured.

    Attributes:
        batch: utterances at once.
        length: symbols of each utterance.
        iterations: timed ones, after WARMUPS.
        frames: fixed number of mel frames of each utterance; None lets the stop gate decide.
        sigma: of WaveGlow's noise; None is the model's.
        denoise: strength of the denoiser; 0 is off.
        batches: spoken in a row in each iteration, as a corpus is: on a GPU the next is decoded before the one before
            is copied to the host. What is reported is then a batch's share.
    """

    batch: int = 1
    length: int = 64
    iterations: int = 10
    frames: int | None = None
    sigma: float | None = None
    denoise: float = 0.0
    batches: int = 1

    def __post_init__(self) -> None:
        """Raises UserError for sizes that make no sense."""
        longest = len(benchmark_text())
        for flag, value, most in (
            ("--num-iters", self.iterations, 1_000_000),
            ("-il", self.length, longest),
            ("-bs", self.batch, 1024),
            ("--frames", self.frames, 100_000),
            ("--batches", self.batches, 1024),
        ):
            if value is not None and not 1 <= value <= most:
                text = f"; the benchmark's text has {longest} characters" if flag == "-il" else ""
                raise UserError(f"{flag} {value}: must be between 1 and {most}{text}")

    @property
    def speak_settings(self) -> SpeakSettings:
        threshold = NEVER if self.frames else None
        return SpeakSettings(
            sigma=self.sigma, denoise=self.denoise, gate_threshold=threshold, max_decoder_steps=self.frames
        )

    @property
    def work_settings(self) -> WorkSettings:
        return WorkSettings(batch_size=self.batch)


@dataclass(frozen=True)
class SpokenBatch:
    """What a backend gave for a batch.

    Attributes:
        audios: float32 [n] on the host, one for each utterance.
        stages: seconds by stage; what is left of the latency is the host's.
        frames: mel frames of an utterance, on average.
        first_audio: seconds until each utterance's first chunk, where audio is streamed.
    """

    audios: list[np.ndarray]
    stages: dict[str, float]
    frames: float
    first_audio: tuple[float, ...] = ()


Speak = Callable[[Sequence[Piece]], SpokenBatch]


@dataclass(frozen=True)
class Run:
    """One timed pass over the region, and what lay outside of it; of several batches in a row one's share."""

    latency: float  # seconds in the region
    stages: dict[str, float]  # seconds of it by stage; the rest is the host's
    frames: float  # mel frames of an utterance, on average
    samples: int  # audio samples of all utterances
    preprocessing: float  # seconds before the region
    postprocessing: float  # seconds after it
    first_audio: tuple[float, ...] = ()  # seconds until each utterance's first chunk, where audio is streamed


def benchmark_text() -> str:
    """The classic benchmark's text: the phrase of phrases/phrase.txt twice."""
    phrase = read_phrases(REPOSITORY / "phrases" / "phrase.txt", [])[0].text
    return f"{phrase} {phrase}"


def utterances(benchmark: Benchmark) -> tuple[list[Piece], float]:
    """The batches to speak, one after another, and the seconds that text to ids took."""
    started = time.perf_counter()
    text = benchmark_text()
    pieces = []
    for index in range(benchmark.batch * benchmark.batches):
        encoded = encode(text, final_period=False)
        cut = EncodedText(encoded.text[: benchmark.length], encoded.ids[: benchmark.length], ())
        pieces.append(Piece(Phrase(index, cut.text), 0, True, cut))
    return pieces, time.perf_counter() - started


def random_models(wn_channels: int) -> tuple[LoadedModel[Tacotron2], LoadedModel[WaveGlow]]:
    """Tacotron 2 and WaveGlow of NGC's dimensions with random weights, the same ones each time."""
    torch.manual_seed(0)
    tacotron2 = Tacotron2(Tacotron2Config()).eval().requires_grad_(False)
    waveglow = WaveGlow(WaveGlowConfig(wn_channels=wn_channels)).eval().requires_grad_(False)
    with torch.no_grad():
        for network in waveglow.WN:  # near identity, as training starts: twelve random scales would overflow FP16
            network.end.weight.mul_(0.02)  # type: ignore[operator,union-attr]
            network.end.bias.mul_(0.02)  # type: ignore[operator,union-attr]
    audio, name = AudioConfig(), "random weights"
    return (
        LoadedModel(tacotron2, audio, "random", None, name),
        LoadedModel(waveglow, audio, "random", None, name),
    )


def batch_speaker(synthesizer: Synthesizer) -> Speak:
    """Speaks batches on a synthesizer."""

    def speak(pieces: Sequence[Piece]) -> SpokenBatch:
        synthesizer.stages.clear()
        spoken = list(synthesizer.speak_pieces(pieces))
        frames = sum(one.frames for one in spoken) / len(spoken)
        return SpokenBatch([one.samples for one in spoken], dict(synthesizer.stages.seconds), frames)

    return speak


def stream_speaker(scheduler: Scheduler, settings: SpeakSettings) -> Speak:
    """Speaks batches as streams that begin at the same time. Stages overlap there and aren't told apart."""

    def speak(pieces: Sequence[Piece]) -> SpokenBatch:
        speeches = [scheduler.submit([piece], settings) for piece in pieces]
        audios = [np.concatenate([chunk.samples for chunk in speech]) for speech in speeches]
        frames = [piece.frames for speech in speeches for piece in speech.results]
        first = tuple(speech.first_audio_seconds or 0.0 for speech in speeches)
        return SpokenBatch(audios, {}, sum(frames) / len(frames), first)

    return speak


def measure(
    benchmark: Benchmark,
    speak: Speak,
    device: torch.device,
    folder: Path,
    sampling_rate: int,
    progress: Callable[[range], Iterable[int]] = lambda iterations: iterations,
) -> list[Run]:
    """Runs the warm-ups and then the timed iterations of a backend.

    Args:
        speak: from ids on the host to audio on the host.
        folder: where the wavs go.
        sampling_rate: of the audio, in Hz.
        progress: goes through the iterations and may show how far they are.
    """
    runs = []
    for iteration in progress(range(WARMUPS + benchmark.iterations)):
        if iteration == WARMUPS and device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        pieces, preprocessing = utterances(benchmark)
        _synchronize(device)
        started = time.perf_counter()
        spoken = speak(pieces)
        _synchronize(device)
        latency = time.perf_counter() - started
        postprocessing = _save(folder, spoken.audios, sampling_rate)
        if iteration >= WARMUPS:
            share = 1 / benchmark.batches
            runs.append(
                Run(
                    share * latency,
                    {stage: share * seconds for stage, seconds in spoken.stages.items()},
                    spoken.frames,
                    sum(len(audio) for audio in spoken.audios) // benchmark.batches,
                    share * preprocessing,
                    share * postprocessing,
                    spoken.first_audio,
                )
            )
    return runs


def _save(folder: Path, audios: Sequence[np.ndarray], sampling_rate: int) -> float:
    started = time.perf_counter()
    for index, audio in enumerate(audios):
        with wav_file(folder / f"audio_{index}.wav", sampling_rate) as wav:
            wav.append(audio)
    return time.perf_counter() - started


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
