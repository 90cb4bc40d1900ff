"""The loads of WaveGlow's layer kernel: a ring buffer in shared memory that one program keeps filled for all its tiles.

A *step* is one matrix product and the loads that it needs; a *stage* is a step's part of the ring. A tile's steps are
those of the gates, COLUMNS columns after COLUMNS columns, and then one for each block of the residual.
"""

from typing import Any, NamedTuple

import triton
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import mbarrier, tma

from waveglow.gpu.folding import OUTPUTS, WIDTH

COLUMNS = 4 * WIDTH  # of the gates, in one product

_WIDTH = gl.constexpr(WIDTH)
_OUTPUTS = gl.constexpr(OUTPUTS)
_COLUMNS = gl.constexpr(COLUMNS)
_STAGE_BLOCKS = gl.constexpr(COLUMNS // WIDTH)  # (WIDTH, WIDTH) blocks of weights in a stage
# Gluon is experimental: Triton 3.6 and 3.9 name these differently.
_aggregate = getattr(gluon, "aggregate", None) or triton.language.core._aggregate
copy_tile = tma.async_load if hasattr(tma, "async_load") else tma.async_copy_global_to_shared
_memory = gl.shared_memory_descriptor
_view = _memory.reinterpret if hasattr(_memory, "reinterpret") else _memory._reinterpret


@_aggregate
class Shape:
    """The constants of a compiled kernel: `layer`'s arguments, and sizes that follow from them."""

    FIRST: gl.constexpr
    CHANNELS: gl.constexpr
    PHASES: gl.constexpr
    TAPS: gl.constexpr
    MEL_BLOCKS: gl.constexpr
    SPLIT: gl.constexpr
    TILE: gl.constexpr
    STAGES: gl.constexpr
    SUMS: gl.constexpr  # inner dimension of the product with the frames' products
    BLOCKS: gl.constexpr  # of WIDTH channels
    PARTS: gl.constexpr  # of COLUMNS gates
    PART_STEPS: gl.constexpr
    TOTAL: gl.constexpr  # steps of a tile
    GATE: gl.constexpr  # layouts of sums: of a part of the gates, a block, the outputs
    BLOCK: gl.constexpr
    OUT: gl.constexpr
    LINES: gl.constexpr  # layout of stores: a row stays in its warp, and a thread stores 16 bytes of it

    @gluon.constexpr_function
    def __init__(self, FIRST, LAST, CHANNELS, PHASES, TAPS, MEL_BLOCKS, SUMS, cut, num_warps):
        SPLIT, TILE, STAGES = cut
        blocks, parts = CHANNELS // WIDTH, 2 * CHANNELS // COLUMNS
        steps = TAPS * (1 if FIRST else blocks) + MEL_BLOCKS + (1 if SUMS else 0)
        self.FIRST, self.CHANNELS, self.PHASES = gl.constexpr(FIRST), gl.constexpr(CHANNELS), gl.constexpr(PHASES)
        self.TAPS, self.MEL_BLOCKS, self.SPLIT = gl.constexpr(TAPS), gl.constexpr(MEL_BLOCKS), gl.constexpr(SPLIT)
        self.TILE, self.STAGES, self.SUMS = gl.constexpr(TILE), gl.constexpr(STAGES), gl.constexpr(SUMS)
        self.BLOCKS, self.PARTS, self.PART_STEPS = gl.constexpr(blocks), gl.constexpr(parts), gl.constexpr(steps)
        self.TOTAL = gl.constexpr(parts * steps + (0 if LAST else blocks))
        self.GATE = gl.constexpr(gl.NVMMADistributedLayout([3, 0], [num_warps, 1], [16, COLUMNS, 16]))
        self.BLOCK = gl.constexpr(gl.NVMMADistributedLayout([3, 0], [num_warps, 1], [16, WIDTH, 16]))
        self.OUT = gl.constexpr(gl.NVMMADistributedLayout([3, 0], [num_warps, 1], [16, OUTPUTS, 16]))
        self.LINES = gl.constexpr(gl.BlockedLayout([2, 8], [8, 4], [num_warps, 1], [1, 0]))


class Tables(NamedTuple):
    """The tensor descriptors that tiles are loaded through: see `layer`."""

    x: Any
    gate: Any
    residual: Any
    products: Any


class Ring(NamedTuple):
    """The ring buffer in shared memory."""

    x: Any  # FP16 (STAGES, TILE, WIDTH)
    w: Any  # FP16 (STAGES * COLUMNS / WIDTH, WIDTH, WIDTH)
    ready: Any  # a barrier for each stage, which its loads complete


class Sections(NamedTuple):
    """Where the table's sections begin, in rows, and how a tap's rows are found."""

    source: Any
    mel: Any
    rows: Any
    gap: Any
    dilation: Any


class Loader(NamedTuple):
    """All that loads need."""

    shape: Any
    tables: Any
    ring: Any
    sections: Any
    end: Any  # the tile to end before
    programs: Any


class Cursor(NamedTuple):
    """The stage to multiply next, the parity of its barrier, and the tile and the step to load next."""

    stage: Any
    parity: Any
    tile: Any
    step: Any


@gluon.jit
def rows_of(tile, shape):
    # A tile's phase and first row: SPLIT tiles of the same phase follow one another.
    whole = tile // shape.SPLIT
    return whole % shape.PHASES, whole // shape.PHASES * (shape.SPLIT * shape.TILE) + tile % shape.SPLIT * shape.TILE


@gluon.jit
def load(loader, stage, tile, step):
    # Starts the loads of a tile's step into a stage.
    shape, ring = loader.shape, loader.ring
    RESIDUAL: gl.constexpr = shape.PARTS * shape.PART_STEPS  # the first step of the residual
    if tile < loader.end:
        phase, row = rows_of(tile, shape)
        bar = ring.ready.index(stage)
        if step < RESIDUAL:
            part = step // shape.PART_STEPS
            inner = step % shape.PART_STEPS
            if shape.SUMS > 0:
                if inner == shape.PART_STEPS - 1:
                    mbarrier.expect(bar, shape.SUMS * _COLUMNS * 2)
                    values = product_ring(loader).index(stage * (_WIDTH // shape.SUMS))
                    copy_tile(loader.tables.products, [tile // shape.SPLIT * shape.SUMS, part * _COLUMNS], bar, values)
                else:
                    _load_tap(loader, stage, phase, row, part, inner)
            else:
                _load_tap(loader, stage, phase, row, part, inner)
        else:
            block = step - RESIDUAL
            rows = loader.sections.rows
            x_row = loader.sections.source + (0 if shape.FIRST else block) * shape.PHASES * rows + phase * rows + row
            mbarrier.expect(bar, (shape.TILE + shape.CHANNELS) * _WIDTH * 2)
            copy_tile(loader.tables.x, [x_row, 0], bar, ring.x.index(stage))
            for i in gl.static_range(shape.BLOCKS):
                w_row = i * (shape.CHANNELS + _OUTPUTS) + block * _WIDTH
                copy_tile(loader.tables.residual, [w_row, 0], bar, ring.w.index(stage * _STAGE_BLOCKS + i))


@gluon.jit
def _load_tap(loader, stage, phase, row, part, step):
    # Starts the loads of a step of the gates: of a tap of the convolution or of the mel.
    shape, ring = loader.shape, loader.ring
    source, mel, rows, gap, dilation = loader.sections
    IN_BLOCKS: gl.constexpr = 1 if shape.FIRST else shape.BLOCKS
    AUDIO_STEPS: gl.constexpr = shape.TAPS * IN_BLOCKS
    tap = step // IN_BLOCKS
    shifted = phase + (tap - shape.TAPS // 2) * dilation + gap * shape.PHASES
    plane = (step - tap * IN_BLOCKS) * shape.PHASES + shifted % shape.PHASES
    hidden_row = source + plane * rows + shifted // shape.PHASES - gap
    is_audio = step < AUDIO_STEPS
    x_row = gl.where(is_audio, hidden_row, mel + (step - AUDIO_STEPS) * rows) + row
    w_block = step + gl.where(is_audio, 0, phase * shape.MEL_BLOCKS)
    bar = ring.ready.index(stage)
    mbarrier.expect(bar, (shape.TILE + _COLUMNS) * _WIDTH * 2)
    copy_tile(loader.tables.x, [x_row, 0], bar, ring.x.index(stage))
    w_row = w_block * (2 * shape.CHANNELS) + part * _COLUMNS
    copy_tile(loader.tables.gate, [w_row, 0], bar, gate_ring(loader).index(stage))


@gluon.jit
def gate_ring(loader):
    # The ring's weights as one tile of (COLUMNS, WIDTH) a stage.
    shape: gl.constexpr = [loader.shape.STAGES, _COLUMNS, _WIDTH]
    return _view(loader.ring.w, gl.float16, shape, loader.tables.gate.layout)


@gluon.jit
def product_ring(loader):
    # The ring's weights as WIDTH / SUMS tiles of (SUMS, COLUMNS) a stage.
    SUMS: gl.constexpr = loader.shape.SUMS
    shape: gl.constexpr = [loader.shape.STAGES * (_WIDTH // SUMS), SUMS, _COLUMNS]
    return _view(loader.ring.w, gl.float16, shape, loader.tables.products.layout)


@gluon.jit
def next_step(loader, tile, step):
    # The step to load after this one.
    step += 1
    over = step == loader.shape.TOTAL
    return gl.where(over, tile + loader.programs, tile), gl.where(over, 0, step)


@gluon.jit
def first_loads(loader, first_tile):
    # Fills all stages but one; returns where loads and products go on.
    tile = first_tile + gl.program_id(0)
    zero = gl.program_id(0) * 0  # a value of the program, not a constant: loops carry it
    step = tile * 0
    for i in gl.static_range(loader.shape.STAGES - 1):
        load(loader, i, tile, step)
        tile, step = next_step(loader, tile, step)
    return Cursor(zero, zero, tile, step)


@gluon.jit
def advance(loader, cursor):
    # Once a step's products are issued: loads into the stage that the step before has read, and takes the next stage.
    LAST_STAGE: gl.constexpr = loader.shape.STAGES - 1
    stage, parity = cursor.stage, cursor.parity
    load(loader, gl.where(stage == 0, LAST_STAGE, stage - 1), cursor.tile, cursor.step)
    tile, step = next_step(loader, cursor.tile, cursor.step)
    parity = gl.where(stage == LAST_STAGE, parity ^ 1, parity)
    stage = gl.where(stage == LAST_STAGE, 0, stage + 1)
    return Cursor(stage, parity, tile, step)
