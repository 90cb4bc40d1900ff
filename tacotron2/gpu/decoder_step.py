"""The launches of one decoder step: seven Triton kernels, their weights and tile sizes."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from common.config import Tacotron2Config
from common.metadata import ModelMetadata
from common.triton_engine import Launch, overlapping, power_of_2
from tacotron2.parts import DecoderIterPart, MergedLSTMCell


@dataclass(frozen=True)
class Tuning:
    """How the kernels are cut. `overlap` needs compute capability 9.0.

    The LSTMs' weights pass through shared memory, `step` columns at a time, `stages` steps at once. Where kernels
    overlap, the amount matters. A program that takes at most a third of a multiprocessor's shared memory lets programs
    crowd on the multiprocessors that come free first. A program that takes all of it keeps out the small kernels that
    should start beside it; with `items` those need more.
    """

    overlap: bool
    units: int  # of an LSTM in one program
    warps: int  # of an LSTM's program
    matrix: bool = True  # whether LSTMs use the matrix units; without, for a batch of one only
    step: int = 128
    stages: int = 3
    query_rows: int = 4
    prenet_rows: int = 16
    projection_rows: int = 4
    text_tile: int = 16
    context_columns: int = 32
    items: int = 1  # of the batch in a program of prenet, query and projection; with 16 and more, on the matrix units


def default_tuning(device: torch.device, batch: int) -> Tuning:
    return tuning_for(torch.cuda.get_device_capability(device), batch)


def tuning_for(capability: tuple[int, int], batch: int) -> Tuning:
    """On Hopper the fastest; elsewhere one that needs no newer hardware and little shared memory."""
    overlap = capability[0] == 9
    if batch == 1:
        return Tuning(overlap, units=2, warps=2, matrix=False, projection_rows=8)
    if not overlap:
        return Tuning(overlap, units=4, warps=2)
    if batch <= 16:
        return Tuning(overlap, units=4, warps=2, step=256, stages=6, prenet_rows=32)
    wide = Tuning(overlap, units=8, warps=4, step=256, stages=6, query_rows=16, prenet_rows=64, projection_rows=16)
    if batch <= 32:
        return wide
    return replace(wide, step=128, stages=6 if batch <= 64 else 4, prenet_rows=32, items=16)


class FusedStep:
    """The weights in the kernels' layouts, on the module's device, and the launches of a step."""

    def __init__(self, module: DecoderIterPart, metadata: ModelMetadata) -> None:
        from tacotron2.gpu import decoder_kernels  # needs Triton

        assert isinstance(metadata.model, Tacotron2Config)
        self._kernels = decoder_kernels
        config = self.config = metadata.model
        self._module = module
        self._packed: dict[int, tuple[_PackedLSTM, _PackedLSTM]] = {}
        self.prenet = [weight.detach().half() for weight in module.prenet.parameters()]
        self.query = module.query_layer.weight.detach().half()
        taps = config.attention_location_kernel_size
        location = module.location.weight.detach().permute(1, 2, 0).reshape(2 * taps, config.attention_dim)
        self.location = torch.nn.functional.pad(location.half(), (0, 0, 0, power_of_2(2 * taps) - 2 * taps))
        self.v = module.v.weight.detach().float().flatten()
        self.projection = module.projection.weight.detach().half()
        self.projection_bias = module.projection.bias.detach().float()

    def launches(self, tensors: Mapping[str, Tensor], tuning: Tuning) -> list[Launch]:
        """The kernels of a step on these tensors (see `common.engine.Engine.bind`), in order."""
        batch, text = tensors["mask"].shape
        # Values between the kernels of one step
        prenet = self.query.new_empty(batch, self.config.prenet_dim)
        query = self.v.new_empty(batch, self.config.attention_dim)
        energies = self.v.new_empty(batch, text)
        attention_weights, decoder_weights = self._lstms(tuning.units)
        context, attention_hidden = tensors["out_attention_context"], tensors["out_attention_hidden"]
        return [
            self._prenet(tensors, prenet, tuning),
            self._lstm(tensors, "attention", tensors["attention_context"], prenet, attention_weights, tuning),
            self._query(tensors, query, tuning),
            self._energies(tensors, query, energies, tuning),
            self._context(tensors, energies, tuning),
            self._lstm(tensors, "decoder", attention_hidden, context, decoder_weights, tuning),
            self._projection(tensors, tuning),
        ]

    def _prenet(self, tensors: Mapping[str, Tensor], out: Tensor, tuning: Tuning) -> Launch:
        mels, dim = self.config.n_mel_channels, self.config.prenet_dim
        rows = min(tuning.prenet_rows, dim)
        return _by_items(
            (self._kernels.prenet_kernel, self._kernels.prenet_matrix_kernel),
            dim // rows,
            len(out),
            (tensors["decoder_input"], tensors["prenet_dropout"], *self.prenet, out),
            {"MELS": mels, "MELS_PADDED": power_of_2(mels), "DIM": dim, "ROWS": rows, "num_warps": 8},
            tuning,
        )

    def _lstm(
        self,
        tensors: Mapping[str, Tensor],
        name: str,
        early: Tensor,
        late: Tensor,
        packed: "_PackedLSTM",
        tuning: Tuning,
    ) -> Launch:
        # The LSTM `name`: `early` is known before the previous kernel has finished, `late` is its result.
        weights, bias = packed
        hidden, old_cell = tensors[f"{name}_hidden"], tensors[f"{name}_cell"]
        batch, size = hidden.shape
        new_state = tensors[f"out_{name}_hidden"], tensors[f"out_{name}_cell"]
        arguments = (early, hidden, late, weights, bias, old_cell, *new_state)
        constants: dict[str, Any] = dict(
            N_EARLY=early.size(1),
            N_LATE=late.size(1),
            HIDDEN=size,
            UNITS=tuning.units,
            GUARD=name == "decoder" and not tuning.matrix,
            num_warps=tuning.warps,
            **overlapping(tuning.overlap),
        )
        if not tuning.matrix:
            return Launch(self._kernels.lstm_vector_kernel, (len(weights),), arguments, constants)
        constants.update(
            ITEMS=max(16, power_of_2(batch)),
            STEP=min(tuning.step, early.size(1), late.size(1), size),
            num_stages=tuning.stages,
        )
        return Launch(self._kernels.lstm_matrix_kernel, (len(weights),), (*arguments, batch), constants)

    def _query(self, tensors: Mapping[str, Tensor], out: Tensor, tuning: Tuning) -> Launch:
        hidden, dim = self.config.attention_rnn_dim, self.config.attention_dim
        rows = min(tuning.query_rows, dim)
        return _by_items(
            (self._kernels.query_kernel, self._kernels.query_matrix_kernel),
            dim // rows,
            len(out),
            (tensors["out_attention_hidden"], self.query, out),
            {"HIDDEN": hidden, "DIM": dim, "ROWS": rows, "num_warps": 4},
            tuning,
        )

    def _energies(self, tensors: Mapping[str, Tensor], query: Tensor, out: Tensor, tuning: Tuning) -> Launch:
        batch, text = out.shape
        history = tensors["attention_weights"], tensors["attention_weights_cum"]
        mask = tensors["mask"].view(torch.uint8)
        return Launch(
            self._kernels.energies_kernel,
            (-(-text // tuning.text_tile), batch),
            (*history, tensors["processed_memory"], mask, query, self.location, self.v, out, text),
            dict(
                DIM=self.config.attention_dim,
                TAPS=self.config.attention_location_kernel_size,
                PATCH=self.location.size(0),
                TILE=tuning.text_tile,
                num_warps=4,
                **overlapping(tuning.overlap),
            ),
        )

    def _context(self, tensors: Mapping[str, Tensor], energies: Tensor, tuning: Tuning) -> Launch:
        batch, text = energies.shape
        dim = self.config.encoder_embedding_dim
        columns, padded = min(tuning.context_columns, dim), max(32, power_of_2(text))
        results = [tensors[f"out_attention_{name}"] for name in ("context", "weights", "weights_cum")]
        return Launch(
            self._kernels.context_kernel,
            (dim // columns, batch),
            (energies, tensors["attention_weights_cum"], tensors["memory"], *results, text),
            dict(
                DIM=dim, COLUMNS=columns, TEXT=padded, TILE=min(128, padded), num_warps=4, **overlapping(tuning.overlap)
            ),
        )

    def _projection(self, tensors: Mapping[str, Tensor], tuning: Tuning) -> Launch:
        config, rows = self.config, tuning.projection_rows
        frame, gate = tensors["decoder_output"], tensors["gate_prediction"]
        return _by_items(
            (self._kernels.projection_kernel, self._kernels.projection_matrix_kernel),
            -(-(config.n_mel_channels + 1) // rows),
            len(frame),
            (
                tensors["out_decoder_hidden"],
                tensors["out_attention_context"],
                self.projection,
                self.projection_bias,
                frame,
                gate,
            ),
            {
                "MELS": config.n_mel_channels,
                "HIDDEN": config.decoder_rnn_dim,
                "CONTEXT": config.encoder_embedding_dim,
                "ROWS": rows,
                "num_warps": 4,
                "GUARD": tuning.matrix,
            },
            tuning,
        )

    def _lstms(self, units: int) -> "tuple[_PackedLSTM, _PackedLSTM]":
        # Both LSTMs' weights for programs of so many units. Their columns are in the order in which the inputs become
        # known: the previous kernel's result comes last.
        if units not in self._packed:
            config, module = self.config, self._module
            prenet, context = config.prenet_dim, config.encoder_embedding_dim
            self._packed[units] = (
                _pack_lstm(module.attention_rnn, [prenet, context, config.attention_rnn_dim], [1, 2, 0], units),
                _pack_lstm(
                    module.decoder_rnn, [config.attention_rnn_dim, context, config.decoder_rnn_dim], [0, 2, 1], units
                ),
            )
        return self._packed[units]


def _by_items(
    kernels: tuple[Any, Any],
    parts: int,
    batch: int,
    arguments: tuple[Any, ...],
    constants: dict[str, Any],
    tuning: Tuning,
) -> Launch:
    """A launch of one of two kernels: programs of the first take one item of the batch, those of the second several."""
    constants = {**constants, **overlapping(tuning.overlap)}
    if tuning.items == 1:
        return Launch(kernels[0], (parts, batch), arguments, constants)
    grid = parts, -(-batch // tuning.items)
    return Launch(kernels[1], grid, (*arguments, batch), {**constants, "ITEMS": tuning.items})


_PackedLSTM = tuple[Tensor, Tensor]  # weights FP16 (programs, 4 * units, columns), bias FP32 (programs, 4 * units)


def _pack_lstm(cell: MergedLSTMCell, widths: list[int], order: list[int], units: int) -> _PackedLSTM:
    # widths: columns of each input, the hidden state last. order: of the inputs in the result.
    weight, bias = cell.gates.weight.detach(), cell.gates.bias.detach()
    inputs = weight.split(widths, 1)
    weight = torch.cat([inputs[i] for i in order], 1)
    rows = torch.arange(weight.size(0), device=weight.device).view(4, -1, units).transpose(0, 1).flatten()
    return weight[rows].half().view(-1, 4 * units, weight.size(1)), bias[rows].float().view(-1, 4 * units)
