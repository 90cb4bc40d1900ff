"""Opening the four model files of the pipeline, whatever kind each is."""

import argparse
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from common.engine import Engine
from common.errors import UserError
from common.metadata import PARTS, Part, Precision
from common.onnx_engine import OnnxEngine
from waveglow.denoiser import Denoiser

ENGINE_SUFFIXES = (".engine", ".plan")


def open_engine(path: Path, part: Part, threads: int | None = None) -> Engine:
    """Opens one model file: `.onnx` on ONNX Runtime, `.engine` or `.plan` on TensorRT. Raises UserError."""
    if path.suffix == ".onnx":
        return OnnxEngine(path, part, threads)
    if path.suffix in ENGINE_SUFFIXES:
        from trt.engine import TensorRTEngine  # TensorRT is loaded only where it is used

        return TensorRTEngine(path, part)
    raise UserError(f"{path}: unknown kind of model file; give a .onnx, .engine or .plan file")


def add_run_flags(group: argparse._ArgumentGroup) -> None:
    """Adds the flags, beside the four paths, of every script that runs model files."""
    group.add_argument("--waveglow-ckpt", default="", help="classic flag: anything given turns the denoiser on")
    group.add_argument("--fp16", action="store_true", help="the models are in half precision")
    group.add_argument("--threads", type=int, help="CPU threads for .onnx files [all cores]")


def check_precision(args: argparse.Namespace, engines: Mapping[Part, Engine]) -> None:
    """Raises UserError if --fp16 was given and a model isn't."""
    for engine in engines.values():
        precision = engine.metadata.precision
        if args.fp16 and precision != "fp16":
            raise UserError(f"{engine.name} is {precision}, but --fp16 was given; export it with --fp16")


def denoiser_for(args: argparse.Namespace, engines: Mapping[Part, Engine], waveglow_path: Path) -> Denoiser | None:
    """The denoiser, if the flags ask for it, from the bias beside the WaveGlow file."""
    if not (args.denoise or args.waveglow_ckpt):
        return None
    return Denoiser.beside(waveglow_path, engines["waveglow"].metadata.audio, args.denoising_strength)


def open_engines(paths: Mapping[Part, Path], threads: int | None = None) -> dict[Part, Engine]:
    """Opens all four files; none stays open if one can't be opened."""
    engines: dict[Part, Engine] = {}
    try:
        for part in PARTS:
            engines[part] = open_engine(paths[part], part, threads)
    except BaseException:
        close_engines(engines)
        raise
    return engines


def close_engines(engines: Mapping[Part, Engine]) -> None:
    for engine in reversed(list(engines.values())):
        engine.close()


def default_paths(folder: Path, precision: Precision) -> dict[Part, Path] | None:
    """The four files of a folder: its engines of this precision if all are there, else its ONNX files, else None.

    Raises:
        UserError: some, but not all of the four ONNX files are there.
    """
    engines = {part: folder / f"{part}_{precision}.engine" for part in PARTS}
    if all(path.exists() for path in engines.values()):
        return engines
    files = {part: folder / f"{part}.onnx" for part in PARTS}
    missing = [path.name for path in files.values() if not path.exists()]
    if not missing:
        return files
    if len(missing) == len(PARTS):
        return None
    raise UserError(f"{folder}: {', '.join(missing)} missing; export them, or empty the folder to get the demo voice")


def export_demo_voice(folder: Path, precision: Precision) -> None:
    """Exports the repository's demo voice: all of its files appear in `folder`, or none."""
    from exports import export_tacotron2_onnx, export_waveglow_onnx

    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".exporting.", dir=folder) as temporary:
        flags = ["-o", temporary, *(["--fp16"] if precision == "fp16" else [])]
        for script in (export_tacotron2_onnx, export_waveglow_onnx):
            script.main(script.make_parser().parse_args(flags))
        for file in sorted(Path(temporary).iterdir()):
            shutil.move(file, folder / file.name)
