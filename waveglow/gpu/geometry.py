"""The layout of WaveGlow's working memory and launches on one GPU; `waveglow.gpu.kernels` describes the table."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from common.triton_engine import overlapping, power_of_2
from waveglow.gpu.folding import OUTPUTS, WIDTH, width_of
from waveglow.gpu.tuning import ROW_TILE, Tuning
from waveglow.parts import WaveGlowPart


@dataclass
class Buffers:
    """Working memory for planes of `rows` rows, of which the first `used_rows` hold utterances."""

    table: Tensor  # FP16 (rows of all sections, WIDTH)
    outputs: Tensor  # FP32 (positions, OUTPUTS)
    states: tuple[Tensor, Tensor]  # FP32 (positions, n_group) each
    mel: Tensor  # FP16 (mel blocks, frames of a plane, WIDTH): blocks one after another, or frames
    products: Tensor  # FP16 (frames of a plane * ranks, layers, 2 * channels); empty with the exact conditioning
    row_map: Tensor  # int32 (rows): which of all utterances' rows each row of a plane holds; -1 for an empty one
    rows: int
    used_rows: int

    def products_of(self, layer: int) -> Tensor:
        """The products that a layer mixes: (frames of a plane * ranks, 2 * channels)."""
        return self.products[:, layer]


@dataclass(frozen=True)
class Geometry:
    """The sizes that all launches share.

    Attributes:
        channels: that the kernels compute with.
        phases: of a frame; see `waveglow.gpu.kernels`.
        frame_rows: rows of a plane for a frame.
        gap: empty rows of a plane after each utterance.
        mel_blocks: blocks of WIDTH that a frame's mel taps fill.
        ranks: of the conditioning at the frames' rate, filled up; 0 for the exact conditioning.
        processors: multiprocessors of the GPU.
    """

    tuning: Tuning
    channels: int
    layers: int
    taps: int  # of the dilated convolutions
    n_group: int
    phases: int
    frame_rows: int
    gap: int
    mel_blocks: int
    ranks: int
    processors: int

    @classmethod
    def of(cls, part: WaveGlowPart, device: torch.device, tuning: Tuning) -> Geometry:
        """The sizes for a model on a device: a CUDA device, or the CPU under Triton's interpreter."""
        config, positions = part.config, part.positions
        # In the exact conditioning each position of a frame has weights of its own, and is a phase.
        phases = positions if part.rank is None else 1
        reach = 2 ** (config.wn_layers - 1) * (config.wn_kernel_size // 2)  # positions
        frame_rows = positions // phases
        # The inner dimension of a matrix product is at least 16: it sums over all frames of a tile.
        ranks = 0 if part.rank is None else max(power_of_2(part.rank), 16 * positions // ROW_TILE)
        on_gpu = device.type == "cuda"
        return cls(
            tuning=tuning,
            channels=width_of(config),
            layers=config.wn_layers,
            taps=config.wn_kernel_size,
            n_group=config.n_group,
            phases=phases,
            frame_rows=frame_rows,
            gap=max(math.ceil(reach / positions), 1) * frame_rows,
            mel_blocks=math.ceil(part.mel_taps * config.n_mel_channels / WIDTH),
            ranks=ranks,
            processors=torch.cuda.get_device_properties(device).multi_processor_count if on_gpu else 1,
        )

    @property
    def constants(self) -> dict[str, Any]:
        """Of the kernels that know the table's sections."""
        return {"CHANNELS": self.channels, "PHASES": self.phases, **overlapping(self.tuning.overlap)}

    @property
    def condition_constants(self) -> dict[str, int]:
        """Of the kernels that compute gates."""
        return {"MEL_BLOCKS": 0 if self.ranks else self.mel_blocks, "RANKS": self.ranks, "FRAME_ROWS": self.frame_rows}

    def rows_of(self, frames: Sequence[int]) -> int:
        """The rows of a plane that utterances of so many frames take."""
        return sum(frames) * self.frame_rows + self.gap * len(frames)

    def row_map(self, frames: Sequence[int], used_rows: int) -> np.ndarray:
        """`Buffers.row_map` for utterances of so many frames: int32 (rows)."""
        row_map = np.full(self._sizes(used_rows)[0], -1, np.int32)
        row = taken = 0
        for count in frames:
            rows = count * self.frame_rows
            row_map[row : row + rows] = np.arange(taken, taken + rows)
            row, taken = row + rows + self.gap, taken + rows
        return row_map

    def bytes_for(self, used_rows: int) -> int:
        """The size of the working memory for planes of so many rows, but for the row map."""
        return sum(self._bytes(used_rows))

    def buffers(self, memory: Tensor, used_rows: int, frames: Sequence[int] = ()) -> Buffers:
        """Cuts working memory, a byte tensor of at least `bytes_for(used_rows)`, for utterances of so many frames.

        The table comes first, so that its leading rows, which have to be zeros, are the same memory for every shape.
        """
        rows, table_rows = self._sizes(used_rows)
        sizes, plane_frames = self._bytes(used_rows), rows // self.frame_rows
        table, outputs, *states, products = memory[: sum(sizes)].split(sizes)
        table = table.view(torch.float16).view(table_rows, WIDTH)
        outputs, *states = (part.view(torch.float32).view(self.phases * rows, -1) for part in (outputs, *states))
        mel = table[table_rows - self.mel_blocks * plane_frames :]
        if self.ranks:  # the products take a frame's blocks side by side
            mel = mel.view(plane_frames, self.mel_blocks, WIDTH).transpose(0, 1)
        else:
            mel = mel.view(self.mel_blocks, plane_frames, WIDTH)
        products = products.view(torch.float16).view(plane_frames * self.ranks, self.layers, 2 * self.channels)
        row_map = torch.from_numpy(self.row_map(frames, used_rows)).to(memory.device)
        return Buffers(table, outputs, (states[0], states[1]), mel, products, row_map, rows, used_rows)

    def _sizes(self, used_rows: int) -> tuple[int, int]:
        # Rows of a plane, and of the table; a plane is a multiple of the largest tile long.
        tile = self.tuning.largest_tile
        rows = math.ceil(used_rows / tile) * tile
        planes = (1 + 2 * (self.channels // WIDTH)) * self.phases
        return rows, self.gap + planes * rows + self.mel_blocks * (rows // self.frame_rows)

    def _bytes(self, used_rows: int) -> list[int]:
        # Of the table, outputs, both states and the products.
        rows, table_rows = self._sizes(used_rows)
        positions = [4 * self.phases * rows * columns for columns in (OUTPUTS, self.n_group, self.n_group)]
        products = rows // self.frame_rows * self.ranks * self.layers * 2 * self.channels
        return [2 * table_rows * WIDTH, *positions, 2 * products]
