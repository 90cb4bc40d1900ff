"""TensorRT's module, errors and GPU: imports `tensorrt` or `tensorrt_rtx` when it is first needed.

All other code takes the module from here, and uses only the functions that TensorRT 10, 11 and TensorRT-RTX share.
"""

from __future__ import annotations

import importlib
import logging
import re
from collections import deque
from contextlib import AbstractContextManager
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch

from common.contract import Dim, TensorSpec, dtype_named
from common.cuda import on_device, with_index
from common.errors import UserError

if TYPE_CHECKING:
    import tensorrt

Flavour = Literal["tensorrt", "tensorrt_rtx", "tensorrt_lean"]


class Product(NamedTuple):
    """One of NVIDIA's TensorRTs."""

    name: str
    install: str
    oldest: tuple[int, ...]  # version that will do


PRODUCTS: dict[Flavour, Product] = {
    "tensorrt": Product("TensorRT", "pip install tensorrt, or NVIDIA's TensorRT container", (10,)),
    "tensorrt_rtx": Product("TensorRT-RTX", "pip install tensorrt-rtx-cu13", (1, 7)),
    "tensorrt_lean": Product("TensorRT's lean runtime", "pip install tensorrt-lean", (10,)),
}
BUILDERS: tuple[Flavour, ...] = ("tensorrt", "tensorrt_rtx")  # in order of preference
MAX_MESSAGE = 400  # characters of TensorRT's own words in a message
MAX_ERRORS = 20  # of TensorRT's, kept
DEFAULT_STREAM = 0  # the handle of CUDA's legacy default stream
_OUT_OF_MEMORY = re.compile(r"out ?of ?memory|cudaErrorMemoryAllocation|cudaMalloc", re.IGNORECASE)

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TensorRT:
    """An imported TensorRT. Its functions return None or False on failure; `errors` collects the reasons it logs."""

    api: Any  # the module
    flavour: Flavour
    version: str
    logger: tensorrt.ILogger
    errors: ErrorLog

    @property
    def product(self) -> str:
        return PRODUCTS[self.flavour].name


class ErrorLog(deque[str]):
    """TensorRT's latest errors, in its own words. Shared by all engines of a process: threads may see each other's."""

    def __str__(self) -> str:
        """The errors since the last `clear`, in one line."""
        return one_line("; ".join(dict.fromkeys(tuple(self)))) or "TensorRT gave no reason"

    @property
    def out_of_memory(self) -> bool:
        """Whether any error is a lack of device memory, beyond those that fit into `str` too."""
        return any(_OUT_OF_MEMORY.search(error) for error in tuple(self))


def one_line(words: str) -> str:
    """Words as one line of a message, cut at MAX_MESSAGE characters."""
    words = " ".join(words.split())
    return words if len(words) <= MAX_MESSAGE else words[: MAX_MESSAGE - 3] + "..."


@dataclass(frozen=True)
class Gpu:
    """A GPU that engines run on. PyTorch owns its memory and streams."""

    device: torch.device
    name: str
    compute_capability: int  # 75 stands for 7.5
    alignment: int = 256  # bytes; of every address that TensorRT is given (NvInferRuntime.h, setTensorAddress)

    def stream(self) -> int:
        """The handle of PyTorch's current stream on this GPU."""
        return torch.cuda.current_stream(self.device).cuda_stream

    def synchronize(self) -> None:
        """Waits until everything enqueued on this GPU is done."""
        torch.cuda.synchronize(self.device)

    def own_stream(self) -> AbstractContextManager[Any]:
        """Makes a new stream the current one for a `with` block; its work begins after the present stream's."""
        stream = torch.cuda.Stream(self.device)
        stream.wait_stream(torch.cuda.current_stream(self.device))
        return torch.cuda.stream(stream)

    def current(self) -> AbstractContextManager[Any]:
        """Makes this GPU the current one for a `with` block: TensorRT works on the current GPU."""
        return on_device(self.device)


_loaded: dict[ModuleType, TensorRT] = {}  # TensorRT keeps the first logger of a process


def load(*flavours: Flavour) -> TensorRT:
    """Imports TensorRT in one of its flavours, the first that is installed.

    Args:
        flavours: the acceptable ones, in order of preference; by default those that build engines.

    Raises:
        UserError: none is installed or can be loaded, or it is too old.
    """
    flavours = flavours or BUILDERS
    problems = []
    for name in flavours:
        try:
            module = importlib.import_module(name)
        except (ImportError, OSError, RuntimeError) as error:
            if not isinstance(error, ModuleNotFoundError) or error.name != name:  # a library that it needs is missing
                problems.append(f"{name} can't be loaded: {error}")
            continue
        if hasattr(module, "Runtime"):  # a folder of type stubs imports as an empty module
            return _wrap(module, name)
    why = one_line("; ".join(problems)) or f"{' or '.join(PRODUCTS[name].name for name in flavours)} is not installed"
    raise UserError(f"{why}; install it ({PRODUCTS[flavours[0]].install}), or run the .onnx files instead")


def _wrap(module: ModuleType, flavour: Flavour) -> TensorRT:
    if module not in _loaded:
        api: Any = module
        version, product = str(api.__version__), PRODUCTS[flavour]
        if version_numbers(version) < product.oldest:
            oldest = ".".join(map(str, product.oldest))
            raise UserError(
                f"{product.name} {version} is too old; install version {oldest} or later ({product.install})"
            )
        errors = ErrorLog(maxlen=MAX_ERRORS)
        _loaded[module] = TensorRT(api, flavour, version, _make_logger(api, errors), errors)
    return _loaded[module]


def _make_logger(api: Any, errors: ErrorLog) -> tensorrt.ILogger:
    class Recorder(api.ILogger):
        def __init__(self) -> None:
            api.ILogger.__init__(self)

        def log(self, severity: Any, msg: str) -> None:
            if int(severity) <= int(api.ILogger.Severity.ERROR):
                errors.append(msg)
            _log.log(logging.INFO if int(severity) <= int(api.ILogger.Severity.WARNING) else logging.DEBUG, "%s", msg)

    return Recorder()


def find_gpu(device: torch.device | str | None = None) -> Gpu:
    """A GPU as engines need it.

    Args:
        device: such as "cuda:1"; None, or "cuda" without a number, takes PyTorch's current GPU.

    Raises:
        UserError: there is no GPU, no driver, no CUDA in PyTorch, or no GPU of that number.
    """
    if not torch.cuda.is_available():
        if torch.version.cuda is None:
            raise UserError("no GPU can be used: this PyTorch is a CPU build (a GPU needs the driver and a CUDA build)")
        raise UserError("no NVIDIA driver or GPU was found (nvidia-smi shows whether the driver works)")
    found = with_index("cuda" if device is None else device)
    if found.type != "cuda" or found.index >= torch.cuda.device_count():
        raise UserError(f"{device} is none of this machine's GPUs, cuda:0 to cuda:{torch.cuda.device_count() - 1}")
    major, minor = torch.cuda.get_device_capability(found)
    return Gpu(found, torch.cuda.get_device_name(found), 10 * major + minor)


def check_supported(tensorrt: TensorRT, gpu: Gpu) -> None:
    """Raises UserError for a GPU that this release of TensorRT no longer supports."""
    if tensorrt.flavour == "tensorrt" and gpu.compute_capability < 75 and version_numbers(tensorrt.version) >= (10, 5):
        raise UserError(
            f"TensorRT {tensorrt.version} no longer runs on {gpu.name} (compute capability "
            f"{dotted(gpu.compute_capability)}); install TensorRT 10.0 to 10.4"
        )


def dotted(compute_capability: int) -> str:
    """75 -> "7.5", 120 -> "12.0"."""
    return f"{compute_capability // 10}.{compute_capability % 10}"


def version_numbers(version: str) -> tuple[int, ...]:
    """ "10.13.2" -> (10, 13, 2), which can be compared."""
    return tuple(int(number) for number in re.findall(r"\d+", version))


def tensor_spec(name: str, dtype: Any, shape: Any) -> TensorSpec:
    """A TensorRT tensor's specification; dynamic dimensions, -1 in TensorRT, are called "dynamic"."""
    dims: tuple[Dim, ...] = tuple(dim if dim >= 0 else "dynamic" for dim in shape_tuple(shape))
    return TensorSpec(name, dtype_named(dtype.name), dims)


def shape_tuple(dims: Any) -> tuple[int, ...]:
    """TensorRT's Dims as a tuple. Dims can be iterated over, though their type doesn't declare it."""
    return tuple(int(dim) for dim in dims)
