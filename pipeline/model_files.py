"""Opening the four model files of the pipeline, whatever kind each is."""

import importlib
import logging
from collections.abc import Callable, Mapping
from pathlib import Path

from common.cpu_backend import CpuBackend, CpuPrecision, choose_backend
from common.engine import Engine
from common.errors import UserError
from common.files import finish_appearing
from common.metadata import PARTS, Part, Precision
from common.onnx_engine import GpuProvider

# What opens each kind of file, by its suffix: looked up when it is needed, so that nobody loads a runtime that he
# doesn't use, and so that this layer needs no import from the one above it.
OPENERS = {
    ".onnx": ("common.onnx_engine", "OnnxEngine"),
    ".engine": ("trt.engine", "TensorRTEngine"),
    ".plan": ("trt.engine", "TensorRTEngine"),
}
OPENVINO = ("common.openvino_engine", "OpenVINOEngine")
# What says whether a folder's engines can be used; above this layer, too.
ENGINE_CHECK = "trt.usable"

_log = logging.getLogger(__name__)


def open_engine(
    path: Path,
    part: Part,
    threads: int | None = None,
    cpu_backend: CpuBackend = "auto",
    cpu_precision: CpuPrecision = "fp32",
    device: str = "cpu",
    gpu_provider: GpuProvider = "cuda",
) -> Engine:
    """Opens one model file: `.onnx` on ONNX Runtime or OpenVINO, `.engine` or `.plan` on TensorRT.

    Args:
        path: the file; all further arguments but `device` are for a `.onnx` alone.
        part: the part it has to hold.
        threads: CPU threads; None takes every core that this process may use.
        cpu_backend: what runs it on a CPU; "auto" takes what is faster for the part on this processor.
        cpu_precision: what it is computed in on a CPU; "bf16" wants a processor with AMX, and OpenVINO.
        device: "cpu", "cuda" or "cuda:N"; anything else is an error. TensorRT takes PyTorch's current GPU for "cpu".
        gpu_provider: ONNX Runtime's provider that runs it on a GPU.

    Raises:
        UserError: the file can't be opened, or not in the way that is asked for.
    """
    if path.suffix not in OPENERS:
        raise UserError(f"{path}: unknown kind of model file; give a .onnx, .engine or .plan file")
    if path.suffix != ".onnx":
        return _engine_class(OPENERS[path.suffix])(path, part, None if device == "cpu" else device)
    if device != "cpu":
        return _engine_class(OPENERS[".onnx"])(path, part, threads, device, gpu_provider)
    if choose_backend(part, cpu_backend, cpu_precision) == "openvino":
        return _engine_class(OPENVINO)(path, part, threads, cpu_precision)
    return _engine_class(OPENERS[".onnx"])(path, part, threads)


def open_engines(
    paths: Mapping[Part, Path],
    threads: int | None = None,
    cpu_backend: CpuBackend = "auto",
    cpu_precision: CpuPrecision = "fp32",
    device: str = "cpu",
    gpu_provider: GpuProvider = "cuda",
) -> dict[Part, Engine]:
    """Opens all four files as `open_engine` does; none stays open if one can't be opened."""
    engines: dict[Part, Engine] = {}
    try:
        for part in PARTS:
            engines[part] = open_engine(paths[part], part, threads, cpu_backend, cpu_precision, device, gpu_provider)
    except BaseException:
        close_engines(engines)
        raise
    return engines


def _engine_class(opener: tuple[str, str]) -> Callable[..., Engine]:
    module, name = opener
    engine_class: Callable[..., Engine] = getattr(importlib.import_module(module), name)
    return engine_class


def close_engines(engines: Mapping[Part, Engine]) -> None:
    for engine in reversed(list(engines.values())):
        engine.close()


def default_paths(folder: Path, precision: Precision | None = None) -> dict[Part, Path] | None:
    """The four files of a folder: its engines if they can be used, else its ONNX files, else None.

    Engines that can't be opened on this machine, that were not built from the ONNX files beside them or that aren't
    four are passed over with a warning in the log.

    Args:
        precision: of the engines; None takes FP16 ones rather than FP32 ones.

    Raises:
        UserError: some of the files are there, but not four that belong together; or there are engines that can't be
            taken, and no ONNX files that could stand in for them.
    """
    finish_appearing(folder)
    files = {part: folder / f"{part}.onnx" for part in PARTS}
    missing = [path.name for path in files.values() if not path.exists()]
    precisions: tuple[Precision, ...] = (precision,) if precision else ("fp16", "fp32")
    for one in precisions:
        engines = {part: folder / f"{part}_{one}.engine" for part in PARTS}
        lacking = [path.name for path in engines.values() if not path.exists()]
        if len(lacking) == len(PARTS):
            continue
        obstacle: str | None = None
        if lacking:
            obstacle = f"{folder}: {', '.join(lacking)} missing beside engines in {one}"
        elif len(missing) < len(PARTS):  # else there is nothing to compare with: opening them says what is wrong
            obstacle = importlib.import_module(ENGINE_CHECK).obstacle(engines, files)
        if obstacle is None:
            return engines
        if missing:
            raise UserError(f"{obstacle}; the ONNX files beside it can't stand in: {', '.join(missing)} missing")
        _log.warning("%s; using the .onnx files beside it", obstacle)
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
