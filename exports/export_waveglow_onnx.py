"""Exports WaveGlow to waveglow.onnx, which carries the denoiser's bias too."""

import argparse
from pathlib import Path

from common.cli import ArgumentParser, given_flags, run
from common.config import AudioConfig, WaveGlowConfig
from exports.flags import add_export_flags, add_waveglow_flags, export_with_bar
from exports.voice import waveglow_voice_parts
from pipeline.flags import add_model_flags
from tacotron2.loading import DEMO_TACOTRON2
from waveglow.loading import DEMO_WAVEGLOW


def make_parser() -> ArgumentParser:
    parser = ArgumentParser(prog="export_waveglow_onnx.py", description=__doc__)
    add_export_flags(parser)
    add_waveglow_flags(parser)
    parser.add_argument(
        "--measure-on",
        type=Path,
        metavar="FILE",
        help="a Tacotron 2 checkpoint or a recording (.wav) of the voice, to measure what a rank loses [the demo "
        "voice's Tacotron 2, for its WaveGlow]",
    )
    add_model_flags(parser, WaveGlowConfig)
    return parser


def main(args: argparse.Namespace) -> None:
    measure_on = args.measure_on or (DEMO_TACOTRON2 if args.waveglow == DEMO_WAVEGLOW else None)
    flags = given_flags(args, WaveGlowConfig, AudioConfig)
    parts = waveglow_voice_parts(
        args.waveglow, args.precision, flags, args.sigma_infer, args.conditioning, measure_on, args.force
    )
    export_with_bar(parts, args.output)


if __name__ == "__main__":
    run(main, make_parser())
