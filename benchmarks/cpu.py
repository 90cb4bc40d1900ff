"""Speaks a phrase file on the CPU with every backend in turn, and compares them.

Prints two Markdown tables: seconds of audio a second (model loading apart), the share of time spent outside the engines
and the speed-up over PyTorch as the classic runs it; and the time that each part takes of a second of audio. The
backends alternate, so that whatever else the machine does falls on all of them.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from benchmarks.classic import classic_speaker
from common.cli import ArgumentParser, run
from common.cpu_backend import is_openvino_installed, usable_cores
from common.engine import Engine
from common.errors import UserError
from common.files import REPOSITORY
from common.metadata import PARTS, Part
from common.phrases import Phrase, read_phrases
from common.table import format_markdown
from common.timing import TimedEngine
from exports.voice import export_voice
from pipeline.model_files import open_engine, open_engines
from pipeline.pieces import prepare
from pipeline.settings import MAX_SYMBOLS, SpeakSettings
from pipeline.torch_engines import torch_engines
from pipeline.voice import Voice
from tacotron2.loading import DEMO_TACOTRON2, load_tacotron2
from waveglow.loading import DEMO_WAVEGLOW, load_waveglow

BASELINE = "PyTorch eager, the classic's loop"
PART_NAMES = {"decoder_iter": "decoder", "waveglow": "WaveGlow"}


@dataclass(frozen=True)
class Measurement:
    """One run: seconds of audio, seconds taken, and of them seconds inside each part's engine (none if not known)."""

    audio: float
    taken: float
    parts: Mapping[Part, float] = field(default_factory=dict)


Backend = Callable[[], Measurement]  # speaks all phrases once


def make_parser() -> ArgumentParser:
    parser = ArgumentParser(prog="cpu.py", description=__doc__)
    parser.add_argument("-i", "--input", type=Path, default=REPOSITORY / "phrases" / "phrase.txt", help="phrase file")
    parser.add_argument("--num-iters", type=int, default=3, help="timed runs of each backend, after a warm-up")
    return parser


def main(args: argparse.Namespace) -> None:
    if args.num_iters < 1:
        raise UserError(f"--num-iters {args.num_iters}: must be at least 1")
    phrases = read_phrases(args.input, [])
    with tempfile.TemporaryDirectory() as folder:
        measured = measure(make_backends(phrases, Path(folder)), args.num_iters)
    print(f"{len(phrases)} phrases, {usable_cores()} cores, median of {args.num_iters} runs")
    print(f"{speed_table(measured)}\n\nMilliseconds for a second of audio:\n{part_table(measured)}")


def measure(backends: Mapping[str, Backend], iterations: int) -> dict[str, list[Measurement]]:
    """Runs the backends in turn, after a warm-up of each; a list of `iterations` measurements for each.

    Each run is a line on standard error.
    """
    measured: dict[str, list[Measurement]] = {name: [] for name in backends}
    for iteration in range(1 + iterations):
        for name, speak in backends.items():
            measurement = speak()
            run_name = f"run {iteration} of {iterations}" if iteration else "warm-up"
            speed = measurement.audio / measurement.taken
            print(f"{name}, {run_name}: {speed:.2f} s of audio a second", file=sys.stderr, flush=True)
            if iteration > 0:
                measured[name].append(measurement)
    return measured


def speed_table(measured: Mapping[str, Sequence[Measurement]]) -> str:
    """A Markdown table of each backend's speed: the median, its range, and its ratio to the baseline's."""
    speeds = {name: [one.audio / one.taken for one in runs] for name, runs in measured.items()}
    baseline = statistics.median(speeds[BASELINE])
    rows = []
    for name, runs in measured.items():
        speed = statistics.median(speeds[name])
        outside = statistics.median(1 - sum(one.parts.values()) / one.taken for one in runs)
        shown = f"{100 * outside:.1f} %" if runs[0].parts else "-"
        spread = f"{min(speeds[name]):.2f} to {max(speeds[name]):.2f}"
        rows.append((name, f"{speed:.2f}", spread, shown, f"{speed / baseline:.2f}"))
    return format_markdown(("Backend", "Audio s per s", "Range", "Outside engines", "Speed-up"), rows, "lrrrr")


def part_table(measured: Mapping[str, Sequence[Measurement]]) -> str:
    """A Markdown table of the milliseconds that each part takes for a second of audio, on each backend."""
    rows = [
        (name, *(f"{1e3 * statistics.median(one.parts[part] / one.audio for one in runs):.0f}" for part in PARTS))
        for name, runs in measured.items()
        if runs[0].parts
    ]
    return format_markdown(("Backend", *(PART_NAMES.get(part, part) for part in PARTS)), rows, "lrrrr")


def make_backends(phrases: Sequence[Phrase], folder: Path) -> dict[str, Backend]:
    """The backends by name; `folder` gets the demo voice's files, which are needed while they are opened."""
    print("exporting the demo voice", file=sys.stderr, flush=True)
    files = export_voice(folder / "fp32")
    onnx = open_engines(files, cpu_backend="onnxruntime")
    engines: dict[str, dict[Part, Engine]] = {
        "PyTorch eager, this project's engines": torch_engines(
            load_tacotron2(DEMO_TACOTRON2), load_waveglow(DEMO_WAVEGLOW), "fp32"
        ),
        "ONNX Runtime": onnx,
    }
    forms: dict[str, tuple[Part, dict[Part, Path]]] = {
        "ONNX Runtime, exact conditioning": ("waveglow", export_voice(folder / "exact", conditioning="exact")),
        "ONNX Runtime, 8-bit decoder": ("decoder_iter", export_voice(folder / "int8", int8_decoder=True)),
    }
    for name, (part, exported) in forms.items():
        engines[name] = {**onnx, part: open_engine(exported[part], part, cpu_backend="onnxruntime")}
    if is_openvino_installed():
        engines["OpenVINO"] = open_engines(files, cpu_backend="openvino")
    engines["auto"] = open_engines(files)
    return {BASELINE: classic_backend(phrases)} | {name: backend(four, phrases) for name, four in engines.items()}


def classic_backend(phrases: Sequence[Phrase]) -> Backend:
    """The demo voice as the classic speaks it, in eager PyTorch, a phrase at a time."""
    settings = SpeakSettings()
    models = load_tacotron2(DEMO_TACOTRON2), load_waveglow(DEMO_WAVEGLOW)
    classic = classic_speaker(*models, "fp32", torch.device("cpu"), settings)
    pieces = [piece for phrase in prepare(phrases, settings, MAX_SYMBOLS) for piece in phrase.pieces]

    def speak() -> Measurement:
        started = time.perf_counter()
        samples = sum(len(classic([piece]).audios[0]) for piece in pieces)
        return Measurement(samples / models[1].audio.sampling_rate, time.perf_counter() - started)

    return speak


def backend(engines: Mapping[Part, Engine], phrases: Sequence[Phrase]) -> Backend:
    """A voice on these engines, with the time inside of each."""
    timed: dict[Part, TimedEngine] = {part: TimedEngine(engine) for part, engine in engines.items()}
    voice = Voice(timed)  # type: ignore[arg-type]
    texts = [phrase.text for phrase in phrases]

    def speak() -> Measurement:
        for engine in timed.values():
            engine.seconds = 0.0
        started = time.perf_counter()
        seconds = 0.0
        for _, audio in voice.speak_many(texts):
            if isinstance(audio, UserError):
                raise audio
            seconds += audio.seconds
        taken = time.perf_counter() - started
        return Measurement(seconds, taken, {part: engine.seconds for part, engine in timed.items()})

    return speak


if __name__ == "__main__":
    run(main, make_parser())
