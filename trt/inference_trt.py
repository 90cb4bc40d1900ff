"""Speaks phrases to wav files with Tacotron 2 and WaveGlow, on TensorRT engines or ONNX files."""

import argparse
from pathlib import Path

from common.cli import ArgumentParser, run
from common.engine import part_flag
from common.errors import UserError
from common.metadata import PARTS, Part, Precision
from exports.voice import export_voice
from pipeline.flags import add_run_flags, check_precision, denoiser_for, runtime_choice
from pipeline.model_files import close_engines, default_paths, open_engines
from pipeline.speak import add_speak_flags, read_request, speak

MODELS = Path("output")  # where the exporters of the README put their files


def make_parser() -> ArgumentParser:
    parser = ArgumentParser(prog="inference_trt.py", description=__doc__)
    add_speak_flags(parser)
    models = parser.add_argument_group(
        "models", f"Give all four, or none: then ./{MODELS}'s, where the demo voice is exported if there are none."
    )
    for part in PARTS:
        models.add_argument(part_flag(part), type=Path, dest=part, help=f"{part} .engine, .plan or .onnx file")
    add_run_flags(models)
    return parser


def main(args: argparse.Namespace) -> None:
    request = read_request(args, name="{i}_trt")
    paths = model_paths(args)
    engines = open_engines(paths, **runtime_choice(args))
    try:
        check_precision(args, engines)
        speak(args, request, engines, denoiser_for(args, engines))
    finally:
        close_engines(engines)


def model_paths(args: argparse.Namespace) -> dict[Part, Path]:
    """The four files that the flags name, or the default ones, exporting the demo voice if need be."""
    given: dict[Part, Path | None] = {part: getattr(args, part) for part in PARTS}
    missing = [part_flag(part) for part, path in given.items() if path is None]
    if not missing:
        return {part: path for part, path in given.items() if path is not None}
    if len(missing) < len(PARTS):
        raise UserError(f"{', '.join(missing)} missing; give all four models or none")
    precision: Precision = "fp16" if args.fp16 else "fp32"
    paths = default_paths(MODELS, precision)
    if paths is None:
        print(f"No models in ./{MODELS}: exporting the demo voice (once)")
        export_voice(MODELS, precision)
        paths = default_paths(MODELS, precision)
        assert paths is not None
    return paths


if __name__ == "__main__":
    run(main, make_parser())
