"""Writes a model repository for NVIDIA's Triton Inference Server: the models `tts` and `tts_stream` of one voice."""

import argparse
from pathlib import Path

from common.cli import ArgumentParser, bounded_int, run
from common.errors import UserError
from pipeline.flags import add_part_flags, model_paths
from pipeline.model_files import default_paths
from serving.triton.repository import make_repository


def make_parser() -> ArgumentParser:
    parser = ArgumentParser(prog="make_triton_repository.py", description=__doc__)
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder for the repository")
    models = parser.add_argument_group("models", "Four model files, or a folder of them.")
    models.add_argument("--models", type=Path, default=Path("output"), metavar="FOLDER", help="folder of the files")
    add_part_flags(models)
    limits = parser.add_argument_group("limits")
    limits.add_argument("--max-characters", type=bounded_int(1, 1_000_000), default=4096, help="characters of a text")
    limits.add_argument("--max-waiting", type=bounded_int(1, 10_000), default=64, help="requests that may wait")
    limits.add_argument("--instances", type=bounded_int(1, 64), default=1, help="processes of tts_stream, on each GPU")
    return parser


def main(args: argparse.Namespace) -> None:
    paths = model_paths(args) or default_paths(args.models)
    if paths is None:
        raise UserError(f"{args.models}: no model files; export them there, or name a folder with --models")
    make_repository(args.output, paths, args.max_characters, args.max_waiting, args.instances)
    print(f"Written to {args.output}: tts and tts_stream. To serve them: bash scripts/serve_triton.sh {args.output}")


if __name__ == "__main__":
    run(main, make_parser())
