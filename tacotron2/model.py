"""Tacotron 2 as PyTorch modules whose parameter names and shapes are those of NVIDIA's checkpoints.

Paper: "Natural TTS Synthesis by Conditioning WaveNet on Mel Spectrogram Predictions" (Shen et al., 2018),
https://arxiv.org/abs/1712.05884.

This file holds the weights and says, step by step, what the model computes for a single utterance. What runs in
production, batched and exported, is in `tacotron2.parts`; the tests hold the two together.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.config import Tacotron2Config


class LinearNorm(nn.Module):
    """A linear layer under the parameter name `linear_layer`."""

    def __init__(self, in_dim: int, out_dim: int, bias: bool = True) -> None:
        super().__init__()
        self.linear_layer = nn.Linear(in_dim, out_dim, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear_layer(x)


class ConvNorm(nn.Module):
    """A convolution that keeps the length, under the parameter name `conv`."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, bias: bool = True) -> None:
        super().__init__()
        self.conv = nn.Conv1d(in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


def _conv_batchnorm(in_channels: int, out_channels: int, kernel_size: int) -> nn.Sequential:
    return nn.Sequential(ConvNorm(in_channels, out_channels, kernel_size), nn.BatchNorm1d(out_channels))


class Encoder(nn.Module):
    def __init__(self, config: Tacotron2Config) -> None:
        super().__init__()
        dim = config.encoder_embedding_dim
        inputs = [config.symbols_embedding_dim] + [dim] * (config.encoder_n_convolutions - 1)
        self.convolutions = nn.ModuleList(_conv_batchnorm(n, dim, config.encoder_kernel_size) for n in inputs)
        self.lstm = nn.LSTM(dim, dim // 2, batch_first=True, bidirectional=True)

    def forward(self, x: Tensor) -> Tensor:
        # x: (1, symbols_embedding_dim, T) -> (1, T, encoder_embedding_dim)
        for convolution in self.convolutions:
            x = F.relu(convolution(x))
        return self.lstm(x.transpose(1, 2))[0]


class Prenet(nn.Module):
    def __init__(self, config: Tacotron2Config) -> None:
        super().__init__()
        inputs = [config.n_mel_channels, config.prenet_dim]
        self.layers = nn.ModuleList(LinearNorm(n, config.prenet_dim, bias=False) for n in inputs)

    def forward(self, x: Tensor, dropout: Tensor) -> Tensor:
        # x: (B, n_mel_channels); dropout: (B, 2, prenet_dim), values 0 or 2 -> (B, prenet_dim)
        for layer, keep in zip(self.layers, dropout.unbind(1), strict=True):
            x = F.relu(layer(x)) * keep
        return x


class LocationLayer(nn.Module):
    def __init__(self, config: Tacotron2Config) -> None:
        super().__init__()
        filters = config.attention_location_n_filters
        self.location_conv = ConvNorm(2, filters, config.attention_location_kernel_size, bias=False)
        self.location_dense = LinearNorm(filters, config.attention_dim, bias=False)

    def forward(self, weights_and_sum: Tensor) -> Tensor:
        # (B, 2, T) -> (B, T, attention_dim)
        return self.location_dense(self.location_conv(weights_and_sum).transpose(1, 2))


class Attention(nn.Module):
    """Location-sensitive attention (Chorowski et al., 2015, https://arxiv.org/abs/1506.07503)."""

    def __init__(self, config: Tacotron2Config) -> None:
        super().__init__()
        self.query_layer = LinearNorm(config.attention_rnn_dim, config.attention_dim, bias=False)
        self.memory_layer = LinearNorm(config.encoder_embedding_dim, config.attention_dim, bias=False)
        self.v = LinearNorm(config.attention_dim, 1, bias=False)
        self.location_layer = LocationLayer(config)

    def forward(
        self, query: Tensor, memory: Tensor, processed_memory: Tensor, history: Tensor
    ) -> tuple[Tensor, Tensor]:
        # query: (B, attention_rnn_dim); memory: (B, T, E); processed_memory: (B, T, A); history: (B, 2, T)
        energies = self.v(
            torch.tanh(self.query_layer(query).unsqueeze(1) + self.location_layer(history) + processed_memory)
        ).squeeze(2)
        weights = F.softmax(energies, dim=1)  # (B, T)
        return torch.bmm(weights.unsqueeze(1), memory).squeeze(1), weights


class Decoder(nn.Module):
    def __init__(self, config: Tacotron2Config) -> None:
        super().__init__()
        memory_dim = config.encoder_embedding_dim
        self.config = config
        self.prenet = Prenet(config)
        self.attention_rnn = nn.LSTMCell(config.prenet_dim + memory_dim, config.attention_rnn_dim)
        self.attention_layer = Attention(config)
        self.decoder_rnn = nn.LSTMCell(config.attention_rnn_dim + memory_dim, config.decoder_rnn_dim)
        self.linear_projection = LinearNorm(config.decoder_rnn_dim + memory_dim, config.n_mel_channels)
        self.gate_layer = LinearNorm(config.decoder_rnn_dim + memory_dim, 1)


class Postnet(nn.Module):
    def __init__(self, config: Tacotron2Config) -> None:
        super().__init__()
        hidden = [config.postnet_embedding_dim] * (config.postnet_n_convolutions - 1)
        channels = [config.n_mel_channels, *hidden, config.n_mel_channels]
        self.convolutions = nn.ModuleList(
            _conv_batchnorm(channels[i], channels[i + 1], config.postnet_kernel_size)
            for i in range(config.postnet_n_convolutions)
        )

    def forward(self, mel: Tensor) -> Tensor:
        # (1, n_mel_channels, M) -> the correction to be added, same shape
        for convolution in self.convolutions[:-1]:
            mel = torch.tanh(convolution(mel))
        return self.convolutions[-1](mel)


class Spoken(NamedTuple):
    mel: Tensor  # (B, n_mel_channels, M), after the postnet
    mel_before: Tensor  # (B, n_mel_channels, M), as the decoder gave it
    alignment: Tensor  # (B, M, T)
    lengths: Tensor  # int32 (B,), frames of each item


class Tacotron2(nn.Module):
    def __init__(self, config: Tacotron2Config) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.n_symbols, config.symbols_embedding_dim)
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.postnet = Postnet(config)

    @torch.inference_mode()
    def infer(self, sequence: Tensor, dropout: Tensor, max_steps: int, gate_threshold: float) -> Spoken:
        """Speaks utterances of equal length in the plainest way: the reference that the exported parts are compared
        with, and the classic's loop (growing concatenation, a host check each step) that benchmarks start from.

        Args:
            sequence: symbol ids, integer (B, T).
            dropout: prenet dropout masks, (max_steps, B, 2, prenet_dim), values 0 or 2, in the model's dtype.
            max_steps: the cap on mel frames.
            gate_threshold: the probability of the stop gate above which the utterance ends.
        """
        config, decoder = self.config, self.decoder
        memory = self.encoder(self.embedding(sequence).transpose(1, 2))
        processed_memory = decoder.attention_layer.memory_layer(memory)
        batch = sequence.size(0)
        frame = memory.new_zeros(batch, config.n_mel_channels)
        attention_state = (memory.new_zeros(batch, config.attention_rnn_dim),) * 2
        decoder_state = (memory.new_zeros(batch, config.decoder_rnn_dim),) * 2
        context = memory.new_zeros(batch, config.encoder_embedding_dim)
        weights = weights_sum = memory.new_zeros(memory.shape[:2])
        mel = memory.new_zeros(batch, config.n_mel_channels, 0)
        alignment = memory.new_zeros(batch, 0, memory.size(1))
        unfinished = torch.ones(batch, dtype=torch.int32, device=memory.device)
        lengths = torch.zeros_like(unfinished)
        for step in range(max_steps):
            prenet = decoder.prenet(frame, dropout[step])
            attention_state = decoder.attention_rnn(torch.cat((prenet, context), 1), attention_state)
            history = torch.stack((weights, weights_sum), 1)
            context, weights = decoder.attention_layer(attention_state[0], memory, processed_memory, history)
            weights_sum = weights_sum + weights
            decoder_state = decoder.decoder_rnn(torch.cat((attention_state[0], context), 1), decoder_state)
            features = torch.cat((decoder_state[0], context), 1)
            frame = decoder.linear_projection(features)
            mel = torch.cat((mel, frame.unsqueeze(2)), 2)
            alignment = torch.cat((alignment, weights.unsqueeze(1)), 1)
            lengths += unfinished
            unfinished *= (torch.sigmoid(decoder.gate_layer(features)) <= gate_threshold).squeeze(1)
            if unfinished.sum() == 0:
                break
        return Spoken(mel + self.postnet(mel), mel, alignment, lengths)
