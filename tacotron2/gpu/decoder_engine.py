"""The decoder step on an NVIDIA GPU in FP16, as seven Triton kernels that overlap one another; for one utterance on a
Hopper GPU, many steps as one kernel.

They compute the function of `tacotron2.parts.DecoderIterPart` with FP16 weights and tensors and FP32 sums between them.
The seven kernels, and why they may overlap, are in `tacotron2.gpu.decoder_kernels`, the one in
`tacotron2.hopper.persistent_decoder`. Launched one by one the seven are no faster than PyTorch; their speed shows in a
CUDA graph (`tacotron2.decoder_graph`).
"""

import functools
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from common.config import Tacotron2Config
from common.cuda import on_device
from common.engine import TorchEngine, check_bound
from common.graph_engine import GraphEngine
from common.metadata import ModelMetadata
from common.triton_engine import Launch, TritonEngine, overlapping, power_of_2
from tacotron2.hopper.persistent_decoder import MAX_STEPS, MAX_TEXT, PersistentDecoder
from tacotron2.parts import DecoderIterPart, EncoderPart, MergedLSTMCell

MAX_TAGGED_STEPS = 32767  # the encoder's LSTM numbers its steps in 16 bits
LARGEST_BATCH = 128  # beyond it, and beyond LONGEST_TEXT, the plain module runs
LONGEST_TEXT = 1024

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Tuning:
    """How the kernels are cut. `overlap` needs compute capability 9.0.

    The LSTMs' weights pass through shared memory, `step` columns at a time, `stages` of them at once. Where kernels
    overlap, a program has to need more than a third of it, or programs crowd on the multiprocessors that come free
    first; and it must leave some for the small kernels that it starts beside, which with `items` need more.
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
    items: int = 1  # of the batch in a program of prenet, query and projection; from 16 on on the matrix units


def default_tuning(device: torch.device, batch: int) -> Tuning:
    return tuning_for(torch.cuda.get_device_capability(device), batch)


def tuning_for(capability: tuple[int, int], batch: int) -> Tuning:
    """What was fastest on an H100 and an H200; elsewhere what needs no new hardware and 40 KB of shared memory."""
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


class FusedEncoderEngine(TritonEngine):
    """The `encoder` part with both LSTMs as one kernel, in CUDA graphs by size: an engine as in `common.engine`.

    A batch whose programs would not all run at once (from 5 on, on an H100) runs on cuDNN, which is faster there.

    Args:
        module: the part, in FP16.
        metadata: its metadata.
    """

    def __init__(self, module: EncoderPart, metadata: ModelMetadata, device: torch.device | str = "cuda") -> None:
        super().__init__(metadata, device)
        self._graphs = GraphEngine(TorchEngine(FusedEncoder(module), metadata, self.device))

    @staticmethod
    def model_obstacle(metadata: ModelMetadata) -> str | None:
        config = metadata.model
        if not isinstance(config, Tacotron2Config) or metadata.part != "encoder":
            return f"it runs Tacotron 2's encoder only, not the {metadata.part}"
        size = config.encoder_embedding_dim // 2
        if size & (size - 1) or not 32 <= size <= 512:
            return f"LSTMs of {size} units; it takes powers of two from 32 to 512"
        return None

    def bind(self, tensors: Mapping[str, Tensor]) -> Callable[[], None]:
        return self._graphs.bind(tensors)

    def close(self) -> None:
        self._graphs.close()


class FusedEncoder(EncoderPart):
    """An `EncoderPart` whose LSTMs run as one kernel, where its programs fit on the GPU at once.

    Args:
        part: in FP16; its modules are shared.
        units: how many of an LSTM's units a program computes.
    """

    recurrent: Tensor  # (2, programs, 4 * units, size): the gates' rows of each program's units, for both directions
    of_inputs: Tensor  # (2 * 4 * size, E)
    bias: Tensor  # (2 * 4 * size)

    def __init__(self, part: EncoderPart, units: int = 16) -> None:
        nn.Module.__init__(self)
        for name, module in part.named_children():
            setattr(self, name, module)
        size = part.forward_lstm.hidden_size
        self.units = min(units, size)
        # nn.LSTM's parameters: of the inputs, of the hidden state, and a bias for each
        directions: list[list[Tensor]] = [list(lstm.parameters()) for lstm in (part.forward_lstm, part.backward_lstm)]
        order = torch.arange(4 * size).view(4, -1, self.units).transpose(0, 1).flatten()  # by program
        recurrent = torch.stack([direction[1][order] for direction in directions])
        self.register_buffer("recurrent", recurrent.view(2, -1, 4 * self.units, size))
        self.register_buffer("of_inputs", torch.cat([direction[0] for direction in directions]))
        self.register_buffer("bias", torch.cat([direction[2] + direction[3] for direction in directions]))

    def launch(self, x: Tensor, sequence_lengths: Tensor, out: Tensor) -> Launch:
        """The kernel on x (B, T, E); `out` (B, T, encoder_embedding_dim) is written where there is no padding."""
        from tacotron2.gpu.decoder_kernels import encoder_lstm_kernel

        batch, text, _ = x.shape
        _, programs, _, size = self.recurrent.shape
        inputs = nn.functional.linear(x, self.of_inputs, self.bias)  # (B, T, 2 * 4 * size)
        exchange = torch.zeros(batch, 2, 2, size, dtype=torch.int32, device=x.device)
        return Launch(
            encoder_lstm_kernel,
            (programs, 2, batch),
            (inputs, self.recurrent, sequence_lengths, exchange, out, text),
            {"HIDDEN": size, "UNITS": self.units, "num_warps": 8, "launch_cooperative_grid": True},
        )

    def both_directions(self, x: Tensor, mirrored: Tensor, sequence_lengths: Tensor) -> Tensor:
        programs = 2 * x.size(0) * self.recurrent.size(1)
        if programs > torch.cuda.get_device_properties(x.device).multi_processor_count or x.size(1) > MAX_TAGGED_STEPS:
            return super().both_directions(x, mirrored, sequence_lengths)
        out = x.new_zeros(x.size(0), x.size(1), 2 * self.recurrent.size(3))
        self.launch(x, sequence_lengths, out)()
        return out


class FusedDecoderEngine(TritonEngine):
    """The `decoder_iter` part through fused kernels: an engine as in `common.engine`.

    A bound run may be captured into a CUDA graph once it has run outside of a capture. Beyond a batch of LARGEST_BATCH
    or LONGEST_TEXT symbols it runs the plain module. For a batch of one it may run many steps as one kernel.

    Args:
        module: the part, in FP16.
        metadata: its metadata.
        tuning: how the kernels are cut; by default `default_tuning` for each batch size.
        persistent: whether many steps may be one kernel.
    """

    free_bindings = True  # a bound run owns nothing but a little scratch memory

    def __init__(
        self,
        module: DecoderIterPart,
        metadata: ModelMetadata,
        device: torch.device | str = "cuda",
        tuning: Tuning | None = None,
        persistent: bool = True,
    ) -> None:
        super().__init__(metadata, device)
        self._plain = TorchEngine(module, metadata, self.device)
        self._step = FusedStep(module, metadata)
        self._module = module
        self._tuning = tuning
        self._may_persist = persistent

    @staticmethod
    def model_obstacle(metadata: ModelMetadata) -> str | None:
        config = metadata.model
        if not isinstance(config, Tacotron2Config) or metadata.part != "decoder_iter":
            return f"it runs Tacotron 2's decoder step only, not the {metadata.part}"
        for name in ("prenet_dim", "encoder_embedding_dim", "attention_rnn_dim", "decoder_rnn_dim", "attention_dim"):
            size = getattr(config, name)
            if size & (size - 1) or not 32 <= size <= 2048:
                return f"{name} is {size}; it takes powers of two from 32 to 2048"
        return None

    def bind(self, tensors: Mapping[str, Tensor]) -> Callable[[], None]:
        check_bound(self, tensors)
        batch, text = tensors["mask"].shape
        if batch > LARGEST_BATCH or text > LONGEST_TEXT:
            return self._plain.bind(tensors)
        launches = self._step.launches(tensors, self._tuning or default_tuning(self.device, batch))
        # What comes before a step that isn't captured is unknown: it has to be finished.
        first_alone = launches[0].alone()

        def run() -> None:
            with on_device(self.device):
                first = launches[0] if torch.cuda.is_current_stream_capturing() else first_alone
                for launch in (first, *launches[1:]):
                    launch()

        return run

    @functools.cached_property
    def _persistent(self) -> PersistentDecoder | None:
        assert isinstance(self.metadata.model, Tacotron2Config)
        reason = PersistentDecoder.obstacle(self.metadata.model, self.device)
        try:
            if reason is None:
                return PersistentDecoder(self._module)
        except (RuntimeError, ImportError) as error:
            reason = str(error)
        _log.info("%s: one kernel for many steps can't run here: %s", self.name, reason)
        return None

    def steps_at_once(self, batch: int, text: int) -> int:
        """How many steps `run_steps` best runs as one kernel for such a batch; 0 where it can't."""
        fits = batch == 1 and text <= MAX_TEXT and self._may_persist
        return MAX_STEPS if fits and self._persistent is not None else 0

    def run_steps(self, tensors: Mapping[str, Tensor]) -> None:
        """Enqueues many steps as one kernel; see `PersistentDecoder.run`."""
        assert self._persistent is not None
        self._persistent.run(tensors)

    def close(self) -> None:
        self._plain.close()
        for name in ("_step", "_module", "_persistent"):  # gone already where it is closed again
            vars(self).pop(name, None)


@dataclass(frozen=True)
class _Scratch:
    """What the kernels of one step hand to one another."""

    prenet: Tensor  # FP16 (B, prenet_dim)
    query: Tensor  # FP32 (B, attention_dim)
    energies: Tensor  # FP32 (B, T)

    @classmethod
    def empty(cls, config: Tacotron2Config, batch: int, text: int, device: torch.device) -> "_Scratch":
        return cls(
            torch.empty(batch, config.prenet_dim, dtype=torch.float16, device=device),
            torch.empty(batch, config.attention_dim, dtype=torch.float32, device=device),
            torch.empty(batch, text, dtype=torch.float32, device=device),
        )


class FusedStep:
    """The weights as the kernels want them, on the module's device, and the launches of a step."""

    def __init__(self, module: DecoderIterPart, metadata: ModelMetadata) -> None:
        assert isinstance(metadata.model, Tacotron2Config)
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
        scratch = _Scratch.empty(self.config, batch, text, self.query.device)
        attention_weights, decoder_weights = self._lstms(tuning.units)
        context, attention_hidden = tensors["out_attention_context"], tensors["out_attention_hidden"]
        return [
            self._prenet(tensors, scratch, tuning),
            _lstm(tensors, "attention", tensors["attention_context"], scratch.prenet, attention_weights, tuning),
            self._query(tensors, scratch, tuning),
            self._energies(tensors, scratch, tuning),
            self._context(tensors, scratch, tuning),
            _lstm(tensors, "decoder", attention_hidden, context, decoder_weights, tuning),
            self._projection(tensors, tuning),
        ]

    def _prenet(self, tensors: Mapping[str, Tensor], scratch: "_Scratch", tuning: Tuning) -> Launch:
        from tacotron2.gpu.decoder_kernels import prenet_kernel, prenet_matrix_kernel

        mels, dim = self.config.n_mel_channels, self.config.prenet_dim
        rows = min(tuning.prenet_rows, dim)
        return _by_items(
            (prenet_kernel, prenet_matrix_kernel),
            dim // rows,
            len(scratch.prenet),
            (tensors["decoder_input"], tensors["prenet_dropout"], *self.prenet, scratch.prenet),
            {"MELS": mels, "MELS_PADDED": power_of_2(mels), "DIM": dim, "ROWS": rows, "num_warps": 8},
            tuning,
        )

    def _query(self, tensors: Mapping[str, Tensor], scratch: "_Scratch", tuning: Tuning) -> Launch:
        from tacotron2.gpu.decoder_kernels import query_kernel, query_matrix_kernel

        hidden, dim = self.config.attention_rnn_dim, self.config.attention_dim
        rows = min(tuning.query_rows, dim)
        return _by_items(
            (query_kernel, query_matrix_kernel),
            dim // rows,
            len(scratch.query),
            (tensors["out_attention_hidden"], self.query, scratch.query),
            {"HIDDEN": hidden, "DIM": dim, "ROWS": rows, "num_warps": 4},
            tuning,
        )

    def _energies(self, tensors: Mapping[str, Tensor], scratch: "_Scratch", tuning: Tuning) -> Launch:
        from tacotron2.gpu.decoder_kernels import energies_kernel

        batch, text = scratch.energies.shape
        history = tensors["attention_weights"], tensors["attention_weights_cum"]
        mask = tensors["mask"].view(torch.uint8)
        return Launch(
            energies_kernel,
            (-(-text // tuning.text_tile), batch),
            (*history, tensors["processed_memory"], mask, scratch.query, self.location, self.v, scratch.energies, text),
            dict(
                DIM=self.config.attention_dim,
                TAPS=self.config.attention_location_kernel_size,
                PATCH=self.location.size(0),
                TILE=tuning.text_tile,
                num_warps=4,
                **overlapping(tuning.overlap),
            ),
        )

    def _context(self, tensors: Mapping[str, Tensor], scratch: "_Scratch", tuning: Tuning) -> Launch:
        from tacotron2.gpu.decoder_kernels import context_kernel

        batch, text = scratch.energies.shape
        dim = self.config.encoder_embedding_dim
        columns, padded = min(tuning.context_columns, dim), max(32, power_of_2(text))
        results = [tensors[f"out_attention_{name}"] for name in ("context", "weights", "weights_cum")]
        return Launch(
            context_kernel,
            (dim // columns, batch),
            (scratch.energies, tensors["attention_weights_cum"], tensors["memory"], *results, text),
            dict(
                DIM=dim,
                COLUMNS=columns,
                TEXT=padded,
                TILE=min(128, padded),
                num_warps=4,
                **overlapping(tuning.overlap),
            ),
        )

    def _projection(self, tensors: Mapping[str, Tensor], tuning: Tuning) -> Launch:
        from tacotron2.gpu.decoder_kernels import projection_kernel, projection_matrix_kernel

        config, rows = self.config, tuning.projection_rows
        frame, gate = tensors["decoder_output"], tensors["gate_prediction"]
        return _by_items(
            (projection_kernel, projection_matrix_kernel),
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
        # Both LSTMs' weights for programs of so many units, with their columns in the order in which their inputs are
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
    """The first of two kernels, whose programs take one item of the batch, or the second, whose take several."""
    constants = {**constants, **overlapping(tuning.overlap)}
    if tuning.items == 1:
        return Launch(kernels[0], (parts, batch), arguments, constants)
    grid = parts, -(-batch // tuning.items)
    return Launch(kernels[1], grid, (*arguments, batch), {**constants, "ITEMS": tuning.items})


_PackedLSTM = tuple[Tensor, Tensor]  # weights FP16 (programs, 4 * units, columns), bias FP32 (programs, 4 * units)


def _pack_lstm(cell: MergedLSTMCell, widths: list[int], order: list[int], units: int) -> _PackedLSTM:
    # `widths` of the parts of the columns, the hidden state's last; `order` in which they are wanted.
    weight, bias = cell.gates.weight.detach(), cell.gates.bias.detach()
    parts = weight.split(widths, 1)
    weight = torch.cat([parts[i] for i in order], 1)
    rows = torch.arange(weight.size(0), device=weight.device).view(4, -1, units).transpose(0, 1).flatten()
    return weight[rows].half().view(-1, 4 * units, weight.size(1)), bias[rows].float().view(-1, 4 * units)


def _lstm(
    tensors: Mapping[str, Tensor], name: str, early: Tensor, late: Tensor, packed: _PackedLSTM, tuning: Tuning
) -> Launch:
    # The LSTM `name` on what is known early and late.
    from tacotron2.gpu.decoder_kernels import lstm_matrix_kernel, lstm_vector_kernel

    weights, bias = packed
    hidden, old_cell = tensors[f"{name}_hidden"], tensors[f"{name}_cell"]
    batch, size = hidden.shape
    new_state = tensors[f"out_{name}_hidden"], tensors[f"out_{name}_cell"]
    arguments = (early, hidden, late, weights, bias, old_cell, *new_state, batch)
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
        return Launch(lstm_vector_kernel, (len(weights),), arguments, constants)
    constants.update(
        ITEMS=max(16, power_of_2(batch)),
        STEP=min(tuning.step, early.size(1), late.size(1), size),
        num_stages=tuning.stages,
    )
    return Launch(lstm_matrix_kernel, (len(weights),), arguments, constants)
