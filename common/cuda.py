"""CUDA graphs, which GPU is current, and what Triton needs: said once for every engine. Imports nothing above it."""

import contextlib
import logging
import os
import shutil
import sysconfig
from collections import OrderedDict
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor

OLDEST_CAPABILITY = (8, 0)  # Ampere
MEASURED_CAPABILITY = (9, 0)  # Hopper: the kernels' sizes were chosen on H100 and H200, and have run nowhere else

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")

_log = logging.getLogger(__name__)
_said: set[str] = set()


def with_index(device: torch.device | str) -> torch.device:
    """The device with its number: "cuda" is the GPU that is current now. Other devices come back as they are."""
    device = torch.device(device)
    if device.type == "cuda" and device.index is None and torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    return device


def on_device(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Makes a GPU the current one for a `with` block, so that streams, graphs and kernels are its own."""
    return torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()


def upload(array: np.ndarray, device: torch.device) -> Tensor:
    """An array as a tensor on the device, copied without waiting for what a GPU has to do before."""
    tensor = torch.from_numpy(array)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor


def download(tensor: Tensor) -> Tensor:
    """A tensor on the host: itself there, else a copy in pinned memory, complete once the current stream's work is."""
    if tensor.device.type != "cuda":
        return tensor
    return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True).copy_(tensor, non_blocking=True)


def capture(run: Callable[[], None], device: torch.device, warm_up: bool = True) -> Callable[[], None]:
    """Records what `run` enqueues as a CUDA graph; returns what replays it on the current stream.

    On the CPU it returns `run` itself. Where it raises, the current stream is the one before, and nothing of the graph
    is left: calling it again is a fresh attempt.

    Args:
        run: must work at fixed addresses and must not wait for the GPU.
        device: the GPU that `run` works on; it need not be the current one.
        warm_up: run once before recording, because compiling and allocating are illegal during capture. Leave it out
            where `run` has run before on these addresses.

    Raises:
        RuntimeError: the capture failed, or what `run` raises.
    """
    if device.type != "cuda":
        return run
    with torch.cuda.device(device):
        current, stream = torch.cuda.current_stream(), torch.cuda.Stream()
        stream.wait_stream(current)
        with torch.cuda.stream(stream):
            if warm_up:
                run()
            stream.synchronize()
            graph = _record(run)
        current.wait_stream(stream)

    index = with_index(device).index

    def replay() -> None:
        if torch.cuda.current_device() == index:  # entering a guard costs more than launching a small graph
            graph.replay()
            return
        with torch.cuda.device(device):
            graph.replay()

    return replay


def _record(run: Callable[[], None]) -> torch.cuda.CUDAGraph:
    # Not `with torch.cuda.graph(...)`: it empties the allocator's cache at each capture, and where ending the capture
    # fails as well, it leaves the capture stream current and hides the first error. And no pool shared by graphs: where
    # its last graph has gone, PyTorch refuses to begin another one in it.
    graph = torch.cuda.CUDAGraph()
    graph.capture_begin(capture_error_mode="thread_local")
    try:
        run()
    except BaseException:
        with contextlib.suppress(RuntimeError):
            graph.capture_end()
        raise
    graph.capture_end()
    return graph


class ShapeCache(Generic[Key, Value]):
    """What exists for each shape, within a bound; what was used longest ago goes first. Not thread-safe.

    Args:
        bound: on the sum of all sizes. One value alone may exceed it.
        size: what the value of a key takes of the bound: bytes, or 1 where values are counted.
    """

    def __init__(self, bound: int, size: Callable[[Key], int] = lambda key: 1) -> None:
        self._bound = bound
        self._size = size
        self._entries: OrderedDict[Key, tuple[Value, int]] = OrderedDict()

    def get(self, key: Key, make: Callable[[], Value]) -> Value:
        """The value for `key`; a new one where there is none, made after others have given way.

        Raises:
            Exception: what `make` raises; the key then has no value, and the next call makes one.
        """
        if key not in self._entries:
            size = self._size(key)
            while self._entries and size + sum(taken for _, taken in self._entries.values()) > self._bound:
                self._entries.popitem(last=False)
            self._entries[key] = make(), size
        self._entries.move_to_end(key)
        return self._entries[key][0]

    def keys(self) -> list[Key]:
        """Which shapes have a value, the one used longest ago first."""
        return list(self._entries)

    def clear(self) -> None:
        self._entries.clear()


def triton_obstacle(device: torch.device) -> str | None:
    """Why Triton kernels can't be compiled and run on this device; None if they can."""
    if device.type != "cuda" or not torch.cuda.is_available():
        return "it needs an NVIDIA GPU"
    if torch.cuda.get_device_capability(device) < OLDEST_CAPABILITY:
        return "the GPU's compute capability is below 8.0"
    try:
        import triton  # noqa: F401
    except ImportError:
        return "Triton is not installed"
    if not (os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")):
        return "Triton needs a C compiler (gcc or clang)"
    if not Path(sysconfig.get_paths()["include"], "Python.h").is_file():
        return "Triton needs Python's headers (python3-dev)"
    return None


def say_if_unmeasured(device: torch.device) -> None:
    """Logs a warning, once for each kind of GPU, where this project's kernels have never run on its generation."""
    capability = torch.cuda.get_device_capability(device)
    name = torch.cuda.get_device_name(device)
    if capability == MEASURED_CAPABILITY or name in _said:
        return
    _said.add(name)
    _log.warning(
        "%s (compute capability %d.%d): the GPU kernels compile for it but have only ever run on Hopper (9.0); if the "
        "audio is wrong, use the PyTorch engines, and please report it",
        name,
        *capability,
    )
