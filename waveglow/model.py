"""WaveGlow as PyTorch modules whose parameter names and shapes are those of NVIDIA's checkpoints.

Paper: "WaveGlow: A Flow-based Generative Network for Speech Synthesis" (Prenger et al., 2018),
https://arxiv.org/abs/1811.00002.

This file holds the weights and says what the model computes, in the paper's order. What runs in production is in
`waveglow.parts`; the tests hold the two together.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.config import WaveGlowConfig

UPSAMPLE_KERNEL, UPSAMPLE_STRIDE = 1024, 256  # samples: the STFT's window and hop that the model was trained with


class WeightNormConv1d(nn.Module):
    """A convolution stored as direction and magnitude (`weight_v`, `weight_g`), as in NVIDIA's checkpoints."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, dilation: int = 1) -> None:
        super().__init__()
        initial = nn.Conv1d(in_channels, out_channels, kernel_size)
        assert initial.bias is not None
        direction = initial.weight.detach()
        self.weight_v = nn.Parameter(direction)
        self.weight_g = nn.Parameter(direction.new_empty(out_channels, 1, 1))
        if not direction.is_meta:  # to compute anything there imports PyTorch's compiler, which takes seconds
            torch.norm(direction, dim=(1, 2), keepdim=True, out=self.weight_g.data)
        self.bias = nn.Parameter(initial.bias.detach())
        self.dilation = dilation
        self.padding = (kernel_size - 1) * dilation // 2

    @property
    def weight(self) -> Tensor:
        """(out_channels, in_channels, kernel_size), the norm folded in."""
        return self.weight_v * (self.weight_g / self.weight_v.norm(dim=(1, 2), keepdim=True))

    def folded(self) -> nn.Conv1d:
        """The same as a plain convolution."""
        out_channels, in_channels, kernel = self.weight_v.shape
        conv = nn.Conv1d(in_channels, out_channels, kernel, padding=self.padding, dilation=self.dilation)
        conv.weight, conv.bias = nn.Parameter(self.weight.detach()), self.bias
        return conv

    def forward(self, x: Tensor) -> Tensor:
        return F.conv1d(x, self.weight, self.bias, padding=self.padding, dilation=self.dilation)


class WN(nn.Module):
    """The WaveNet-like network of one flow: dilated, gated convolutions conditioned on the upsampled mel."""

    def __init__(self, in_channels: int, config: WaveGlowConfig) -> None:
        super().__init__()
        channels, layers = config.wn_channels, range(config.wn_layers)
        condition = config.n_mel_channels * config.n_group
        self.start = WeightNormConv1d(in_channels, channels, 1)
        self.end = nn.Conv1d(channels, 2 * in_channels, 1)
        self.in_layers = nn.ModuleList(
            WeightNormConv1d(channels, 2 * channels, config.wn_kernel_size, dilation=2**i) for i in layers
        )
        self.cond_layers = nn.ModuleList(WeightNormConv1d(condition, 2 * channels, 1) for _ in layers)
        self.res_skip_layers = nn.ModuleList(
            WeightNormConv1d(channels, channels if i == config.wn_layers - 1 else 2 * channels, 1) for i in layers
        )

    def forward(self, audio: Tensor, spect: Tensor) -> tuple[Tensor, Tensor]:
        # audio: (B, in_channels, G); spect: (B, n_mel_channels * n_group, G) -> shift, log_scale: (B, in_channels, G)
        audio = self.start(audio)
        skip_sum: Tensor | int = 0
        for in_layer, cond_layer, res_skip_layer in zip(
            self.in_layers, self.cond_layers, self.res_skip_layers, strict=True
        ):
            tanh_half, sigmoid_half = (in_layer(audio) + cond_layer(spect)).chunk(2, dim=1)
            res_skip = res_skip_layer(torch.tanh(tanh_half) * torch.sigmoid(sigmoid_half))
            if res_skip_layer is not self.res_skip_layers[-1]:
                residual, res_skip = res_skip.chunk(2, dim=1)
                audio = audio + residual
            skip_sum = skip_sum + res_skip
        shift, log_scale = self.end(skip_sum).chunk(2, dim=1)
        return shift, log_scale


class Invertible1x1Conv(nn.Module):
    """The learned mixing of channels between two flows, under the parameter name `conv`."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(channels, channels, 1, bias=False)
        if not self.conv.weight.is_meta:
            self.conv.weight = nn.Parameter(torch.linalg.qr(torch.randn(channels, channels))[0].unsqueeze(2))
        self.inverse: Tensor | None = None

    def inverse_weight(self) -> Tensor:
        """(channels, channels, 1), inverted in at least FP32."""
        if self.inverse is not None:
            return self.inverse
        weight = self.conv.weight.detach().squeeze(2)
        return torch.linalg.inv(weight.float()).to(weight.dtype).unsqueeze(2)

    def keep_inverse(self) -> None:
        """Inverts once, for inference; from now on changes of the weight don't count."""
        inverse = self.inverse_weight()
        del self.inverse
        self.register_buffer("inverse", inverse, persistent=False)


class WaveGlow(nn.Module):
    def __init__(self, config: WaveGlowConfig) -> None:
        super().__init__()
        self.config = config
        channels = config.flow_channels()
        self.upsample = nn.ConvTranspose1d(
            config.n_mel_channels, config.n_mel_channels, UPSAMPLE_KERNEL, stride=UPSAMPLE_STRIDE
        )
        self.WN = nn.ModuleList(WN(n // 2, config) for n in channels)
        self.convinv = nn.ModuleList(Invertible1x1Conv(n) for n in channels)

    def prepare_for_inference(self) -> "WaveGlow":
        """Folds weight norms into plain convolutions and inverts the 1x1 convolutions, in place; same results."""
        for module in list(self.modules()):
            if isinstance(module, Invertible1x1Conv):
                module.keep_inverse()
            for name, child in list(module.named_children()):
                if isinstance(child, WeightNormConv1d):
                    setattr(module, name, child.folded())
        return self

    @torch.inference_mode()
    def infer(self, mel: Tensor, z: Tensor) -> Tensor:
        """Mel and noise to audio in the plainest way: the reference that the exported part is compared with.

        Args:
            mel: log mel spectrogram (B, n_mel_channels, M).
            z: noise of standard deviation sigma, (B, n_group, M * 256 / n_group).

        Returns:
            audio (B, M * 256), about -1 to 1.
        """
        config = self.config
        batch, frames = mel.size(0), mel.size(2)
        spect = self.upsample(mel)[:, :, : frames * UPSAMPLE_STRIDE]
        # Eight neighbouring samples become one position: (B, n_mel_channels, G, n_group) -> (B, n_mel * n_group, G)
        spect = spect.unfold(2, config.n_group, config.n_group).permute(0, 1, 3, 2).reshape(batch, -1, z.size(2))
        remaining = config.flow_channels()[-1]
        audio, early = z[:, :remaining], z[:, remaining:]
        for flow in reversed(range(config.n_flows)):
            first, second = audio.chunk(2, dim=1)
            shift, log_scale = self.WN[flow](first, spect)
            audio = torch.cat((first, (second - shift) * torch.exp(-log_scale)), 1)
            mixer: Any = self.convinv[flow]
            audio = F.conv1d(audio, mixer.inverse_weight())
            if flow > 0 and flow % config.n_early_every == 0:
                audio = torch.cat((early[:, : config.n_early_size], audio), 1)
                early = early[:, config.n_early_size :]
        return audio.transpose(1, 2).reshape(batch, -1)
