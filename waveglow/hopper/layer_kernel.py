"""A layer of WaveGlow in one kernel for Hopper, in Gluon, which lets loads be set by hand.

Triton begins its pipeline of loads anew at every loop; here one ring of tiles in shared memory serves all products of
all tiles, so that the tensor cores wait for loads at the beginning of a program alone.
"""

from typing import Any

from torch import Tensor
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    fence_async_shared,
    mbarrier,
    tma,
    warpgroup_mma,
    warpgroup_mma_wait,
)
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

from waveglow.gpu.folding import OUTPUTS, WIDTH

_WIDTH = gl.constexpr(WIDTH)
_OUTPUTS = gl.constexpr(OUTPUTS)
# Gluon is still in motion: in Triton 3.6 these two have other names than in 3.9.
_copy = tma.async_load if hasattr(tma, "async_load") else tma.async_copy_global_to_shared
_memory = gl.shared_memory_descriptor
_view = _memory.reinterpret if hasattr(_memory, "reinterpret") else _memory._reinterpret


def tiles_of(table: Tensor, rows: int, columns: int = WIDTH) -> Any:
    """What the kernel loads tiles of a table through."""
    shape = [rows, columns]
    return TensorDescriptor.from_tensor(table, shape, gl.NVMMASharedLayout.get_default_for(shape, gl.float16))


@gluon.jit
def _tanh(x):
    return gl.inline_asm_elementwise("tanh.approx.f32 $0, $1;", "=f,f", [x], dtype=gl.float32, is_pure=True, pack=1)


@gluon.jit
def _pin(x):
    # FP16 values, to be computed here: the compiler would else move the last of it behind the next product, and hold
    # twice as many FP32 values in the meantime, more than there are registers.
    return gl.inline_asm_elementwise("mov.b32 $0, $1;", "=r,r", [x], dtype=gl.float16, is_pure=False, pack=2)


@gluon.jit
def _start(OVERLAP: gl.constexpr):
    if OVERLAP:
        gl.inline_asm_elementwise("griddepcontrol.wait; // $0", "=r", [], dtype=gl.int32, is_pure=False, pack=1)
        gl.inline_asm_elementwise(
            "griddepcontrol.launch_dependents; // $0", "=r", [], dtype=gl.int32, is_pure=False, pack=1
        )


@gluon.jit
def _load(
    tables,
    rings,
    slot,
    tile,
    step,
    where,
    FIRST: gl.constexpr,
    CHANNELS: gl.constexpr,
    PHASES: gl.constexpr,
    TAPS: gl.constexpr,
    MEL_BLOCKS: gl.constexpr,
    SUMS: gl.constexpr,
    SPLIT: gl.constexpr,
):
    # Starts the loads of one of a tile's steps: those of the gate's parts, one part after the other, then the blocks of
    # the residual with the old hidden.
    table_tiles, _, residual_tiles, product_tiles = tables
    x_ring, w_ring, ready = rings
    tiles, _, source, _, rows, _, _ = where
    TILE: gl.constexpr = x_ring.shape[1]
    COLUMNS: gl.constexpr = w_ring.shape[0] * _WIDTH // x_ring.shape[0]
    BLOCKS: gl.constexpr = CHANNELS // _WIDTH
    TAP_STEPS: gl.constexpr = TAPS * (1 if FIRST else BLOCKS) + MEL_BLOCKS
    STEPS: gl.constexpr = TAP_STEPS + (1 if SUMS > 0 else 0)
    RESIDUAL: gl.constexpr = 2 * CHANNELS // COLUMNS * STEPS  # the first step of the residual
    if tile < tiles:
        phase, row = _place(tile, PHASES, SPLIT, TILE)
        bar = ready.index(slot)
        if step < RESIDUAL:
            part = step // STEPS
            inner = step % STEPS
            if SUMS > 0:
                if inner == TAP_STEPS:
                    mbarrier.expect(bar, SUMS * COLUMNS * 2)
                    values = _product_ring(w_ring, product_tiles).index(slot * (_WIDTH // SUMS))
                    _copy(product_tiles, [tile // SPLIT * SUMS, part * COLUMNS], bar, values)
                else:
                    _load_tap(
                        tables, rings, slot, phase, row, part, inner, where,
                        FIRST, CHANNELS, PHASES, TAPS, MEL_BLOCKS,
                    )  # fmt: skip
            else:
                _load_tap(
                    tables, rings, slot, phase, row, part, inner, where,
                    FIRST, CHANNELS, PHASES, TAPS, MEL_BLOCKS,
                )  # fmt: skip
        else:
            block = step - RESIDUAL
            x_row = source + (0 if FIRST else block) * PHASES * rows + phase * rows + row
            mbarrier.expect(bar, (TILE + CHANNELS) * _WIDTH * 2)
            _copy(table_tiles, [x_row, 0], bar, x_ring.index(slot))
            for i in gl.static_range(BLOCKS):
                w_row = i * (CHANNELS + _OUTPUTS) + block * _WIDTH
                _copy(residual_tiles, [w_row, 0], bar, w_ring.index(slot * (COLUMNS // _WIDTH) + i))


@gluon.jit
def _load_tap(
    tables,
    rings,
    slot,
    phase,
    row,
    part,
    step,
    where,
    FIRST: gl.constexpr,
    CHANNELS: gl.constexpr,
    PHASES: gl.constexpr,
    TAPS: gl.constexpr,
    MEL_BLOCKS: gl.constexpr,
):
    # Starts the loads of a step of the gate: of a tap of the convolution or of the mel.
    table_tiles, gate_tiles, _, _ = tables
    x_ring, w_ring, ready = rings
    _, _, source, mel, rows, gap, dilation = where
    TILE: gl.constexpr = x_ring.shape[1]
    COLUMNS: gl.constexpr = w_ring.shape[0] * _WIDTH // x_ring.shape[0]
    IN_BLOCKS: gl.constexpr = 1 if FIRST else CHANNELS // _WIDTH
    AUDIO_STEPS: gl.constexpr = TAPS * IN_BLOCKS
    tap = step // IN_BLOCKS
    shifted = phase + (tap - TAPS // 2) * dilation + gap * PHASES
    plane = (step - tap * IN_BLOCKS) * PHASES + shifted % PHASES
    hidden_row = source + plane * rows + shifted // PHASES - gap
    is_audio = step < AUDIO_STEPS
    x_row = gl.where(is_audio, hidden_row, mel + (step - AUDIO_STEPS) * rows) + row
    w_block = step + gl.where(is_audio, 0, phase * MEL_BLOCKS)
    bar = ready.index(slot)
    mbarrier.expect(bar, (TILE + COLUMNS) * _WIDTH * 2)
    _copy(table_tiles, [x_row, 0], bar, x_ring.index(slot))
    w_row = w_block * (2 * CHANNELS) + part * COLUMNS
    w = _view(w_ring, gl.float16, [x_ring.shape[0], COLUMNS, _WIDTH], gate_tiles.layout)
    _copy(gate_tiles, [w_row, 0], bar, w.index(slot))


@gluon.jit
def _place(tile, PHASES: gl.constexpr, SPLIT: gl.constexpr, TILE: gl.constexpr):
    # A tile's phase and first row: SPLIT tiles of the same phase follow one another.
    whole = tile // SPLIT
    return whole % PHASES, whole // PHASES * (SPLIT * TILE) + tile % SPLIT * TILE


@gluon.jit
def _product_ring(w_ring, product_tiles):
    # The ring as tiles of products, of which _WIDTH / rows of a tile have the size of a slot.
    ROWS: gl.constexpr = product_tiles.block_type.shape[0]
    COLUMNS: gl.constexpr = product_tiles.block_type.shape[1]
    COUNT: gl.constexpr = w_ring.shape[0] * _WIDTH * _WIDTH // (ROWS * COLUMNS)
    return _view(w_ring, gl.float16, [COUNT, ROWS, COLUMNS], product_tiles.layout)


@gluon.jit
def _mixing(
    mixing,
    first,
    TILE: gl.constexpr,
    SUMS: gl.constexpr,
    RANKS: gl.constexpr,
    FRAME_ROWS: gl.constexpr,
    num_warps: gl.constexpr,
):
    # What a tile's rows, from `first` on, take of its products, the same for all tiles: see `waveglow.gpu.kernels`.
    LINES: gl.constexpr = gl.BlockedLayout([1, 8], [16, 2], [num_warps, 1], [1, 0])
    row = first + gl.arange(0, TILE, layout=gl.SliceLayout(1, LINES))[:, None]
    product = gl.arange(0, SUMS, layout=gl.SliceLayout(0, LINES))[None, :]
    same = row // FRAME_ROWS == product // RANKS
    return gl.load(mixing + row % FRAME_ROWS * RANKS + product % RANKS, mask=same, other=0.0)


@gluon.jit
def _next(tile, step, programs, TOTAL: gl.constexpr):
    # The step of loading behind this one.
    step += 1
    over = step == TOTAL
    return gl.where(over, tile + programs, tile), gl.where(over, 0, step)


@gluon.jit
def _move_on(
    tables,
    rings,
    slot,
    parity,
    load_tile,
    load_step,
    where,
    FIRST: gl.constexpr,
    CHANNELS: gl.constexpr,
    PHASES: gl.constexpr,
    TAPS: gl.constexpr,
    MEL_BLOCKS: gl.constexpr,
    SUMS: gl.constexpr,
    SPLIT: gl.constexpr,
    TOTAL: gl.constexpr,
):
    # Behind a step's products: starts loads into the slot that the step before has read, and goes to the next slot.
    STAGES: gl.constexpr = rings[0].shape[0]
    _load(
        tables, rings, gl.where(slot == 0, STAGES - 1, slot - 1), load_tile, load_step, where,
        FIRST, CHANNELS, PHASES, TAPS, MEL_BLOCKS, SUMS, SPLIT,
    )  # fmt: skip
    load_tile, load_step = _next(load_tile, load_step, where[1], TOTAL)
    parity = gl.where(slot == STAGES - 1, parity ^ 1, parity)
    slot = gl.where(slot == STAGES - 1, 0, slot + 1)
    return load_tile, load_step, slot, parity


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
    places,  # int32 (rows)
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
    """`gate` and `residual` of `waveglow.gpu.kernels` in one: what is gated stays in registers. See there for FIRST,
    LAST, and what is computed.

    A program takes TILE rows of one phase after the other and computes all channels of them, COLUMNS of the gates' at a
    time. SPLIT tiles share the products of their frames. Other programs still read the rows that a program replaces, at
    their shifts, so the hidden is read from one section and written to the other.
    """
    COLUMNS: gl.constexpr = gate_tiles.block_type.shape[0]
    BLOCKS: gl.constexpr = CHANNELS // _WIDTH
    SLOT_BLOCKS: gl.constexpr = COLUMNS // _WIDTH
    gl.static_assert(COLUMNS == 4 * _WIDTH)
    PARTS: gl.constexpr = 2 * CHANNELS // COLUMNS
    STEP: gl.constexpr = CHANNELS + _OUTPUTS  # rows of the residual's weights for one block of input
    SUMS: gl.constexpr = SPLIT * TILE // FRAME_ROWS * RANKS
    STEPS: gl.constexpr = TAPS * (1 if FIRST else BLOCKS) + MEL_BLOCKS
    TOTAL: gl.constexpr = PARTS * (STEPS + (1 if SUMS > 0 else 0)) + (0 if LAST else BLOCKS)
    GATE: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [num_warps, 1], [16, COLUMNS, 16])
    BLOCK: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [num_warps, 1], [16, _WIDTH, 16])
    OUT: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [num_warps, 1], [16, _OUTPUTS, 16])
    # Rows stay in their warp, and a thread stores 16 bytes of a row.
    LINES: gl.constexpr = gl.BlockedLayout([2, 8], [8, 4], [num_warps, 1], [1, 0])

    x_ring = gl.allocate_shared_memory(gl.float16, [STAGES, TILE, _WIDTH], table_tiles.layout)
    w_ring = gl.allocate_shared_memory(gl.float16, [STAGES * SLOT_BLOCKS, _WIDTH, _WIDTH], residual_tiles.layout)
    # For all tiles: the weights of the outputs, and those of `start`, for which the ring has no place.
    output_weights = gl.allocate_shared_memory(gl.float16, [BLOCKS, _OUTPUTS, _WIDTH], output_tiles.layout)
    start_weights = gl.allocate_shared_memory(
        gl.float16, [BLOCKS if FIRST and not LAST else 1, _WIDTH, _WIDTH], residual_tiles.layout
    )
    if SUMS > 0:
        weights = gl.allocate_shared_memory(gl.float16, [SPLIT, TILE, SUMS], gl.NVMMASharedLayout(2 * SUMS, 16, 2))
        for i in gl.static_range(SPLIT):
            weights.index(i).store(_mixing(mixing, i * TILE, TILE, SUMS, RANKS, FRAME_ROWS, num_warps))
    ready = gl.allocate_shared_memory(gl.int64, [STAGES + 1, 1], mbarrier.MBarrierLayout())
    for i in gl.static_range(STAGES + 1):
        mbarrier.init(ready.index(i), count=1)
    fence_async_shared()

    size = BLOCKS * PHASES * rows
    hidden = gap + PHASES * rows
    mel = hidden + 2 * size
    source = gap if FIRST else hidden + turned * size
    target = hidden + (1 - turned) * size
    programs = gl.num_programs(0)

    # Weights come from no kernel: they may be loaded before the predecessor's results are there.
    kept = ready.index(STAGES)
    KEPT_ROWS: gl.constexpr = _OUTPUTS + (_WIDTH if FIRST and not LAST else 0)
    mbarrier.expect(kept, BLOCKS * KEPT_ROWS * _WIDTH * 2)
    for i in gl.static_range(BLOCKS):
        _copy(output_tiles, [i * STEP + CHANNELS, 0], kept, output_weights.index(i))
        if FIRST and not LAST:
            _copy(residual_tiles, [BLOCKS * STEP + i * _WIDTH, 0], kept, start_weights.index(i))
    _start(OVERLAP)
    # What loads need: the sources, the destination, and where things lie in the table.
    tables = (table_tiles, gate_tiles, residual_tiles, product_tiles)
    rings = (x_ring, w_ring, ready)
    where = (tiles, programs, source, mel, rows, gap, dilation)
    load_tile = first_tile + gl.program_id(0)
    load_step = load_tile * 0  # a value of the program, not a constant: loops carry it
    for i in gl.static_range(STAGES - 1):
        _load(
            tables, rings, i, load_tile, load_step, where,
            FIRST, CHANNELS, PHASES, TAPS, MEL_BLOCKS, SUMS, SPLIT,
        )  # fmt: skip
        load_tile, load_step = _next(load_tile, load_step, programs, TOTAL)
    mbarrier.wait(kept, 0)

    gate_weights = _view(w_ring, gl.float16, [STAGES, COLUMNS, _WIDTH], gate_tiles.layout)
    gate_column = gl.arange(0, COLUMNS, layout=gl.SliceLayout(0, GATE))
    block_column = gl.arange(0, _WIDTH, layout=gl.SliceLayout(0, BLOCK))
    out_row = gl.arange(0, TILE, layout=gl.SliceLayout(1, OUT))
    out_column = gl.arange(0, _OUTPUTS, layout=gl.SliceLayout(0, OUT))
    block_row = gl.arange(0, TILE, layout=gl.SliceLayout(1, BLOCK))
    line_row = gl.arange(0, TILE, layout=gl.SliceLayout(1, LINES))
    line_column = gl.arange(0, _WIDTH, layout=gl.SliceLayout(0, LINES))
    slot = gl.program_id(0) * 0
    parity = slot
    for tile in range(first_tile + gl.program_id(0), tiles, programs):
        phase, row = _place(tile, PHASES, SPLIT, TILE)
        place = outputs + (phase * rows + row + out_row)[:, None] * _OUTPUTS + out_column[None, :]
        gated = ()
        for part in gl.static_range(PARTS):
            if part == PARTS - 1:
                # Early enough to be there in time, late enough not to hold registers for long.
                if FIRST:
                    out = gl.zeros((TILE, _OUTPUTS), gl.float32, OUT) + gl.load(output_bias + out_column)[None, :]
                else:
                    out = gl.load(place)
            bias = gl.load(gate_bias + part * COLUMNS + gate_column)
            acc = gl.zeros((TILE, COLUMNS), gl.float32, GATE) + bias[None, :]
            for _ in range(STEPS):
                mbarrier.wait(ready.index(slot), parity)
                acc = warpgroup_mma(x_ring.index(slot), gate_weights.index(slot).permute((1, 0)), acc, is_async=True)
                acc = warpgroup_mma_wait(1, deps=[acc])
                load_tile, load_step, slot, parity = _move_on(
                    tables, rings, slot, parity, load_tile, load_step, where,
                    FIRST, CHANNELS, PHASES, TAPS, MEL_BLOCKS, SUMS, SPLIT, TOTAL,
                )  # fmt: skip
            if SUMS > 0:
                mbarrier.wait(ready.index(slot), parity)
                values = _product_ring(w_ring, product_tiles).index(slot * (_WIDTH // SUMS))
                acc = warpgroup_mma(weights.index(tile % SPLIT), values, acc, is_async=True)
                acc = warpgroup_mma_wait(1, deps=[acc])
                load_tile, load_step, slot, parity = _move_on(
                    tables, rings, slot, parity, load_tile, load_step, where,
                    FIRST, CHANNELS, PHASES, TAPS, MEL_BLOCKS, SUMS, SPLIT, TOTAL,
                )  # fmt: skip
            acc = warpgroup_mma_wait(0, deps=[acc])
            a, b = gl.split(gl.permute(gl.reshape(acc, (TILE, 2, 2, _WIDTH)), (0, 3, 1, 2)))
            both = _pin((_tanh(a) * (0.5 * _tanh(b) + 0.5)).to(gl.float16))
            first_block, second_block = gl.split(both)
            gated = gated + (first_block, second_block)  # type: ignore[assignment]  # noqa: RUF005

        for i in gl.static_range(BLOCKS):
            out_x = gl.convert_layout(gated[i], gl.DotOperandLayout(0, OUT, 2))
            out = warpgroup_mma(out_x, output_weights.index(i).permute((1, 0)), out, is_async=True)
        out = warpgroup_mma_wait(0, deps=[out])
        gl.store(place, out)

        if not LAST:
            used = (gl.load(places + row + block_row) >= 0)[:, None]
            for block in range(BLOCKS):
                mbarrier.wait(ready.index(slot), parity)
                block_bias = gl.load(residual_bias + block * _WIDTH + block_column)[None, :]
                if FIRST:
                    new = gl.zeros((TILE, _WIDTH), gl.float32, BLOCK) + block_bias
                    start = start_weights.index(block).permute((1, 0))
                    new = warpgroup_mma(x_ring.index(slot), start, new, is_async=True)
                else:
                    new = x_ring.index(slot).load(BLOCK).to(gl.float32) + block_bias
                for i in gl.static_range(BLOCKS):
                    x = gl.convert_layout(gated[i], gl.DotOperandLayout(0, BLOCK, 2))
                    new = warpgroup_mma(x, w_ring.index(slot * SLOT_BLOCKS + i).permute((1, 0)), new, is_async=True)
                load_tile, load_step, slot, parity = _move_on(
                    tables, rings, slot, parity, load_tile, load_step, where,
                    FIRST, CHANNELS, PHASES, TAPS, MEL_BLOCKS, SUMS, SPLIT, TOTAL,
                )  # fmt: skip
                new = warpgroup_mma_wait(0, deps=[new])
                new = gl.where(used, new, 0.0).to(gl.float16)
                first = target + (block * PHASES + phase) * rows + row
                line = table + first.to(gl.int64) * _WIDTH + line_row[:, None] * _WIDTH + line_column[None, :]
                gl.store(line, gl.convert_layout(new, LINES))
