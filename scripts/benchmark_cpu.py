"""Speaks a phrase file on ONNX Runtime and on PyTorch eager, in turn, on the CPU, and compares them.

Prints a Markdown table: seconds of audio a second (model loading apart), the share of time spent outside the engines,
and the speed-up over PyTorch. The runs alternate, so that whatever else the machine does falls on both.
"""

import argparse
import statistics
import time
from pathlib import Path

import torch
from tqdm import tqdm

from common.checkpoint import DEMO_TACOTRON2, DEMO_WAVEGLOW, REPOSITORY, load_tacotron2, load_waveglow
from common.cli import ArgumentParser, run
from common.engine import Engine
from common.metadata import PARTS, Part
from common.parts import torch_engines
from common.phrases import Phrase, read_phrases
from common.synthesizer import SynthesisOptions, Synthesizer
from common.table import format_markdown
from common.timing import TimedEngine
from trt.models import close_engines, default_paths, export_demo_voice, open_engines

WARMUPS = 1


def make_parser() -> ArgumentParser:
    parser = ArgumentParser(prog="benchmark_cpu.py", description=__doc__)
    parser.add_argument("-i", "--input", type=Path, default=REPOSITORY / "phrases" / "phrase.txt", help="phrase file")
    parser.add_argument("--models", type=Path, default=Path("output"), help="folder of the demo voice's ONNX files")
    parser.add_argument("--num-iters", type=int, default=3, help="timed runs of each backend, after a warm-up")
    return parser


def main(args: argparse.Namespace) -> None:
    phrases = read_phrases(args.input, [])
    paths = default_paths(args.models, "fp32")
    if paths is None:
        export_demo_voice(args.models, "fp32")
        paths = {part: args.models / f"{part}.onnx" for part in PARTS}
    backends: dict[str, dict[Part, Engine]] = {
        "ONNX Runtime": open_engines(paths),
        "PyTorch eager": dict(torch_engines(load_tacotron2(DEMO_TACOTRON2), load_waveglow(DEMO_WAVEGLOW), "fp32")),
    }
    timed = {
        name: {part: TimedEngine(engine) for part, engine in engines.items()} for name, engines in backends.items()
    }
    latencies: dict[str, list[float]] = {name: [] for name in backends}
    outside: dict[str, list[float]] = {name: [] for name in backends}
    audio_seconds = 0.0
    for iteration in tqdm(range(WARMUPS + args.num_iters), disable=None, leave=False):
        for name, engines in timed.items():
            latency, in_engines, audio_seconds = _measure(engines, phrases)
            if iteration >= WARMUPS:
                latencies[name].append(latency)
                outside[name].append(1 - in_engines / latency)
    baseline = statistics.median(latencies["PyTorch eager"])
    rows = [
        (
            name,
            f"{audio_seconds / statistics.median(latencies[name]):.2f}",
            f"{100 * statistics.median(outside[name]):.1f} %",
            f"{baseline / statistics.median(latencies[name]):.2f}",
        )
        for name in backends
    ]
    threads = torch.get_num_threads()
    print(f"{len(phrases)} phrases, {audio_seconds:.2f} s of audio, {threads} threads, median of {args.num_iters} runs")
    print(format_markdown(("Backend", "Audio s per s", "Outside engines", "Speed-up"), rows, "lrrr"))
    for opened in backends.values():
        close_engines(opened)


def _measure(engines: dict[Part, TimedEngine], phrases: list[Phrase]) -> tuple[float, float, float]:
    # -> seconds taken, seconds of them inside the engines, seconds of audio
    synthesizer = Synthesizer(engines, SynthesisOptions())  # type: ignore[arg-type]
    for engine in engines.values():
        engine.seconds = 0.0
    started = time.perf_counter()
    samples = sum(len(spoken.audio) for spoken in synthesizer.speak(phrases))
    latency = time.perf_counter() - started
    return latency, sum(engine.seconds for engine in engines.values()), samples / synthesizer.audio_config.sampling_rate


if __name__ == "__main__":
    run(main, make_parser())
