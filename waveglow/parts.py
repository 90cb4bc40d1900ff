"""WaveGlow as the one part that runs as an engine: mel and noise in, audio out.

Built from a `WaveGlow` with weight norms folded and the 1x1 convolutions inverted in FP32. It takes and gives the named
tensors of `common.contract`, and is what the exporter traces and the PyTorch engine runs. The noise comes in as an
input, already scaled by sigma, so that every backend computes the same.
"""

from typing import Any

import torch
from torch import Tensor, nn

from common.checkpoint import LoadedModel
from common.contract import PRECISION_DTYPES
from common.metadata import DEFAULT_SIGMA, ModelMetadata, Part, Precision
from common.modules import NoRandomWeights
from waveglow import model


def waveglow_parts(
    loaded: LoadedModel[model.WaveGlow], precision: Precision, sigma: float | None = None
) -> dict[Part, tuple[nn.Module, ModelMetadata]]:
    """WaveGlow's one part in the given precision, on the CPU, independent of the model it comes from, with metadata.

    The metadata lacks the denoiser's bias: `waveglow.denoiser.bias_of` measures it.

    Args:
        sigma: the default standard deviation of the noise; None takes the checkpoint's own, else the classic's.
    """
    with NoRandomWeights():
        module = WaveGlowPart(loaded.model).eval().requires_grad_(False).to(PRECISION_DTYPES[precision])
    sigma = sigma if sigma is not None else loaded.sigma if loaded.sigma is not None else DEFAULT_SIGMA
    metadata = ModelMetadata(
        "waveglow", precision, loaded.config, loaded.audio, loaded.sha256, sigma, loaded.voice, gain=loaded.gain
    )
    return {"waveglow": (module, metadata)}


class WaveGlowPart(nn.Module):
    def __init__(self, waveglow: model.WaveGlow) -> None:
        super().__init__()
        config = waveglow.config
        self.config = config
        self.remaining = config.flow_channels()[-1]
        self.upsample = _grouped_upsample(waveglow.upsample, config.n_group)
        networks, mixers = list[Any](waveglow.WN), list[Any](waveglow.convinv)
        self.flows = nn.ModuleList(FlowPart(network) for network in networks)
        self.mixers = nn.ModuleList(_conv1d(mixer.inverse_weight(), None) for mixer in mixers)

    def forward(self, mel: Tensor, z: Tensor) -> Tensor:
        # mel: (B, n_mel_channels, M); z: (B, n_group, G), G = M * 256 / n_group -> audio (B, M * 256)
        spect = self.upsample(mel)[:, :, : z.size(2)]  # (B, n_mel_channels * n_group, G)
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


class FlowPart(nn.Module):
    """One flow's network (`waveglow.model.WN`) with its weight norms folded."""

    def __init__(self, wn: model.WN) -> None:
        super().__init__()
        inputs, conditions = list[Any](wn.in_layers), list[Any](wn.cond_layers)
        res_skips = list[Any](wn.res_skip_layers)
        self.start = _conv1d(wn.start.weight, wn.start.bias)
        self.end = _conv1d(wn.end.weight, wn.end.bias)
        self.in_layers = nn.ModuleList(
            _conv1d(layer.weight, layer.bias + condition.bias, layer.dilation)  # one bias serves the sum of both
            for layer, condition in zip(inputs, conditions, strict=True)
        )
        self.cond_layers = nn.ModuleList(_conv1d(condition.weight, None) for condition in conditions)
        self.res_skip_layers = nn.ModuleList(_conv1d(layer.weight, layer.bias) for layer in res_skips)

    def forward(self, audio: Tensor, spect: Tensor) -> tuple[Tensor, Tensor]:
        # audio: (B, C, G); spect: (B, n_mel_channels * n_group, G) -> shift, log_scale: (B, C, G)
        audio = self.start(audio)
        skips = []
        last = len(self.in_layers) - 1
        for i, (in_layer, cond_layer) in enumerate(zip(self.in_layers, self.cond_layers, strict=True)):
            tanh_half, sigmoid_half = (in_layer(audio) + cond_layer(spect)).chunk(2, dim=1)
            res_skip = self.res_skip_layers[i](torch.tanh(tanh_half) * torch.sigmoid(sigmoid_half))
            if i < last:
                residual, res_skip = res_skip.chunk(2, dim=1)
                audio = audio + residual
            skips.append(res_skip)
        shift, log_scale = self.end(sum(skips[1:], skips[0])).chunk(2, dim=1)
        return shift, log_scale


def _conv1d(weight: Tensor, bias: Tensor | None, dilation: int = 1) -> nn.Conv1d:
    # A convolution that keeps the length, with the given weight (out, in, kernel).
    out_channels, in_channels, kernel = weight.shape
    padding = (kernel - 1) * dilation // 2
    conv = nn.Conv1d(in_channels, out_channels, kernel, padding=padding, dilation=dilation, bias=bias is not None)
    conv.weight = nn.Parameter(weight.detach().clone())
    if bias is not None:
        conv.bias = nn.Parameter(bias.detach().clone())
    return conv


def _grouped_upsample(upsample: nn.ConvTranspose1d, n_group: int) -> nn.ConvTranspose1d:
    """The upsampling that gives `n_group` samples of every channel at once, in the order that the flows want.

    NVIDIA's model upsamples to samples and then folds groups of samples into channels. Output sample g * n_group + j
    depends on kernel taps of phase j alone, so the folding can be done once, on the weights: same sums, no
    rearranging of the largest tensor of the model.
    """
    in_channels, out_channels, kernel = upsample.weight.shape
    grouped = nn.ConvTranspose1d(
        in_channels, out_channels * n_group, kernel // n_group, stride=upsample.stride[0] // n_group
    )
    taps = upsample.weight.detach().reshape(in_channels, out_channels, kernel // n_group, n_group)
    grouped.weight = nn.Parameter(taps.permute(0, 1, 3, 2).reshape(in_channels, out_channels * n_group, -1).clone())
    assert upsample.bias is not None
    grouped.bias = nn.Parameter(upsample.bias.detach().repeat_interleave(n_group))
    return grouped
