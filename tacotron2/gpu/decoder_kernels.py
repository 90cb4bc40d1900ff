"""Triton kernels of one decoder step, which `tacotron2.gpu.decoder_step` launches seven in a row.

    prenet -> attention LSTM -> query -> energies -> context -> decoder LSTM -> projection

A step reads all weights once and computes next to nothing. Its time is spent waiting: for the weights, which mostly
come from the L2 cache, and for one kernel after another. With OVERLAP (PDL, programmatic dependent launch) a kernel
starts while its predecessors still run, loads its weights and multiplies the values that are known already. Then it
waits (`_wait`) for its predecessor, which has waited for its own: after `_wait` everything before is finished. When a
kernel lets its successor start (`_release`) decides what the successor may read before its wait. All kernels release at
once, except two.

    query  releases after its wait. The energies then start with the attention LSTM finished, so the decoder LSTM may
           read the new attention state early.
    GUARD  releases after its wait: for a batch of one the decoder LSTM, else the projection. The kernel after it starts
           with the context finished, so the attention LSTM may read its own old state and the old context early, and
           the energies the old weights.

Nothing is written before `_wait`. Values that change from step to step and are read before it are read from the L2
cache (".cg"), where all multiprocessors see the same.

Sizes in capitals are constants of a compiled kernel and powers of two, except MELS and TAPS.
"""

import triton
import triton.language as tl


@triton.jit
def _release(OVERLAP: tl.constexpr):
    # Lets the next kernel start, once all programs of this one have called it.
    if OVERLAP:
        tl.extra.cuda.gdc_launch_dependents()


@triton.jit
def _wait(OVERLAP: tl.constexpr):
    # Waits until the previous kernel is finished and its results are visible.
    if OVERLAP:
        tl.extra.cuda.gdc_wait()


@triton.jit
def _tanh(x):
    return 2 * tl.sigmoid(2 * x) - 1


@triton.jit
def _dot_rows(weights, x):
    # (rows, n) FP16, (n) -> (rows) FP32
    return tl.sum(weights.to(tl.float32) * x.to(tl.float32)[None, :], 1)


@triton.jit
def _items(x, item, batch, N: tl.constexpr, WIDTH: tl.constexpr):
    # (items, N) of x (B, N), zeros up to WIDTH columns and beyond the batch
    column = tl.arange(0, WIDTH)[None, :]
    return tl.load(x + item[:, None] * N + column, mask=(item[:, None] < batch) & (column < N), other=0.0)


@triton.jit
def lstm_cell(gates, cell):
    # gates: (4, units, items), in the order input, forget, candidate, output; cell: (units, items) -> hidden, cell
    gate = tl.arange(0, 4)[:, None, None]
    i = tl.sigmoid(tl.sum(tl.where(gate == 0, gates, 0.0), 0))
    f = tl.sigmoid(tl.sum(tl.where(gate == 1, gates, 0.0), 0))
    g = _tanh(tl.sum(tl.where(gate == 2, gates, 0.0), 0))
    o = tl.sigmoid(tl.sum(tl.where(gate == 3, gates, 0.0), 0))
    cell = f * cell + i * g
    return o * _tanh(cell), cell


@triton.jit
def prenet_kernel(
    frame,  # (B, MELS)
    dropout,  # (B, 2, DIM)
    first,  # (DIM, MELS)
    second,  # (DIM, DIM)
    out,  # (B, DIM)
    MELS: tl.constexpr,
    MELS_PADDED: tl.constexpr,
    DIM: tl.constexpr,
    ROWS: tl.constexpr,  # of the second layer in one program; each program computes all of the first
    OVERLAP: tl.constexpr,
):
    _release(OVERLAP)
    item = tl.program_id(1)
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    hidden, mel = tl.arange(0, DIM), tl.arange(0, MELS_PADDED)
    first_weights = tl.load(first + hidden[:, None] * MELS + mel[None, :], mask=mel[None, :] < MELS, other=0.0)
    second_weights = tl.load(second + rows[:, None] * DIM + hidden[None, :])
    _wait(OVERLAP)
    x = tl.load(frame + item * MELS + mel, mask=mel < MELS, other=0.0)
    keep = dropout + item * 2 * DIM
    y = tl.maximum(_dot_rows(first_weights, x), 0.0) * tl.load(keep + hidden).to(tl.float32)
    z = tl.maximum(_dot_rows(second_weights, y), 0.0) * tl.load(keep + DIM + rows).to(tl.float32)
    tl.store(out + item * DIM + rows, z.to(tl.float16))


@triton.jit
def prenet_matrix_kernel(
    frame,  # (B, MELS)
    dropout,  # (B, 2, DIM)
    first,  # (DIM, MELS)
    second,  # (DIM, DIM)
    out,  # (B, DIM)
    batch,
    MELS: tl.constexpr,
    MELS_PADDED: tl.constexpr,
    DIM: tl.constexpr,
    ROWS: tl.constexpr,  # of the second layer in one program; each program computes all of the first
    ITEMS: tl.constexpr,  # in one program
    OVERLAP: tl.constexpr,
):
    _release(OVERLAP)
    item = tl.program_id(1) * ITEMS + tl.arange(0, ITEMS)
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    hidden, mel = tl.arange(0, DIM), tl.arange(0, MELS_PADDED)
    first_weights = tl.load(first + hidden[:, None] * MELS + mel[None, :], mask=mel[None, :] < MELS, other=0.0)
    second_weights = tl.load(second + rows[:, None] * DIM + hidden[None, :])
    _wait(OVERLAP)
    present = item[None, :] < batch
    keep = dropout + item[None, :] * 2 * DIM
    y = tl.dot(first_weights, tl.trans(_items(frame, item, batch, MELS, MELS_PADDED)))
    y = tl.maximum(y, 0.0) * tl.load(keep + hidden[:, None], mask=present, other=0.0).to(tl.float32)
    z = tl.dot(second_weights, y.to(tl.float16))
    z = tl.maximum(z, 0.0) * tl.load(keep + DIM + rows[:, None], mask=present, other=0.0).to(tl.float32)
    tl.store(out + item[None, :] * DIM + rows[:, None], z.to(tl.float16), mask=present)


@triton.jit
def lstm_vector_kernel(
    early,  # (N_EARLY), known early
    old_hidden,  # (HIDDEN), known early; the cell too
    late,  # (N_LATE), the previous kernel's result
    weights,  # (HIDDEN / UNITS, 4 * UNITS, N_EARLY + HIDDEN + N_LATE): the gates' rows of each program's units
    bias,  # FP32 (HIDDEN / UNITS, 4 * UNITS)
    old_cell,  # (HIDDEN)
    new_hidden,  # (HIDDEN)
    new_cell,  # (HIDDEN)
    N_EARLY: tl.constexpr,
    N_LATE: tl.constexpr,
    HIDDEN: tl.constexpr,
    UNITS: tl.constexpr,
    GUARD: tl.constexpr,  # whether to release after the wait
    OVERLAP: tl.constexpr,
):
    # For a batch of one. A program computes all gates of its units, and then their new state.
    _release(OVERLAP and not GUARD)
    rows = tl.program_id(0) * 4 * UNITS + tl.arange(0, 4 * UNITS)
    units = tl.program_id(0) * UNITS + tl.arange(0, UNITS)
    row = weights + rows[:, None] * (N_EARLY + HIDDEN + N_LATE)
    a, b, c = tl.arange(0, N_EARLY), tl.arange(0, HIDDEN), tl.arange(0, N_LATE)
    early_weights = tl.load(row + a[None, :])
    old_weights = tl.load(row + N_EARLY + b[None, :])
    late_weights = tl.load(row + (N_EARLY + HIDDEN) + c[None, :])
    cell = tl.load(old_cell + units, cache_modifier=".cg").to(tl.float32)
    gates = tl.load(bias + rows)
    gates += _dot_rows(early_weights, tl.load(early + a, cache_modifier=".cg"))
    gates += _dot_rows(old_weights, tl.load(old_hidden + b, cache_modifier=".cg"))
    _wait(OVERLAP)
    _release(OVERLAP and GUARD)
    gates += _dot_rows(late_weights, tl.load(late + c))
    hidden, cell = lstm_cell(tl.reshape(gates, (4, UNITS, 1)), cell[:, None])
    tl.store(new_hidden + units[:, None], hidden.to(tl.float16))
    tl.store(new_cell + units[:, None], cell.to(tl.float16))


@triton.jit
def _product(sums, row, x, item, batch, N: tl.constexpr, STEP: tl.constexpr):
    # sums (rows, items) plus the product of N columns of weights, from `row` (rows, 1) on, and x (B, N)
    k = tl.arange(0, STEP)
    for start in tl.range(0, N, STEP):
        column = (start + k)[None, :]
        w = tl.load(row + column)
        y = tl.load(x + item[:, None] * N + column, mask=item[:, None] < batch, other=0.0, cache_modifier=".cg")
        sums = tl.dot(w, tl.trans(y), sums)
    return sums


@triton.jit
def lstm_matrix_kernel(
    early,  # (B, N_EARLY), known early
    old_hidden,  # (B, HIDDEN), known early; the cell too
    late,  # (B, N_LATE), the previous kernel's result
    weights,  # (HIDDEN / UNITS, 4 * UNITS, N_EARLY + HIDDEN + N_LATE)
    bias,  # FP32 (HIDDEN / UNITS, 4 * UNITS)
    old_cell,  # (B, HIDDEN)
    new_hidden,  # (B, HIDDEN)
    new_cell,  # (B, HIDDEN)
    batch,
    N_EARLY: tl.constexpr,
    N_LATE: tl.constexpr,
    HIDDEN: tl.constexpr,
    UNITS: tl.constexpr,
    ITEMS: tl.constexpr,  # batch, padded
    STEP: tl.constexpr,  # columns multiplied at a time
    GUARD: tl.constexpr,  # whether to release after the wait
    OVERLAP: tl.constexpr,
):
    _release(OVERLAP and not GUARD)
    rows = tl.program_id(0) * 4 * UNITS + tl.arange(0, 4 * UNITS)
    units = tl.program_id(0) * UNITS + tl.arange(0, UNITS)
    item = tl.arange(0, ITEMS)
    row = weights + rows[:, None] * (N_EARLY + HIDDEN + N_LATE)
    offset = item[None, :] * HIDDEN + units[:, None]
    present = (item < batch)[None, :]
    cell = tl.load(old_cell + offset, mask=present, other=0.0, cache_modifier=".cg").to(tl.float32)
    gates = tl.load(bias + rows)[:, None] + tl.zeros((4 * UNITS, ITEMS), tl.float32)
    gates = _product(gates, row, early, item, batch, N_EARLY, STEP)
    gates = _product(gates, row + N_EARLY, old_hidden, item, batch, HIDDEN, STEP)
    _wait(OVERLAP)
    _release(OVERLAP and GUARD)
    gates = _product(gates, row + (N_EARLY + HIDDEN), late, item, batch, N_LATE, STEP)
    hidden, cell = lstm_cell(tl.reshape(gates, (4, UNITS, ITEMS)), cell)
    tl.store(new_hidden + offset, hidden.to(tl.float16), mask=present)
    tl.store(new_cell + offset, cell.to(tl.float16), mask=present)


@triton.jit
def query_kernel(
    hidden,  # (B, HIDDEN)
    weights,  # (DIM, HIDDEN)
    out,  # FP32 (B, DIM)
    HIDDEN: tl.constexpr,
    DIM: tl.constexpr,
    ROWS: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    item = tl.program_id(1)
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    k = tl.arange(0, HIDDEN)
    w = tl.load(weights + rows[:, None] * HIDDEN + k[None, :])
    _wait(OVERLAP)
    _release(OVERLAP)
    tl.store(out + item * DIM + rows, _dot_rows(w, tl.load(hidden + item * HIDDEN + k)))


@triton.jit
def query_matrix_kernel(
    hidden,  # (B, HIDDEN)
    weights,  # (DIM, HIDDEN)
    out,  # FP32 (B, DIM)
    batch,
    HIDDEN: tl.constexpr,
    DIM: tl.constexpr,
    ROWS: tl.constexpr,
    ITEMS: tl.constexpr,  # in one program
    OVERLAP: tl.constexpr,
):
    item = tl.program_id(1) * ITEMS + tl.arange(0, ITEMS)
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    w = tl.load(weights + rows[:, None] * HIDDEN + tl.arange(0, HIDDEN)[None, :])
    _wait(OVERLAP)
    _release(OVERLAP)
    y = tl.dot(w, tl.trans(_items(hidden, item, batch, HIDDEN, HIDDEN)))
    tl.store(out + item[None, :] * DIM + rows[:, None], y, mask=item[None, :] < batch)


@triton.jit
def energies_kernel(
    weights,  # (B, text), of the previous step; known early, as is `sums`
    sums,  # (B, text)
    processed_memory,  # (B, text, DIM)
    mask,  # uint8 (B, text), 1 where padding
    query,  # FP32 (B, DIM), the previous kernel's result
    location,  # (PATCH, DIM): row t for the weights' tap t, row TAPS + t for the sums', then zeros
    v,  # FP32 (DIM)
    energies,  # FP32 (B, text)
    text,
    DIM: tl.constexpr,
    TAPS: tl.constexpr,
    PATCH: tl.constexpr,
    TILE: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    _release(OVERLAP)
    item = tl.program_id(1)
    t = tl.program_id(0) * TILE + tl.arange(0, TILE)
    a, tap = tl.arange(0, DIM), tl.arange(0, PATCH)
    of_sums = tap >= TAPS
    source = t[:, None] + tl.where(of_sums, tap - TAPS, tap)[None, :] - TAPS // 2
    inside = (source >= 0) & (source < text) & (tap < 2 * TAPS)[None, :]
    source += item * text
    history = tl.load(weights + source, mask=inside & ~of_sums[None, :], other=0.0, cache_modifier=".cg")
    history += tl.load(sums + source, mask=inside & of_sums[None, :], other=0.0, cache_modifier=".cg")
    offset = item * text + t
    x = tl.load(processed_memory + offset[:, None] * DIM + a[None, :], mask=(t < text)[:, None], other=0.0)
    padding = tl.load(mask + offset, mask=t < text, other=1)
    v_row = tl.load(v + a)
    x = tl.dot(history, tl.load(location + tap[:, None] * DIM + a[None, :]), x.to(tl.float32))
    _wait(OVERLAP)
    energy = tl.sum(_tanh(x + tl.load(query + item * DIM + a)[None, :]) * v_row[None, :], 1)
    tl.store(energies + offset, tl.where(padding != 0, float("-inf"), energy), mask=t < text)


@triton.jit
def context_kernel(
    energies,  # FP32 (B, text), the previous kernel's result
    sums,  # (B, text), of the previous step
    memory,  # (B, text, DIM)
    context,  # (B, DIM)
    new_weights,  # (B, text)
    new_sums,  # (B, text)
    text,
    DIM: tl.constexpr,
    COLUMNS: tl.constexpr,  # of the context in one program; each program computes all weights
    TEXT: tl.constexpr,  # text, padded
    TILE: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    _release(OVERLAP)
    item = tl.program_id(1)
    columns = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    t, tile = tl.arange(0, TEXT), tl.arange(0, TILE)
    rows = memory + item * text * DIM + columns[None, :]
    first = tl.load(rows + tile[:, None] * DIM, mask=(tile < text)[:, None], other=0.0).to(tl.float32)
    _wait(OVERLAP)
    energies += item * text
    energy = tl.load(energies + t, mask=t < text, other=float("-inf"))
    top = tl.max(energy, 0)
    scale = 1 / tl.sum(tl.exp(energy - top), 0)
    part = tl.load(energies + tile, mask=tile < text, other=float("-inf"))
    total = tl.exp(part - top)[:, None] * first
    for start in tl.range(TILE, TEXT, TILE):
        s = start + tile
        part = tl.load(energies + s, mask=s < text, other=float("-inf"))
        total += tl.exp(part - top)[:, None] * tl.load(rows + s[:, None] * DIM, mask=(s < text)[:, None], other=0.0)
    tl.store(context + item * DIM + columns, (tl.sum(total, 0) * scale).to(tl.float16))
    if tl.program_id(0) == 0:
        weight = tl.exp(energy - top) * scale
        offset = item * text + t
        old = tl.load(sums + offset, mask=t < text, other=0.0).to(tl.float32)
        tl.store(new_weights + offset, weight.to(tl.float16), mask=t < text)
        tl.store(new_sums + offset, (old + weight).to(tl.float16), mask=t < text)


@triton.jit
def projection_kernel(
    hidden,  # (B, HIDDEN)
    context,  # (B, CONTEXT)
    weights,  # (MELS + 1, HIDDEN + CONTEXT)
    bias,  # FP32 (MELS + 1)
    frame,  # (B, MELS)
    gate,  # (B, 1)
    MELS: tl.constexpr,
    HIDDEN: tl.constexpr,
    CONTEXT: tl.constexpr,
    ROWS: tl.constexpr,
    GUARD: tl.constexpr,  # whether to release after the wait
    OVERLAP: tl.constexpr,
):
    _release(OVERLAP and not GUARD)
    item = tl.program_id(1)
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    real = rows <= MELS
    a, b = tl.arange(0, HIDDEN), tl.arange(0, CONTEXT)
    row = weights + rows[:, None] * (HIDDEN + CONTEXT)
    hidden_weights = tl.load(row + a[None, :], mask=real[:, None], other=0.0)
    context_weights = tl.load(row + HIDDEN + b[None, :], mask=real[:, None], other=0.0)
    y = tl.load(bias + rows, mask=real, other=0.0)
    _wait(OVERLAP)
    _release(OVERLAP and GUARD)
    y += _dot_rows(hidden_weights, tl.load(hidden + item * HIDDEN + a))
    y += _dot_rows(context_weights, tl.load(context + item * CONTEXT + b))
    tl.store(frame + item * MELS + rows, y.to(tl.float16), mask=rows < MELS)
    tl.store(gate + item + tl.zeros_like(rows), y.to(tl.float16), mask=rows == MELS)


@triton.jit
def projection_matrix_kernel(
    hidden,  # (B, HIDDEN)
    context,  # (B, CONTEXT)
    weights,  # (MELS + 1, HIDDEN + CONTEXT)
    bias,  # FP32 (MELS + 1)
    frame,  # (B, MELS)
    gate,  # (B, 1)
    batch,
    MELS: tl.constexpr,
    HIDDEN: tl.constexpr,
    CONTEXT: tl.constexpr,
    ROWS: tl.constexpr,
    ITEMS: tl.constexpr,  # in one program
    GUARD: tl.constexpr,  # whether to release after the wait
    OVERLAP: tl.constexpr,
):
    _release(OVERLAP and not GUARD)
    item = tl.program_id(1) * ITEMS + tl.arange(0, ITEMS)
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    real = tl.minimum(rows, MELS)  # programs beyond the last row compute it again and don't store it
    row = weights + real[:, None] * (HIDDEN + CONTEXT)
    hidden_weights = tl.load(row + tl.arange(0, HIDDEN)[None, :])
    y = tl.load(bias + real)[:, None] + tl.zeros((ROWS, ITEMS), tl.float32)
    _wait(OVERLAP)
    _release(OVERLAP and GUARD)
    y = tl.dot(hidden_weights, tl.trans(_items(hidden, item, batch, HIDDEN, HIDDEN)), y)
    # One half after the other: the weights of both don't fit into the registers at once.
    y = _product(y, row + HIDDEN, context, item, batch, CONTEXT, CONTEXT // 2).to(tl.float16)
    present = item[None, :] < batch
    tl.store(frame + item[None, :] * MELS + rows[:, None], y, mask=present & (rows[:, None] < MELS))
    tl.store(gate + item[None, :] + tl.zeros_like(rows)[:, None], y, mask=present & (rows[:, None] == MELS))
