"""Checks TensorRT on this machine's GPU, from building the engines to speech, and prints a report to paste.

It needs an NVIDIA GPU: it checks that every engine gives the results of ONNX Runtime on the same file, in FP16 without
infinities, and that the whole pipeline speaks the same on both.
"""

import argparse
import platform
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from unittest import mock

import numpy as np
import onnxruntime
import torch
from torch import Tensor

from common.cli import ArgumentParser, run
from common.engine import Engine, infer
from common.errors import UserError
from common.files import output_folder
from common.metadata import PARTS, Part, Precision
from common.onnx_engine import OnnxEngine
from common.random_streams import RandomStreams
from exports.onnx_file import TOLERANCE, example_inputs
from exports.voice import export_voice
from pipeline import Voice
from pipeline.audio import Audio
from pipeline.settings import SpeakSettings, WorkSettings
from tacotron2.decoder import StopRule, Utterance
from tacotron2.decoder_graph import TEXT_BUCKETS, BlockDecoder
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
PARITY_MEL_FRAMES = 120  # at most, where the profile allows so few: ONNX Runtime computes them on the CPU
MINIMUM_PEAK = 1e-3  # of audio that is not silent
SETTINGS = SpeakSettings()
LOOP_STEPS = 200  # frames that the two forms of the decoder loop are compared on
LOOP_TOLERANCE = 1e-2  # of log mel: the same kernels run on the same numbers
# The gate fires when a number passes a threshold, so the rounding of FP16 can move an utterance's end by some frames.
LENGTH_TOLERANCE = 0.05
SHORTEST_TOLERANCE = 0.035  # seconds: three frames


Check = tuple[str, Callable[[], str]]  # its name, and what runs it: returns what it found, or raises what failed


def _require(condition: bool, finding: str) -> None:
    if not condition:
        raise UserError(finding)


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
    report: list[str] = []

    def add(*lines: str) -> None:
        report.extend(lines)
        print("\n".join(lines), flush=True)

    add(
        f"## TensorRT check: {gpu.name}, {precision.upper()}",
        "",
        f"- GPU: {gpu.name}, compute capability {bindings.dotted(gpu.compute_capability)}",
        f"- {tensorrt.product} {tensorrt.version}; PyTorch {torch.__version__}, CUDA {torch.version.cuda}",
        f"- Python {platform.python_version()}, ONNX Runtime {onnxruntime.__version__}, {platform.platform()}",
        "",
        "| check | result | detail |",
        "| --- | --- | --- |",
    )
    counts = {"passed": 0, "FAILED": 0}
    for name, check in checks(args.models, folder, precision, args.batch_size, tensorrt):
        try:
            detail, result = check(), "passed"
        except Exception as error:  # any failure on an unknown machine belongs into the report
            kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
            detail, result = kind + " ".join(str(error).split()), "FAILED"
        counts[result] += 1
        add(f"| {name} | {result} | {detail} |")
    add("", f"{counts['passed']} passed, {counts['FAILED']} failed")
    path = folder / f"report_{precision}.md"
    path.write_text("\n".join(report) + "\n", encoding="utf-8")
    print(f"Written to {path}: please add it to your report, whatever it says.")
    if counts["FAILED"]:
        raise UserError(f"{counts['FAILED']} of {sum(counts.values())} checks failed")


def checks(
    models: Path | None, folder: Path, precision: Precision, batch: SizeRange, tensorrt: bindings.TensorRT
) -> Iterator[Check]:
    """Yields checks, each to be run before the next is asked for. One that needs a failed one's result is left out."""
    if models is None:
        models = folder / f"onnx_{precision}"
        if not all((models / f"{part}.onnx").exists() for part in PARTS):
            export_voice(models, precision)
    files = {part: models / f"{part}.onnx" for part in PARTS}
    paths: dict[Part, Path] = {}
    for part in PARTS:
        yield f"build {part}", partial(_build, files[part], part, folder, BuildOptions(batch=batch), paths)
    for part in paths:
        yield f"{part} as ONNX Runtime", partial(_parity, paths[part], files[part], part, batch)
    yield from _portable(files["postnet"], folder, tensorrt, batch)
    if len(paths) < len(PARTS):
        return
    yield "captured decoder loop as the plain one", partial(_loops, paths, batch)
    spoken: dict[str, list[Audio]] = {}
    for name, chosen in (("TensorRT", paths), ("ONNX Runtime", files)):
        yield f"speech on {name}", partial(_speak, name, chosen, batch, spoken)
    if len(spoken) == 2:
        yield "same speech", partial(_compare, *spoken.values())
    yield "streamed speech", partial(_stream, paths, batch)


def _build(file: Path, part: Part, folder: Path, options: BuildOptions, paths: dict[Part, Path]) -> str:
    built = build_engine(file, part, folder, options, force=True)
    paths[part] = built.path
    return f"{built.seconds:.1f} s, {built.record.plan_bytes / 1e6:.1f} MB"


def _parity(path: Path, file: Path, part: Part, batch: SizeRange) -> str:
    """The engine against ONNX Runtime on the same random inputs.

    The smallest sizes come first, while scratch memory is no larger than TensorRT asks for them: its two manuals differ
    in whether that suffices. Middle sizes come twice, since speech goes back and forth between shapes.
    """
    with closing(TensorRTEngine(path, part)) as engine, closing(OnnxEngine(file, part)) as reference:
        low, high = ({symbol: limits[end] for symbol, limits in engine.limits.items()} for end in (0, 1))
        high["mel"] = min(high.get("mel", 0), PARITY_MEL_FRAMES)
        middle = {"batch": min(3, batch.max), "text": 37, "mel": 57}
        smallest, largest = ({"batch": 1, "text": 1, "mel": 1, **sizes} for sizes in (low, high))
        tolerance, worst = TOLERANCE[engine.metadata.precision][part], 0.0
        for seed, sizes in enumerate((smallest, middle, largest, middle)):
            inputs = example_inputs(engine.metadata, sizes, seed)
            with engine.gpu.own_stream():
                found = infer(engine, **_on_gpu(engine, inputs))
                engine.gpu.synchronize()
            expected = infer(reference, **inputs)
            for name, tensor in found.items():
                ours, theirs = tensor.float().cpu(), expected[name].float()
                _require(bool(torch.isfinite(ours).all()), f"{name} is not finite at {sizes}")
                worst = max(worst, float((ours - theirs).abs().max() / theirs.abs().max().clamp_min(1e-6)))
                _require(
                    worst <= tolerance, f"{name} differs by {worst:.1e} of its range at {sizes}, over {tolerance:.0e}"
                )
    return f"largest difference {worst:.1e} of the output's range, tolerance {tolerance:.0e}"


def _on_gpu(engine: Engine, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.to(engine.device) for name, tensor in tensors.items()}


def _portable(file: Path, folder: Path, tensorrt: bindings.TensorRT, batch: SizeRange) -> Iterator[Check]:
    """Checks for one of TensorRT's products: engines for other versions and GPUs, or kernels that are kept."""
    if tensorrt.flavour == "tensorrt_rtx":
        yield "compiled kernels are kept", partial(_kept_kernels, folder)
        return
    paths: dict[Part, Path] = {}
    options = BuildOptions(batch=batch, version_compatible=True, same_compute_capability=True)
    portable = output_folder(folder / "portable")
    yield "build a version-compatible postnet", partial(_build, file, "postnet", portable, options, paths)
    if not paths:
        return
    parity = partial(_parity, paths["postnet"], file, "postnet", batch)
    yield "version-compatible postnet as ONNX Runtime", parity
    with mock.patch.dict(sys.modules, {"tensorrt": None}):
        try:
            lean = bindings.load("tensorrt_lean")
        except UserError:
            return  # it isn't installed
        yield f"version-compatible postnet on the lean runtime {lean.version}", parity


def _kept_kernels(folder: Path) -> str:
    """The kernels that earlier checks compiled."""
    kept = {path.name: path.stat().st_size for path in folder.glob("*.engine.cache")}
    _require(len(kept) == len(PARTS), f"kept for {len(kept)} of {len(PARTS)} engines")
    return f"{sum(kept.values()) / 1e6:.1f} MB"


def _loops(paths: Mapping[Part, Path], batch: SizeRange) -> str:
    """The decoder loop in CUDA graphs against the plain one: batches of changing size, one after another."""
    with ExitStack() as stack:
        encoder = stack.enter_context(closing(TensorRTEngine(paths["encoder"], "encoder")))
        decoder = stack.enter_context(closing(TensorRTEngine(paths["decoder_iter"], "decoder_iter")))
        _require(decoder.capturable, "the decoder can't be recorded in a CUDA graph")
        captured = stack.enter_context(closing(BlockDecoder(decoder)))
        plain = stack.enter_context(closing(BlockDecoder(decoder, cuda_graph=False)))
        with torch.inference_mode(), decoder.gpu.own_stream():
            worst = max(_loop_difference(encoder, captured, plain, size) for size in (batch.max, batch.min, batch.max))
    return "identical" if worst == 0 else f"largest difference of the mels {worst:.1e}"


def _loop_difference(encoder: Engine, captured: BlockDecoder, plain: BlockDecoder, batch: int) -> float:
    """The largest difference between the mels of both loops, on one random batch."""
    inputs = example_inputs(encoder.metadata, {"batch": batch, "text": TEXT_BUCKETS[1]})
    memory = infer(encoder, **_on_gpu(encoder, inputs))
    rule = StopRule(max_decoder_steps=LOOP_STEPS)

    def utterances() -> list[Utterance]:
        lengths = inputs["sequence_lengths"].tolist()
        return [Utterance(length, RandomStreams(0, str(item)), rule) for item, length in enumerate(lengths)]

    expected, found = (
        loop.decode(memory["memory"], memory["processed_memory"], utterances()) for loop in (plain, captured)
    )
    _require(expected.frames == found.frames, f"batch {batch}: {found.frames} frames, not {expected.frames}")
    _require(bool(torch.isfinite(found.mels).all()), f"batch {batch}: the mel is not finite")
    worst = max(
        float((expected.mels[item, :, :frames] - found.mels[item, :, :frames]).float().abs().max())
        for item, frames in enumerate(expected.frames)
    )
    _require(worst <= LOOP_TOLERANCE, f"batch {batch}: the mels differ by {worst:.1e}, over {LOOP_TOLERANCE:.0e}")
    return worst


def _speak(name: str, paths: Mapping[Part, Path], batch: SizeRange, spoken: dict[str, list[Audio]]) -> str:
    with Voice.load(paths, work=WorkSettings(batch_size=batch.max)) as voice:
        voice.speak(TEXTS[0], SETTINGS)  # the first run of a shape sets kernels up
        started = time.perf_counter()
        audios = [_sound(audio, f"phrase {index}") for index, audio in voice.speak_many(TEXTS, SETTINGS)]
        seconds = time.perf_counter() - started
    spoken[name] = audios
    return f"{sum(audio.seconds for audio in audios):.2f} s of audio in {seconds:.2f} s"


def _stream(paths: Mapping[Part, Path], batch: SizeRange) -> str:
    with Voice.load(paths, work=WorkSettings(batch_size=batch.max)) as voice:
        list(voice.stream(TEXTS[0], SETTINGS))  # records the graphs
        started = time.perf_counter()
        stream = voice.stream(TEXTS[0], SETTINGS)
        chunks = [next(stream)]
        first = time.perf_counter() - started
        chunks += stream
        streamed = _sound(Audio.join(chunks), "the stream")
        _compare([streamed], [voice.speak(TEXTS[0], SETTINGS)])
    return f"{len(chunks)} chunks, {streamed.seconds:.2f} s of audio, the first after {1000 * first:.0f} ms"


def _sound(audio: Audio | UserError, name: str) -> Audio:
    """Audio that can be heard. Raises UserError for what can't."""
    if isinstance(audio, UserError):
        raise audio
    _require(bool(np.isfinite(audio.samples).all()), f"{name} is not finite")
    _require(float(np.abs(audio.samples).max()) > MINIMUM_PEAK, f"{name} is silent")
    return audio


def _compare(found: Sequence[Audio], expected: Sequence[Audio]) -> str:
    details = []
    for ours, theirs in zip(found, expected, strict=True):
        details.append(f"{ours.seconds:.2f} and {theirs.seconds:.2f} s")
        apart, allowed = abs(ours.seconds - theirs.seconds), LENGTH_TOLERANCE * theirs.seconds
        _require(apart <= max(SHORTEST_TOLERANCE, allowed), f"speech of {details[-1]}")
    return "; ".join(details)


if __name__ == "__main__":
    run(main, make_parser())
