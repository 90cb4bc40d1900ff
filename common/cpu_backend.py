"""The processor's instruction sets, and which runtime runs each part faster on it.

`python3 -m common.cpu_backend` prints `openvino` where OpenVINO is worth installing, else `onnxruntime`.
"""

import ctypes
import importlib.util
import os
import platform
from contextlib import suppress
from pathlib import Path
from typing import Literal

from common.errors import UserError
from common.metadata import PARTS, Part

CpuBackend = Literal["auto", "onnxruntime", "openvino"]
CpuPrecision = Literal["fp32", "bf16"]

# Linux's names of instruction sets. oneDNN, on which OpenVINO computes, needs all of AVX512.
AVX512 = frozenset({"avx512f", "avx512bw", "avx512dq", "avx512vl"})
AMX_BF16 = frozenset({"amx_tile", "amx_bf16"})
# The parts that OpenVINO runs faster with AVX-512 (docs/cpu.md has the measurements). The decoder step waits for its
# weights from memory: no instruction set helps, and ONNX Runtime has less overhead.
OPENVINO_PARTS: frozenset[Part] = frozenset({"encoder", "postnet", "waveglow"})
# The instruction set that ONNX Runtime's products with 8-bit weights need, by machine.
INT8_FLAGS = {"x86_64": "avx2", "AMD64": "avx2", "aarch64": "asimddp", "arm64": "asimddp"}
MOST_THREADS = 256
M_MMAP_THRESHOLD = -3  # of mallopt(3)
MMAP_THRESHOLD = 1 << 20  # bytes


def cpu_flags(cpuinfo: Path = Path("/proc/cpuinfo")) -> frozenset[str]:
    """The processor's instruction sets by Linux's names; none where they can't be read (other systems)."""
    try:
        with open(cpuinfo, encoding="utf-8", errors="replace") as lines:
            for line in lines:
                if line.startswith(("flags", "Features")):  # x86, ARM
                    return frozenset(line.partition(":")[2].split())
    except OSError:
        pass
    return frozenset()


def faster_backend(part: Part, flags: frozenset[str]) -> Literal["onnxruntime", "openvino"]:
    """The runtime that runs a part faster in FP32 on a processor with these instruction sets."""
    return "openvino" if flags >= AVX512 and part in OPENVINO_PARTS else "onnxruntime"


def has_int8_kernel() -> bool:
    """Whether ONNX Runtime has a kernel for 8-bit weights on this processor; without, it is slower than in FP32."""
    wanted, flags = INT8_FLAGS.get(platform.machine()), cpu_flags()
    return wanted is not None and (not flags or wanted in flags)


def is_openvino_installed() -> bool:
    return importlib.util.find_spec("openvino") is not None


def choose_backend(part: Part, backend: CpuBackend, precision: CpuPrecision) -> Literal["onnxruntime", "openvino"]:
    """The runtime for a part's ONNX file on this CPU. `auto` takes OpenVINO only where it is installed.

    Raises:
        UserError: OpenVINO was chosen and is not installed, or BF16 and the processor or runtime has none.
    """
    if precision == "bf16":
        if not cpu_flags() >= AMX_BF16:
            raise UserError("cpu_precision bf16: this processor has no AMX, so it would gain nothing; use fp32")
        if backend == "onnxruntime":
            raise UserError("cpu_precision bf16: ONNX Runtime doesn't offer it; use cpu_backend openvino or auto")
    if (backend == "openvino" or precision == "bf16") and not is_openvino_installed():
        raise UserError("OpenVINO is not installed: pip install openvino, or leave out cpu_backend and cpu_precision")
    if backend != "auto":
        return backend
    return faster_backend(part, cpu_flags()) if is_openvino_installed() else "onnxruntime"


def return_large_buffers() -> None:
    """Makes glibc return freed buffers of MMAP_THRESHOLD and more to the system, in the whole process.

    By default glibc keeps freed buffers. Those of other lengths don't fit into them, and memory grows.
    """
    with suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, MMAP_THRESHOLD)


def usable_cores(quota: Path = Path("/sys/fs/cgroup/cpu.max")) -> int:
    """The CPU cores that this process may use.

    Args:
        quota: where Linux says how much time a container gets (`docker run --cpus`): microseconds of each period.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with suppress(OSError, ValueError):  # no container, or no limit ("max")
        time, period = map(int, quota.read_text(encoding="ascii").split())
        cores = min(cores, max(1, -(-time // period)))
    return cores


def thread_count(threads: int | None) -> int:
    """The threads to run with: `threads`, else OMP_NUM_THREADS of the environment (as PyTorch), else one a usable core.

    Raises UserError.
    """
    if threads is None:
        given = os.environ.get("OMP_NUM_THREADS", "")
        return int(given) if given.isdecimal() and int(given) > 0 else usable_cores()
    if not 1 <= threads <= MOST_THREADS:
        raise UserError(f"threads {threads}: must be between 1 and {MOST_THREADS}")
    return threads


if __name__ == "__main__":
    backends = {faster_backend(part, cpu_flags()) for part in PARTS}
    print("openvino" if "openvino" in backends else "onnxruntime")
