"""What benchmarks found: statistics, the classic's closing lines and CSV row, stored results and their table."""

import csv
import dataclasses
import json
import math
import os
import platform
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import torch

from benchmarks.offline import Benchmark, Run
from common.config import AudioConfig
from common.errors import UserError
from common.files import written_whole
from common.json_log import JsonLog
from common.metadata import Precision
from common.table import format_markdown
from pipeline.synthesizer import STAGES

PERCENTILES = (50, 90, 95, 99, 100)
CSV_HEADER = (
    "BATCH,INPUT_LEN,RUN_MODE,NUM_ITERS,LAT,LATSTD,LAT50,LAT90,LAT95,LAT99,THROUGHPUT,NUM_MELS".split(",")  # noqa: SIM905
)
PACKAGES = ("torch", "onnxruntime", "openvino", "tensorrt", "triton", "numpy")  # that make a backend what it is


@dataclass(frozen=True)
class Machine:
    """Where and with what a result was measured."""

    date: str  # ISO 8601, with the time zone
    command: str
    device: str  # the GPU's or the processor's name
    threads: int  # of PyTorch on the CPU
    cores: int  # that the process may use
    python: str
    versions: dict[str, str]  # by package, of those installed

    @classmethod
    def this(cls, device: torch.device) -> "Machine":
        return cls(
            date=datetime.now().astimezone().isoformat(timespec="seconds"),
            command=" ".join(sys.argv),
            device=torch.cuda.get_device_name(device) if device.type == "cuda" else processor_name(),
            threads=torch.get_num_threads(),
            cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
            python=platform.python_version(),
            versions=_versions(),
        )


@dataclass(frozen=True)
class Result:
    """What a benchmark measured, as it is stored and tabled. Times in seconds."""

    framework: str
    device: str  # "CPU", or the GPU's name
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
    hop_seconds: float = AudioConfig().hop_seconds  # of the model's mel frames
    first_audio_mean: float | None = None  # until an utterance's first chunk, where audio is streamed
    first_audio_percentiles: dict[int, float] = dataclasses.field(default_factory=dict)
    latencies: tuple[float, ...] = ()  # of each iteration
    machine: Machine | None = None
    batches: int = 1  # in a row

    @property
    def setting(self) -> tuple[object, ...]:
        """What results must share for one to be the other's baseline."""
        return (self.batch_size, self.batches, self.input_length, self.precision, self.device, self.wn_channels)


def summarize(
    framework: str,
    benchmark: Benchmark,
    runs: Sequence[Run],
    precision: Precision,
    wn_channels: int,
    device: torch.device,
    audio: AudioConfig,
) -> Result:
    """Statistics over the timed iterations. Throughput is the mean of each iteration's samples over its latency."""
    latencies = np.array([run.latency for run in runs])
    rates = np.array([run.samples / run.latency for run in runs])
    first = np.array([seconds for run in runs for seconds in run.first_audio])
    on_gpu = device.type == "cuda"
    return Result(
        framework=framework,
        device=torch.cuda.get_device_name(device) if on_gpu else "CPU",
        batch_size=benchmark.batch,
        input_length=benchmark.length,
        precision=precision.upper(),
        wn_channels=wn_channels,
        iterations=len(runs),
        latency_mean=float(latencies.mean()),
        latency_std=float(latencies.std()),
        latency_percentiles=_percentiles(latencies),
        samples_per_second=float(rates.mean()),
        audio_per_second=float(rates.mean()) / audio.sampling_rate,
        frames=float(np.mean([run.frames for run in runs])),
        stages={stage: float(np.mean([run.stages.get(stage, 0.0) for run in runs])) for stage in STAGES},
        preprocessing=float(np.mean([run.preprocessing for run in runs])),
        postprocessing=float(np.mean([run.postprocessing for run in runs])),
        peak_device_memory=torch.cuda.max_memory_allocated(device) if on_gpu else 0,
        hop_seconds=audio.hop_seconds,
        first_audio_mean=float(first.mean()) if len(first) else None,
        first_audio_percentiles=_percentiles(first) if len(first) else {},
        latencies=tuple(run.latency for run in runs),
        machine=Machine.this(device),
        batches=benchmark.batches,
    )


def store(
    folder: Path,
    result: Result,
    runs: Sequence[Run],
    parameters: Mapping[str, object],
    log_file: str = "nvlog.json",
    csv_file: str | None = None,
) -> None:
    """Writes the JSON log with every iteration, the result, and the CSV row where asked for."""
    with JsonLog(folder / log_file) as log:
        log.log("PARAMETER", parameters)
        for iteration, run in enumerate(runs):
            log.log([iteration], _log_entry(run, result))
    in_a_row = f"x{result.batches}" if result.batches > 1 else ""
    size = f"bs{result.batch_size}{in_a_row}_il{result.input_length}_{result.precision}_wn{result.wn_channels}"
    name = re.sub(r"[^\w+]+", "-", f"{result.framework}_{size}_{'cpu' if result.device == 'CPU' else 'gpu'}")
    with written_whole(folder / f"{name}.json") as temporary:
        temporary.write_text(json.dumps(dataclasses.asdict(result), indent=2) + "\n", encoding="utf-8")
    if csv_file:
        with written_whole(folder / csv_file) as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
            csv.writer(file).writerows((CSV_HEADER, _csv_row(result)))


def closing_lines(result: Result) -> list[str]:
    """The classic's closing lines, with the formulas of what they say."""
    stages, percentiles = result.stages, result.latency_percentiles
    tacotron2 = stages["encoder"] + stages["decoder"] + stages["postnet"]
    by_stage = [
        f"Tacotron2 latency average (seconds) = {tacotron2:.5f}",
        f"WaveGlow latency average (seconds) = {stages['waveglow']:.5f}",
        f"Denoiser latency average (seconds) = {stages['denoiser']:.5f}",
    ]
    lines = [
        "Latency: from symbol ids on the host to float audio on the host, device synchronised",
        "Throughput: mean over iterations of (audio samples of the batch / latency)",
        f"Throughput average (samples/sec) = {result.samples_per_second:.0f}",
        f"Preprocessing average (seconds) = {result.preprocessing:.5f}",
        f"Postprocessing average (seconds) = {result.postprocessing:.5f}",
        f"Number of mels per audio average = {result.frames:.1f}",
        *(by_stage if any(stages.values()) else ()),  # stages of streams overlap, and aren't told apart
        f"Latency average (seconds) = {result.latency_mean:.5f}",
        f"Latency std (seconds) = {result.latency_std:.5f}",
        *(f"Latency cl {p} (seconds) = {percentiles[p]:.5f}" for p in PERCENTILES),
        f"Audio seconds per second = {result.audio_per_second:.1f}",
        f"Peak device memory (MiB) = {result.peak_device_memory / 2**20:.0f}",
    ]
    if result.first_audio_mean is not None:
        first = result.first_audio_percentiles
        lines += [
            f"First audio average (seconds) = {result.first_audio_mean:.5f}",
            *(f"First audio cl {p} (seconds) = {first[p]:.5f}" for p in PERCENTILES),
        ]
    return lines


def read_results(folder: Path) -> list[Result]:
    """The results stored in a folder, slowest framework first within each batch size and input length.

    Raises:
        UserError: a file of that name isn't a result of this version.
    """
    results = []
    for path in sorted(folder.glob("*_bs*_il*_*.json")):
        try:
            fields = json.loads(path.read_text(encoding="utf-8"))
            for name in ("latency_percentiles", "first_audio_percentiles"):
                fields[name] = {int(p): seconds for p, seconds in fields.get(name, {}).items()}
            fields["latencies"] = tuple(fields.get("latencies", ()))
            fields["machine"] = Machine(**fields["machine"]) if fields.get("machine") else None
            results.append(Result(**fields))
        except (ValueError, TypeError, AttributeError) as error:
            raise UserError(f"{path}: not a benchmark's result ({error}); move it out of the folder") from error
    return sorted(results, key=lambda r: (r.batch_size, r.input_length, -r.latency_mean))


def results_table(results: Sequence[Result], baseline: str = "PyTorch") -> str:
    """The results table of the classic as Markdown; speed-up over the baseline's row of the same setting: batch, input,
    precision, device and width of WaveGlow."""
    headers = (
        "Framework,Batch size,Input length,Precision,Avg latency (s),Latency std (s),"
        "Latency confidence interval 90% (s),Latency confidence interval 95% (s),Latency confidence interval 99% (s),"
        f"Throughput (samples/sec),Speed-up over {baseline},Avg mels generated,Avg audio length (s),Avg RTF"
    ).split(",")
    baselines = {result.setting: result for result in results if result.framework == baseline}
    rows = []
    for r in results:
        base = baselines.get(r.setting)
        speedup = r.samples_per_second / base.samples_per_second if base else math.nan
        intervals = [f"{r.latency_percentiles[p]:.4f}" for p in (90, 95, 99)]
        batch = f"{r.batch_size}, {r.batches} in a row" if r.batches > 1 else str(r.batch_size)
        sizes = (batch, str(r.input_length), r.precision)
        rates = (f"{r.samples_per_second:,.0f}", f"{speedup:.2f}" if base else "-", f"{r.frames:.0f}")
        tail = (f"{r.frames * r.hop_seconds:.2f}", f"{r.audio_per_second:.1f}")
        rows.append((r.framework, *sizes, f"{r.latency_mean:.4f}", f"{r.latency_std:.4f}", *intervals, *rates, *tail))
    return format_markdown(headers, rows, "l" + "r" * (len(headers) - 1))


def processor_name() -> str:
    """The processor as Linux names it, else as Python does."""
    try:
        names = re.findall(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE)
    except OSError:
        names = []
    return names[0].strip() if names else platform.processor() or platform.machine()


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _percentiles(seconds: np.ndarray) -> dict[int, float]:
    return {p: float(np.percentile(seconds, p)) for p in PERCENTILES}


def _log_entry(run: Run, result: Result) -> dict[str, float]:
    stages = dict.fromkeys(STAGES, 0.0) | run.stages
    tacotron2 = stages["encoder"] + stages["decoder"] + stages["postnet"]
    entry = {
        "pre_processing": run.preprocessing,
        "tacotron2_encoder_time": stages["encoder"],
        "tacotron2_decoder_time": stages["decoder"],
        "tacotron2_postnet_time": stages["postnet"],
        "tacotron2_latency": tacotron2,
        "waveglow_latency": stages["waveglow"],
        "denoiser_latency": stages["denoiser"],
        "latency": run.latency,
        "num_mels_per_audio": run.frames,
        "storage": run.postprocessing,
        "throughput": run.samples / run.latency,
    }
    if tacotron2 and stages["waveglow"]:
        entry["tacotron2_items_per_sec"] = result.batch_size * run.frames / tacotron2
        entry["waveglow_items_per_sec"] = run.samples / stages["waveglow"]
    if run.first_audio:
        entry["first_audio"] = float(np.mean(run.first_audio))
    return entry


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
