"""Where, when and with what a result was measured."""

import platform
import re
import sys
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from common.cpu_backend import usable_cores

PACKAGES = ("torch", "onnxruntime", "openvino", "tensorrt", "triton", "numpy")  # their versions decide the speed


@dataclass(frozen=True)
class Machine:
    """The machine and the software of a measurement."""

    date: str  # ISO 8601, with the time zone
    command: str
    device: str  # the GPU's or the processor's name
    threads: int  # of PyTorch on the CPU
    cores: int  # that the process may use
    python: str
    versions: dict[str, str]  # by package, of those installed

    @classmethod
    def this(cls, device: torch.device | None = None) -> "Machine":
        """This machine, by the name of its processor or of the GPU that did the work."""
        return cls(
            date=datetime.now().astimezone().isoformat(timespec="seconds"),
            command=" ".join(sys.argv),
            device=torch.cuda.get_device_name(device) if device and device.type == "cuda" else _processor_name(),
            threads=torch.get_num_threads(),
            cores=usable_cores(),
            python=platform.python_version(),
            versions=_versions(),
        )


def _processor_name() -> str:
    """The processor as Linux names it, else as Python does."""
    try:
        names = re.findall(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE)
    except OSError:
        names = []
    return names[0].strip() if names else platform.processor() or platform.machine()


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
