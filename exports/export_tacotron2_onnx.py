"""Exports Tacotron 2 to encoder.onnx, decoder_iter.onnx and postnet.onnx."""

import argparse
from dataclasses import replace
from pathlib import Path

from torch import nn
from tqdm import tqdm

from common.cli import ArgumentParser, run
from common.config import Tacotron2Config
from common.errors import UserError
from common.files import output_folder
from common.metadata import ModelMetadata, Part
from exports.onnx_file import export_part
from pipeline.flags import add_model_flags, given_flags
from tacotron2.loading import DEMO_TACOTRON2, load_tacotron2
from tacotron2.parts import tacotron2_parts


def make_parser() -> ArgumentParser:
    parser = ArgumentParser(prog="export_tacotron2_onnx.py", description=__doc__)
    parser.add_argument("--tacotron2", type=Path, default=DEMO_TACOTRON2, help="Tacotron 2 checkpoint")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder for the ONNX files")
    parser.add_argument("--fp16", action="store_true", help="store weights and compute in half precision")
    parser.add_argument(
        "--int8-decoder",
        action="store_true",
        help="the decoder's LSTMs in 8 bits, for CPUs: faster, but phrases of a batch share their rounding",
    )
    add_model_flags(parser, Tacotron2Config)
    return parser


def main(args: argparse.Namespace) -> None:
    folder = output_folder(args.output)
    if args.int8_decoder and args.fp16:
        raise UserError("--int8-decoder goes with FP32 files for CPUs; leave --fp16 out")
    loaded = load_tacotron2(args.tacotron2, given_flags(args, Tacotron2Config))
    parts = tacotron2_parts(loaded, "fp16" if args.fp16 else "fp32")
    if args.int8_decoder:
        module, metadata = parts["decoder_iter"]
        parts["decoder_iter"] = (module, replace(metadata, int8_lstms=True))
    export_parts(parts, folder)


def export_parts(parts: dict[Part, tuple[nn.Module, ModelMetadata]], folder: Path) -> None:
    """Exports parts to `folder`, each under its own name, and reports each file's difference from PyTorch."""
    with tqdm(parts.items(), unit="file", disable=None, leave=False) as progress:
        for part, (module, metadata) in progress:
            progress.set_description(f"exporting {part}")
            path = folder / f"{part}.onnx"
            difference = export_part(module, metadata, path)
            size = path.stat().st_size / 1e6
            tqdm.write(f"{path.name}: {metadata.precision}, {size:.1f} MB, within {difference:.1e} of PyTorch")


if __name__ == "__main__":
    run(main, make_parser())
