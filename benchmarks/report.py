"""Results of whole texts as the classic reported them: closing lines, log, CSV row. As a script: a folder's table."""

import argparse
import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from benchmarks.result import PERCENTILES, Result, read_result, table, write_results
from common.cli import ArgumentParser, run
from common.errors import UserError
from common.files import write_whole
from common.json_log import JsonLog

CSV_HEADER = "BATCH,INPUT_LEN,RUN_MODE,NUM_ITERS,LAT,LATSTD,LAT50,LAT90,LAT95,LAT99,THROUGHPUT,NUM_MELS"
TACOTRON2 = ("encoder", "decoder", "postnet")
BASELINE = "PyTorch"
_SETTING = ("batch_size", "batches", "input_length", "precision", "device", "wn_channels")  # equal where two compare


def closing_lines(result: Result) -> list[str]:
    """The classic's closing lines, with the formulas of what they say."""
    tacotron2 = sum(map(result.mean, TACOTRON2))
    lines = [
        "Latency: from symbol ids on the host to float audio on the host, device synchronised",
        "Throughput: mean over iterations of (audio samples of the batch / latency)",
        f"Throughput average (samples/sec) = {result.mean('throughput'):.0f}",
        f"Preprocessing average (seconds) = {result.mean('preprocessing'):.5f}",
        f"Postprocessing average (seconds) = {result.mean('postprocessing'):.5f}",
        f"Number of mels per audio average = {result.mean('frames'):.1f}",
    ]
    if tacotron2:  # the stages of streams aren't timed
        lines += [
            f"Tacotron2 latency average (seconds) = {tacotron2:.5f}",
            f"WaveGlow latency average (seconds) = {result.mean('waveglow'):.5f}",
            f"Denoiser latency average (seconds) = {result.mean('denoiser'):.5f}",
        ]
    lines += _latency_lines("Latency", result, "latency")
    lines.append(f"Audio seconds per second = {_audio_rate(result):.1f}")
    if memory := result.values.get("peak_device_memory"):
        lines.append(f"Peak device memory (MiB) = {memory[0] / 2**20:.0f}")
    if result.values["first_audio"]:
        lines += _latency_lines("First audio", result, "first_audio")
    return lines


def _latency_lines(title: str, result: Result, name: str) -> list[str]:
    return [
        f"{title} average (seconds) = {result.mean(name):.5f}",
        f"{title} std (seconds) = {result.std(name):.5f}",
        *(f"{title} cl {p} (seconds) = {result.percentile(name, p):.5f}" for p in PERCENTILES),
    ]


def _audio_rate(result: Result) -> float:
    """Seconds of audio per second of computing."""
    return result.mean("throughput") / result.settings["sampling_rate"]


def store(
    folder: Path, result: Result, parameters: Mapping[str, object], log_file: str, log_suffix: str | None = None
) -> list[str]:
    """Writes the JSON log with every iteration, the result, and where there is a suffix a log of one row: its lines."""
    with JsonLog(folder / log_file) as log:
        log.log("PARAMETER", parameters)
        for iteration in range(len(result.values["latency"])):
            log.log([iteration], _log_entry(result, iteration))
    settings = result.settings
    in_a_row = f"x{settings['batches']}" if settings["batches"] > 1 else ""
    size = f"bs{settings['batch_size']}{in_a_row}_il{settings['input_length']}"
    name = f"{result.subject}_{size}_{settings['precision']}_wn{settings['wn_channels']}_{_run_mode(result)[:3]}"
    file_name = re.sub(r"[^\w+]+", "-", name)
    write_results(folder / f"{file_name}.json", result)
    if log_suffix is None:
        return []
    rows = [CSV_HEADER, _csv_row(result)]
    write_whole(folder / log_name(result, log_suffix), "".join(f"{row}\r\n" for row in rows).encode())
    return rows


def log_name(result: Result, suffix: str) -> str:
    """The name of the file with the CSV row, as `test_infer.sh` gives it."""
    settings = result.settings
    backend = re.sub(r"[^a-z0-9]+", "-", result.subject.lower().replace(", this project's loop", "-loop"))
    size = f"bs{settings['batch_size']}_il{settings['input_length']}"
    return f"log_{size}_{_run_mode(result)}_wn{settings['wn_channels']}_{backend}_{suffix}.log"


def _run_mode(result: Result) -> str:
    return f"{'cpu' if result.settings['device'] == 'CPU' else 'gpu'}_{result.settings['precision'].lower()}"


def _log_entry(result: Result, iteration: int) -> dict[str, float]:
    run = {name: values[iteration] for name, values in result.values.items() if iteration < len(values)}
    batch, tacotron2 = result.settings["batch_size"], sum(run[stage] for stage in TACOTRON2)
    entry = {
        "pre_processing": run["preprocessing"],
        "tacotron2_encoder_time": run["encoder"],
        "tacotron2_decoder_time": run["decoder"],
        "tacotron2_postnet_time": run["postnet"],
        "tacotron2_latency": tacotron2,
        "waveglow_latency": run["waveglow"],
        "denoiser_latency": run["denoiser"],
        "latency": run["latency"],
        "num_mels_per_audio": run["frames"],
        "storage": run["postprocessing"],
        "throughput": run["throughput"],
    }
    if tacotron2 and run["waveglow"]:
        entry["tacotron2_items_per_sec"] = batch * run["frames"] / tacotron2
        entry["waveglow_items_per_sec"] = run["samples"] / run["waveglow"]
    if first := result.values["first_audio"]:
        entry["first_audio"] = float(np.mean(first[iteration * batch : (iteration + 1) * batch]))
    return entry


def _csv_row(result: Result) -> str:
    """As CSV_HEADER names its columns."""
    latencies = [result.mean("latency"), result.std("latency")]
    latencies += [result.percentile("latency", p) for p in (50, 90, 95, 99)]
    size, iterations = result.settings, len(result.values["latency"])
    return (
        f"{size['batch_size']},{size['input_length']},{_run_mode(result)},{iterations},"
        f"{','.join(f'{seconds:.6f}' for seconds in latencies)},"
        f"{result.mean('throughput'):.1f},{result.mean('frames'):.1f}"
    )


def read_results(folder: Path) -> list[Result]:
    """The results in a folder by batch size and input length, the slowest first. Raises UserError for other files."""
    results = [read_result(path) for path in sorted(folder.glob("*_bs*_il*_*.json"))]
    sizes = ("batch_size", "input_length")
    return sorted(results, key=lambda r: (*(r.settings[size] for size in sizes), -r.mean("latency")))


def results_table(results: Sequence[Result]) -> str:
    """The classic's table as Markdown; speed-up over the row of BASELINE with the same settings."""
    baselines = {_setting(result): result.mean("throughput") for result in results if result.subject == BASELINE}

    def speedup(result: Result) -> str:
        ratio = result.mean("throughput") / baselines.get(_setting(result), math.nan)
        return "-" if math.isnan(ratio) else f"{ratio:.2f}"

    def batch(result: Result) -> str:
        batches = result.settings["batches"]
        return f"{result.settings['batch_size']}{f', {batches} in a row' if batches > 1 else ''}"

    def seconds(result: Result) -> float:
        return result.mean("frames") * result.settings["hop_length"] / result.settings["sampling_rate"]

    columns: dict[str, Callable[[Result], str]] = {
        "Framework": lambda r: r.subject,
        "Batch size": batch,
        "Input length": lambda r: str(r.settings["input_length"]),
        "Precision": lambda r: r.settings["precision"],
        "Avg latency (s)": lambda r: f"{r.mean('latency'):.4f}",
        "Latency std (s)": lambda r: f"{r.std('latency'):.4f}",
        "Latency confidence interval 90% (s)": lambda r: f"{r.percentile('latency', 90):.4f}",
        "Latency confidence interval 95% (s)": lambda r: f"{r.percentile('latency', 95):.4f}",
        "Latency confidence interval 99% (s)": lambda r: f"{r.percentile('latency', 99):.4f}",
        "Throughput (samples/sec)": lambda r: f"{r.mean('throughput'):,.0f}",
        f"Speed-up over {BASELINE}": speedup,
        "Avg mels generated": lambda r: f"{r.mean('frames'):.0f}",
        "Avg audio length (s)": lambda r: f"{seconds(r):.2f}",
        "Avg RTF": lambda r: f"{_audio_rate(r):.1f}",
    }
    return table(results, columns)


def _setting(result: Result) -> tuple[object, ...]:
    return tuple(result.settings[name] for name in _SETTING)


def make_parser() -> ArgumentParser:
    about = "Prints the results that benchmarks of whole texts left in a folder as one Markdown table."
    parser = ArgumentParser(prog="report.py", description=about)
    parser.add_argument("folder", type=Path, help="folder that benchmarks were given as --output")
    return parser


def main(args: argparse.Namespace) -> None:
    results = read_results(args.folder)
    if not results:
        raise UserError(f"{args.folder}: holds no results; run a benchmark with -o {args.folder} first")
    print(results_table(results))
    print(
        "\nLatency: from symbol ids on the host to float audio on the host, device synchronised; warm-ups apart."
        "\nThroughput: mean of (audio samples of the batch / latency). Avg RTF: seconds of audio per second."
    )


if __name__ == "__main__":
    run(main, make_parser())
