"""Exports a whole voice, Tacotron 2 and WaveGlow, to its four ONNX files; without flags, the demo voice."""

import argparse

from common.cli import ArgumentParser, run
from exports.flags import add_export_flags, add_tacotron2_flags, add_waveglow_flags, export_with_bar
from exports.voice import tacotron2_voice_parts, waveglow_voice_parts


def make_parser() -> ArgumentParser:
    parser = ArgumentParser(prog="export_voice.py", description=__doc__)
    add_export_flags(parser)
    add_tacotron2_flags(parser)
    add_waveglow_flags(parser)
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
