"""The three parts of Tacotron 2 that run as engines: encoder, one decoder step, postnet.

Each is built from a `Tacotron2` with its constants folded in FP32 (batch norm into the convolutions, the two
matrix products of an LSTM cell into one, the location layer's convolution and projection into one), and takes and gives
the named tensors of `common.contract`. The exporter traces them and the PyTorch engine runs them.
No part draws random numbers: dropout masks come in as an input, so that every backend computes the same.
"""

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.checkpoint import LoadedModel, NoRandomWeights
from common.contract import PRECISION_DTYPES
from common.metadata import ModelMetadata, Part, Precision
from tacotron2 import model

Parts = dict[Part, tuple[nn.Module, ModelMetadata]]


def tacotron2_parts(loaded: LoadedModel[model.Tacotron2], precision: Precision) -> Parts:
    """The three parts in the given precision, on the CPU, independent of the model they come from, with metadata.

    Constants are folded in FP32 and only then rounded to FP16.
    """
    tacotron2 = copy.deepcopy(loaded.model)
    with NoRandomWeights():
        modules: dict[Part, nn.Module] = {
            "encoder": EncoderPart(tacotron2),
            "decoder_iter": DecoderIterPart(tacotron2),
            "postnet": PostnetPart(tacotron2),
        }
    of_checkpoint = (loaded.config, loaded.audio, loaded.sha256)
    return {
        part: (
            module.eval().requires_grad_(False).to(PRECISION_DTYPES[precision]),
            ModelMetadata(part, precision, *of_checkpoint, voice=loaded.voice, arpabet=loaded.arpabet),
        )
        for part, module in modules.items()
    }


class EncoderPart(nn.Module):
    """Symbols to memory, for a batch of different lengths in which padding changes nothing.

    Padding is set to zero before and after each convolution, and the backward LSTM reads each sequence reversed
    within its own length, so that an utterance gives the same memory alone and in a batch.
    """

    def __init__(self, tacotron2: model.Tacotron2) -> None:
        super().__init__()
        encoder = tacotron2.encoder
        self.embedding = tacotron2.embedding
        self.convolutions = nn.ModuleList(fold_batchnorm(block) for block in encoder.convolutions)
        self.forward_lstm = _one_direction(encoder.lstm, "")
        self.backward_lstm = _one_direction(encoder.lstm, "_reverse")
        self.memory_layer = tacotron2.decoder.attention_layer.memory_layer.linear_layer

    def forward(self, sequences: Tensor, sequence_lengths: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        # sequences: int32 (B, T); sequence_lengths: int32 (B,)
        # -> memory (B, T, encoder_embedding_dim), processed_memory (B, T, attention_dim), lens int32 (B,)
        position = torch.arange(sequences.size(1), dtype=torch.int32, device=sequences.device).unsqueeze(0)
        lengths = sequence_lengths.unsqueeze(1)
        valid = position < lengths  # (B, T)
        x = self.embedding(sequences).transpose(1, 2)
        keep = valid.unsqueeze(1).to(x.dtype)  # (B, 1, T)
        for convolution in self.convolutions:
            x = F.relu(convolution(x * keep))
        x = (x * keep).transpose(1, 2)  # (B, T, E)
        mirrored = torch.where(valid, lengths - 1 - position, position).to(torch.int64)  # its own inverse
        memory = self.both_directions(x, mirrored, sequence_lengths) * valid.unsqueeze(2).to(x.dtype)
        return memory, self.memory_layer(memory), sequence_lengths.clone()

    def both_directions(
        self,
        x: Tensor,  # (B, T, E), zero where padding
        mirrored: Tensor,  # int64 (B, T): each sequence's positions from its end on
        sequence_lengths: Tensor,  # int32 (B,), for GPU kernels that stop there
    ) -> Tensor:  # (B, T, encoder_embedding_dim), finite but of no meaning where padding
        forward, _ = self.forward_lstm(x)
        backward, _ = self.backward_lstm(_take_time(x, mirrored, self.backward_lstm.input_size))
        return torch.cat((forward, _take_time(backward, mirrored, self.backward_lstm.hidden_size)), 2)


class DecoderIterPart(nn.Module):
    """One step of the decoder: the previous frame and the state to the next frame, its gate and the new state."""

    def __init__(self, tacotron2: model.Tacotron2) -> None:
        super().__init__()
        decoder = tacotron2.decoder
        attention = decoder.attention_layer
        self.prenet = decoder.prenet
        self.attention_rnn = MergedLSTMCell(decoder.attention_rnn)
        self.query_layer = attention.query_layer.linear_layer
        self.location = _fold_location(attention.location_layer)
        self.v = attention.v.linear_layer
        self.decoder_rnn = MergedLSTMCell(decoder.decoder_rnn)
        self.projection = _stack_linear(decoder.linear_projection.linear_layer, decoder.gate_layer.linear_layer)
        self.n_mel_channels = decoder.config.n_mel_channels

    def forward(
        self,
        decoder_input: Tensor,  # (B, n_mel_channels)
        attention_hidden: Tensor,  # (B, attention_rnn_dim)
        attention_cell: Tensor,
        decoder_hidden: Tensor,  # (B, decoder_rnn_dim)
        decoder_cell: Tensor,
        attention_weights: Tensor,  # (B, T)
        attention_weights_cum: Tensor,
        attention_context: Tensor,  # (B, encoder_embedding_dim)
        memory: Tensor,  # (B, T, encoder_embedding_dim)
        processed_memory: Tensor,  # (B, T, attention_dim)
        mask: Tensor,  # bool (B, T), true where padding
        prenet_dropout: Tensor,  # (B, 2, prenet_dim), values 0 or 2
    ) -> tuple[Tensor, ...]:
        prenet = self.prenet(decoder_input, prenet_dropout)
        attention_hidden, attention_cell = self.attention_rnn(
            torch.cat((prenet, attention_context, attention_hidden), 1), attention_cell
        )
        history = torch.stack((attention_weights, attention_weights_cum), 1)  # (B, 2, T)
        location = self.location(history).transpose(1, 2)  # (B, T, attention_dim)
        query = self.query_layer(attention_hidden).unsqueeze(1)
        energies = self.v(torch.tanh(query + location + processed_memory)).squeeze(2)  # (B, T)
        attention_weights = F.softmax(energies.masked_fill(mask, float("-inf")), dim=1)
        attention_weights_cum = attention_weights_cum + attention_weights
        attention_context = torch.bmm(attention_weights.unsqueeze(1), memory).squeeze(1)
        decoder_hidden, decoder_cell = self.decoder_rnn(
            torch.cat((attention_hidden, attention_context, decoder_hidden), 1), decoder_cell
        )
        projected = self.projection(torch.cat((decoder_hidden, attention_context), 1))
        decoder_output, gate_prediction = projected.split([self.n_mel_channels, 1], dim=1)
        return (
            decoder_output,
            gate_prediction,
            attention_hidden,
            attention_cell,
            decoder_hidden,
            decoder_cell,
            attention_weights,
            attention_weights_cum,
            attention_context,
        )


class PostnetPart(nn.Module):
    """Refines the decoder's mel; the residual is already added."""

    def __init__(self, tacotron2: model.Tacotron2) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(fold_batchnorm(block) for block in tacotron2.postnet.convolutions)

    def forward(self, mel_outputs: Tensor) -> Tensor:
        # (B, n_mel_channels, M) -> same shape
        x = mel_outputs
        for convolution in self.convolutions[:-1]:
            x = torch.tanh(convolution(x))
        return mel_outputs + self.convolutions[-1](x)


class MergedLSTMCell(nn.Module):
    """An LSTM cell as one matrix product over [input, hidden]: half the kernels of `nn.LSTMCell`, same result."""

    def __init__(self, cell: nn.LSTMCell) -> None:
        super().__init__()
        self.gates = _linear(torch.cat((cell.weight_ih, cell.weight_hh), 1), cell.bias_ih + cell.bias_hh)

    def forward(self, input_and_hidden: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
        # (B, input + hidden), (B, hidden) -> hidden and cell, both (B, hidden)
        i, f, g, o = self.gates(input_and_hidden).chunk(4, dim=1)
        cell = torch.sigmoid(f) * cell + torch.sigmoid(i) * torch.tanh(g)
        return torch.sigmoid(o) * torch.tanh(cell), cell


def fold_batchnorm(block: Any) -> nn.Conv1d:
    """A `Sequential` of a convolution and its batch norm (evaluation statistics) as one convolution."""
    conv: nn.Conv1d = block[0].conv
    norm: nn.BatchNorm1d = block[1]
    assert norm.running_mean is not None
    assert norm.running_var is not None
    assert conv.bias is not None
    scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
    folded = nn.Conv1d(conv.in_channels, conv.out_channels, conv.kernel_size[0], padding=conv.padding[0])
    folded.weight = nn.Parameter(conv.weight * scale[:, None, None])
    folded.bias = nn.Parameter((conv.bias - norm.running_mean) * scale + norm.bias)
    return folded


def _take_time(x: Tensor, index: Tensor, width: int) -> Tensor:
    # x: (B, T, width); index: (B, T) -> x[b, index[b, t]]. The width is a constant of the exported graph.
    return torch.gather(x, 1, index.unsqueeze(2).expand(-1, -1, width))


def _one_direction(lstm: nn.LSTM, suffix: str) -> nn.LSTM:
    single = nn.LSTM(lstm.input_size, lstm.hidden_size, batch_first=True)
    for name in ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"):
        setattr(single, name, nn.Parameter(getattr(lstm, name + suffix).detach().clone()))
    return single


def _linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    layer = nn.Linear(weight.size(1), weight.size(0))
    layer.weight, layer.bias = nn.Parameter(weight.detach()), nn.Parameter(bias.detach())
    return layer


def _stack_linear(*layers: nn.Linear) -> nn.Linear:
    return _linear(torch.cat([layer.weight for layer in layers]), torch.cat([layer.bias for layer in layers]))


def _fold_location(layer: model.LocationLayer) -> nn.Conv1d:
    conv, dense = layer.location_conv.conv, layer.location_dense.linear_layer
    folded = nn.Conv1d(2, dense.out_features, conv.kernel_size[0], padding=conv.padding[0], bias=False)
    folded.weight = nn.Parameter(torch.einsum("af,fik->aik", dense.weight, conv.weight).detach())
    return folded
