"""Opening the four model files of the pipeline, whatever kind each is."""

import importlib
from collections.abc import Mapping
from pathlib import Path

from common.engine import Engine
from common.errors import UserError
from common.metadata import PARTS, Part, Precision

# What opens each kind of file, by its suffix: looked up when it is needed, so that nobody loads a runtime that he
# doesn't use, and so that this layer needs no import from the one above it.
OPENERS = {
    ".onnx": ("common.onnx_engine", "OnnxEngine"),
    ".engine": ("trt.engine", "TensorRTEngine"),
    ".plan": ("trt.engine", "TensorRTEngine"),
}


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
