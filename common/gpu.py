"""What this project's Triton kernels need of a machine."""

import os
import shutil
import sysconfig
from pathlib import Path

import torch

OLDEST_CAPABILITY = (8, 0)  # Ampere


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
