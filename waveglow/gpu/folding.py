"""WaveGlow's weights as tables for the Triton kernels: the folded part's (`waveglow.parts`), in the kernels' order.

The exact conditioning is folded once more: one position sees 4 frames of 80 channels (320 values) instead of the 640
that the upsampling makes of them, with weights of its own for each position of a frame. Channels are filled up with
zeros to a multiple of `WIDTH`, which adds nothing to the sums: tanh(0) is 0.
"""

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from common.config import WaveGlowConfig
from waveglow.parts import FlowPart, FrameCondition, PositionCondition, WaveGlowPart

WIDTH = 64  # FP16 values in a row of the kernels' tables: 128 bytes, the widest swizzle of the matrix units
OUTPUTS = 16  # columns for a flow's shifts and log scales: the least that a matrix product may have


@dataclass(frozen=True)
class FoldedLayer:
    """One layer's weights as tables of (rows, WIDTH), each block of rows one step of a kernel's inner dimension.

    gate: taps x input blocks, then, for the exact conditioning, phases x mel blocks, of 2 * channels rows in the gate's
        order: tanh's of WIDTH channels, then sigmoid's of the same, halved, and so on; gate_bias (2 * channels).
    residual: input blocks (in the first layer `start` follows as one more) of channels + OUTPUTS rows: the residual's,
        then the outputs'; residual_bias (channels). All zeros for the residual of the last layer.
    """

    gate: Tensor
    gate_bias: Tensor
    residual: Tensor
    residual_bias: Tensor


@dataclass(frozen=True)
class FoldedFlow:
    """One flow: its layers, the outputs' bias (OUTPUTS) and the mixer (from channel, to channel).

    `early` channels of noise join the audio after this flow; the mixer's columns are shifted by as many.

    products, mixing: for the conditioning at the frames' rate, else None. The products make what all layers mix from a
        frame's mel taps: (mel taps * n_mel_channels filled up to whole blocks, ranks * layers * 2 * channels), the last
        in the gate's order. The mixing says how the positions of a frame mix it: (positions, ranks).
    """

    channels: int
    layers: list[FoldedLayer]
    output_bias: Tensor
    mixer: Tensor
    early: int
    products: Tensor | None
    mixing: Tensor | None


def width_of(config: WaveGlowConfig) -> int:
    """The channels that the kernels compute with."""
    return _up(config.wn_channels, WIDTH)


def fold(
    part: WaveGlowPart, device: torch.device, dtype: torch.dtype = torch.float16, ranks: int = 0
) -> list[FoldedFlow]:
    """The flows in the order in which they run, weights in `dtype`, biases and mixers in FP32.

    Args:
        ranks: zeros fill the rank of the conditioning up to this; the exact conditioning ignores it.
    """
    config = part.config
    upsample_taps = None
    if part.rank is None:
        weight = part.upsample.weight.detach().to(device, torch.float32)
        # (taps, phases, spectrum channels, mel channels): position f * phases + p sees tap t of frame f - t
        upsample_taps = weight.unflatten(2, (-1, part.positions)).permute(2, 3, 1, 0)
    mixers = list[Any](part.mixers)
    flows = []
    for number in reversed(range(config.n_flows)):
        flow = copy.deepcopy(part.flows[number]).to(device, torch.float32)
        assert isinstance(flow, FlowPart)
        mixer = mixers[number].weight.detach().to(device, torch.float32).squeeze(2)
        early = config.n_early_size if number > 0 and number % config.n_early_every == 0 else 0
        flows.append(_fold_flow(flow, upsample_taps, mixer, early, config, dtype, ranks))
    return flows


@torch.inference_mode()
def _fold_flow(
    flow: FlowPart,
    upsample_taps: Tensor | None,  # (taps, phases, spectrum channels, mel channels), for the exact conditioning
    mixer: Tensor,  # (to channel, from channel)
    early: int,
    config: WaveGlowConfig,
    dtype: torch.dtype,
    ranks: int,
) -> FoldedFlow:
    width, half = width_of(config), flow.start.in_channels
    assert flow.start.bias is not None
    # The first layer and `start` see the audio's channels, and a one in column n_group that carries a bias.
    columns = [*range(half), config.n_group]
    start = mixer.new_zeros(width, WIDTH)
    start[: config.wn_channels, columns] = torch.cat((flow.start.weight.squeeze(2), flow.start.bias[:, None]), 1)

    layers, output_bias = [], mixer.new_zeros(2 * half)
    in_layers, res_skips = list[Any](flow.in_layers), list[Any](flow.res_skip_layers)
    for i, (in_layer, res_skip) in enumerate(zip(in_layers, res_skips, strict=True)):
        audio = in_layer.weight.permute(2, 0, 1)  # (taps, 2 * channels, channels, or half + 1)
        if i == 0:
            wide = mixer.new_zeros(*audio.shape[:2], WIDTH)
            wide[:, :, columns] = audio
            audio = wide
        blocks = [_blocks(audio).flatten(0, 1)]
        if upsample_taps is not None:
            assert isinstance(flow.condition, PositionCondition)
            condition = list[Any](flow.condition.layers)[i].weight.squeeze(2) @ upsample_taps
            blocks.append(_blocks(condition.permute(1, 2, 0, 3).flatten(2)).flatten(0, 1))
        gate, gate_bias = _gate_order(torch.cat(blocks), 1).reshape(-1, WIDTH), _gate_order(in_layer.bias, 0)
        residual, residual_bias = _fold_residual(res_skip, width, 2 * half, start if i == 0 else None)
        output_bias += res_skip.bias[-2 * half :]
        layers.append(FoldedLayer(gate.to(dtype), gate_bias, residual.to(dtype), residual_bias))
    wide_mixer = mixer.new_zeros(config.n_group, config.n_group)
    wide_mixer[: 2 * half, early : early + 2 * half] = mixer.T
    wide_bias = nn.functional.pad(output_bias, (0, OUTPUTS - output_bias.numel()))
    products = mixing = None
    if isinstance(flow.condition, FrameCondition):
        products = _fold_products(flow.condition, ranks).to(dtype)
        weights = flow.condition.weights  # (rank, positions), the same for all flows
        mixing = nn.functional.pad(weights.T, (0, ranks - len(weights))).to(dtype).contiguous()
    return FoldedFlow(2 * half, layers, wide_bias, wide_mixer, early, products, mixing)


def _fold_products(condition: FrameCondition, ranks: int) -> Tensor:
    # FoldedFlow's products.
    rank = condition.weights.size(0)
    weight = condition.products.weight.unflatten(0, (condition.count, -1, rank))
    weight = _gate_order(weight, 1).flip(4)  # the frame itself comes first in the kernels' table, last in a convolution
    weight = weight.permute(4, 3, 2, 0, 1).flatten(0, 1)  # (mel taps * n_mel_channels, rank, layers, 2 * channels)
    filled = weight.new_zeros(_up(weight.size(0), WIDTH), ranks, *weight.shape[2:])
    filled[: weight.size(0), :rank] = weight
    return filled.flatten(1)


def _fold_residual(
    res_skip: nn.Conv1d,  # channels -> (but in the last layer, channels of the residual) + outputs
    width: int,
    outputs: int,
    start: Tensor | None,  # (width, WIDTH), in the first layer
) -> tuple[Tensor, Tensor]:
    # FoldedLayer's residual and residual_bias.
    assert res_skip.bias is not None
    weight, channels = res_skip.weight.squeeze(2), res_skip.in_channels
    both = weight.new_zeros(width + OUTPUTS, width + (0 if start is None else WIDTH))
    bias = weight.new_zeros(width)
    residuals = weight.size(0) - outputs  # rows of the residual: none in the last layer
    both[:residuals, :channels], bias[:residuals] = weight[:residuals], res_skip.bias[:residuals]
    both[width : width + outputs, :channels] = weight[residuals:]
    if start is not None:
        both[:width, width:] = start
    return _blocks(both).reshape(-1, WIDTH), bias


def _gate_order(weight: Tensor, dim: int) -> Tensor:
    # Brings rows (2 * channels at `dim`: tanh's, then sigmoid's) into the gate's order, filled up with zeros. The
    # kernels then have both values of a channel in one thread, and the gated channels in the order of a matrix operand.
    # The sigmoid's rows are halved: sigmoid(b) = (1 + tanh(b / 2)) / 2.
    tanh, sigmoid = weight.movedim(dim, 0).chunk(2)
    both = torch.stack((tanh, 0.5 * sigmoid))
    filled = both.new_zeros(2, _up(both.size(1), WIDTH), *both.shape[2:])
    filled[:, : both.size(1)] = both
    return filled.unflatten(1, (-1, WIDTH)).transpose(0, 1).flatten(0, 2).movedim(0, dim)


def _blocks(weight: Tensor) -> Tensor:
    # (..., out, in) -> (..., ceil(in / WIDTH), out, WIDTH), filled up with zeros
    padded = nn.functional.pad(weight, (0, -weight.size(-1) % WIDTH))
    return padded.unflatten(-1, (-1, WIDTH)).transpose(-3, -2)


def _up(count: int, multiple: int) -> int:
    return -(-count // multiple) * multiple
