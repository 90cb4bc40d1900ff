"""Exports a whole voice, Tacotron 2 and WaveGlow, to its four ONNX files; without flags, the demo voice."""

import argparse
from pathlib import Path

from common.cli import ArgumentParser, run
from exports.flags import add_export_flags, files_bar
from exports.voice import export_voice
from tacotron2.loading import DEMO_TACOTRON2
from waveglow.loading import DEMO_WAVEGLOW


def make_parser() -> ArgumentParser:
    parser = ArgumentParser(prog="export_voice.py", description=__doc__)
    parser.add_argument("--tacotron2", type=Path, default=DEMO_TACOTRON2, help="Tacotron 2 checkpoint")
    parser.add_argument("--waveglow", type=Path, default=DEMO_WAVEGLOW, help="WaveGlow checkpoint")
    add_export_flags(parser, "int8-decoder", "sigma-infer", "conditioning", "symbols")
    return parser


def main(args: argparse.Namespace) -> None:
    with files_bar(4) as on_file:
        export_voice(
            args.output,
            "fp16" if args.fp16 else "fp32",
            tacotron2=args.tacotron2,
            waveglow=args.waveglow,
            int8_decoder=args.int8_decoder,
            sigma=args.sigma_infer,
            conditioning=args.conditioning,
            force=args.force,
            sampling_rate=args.sampling_rate,
            symbols=args.symbols,
            on_file=on_file,
        )


if __name__ == "__main__":
    run(main, make_parser())
