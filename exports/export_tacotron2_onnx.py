"""Exports Tacotron 2 to encoder.onnx, decoder_iter.onnx and postnet.onnx."""

import argparse

from common.cli import ArgumentParser, given_flags, run
from common.config import AudioConfig, Tacotron2Config
from exports.flags import add_export_flags, add_tacotron2_flags, export_with_bar
from exports.voice import tacotron2_voice_parts
from pipeline.flags import add_model_flags


def make_parser() -> ArgumentParser:
    parser = ArgumentParser(prog="export_tacotron2_onnx.py", description=__doc__)
    add_export_flags(parser)
    add_tacotron2_flags(parser)
    add_model_flags(parser, Tacotron2Config)
    return parser


def main(args: argparse.Namespace) -> None:
    flags = given_flags(args, Tacotron2Config, AudioConfig)
    parts = tacotron2_voice_parts(args.tacotron2, args.precision, flags, args.int8_decoder, args.symbols)
    export_with_bar(parts, args.output)


if __name__ == "__main__":
    run(main, make_parser())
