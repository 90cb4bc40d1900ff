"""Checks TensorRT on this machine's GPU, from building the engines to speech, and prints a report to paste.

What a machine without an NVIDIA GPU can't check: that every engine computes what ONNX Runtime computes from the same
file, in FP16 without infinities; and that the whole pipeline on them says the same as on ONNX Runtime.
"""

import argparse
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import onnxruntime
import torch

from common.cli import ArgumentParser, run
from common.engine import Engine, infer
from common.errors import UserError
from common.files import output_folder
from common.metadata import PARTS, Part, Precision
from common.onnx_engine import OnnxEngine
from common.phrases import Phrase
from common.random_streams import RandomStreams
from exports.onnx_file import TOLERANCE, example_inputs
from exports.voice import export_voice
from pipeline.model_files import close_engines, open_engines
from pipeline.synthesizer import SpokenPiece, SynthesisOptions, Synthesizer
from tacotron2.decoder import StopRule
from tacotron2.decoder_graph import BUCKETS, CapturedDecoder, PlainDecoder
from trt import bindings
from trt.build import BuildOptions, build_engine
from trt.engine import TensorRTEngine
from trt.export_onnx2trt import size_range
from trt.record import SizeRange

TEXTS = (
    "The forms of printed letters should be beautiful.",
    "She sells seashells by the seashore, shells she sells are great.",
    "Hello.",
)
MEL_FRAMES = 120  # that parity is checked on, where the profile allows so few: ONNX Runtime computes them on the CPU
MINIMUM_PEAK = 1e-3  # of audio that is not silent
OPTIONS = SynthesisOptions(keep_pictures=True)
LOOP_STEPS = 200  # frames that the two forms of the decoder loop are compared on
LOOP_TOLERANCE = 1e-2  # of log mel: the same kernels run on the same numbers
# The gate fires when a number passes a threshold, so the rounding of FP16 can move an utterance's end by some frames.
FRAMES_TOLERANCE = 0.05


@dataclass(frozen=True)
class Check:
    name: str
    passed: bool
    detail: str


class _CheckFailedError(Exception):
    """What a check found; its message goes into the report."""


def _require(condition: bool, finding: str) -> None:
    if not condition:
        raise _CheckFailedError(finding)


def make_parser() -> ArgumentParser:
    parser = ArgumentParser(prog="verify_gpu.py", description=__doc__.splitlines()[0])
    parser.add_argument(
        "-o", "--output", type=Path, default=Path("output/verify"), help="folder for the engines and the report"
    )
    parser.add_argument("--models", type=Path, help="folder with the four ONNX files to check [the demo voice's]")
    parser.add_argument("--fp32", action="store_true", help="check FP32 instead of FP16")
    parser.add_argument("-bs", "--batch-size", type=size_range, default=SizeRange(1, 4, 8), help="of the engines")
    return parser


def main(args: argparse.Namespace) -> None:
    precision: Precision = "fp32" if args.fp32 else "fp16"
    try:
        gpu = bindings.find_gpu()
    except UserError as error:
        raise UserError(f"{error}; run this on the machine with the GPU") from error
    tensorrt = bindings.load()
    folder = output_folder(args.output)
    report = [
        f"## TensorRT check: {gpu.name}, {precision.upper()}",
        "",
        f"- GPU: {gpu.name}, compute capability {bindings.dotted(gpu.compute_capability)}",
        f"- {tensorrt.product} {tensorrt.version}; PyTorch {torch.__version__}, CUDA {torch.version.cuda}",
        f"- Python {platform.python_version()}, ONNX Runtime {onnxruntime.__version__}, {platform.platform()}",
        "",
        "| check | result | detail |",
        "| --- | --- | --- |",
    ]
    print("\n".join(report), flush=True)
    checks: list[Check] = []
    for check in verify(args.models, folder, precision, args.batch_size):
        checks.append(check)
        report.append(f"| {check.name} | {'passed' if check.passed else 'FAILED'} | {check.detail} |")
        print(report[-1], flush=True)
    failed = sum(not check.passed for check in checks)
    report += ["", f"{len(checks) - failed} passed, {failed} failed"]
    print("\n".join(report[-2:]))
    path = folder / f"report_{precision}.md"
    path.write_text("\n".join(report) + "\n", encoding="utf-8")
    print(f"Written to {path}: please add it to your report, whatever it says.")
    if failed:
        raise UserError(f"{failed} of {len(checks)} checks failed")


def verify(models: Path | None, folder: Path, precision: Precision, batch: SizeRange):
    """Yields one `Check` after another; what later ones need and earlier ones failed to give, they don't check."""
    if models is None:
        models = folder / f"onnx_{precision}"
        if not all((models / f"{part}.onnx").exists() for part in PARTS):
            export_voice(models, precision)
    files = {part: models / f"{part}.onnx" for part in PARTS}
    paths: dict[Part, Path] = {}
    for part in PARTS:
        yield _checked(f"build {part}", partial(_build, files[part], part, folder, batch, paths))
    for part in paths:
        yield _checked(f"{part} as ONNX Runtime", partial(_parity, paths[part], files[part], part, batch))
    if len(paths) < len(PARTS):
        return
    yield _checked("captured decoder loop as the plain one", partial(_loops, paths, batch))
    spoken: dict[str, list[SpokenPiece]] = {}
    for name, chosen in (("TensorRT", paths), ("ONNX Runtime", files)):
        yield _checked(f"speech on {name}", partial(_speak, name, chosen, batch, spoken))
    if len(spoken) == 2:
        yield _checked("same speech", partial(_compare, *spoken.values()))


def _checked(name: str, check: Callable[[], str]) -> Check:
    try:
        return Check(name, True, check())
    except _CheckFailedError as error:
        return Check(name, False, str(error))
    except Exception as error:  # whatever goes wrong on a machine we have not seen belongs into the report
        return Check(name, False, " ".join(f"{type(error).__name__}: {error}".split()))


def _build(file: Path, part: Part, folder: Path, batch: SizeRange, paths: dict[Part, Path]) -> str:
    built = build_engine(file, part, folder, BuildOptions(batch=batch), force=True)
    paths[part] = built.path
    return f"{built.seconds:.1f} s, {built.record.plan_bytes / 1e6:.1f} MB"


def _parity(path: Path, file: Path, part: Part, batch: SizeRange) -> str:
    """The engine against ONNX Runtime on the same random inputs, at its smallest sizes, its largest batch and text,
    and between, going back and forth between shapes as speech does."""
    engine, reference = TensorRTEngine(path, part), OnnxEngine(file, part)
    try:
        low, high = ({symbol: limits[end] for symbol, limits in engine.limits.items()} for end in (0, 1))
        high["mel"] = min(high.get("mel", 0), MEL_FRAMES)
        middle = {"batch": min(3, batch.max), "text": 37, "mel": 57}
        smallest, largest = ({"batch": 1, "text": 1, "mel": 1, **sizes} for sizes in (low, high))
        tolerance, worst = TOLERANCE[engine.metadata.precision][part], 0.0
        for seed, sizes in enumerate((middle, smallest, largest, middle)):
            inputs = example_inputs(engine.metadata, sizes, seed)
            found = infer(engine, **{name: tensor.to(engine.device) for name, tensor in inputs.items()})
            expected = infer(reference, **inputs)
            for name, tensor in found.items():
                ours, theirs = tensor.float().cpu(), expected[name].float()
                _require(bool(torch.isfinite(ours).all()), f"{name} is not finite at {sizes}")
                worst = max(worst, float((ours - theirs).abs().max() / theirs.abs().max().clamp_min(1e-6)))
                _require(
                    worst <= tolerance, f"{name} differs by {worst:.1e} of its range at {sizes}, over {tolerance:.0e}"
                )
    finally:
        engine.close()
        reference.close()
    return f"largest difference {worst:.1e} of the output's range, tolerance {tolerance:.0e}"


def _loops(paths: Mapping[Part, Path], batch: SizeRange) -> str:
    """The decoder loop in CUDA graphs against the plain one: batches of changing size, one after another."""
    encoder, decoder = (
        TensorRTEngine(paths["encoder"], "encoder"),
        TensorRTEngine(paths["decoder_iter"], "decoder_iter"),
    )
    captured = CapturedDecoder(decoder)
    worst = 0.0
    try:
        for size in (batch.max, batch.min, batch.max):
            inputs = example_inputs(encoder.metadata, {"batch": size, "text": BUCKETS[1]})
            memory = infer(encoder, **{name: tensor.to(encoder.device) for name, tensor in inputs.items()})
            lengths = inputs["sequence_lengths"].tolist()
            plain, ours = (
                loop(
                    memory["memory"],
                    memory["processed_memory"],
                    lengths,
                    [RandomStreams(0, item, 0) for item in range(size)],
                    StopRule(max_decoder_steps=LOOP_STEPS),
                )
                for loop in (PlainDecoder(decoder), captured)
            )
            _require(plain.frames == ours.frames, f"batch {size}: {ours.frames} frames, not {plain.frames}")
            _require(bool(torch.isfinite(ours.mels).all()), f"batch {size}: the mel is not finite")
            for item, frames in enumerate(plain.frames):
                apart = (plain.mels[item, :, :frames] - ours.mels[item, :, :frames]).float().abs().max()
                worst = max(worst, float(apart))
            _require(
                worst <= LOOP_TOLERANCE, f"batch {size}: the mels differ by {worst:.1e}, over {LOOP_TOLERANCE:.0e}"
            )
    finally:
        captured.close()
        decoder.close()
        encoder.close()
    return "identical" if worst == 0 else f"largest difference of the mels {worst:.1e}"


def _speak(name: str, paths: Mapping[Part, Path], batch: SizeRange, spoken: dict[str, list[SpokenPiece]]) -> str:
    engines: dict[Part, Engine] = open_engines(paths)
    try:
        synthesizer = Synthesizer(engines, replace(OPTIONS, batch_size=batch.max))
        phrases = [Phrase(i, text) for i, text in enumerate(TEXTS)]
        for piece in synthesizer.speak(phrases[:1]):  # the first run of a shape sets kernels up
            _require(piece.frames > 0, "the first phrase has no frames")
        started = time.perf_counter()
        pieces = list(synthesizer.speak(phrases))
        seconds = time.perf_counter() - started
    finally:
        close_engines(engines)
    for piece in pieces:
        index = piece.piece.phrase.index
        _require(bool(np.isfinite(piece.audio).all()), f"phrase {index} is not finite")
        _require(float(np.abs(piece.audio).max()) > MINIMUM_PEAK, f"phrase {index} is silent")
    spoken[name] = pieces
    audio = sum(len(piece.audio) for piece in pieces) / synthesizer.audio_config.sampling_rate
    return f"{audio:.2f} s of audio in {seconds:.2f} s"


def _compare(found: list[SpokenPiece], expected: list[SpokenPiece]) -> str:
    details = []
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.mel is not None
        assert theirs.mel is not None
        both = min(ours.frames, theirs.frames)
        apart = abs(ours.frames - theirs.frames)
        difference = float(np.abs(ours.mel[:, :both] - theirs.mel[:, :both]).mean())
        detail = f"{ours.frames} and {theirs.frames} frames, mean mel difference {difference:.3f}"
        _require(apart <= max(3, FRAMES_TOLERANCE * theirs.frames), f"phrase {ours.piece.phrase.index}: {detail}")
        details.append(detail)
    return "; ".join(details)


if __name__ == "__main__":
    run(main, make_parser())
