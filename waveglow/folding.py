"""WaveGlow's weights as tables for the Triton kernels: the folded part's (`waveglow.parts`), in the kernels' order.

The exact conditioning is folded once more: one position sees 4 frames of 80 channels (320 values) instead of the 640
that the upsampling makes of them, with weights of its own for each position of a frame.
"""

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from common.config import WaveGlowConfig
from waveglow.parts import FlowPart, PositionCondition, WaveGlowPart

WIDTH = 64  # FP16 values in a row of the kernels' tables: 128 bytes, the widest swizzle of the matrix units
OUTPUTS = 16  # columns for a flow's shifts and log scales: the least that a matrix product may have


@dataclass(frozen=True)
class FoldedLayer:
    """One layer's weights as tables of (rows, WIDTH), each block of rows one step of a kernel's inner dimension.

    gate: taps x input blocks, then phases x mel blocks, of 2 * channels rows: tanh's of WIDTH channels, then sigmoid's
        of the same, halved, and so on; gate_bias (2 * channels).
    residual: input blocks (in the first layer `start` follows as one more) of channels + OUTPUTS rows: the residual's,
        then the outputs'; residual_bias (channels). All zeros for the residual of the last layer.
    """

    gate: Tensor
    gate_bias: Tensor
    residual: Tensor
    residual_bias: Tensor


@dataclass(frozen=True)
class FoldedFlow:
    """One flow: its layers, the outputs' bias (OUTPUTS), and the mixer (from channel, to channel) whose columns stand
    `early` channels further on, where that many channels of noise join the audio behind this flow."""

    channels: int
    layers: list[FoldedLayer]
    output_bias: Tensor
    mixer: Tensor
    early: int


def fold(part: WaveGlowPart, device: torch.device, dtype: torch.dtype = torch.float16) -> list[FoldedFlow]:
    """The flows in the order in which they run, weights in `dtype`, biases and mixers in FP32."""
    config = part.config
    upsample = part.upsample
    phases = upsample.stride[0]
    # (taps, phases, spectrum channels, mel channels): position f * phases + p sees tap t of frame f - t
    taps = upsample.weight.detach().to(device, torch.float32).unflatten(2, (-1, phases)).permute(2, 3, 1, 0)
    mixers = list[Any](part.mixers)
    flows = []
    for number in reversed(range(config.n_flows)):
        flow = copy.deepcopy(part.flows[number]).to(device, torch.float32)
        assert isinstance(flow, FlowPart)
        mixer = mixers[number].weight.detach().to(device, torch.float32).squeeze(2)
        early = config.n_early_size if number > 0 and number % config.n_early_every == 0 else 0
        flows.append(_fold_flow(flow, taps, mixer, early, config, dtype))
    return flows


@torch.inference_mode()
def _fold_flow(
    flow: FlowPart,
    upsample_taps: Tensor,  # (taps, phases, spectrum channels, mel channels)
    mixer: Tensor,  # (to channel, from channel)
    early: int,
    config: WaveGlowConfig,
    dtype: torch.dtype,
) -> FoldedFlow:
    channels, half = config.wn_channels, flow.start.in_channels
    assert flow.start.bias is not None
    # The first layer and `start` see the audio's channels, and a one in column n_group that carries a bias.
    columns = [*range(half), config.n_group]
    start = mixer.new_zeros(channels, WIDTH)
    start[:, columns] = torch.cat((flow.start.weight.squeeze(2), flow.start.bias[:, None]), 1)

    layers, output_bias = [], mixer.new_zeros(2 * half)
    condition = flow.condition
    assert isinstance(condition, PositionCondition)
    modules = (list[Any](modules) for modules in (flow.in_layers, condition.layers, flow.res_skip_layers))
    for i, (in_layer, cond_layer, res_skip) in enumerate(zip(*modules, strict=True)):
        audio = in_layer.weight.permute(2, 0, 1)  # (taps, 2 * channels, channels, or half + 1)
        if i == 0:
            wide = mixer.new_zeros(*audio.shape[:2], WIDTH)
            wide[:, :, columns] = audio
            audio = wide
        gate, gate_bias = _fold_gate(audio, in_layer.bias, cond_layer.weight.squeeze(2) @ upsample_taps)
        residual, residual_bias = _fold_residual(res_skip, 2 * half, start if i == 0 else None)
        output_bias += res_skip.bias[-2 * half :]
        layers.append(FoldedLayer(gate.to(dtype), gate_bias, residual.to(dtype), residual_bias))
    wide_mixer = mixer.new_zeros(config.n_group, config.n_group)
    wide_mixer[: 2 * half, early : early + 2 * half] = mixer.T
    wide_bias = nn.functional.pad(output_bias, (0, OUTPUTS - output_bias.numel()))
    return FoldedFlow(2 * half, layers, wide_bias, wide_mixer, early)


def _fold_gate(
    audio: Tensor,  # (taps, 2 * channels, channels)
    bias: Tensor,  # (2 * channels)
    condition: Tensor,  # (mel taps, phases, 2 * channels, mel channels)
) -> tuple[Tensor, Tensor]:
    # FoldedLayer's gate and gate_bias.
    rows = [_blocks(audio), _blocks(condition.permute(1, 2, 0, 3).flatten(2))]
    table = torch.cat([blocks.reshape(-1, bias.numel(), WIDTH) for blocks in rows])
    # WIDTH rows of tanh's, then those of the same channels' sigmoid's, halved: sigmoid(b) = (1 + tanh(b / 2)) / 2. So
    # the kernels find both of a channel in the same thread, and the gated channels in the order of a matrix operand.
    order = torch.arange(bias.numel(), device=bias.device).view(2, -1, WIDTH).transpose(0, 1).flatten()
    scale = torch.tensor([1.0, 0.5], device=bias.device).repeat_interleave(WIDTH).repeat(bias.numel() // (2 * WIDTH))
    return (table[:, order] * scale[:, None]).reshape(-1, WIDTH), bias[order] * scale


def _fold_residual(
    res_skip: nn.Conv1d,  # channels -> (but in the last layer, channels of the residual) + outputs
    outputs: int,
    start: Tensor | None,  # (channels, WIDTH), in the first layer
) -> tuple[Tensor, Tensor]:
    # FoldedLayer's residual and residual_bias.
    assert res_skip.bias is not None
    weight, channels = res_skip.weight.squeeze(2), res_skip.in_channels
    both = weight.new_zeros(channels + OUTPUTS, channels + (0 if start is None else WIDTH))
    bias = weight.new_zeros(channels)
    residuals = weight.size(0) - outputs  # rows of the residual: none in the last layer
    both[:residuals, :channels], bias[:residuals] = weight[:residuals], res_skip.bias[:residuals]
    both[channels : channels + outputs, :channels] = weight[residuals:]
    if start is not None:
        both[:channels, channels:] = start
    return _blocks(both).reshape(-1, WIDTH), bias


def _blocks(weight: Tensor) -> Tensor:
    # (..., out, in) -> (..., ceil(in / WIDTH), out, WIDTH), filled up with zeros
    padded = nn.functional.pad(weight, (0, -weight.size(-1) % WIDTH))
    return padded.unflatten(-1, (-1, WIDTH)).transpose(-3, -2)
