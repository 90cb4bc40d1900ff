"""The one door to TensorRT: imports `tensorrt` or `tensorrt_rtx` when first needed, keeps its words, finds the GPU.

Everything else takes the module from here and uses only what TensorRT 10, 11 and TensorRT-RTX share.
"""

from __future__ import annotations

import importlib
import logging
import re
from collections import deque
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

import torch

from common.contract import Dim, TensorSpec
from common.errors import UserError

if TYPE_CHECKING:
    import tensorrt

Flavour = Literal["tensorrt", "tensorrt_rtx"]

PRODUCTS: dict[Flavour, str] = {"tensorrt": "TensorRT", "tensorrt_rtx": "TensorRT-RTX"}
INSTALL: dict[Flavour, str] = {
    "tensorrt": "pip install tensorrt, or NVIDIA's TensorRT container",
    "tensorrt_rtx": "pip install tensorrt-rtx-cu13",
}
TORCH_DTYPES = {
    "FLOAT": torch.float32,
    "HALF": torch.float16,
    "INT32": torch.int32,
    "INT64": torch.int64,
    "BOOL": torch.bool,
}
MAX_WORDS = 400  # characters of TensorRT's own words that go into a message

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TensorRT:
    """An imported TensorRT. `words` collects what it logs: its functions return None or False and log the reason."""

    api: Any  # the module
    flavour: Flavour
    version: str
    logger: tensorrt.ILogger
    words: Words

    @property
    def product(self) -> str:
        return PRODUCTS[self.flavour]


class Words:
    """TensorRT's latest errors, in its own words."""

    def __init__(self) -> None:
        self._errors: deque[str] = deque(maxlen=20)

    def add(self, message: str) -> None:
        self._errors.append(message)

    def clear(self) -> None:
        self._errors.clear()

    def __str__(self) -> str:
        """The errors since the last `clear`, in one line."""
        return one_line("; ".join(dict.fromkeys(self._errors))) or "TensorRT gave no reason"

    @property
    def out_of_memory(self) -> bool:
        return bool(re.search(r"out ?of ?memory|cudaErrorMemoryAllocation|cudaMalloc", str(self), re.IGNORECASE))


def one_line(words: str) -> str:
    """Words fit for a message of one line: no line breaks, and no longer than need be."""
    words = " ".join(words.split())
    return words if len(words) <= MAX_WORDS else words[: MAX_WORDS - 3] + "..."


@dataclass(frozen=True)
class Gpu:
    """The GPU that engines run on: PyTorch's current one. PyTorch owns its memory and streams."""

    device: torch.device
    name: str
    compute_capability: int  # 75 stands for 7.5

    def stream(self) -> int:
        """The handle of PyTorch's current stream."""
        return torch.cuda.current_stream(self.device).cuda_stream

    def synchronize(self) -> None:
        torch.cuda.synchronize(self.device)


_loaded: dict[ModuleType, TensorRT] = {}  # the first logger of a process wins in TensorRT, so each is made once


def load(flavour: Flavour | None = None) -> TensorRT:
    """Imports TensorRT, or TensorRT-RTX where TensorRT isn't installed.

    Args:
        flavour: the one that it has to be; None takes either.

    Raises:
        UserError: it isn't installed, can't be loaded, or is older than version 10.
    """
    flavours: tuple[Flavour, ...] = (flavour,) if flavour else ("tensorrt", "tensorrt_rtx")
    problems = []
    for name in flavours:
        try:
            module = importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name != name:
                problems.append(f"{name} can't be loaded: {error}")
            continue
        except (ImportError, OSError, RuntimeError) as error:  # a library that it needs is missing
            problems.append(f"{name} can't be loaded: {error}")
            continue
        if hasattr(module, "Builder"):  # type stubs alone make a folder that imports as an empty module
            return _wrap(module, name)
    why = one_line("; ".join(problems)) or f"{' or '.join(PRODUCTS[name] for name in flavours)} is not installed"
    raise UserError(f"{why}; install it ({INSTALL[flavours[0]]}), or run the .onnx files instead")


def _wrap(module: ModuleType, flavour: Flavour) -> TensorRT:
    if module not in _loaded:
        api: Any = module
        version = str(api.__version__)
        if flavour == "tensorrt" and _numbers(version) < (10,):
            raise UserError(f"TensorRT {version} is too old; install version 10 or later ({INSTALL[flavour]})")
        words = Words()
        _loaded[module] = TensorRT(api, flavour, version, _make_logger(api, words), words)
    return _loaded[module]


def _make_logger(api: Any, words: Words) -> tensorrt.ILogger:
    class Recorder(api.ILogger):
        def __init__(self) -> None:
            api.ILogger.__init__(self)

        def log(self, severity: Any, msg: str) -> None:
            if int(severity) <= int(api.ILogger.Severity.ERROR):
                words.add(msg)
            _log.log(logging.INFO if int(severity) <= int(api.ILogger.Severity.WARNING) else logging.DEBUG, "%s", msg)

    return Recorder()


def find_gpu() -> Gpu:
    """PyTorch's current GPU. Raises UserError if there is no GPU, no driver or no CUDA in PyTorch."""
    if not torch.cuda.is_available():
        if torch.version.cuda is None:
            raise UserError("no GPU can be used: this PyTorch is a CPU build (a GPU needs the driver and a CUDA build)")
        raise UserError("no NVIDIA driver or GPU was found (nvidia-smi shows whether the driver works)")
    device = torch.device("cuda", torch.cuda.current_device())
    major, minor = torch.cuda.get_device_capability(device)
    return Gpu(device, torch.cuda.get_device_name(device), 10 * major + minor)


def check_supported(tensorrt: TensorRT, gpu: Gpu) -> None:
    """Raises UserError for a GPU that this release of TensorRT is known to have left behind."""
    if tensorrt.flavour == "tensorrt" and gpu.compute_capability < 75 and _numbers(tensorrt.version) >= (10, 5):
        raise UserError(
            f"TensorRT {tensorrt.version} no longer runs on {gpu.name} (compute capability "
            f"{dotted(gpu.compute_capability)}); install TensorRT 10.0 to 10.4"
        )


def dotted(compute_capability: int) -> str:
    """75 -> "7.5", 120 -> "12.0"."""
    return f"{compute_capability // 10}.{compute_capability % 10}"


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version))


def tensor_spec(name: str, dtype: Any, shape: Any) -> TensorSpec:
    """A TensorRT tensor's specification; dynamic dimensions, -1 in TensorRT, are called "dynamic"."""
    dims: tuple[Dim, ...] = tuple(dim if dim >= 0 else "dynamic" for dim in shape_tuple(shape))
    return TensorSpec(name, TORCH_DTYPES.get(dtype.name, torch.float64), dims)


def shape_tuple(dims: Any) -> tuple[int, ...]:
    """TensorRT's Dims, which can be iterated over but don't say so, as a tuple."""
    return tuple(int(dim) for dim in dims)
