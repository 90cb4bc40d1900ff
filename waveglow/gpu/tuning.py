"""Tile sizes of WaveGlow's kernels, for each kind of GPU."""

from dataclasses import dataclass

import torch

ROW_TILE = 128  # rows of a tile, where the tuning doesn't say


@dataclass(frozen=True)
class Tiles:
    """How a matrix kernel cuts its work."""

    rows: int
    columns: int  # of the output, at most
    warps: int
    stages: int  # loads in flight


@dataclass(frozen=True)
class Tuning:
    """How the kernels of a layer are cut.

    Attributes:
        gate, residual: the two kernels' tiles.
        descriptors: tiles come through TMA, the bulk copy engine; needs compute capability 9.0.
        overlap: a kernel starts while its predecessor drains (PDL); needs compute capability 9.0.
        persistent: the gate kernel has one program a multiprocessor, which takes tiles in turn.
        approximate: the hardware's tanh, which Triton's interpreter lacks.
        fused: one kernel for both, for Hopper alone (`waveglow.hopper`); its tiles have ROW_TILE rows.
    """

    gate: Tiles
    residual: Tiles
    descriptors: bool
    overlap: bool
    persistent: bool = False
    approximate: bool = True
    fused: Tiles | None = None

    @property
    def largest_tile(self) -> int:
        """Rows."""
        return max(ROW_TILE, *(tiles.rows for tiles in (self.gate, self.residual, self.fused) if tiles))


# The fastest on an H100; docs/speed.md lists the others that were tried.
HOPPER = Tuning(
    Tiles(128, 256, 8, 4),
    Tiles(128, 128, 4, 3),
    descriptors=True,
    overlap=True,
    persistent=True,
    fused=Tiles(128, 256, 8, 4),
)
# For other GPUs: within the shared memory that the smallest of them gives a program.
GENERAL = Tuning(Tiles(128, 128, 8, 3), Tiles(128, 128, 8, 2), descriptors=False, overlap=False)


def default_tuning(device: torch.device) -> Tuning:
    return tuning_for(torch.cuda.get_device_capability(device))


def tuning_for(capability: tuple[int, int]) -> Tuning:
    return HOPPER if capability[0] == 9 else GENERAL
