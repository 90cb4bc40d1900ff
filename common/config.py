"""The dimensions of both models and of audio: dataclasses that travel in checkpoints, ONNX files and engines."""

import math
from dataclasses import dataclass, fields


@dataclass(frozen=True)
class Tacotron2Config:
    """Architecture of Tacotron 2 under NVIDIA's names; the defaults are those of the published checkpoints."""

    mask_padding: bool = True
    n_mel_channels: int = 80
    n_symbols: int = 148
    symbols_embedding_dim: int = 512
    encoder_kernel_size: int = 5
    encoder_n_convolutions: int = 3
    encoder_embedding_dim: int = 512
    n_frames_per_step: int = 1
    decoder_rnn_dim: int = 1024
    prenet_dim: int = 256
    max_decoder_steps: int = 2000
    gate_threshold: float = 0.5
    p_attention_dropout: float = 0.1
    p_decoder_dropout: float = 0.1
    decoder_no_early_stopping: bool = False
    attention_rnn_dim: int = 1024
    attention_dim: int = 128
    attention_location_n_filters: int = 32
    attention_location_kernel_size: int = 31
    postnet_embedding_dim: int = 512
    postnet_kernel_size: int = 5
    postnet_n_convolutions: int = 5

    def validate(self) -> None:
        """Raises ValueError for values that this project can't run as Tacotron 2."""
        _check_positive(self)
        if self.n_frames_per_step != 1:
            raise ValueError(f"n_frames_per_step is {self.n_frames_per_step}: only 1 is supported")
        if self.encoder_embedding_dim % 2:
            raise ValueError(f"encoder_embedding_dim is {self.encoder_embedding_dim}: it must be even")
        for name in ("encoder_kernel_size", "attention_location_kernel_size", "postnet_kernel_size"):
            if getattr(self, name) % 2 == 0:
                raise ValueError(f"{name} is {getattr(self, name)}: it must be odd")
        if not 0 <= self.gate_threshold <= 1:
            raise ValueError(f"gate_threshold is {self.gate_threshold}: it must be between 0 and 1")


@dataclass(frozen=True)
class WaveGlowConfig:
    """Architecture of WaveGlow. The defaults are those of NVIDIA's published 256-channel checkpoint, except that
    `wn_channels` has the classic flag's default."""

    n_mel_channels: int = 80
    n_flows: int = 12
    n_group: int = 8
    n_early_every: int = 4
    n_early_size: int = 2
    wn_layers: int = 8
    wn_kernel_size: int = 3
    wn_channels: int = 512

    def validate(self) -> None:
        """Raises ValueError for values that make no WaveGlow."""
        _check_positive(self)
        if self.wn_kernel_size % 2 == 0:
            raise ValueError(f"wn_kernel_size is {self.wn_kernel_size}: it must be odd")
        if self.wn_channels % 2 or self.n_group % 2:
            raise ValueError("wn_channels and n_group must be even")
        if any(channels < 2 or channels % 2 for channels in self.flow_channels()):
            raise ValueError("the early outputs leave no even number of channels for some flow")

    def flow_channels(self) -> list[int]:
        """Audio channels that each flow works on, in the order of training (first flow sees all `n_group`)."""
        channels, remaining = [], self.n_group
        for flow in range(self.n_flows):
            if flow > 0 and flow % self.n_early_every == 0:
                remaining -= self.n_early_size
            channels.append(remaining)
        return channels


@dataclass(frozen=True)
class AudioConfig:
    """How audio relates to mel frames: NVIDIA's TacotronSTFT settings. It travels with every model file."""

    sampling_rate: int = 22050  # Hz
    filter_length: int = 1024  # samples of one FFT
    hop_length: int = 256  # samples between mel frames
    win_length: int = 1024  # samples
    mel_fmin: float = 0.0  # Hz
    mel_fmax: float = 8000.0  # Hz

    def validate(self) -> None:
        """Raises ValueError for values that describe no audio."""
        _check_positive(self)
        if not math.isfinite(self.mel_fmin) or not math.isfinite(self.mel_fmax):
            raise ValueError("mel_fmin and mel_fmax must be finite")


def _check_positive(config: "Tacotron2Config | WaveGlowConfig | AudioConfig") -> None:
    """Raises ValueError for a whole number below 1."""
    for field in fields(config):
        value = getattr(config, field.name)
        if type(field.default) is int and value < 1:
            raise ValueError(f"{field.name} is {value}: it must be at least 1")
