"""Flags that the three export scripts share, and an export with a progress bar."""

import argparse
from pathlib import Path

from tqdm import tqdm

from exports.voice import ExportedFile, Parts, export_parts
from pipeline.flags import add_conditioning_flag, add_symbols_flag
from tacotron2.loading import DEMO_TACOTRON2
from waveglow.loading import DEMO_WAVEGLOW


def add_export_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder for the ONNX files")
    parser.add_argument(
        "--fp16",
        dest="precision",
        action="store_const",
        const="fp16",
        default="fp32",
        help="store weights and compute in half precision",
    )
    parser.add_argument(
        "--sampling-rate", type=int, metavar="HZ", help="of the voice, where its checkpoint doesn't say it [22050]"
    )


def add_tacotron2_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--tacotron2", type=Path, default=DEMO_TACOTRON2, help="Tacotron 2 checkpoint")
    add_symbols_flag(parser)
    parser.add_argument(
        "--int8-decoder", action="store_true", help="store the decoder's LSTMs in 8 bits, for CPUs: smaller and faster"
    )


def add_waveglow_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--waveglow", type=Path, default=DEMO_WAVEGLOW, help="WaveGlow checkpoint")
    parser.add_argument(
        "-s",
        "--sigma-infer",
        type=float,
        help="standard deviation of the noise that the file stores as its default [the checkpoint's own, else 0.6]",
    )
    add_conditioning_flag(parser)
    parser.add_argument("--force", action="store_true", help="accept a rank that loses more than is good")


def export_with_bar(parts: Parts, folder: Path) -> None:
    """Exports parts with a progress bar, and prints a line for each finished file."""
    with tqdm(total=len(parts), desc="exporting", unit="file", disable=None, leave=False) as bar:

        def report(file: ExportedFile) -> None:
            tqdm.write(str(file))
            bar.update()

        export_parts(parts, folder, report)
