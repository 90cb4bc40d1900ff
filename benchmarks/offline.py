"""Measures how long whole texts take, on every backend over the same region, and reports it as the classic did.

The region is from symbol ids on the host to float audio on the host, device synchronised. Text to ids
(pre-processing) and writing wavs (post-processing) are timed apart. Warm-ups come first and don't count.
"""

import argparse
import gc
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from benchmarks import report
from benchmarks.machine import Machine
from benchmarks.result import Result, timed_runs
from benchmarks.texts import classic_text
from common.checkpoint import LoadedModel
from common.cli import bounded_int, settings_from
from common.config import AudioConfig, Tacotron2Config, WaveGlowConfig
from common.errors import UserError
from common.files import output_folder
from common.metadata import Precision
from common.phrases import Phrase
from pipeline import SpeakSettings, Voice
from pipeline.encoders import audio_file
from pipeline.flags import add_benchmark_voice_flags, denoise_strength
from pipeline.pieces import Piece
from pipeline.scheduler import Scheduler
from pipeline.speak import check_plain_name
from pipeline.stages import NEVER
from pipeline.synthesizer import STAGES, Synthesizer
from tacotron2.model import Tacotron2
from tacotron2.text import EncodedText, encode
from waveglow.model import WaveGlow

RANDOM_FRAMES = 600  # of each utterance when weights are random: 6.97 s of audio


@dataclass(frozen=True)
class Benchmark:
    """A measurement, and where its results go. The help of the flags of `add_benchmark_flags` explains the fields.

    `batches` in a row are spoken as a corpus is: on a GPU the next is decoded before the one before is copied to the
    host. `parameters` are all flags of the script, as the log shows them.
    """

    settings: SpeakSettings = field(default_factory=SpeakSettings)
    batch_size: int = 1
    input_length: int = 64
    num_iters: int = 10
    batches: int = 1
    stream: bool = False
    output: Path = Path("results")
    log_file: str = "nvlog.json"
    log_suffix: str | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)


def add_benchmark_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags that every benchmark of whole texts has, under the classic's names: the fields of `Benchmark`."""
    most, length = bounded_int(1, 1024), bounded_int(1, len(classic_text()))
    parser.add_argument("--num-iters", type=bounded_int(1, 1_000_000), default=10, help="iterations, after warm-ups")
    parser.add_argument("-il", "--input-length", type=length, default=64, help="symbols of each utterance")
    parser.add_argument("-bs", "--batch-size", type=most, default=1, help="utterances at once")
    parser.add_argument("--batches", type=most, default=1, help="batches in a row, to report a batch's share of")
    parser.add_argument("--frames", type=bounded_int(1, 100_000), help="mel frames [the stop gate decides]")
    parser.add_argument("--stream", action="store_true", help="speak as streams, and measure first audio too")
    parser.add_argument("-o", "--output", type=Path, default=Path("results"), help="folder for logs and results")
    parser.add_argument("--log-file", default="nvlog.json", help="JSON log, in the output folder")
    parser.add_argument("--log-suffix", help="write a row of CSV to log_bs1_il128_..._SUFFIX.log, named by what ran")
    add_benchmark_voice_flags(parser)


def read_benchmark(args: argparse.Namespace, frames: int | None = None) -> Benchmark:
    """What to measure, by the flags of `add_benchmark_flags`; `frames` where no flag gives them.

    Raises:
        UserError: flags exclude each other, or a file's name would leave the folder.
    """
    if args.stream and args.batches > 1:
        raise UserError("--batches and --stream don't go together: streams begin at the same time; leave one out")
    for flag, name in (("--log-file", args.log_file), ("--log-suffix", args.log_suffix)):
        if name is not None:
            check_plain_name(flag, name)
    frames = args.frames or frames
    settings = SpeakSettings(
        sigma=args.sigma,
        denoise=denoise_strength(args),
        gate_threshold=NEVER if frames else None,
        max_decoder_steps=frames,
    )
    return settings_from(args, Benchmark, settings=settings, parameters=vars(args))


@dataclass(frozen=True)
class SpokenBatch:
    """What a backend made of a batch.

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
    return LoadedModel(tacotron2, audio, "random", None, name), LoadedModel(waveglow, audio, "random", None, name)


@contextmanager
def voice_speaker(voice: Voice, benchmark: Benchmark) -> Iterator[Speak]:
    """What is measured of a voice: batches, or streams that begin together."""
    if benchmark.stream:
        scheduler = voice.scheduler(max_waiting=benchmark.batch_size)
        scheduler.warm_up()
        yield partial(_speak_streams, scheduler, benchmark.settings)
    else:
        with Synthesizer(voice.engines, benchmark.settings) as synthesizer:
            yield partial(_speak_batch, synthesizer)


def _speak_batch(synthesizer: Synthesizer, pieces: Sequence[Piece]) -> SpokenBatch:
    synthesizer.stages.clear()
    spoken = list(synthesizer.speak(pieces))
    frames = sum(one.frames for one in spoken) / len(spoken)
    return SpokenBatch([one.samples for one in spoken], dict(synthesizer.stages.seconds), frames)


def _speak_streams(scheduler: Scheduler, settings: SpeakSettings, pieces: Sequence[Piece]) -> SpokenBatch:
    """The stages of streams overlap, and aren't timed apart."""
    speeches = [scheduler.submit([piece], settings) for piece in pieces]
    audios = [np.concatenate([chunk.samples for chunk in speech]) for speech in speeches]
    frames = [piece.frames for speech in speeches for piece in speech.results]
    first = tuple(speech.first_audio_seconds or 0.0 for speech in speeches)
    return SpokenBatch(audios, {}, sum(frames) / len(frames), first)


def run_benchmark(
    framework: str,
    benchmark: Benchmark,
    speak: Speak,
    precision: Precision,
    wn_channels: int,
    device: torch.device,
    audio: AudioConfig,
) -> None:
    """Measures a backend, stores the result and prints the classic's closing lines."""
    output_folder(benchmark.output)
    values = measure(benchmark, speak, device, audio.sampling_rate)
    settings = {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU",
        "batch_size": benchmark.batch_size,
        "batches": benchmark.batches,
        "input_length": benchmark.input_length,
        "precision": precision.upper(),
        "wn_channels": wn_channels,
        "iterations": benchmark.num_iters,
        "sampling_rate": audio.sampling_rate,
        "hop_length": audio.hop_length,
    }
    result = Result(framework, settings, values, Machine.this(device))
    names = benchmark.log_file, benchmark.log_suffix
    rows = report.store(benchmark.output, result, benchmark.parameters, *names)
    print("\n".join((*report.closing_lines(result), *rows)))


def measure(benchmark: Benchmark, speak: Speak, device: torch.device, sampling_rate: int) -> dict[str, list[float]]:
    """Runs the warm-ups and the timed iterations of a backend, with a bar; the values of the latter by name.

    Args:
        speak: from ids on the host to audio on the host.
        sampling_rate: of the audio, in Hz.
    """
    on_gpu = device.type == "cuda"
    values: dict[str, list[float]] = defaultdict(list)
    for iteration in tqdm(timed_runs(benchmark.num_iters, on_gpu), disable=None, leave=False):
        if iteration == 0:
            gc.collect()  # else the collection that the imports make due falls into one of the runs
            if on_gpu:
                torch.cuda.reset_peak_memory_stats(device)
        begun = time.perf_counter()
        pieces = _utterances(benchmark)
        _synchronize(device)
        started = time.perf_counter()
        spoken = speak(pieces)
        _synchronize(device)
        spoken_at = time.perf_counter()
        for index, audio in enumerate(spoken.audios):
            with audio_file(benchmark.output / f"audio_{index}.wav", sampling_rate, "float32") as wav:
                wav.append(audio)
        ended = time.perf_counter()
        if iteration < 0:
            continue
        stages = {stage: spoken.stages.get(stage, 0.0) for stage in STAGES}
        times = {"preprocessing": started - begun, "latency": spoken_at - started, "postprocessing": ended - spoken_at}
        for name, seconds in {**times, **stages}.items():
            values[name].append(seconds / benchmark.batches)
        values["frames"].append(spoken.frames)
        values["samples"].append(sum(map(len, spoken.audios)) / benchmark.batches)
        values["throughput"].append(values["samples"][-1] / values["latency"][-1])
        values["first_audio"] += spoken.first_audio
    if on_gpu:
        values["peak_device_memory"] = [torch.cuda.max_memory_allocated(device)]  # bytes
    return dict(values)


def _utterances(benchmark: Benchmark) -> list[Piece]:
    """The batches to speak, one after another."""
    text, pieces = classic_text(), []
    for index in range(benchmark.batch_size * benchmark.batches):
        encoded = encode(text, final_period=False)
        cut = EncodedText(encoded.text[: benchmark.input_length], encoded.ids[: benchmark.input_length], ())
        pieces.append(Piece(Phrase(index, cut.text), 0, True, cut))
    return pieces


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
