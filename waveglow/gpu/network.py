"""WaveGlow's launches on an NVIDIA GPU: its kernels in order, on working memory that they share.

They compute the function of `waveglow.parts.WaveGlowPart` in FP16, with the weights that `waveglow.gpu.folding` folds.
"""

import copy
import functools
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from common.triton_engine import Launch, overlapping
from waveglow.gpu.folding import OUTPUTS, WIDTH, FoldedFlow, fold
from waveglow.gpu.geometry import Buffers, Geometry
from waveglow.gpu.tuning import ROW_TILE, Tiles, Tuning
from waveglow.parts import WaveGlowPart

MEL_TILE = 32  # frames of a tile of the kernel that spreads the mel

Step = Callable[[], object]  # a kernel of ours (`Launch`), or one of a library's


class Network:
    """The folded WaveGlow and the launches that run it.

    Args:
        part: in FP32 or FP16; folding FP32 weights rounds once.
        device: a CUDA device, or the CPU under Triton's interpreter.
    """

    def __init__(self, part: WaveGlowPart, device: torch.device, tuning: Tuning) -> None:
        self.config = part.config
        self.positions = part.positions
        self.geometry = Geometry.of(part, device, tuning)
        self.flows = fold(part, device, ranks=self.geometry.ranks)
        self._remaining, self._mel_taps = part.remaining, part.mel_taps

    def retuned(self, tuning: Tuning, processors: int | None = None) -> "Network":
        """The same weights, cut otherwise, for a GPU of so many multiprocessors."""
        network = copy.copy(self)
        processors = processors or self.geometry.processors
        network.geometry = replace(self.geometry, tuning=tuning, processors=processors)
        return network

    def launches(self, buffers: Buffers, mel: Tensor, z: Tensor, audio: Tensor) -> list[Step]:
        """The whole network's kernels in order.

        Args:
            mel, z, audio: of all utterances one after another, FP16 (n_mel_channels, frames),
                (n_group, frames * hop_length / n_group) and (frames * hop_length,).
        """
        early = self._remaining  # the first channel of z that has not joined the audio
        states = list(buffers.states)
        launches: list[Step] = [
            self._spread_mel(buffers, mel),
            self._couple(buffers, None, states, z, audio, first_early=0, count=early),
        ]
        for flow in self.flows:
            states.reverse()
            if flow.products is not None:
                frames = buffers.mel.transpose(0, 1).flatten(1)
                launches.append(
                    functools.partial(torch.mm, frames, flow.products, out=buffers.products.view(len(frames), -1))
                )
            for number in range(len(flow.layers)):
                launches += layer_launches(self.geometry, buffers, flow, number)
            launches.append(self._couple(buffers, flow, states, z, audio, first_early=early, count=flow.early))
            early += flow.early
        return launches

    def _spread_mel(self, buffers: Buffers, mel: Tensor) -> Launch:
        from waveglow.gpu.kernels import spread_mel

        frames = buffers.mel.size(1)
        return Launch(
            spread_mel,
            (math.ceil(frames / MEL_TILE), self.geometry.mel_blocks),
            (buffers.mel, *buffers.mel.stride()[:2], mel, buffers.row_map, frames, mel.size(1)),
            dict(
                MEL_CHANNELS=self.config.n_mel_channels,
                MEL_TAPS=self._mel_taps,
                FRAME_ROWS=self.geometry.frame_rows,
                TILE=MEL_TILE,
                **overlapping(self.geometry.tuning.overlap),
            ),
        )

    def _couple(
        self,
        buffers: Buffers,
        flow: FoldedFlow | None,
        states: list[Tensor],
        z: Tensor,
        audio: Tensor,
        *,
        first_early: int,
        count: int,
    ) -> Launch:
        # The coupling of a flow, from states[0] to states[1]; None begins the audio, before the first flow. Then
        # `count` channels of z, from `first_early` on, join it.
        from waveglow.gpu.kernels import couple

        phases = self.geometry.phases
        mixer = states[0] if flow is None else flow.mixer
        sizes = (buffers.rows, self.geometry.gap, z.size(1) // phases)
        return Launch(
            couple,
            (phases * (buffers.rows // ROW_TILE),),
            (buffers.table, buffers.outputs, *states, mixer, z, audio, buffers.row_map, *sizes, first_early),
            dict(
                FLOW_CHANNELS=flow.channels if flow else 0,
                EARLY=count,
                GROUP=self.config.n_group,
                PHASES=phases,
                LAST=flow is self.flows[-1],
                TILE=ROW_TILE,
                **overlapping(self.geometry.tuning.overlap),
            ),
        )


def layer_launches(geometry: Geometry, buffers: Buffers, flow: FoldedFlow, number: int) -> Iterator[Launch]:
    """Layer `number` of a flow: one kernel where Hopper's fits, else two."""
    hopper = _hopper_launches()
    if hopper is not None and hopper.fits(geometry):
        return hopper.layer_launches(geometry, buffers, flow, number)
    return _two_kernels(geometry, buffers, flow, number)


@functools.cache
def _hopper_launches() -> ModuleType | None:
    """None where Triton has no Gluon, or another one (it is experimental)."""
    try:
        from waveglow.hopper import launches
    except (ImportError, AttributeError):
        return None
    return launches


def _two_kernels(geometry: Geometry, buffers: Buffers, flow: FoldedFlow, number: int) -> Iterator[Launch]:
    from waveglow.gpu.kernels import gate, residual

    layer, channels, tuning = flow.layers[number], geometry.channels, geometry.tuning
    first, last = number == 0, number == len(flow.layers) - 1
    products = None if flow.mixing is None else buffers.products_of(number)
    columns = math.gcd(2 * channels, tuning.gate.columns)
    count = geometry.phases * math.ceil(buffers.used_rows / tuning.gate.rows) * (2 * channels // columns)
    yield Launch(
        gate,
        (min(count, geometry.processors) if tuning.persistent else count,),
        (
            buffers.table,
            _tiles(buffers.table, tuning.gate.rows, tuning),
            _tiles(layer.gate, columns, tuning),
            layer.gate_bias,
            products,
            0 if products is None else products.stride(0),
            flow.mixing,
            buffers.rows,
            geometry.gap,
            2**number,
            count,
        ),
        dict(
            TAPS=geometry.taps,
            PERSISTENT=tuning.persistent,
            APPROXIMATE=tuning.approximate,
            FIRST=first,
            **geometry.condition_constants,
            **_cut(tuning.gate, columns, tuning),
            **geometry.constants,
        ),
    )
    columns = math.gcd(channels, tuning.residual.columns)
    yield Launch(
        residual,
        (geometry.phases * (buffers.rows // tuning.residual.rows) * (1 if last else channels // columns),),
        (
            buffers.table,
            _tiles(buffers.table, tuning.residual.rows, tuning),
            _tiles(layer.residual, columns, tuning),
            _tiles(layer.residual, OUTPUTS, tuning),
            layer.residual_bias,
            flow.output_bias,
            buffers.outputs,
            buffers.row_map,
            buffers.rows,
            geometry.gap,
        ),
        dict(FIRST=first, LAST=last, **_cut(tuning.residual, columns, tuning), **geometry.constants),
    )


def _cut(tiles: Tiles, columns: int, tuning: Tuning) -> dict[str, Any]:
    return {
        "TILE": tiles.rows,
        "COLUMNS": columns,
        "DESCRIPTOR": tuning.descriptors,
        "num_warps": tiles.warps,
        "num_stages": tiles.stages,
    }


def _tiles(table: Tensor, rows: int, tuning: Tuning) -> Any:
    # The table, or a tensor descriptor of tiles of `rows` rows.
    if not tuning.descriptors:
        return table
    from triton.tools.tensor_descriptor import TensorDescriptor

    return TensorDescriptor.from_tensor(table, [rows, WIDTH])
