"""CUDA helpers: devices, copies, graph capture, a cache by shape, and whether Triton's kernels can run."""

import contextlib
import gc
import logging
import os
import shutil
import sysconfig
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor

OLDEST_CAPABILITY = (8, 0)  # Ampere
MEASURED_CAPABILITY = (9, 0)  # Hopper: the kernels have run on no other generation

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")

_log = logging.getLogger(__name__)
_warned_of: set[str] = set()


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
    """An array as a tensor on the device. The host doesn't wait for earlier work of a GPU."""
    tensor = torch.from_numpy(array)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor


def download(tensor: Tensor) -> Tensor:
    """A tensor on the host: itself there, else a copy in pinned memory, complete once the current stream's work is."""
    if tensor.device.type != "cuda":
        return tensor
    return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True).copy_(tensor, non_blocking=True)


def capture(run: Callable[[], None], device: torch.device, warm_up: bool = True) -> Callable[[], None]:
    """Records the work that `run` enqueues as a CUDA graph; returns a function that replays it on the current stream.

    On the CPU it returns `run` itself. After an error the current stream is the one before and the graph is gone:
    calling this again is a fresh attempt.

    Args:
        run: must work at fixed addresses and must not wait for the GPU.
        device: the GPU that `run` works on; it need not be the current one.
        warm_up: run once before recording, because compiling and allocating are illegal during capture. Not needed
            where `run` has run on these addresses before.

    Raises:
        RuntimeError: the capture failed, or `run` did.
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
        if torch.cuda.current_device() == index:  # a device guard costs more than launching a small graph
            graph.replay()
            return
        with torch.cuda.device(device):
            graph.replay()

    return replay


def _record(run: Callable[[], None]) -> torch.cuda.CUDAGraph:
    # `torch.cuda.graph(...)` won't do: it empties the allocator's cache at each capture. If ending the capture fails as
    # well, it leaves the capture stream current and hides the first error. Graphs can't share a pool: once its last
    # graph is destroyed, PyTorch refuses to begin another one in it.
    graph = torch.cuda.CUDAGraph()
    with _garbage_left():
        graph.capture_begin(capture_error_mode="thread_local")
        try:
            run()
        except BaseException:
            with contextlib.suppress(RuntimeError):
                graph.capture_end()
            raise
        graph.capture_end()
    return graph


@contextlib.contextmanager
def _garbage_left() -> Iterator[None]:
    # The collector may find an old graph or kernel at any allocation, and destroying one invalidates a capture.
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


class ShapeCache(Generic[Key, Value]):
    """A bounded cache of values by shape, which drops the least recently used. Not thread-safe.

    Args:
        bound: on the sum of all sizes. One value alone may exceed it.
        size: of a key's value, in the unit of the bound: bytes, or 1 where values are counted.
    """

    def __init__(self, bound: int, size: Callable[[Key], int] = lambda key: 1) -> None:
        self._bound = bound
        self._size = size
        self._entries: OrderedDict[Key, tuple[Value, int]] = OrderedDict()

    def get(self, key: Key, make: Callable[[], Value]) -> Value:
        """The value for `key`. A missing one is made, after others have been dropped to make room.

        Raises:
            Exception: of `make`. The key then has no value, and the next call makes one.
        """
        if key not in self._entries:
            size = self._size(key)
            while self._entries and size + sum(taken for _, taken in self._entries.values()) > self._bound:
                self._entries.popitem(last=False)
            self._entries[key] = make(), size
        self._entries.move_to_end(key)
        return self._entries[key][0]

    def keys(self) -> list[Key]:
        """The shapes that have a value, the least recently used first."""
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
    """Warns, once for each kind of GPU, of a generation on which this project's kernels have never run."""
    capability = torch.cuda.get_device_capability(device)
    name = torch.cuda.get_device_name(device)
    if capability == MEASURED_CAPABILITY or name in _warned_of:
        return
    _warned_of.add(name)
    _log.warning(
        "%s (compute capability %d.%d): the GPU kernels compile for it but have only ever run on Hopper (9.0); if the "
        "audio is wrong, use the PyTorch engines, and please report it",
        name,
        *capability,
    )
