"""A layer of WaveGlow in one kernel for Hopper, in Gluon, which lets loads be scheduled by hand.

Triton begins its pipeline of loads anew at every loop. Here one ring buffer (`waveglow.hopper.loader`) serves all
products of all tiles, so the tensor cores wait for loads only at the beginning of a program.
"""

from typing import Any

from torch import Tensor
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    fence_async_shared,
    mbarrier,
    warpgroup_mma,
    warpgroup_mma_wait,
)
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

from waveglow.gpu.folding import OUTPUTS, WIDTH
from waveglow.hopper.loader import (
    COLUMNS,
    Loader,
    Ring,
    Sections,
    Shape,
    Tables,
    advance,
    copy_tile,
    first_loads,
    gate_ring,
    product_ring,
    rows_of,
)

_WIDTH = gl.constexpr(WIDTH)
_OUTPUTS = gl.constexpr(OUTPUTS)
_COLUMNS = gl.constexpr(COLUMNS)
_STAGE_BLOCKS = gl.constexpr(COLUMNS // WIDTH)


def tiles_of(table: Tensor, rows: int, columns: int = WIDTH) -> Any:
    """A tensor descriptor of a table in tiles of (rows, columns), for the kernel."""
    shape = [rows, columns]
    return TensorDescriptor.from_tensor(table, shape, gl.NVMMASharedLayout.get_default_for(shape, gl.float16))


@gluon.jit
def _tanh(x):
    return gl.inline_asm_elementwise("tanh.approx.f32 $0, $1;", "=f,f", [x], dtype=gl.float32, is_pure=True, pack=1)


@gluon.jit
def _pin(x):
    # Pins FP16 values here: the compiler would sink their computation past the next product, and the FP32 values that
    # it then holds take more registers than there are.
    return gl.inline_asm_elementwise("mov.b32 $0, $1;", "=r,r", [x], dtype=gl.float16, is_pure=False, pack=2)


@gluon.jit
def _start(OVERLAP: gl.constexpr):
    # With OVERLAP (PDL) the kernel starts while its predecessor drains, and waits here for the predecessor's results.
    if OVERLAP:
        gl.inline_asm_elementwise("griddepcontrol.wait; // $0", "=r", [], dtype=gl.int32, is_pure=False, pack=1)
        gl.inline_asm_elementwise(
            "griddepcontrol.launch_dependents; // $0", "=r", [], dtype=gl.int32, is_pure=False, pack=1
        )


@gluon.jit
def _mixing_weights(mixing, shape, RANKS: gl.constexpr, FRAME_ROWS: gl.constexpr, num_warps: gl.constexpr):
    # FP16 (SPLIT, TILE, SUMS): the weights of a tile's products in its rows; see `_mixing` of `waveglow.gpu.kernels`.
    LINES: gl.constexpr = gl.BlockedLayout([1, 8], [16, 2], [num_warps, 1], [1, 0])
    layout: gl.constexpr = gl.NVMMASharedLayout(2 * shape.SUMS, 16, 2)
    weights = gl.allocate_shared_memory(gl.float16, [shape.SPLIT, shape.TILE, shape.SUMS], layout)
    product = gl.arange(0, shape.SUMS, layout=gl.SliceLayout(0, LINES))[None, :]
    for i in gl.static_range(shape.SPLIT):
        row = i * shape.TILE + gl.arange(0, shape.TILE, layout=gl.SliceLayout(1, LINES))[:, None]
        same = row // FRAME_ROWS == product // RANKS
        values = gl.load(mixing + row % FRAME_ROWS * RANKS + product % RANKS, mask=same, other=0.0)
        weights.index(i).store(values)
    return weights


@gluon.jit
def _load_kept(bar, output_tiles, residual_tiles, output_weights, start_weights, shape, WITH_START: gl.constexpr):
    # Starts the loads of the weights that a program keeps for all of its tiles.
    STEP: gl.constexpr = shape.CHANNELS + _OUTPUTS  # rows of the residual's weights for one block of input
    ROWS: gl.constexpr = _OUTPUTS + (_WIDTH if WITH_START else 0)
    mbarrier.expect(bar, shape.BLOCKS * ROWS * _WIDTH * 2)
    for i in gl.static_range(shape.BLOCKS):
        copy_tile(output_tiles, [i * STEP + shape.CHANNELS, 0], bar, output_weights.index(i))
        if WITH_START:
            copy_tile(residual_tiles, [shape.BLOCKS * STEP + i * _WIDTH, 0], bar, start_weights.index(i))


@gluon.jit
def _gates(loader, cursor, mixing_weights, bias, tile, part):
    # Two blocks of gated channels, FP16 (TILE, WIDTH) each.
    shape, ring = loader.shape, loader.ring
    SUMS: gl.constexpr = shape.SUMS
    column = gl.arange(0, _COLUMNS, layout=gl.SliceLayout(0, shape.GATE))
    first_sums = gl.load(bias + part * _COLUMNS + column)
    acc = gl.zeros((shape.TILE, _COLUMNS), gl.float32, shape.GATE) + first_sums[None, :]
    gate_weights = gate_ring(loader)
    for _ in range(shape.PART_STEPS - (1 if SUMS > 0 else 0)):
        mbarrier.wait(ring.ready.index(cursor.stage), cursor.parity)
        weights = gate_weights.index(cursor.stage).permute((1, 0))
        acc = warpgroup_mma(ring.x.index(cursor.stage), weights, acc, is_async=True)
        acc = warpgroup_mma_wait(1, deps=[acc])
        cursor = advance(loader, cursor)
    if SUMS > 0:
        mbarrier.wait(ring.ready.index(cursor.stage), cursor.parity)
        values = product_ring(loader).index(cursor.stage * (_WIDTH // SUMS))
        acc = warpgroup_mma(mixing_weights.index(tile % shape.SPLIT), values, acc, is_async=True)
        acc = warpgroup_mma_wait(1, deps=[acc])
        cursor = advance(loader, cursor)
    acc = warpgroup_mma_wait(0, deps=[acc])
    a, b = gl.split(gl.permute(gl.reshape(acc, (shape.TILE, 2, 2, _WIDTH)), (0, 3, 1, 2)))
    first, second = gl.split(_pin((_tanh(a) * (0.5 * _tanh(b) + 0.5)).to(gl.float16)))
    return first, second, cursor


@gluon.jit
def _write_hidden(loader, cursor, gated, start_weights, bias, row_map, table, target, phase, row):
    # Writes the new hidden of a tile into the section that begins at row `target`.
    shape, ring = loader.shape, loader.ring
    block_row = gl.arange(0, shape.TILE, layout=gl.SliceLayout(1, shape.BLOCK))
    column = gl.arange(0, _WIDTH, layout=gl.SliceLayout(0, shape.BLOCK))
    line_row = gl.arange(0, shape.TILE, layout=gl.SliceLayout(1, shape.LINES))
    line_column = gl.arange(0, _WIDTH, layout=gl.SliceLayout(0, shape.LINES))
    used = (gl.load(row_map + row + block_row) >= 0)[:, None]
    for block in range(shape.BLOCKS):
        mbarrier.wait(ring.ready.index(cursor.stage), cursor.parity)
        block_bias = gl.load(bias + block * _WIDTH + column)[None, :]
        if shape.FIRST:
            new = gl.zeros((shape.TILE, _WIDTH), gl.float32, shape.BLOCK) + block_bias
            start = start_weights.index(block).permute((1, 0))
            new = warpgroup_mma(ring.x.index(cursor.stage), start, new, is_async=True)
        else:
            new = ring.x.index(cursor.stage).load(shape.BLOCK).to(gl.float32) + block_bias
        for i in gl.static_range(shape.BLOCKS):
            x = gl.convert_layout(gated[i], gl.DotOperandLayout(0, shape.BLOCK, 2))
            weights = ring.w.index(cursor.stage * _STAGE_BLOCKS + i).permute((1, 0))
            new = warpgroup_mma(x, weights, new, is_async=True)
        cursor = advance(loader, cursor)
        new = warpgroup_mma_wait(0, deps=[new])
        new = gl.where(used, new, 0.0).to(gl.float16)
        first = target + (block * shape.PHASES + phase) * loader.sections.rows + row
        line = table + first.to(gl.int64) * _WIDTH + line_row[:, None] * _WIDTH + line_column[None, :]
        gl.store(line, gl.convert_layout(new, shape.LINES))
    return cursor


@gluon.jit(do_not_specialize=["dilation", "first_tile", "tiles", "turned"])
def layer(
    table_tiles,  # FP16 (rows of all sections, WIDTH), in tiles of (TILE, WIDTH)
    gate_tiles,  # FP16 (steps * 2 * CHANNELS, WIDTH), in tiles of (COLUMNS, WIDTH)
    residual_tiles,  # FP16 (steps * (CHANNELS + OUTPUTS), WIDTH), in tiles of (WIDTH, WIDTH)
    output_tiles,  # the same weights, in tiles of (OUTPUTS, WIDTH)
    product_tiles,  # FP16 (frames * RANKS, 2 * CHANNELS), in tiles of (SUMS, COLUMNS); where RANKS isn't 0
    mixing,  # FP16 (FRAME_ROWS, RANKS)
    gate_bias,  # FP32 (2 * CHANNELS)
    residual_bias,  # FP32 (CHANNELS)
    output_bias,  # FP32 (OUTPUTS)
    table,  # the table itself
    outputs,  # FP32 (PHASES * rows, OUTPUTS)
    row_map,  # int32 (rows): see `waveglow.gpu.kernels`
    rows,
    gap,
    dilation,
    first_tile,
    tiles,  # the tile to end before
    turned,  # 1: from `second` to `hidden`, not the other way
    FIRST: gl.constexpr,
    LAST: gl.constexpr,
    CHANNELS: gl.constexpr,
    PHASES: gl.constexpr,
    TAPS: gl.constexpr,
    MEL_BLOCKS: gl.constexpr,
    RANKS: gl.constexpr,
    FRAME_ROWS: gl.constexpr,
    SPLIT: gl.constexpr,
    TILE: gl.constexpr,
    STAGES: gl.constexpr,
    OVERLAP: gl.constexpr,
    num_warps: gl.constexpr,
):
    """`gate` and `residual` of `waveglow.gpu.kernels` in one kernel: the gated channels stay in registers. Those two
    say what FIRST and LAST mean and what is computed.

    A program takes one tile after another, TILE rows of one phase, and computes all of its channels. SPLIT tiles share
    the products of their frames. The hidden is read from one section and written to the other, because other programs
    still read, at their shifts, the rows that a program replaces.
    """
    gl.static_assert(gate_tiles.block_type.shape[0] == _COLUMNS)
    SUMS: gl.constexpr = SPLIT * TILE // FRAME_ROWS * RANKS
    shape = Shape(FIRST, LAST, CHANNELS, PHASES, TAPS, MEL_BLOCKS, SUMS, (SPLIT, TILE, STAGES), num_warps)
    BLOCKS: gl.constexpr = shape.BLOCKS
    tables = Tables(table_tiles, gate_tiles, residual_tiles, product_tiles)
    x_ring = gl.allocate_shared_memory(gl.float16, [STAGES, TILE, _WIDTH], table_tiles.layout)
    w_ring = gl.allocate_shared_memory(gl.float16, [STAGES * _STAGE_BLOCKS, _WIDTH, _WIDTH], residual_tiles.layout)
    # Kept for all tiles: the weights of the outputs, and those of `start`, for which the ring has no room.
    output_weights = gl.allocate_shared_memory(gl.float16, [BLOCKS, _OUTPUTS, _WIDTH], output_tiles.layout)
    start_weights = gl.allocate_shared_memory(
        gl.float16, [BLOCKS if FIRST and not LAST else 1, _WIDTH, _WIDTH], residual_tiles.layout
    )
    mixing_weights = None
    if SUMS > 0:
        mixing_weights = _mixing_weights(mixing, shape, RANKS, FRAME_ROWS, num_warps)
    ready = gl.allocate_shared_memory(gl.int64, [STAGES + 1, 1], mbarrier.MBarrierLayout())
    for i in gl.static_range(STAGES + 1):
        mbarrier.init(ready.index(i), count=1)
    fence_async_shared()

    size = BLOCKS * PHASES * rows
    hidden = gap + PHASES * rows
    source = gap if FIRST else hidden + turned * size
    sections = Sections(source, hidden + 2 * size, rows, gap, dilation)
    programs = gl.num_programs(0)

    # No kernel writes weights: they are loaded before the predecessor's results are there.
    kept = ready.index(STAGES)
    _load_kept(kept, output_tiles, residual_tiles, output_weights, start_weights, shape, FIRST and not LAST)
    _start(OVERLAP)
    loader = Loader(shape, tables, Ring(x_ring, w_ring, ready), sections, tiles, programs)
    cursor = first_loads(loader, first_tile)
    mbarrier.wait(kept, 0)

    out_row = gl.arange(0, TILE, layout=gl.SliceLayout(1, shape.OUT))
    out_column = gl.arange(0, _OUTPUTS, layout=gl.SliceLayout(0, shape.OUT))
    for tile in range(first_tile + gl.program_id(0), tiles, programs):
        phase, row = rows_of(tile, shape)
        sums = outputs + (phase * rows + row + out_row)[:, None] * _OUTPUTS + out_column[None, :]
        gated = ()
        for part in gl.static_range(shape.PARTS):
            if part == shape.PARTS - 1:
                # Loaded here, the sums arrive in time and hold registers only for the last part.
                if FIRST:
                    out = gl.zeros((TILE, _OUTPUTS), gl.float32, shape.OUT) + gl.load(output_bias + out_column)[None, :]
                else:
                    out = gl.load(sums)
            first_block, second_block, cursor = _gates(loader, cursor, mixing_weights, gate_bias, tile, part)
            gated = gated + (first_block, second_block)  # type: ignore[assignment]  # noqa: RUF005

        for i in gl.static_range(BLOCKS):
            out_x = gl.convert_layout(gated[i], gl.DotOperandLayout(0, shape.OUT, 2))
            out = warpgroup_mma(out_x, output_weights.index(i).permute((1, 0)), out, is_async=True)
        out = warpgroup_mma_wait(0, deps=[out])
        gl.store(sums, out)

        if not LAST:
            target = hidden + (1 - turned) * size
            cursor = _write_hidden(
                loader, cursor, gated, start_weights, residual_bias, row_map, table, target, phase, row
            )
