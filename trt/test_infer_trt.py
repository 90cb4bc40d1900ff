"""Benchmarks Tacotron 2 and WaveGlow on TensorRT engines or ONNX files."""

import argparse
from pathlib import Path

from common.cli import ArgumentParser, run
from common.config import WaveGlowConfig
from common.engine import part_flag
from common.errors import UserError
from common.metadata import PARTS
from pipeline.benchmark import (
    add_benchmark_flags,
    check_benchmark_flags,
    measure,
    options,
    report,
    speak_once,
    summarize,
)
from pipeline.flags import add_run_flags, check_audio_flags, check_precision, denoiser_for, runtime_choice
from pipeline.model_files import close_engines, open_engines
from pipeline.synthesizer import Synthesizer

FRAMEWORKS = {".onnx": "ONNX Runtime", ".engine": "TensorRT", ".plan": "TensorRT"}


def make_parser() -> ArgumentParser:
    parser = ArgumentParser(prog="test_infer_trt.py", description=__doc__)
    add_benchmark_flags(parser)
    models = parser.add_argument_group("models")
    for part in PARTS:
        models.add_argument(
            part_flag(part), type=Path, dest=part, required=True, help=f"{part} .engine, .plan or .onnx file"
        )
    models.add_argument("--denoise", action="store_true", help="run the denoiser too")
    add_run_flags(models)
    return parser


def main(args: argparse.Namespace) -> None:
    check_benchmark_flags(args)
    engines = open_engines({part: getattr(args, part) for part in PARTS}, **runtime_choice(args))
    try:
        metadata = engines["waveglow"].metadata
        check_precision(args, engines)
        check_audio_flags(args, metadata.audio)
        synthesizer = Synthesizer(engines, options(args), denoiser_for(args, engines))
        if synthesizer.batch_size < args.batch_size:
            most = synthesizer.batch_size
            raise UserError(f"-bs {args.batch_size}: the engines take {most} at most; build them with a wider -bs")
        device = engines["waveglow"].device
        runs = measure(args, lambda pieces: speak_once(synthesizer, pieces), device)
        kinds = dict.fromkeys(FRAMEWORKS.get(getattr(args, part).suffix, "?") for part in PARTS)
        assert isinstance(metadata.model, WaveGlowConfig)
        result = summarize(" + ".join(kinds), args, runs, metadata.precision, metadata.model.wn_channels, device)
        report(args, result, runs)
    finally:
        close_engines(engines)


if __name__ == "__main__":
    run(main, make_parser())
