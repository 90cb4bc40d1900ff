"""Opening the four model files of the pipeline, whatever kind each is."""

import importlib
import logging
from collections.abc import Mapping
from pathlib import Path

from common.engine import Engine
from common.errors import UserError
from common.files import finish_appearing
from common.metadata import PARTS, Part, Precision

# What opens each kind of file, by its suffix: looked up when it is needed, so that nobody loads a runtime that he
# doesn't use, and so that this layer needs no import from the one above it.
OPENERS = {
    ".onnx": ("common.onnx_engine", "OnnxEngine"),
    ".engine": ("trt.engine", "TensorRTEngine"),
    ".plan": ("trt.engine", "TensorRTEngine"),
}
# What says whether a folder's engines can be used; above this layer, too.
ENGINE_CHECK = "trt.usable"

_log = logging.getLogger(__name__)


def open_engine(path: Path, part: Part, threads: int | None = None) -> Engine:
    """Opens one model file: `.onnx` on ONNX Runtime, `.engine` or `.plan` on TensorRT. Raises UserError."""
    if path.suffix not in OPENERS:
        raise UserError(f"{path}: unknown kind of model file; give a .onnx, .engine or .plan file")
    module, name = OPENERS[path.suffix]
    engine_class = getattr(importlib.import_module(module), name)
    engine: Engine = engine_class(path, part, threads) if path.suffix == ".onnx" else engine_class(path, part)
    return engine


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


def default_paths(folder: Path, precision: Precision | None = None) -> dict[Part, Path] | None:
    """The four files of a folder: its engines if they can be used, else its ONNX files, else None.

    Engines that can't be opened on this machine, or that were not built from the ONNX files beside them, are passed
    over with a warning in the log.

    Args:
        precision: of the engines; None takes FP16 ones rather than FP32 ones.

    Raises:
        UserError: some of the files are there, but not four that belong together.
    """
    finish_appearing(folder)
    files = {part: folder / f"{part}.onnx" for part in PARTS}
    missing = [path.name for path in files.values() if not path.exists()]
    precisions: tuple[Precision, ...] = (precision,) if precision else ("fp16", "fp32")
    for one in precisions:
        engines = {part: folder / f"{part}_{one}.engine" for part in PARTS}
        if not all(path.exists() for path in engines.values()):
            continue
        if len(missing) == len(PARTS):  # nothing to compare with or to take instead: opening them says what is wrong
            return engines
        obstacle: str | None = importlib.import_module(ENGINE_CHECK).obstacle(engines, files)
        if obstacle is None:
            return engines
        if missing:
            raise UserError(f"{obstacle}; the ONNX files beside it can't stand in: {', '.join(missing)} missing")
        _log.warning("%s; using the .onnx files beside it", obstacle)
    if not missing:
        return files
    if len(missing) == len(PARTS):
        return None
    raise UserError(
        f"{folder}: {', '.join(missing)} missing; export the whole voice: exports/export_voice.py -o {folder}"
    )
