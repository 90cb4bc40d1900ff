"""Measuring and reporting, once for all benchmarks: every backend is timed over the same region.

The region is from symbol ids on the host to float audio on the host, device synchronised. Text to ids
(pre-processing) and trimming and writing wavs (post-processing) are timed apart. Warm-ups come first and don't count.
"""

import argparse
import csv
import dataclasses
import json
import math
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from common.checkpoint import LoadedModel
from common.cli import ArgumentParser
from common.config import AudioConfig, Tacotron2Config, WaveGlowConfig
from common.errors import UserError
from common.files import REPOSITORY, output_folder, written_whole
from common.json_log import JsonLog
from common.phrases import Phrase, read_phrases
from common.table import format_markdown
from common.wav import wav_file
from pipeline.classic import Spoken
from pipeline.synthesizer import STAGES, Piece, SynthesisOptions, Synthesizer
from tacotron2.decoder import StopRule
from tacotron2.model import Tacotron2
from tacotron2.text import EncodedText, encode
from waveglow.model import WaveGlow

WARMUPS = 3
RANDOM_FRAMES = 600  # of each utterance when weights are random: 6.97 s of audio
NEVER = 1 - 1e-9  # a gate threshold that random weights don't pass
PERCENTILES = (50, 90, 95, 99, 100)
CSV_HEADER = (
    "BATCH,INPUT_LEN,RUN_MODE,NUM_ITERS,LAT,LATSTD,LAT50,LAT90,LAT95,LAT99,THROUGHPUT,NUM_MELS".split(",")  # noqa: SIM905
)


@dataclass(frozen=True)
class Run:
    """One timed pass over the region, and what lay outside of it."""

    latency: float  # seconds in the region
    stages: dict[str, float]  # seconds of it by stage; the rest is the host's
    frames: float  # mel frames of an utterance, on average
    samples: int  # audio samples of all utterances
    preprocessing: float  # seconds before the region
    postprocessing: float  # seconds after it


@dataclass(frozen=True)
class Result:
    """What a benchmark measured, as it is stored and tabled. Times in seconds."""

    framework: str
    device: str
    batch_size: int
    input_length: int
    precision: str
    wn_channels: int
    iterations: int
    latency_mean: float
    latency_std: float
    latency_percentiles: dict[int, float]
    samples_per_second: float
    audio_per_second: float  # seconds of audio per second of computing
    frames: float
    stages: dict[str, float]
    preprocessing: float
    postprocessing: float
    peak_device_memory: int  # bytes, as PyTorch allocated them; 0 on a CPU


def add_benchmark_flags(parser: ArgumentParser) -> None:
    """Adds the flags that every benchmark has, under the classic's names."""
    parser.add_argument("-s", "--sigma-infer", type=float, help="standard deviation of WaveGlow's noise [the model's]")
    parser.add_argument("-d", "--denoising-strength", type=float, default=0.01, help="of the denoiser, if it is on")
    parser.add_argument("-sr", "--sampling-rate", type=int, help="in Hz; must agree with the model's [the model's]")
    parser.add_argument("--stft-hop-length", type=int, help="in samples; must agree with the model's [the model's]")
    parser.add_argument("--num-iters", type=int, default=10, help=f"timed iterations; {WARMUPS} warm-ups come before")
    parser.add_argument("-il", "--input-length", type=int, default=64, help="symbols of each utterance")
    parser.add_argument("-bs", "--batch-size", type=int, default=1, help="utterances at once")
    parser.add_argument("--frames", type=int, help="fixed number of mel frames; without it the stop gate decides")
    parser.add_argument("-o", "--output", type=Path, default=Path("results"), help="folder for logs and results")
    parser.add_argument("--log-file", default="nvlog.json", help="JSON log, in the output folder")
    parser.add_argument("--csv", help="CSV file with one row, in the output folder")


def check_benchmark_flags(args: argparse.Namespace) -> None:
    """Raises UserError for values that make no sense, before anything is loaded."""
    for flag, value in (
        ("--num-iters", args.num_iters),
        ("-il", args.input_length),
        ("-bs", args.batch_size),
        ("--frames", args.frames),
    ):
        if value is not None and not 1 <= value <= 100_000:
            raise UserError(f"{flag} {value}: must be at least 1")
    if args.input_length > len(benchmark_text()):
        raise UserError(f"-il {args.input_length}: the benchmark's text has {len(benchmark_text())} characters")


def benchmark_text() -> str:
    """The classic benchmark's text: the phrase of phrases/phrase.txt twice."""
    phrase = read_phrases(REPOSITORY / "phrases" / "phrase.txt", [])[0].text
    return f"{phrase} {phrase}"


def utterances(args: argparse.Namespace) -> tuple[list[Piece], float]:
    """The batch to speak, `input_length` symbols each, and the seconds that text to ids took."""
    started = time.perf_counter()
    text = benchmark_text()
    pieces = []
    for index in range(args.batch_size):
        encoded = encode(text, final_period=False)
        cut = EncodedText(encoded.text[: args.input_length], encoded.ids[: args.input_length], ())
        pieces.append(Piece(Phrase(index, cut.text), 0, True, cut))
    return pieces, time.perf_counter() - started


def options(args: argparse.Namespace) -> SynthesisOptions:
    """Synthesis as the benchmark wants it: one batch, and a fixed number of frames where asked for."""
    stop = StopRule(NEVER, args.frames) if args.frames else StopRule()
    return SynthesisOptions(sigma=args.sigma_infer, stop=stop, batch_size=args.batch_size)


def random_models(wn_channels: int) -> tuple[LoadedModel, LoadedModel]:
    """Tacotron 2 and WaveGlow of NGC's dimensions with random weights, the same ones each time."""
    torch.manual_seed(0)
    tacotron2 = Tacotron2(Tacotron2Config()).eval().requires_grad_(False)
    waveglow = WaveGlow(WaveGlowConfig(wn_channels=wn_channels)).eval().requires_grad_(False)
    with torch.no_grad():
        for network in waveglow.WN:  # near identity, as training starts: twelve random scales would overflow FP16
            network.end.weight.mul_(0.02)  # type: ignore[operator,union-attr]
            network.end.bias.mul_(0.02)  # type: ignore[operator,union-attr]
    models: tuple[Tacotron2, WaveGlow] = (tacotron2, waveglow)
    loaded = [LoadedModel(model, AudioConfig(), "random", None, "random weights") for model in models]
    return loaded[0], loaded[1]


def speak_once(synthesizer: Synthesizer, pieces: Sequence[Piece]) -> Spoken:
    """Speaks the batch on a synthesizer."""
    synthesizer.stages.seconds.clear()
    spoken = list(synthesizer.speak_pieces([[piece] for piece in pieces]))
    frames = sum(one.frames for one in spoken) / len(spoken)
    return [one.audio for one in spoken], dict(synthesizer.stages.seconds), frames


def measure(
    args: argparse.Namespace,
    speak: Callable[[Sequence[Piece]], Spoken],
    device: torch.device,
) -> list[Run]:
    """Runs the warm-ups and then the timed iterations of a backend.

    Args:
        speak: from ids on the host to audio on the host.
    """
    folder = output_folder(args.output)
    runs = []
    for iteration in tqdm(range(WARMUPS + args.num_iters), disable=None, leave=False):
        if iteration == WARMUPS and device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        pieces, preprocessing = utterances(args)
        _synchronize(device)
        started = time.perf_counter()
        audios, stages, frames = speak(pieces)
        _synchronize(device)
        latency = time.perf_counter() - started
        postprocessing = _postprocess(folder, audios)
        if iteration >= WARMUPS:
            samples = sum(len(audio) for audio in audios)
            runs.append(Run(latency, stages, frames, samples, preprocessing, postprocessing))
    return runs


def summarize(
    framework: str,
    args: argparse.Namespace,
    runs: Sequence[Run],
    precision: str,
    wn_channels: int,
    device: torch.device,
) -> Result:
    """Statistics over the timed iterations. Throughput is the mean of each iteration's samples over its latency."""
    latencies = np.array([run.latency for run in runs])
    rates = np.array([run.samples / run.latency for run in runs])
    on_gpu = device.type == "cuda"
    return Result(
        framework=framework,
        device=torch.cuda.get_device_name(device) if on_gpu else "CPU",
        batch_size=args.batch_size,
        input_length=args.input_length,
        precision=precision.upper(),
        wn_channels=wn_channels,
        iterations=len(runs),
        latency_mean=float(latencies.mean()),
        latency_std=float(latencies.std()),
        latency_percentiles={p: float(np.percentile(latencies, p)) for p in PERCENTILES},
        samples_per_second=float(rates.mean()),
        audio_per_second=float(rates.mean()) / AudioConfig().sampling_rate,
        frames=float(np.mean([run.frames for run in runs])),
        stages={stage: float(np.mean([run.stages.get(stage, 0.0) for run in runs])) for stage in STAGES},
        preprocessing=float(np.mean([run.preprocessing for run in runs])),
        postprocessing=float(np.mean([run.postprocessing for run in runs])),
        peak_device_memory=torch.cuda.max_memory_allocated(device) if on_gpu else 0,
    )


def report(args: argparse.Namespace, result: Result, runs: Sequence[Run]) -> None:
    """Prints the classic's closing lines and writes the JSON log, the result and the CSV row where asked for."""
    folder = output_folder(args.output)
    with JsonLog(folder / args.log_file) as log:
        log.log("PARAMETER", {name: str(v) if isinstance(v, Path) else v for name, v in vars(args).items()})
        for iteration, run in enumerate(runs):
            log.log([iteration], _log_entry(run, result))
    name = re.sub(
        r"[^\w+]+", "-", f"{result.framework}_bs{result.batch_size}_il{result.input_length}_{result.precision}"
    )
    with written_whole(folder / f"{name}.json") as temporary:
        temporary.write_text(json.dumps(dataclasses.asdict(result), indent=2) + "\n")
    if args.csv:
        with written_whole(folder / args.csv) as temporary, open(temporary, "w", newline="") as file:
            csv.writer(file).writerows((CSV_HEADER, _csv_row(result)))
    for line in closing_lines(result):
        print(line)


def closing_lines(result: Result) -> list[str]:
    """The classic's closing lines, with the formulas of what they say."""
    stages, percentiles = result.stages, result.latency_percentiles
    tacotron2 = stages["encoder"] + stages["decoder"] + stages["postnet"]
    return [
        "Latency: from symbol ids on the host to float audio on the host, device synchronised",
        "Throughput: mean over iterations of (audio samples of the batch / latency)",
        f"Throughput average (samples/sec) = {result.samples_per_second:.0f}",
        f"Preprocessing average (seconds) = {result.preprocessing:.5f}",
        f"Postprocessing average (seconds) = {result.postprocessing:.5f}",
        f"Number of mels per audio average = {result.frames:.1f}",
        f"Tacotron2 latency average (seconds) = {tacotron2:.5f}",
        f"WaveGlow latency average (seconds) = {stages['waveglow']:.5f}",
        f"Denoiser latency average (seconds) = {stages['denoiser']:.5f}",
        f"Latency average (seconds) = {result.latency_mean:.5f}",
        f"Latency std (seconds) = {result.latency_std:.5f}",
        *(f"Latency cl {p} (seconds) = {percentiles[p]:.5f}" for p in PERCENTILES),
        f"Audio seconds per second = {result.audio_per_second:.1f}",
        f"Peak device memory (MiB) = {result.peak_device_memory / 2**20:.0f}",
    ]


def read_results(folder: Path) -> list[Result]:
    """The results stored in a folder, slowest framework first within each batch size and input length."""
    results = []
    for path in sorted(folder.glob("*_bs*_il*_*.json")):
        fields = json.loads(path.read_text())
        fields["latency_percentiles"] = {int(p): v for p, v in fields["latency_percentiles"].items()}
        results.append(Result(**fields))
    return sorted(results, key=lambda r: (r.batch_size, r.input_length, -r.latency_mean))


def results_table(results: Sequence[Result], baseline: str = "PyTorch") -> str:
    """The results table of the classic as Markdown; speed-up over the baseline row of the same batch and input."""
    headers = (
        "Framework,Batch size,Input length,Precision,Avg latency (s),Latency std (s),"
        "Latency confidence interval 90% (s),Latency confidence interval 95% (s),Latency confidence interval 99% (s),"
        f"Throughput (samples/sec),Speed-up over {baseline},Avg mels generated,Avg audio length (s),Avg RTF"
    ).split(",")
    baselines = {(r.batch_size, r.input_length): r for r in results if r.framework == baseline}
    rows = []
    for r in results:
        base = baselines.get((r.batch_size, r.input_length))
        speedup = r.samples_per_second / base.samples_per_second if base else math.nan
        seconds = r.frames * AudioConfig().hop_seconds
        intervals = [f"{r.latency_percentiles[p]:.4f}" for p in (90, 95, 99)]
        sizes = (str(r.batch_size), str(r.input_length), r.precision)
        rates = (f"{r.samples_per_second:,.0f}", f"{speedup:.2f}" if base else "-", f"{r.frames:.0f}")
        tail = (f"{seconds:.2f}", f"{r.audio_per_second:.1f}")
        rows.append((r.framework, *sizes, f"{r.latency_mean:.4f}", f"{r.latency_std:.4f}", *intervals, *rates, *tail))
    return format_markdown(headers, rows, "l" + "r" * (len(headers) - 1))


def _log_entry(run: Run, result: Result) -> dict[str, float]:
    stages = dict.fromkeys(STAGES, 0.0) | run.stages
    tacotron2 = stages["encoder"] + stages["decoder"] + stages["postnet"]
    return {
        "pre_processing": run.preprocessing,
        "tacotron2_encoder_time": stages["encoder"],
        "tacotron2_decoder_time": stages["decoder"],
        "tacotron2_postnet_time": stages["postnet"],
        "tacotron2_latency": tacotron2,
        "waveglow_latency": stages["waveglow"],
        "denoiser_latency": stages["denoiser"],
        "latency": run.latency,
        "tacotron2_items_per_sec": result.batch_size * run.frames / tacotron2,
        "waveglow_items_per_sec": run.samples / stages["waveglow"],
        "num_mels_per_audio": run.frames,
        "storage": run.postprocessing,
        "throughput": run.samples / run.latency,
    }


def _csv_row(result: Result) -> list[str]:
    mode = "cpu" if result.device == "CPU" else "gpu"
    percentiles = [f"{result.latency_percentiles[p]:.6f}" for p in (50, 90, 95, 99)]
    return [
        str(result.batch_size),
        str(result.input_length),
        f"{mode}_{result.precision.lower()}",
        str(result.iterations),
        f"{result.latency_mean:.6f}",
        f"{result.latency_std:.6f}",
        *percentiles,
        f"{result.samples_per_second:.1f}",
        f"{result.frames:.1f}",
    ]


def _postprocess(folder: Path, audios: Sequence[np.ndarray]) -> float:
    started = time.perf_counter()
    for index, audio in enumerate(audios):
        with wav_file(folder / f"audio_{index}.wav", AudioConfig().sampling_rate) as wav:
            wav.append(audio)
    return time.perf_counter() - started


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
