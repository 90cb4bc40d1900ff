"""The common base of engines on this project's Triton kernels: where they run, their names, and kernel launches."""

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from common.contract import PRECISION_DTYPES, contract_of
from common.cuda import say_if_unmeasured, triton_obstacle, with_index
from common.engine import Engine, Range, TorchEngine
from common.errors import UserError
from common.metadata import ModelMetadata


class TritonEngine(Engine):
    """An engine in FP16 on an NVIDIA GPU, which need not be the current one. Not thread-safe.

    Raises:
        UserError: this model or this device is not supported (`obstacle` says why).
    """

    backend = "triton"
    capturable = True

    def __init__(self, metadata: ModelMetadata, device: torch.device | str) -> None:
        self.name = f"Triton {metadata.part}"
        reason = self.obstacle(metadata, device)
        if reason is not None:
            raise UserError(f"{self.name}: {reason}; use the PyTorch engine")
        self.metadata = metadata
        self.contract = contract_of(metadata)
        self.device = with_index(device)
        self.limits: Mapping[str, Range] = {}
        say_if_unmeasured(self.device)

    @classmethod
    def obstacle(cls, metadata: ModelMetadata, device: torch.device | str) -> str | None:
        """Why this engine can't run this model on this device; None if it can."""
        reason = cls.model_obstacle(metadata)
        if reason is None and metadata.precision != "fp16":
            reason = "it computes in FP16 only"
        return reason or triton_obstacle(torch.device(device))

    @staticmethod
    @abstractmethod
    def model_obstacle(metadata: ModelMetadata) -> str | None:
        """Why the kernels can't compute this model, on any device; None if they can."""


def best_engine(
    engine: type[TritonEngine], module: nn.Module, metadata: ModelMetadata, device: torch.device | str
) -> Engine:
    """The Triton engine where it can run, else the module on PyTorch, converted to the metadata's precision.

    Args:
        engine: the class; it is called with (module, metadata, device).
        module: the part, best in FP32, so that weights are rounded once.
    """
    if engine.obstacle(metadata, device) is None:
        return engine(module, metadata, device)  # type: ignore[call-arg, arg-type]
    return TorchEngine(module.to(PRECISION_DTYPES[metadata.precision]), metadata, device)


@dataclass(frozen=True)
class Launch:
    """One kernel with its grid and arguments."""

    kernel: Any  # of `triton.jit`
    grid: tuple[int, ...]
    arguments: tuple[Any, ...]
    constants: Mapping[str, Any] = field(default_factory=dict)  # the kernel's constants and launch options

    def __call__(self) -> None:
        self.kernel[self.grid](*self.arguments, **self.constants)

    def alone(self) -> "Launch":
        """This launch without overlap: it starts when its predecessor has finished."""
        constants = {name: value for name, value in self.constants.items() if name != "launch_pdl"}
        return replace(self, constants={**constants, **overlapping(False)})


def overlapping(overlap: bool) -> dict[str, bool]:
    """A kernel's constant for overlapping its predecessor (PDL, programmatic dependent launch), and the launch option
    for it, which Triton has on compute capability 9.0 and above alone."""
    return {"OVERLAP": True, "launch_pdl": True} if overlap else {"OVERLAP": False}


def power_of_2(size: int) -> int:
    """The smallest power of two that is not below `size`."""
    return 1 << (size - 1).bit_length()
