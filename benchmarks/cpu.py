"""Speaks a phrase file on the CPU with every backend in turn, and compares them.

Prints two Markdown tables: seconds of audio a second (model loading apart), the share of time spent outside the engines
and the speed-up over PyTorch as the classic runs it; and the time that each part takes of a second of audio. The
backends alternate, so that whatever else the machine does falls on all of them.
"""

import argparse
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.classic import classic_speaker
from benchmarks.machine import Machine
from benchmarks.result import Result, table, timed_runs
from common.cli import ArgumentParser, bounded_int, run
from common.cpu_backend import is_openvino_installed, usable_cores
from common.engine import Engine
from common.errors import UserError
from common.files import REPOSITORY
from common.metadata import PARTS, Part
from common.phrases import Phrase, read_phrases
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


Backend = Callable[[], dict[str, float]]  # speaks all phrases: seconds of audio, taken, and inside each part's engine


def make_parser() -> ArgumentParser:
    parser = ArgumentParser(prog="cpu.py", description=__doc__)
    parser.add_argument("-i", "--input", type=Path, default=REPOSITORY / "phrases" / "phrase.txt", help="phrase file")
    parser.add_argument("--num-iters", type=bounded_int(1, 1000), default=3, help="timed runs, after a warm-up")
    return parser


def main(args: argparse.Namespace) -> None:
    phrases = read_phrases(args.input, [])
    with tempfile.TemporaryDirectory() as folder:
        results = measure(make_backends(phrases, Path(folder)), args.num_iters)
    baseline = _speed(next(result for result in results if result.subject == BASELINE))
    columns: dict[str, Callable[[Result], str]] = {
        "Backend": lambda result: result.subject,
        "Audio s per s": lambda result: f"{_speed(result):.2f}",
        "Range": lambda result: f"{_speed(result, 0):.2f} to {_speed(result, 100):.2f}",
        "Outside engines": _outside,
        "Speed-up": lambda result: f"{_speed(result) / baseline:.2f}",
    }
    print(f"{len(phrases)} phrases, {usable_cores()} cores, median of {args.num_iters} runs")
    print(table(results, columns))
    parts = {PART_NAMES.get(part, part): partial(_milliseconds, part) for part in PARTS}
    timed = [result for result in results if "waveglow" in result.values]
    print("\nMilliseconds for a second of audio:")
    print(table(timed, {"Backend": lambda result: result.subject, **parts}))


def measure(backends: Mapping[str, Backend], iterations: int) -> list[Result]:
    """Runs the backends in turn, after a warm-up of each. Each run is a line on standard error."""
    values: dict[str, dict[str, list[float]]] = {name: defaultdict(list) for name in backends}
    for iteration in timed_runs(iterations, on_gpu=False):
        for name, speak in backends.items():
            found = speak()
            found["speed"] = found["audio"] / found["taken"]
            run_name = f"run {iteration + 1} of {iterations}" if iteration >= 0 else "warm-up"
            print(f"{name}, {run_name}: {found['speed']:.2f} s of audio a second", file=sys.stderr, flush=True)
            if iteration >= 0:
                for key, value in found.items():
                    values[name][key].append(value)
    return [Result(name, {}, dict(found), Machine.this()) for name, found in values.items()]


def _speed(result: Result, percent: float = 50) -> float:
    return result.percentile("speed", percent)


def _outside(result: Result) -> str:
    """The share of the time that the engines don't take, where it is known."""
    if "waveglow" not in result.values:
        return "-"
    return f"{1 - sum(result.rate(part) for part in PARTS):.1%}"


def _milliseconds(part: Part, result: Result) -> str:
    return f"{1e3 * result.rate(part, 'audio'):.0f}"


def make_backends(phrases: Sequence[Phrase], folder: Path) -> dict[str, Backend]:
    """The backends by name; `folder` gets the demo voice's files, which are needed while they are opened."""
    print("exporting the demo voice in three forms", file=sys.stderr, flush=True)
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

    def speak() -> dict[str, float]:
        started = time.perf_counter()
        samples = sum(len(classic([piece]).audios[0]) for piece in pieces)
        return {"audio": samples / models[1].audio.sampling_rate, "taken": time.perf_counter() - started}

    return speak


def backend(engines: Mapping[Part, Engine], phrases: Sequence[Phrase]) -> Backend:
    """A voice on these engines, with the time inside of each."""
    inside = {part: timed_engine(engine) for part, engine in engines.items()}
    voice = Voice(engines)
    texts = [phrase.text for phrase in phrases]

    def speak() -> dict[str, float]:
        for runs in inside.values():
            runs.clear()
        started = time.perf_counter()
        seconds = 0.0
        for _, audio in voice.speak_many(texts):
            if isinstance(audio, UserError):
                raise audio
            seconds += audio.seconds
        taken = time.perf_counter() - started
        return {"audio": seconds, "taken": taken} | {part: sum(runs) for part, runs in inside.items()}

    return speak


def timed_engine(engine: Engine) -> list[float]:
    """The seconds of each run of an engine from now on; of one on the CPU, which returns when it is done."""
    seconds: list[float] = []
    bind = engine.bind

    def timed_bind(tensors: Mapping[str, Tensor]) -> Callable[[], None]:
        run_bound = bind(tensors)

        def timed_run() -> None:
            started = time.perf_counter()
            run_bound()
            seconds.append(time.perf_counter() - started)

        return timed_run

    engine.bind = timed_bind  # type: ignore[method-assign]  # it stays an engine of its own kind
    return seconds


if __name__ == "__main__":
    run(main, make_parser())
