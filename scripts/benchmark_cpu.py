"""Speaks a phrase file on the CPU, on ONNX Runtime and on PyTorch eager in turn, and compares them.

Prints a Markdown table: seconds of audio a second (model loading apart), the share of time spent outside the engines,
and the speed-up over PyTorch as the classic runs it. The runs alternate, so that whatever else the machine does falls
on all of them.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from tqdm import tqdm

from common.cli import ArgumentParser, run
from common.engine import Engine
from common.files import REPOSITORY
from common.metadata import PARTS, Part
from common.phrases import Phrase, read_phrases
from common.table import format_markdown
from common.timing import TimedEngine
from exports import export_tacotron2_onnx
from exports.voice import export_voice
from pipeline.classic import classic_speaker
from pipeline.model_files import open_engine, open_engines
from pipeline.synthesizer import Piece, SynthesisOptions, Synthesizer, prepare
from pipeline.torch_engines import torch_engines
from tacotron2.loading import DEMO_TACOTRON2, load_tacotron2
from waveglow.loading import DEMO_WAVEGLOW, load_waveglow

WARMUPS = 1
BASELINE = "PyTorch eager, the classic's loop"
CPU = torch.device("cpu")

Measured = tuple[float, float, float]  # seconds taken, seconds of them inside the engines, seconds of audio


def make_parser() -> ArgumentParser:
    parser = ArgumentParser(prog="benchmark_cpu.py", description=__doc__)
    parser.add_argument("-i", "--input", type=Path, default=REPOSITORY / "phrases" / "phrase.txt", help="phrase file")
    parser.add_argument("--num-iters", type=int, default=3, help="timed runs of each backend, after a warm-up")
    return parser


def main(args: argparse.Namespace) -> None:
    phrases = read_phrases(args.input, [])
    with tempfile.TemporaryDirectory() as folder:
        backends = make_backends(phrases, Path(folder))
    measured: dict[str, list[Measured]] = {name: [] for name in backends}
    for iteration in tqdm(range(WARMUPS + args.num_iters), disable=None, leave=False):
        for name, speak in backends.items():
            result = speak()
            if iteration >= WARMUPS:
                measured[name].append(result)
    speeds = {name: statistics.median(audio / taken for taken, _, audio in runs) for name, runs in measured.items()}
    rows = []
    for name, runs in measured.items():
        outside = statistics.median(1 - inside / taken for taken, inside, _ in runs)
        shown = "-" if name == BASELINE else f"{100 * outside:.1f} %"
        rows.append((name, f"{speeds[name]:.2f}", shown, f"{speeds[name] / speeds[BASELINE]:.2f}"))
    print(f"{len(phrases)} phrases, {torch.get_num_threads()} threads, median of {args.num_iters} runs")
    print(format_markdown(("Backend", "Audio s per s", "Outside engines", "Speed-up"), rows, "lrrr"))


def make_backends(phrases: list[Phrase], folder: Path) -> dict[str, Callable[[], Measured]]:
    """The backends by name; each speaks the phrases once when called."""
    export_voice(folder, "fp32")
    files = {part: folder / f"{part}.onnx" for part in PARTS}
    int8 = folder / "int8"
    parser = export_tacotron2_onnx.make_parser()
    export_tacotron2_onnx.main(parser.parse_args(["-o", str(int8), "--int8-decoder"]))
    onnx = open_engines(files)
    quantised: dict[Part, Engine] = {**onnx, "decoder_iter": open_engine(int8 / "decoder_iter.onnx", "decoder_iter")}
    eager = torch_engines(load_tacotron2(DEMO_TACOTRON2), load_waveglow(DEMO_WAVEGLOW), "fp32")
    pieces = [piece for of_phrase in prepare(phrases, SynthesisOptions(), 256) for piece in of_phrase]
    return {
        BASELINE: lambda: _classic(pieces),
        "PyTorch eager, this project's engines": lambda: _synthesizer(eager, phrases),
        "ONNX Runtime": lambda: _synthesizer(onnx, phrases),
        "ONNX Runtime, 8-bit decoder": lambda: _synthesizer(quantised, phrases),
    }


def _classic(pieces: list[Piece]) -> Measured:
    models = load_tacotron2(DEMO_TACOTRON2), load_waveglow(DEMO_WAVEGLOW)
    speak = classic_speaker(*models, "fp32", CPU, SynthesisOptions())
    started = time.perf_counter()
    samples = sum(len(speak([piece])[0][0]) for piece in pieces)
    return time.perf_counter() - started, 0.0, samples / models[1].audio.sampling_rate


def _synthesizer(engines: dict[Part, Engine], phrases: list[Phrase]) -> Measured:
    timed = {part: TimedEngine(engine) for part, engine in engines.items()}
    synthesizer = Synthesizer(timed, SynthesisOptions())  # type: ignore[arg-type]
    started = time.perf_counter()
    samples = sum(len(spoken.audio) for spoken in synthesizer.speak(phrases))
    taken = time.perf_counter() - started
    inside = sum(engine.seconds for engine in timed.values())
    return taken, inside, samples / synthesizer.audio_config.sampling_rate


if __name__ == "__main__":
    run(main, make_parser())
