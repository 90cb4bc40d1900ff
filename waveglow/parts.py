"""WaveGlow as the one part that runs as an engine: mel and noise in, audio out.

Built from a `WaveGlow` with everything that is linear folded in FP32: weight norms, the inverse of the 1x1
convolutions, `start` into the first layer of each flow, `end` into the skip halves of the layers, the upsampling into
the conditioning where its rank is low (`waveglow.conditioning`). It takes and gives the named tensors of
`common.contract`. The exporter traces it and the PyTorch engine runs it. The noise comes in as an input, already scaled
by sigma, so that every backend computes the same.
"""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.checkpoint import LoadedModel, NoRandomWeights
from common.contract import PRECISION_DTYPES
from common.metadata import DEFAULT_SIGMA, ModelMetadata, Part, Precision
from waveglow import model
from waveglow.conditioning import Conditioning, Factors, upsampling_taps


def waveglow_parts(
    loaded: LoadedModel[model.WaveGlow],
    precision: Precision,
    sigma: float | None = None,
    conditioning: Conditioning = "auto",
) -> dict[Part, tuple[nn.Module, ModelMetadata]]:
    """WaveGlow's one part in the given precision, on the CPU, independent of the model it comes from, with metadata.

    The metadata lacks the denoiser's bias: `waveglow.denoiser.bias_of` measures it.

    Args:
        sigma: the default standard deviation of the noise; None takes the checkpoint's own, else the classic's.
        conditioning: how the mel reaches the flows.

    Raises:
        UserError: the upsampling has no such rank, or holds NaN.
    """
    with NoRandomWeights():
        module = WaveGlowPart(loaded.model, conditioning).eval().requires_grad_(False)
    sigma = sigma if sigma is not None else loaded.sigma if loaded.sigma is not None else DEFAULT_SIGMA
    of_checkpoint = (loaded.config, loaded.audio, loaded.sha256, sigma, loaded.voice)
    metadata = ModelMetadata("waveglow", precision, *of_checkpoint, gain=loaded.gain, conditioning_rank=module.rank)
    return {"waveglow": (module.to(PRECISION_DTYPES[precision]), metadata)}


class WaveGlowPart(nn.Module):
    """See the module.

    Attributes:
        rank: of the conditioning at the frames' rate; None where it is exact, at the positions' rate.
    """

    @torch.no_grad()
    def __init__(self, waveglow: model.WaveGlow, conditioning: Conditioning = "auto") -> None:
        super().__init__()
        config = waveglow.config
        self.config = config
        self.remaining = config.flow_channels()[-1]
        taps = upsampling_taps(waveglow.upsample, config.n_group)
        self.positions, self.mel_taps = taps.shape[:2]  # positions of a frame; frames that one of them depends on
        factors = Factors(taps)
        self.rank = factors.choose(conditioning)
        networks, mixers = list[Any](waveglow.WN), list[Any](waveglow.convinv)
        bias = waveglow.upsample.bias
        assert bias is not None
        if self.rank is None:
            # As one transposed convolution (mel channels, spectrum, kernel) that strides over positions.
            weight = taps.permute(3, 2, 1, 0).flatten(2)  # (n_mel_channels, spectrum, taps * positions)
            mels, spectrum, kernel = weight.shape
            self.upsample = nn.ConvTranspose1d(mels, spectrum, kernel, self.positions, bias=False)
            self.upsample.weight = nn.Parameter(weight.clone())
            conditions: list[nn.Module] = [PositionCondition(network) for network in networks]
        else:
            weights, frames = factors.of_rank(self.rank)
            conditions = [FrameCondition(network, weights, frames) for network in networks]
        self.flows = nn.ModuleList(
            FlowPart(network, condition, bias.detach().repeat_interleave(config.n_group))
            for network, condition in zip(networks, conditions, strict=True)
        )
        self.mixers = nn.ModuleList(_conv1d(mixer.inverse_weight(), None) for mixer in mixers)

    def forward(self, mel: Tensor, z: Tensor) -> Tensor:
        # mel: (B, n_mel_channels, M); z: (B, n_group, G), G = M * 256 / n_group -> audio (B, M * 256)
        # The upsampled (B, n_mel_channels * n_group, G), or the frames after zeros (B, n_mel_channels, taps - 1 + M)
        spect = self.upsample(mel)[:, :, : z.size(2)] if self.rank is None else F.pad(mel, (self.mel_taps - 1, 0))
        early_size = self.config.n_early_size
        audio, early = z[:, : self.remaining], z[:, self.remaining :]
        for flow in reversed(range(self.config.n_flows)):
            first, second = audio.chunk(2, dim=1)
            shift, log_scale = self.flows[flow](first, spect)
            audio = self.mixers[flow](torch.cat((first, (second - shift) * torch.exp(-log_scale)), 1))
            if flow > 0 and flow % self.config.n_early_every == 0:
                audio = torch.cat((early[:, :early_size], audio), 1)
                early = early[:, early_size:]
        return audio.transpose(1, 2).reshape(mel.size(0), -1)


class PositionCondition(nn.Module):
    """The conditioning that one flow's layers add before their gates, from the upsampled mel: exact."""

    def __init__(self, wn: model.WN) -> None:
        super().__init__()
        self.layers = nn.ModuleList(_conv1d(layer.weight, None) for layer in list[Any](wn.cond_layers))

    def forward(self, spect: Tensor) -> Iterator[Tensor]:
        # spect: (B, n_mel_channels * n_group, G) -> of each layer (B, 2 * wn_channels, G)
        return (layer(spect) for layer in self.layers)


class FrameCondition(nn.Module):
    """The same from the mel's frames, for an upsampling of low rank.

    Args:
        weights: a (positions, R).
        frames: V (R, taps, spectrum, n_mel_channels).
    """

    weights: Tensor

    def __init__(self, wn: model.WN, weights: Tensor, frames: Tensor) -> None:
        super().__init__()
        layers = [layer.weight.detach().squeeze(2) for layer in list[Any](wn.cond_layers)]  # (2 * channels, spectrum)
        self.count = len(layers)
        products = torch.einsum("ns,rtsm->nrmt", torch.cat(layers), frames)
        # A convolution reads its taps from the earliest frame to the latest.
        self.products = _conv1d(products.flip(3).flatten(0, 1), None, keep_length=False)
        self.register_buffer("weights", weights.T.contiguous())  # (R, positions)

    def forward(self, spect: Tensor) -> Iterator[Tensor]:
        # spect: (B, n_mel_channels, taps - 1 + M) -> of each layer (B, 2 * wn_channels, G), G = M * positions
        rank = self.weights.size(0)
        products: Tensor = self.products(spect).unflatten(1, (-1, rank))  # (B, layers * 2 * wn_channels, R, M)
        layers = products.split(self.products.out_channels // (rank * self.count), dim=1)
        # Transposed right before the product, which ONNX Runtime then reads as it lies.
        return (torch.matmul(layer.transpose(2, 3), self.weights).flatten(2) for layer in layers)


class FlowPart(nn.Module):
    """One flow's network (`waveglow.model.WN`), folded.

    Args:
        condition: of its layers, added before their gates.
        spectrum_bias: of the upsampling (n_mel_channels * n_group,), folded into the layers' biases.
    """

    def __init__(self, wn: model.WN, condition: nn.Module, spectrum_bias: Tensor) -> None:
        super().__init__()
        inputs, conditions = list[Any](wn.in_layers), list[Any](wn.cond_layers)
        res_skips = list[Any](wn.res_skip_layers)
        channels, last = wn.start.weight.size(0), len(inputs) - 1
        start = wn.start.weight.squeeze(2)
        end = wn.end.weight.squeeze(2)
        assert wn.end.bias is not None
        self.condition = condition
        self.start = _conv1d(wn.start.weight, wn.start.bias)
        in_layers, res_skip_layers = [], []
        for i, (layer, condition_layer, res_skip) in enumerate(zip(inputs, conditions, res_skips, strict=True)):
            weight = layer.weight
            if i == 0:
                # `start` folded in: the layer sees the audio, and a one that carries the bias of `start`.
                weight = torch.einsum("ncl,ci->nil", weight, torch.cat((start, wn.start.bias[:, None]), 1))
            # One bias serves the sum of both.
            bias = layer.bias + condition_layer.bias + condition_layer.weight.squeeze(2) @ spectrum_bias
            in_layers.append(_conv1d(weight, bias, layer.dilation))
            # `end` folded into the skip half: a layer adds the sums of the outputs instead of all channels.
            residual, skip = res_skip.weight.squeeze(2).tensor_split([0 if i == last else channels])
            residual_bias, skip_bias = res_skip.bias.tensor_split([0 if i == last else channels])
            weight, bias = torch.cat((residual, end @ skip)), torch.cat((residual_bias, end @ skip_bias))
            if i == 0:
                bias[-end.size(0) :] += wn.end.bias
            res_skip_layers.append(_conv1d(weight.unsqueeze(2), bias))
        self.in_layers, self.res_skip_layers = nn.ModuleList(in_layers), nn.ModuleList(res_skip_layers)

    def forward(self, audio: Tensor, spect: Tensor) -> tuple[Tensor, Tensor]:
        # audio: (B, C, G); spect: see `condition` -> shift, log_scale: (B, C, G)
        hidden = self.start(audio)  # (B, wn_channels, G)
        x = torch.cat((audio, torch.ones_like(audio[:, :1])), 1)
        outputs = []
        for in_layer, condition, res_skip_layer in zip(
            self.in_layers, self.condition(spect), self.res_skip_layers, strict=True
        ):
            tanh_half, sigmoid_half = (in_layer(x) + condition).split(self.start.out_channels, dim=1)
            output = res_skip_layer(torch.tanh(tanh_half) * torch.sigmoid(sigmoid_half))
            if res_skip_layer is not self.res_skip_layers[-1]:
                residual, output = output.split([self.start.out_channels, 2 * self.start.in_channels], dim=1)
                hidden = x = hidden + residual
            outputs.append(output)
        shift, log_scale = sum(outputs[1:], outputs[0]).split(self.start.in_channels, dim=1)
        return shift, log_scale


def _conv1d(weight: Tensor, bias: Tensor | None, dilation: int = 1, keep_length: bool = True) -> nn.Conv1d:
    # A convolution with the given weight (out, in, kernel).
    out_channels, in_channels, kernel = weight.shape
    padding = (kernel - 1) * dilation // 2 if keep_length else 0
    conv = nn.Conv1d(in_channels, out_channels, kernel, padding=padding, dilation=dilation, bias=bias is not None)
    conv.weight = nn.Parameter(weight.detach().clone())
    if bias is not None:
        conv.bias = nn.Parameter(bias.detach().clone())
    return conv
