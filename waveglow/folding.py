"""WaveGlow's weights folded for the Triton kernels: the same function for fewer operations.

What is linear is folded on the weights, in FP32, before they are rounded:

- the upsampling into the conditioning: one position sees 4 frames of 80 channels (320 values) instead of the 640 that
  the upsampling makes of them, with weights of its own for each of the 32 positions of a frame;
- `start` into the first layer of each flow, which then convolves at most 4 channels and a one instead of 256;
- `end` into the skip halves of the 1x1 convolutions: each layer adds 8 sums per position instead of 256 values.

That leaves 2.1 of 3.1 TFLOP for 600 frames at 256 channels, at the price of memory: 1.09 GB of weights instead of
0.18 GB.
"""

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from common.config import WaveGlowConfig
from waveglow.parts import FlowPart, WaveGlowPart

WIDTH = 64  # FP16 values in a row of the kernels' tables: 128 bytes, the widest swizzle of the matrix units
OUTPUTS = 16  # columns for a flow's shifts and log scales: the least that a matrix product may have


@dataclass(frozen=True)
class FoldedLayer:
    """One layer's weights as tables of (rows, WIDTH), each block of rows one step of a kernel's inner dimension.

    gate: taps x input blocks, then phases x mel blocks, of 2 * channels rows: tanh's and sigmoid's of a channel side by
        side, sigmoid's halved; gate_bias (2 * channels).
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
    assert upsample.bias is not None
    bias = upsample.bias.detach().to(device, torch.float32)
    mixers = list[Any](part.mixers)
    flows = []
    for number in reversed(range(config.n_flows)):
        flow = copy.deepcopy(part.flows[number]).to(device, torch.float32)
        assert isinstance(flow, FlowPart)
        mixer = mixers[number].weight.detach().to(device, torch.float32).squeeze(2)
        early = config.n_early_size if number > 0 and number % config.n_early_every == 0 else 0
        flows.append(_fold_flow(flow, taps, bias, mixer, early, config, dtype))
    return flows


@torch.inference_mode()
def _fold_flow(
    flow: FlowPart,
    upsample_taps: Tensor,
    upsample_bias: Tensor,
    mixer: Tensor,
    early: int,
    config: WaveGlowConfig,
    dtype: torch.dtype,
) -> FoldedFlow:
    channels, half = config.wn_channels, flow.start.in_channels
    end, end_bias = flow.end.weight.squeeze(2), flow.end.bias
    assert flow.start.bias is not None
    assert end_bias is not None
    start = end.new_zeros(channels, WIDTH)
    start[:, :half] = flow.start.weight.squeeze(2)
    start[:, config.n_group] = flow.start.bias
    # Row 2c is tanh's of channel c, row 2c + 1 sigmoid's, halved: sigmoid(b) = (1 + tanh(b / 2)) / 2.
    order = torch.arange(2 * channels, device=end.device).view(2, channels).T.flatten()
    scale = torch.tensor([1.0, 0.5], device=end.device).repeat(channels)

    layers, output_bias = [], end_bias.clone()
    modules = (list[Any](modules) for modules in (flow.in_layers, flow.cond_layers, flow.res_skip_layers))
    for i, (in_layer, cond_layer, res_skip) in enumerate(zip(*modules, strict=True)):
        first, last = i == 0, i == len(flow.in_layers) - 1
        condition = cond_layer.weight.squeeze(2)
        audio = in_layer.weight.permute(2, 0, 1)  # (taps, 2 * channels, channels)
        gate = [
            _blocks(audio @ start if first else audio),
            _blocks((condition @ upsample_taps).permute(1, 2, 0, 3).flatten(2)),
        ]
        gate_rows = torch.cat([rows.reshape(-1, 2 * channels, WIDTH) for rows in gate])
        gate_bias = in_layer.bias + condition @ upsample_bias

        weight, weight_bias = res_skip.weight.squeeze(2), res_skip.bias
        skip, skip_bias = weight[-channels:], weight_bias[-channels:]
        residual = torch.zeros_like(skip) if last else weight[:channels]
        both = end.new_zeros(channels + OUTPUTS, channels + (WIDTH if first else 0))
        both[:channels, :channels] = residual
        both[channels : channels + end.size(0), :channels] = end @ skip
        if first:
            both[:channels, channels:] = start
        output_bias += end @ skip_bias
        layers.append(
            FoldedLayer(
                (gate_rows[:, order] * scale[:, None]).reshape(-1, WIDTH).to(dtype),
                gate_bias[order] * scale,
                _blocks(both).reshape(-1, WIDTH).to(dtype),
                (torch.zeros_like(skip_bias) if last else weight_bias[:channels]).clone(),
            )
        )
    wide_mixer = mixer.new_zeros(config.n_group, config.n_group)
    wide_mixer[: 2 * half, early : early + 2 * half] = mixer.T
    wide_bias = nn.functional.pad(output_bias, (0, OUTPUTS - output_bias.numel()))
    return FoldedFlow(2 * half, layers, wide_bias, wide_mixer, early)


def _blocks(weight: Tensor) -> Tensor:
    # (..., out, in) -> (..., ceil(in / WIDTH), out, WIDTH), filled up with zeros
    padded = nn.functional.pad(weight, (0, -weight.size(-1) % WIDTH))
    return padded.unflatten(-1, (-1, WIDTH)).transpose(-3, -2)
