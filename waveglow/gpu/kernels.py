"""Triton kernels of WaveGlow, which `waveglow.gpu.network` launches, and the table that they work in.

Everything is a table of rows of `WIDTH` FP16 values, so that every tile that a kernel loads is contiguous memory.

A *position* is a group of neighbouring samples. Positions are kept phase by phase: one *plane* holds the positions of
one phase, one utterance after another, of any lengths, with at least `gap` empty rows behind each. So a shift by any
dilation is a shift by whole rows in another plane, and the empty rows are the convolution's zero padding. The number of
phases follows from the conditioning:

    exact       a phase for each position of a frame: a plane has one row a frame, and all positions of a tile share the
                weights of their phase
    of RANKS    one phase: a plane has FRAME_ROWS rows a frame, a tile covers whole frames, and every utterance begins
                at a multiple of FRAME_ROWS

`row_map` (int32) says which of all utterances' rows each row of a plane holds; -1 stands for an empty row. Mels, noise
and audio hold the utterances without gaps. The sections of the table, each a list of planes of `rows` rows:

    lead        `gap` rows of zeros: reads before the first plane end here
    input       the flow's audio channels as FP16, a one in column GROUP (it carries the bias of `start`), zeros
    hidden      CHANNELS / WIDTH blocks of PHASES planes: the network's residual stream
    second      as hidden. `gate` writes the current layer's tanh times sigmoid here and `residual` reads it. The kernel
                that does the work of both (`waveglow.hopper.layer_kernel`) reads one of these two sections and writes
                the other, in turn
    mel         a frame's taps of the upsampling, the same for all phases. For the exact conditioning: MEL_BLOCKS
                planes; else a frame's blocks side by side, from which one matrix product makes a flow's `products`

`second` stands before `mel` because reads before a section's first plane have to find zeros.
"""

import triton
import triton.language as tl

from waveglow.gpu.folding import OUTPUTS, WIDTH

_WIDTH = tl.constexpr(WIDTH)
_OUTPUTS = tl.constexpr(OUTPUTS)


@triton.jit
def _tanh(x, APPROXIMATE: tl.constexpr):
    # The hardware's tanh errs no more than FP16 rounds. Built from exp, it takes longer than the matrix product.
    if APPROXIMATE:
        y = tl.inline_asm_elementwise("tanh.approx.f32 $0, $1;", "=f,f", [x], dtype=tl.float32, is_pure=True, pack=1)
    else:
        y = 2 * tl.sigmoid(2 * x) - 1
    return y


@triton.jit
def _start(OVERLAP: tl.constexpr):
    # With OVERLAP (PDL) the kernel starts while its predecessor drains, and waits here for the predecessor's results.
    if OVERLAP:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()


@triton.jit
def _tile(table, row, ROWS: tl.constexpr, DESCRIPTOR: tl.constexpr):
    # (ROWS, WIDTH) from a table given as a tensor descriptor or as a pointer
    if DESCRIPTOR:
        tile = table.load([row, 0])
    else:
        offsets = tl.arange(0, ROWS)[:, None] * _WIDTH + tl.arange(0, _WIDTH)[None, :]
        tile = tl.load(table + row.to(tl.int64) * _WIDTH + offsets)
    return tile


@triton.jit
def _columns(column, rows, PHASES: tl.constexpr):
    # The offset of channels from channel 0 of the same row, in a section of several blocks.
    return (column // _WIDTH).to(tl.int64) * (PHASES * rows * _WIDTH) + column % _WIDTH


@triton.jit
def _mixing(mixing, first, TILE: tl.constexpr, COUNT: tl.constexpr, RANKS: tl.constexpr, FRAME_ROWS: tl.constexpr):
    # (TILE, COUNT): the weights of COUNT products, from `first` on, in a tile's rows; 0 for products of other frames.
    row = tl.arange(0, TILE)[:, None]
    product = first + tl.arange(0, COUNT)[None, :]
    same = row // FRAME_ROWS == product // RANKS
    return tl.load(mixing + row % FRAME_ROWS * RANKS + product % RANKS, mask=same, other=0.0)


@triton.jit
def _products(products, pitch, row, column, COUNT: tl.constexpr, COLUMNS: tl.constexpr):
    # (COUNT, COLUMNS)
    line = products + (row + tl.arange(0, COUNT)).to(tl.int64)[:, None] * pitch
    return tl.load(line + column + tl.arange(0, COLUMNS)[None, :])


@triton.jit(do_not_specialize=["dilation", "tiles"])
def gate(
    table,  # FP16 (rows of all sections, WIDTH)
    table_tiles,  # the table in tiles of (TILE, WIDTH): a tensor descriptor, or the table itself
    weight_tiles,  # FP16 (steps * 2 * CHANNELS, WIDTH), in tiles of (COLUMNS, WIDTH); likewise
    bias,  # FP32 (2 * CHANNELS)
    products,  # FP16 (rows / FRAME_ROWS * RANKS, 2 * CHANNELS), where RANKS isn't 0
    pitch,  # from a row of the products to the next
    mixing,  # FP16 (FRAME_ROWS, RANKS)
    rows,
    gap,
    dilation,
    tiles,
    FIRST: tl.constexpr,
    CHANNELS: tl.constexpr,
    PHASES: tl.constexpr,
    TAPS: tl.constexpr,
    MEL_BLOCKS: tl.constexpr,
    RANKS: tl.constexpr,
    FRAME_ROWS: tl.constexpr,
    TILE: tl.constexpr,
    COLUMNS: tl.constexpr,
    DESCRIPTOR: tl.constexpr,
    PERSISTENT: tl.constexpr,
    APPROXIMATE: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    """second = tanh(a) * sigmoid(b), [a, b] = dilated convolution of the hidden (FIRST: of the input) + conditioning.

    One matrix product. Its inner dimension runs over the taps of the convolution, and then over the taps of the mel, or
    with RANKS over the products of the tile's frames, whose left operand is the same for all tiles. Output columns are
    WIDTH channels' a, then the same channels' b, and so on. The weights of b are halved: sigmoid(b) = (1 + tanh(b / 2))
    / 2. A tile is TILE rows x COLUMNS columns of one phase. PERSISTENT: there are only as many programs as run at once,
    and the loads of a program's next tile go on while it finishes one.
    """
    _start(OVERLAP)
    BLOCKS: tl.constexpr = CHANNELS // _WIDTH
    IN_BLOCKS: tl.constexpr = 1 if FIRST else BLOCKS
    AUDIO_STEPS: tl.constexpr = TAPS * IN_BLOCKS
    PARTS: tl.constexpr = 2 * CHANNELS // COLUMNS
    PART_BLOCKS: tl.constexpr = COLUMNS // (2 * _WIDTH)
    hidden = gap + PHASES * rows
    second = hidden + BLOCKS * PHASES * rows
    mel = second + BLOCKS * PHASES * rows
    source = gap if FIRST else hidden
    SUMS: tl.constexpr = TILE // FRAME_ROWS * RANKS
    CHUNK: tl.constexpr = SUMS if SUMS < 32 else 32
    for tile in tl.range(tl.program_id(0), tiles, tl.num_programs(0), flatten=PERSISTENT):
        part = tile % PARTS
        phase = (tile // PARTS) % PHASES
        row = tile // (PARTS * PHASES) * TILE
        acc = tl.zeros((TILE, COLUMNS), tl.float32)
        for step in range(AUDIO_STEPS + MEL_BLOCKS):
            tap = step // IN_BLOCKS
            shifted = phase + (tap - TAPS // 2) * dilation + gap * PHASES  # from `gap` frames before: not negative
            plane = (step - tap * IN_BLOCKS) * PHASES + shifted % PHASES
            hidden_row = source + plane * rows + shifted // PHASES - gap
            x_row = tl.where(step < AUDIO_STEPS, hidden_row, mel + (step - AUDIO_STEPS) * rows) + row
            w_block = step + tl.where(step < AUDIO_STEPS, 0, phase * MEL_BLOCKS)
            x = _tile(table_tiles, x_row, TILE, DESCRIPTOR)
            w = _tile(weight_tiles, w_block * (2 * CHANNELS) + part * COLUMNS, COLUMNS, DESCRIPTOR)
            acc = tl.dot(x, w.T, acc)
        if RANKS > 0:
            for chunk in tl.static_range(0, SUMS, CHUNK):
                weights = _mixing(mixing, chunk, TILE, CHUNK, RANKS, FRAME_ROWS)
                product = row // FRAME_ROWS * RANKS + chunk
                acc = tl.dot(weights, _products(products, pitch, product, part * COLUMNS, CHUNK, COLUMNS), acc)

        acc += tl.load(bias + part * COLUMNS + tl.arange(0, COLUMNS))[None, :]
        a, b = tl.split(tl.permute(tl.reshape(acc, (TILE, PART_BLOCKS, 2, _WIDTH)), (0, 1, 3, 2)))
        gated = tl.reshape(_tanh(a, APPROXIMATE) * (0.5 * _tanh(b, APPROXIMATE) + 0.5), (TILE, COLUMNS // 2))
        channel = part * (COLUMNS // 2) + tl.arange(0, COLUMNS // 2)
        first = second + phase * rows + row
        offsets = tl.arange(0, TILE)[:, None] * _WIDTH + _columns(channel, rows, PHASES)[None, :]
        tl.store(table + first.to(tl.int64) * _WIDTH + offsets, gated.to(tl.float16))


@triton.jit
def residual(
    table,  # FP16 (rows of all sections, WIDTH)
    table_tiles,  # the table in tiles of (TILE, WIDTH): a tensor descriptor, or the table itself
    weight_tiles,  # FP16 (steps * (CHANNELS + OUTPUTS), WIDTH), in tiles of (COLUMNS, WIDTH); likewise
    output_tiles,  # the same weights, in tiles of (OUTPUTS, WIDTH)
    bias,  # FP32 (CHANNELS)
    output_bias,  # FP32 (OUTPUTS)
    outputs,  # FP32 (PHASES * rows, OUTPUTS)
    row_map,  # int32 (rows)
    rows,
    gap,
    FIRST: tl.constexpr,
    LAST: tl.constexpr,
    CHANNELS: tl.constexpr,
    PHASES: tl.constexpr,
    TILE: tl.constexpr,
    COLUMNS: tl.constexpr,
    DESCRIPTOR: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    """hidden += residual half of res_skip(second); outputs += end(skip half of res_skip(second)).

    FIRST: the hidden comes from `start` of the input, and the sums of the outputs begin. LAST: the outputs alone. A
    program computes TILE rows x COLUMNS columns of one phase. Empty rows of the hidden are written as zeros.
    """
    _start(OVERLAP)
    BLOCKS: tl.constexpr = CHANNELS // _WIDTH
    STEPS: tl.constexpr = BLOCKS + 1 if FIRST else BLOCKS
    PARTS: tl.constexpr = 1 if LAST else CHANNELS // COLUMNS
    program = tl.program_id(0)
    part = program % PARTS
    phase = (program // PARTS) % PHASES
    row = program // (PARTS * PHASES) * TILE

    gated = gap + (1 + BLOCKS) * PHASES * rows
    acc = tl.zeros((TILE, COLUMNS), tl.float32)
    out = tl.zeros((TILE, _OUTPUTS), tl.float32)
    for step in range(STEPS):
        x_row = tl.where(step < BLOCKS, gated + (step * PHASES + phase) * rows, gap + phase * rows) + row
        w_row = step * (CHANNELS + _OUTPUTS)
        x = _tile(table_tiles, x_row, TILE, DESCRIPTOR)
        if not LAST:
            acc = tl.dot(x, _tile(weight_tiles, w_row + part * COLUMNS, COLUMNS, DESCRIPTOR).T, acc)
        out = tl.dot(x, _tile(output_tiles, w_row + CHANNELS, _OUTPUTS, DESCRIPTOR).T, out)

    tile_row = tl.arange(0, TILE)
    if part == 0:
        sums = outputs + (phase * rows + row + tile_row)[:, None] * _OUTPUTS + tl.arange(0, _OUTPUTS)[None, :]
        if FIRST:
            out += tl.load(output_bias + tl.arange(0, _OUTPUTS))[None, :]
        else:
            out += tl.load(sums)
        tl.store(sums, out)
    if not LAST:
        column = part * COLUMNS + tl.arange(0, COLUMNS)
        acc += tl.load(bias + column)[None, :]
        first = gap + PHASES * rows + phase * rows + row
        offsets = tile_row[:, None] * _WIDTH + _columns(column, rows, PHASES)[None, :]
        hidden = table + first.to(tl.int64) * _WIDTH + offsets
        if not FIRST:
            acc += tl.load(hidden).to(tl.float32)
        used = tl.load(row_map + row + tile_row) >= 0
        tl.store(hidden, tl.where(used[:, None], acc, 0.0).to(tl.float16))


@triton.jit(do_not_specialize=["frames", "early"])
def couple(
    table,  # FP16 (rows of all sections, WIDTH)
    outputs,  # FP32 (PHASES * rows, OUTPUTS)
    state,  # FP32 (PHASES * rows, GROUP)
    next_state,  # FP32 (PHASES * rows, GROUP)
    mixer,  # FP32 (GROUP, GROUP)
    z,  # FP16 (GROUP, frames * PHASES)
    audio,  # FP16 (frames * PHASES * GROUP)
    row_map,  # int32 (rows)
    rows,
    gap,
    frames,
    early,
    FLOW_CHANNELS: tl.constexpr,
    EARLY: tl.constexpr,
    GROUP: tl.constexpr,
    PHASES: tl.constexpr,
    LAST: tl.constexpr,
    TILE: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    """The affine coupling of one flow, its mixing of channels, and the input of the next flow.

    `state` is the audio in FP32. `mixer` maps its channels to those of `next_state`, where EARLY channels of z, from
    channel `early` on, come first. Without FLOW_CHANNELS there is nothing to couple: z alone begins. LAST writes the
    audio.
    """
    _start(OVERLAP)
    position = tl.program_id(0) * TILE + tl.arange(0, TILE)
    phase = position // rows
    frame = tl.load(row_map + position % rows)
    used = frame >= 0
    group = frame.to(tl.int64) * PHASES + phase
    channel = tl.arange(0, GROUP)

    offset = position[:, None] * GROUP + channel[None, :]
    if FLOW_CHANNELS > 0:
        HALF: tl.constexpr = FLOW_CHANNELS // 2
        x = tl.load(state + offset, mask=used[:, None] & (channel < FLOW_CHANNELS)[None, :], other=0.0)
        coupled = used[:, None] & ((channel >= HALF) & (channel < FLOW_CHANNELS))[None, :]
        out = outputs + position[:, None] * _OUTPUTS + channel[None, :]
        x = (x - tl.load(out - HALF, mask=coupled, other=0.0)) * tl.exp(-tl.load(out, mask=coupled, other=0.0))
        weights = tl.load(mixer + channel[:, None] * GROUP + channel[None, :])  # (from, to)
        # With its factors in the other order, Triton 3.6 makes a TF32 matrix product of it where GROUP is 16 or more.
        y = tl.sum(weights[None, :, :] * x[:, :, None], axis=1)
    else:
        y = tl.zeros((TILE, GROUP), tl.float32)
    if EARLY > 0:
        noise = z + group[:, None] + (early + channel)[None, :].to(tl.int64) * (frames * PHASES)
        y += tl.load(noise, mask=used[:, None] & (channel < EARLY)[None, :], other=0.0).to(tl.float32)
    if LAST:
        samples = audio + group[:, None] * GROUP + channel[None, :]
        tl.store(samples, y.to(tl.float16), mask=used[:, None])
    else:
        y = tl.where(used[:, None], y, 0.0)
        tl.store(next_state + offset, y)
        line = table + (gap + position).to(tl.int64)[:, None] * _WIDTH
        tl.store(line + channel[None, :], y.to(tl.float16))
        if FLOW_CHANNELS == 0:
            column = tl.arange(0, _WIDTH)[None, :]
            one = tl.where((column == GROUP) & used[:, None], 1.0, 0.0)
            tl.store(line + column, one.to(tl.float16), mask=column >= GROUP)


@triton.jit(do_not_specialize=["frames"])
def spread_mel(
    spread,  # FP16 (blocks, plane_frames, WIDTH)
    block_pitch,
    frame_pitch,
    mel,  # FP16 (MEL_CHANNELS, frames)
    row_map,  # int32 (rows)
    plane_frames,
    frames,
    MEL_CHANNELS: tl.constexpr,
    MEL_TAPS: tl.constexpr,
    FRAME_ROWS: tl.constexpr,
    TILE: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    """Writes the taps of the mel for each frame of a plane, empty ones too: column tap * MEL_CHANNELS + c is channel c
    of the frame `tap` frames before. The columns are cut into blocks of WIDTH."""
    _start(OVERLAP)
    block = tl.program_id(1)
    line = tl.program_id(0) * TILE + tl.arange(0, TILE)
    column = block * _WIDTH + tl.arange(0, _WIDTH)
    tap = (column // MEL_CHANNELS)[None, :]
    here = tl.load(row_map + line * FRAME_ROWS, mask=line < plane_frames, other=-1)
    inside = (here >= 0)[:, None] & (line[:, None] >= tap) & (column < MEL_TAPS * MEL_CHANNELS)[None, :]
    before = tl.load(row_map + (line[:, None] - tap) * FRAME_ROWS, mask=inside, other=-1)
    # The frame `tap` lines before belongs to the same utterance if it is `tap` frames before.
    used = (before >= 0) & (before == here[:, None] - tap * FRAME_ROWS)
    frame = before // FRAME_ROWS
    values = tl.load(mel + (column % MEL_CHANNELS)[None, :].to(tl.int64) * frames + frame, mask=used, other=0.0)
    target = spread + block.to(tl.int64) * block_pitch + line.to(tl.int64)[:, None] * frame_pitch
    tl.store(target + tl.arange(0, _WIDTH)[None, :], values, mask=(line < plane_frames)[:, None])
