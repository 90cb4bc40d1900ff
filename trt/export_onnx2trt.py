"""Builds TensorRT engines from the ONNX files of Tacotron 2 and WaveGlow."""

import argparse
import logging
from functools import partial
from pathlib import Path

from tqdm import tqdm

from common.cli import ArgumentParser, run, settings_from
from common.errors import UserError
from common.files import output_folder
from common.metadata import PARTS, Part
from common.model_flags import SIZE_FLAGS, part_flag
from trt.build import BuildOptions, Built, build_engine, buildable_metadata, load_builder
from trt.record import SizeRange

MB = 1e6


def make_parser() -> ArgumentParser:
    parser = ArgumentParser(prog="export_onnx2trt.py", description=__doc__)
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder for the engines")
    for part in PARTS:
        parser.add_argument(part_flag(part), type=Path, dest=part, help=f"{part} ONNX file [not built]")
    parser.add_argument(
        "--fp16", action="store_true", help="insist on half precision; an engine always has its ONNX file's precision"
    )
    sizes = parser.add_argument_group("sizes that the engines take: min,opt,max, or one number for all three")
    default = BuildOptions()
    for symbol, what in (("batch", "phrases at a time"), ("text", "symbols of a phrase"), ("mel", "mel frames")):
        flags = SIZE_FLAGS[symbol].split("/")
        sizes.add_argument(*flags, dest=symbol, type=size_range, default=getattr(default, symbol), help=what)
    building = parser.add_argument_group("building")
    building.add_argument(
        "--workspace", dest="workspace_mib", type=int, metavar="MIB", help="most scratch memory a layer may take [all]"
    )
    building.add_argument(
        "-tcf",
        "--timing-cache-file",
        dest="timing_cache",
        type=Path,
        help="keeps TensorRT's measurements from build to build [none]",
    )
    building.add_argument(
        "--optimization-level", type=int, metavar="0-5", help="how hard the builder tries [TensorRT's default, 3]"
    )
    building.add_argument(
        "--compute-capability",
        type=int,
        nargs="+",
        default=[],
        metavar="CC",
        help="build with TensorRT-RTX for these GPUs, none of which has to be there: 75 for T4, 86 for A10 or RTX 30, "
        "89 for L4 or RTX 40, 120 for RTX 50 (75 runs fastest when it is built alone)",
    )
    building.add_argument(
        "--version-compatible", action="store_true", help="for later versions of TensorRT and its lean runtime too"
    )
    building.add_argument(
        "--same-compute-capability",
        action="store_true",
        help="for other models of GPU of the same compute capability too, such as H100 and H200",
    )
    building.add_argument("--force", action="store_true", help="build even what is up to date")
    building.add_argument("--verbose", action="store_true", help="show what TensorRT logs")
    return parser


def size_range(text: str) -> SizeRange:
    """ "1,4,8" or "4" as sizes. Raises argparse.ArgumentTypeError."""
    try:
        numbers = [int(number) for number in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) == 1:
        numbers *= 3
    if len(numbers) != 3:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number, nor three as min,opt,max")
    return SizeRange(*numbers)


def main(args: argparse.Namespace) -> None:
    if args.verbose:
        logging.basicConfig(level=logging.INFO, format="%(message)s")
    options = settings_from(args, BuildOptions, compute_capabilities=tuple(args.compute_capability))
    options.check()
    paths: dict[Part, Path] = {part: getattr(args, part) for part in PARTS if getattr(args, part) is not None}
    if not paths:
        raise UserError(f"nothing to build: give at least one of {', '.join(map(part_flag, PARTS))}")
    for part, path in paths.items():  # all files are checked before the first build, which may take minutes
        buildable_metadata(path, part, args.fp16)
    folder = output_folder(args.output)
    if load_builder(options).flavour == "tensorrt_rtx" and options.timing_cache is not None:
        print("Note: TensorRT-RTX measures nothing when it builds; -tcf has no effect")
    for part, path in paths.items():
        with tqdm(
            total=1.0, desc=part, disable=None, leave=False, bar_format="{l_bar}{bar}| {elapsed}<{remaining}"
        ) as bar:
            built = build_engine(path, part, folder, options, args.force, partial(_advance, bar))
        print(describe(built))


def describe(built: Built) -> str:
    record = built.record
    sizes = ", ".join(f"{symbol} {sizes.min} to {sizes.max}" for symbol, sizes in record.profile.items())
    what = "up to date (--force builds it again)" if built.seconds is None else f"built in {built.seconds:.1f} s"
    return f"{built.path}: {what}; {record.plan_bytes / MB:.1f} MB, {record.built_by}; {sizes}"


def _advance(bar: tqdm, fraction: float) -> None:
    bar.n = fraction
    bar.refresh()


if __name__ == "__main__":
    run(main, make_parser())
