"""The encoder's bidirectional LSTM as one Triton kernel."""

import triton
import triton.language as tl

from tacotron2.gpu.decoder_kernels import lstm_cell


@triton.jit
def encoder_lstm_kernel(
    inputs,  # (B, text, 2, 4 * HIDDEN): the inputs' share of the gates, biases included, of both directions
    weights,  # (2, HIDDEN / UNITS, 4 * UNITS, HIDDEN): the gates' rows of each program's units
    lengths,  # int32 (B)
    exchange,  # int32 (B, 2, 2, HIDDEN), zeros: hidden values of the steps with an even and with an odd number
    out,  # (B, text, 2 * HIDDEN), written up to each length
    text,
    HIDDEN: tl.constexpr,
    UNITS: tl.constexpr,
):
    # All steps of both directions of a bidirectional LSTM. A program keeps the weights of its units in registers. The
    # programs of one direction exchange their hidden values through memory, each with its step's number in the upper
    # half of the word: a program that finds all numbers has all values, and there is no barrier. Two slots are enough:
    # a program reaches step s + 2 only with all values of s + 1, and their writers have read all of s. All programs
    # have to run at once.
    program, direction, item = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    units = program * UNITS + tl.arange(0, UNITS)
    row, k = tl.arange(0, 4 * UNITS), tl.arange(0, HIDDEN)
    first = (direction * (HIDDEN // UNITS) + program) * 4 * UNITS
    w = tl.load(weights + (first + row)[:, None] * HIDDEN + k[None, :]).to(tl.float32)
    input_row = row // UNITS * HIDDEN + program * UNITS + row % UNITS
    length = tl.load(lengths + item)
    exchange += (item * 2 + direction) * 2 * HIDDEN
    h = tl.zeros((HIDDEN,), tl.float32)
    cell = tl.zeros((UNITS, 1), tl.float32)
    for step in range(length):
        position = item * text + tl.where(direction == 0, step, length - 1 - step)
        x = tl.load(inputs + (position * 2 + direction) * 4 * HIDDEN + input_row).to(tl.float32)
        gates = x + tl.sum(w * h[None, :], 1)
        hidden, cell = lstm_cell(tl.reshape(gates, (4, UNITS, 1)), cell)
        value = tl.reshape(hidden, (UNITS,)).to(tl.float16)
        tl.store(out + position * 2 * HIDDEN + direction * HIDDEN + units, value)
        slot = exchange + step % 2 * HIDDEN
        bits = value.to(tl.int16, bitcast=True).to(tl.int32) & 0xFFFF
        tl.store(slot + units, bits | ((step + 1) << 16))
        words = tl.load(slot + k, volatile=True)
        while tl.min(words >> 16, 0) < step + 1:
            words = tl.load(slot + k, volatile=True)
        h = (words & 0xFFFF).to(tl.int16).to(tl.float16, bitcast=True).to(tl.float32)
