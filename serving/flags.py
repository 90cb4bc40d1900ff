"""Command line flags that choose the voice of a server, a load test or a corpus."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common.errors import UserError
from common.metadata import Precision
from pipeline import Voice
from pipeline.flags import add_part_flags, add_setting_flags, add_symbols_flag, model_paths
from pipeline.model_files import existing_files
from pipeline.settings import RuntimeSettings, settings_of
from tacotron2.loading import DEMO_TACOTRON2
from waveglow.loading import DEMO_WAVEGLOW


def add_voice_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags that `open_voice` reads."""
    group = parser.add_argument_group(
        "voice", "Four model files, a folder of them, or checkpoints; without any of these the demo voice."
    )
    add_part_flags(group)
    add_source_flags(group)
    group.add_argument("--device", help="device of --checkpoints: cpu, cuda, cuda:1... [cpu]")
    group.add_argument(
        "--sampling-rate", type=int, metavar="HZ", help="of --checkpoints that don't state theirs [22050]"
    )
    add_symbols_flag(group)
    add_setting_flags(group, [settings_of(RuntimeSettings)["threads"]])


def add_source_flags(group: argparse._ActionsContainer) -> None:
    """Adds --models, --checkpoints and --fp16."""
    group.add_argument("--models", type=Path, metavar="FOLDER", help="folder with the four .engine or .onnx files")
    group.add_argument(
        "--checkpoints",
        type=Path,
        nargs="*",
        metavar="FILE",
        help="PyTorch checkpoints, Tacotron 2's and WaveGlow's, on this project's GPU kernels [the demo voice's]",
    )
    group.add_argument("--fp16", action="store_true", help="half precision: .engine files of it, or --checkpoints")


def checkpoints_of(args: argparse.Namespace) -> tuple[Path, Path]:
    """Tacotron 2's and WaveGlow's checkpoint: what --checkpoints names, or the demo voice's. Raises UserError."""
    if not args.checkpoints:
        return DEMO_TACOTRON2, DEMO_WAVEGLOW
    if len(args.checkpoints) != 2:
        raise UserError("--checkpoints takes two files, Tacotron 2's and WaveGlow's, or none for the demo voice")
    return tuple(args.checkpoints)


def runs_on_gpu(args: argparse.Namespace) -> bool:
    """Whether the voice that the flags name speaks on NVIDIA GPUs. Raises UserError."""
    if args.checkpoints is not None:
        return (args.device or "cpu").startswith("cuda")
    files = model_paths(args) or existing_files(args.models, "fp16" if args.fp16 else None) or {}
    return any(path.suffix != ".onnx" for path in files.values())


def open_voice(args: argparse.Namespace, on_message: Callable[[str], None] = lambda message: None) -> Voice:
    """Opens the voice that the flags name.

    Args:
        on_message: called with a line before something takes long, as the export of the demo voice does.

    Raises:
        UserError: flags that contradict one another, or models that can't be opened.
    """
    given = model_paths(args)
    named = [given, args.models, args.checkpoints is not None]
    if sum(map(bool, named)) > 1:
        raise UserError("give four model files, or --models, or --checkpoints: one of the three")
    of_checkpoints = {name: getattr(args, name) for name in ("device", "sampling_rate", "symbols")}
    options: dict[str, Any] = {name: value for name, value in of_checkpoints.items() if value is not None}
    if args.checkpoints is not None:
        precision: Precision = "fp16" if args.fp16 else "fp32"
        return Voice.from_checkpoints(*checkpoints_of(args), precision=precision, **options)
    if options:
        flag = next(iter(options)).replace("_", "-")
        raise UserError(f"--{flag} is for --checkpoints; model files hold what they were made with")
    wanted: Precision | None = "fp16" if args.fp16 else None
    if given is None:
        return Voice.load(args.models, precision=wanted, on_message=on_message, threads=args.threads)
    return Voice.load(given, precision=wanted, threads=args.threads)
