"""Exports Tacotron 2 to encoder.onnx, decoder_iter.onnx and postnet.onnx."""

import argparse
from pathlib import Path

from common.cli import ArgumentParser, given_flags, run
from common.config import AudioConfig, Tacotron2Config
from exports.flags import add_export_flags, export_with_bar
from exports.voice import tacotron2_voice_parts
from pipeline.flags import add_model_flags
from tacotron2.loading import DEMO_TACOTRON2


def make_parser() -> ArgumentParser:
    parser = ArgumentParser(prog="export_tacotron2_onnx.py", description=__doc__)
    parser.add_argument("--tacotron2", type=Path, default=DEMO_TACOTRON2, help="Tacotron 2 checkpoint")
    add_export_flags(parser, "int8-decoder", "symbols")
    add_model_flags(parser, Tacotron2Config)
    return parser


def main(args: argparse.Namespace) -> None:
    flags = given_flags(args, Tacotron2Config, AudioConfig)
    parts = tacotron2_voice_parts(args.tacotron2, args.precision, flags, args.int8_decoder, args.symbols)
    export_with_bar(parts, args.output)


if __name__ == "__main__":
    run(main, make_parser())
