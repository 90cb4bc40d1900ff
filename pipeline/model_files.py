"""Opening the four model files of the pipeline, whatever kind each is."""

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from typing_extensions import Unpack

from common.cpu_backend import choose_backend
from common.engine import Engine
from common.errors import UserError
from common.files import IS_CLONE, REPOSITORY, finish_appearing, path_of, sha256_of, user_cache_folder
from common.metadata import PARTS, Part, Precision
from pipeline.engine_set import check_parts
from pipeline.settings import RuntimeOptions, RuntimeSettings
from tacotron2.loading import DEMO_TACOTRON2
from trt.record import read_record

# Where the demo voice is exported to and found again, from any folder: never among installed packages.
DEMO_FOLDER = REPOSITORY / "output" if IS_CLONE else user_cache_folder("output") or Path("output")
# What a user can do about a folder of two voices.
AMBIGUOUS = "build the engines again with trt/export_onnx2trt.py, delete them, or name four files"


def open_engine(path: Path, part: Part, **runtime: Unpack[RuntimeOptions]) -> Engine:
    """Opens one model file: `.onnx` on ONNX Runtime or OpenVINO, `.engine` or `.plan` on TensorRT.

    Args:
        path: the file.
        part: the part it has to hold.
        runtime: of `RuntimeSettings`; all but `device` are for a `.onnx` alone. TensorRT takes PyTorch's current GPU
            for device "cpu".

    Raises:
        UserError: the file can't be opened, or not in the way that is asked for.
    """
    # A runtime is imported only where it opens a file: that takes seconds, and it may not be installed.
    chosen = RuntimeSettings.given(None, **runtime)
    on_cpu = chosen.device == "cpu"
    if path.suffix in (".engine", ".plan"):
        from trt.engine import TensorRTEngine

        return TensorRTEngine(path, part, None if on_cpu else chosen.device)
    if path.suffix != ".onnx":
        raise UserError(f"{path}: unknown kind of model file; give a .onnx, .engine or .plan file")
    if on_cpu and choose_backend(part, chosen.cpu_backend, chosen.cpu_precision) == "openvino":
        from common.openvino_engine import OpenVINOEngine

        return OpenVINOEngine(path, part, chosen.threads, chosen.cpu_precision)
    from common.onnx_engine import OnnxEngine

    return OnnxEngine(path, part, chosen.threads, chosen.device, chosen.gpu_provider)


def open_engines(
    paths: Mapping[Part, Path], precision: Precision | None = None, **runtime: Unpack[RuntimeOptions]
) -> dict[Part, Engine]:
    """Opens all four files as `open_engine` does; none stays open if one can't be opened or has another precision."""
    engines: dict[Part, Engine] = {}
    check_parts("paths", paths)
    try:
        for part in PARTS:
            engines[part] = open_engine(path_of(part, paths[part]), part, **runtime)
            found = engines[part].metadata.precision
            if precision not in (None, found):
                raise UserError(f"{paths[part]} is {found}, not {precision}; export the voice again")
    except BaseException:
        close_engines(engines)
        raise
    return engines


def close_engines(engines: Mapping[Part, Engine]) -> None:
    for engine in reversed(list(engines.values())):
        engine.close()


def voice_files(
    folder: Path | None, precision: Precision | None, on_message: Callable[[str], object]
) -> dict[Part, Path]:
    """The four files of a folder; without one those of ./output, else the demo voice's. See `default_paths`."""
    found = existing_files(folder, precision)
    if found is None and folder is not None:
        raise UserError(f"{folder}: no model files; export or build them there, or name another folder")
    return found or demo_files(precision, on_message)


def existing_files(folder: Path | None, precision: Precision | None) -> dict[Part, Path] | None:
    """What `voice_files` takes; None where there is nothing yet."""
    if folder is not None:
        return default_paths(folder, precision)
    return default_paths(Path("output"), precision) or default_paths(DEMO_FOLDER, precision)


def demo_files(precision: Precision | None, on_message: Callable[[str], object]) -> dict[Part, Path]:
    """The demo voice's four files, exported once. Raises UserError where its checkpoints aren't installed."""
    if found := default_paths(DEMO_FOLDER, precision):
        return found
    if not DEMO_TACOTRON2.is_file():
        raise UserError(
            f"{DEMO_TACOTRON2}: the demo voice isn't installed; name a folder of model files, or install the project "
            "from its clone: pip install PATH"
        )
    on_message(f"Exporting the demo voice to {DEMO_FOLDER} (once)")
    from exports.voice import export_voice  # loads onnx, which speaking doesn't need

    return export_voice(DEMO_FOLDER, precision or "fp32", on_file=lambda file: on_message(str(file)))


def default_paths(folder: Path, precision: Precision | None = None) -> dict[Part, Path] | None:
    """The four files of a folder: its engines, else its ONNX files, else None. Without a GPU ONNX files come first.

    Args:
        precision: of the engines; None takes FP16 ones rather than FP32 ones.

    Raises:
        UserError: some of the files are there, but not four that belong together; or the engines were not built from
            the ONNX files beside them.
    """
    finish_appearing(folder)
    files = {part: folder / f"{part}.onnx" for part in PARTS}
    missing = _missing(files)
    if not missing and not torch.cuda.is_available():
        return files
    precisions: tuple[Precision, ...] = (precision,) if precision else ("fp16", "fp32")
    for one in precisions:
        engines = {part: folder / f"{part}_{one}.engine" for part in PARTS}
        lacking = _missing(engines)
        if not lacking:
            _check_origin(engines, files)
            return engines
        if len(lacking) < len(PARTS):
            raise UserError(f"{folder}: {', '.join(lacking)} missing beside engines in {one}; {AMBIGUOUS}")
    if not missing:
        return files
    if len(missing) == len(PARTS):
        others = sorted(path.name for path in folder.glob("*_fp??.engine"))
        if others:
            raise UserError(f"{folder}: holds {others[0]}, but no {precision} engines; build them or ask for others")
        return None
    raise UserError(
        f"{folder}: {', '.join(missing)} missing; export the whole voice: exports/export_voice.py -o {folder}"
    )


def _missing(paths: Mapping[Part, Path]) -> list[str]:
    return [path.name for path in paths.values() if not path.exists()]


def _check_origin(engines: Mapping[Part, Path], files: Mapping[Part, Path]) -> None:
    """Raises UserError if an engine was built from another export than the ONNX file beside it.

    An ONNX file of the same checkpoint in another precision is no other export.
    """
    for part, path in engines.items():
        if not files[part].exists():
            continue
        record = read_record(path)
        if record.onnx_sha256 == sha256_of(files[part]):
            continue
        from trt.build import read_onnx_metadata  # loads onnx, which running engines doesn't need

        beside, built = read_onnx_metadata(files[part], part), record.metadata
        if beside.precision == built.precision or beside.checkpoint_sha256 != built.checkpoint_sha256:
            raise UserError(f"{path} was not built from the {files[part].name} beside it; {AMBIGUOUS}")
