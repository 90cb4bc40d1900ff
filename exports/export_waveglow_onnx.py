"""Exports WaveGlow to waveglow.onnx, which carries the denoiser's bias too."""

import argparse
from pathlib import Path

from common.cli import ArgumentParser, run
from common.config import AudioConfig, WaveGlowConfig
from common.metadata import Precision
from exports.flags import add_export_flags, files_bar
from exports.voice import check_choices, export_parts, waveglow_voice_parts
from pipeline.flags import add_model_flags, given_flags
from waveglow.loading import DEMO_WAVEGLOW


def make_parser() -> ArgumentParser:
    parser = ArgumentParser(prog="export_waveglow_onnx.py", description=__doc__)
    parser.add_argument("--waveglow", type=Path, default=DEMO_WAVEGLOW, help="WaveGlow checkpoint")
    add_export_flags(parser, "sigma-infer")
    add_model_flags(parser, WaveGlowConfig)
    return parser


def main(args: argparse.Namespace) -> None:
    precision: Precision = "fp16" if args.fp16 else "fp32"
    check_choices(precision, sigma=args.sigma_infer)
    flags = given_flags(args, WaveGlowConfig, AudioConfig)
    parts = waveglow_voice_parts(args.waveglow, precision, flags, args.sigma_infer)
    with files_bar(len(parts)) as on_file:
        export_parts(parts, args.output, on_file)


if __name__ == "__main__":
    run(main, make_parser())
