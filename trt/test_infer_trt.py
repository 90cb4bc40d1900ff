"""Benchmarks Tacotron 2 and WaveGlow on TensorRT engines or ONNX files."""

import argparse
from pathlib import Path

from common.benchmark import (
    add_benchmark_flags,
    check_benchmark_flags,
    measure,
    options,
    report,
    speak_once,
    summarize,
)
from common.cli import ArgumentParser, run
from common.engine import part_flag
from common.errors import UserError
from common.metadata import PARTS
from common.synthesizer import Synthesizer
from trt.models import close_engines, open_engines
from waveglow.config import WaveGlowConfig
from waveglow.denoiser import Denoiser

FRAMEWORKS = {".onnx": "ONNX Runtime", ".engine": "TensorRT", ".plan": "TensorRT"}


def make_parser() -> ArgumentParser:
    parser = ArgumentParser(prog="test_infer_trt.py", description=__doc__)
    add_benchmark_flags(parser)
    models = parser.add_argument_group("models")
    for part in PARTS:
        models.add_argument(
            part_flag(part), type=Path, dest=part, required=True, help=f"{part} .engine, .plan or .onnx file"
        )
    models.add_argument("--waveglow-ckpt", default="", help="classic flag: anything given turns the denoiser on")
    models.add_argument("--denoise", action="store_true", help="run the denoiser too")
    models.add_argument("--fp16", action="store_true", help="the models are in half precision")
    models.add_argument("--threads", type=int, help="CPU threads for .onnx files [all cores]")
    return parser


def main(args: argparse.Namespace) -> None:
    check_benchmark_flags(args)
    engines = open_engines({part: getattr(args, part) for part in PARTS}, args.threads)
    try:
        metadata = engines["waveglow"].metadata
        if args.fp16 and metadata.precision != "fp16":
            raise UserError(f"{args.waveglow} is {metadata.precision}, but --fp16 was given; export it with --fp16")
        denoiser = None
        if args.denoise or args.waveglow_ckpt:
            denoiser = Denoiser.beside(args.waveglow, metadata.audio, args.denoising_strength)
        synthesizer = Synthesizer(engines, options(args), denoiser)
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
