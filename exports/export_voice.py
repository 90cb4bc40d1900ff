"""Exports a whole voice, Tacotron 2 and WaveGlow, to its four ONNX files; without flags, the demo voice."""

import argparse
from pathlib import Path

from common.cli import ArgumentParser, run
from exports.flags import add_export_flags, export_with_bar
from exports.voice import tacotron2_voice_parts, waveglow_voice_parts
from tacotron2.loading import DEMO_TACOTRON2
from waveglow.loading import DEMO_WAVEGLOW


def make_parser() -> ArgumentParser:
    parser = ArgumentParser(prog="export_voice.py", description=__doc__)
    parser.add_argument("--tacotron2", type=Path, default=DEMO_TACOTRON2, help="Tacotron 2 checkpoint")
    parser.add_argument("--waveglow", type=Path, default=DEMO_WAVEGLOW, help="WaveGlow checkpoint")
    add_export_flags(parser, "int8-decoder", "sigma-infer", "conditioning", "symbols")
    return parser


def main(args: argparse.Namespace) -> None:
    flags = {"sampling_rate": args.sampling_rate}
    parts = tacotron2_voice_parts(args.tacotron2, args.precision, flags, args.int8_decoder, args.symbols)
    parts |= waveglow_voice_parts(
        args.waveglow, args.precision, flags, args.sigma_infer, args.conditioning, args.tacotron2, args.force
    )
    export_with_bar(parts, args.output)


if __name__ == "__main__":
    run(main, make_parser())
