"""WaveGlow's launches on an NVIDIA GPU: how the kernels are cut, the memory they work in, and their order.

They compute the function of `waveglow.parts.WaveGlowPart` in FP16, with the weights that `waveglow.gpu.folding` folds.
"""

import copy
import functools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from common.triton_engine import Launch, overlapping, power_of_2
from waveglow.gpu.folding import OUTPUTS, WIDTH, FoldedFlow, fold, width_of
from waveglow.parts import WaveGlowPart

ROW_TILE = 128  # rows of a tile, where the tuning doesn't say
MEL_TILE = 32  # frames of a tile of what spreads the mel
FUSED_CHANNELS = (128, 256)  # of a layer that one kernel computes: what is gated stays in registers

Step = Callable[[], object]  # a kernel of ours (`Launch`), or one of a library's


@dataclass(frozen=True)
class Tiles:
    """How a matrix kernel cuts its work: rows and (at most) output columns of a tile, warps of a program, loads in
    flight."""

    rows: int
    columns: int
    warps: int
    stages: int


@dataclass(frozen=True)
class Tuning:
    """`descriptors`: tiles come through TMA, the bulk copy engine; `overlap`: a kernel starts while its predecessor
    drains (PDL); both need compute capability 9.0. `persistent`: the gate kernel has one program for each
    multiprocessor, which takes tiles in turn. `approximate`: the hardware's tanh, which Triton's interpreter lacks.
    `fused`: one kernel for both, for Hopper alone and for FUSED_CHANNELS channels; its tiles have ROW_TILE rows."""

    gate: Tiles
    residual: Tiles
    descriptors: bool
    overlap: bool
    persistent: bool = False
    approximate: bool = True
    fused: Tiles | None = None


# The fastest on an H100; docs/speed.md has what else was tried.
HOPPER = Tuning(
    Tiles(128, 256, 8, 4),
    Tiles(128, 128, 4, 3),
    descriptors=True,
    overlap=True,
    persistent=True,
    fused=Tiles(128, 256, 8, 4),
)
# For GPUs without those engines: within the 99 KB of shared memory that the smallest of them gives a program.
GENERAL = Tuning(Tiles(128, 128, 8, 3), Tiles(128, 128, 8, 2), descriptors=False, overlap=False)


def default_tuning(device: torch.device) -> Tuning:
    return tuning_for(torch.cuda.get_device_capability(device))


def tuning_for(capability: tuple[int, int]) -> Tuning:
    return HOPPER if capability[0] == 9 else GENERAL


@dataclass
class Buffers:
    """Working memory, and the sizes it is cut for: `rows` a plane, of which the first `used_rows` hold utterances."""

    table: Tensor  # (rows of all sections, WIDTH), FP16
    outputs: Tensor  # (positions, OUTPUTS), FP32
    states: tuple[Tensor, Tensor]  # (positions, n_group) each, FP32
    mel: Tensor  # (mel blocks, frames of a plane, WIDTH), FP16: blocks one after another, or frames
    products: Tensor  # (frames of a plane, ranks * layers * 2 * channels), FP16; with the exact conditioning none
    rows: int
    used_rows: int


class Network:
    """The folded WaveGlow and the launches that run it.

    Args:
        part: in FP32 or FP16; folding FP32 weights rounds once.
        device: a CUDA device, or the CPU under Triton's interpreter.
    """

    def __init__(self, part: WaveGlowPart, device: torch.device, tuning: Tuning) -> None:
        self.config = part.config
        self.remaining = part.remaining
        self.channels = width_of(part.config)
        self.mel_taps, self.positions = part.mel_taps, part.positions
        self.mel_blocks = math.ceil(self.mel_taps * self.config.n_mel_channels / WIDTH)
        # Each position of a frame has weights of its own in the exact conditioning, and is a phase.
        self.phases = self.positions if part.rank is None else 1
        self.frame_rows = self.positions // self.phases  # rows of a plane for a frame
        reach = 2 ** (self.config.wn_layers - 1) * (self.config.wn_kernel_size // 2)  # positions
        self.gap = max(math.ceil(reach / self.positions), 1) * self.frame_rows
        self.ranks = 0
        self.mixing: Tensor | None = None
        if part.rank is not None:
            # A product's inner dimension is 16 at least: it sums over all frames of a tile.
            self.ranks = max(power_of_2(part.rank), 16 * self.positions // ROW_TILE)
            weights = list[Any](part.flows)[0].condition.weights  # (rank, positions)
            self.mixing = torch.zeros(self.positions, self.ranks, dtype=torch.float16, device=device)
            self.mixing[:, : part.rank] = weights.T
        self.flows = fold(part, device, ranks=self.ranks)
        self.tuning = tuning
        on_gpu = device.type == "cuda"
        self.processors = torch.cuda.get_device_properties(device).multi_processor_count if on_gpu else 1

    def retuned(self, tuning: Tuning) -> "Network":
        """The same weights, cut otherwise."""
        network = copy.copy(self)
        network.tuning = tuning
        return network

    def rows_of(self, frames: Sequence[int]) -> int:
        """The rows of a plane that utterances of so many frames take."""
        return sum(frames) * self.frame_rows + self.gap * len(frames)

    def places(self, frames: Sequence[int], used_rows: int) -> np.ndarray:
        """Of each row of a plane, which of the rows of all utterances' frames it is, or -1: int32 [rows]."""
        places = np.full(self.sizes(used_rows)[0], -1, np.int32)
        row = place = 0
        for count in frames:
            rows = count * self.frame_rows
            places[row : row + rows] = np.arange(place, place + rows)
            row, place = row + rows + self.gap, place + rows
        return places

    def sizes(self, used_rows: int) -> tuple[int, int]:
        """(rows of a plane, rows of the table); a plane is a multiple of the largest tile long."""
        kernels = (self.tuning.gate, self.tuning.residual, self.tuning.fused)
        tile = max(ROW_TILE, *(tiles.rows for tiles in kernels if tiles))
        rows = math.ceil(used_rows / tile) * tile
        planes = (1 + 2 * (self.channels // WIDTH)) * self.phases
        return rows, self.gap + planes * rows + self.mel_blocks * (rows // self.frame_rows)

    def bytes_for(self, used_rows: int) -> int:
        """The size of the working memory for planes of so many rows."""
        return sum(self._bytes(used_rows))

    def _bytes(self, used_rows: int) -> list[int]:
        # Of the table, outputs, both states and the products.
        rows, table_rows = self.sizes(used_rows)
        positions = [4 * self.phases * rows * columns for columns in (OUTPUTS, *2 * (self.config.n_group,))]
        return [2 * table_rows * WIDTH, *positions, 2 * (rows // self.frame_rows) * self.product_columns]

    @property
    def product_columns(self) -> int:
        """What a flow's layers mix, for a frame."""
        return self.ranks * self.config.wn_layers * 2 * self.channels

    def buffers(self, memory: Tensor, used_rows: int) -> Buffers:
        """Cuts working memory, a byte tensor of at least `bytes_for(used_rows)`.

        The table comes first, so that its leading rows, which have to be zeros, are the same memory for every shape.
        """
        rows, table_rows = self.sizes(used_rows)
        sizes, frames = self._bytes(used_rows), rows // self.frame_rows
        parts = memory[: sum(sizes)].split(sizes)
        table = parts[0].view(torch.float16).view(table_rows, WIDTH)
        outputs, *states = (part.view(torch.float32).view(self.phases * rows, -1) for part in parts[1:4])
        mel = table[table_rows - self.mel_blocks * frames :]
        if self.ranks:  # the products take a frame's blocks side by side
            mel = mel.view(frames, self.mel_blocks, WIDTH).transpose(0, 1)
        else:
            mel = mel.view(self.mel_blocks, frames, WIDTH)
        products = parts[4].view(torch.float16).view(frames, self.product_columns)
        return Buffers(table, outputs, (states[0], states[1]), mel, products, rows, used_rows)

    def launches(self, buffers: Buffers, places: Tensor, mel: Tensor, z: Tensor, audio: Tensor) -> list[Step]:
        """The whole network's kernels in order.

        Args:
            places: see the method; on the device.
            mel, z, audio: of all utterances one after another, FP16 (n_mel_channels, frames),
                (n_group, frames * hop_length / n_group) and (frames * hop_length,).
        """
        states = list(buffers.states)
        early = self.remaining
        launches: list[Step] = [
            self._spread_mel(buffers, places, mel),
            self._couple(buffers, places, None, states, z, audio, early=0, count=early, last=False),
        ]
        for number, flow in enumerate(self.flows):
            states.reverse()
            if flow.products is not None:
                frames = buffers.mel.transpose(0, 1).flatten(1)
                launches.append(functools.partial(torch.mm, frames, flow.products, out=buffers.products))
            for i in range(len(flow.layers)):
                launches += self._layer(buffers, places, flow, i)
            last = number == len(self.flows) - 1
            launches.append(
                self._couple(buffers, places, flow, states, z, audio, early=early, count=flow.early, last=last)
            )
            early += flow.early
        return launches

    @property
    def _constants(self) -> dict[str, Any]:
        # Of the two kernels that know the table's sections.
        shape = {"CHANNELS": self.channels, "PHASES": self.phases}
        return {**shape, **overlapping(self.tuning.overlap)}

    def _condition(self, buffers: Buffers, number: int) -> tuple[Tensor | None, Tensor | None]:
        # What a layer mixes, (frames * ranks, 2 * channels), and how.
        if self.mixing is None:
            return None, None
        products = buffers.products.view(-1, self.config.wn_layers, 2 * self.channels)
        return products[:, number], self.mixing

    @property
    def _condition_constants(self) -> dict[str, int]:
        # Of the kernels that compute gates.
        return {"MEL_BLOCKS": 0 if self.ranks else self.mel_blocks, "RANKS": self.ranks, "FRAME_ROWS": self.frame_rows}

    def _spread_mel(self, buffers: Buffers, places: Tensor, mel: Tensor) -> Launch:
        from waveglow.gpu.kernels import spread_mel

        frames = buffers.mel.size(1)
        return Launch(
            spread_mel,
            (math.ceil(frames / MEL_TILE), self.mel_blocks),
            (buffers.mel, *buffers.mel.stride()[:2], mel, places, frames, mel.size(1)),
            dict(
                MEL_CHANNELS=self.config.n_mel_channels,
                MEL_TAPS=self.mel_taps,
                FRAME_ROWS=self.frame_rows,
                TILE=MEL_TILE,
                **overlapping(self.tuning.overlap),
            ),
        )

    def _couple(
        self,
        buffers: Buffers,
        places: Tensor,
        flow: FoldedFlow | None,
        states: list[Tensor],
        z: Tensor,
        audio: Tensor,
        *,
        early: int,
        count: int,
        last: bool,
    ) -> Launch:
        # The coupling of a flow (None: what comes before the first), from states[0] to states[1].
        from waveglow.gpu.kernels import couple

        mixer = states[0] if flow is None else flow.mixer
        sizes = (buffers.rows, self.gap, z.size(1) // self.phases)
        return Launch(
            couple,
            (self.phases * (buffers.rows // ROW_TILE),),
            (buffers.table, buffers.outputs, *states, mixer, z, audio, places, *sizes, early),
            dict(
                FLOW_CHANNELS=flow.channels if flow else 0,
                EARLY=count,
                GROUP=self.config.n_group,
                PHASES=self.phases,
                LAST=last,
                TILE=ROW_TILE,
                **overlapping(self.tuning.overlap),
            ),
        )

    def _layer(self, buffers: Buffers, places: Tensor, flow: FoldedFlow, number: int) -> Iterator[Launch]:
        tiles = self.tuning.fused
        fits = self.channels in FUSED_CHANNELS and self._sums <= WIDTH
        if tiles is None or not fits or _layer_kernel() is None:
            return self._layer_in_two(buffers, places, flow, number)
        return self._layer_in_one(buffers, places, flow, number, tiles)

    @property
    def _sums(self) -> int:
        # The inner dimension of the conditioning's product in one kernel: the ranks of all frames of a tile.
        return ROW_TILE // self.frame_rows * self.ranks

    def _layer_in_one(
        self, buffers: Buffers, places: Tensor, flow: FoldedFlow, number: int, tiles: Tiles
    ) -> Iterator[Launch]:
        count = self.phases * (buffers.rows // tiles.rows)
        rest = count % self.processors
        if 2 * rest > self.processors:
            rest = 0
        # A last round that would leave most multiprocessors idle takes tiles of half the rows, in half the time.
        if count > rest:
            yield self._fused(buffers, places, flow, number, tiles, 0, count - rest)
        if rest:
            halves = replace(tiles, rows=tiles.rows // 2, warps=tiles.warps // 2)
            yield self._fused(buffers, places, flow, number, halves, 2 * (count - rest), 2 * count)

    def _fused(
        self, buffers: Buffers, places: Tensor, flow: FoldedFlow, number: int, tiles: Tiles, first_tile: int, end: int
    ) -> Launch:
        # The one kernel of a layer, on tiles from `first_tile` to before `end`.
        kernels = _layer_kernel()
        assert kernels is not None
        tiles_of = kernels.tiles_of
        products, mixing = self._condition(buffers, number)
        split = ROW_TILE // tiles.rows
        layer = flow.layers[number]
        first, last = number == 0, number == len(flow.layers) - 1
        return Launch(
            kernels.layer,
            (min(end - first_tile, self.processors),),
            (
                tiles_of(buffers.table, tiles.rows),
                tiles_of(layer.gate, tiles.columns),
                tiles_of(layer.residual, WIDTH),
                tiles_of(layer.residual, OUTPUTS),
                None if products is None else tiles_of(products, self._sums, tiles.columns),
                mixing,
                layer.gate_bias,
                layer.residual_bias,
                flow.output_bias,
                buffers.table,
                buffers.outputs,
                places,
                buffers.rows,
                self.gap,
                2**number,
                first_tile,
                end,
                (number + 1) % 2,  # the first layer writes `hidden`
            ),
            dict(
                FIRST=first,
                LAST=last,
                TAPS=self.config.wn_kernel_size,
                SPLIT=split,
                TILE=tiles.rows,
                # In the first layer the weights of `start` take the place of a stage, and those of many ranks do.
                STAGES=min(tiles.stages, 3) if (first and not last) or self._sums > 32 else tiles.stages,
                num_warps=tiles.warps,
                **self._condition_constants,
                **self._constants,
            ),
        )

    def _layer_in_two(self, buffers: Buffers, places: Tensor, flow: FoldedFlow, number: int) -> Iterator[Launch]:
        from waveglow.gpu.kernels import gate, residual

        layer, channels = flow.layers[number], self.channels
        first, last = number == 0, number == len(flow.layers) - 1
        products, mixing = self._condition(buffers, number)
        tiles = self.tuning.gate
        columns = math.gcd(2 * channels, tiles.columns)
        count = self.phases * math.ceil(buffers.used_rows / tiles.rows) * (2 * channels // columns)
        yield Launch(
            gate,
            (min(count, self.processors) if self.tuning.persistent else count,),
            (
                buffers.table,
                self._tiles(buffers.table, tiles.rows),
                self._tiles(layer.gate, columns),
                layer.gate_bias,
                products,
                0 if products is None else products.stride(0),
                mixing,
                buffers.rows,
                self.gap,
                2**number,
                count,
            ),
            dict(
                TAPS=self.config.wn_kernel_size,
                PERSISTENT=self.tuning.persistent,
                APPROXIMATE=self.tuning.approximate,
                FIRST=first,
                **self._condition_constants,
                **self._cut(tiles, columns),
                **self._constants,
            ),
        )
        tiles = self.tuning.residual
        columns = math.gcd(channels, tiles.columns)
        yield Launch(
            residual,
            (self.phases * (buffers.rows // tiles.rows) * (1 if last else channels // columns),),
            (
                buffers.table,
                self._tiles(buffers.table, tiles.rows),
                self._tiles(layer.residual, columns),
                self._tiles(layer.residual, OUTPUTS),
                layer.residual_bias,
                flow.output_bias,
                buffers.outputs,
                places,
                buffers.rows,
                self.gap,
            ),
            dict(FIRST=first, LAST=last, **self._cut(tiles, columns), **self._constants),
        )

    def _cut(self, tiles: Tiles, columns: int) -> dict[str, Any]:
        return {
            "TILE": tiles.rows,
            "COLUMNS": columns,
            "DESCRIPTOR": self.tuning.descriptors,
            "num_warps": tiles.warps,
            "num_stages": tiles.stages,
        }

    def _tiles(self, table: Tensor, rows: int) -> Any:
        # What a kernel loads tiles of `rows` rows through.
        if not self.tuning.descriptors:
            return table
        from triton.tools.tensor_descriptor import TensorDescriptor

        return TensorDescriptor.from_tensor(table, [rows, WIDTH])


@functools.cache
def _layer_kernel() -> ModuleType | None:
    """None where Triton has no Gluon, or another one (it is experimental): two kernels then do a layer's work."""
    try:
        from waveglow.hopper import layer_kernel
    except (ImportError, AttributeError):
        return None
    return layer_kernel
