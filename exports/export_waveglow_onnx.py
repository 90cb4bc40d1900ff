"""Exports WaveGlow to waveglow.onnx, and the denoiser's bias beside it."""

import argparse
from pathlib import Path

from common.cli import ArgumentParser, run
from common.config import WaveGlowConfig
from common.engine import TorchEngine
from common.files import output_folder
from common.metadata import Precision
from exports.export_tacotron2_onnx import export_parts
from pipeline.flags import add_model_flags, given_flags
from waveglow.denoiser import bias_path, measure_bias, save_bias
from waveglow.loading import DEMO_WAVEGLOW, load_waveglow
from waveglow.parts import waveglow_parts


def make_parser() -> ArgumentParser:
    parser = ArgumentParser(prog="export_waveglow_onnx.py", description=__doc__)
    parser.add_argument("--waveglow", type=Path, default=DEMO_WAVEGLOW, help="WaveGlow checkpoint")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder for the ONNX file")
    parser.add_argument("--fp16", action="store_true", help="store weights and compute in half precision")
    parser.add_argument(
        "-s",
        "--sigma-infer",
        type=float,
        help="standard deviation of the noise that the file stores as its default [the checkpoint's own, else 0.6]",
    )
    add_model_flags(parser, WaveGlowConfig)
    return parser


def main(args: argparse.Namespace) -> None:
    folder = output_folder(args.output)
    loaded = load_waveglow(args.waveglow, given_flags(args, WaveGlowConfig))
    precision: Precision = "fp16" if args.fp16 else "fp32"
    parts = waveglow_parts(loaded, precision, args.sigma_infer)
    export_parts(parts, folder)
    # Measured in FP32 whatever the file's precision: it is a property of the voice.
    module, metadata = waveglow_parts(loaded, "fp32")["waveglow"]
    path = bias_path(folder / "waveglow.onnx")
    save_bias(path, measure_bias(TorchEngine(module, metadata), loaded.audio))
    print(f"{path.name}: the denoiser's bias")


if __name__ == "__main__":
    run(main, make_parser())
