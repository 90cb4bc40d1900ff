"""Tacotron 2's dimensions: one dataclass that travels in checkpoints, ONNX files and engines."""

from dataclasses import dataclass


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
        """Raises ValueError for what no Tacotron 2 of this project can be."""
        if self.n_frames_per_step != 1:
            raise ValueError(f"n_frames_per_step is {self.n_frames_per_step}: only 1 is supported")
        if self.encoder_embedding_dim % 2:
            raise ValueError(f"encoder_embedding_dim is {self.encoder_embedding_dim}: it must be even")
        for name in ("encoder_kernel_size", "attention_location_kernel_size", "postnet_kernel_size"):
            if getattr(self, name) % 2 == 0:
                raise ValueError(f"{name} is {getattr(self, name)}: it must be odd")
