"""The launches of WaveGlow's layer kernel (`waveglow.hopper.layer_kernel`). Importing it needs a Triton with Gluon."""

from collections.abc import Iterator
from dataclasses import replace

from common.triton_engine import Launch
from waveglow.gpu.folding import OUTPUTS, WIDTH, FoldedFlow
from waveglow.gpu.geometry import Buffers, Geometry
from waveglow.gpu.tuning import ROW_TILE, Tiles
from waveglow.hopper.layer_kernel import layer, tiles_of

CHANNELS = (128, 256)  # of a layer whose gated channels fit into registers


def fits(geometry: Geometry) -> bool:
    """Whether one kernel can do a layer's work, and the tuning asks for it."""
    return geometry.tuning.fused is not None and geometry.channels in CHANNELS and _sums(geometry) <= WIDTH


def layer_launches(geometry: Geometry, buffers: Buffers, flow: FoldedFlow, number: int) -> Iterator[Launch]:
    """Layer `number` of a flow."""
    tiles = geometry.tuning.fused
    assert tiles is not None
    count = geometry.phases * (buffers.rows // tiles.rows)
    rest = count % geometry.processors
    if 2 * rest > geometry.processors:
        rest = 0
    # A last round that would leave most multiprocessors idle takes tiles of half the rows, in half the time.
    if count > rest:
        yield _launch(geometry, buffers, flow, number, tiles, range(count - rest))
    if rest:
        halves = replace(tiles, rows=tiles.rows // 2, warps=tiles.warps // 2)
        yield _launch(geometry, buffers, flow, number, halves, range(2 * (count - rest), 2 * count))


def _sums(geometry: Geometry) -> int:
    # The inner dimension of the conditioning's product: the ranks of all frames of a tile.
    return ROW_TILE // geometry.frame_rows * geometry.ranks


def _launch(geometry: Geometry, buffers: Buffers, flow: FoldedFlow, number: int, tiles: Tiles, which: range) -> Launch:
    # Tiles `which` of a plane.
    sums, weights = _sums(geometry), flow.layers[number]
    first, last = number == 0, number == len(flow.layers) - 1
    # In the first layer the weights of `start` take the room of a stage, and so do products of many ranks.
    stages = min(tiles.stages, 3) if (first and not last) or sums > 32 else tiles.stages
    return Launch(
        layer,
        (min(len(which), geometry.processors),),
        (
            tiles_of(buffers.table, tiles.rows),
            tiles_of(weights.gate, tiles.columns),
            tiles_of(weights.residual, WIDTH),
            tiles_of(weights.residual, OUTPUTS),
            None if flow.mixing is None else tiles_of(buffers.products_of(number), sums, tiles.columns),
            flow.mixing,
            weights.gate_bias,
            weights.residual_bias,
            flow.output_bias,
            buffers.table,
            buffers.outputs,
            buffers.row_map,
            buffers.rows,
            geometry.gap,
            2**number,
            which.start,
            which.stop,
            (number + 1) % 2,  # the first layer writes `hidden`
        ),
        dict(
            FIRST=first,
            LAST=last,
            TAPS=geometry.taps,
            SPLIT=ROW_TILE // tiles.rows,
            TILE=tiles.rows,
            STAGES=stages,
            num_warps=tiles.warps,
            **geometry.condition_constants,
            **geometry.constants,
        ),
    )
