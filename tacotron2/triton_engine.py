"""The decoder step on an NVIDIA GPU in FP16, as seven Triton kernels that overlap one another.

It computes the function of `tacotron2.parts.DecoderIterPart` with FP16 weights and tensors and FP32 sums between them.
The kernels, and why they may overlap, are in `tacotron2.triton_kernels`. Launched one by one they are no faster than
PyTorch; their speed shows in a CUDA graph (`tacotron2.decoder_graph`).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from common.config import Tacotron2Config
from common.contract import contract_of
from common.cuda import triton_obstacle
from common.engine import Engine, Range, TorchEngine, check_bound
from common.errors import UserError
from common.metadata import ModelMetadata
from tacotron2.parts import DecoderIterPart, MergedLSTMCell

LARGEST_BATCH = 64  # beyond it, and beyond LONGEST_TEXT, the plain module runs
LONGEST_TEXT = 1024


@dataclass(frozen=True)
class Tuning:
    """How the kernels are cut. `overlap` needs compute capability 9.0.

    The LSTMs' weights pass through shared memory, `step` columns at a time, `stages` of them at once. Where kernels
    overlap, a program has to need more than a third of it, or programs crowd on the multiprocessors that come free
    first.
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


def obstacle(metadata: ModelMetadata, device: torch.device | str) -> str | None:
    """Why `FusedDecoderEngine` can't run this decoder on this device; None if it can."""
    config, device = metadata.model, torch.device(device)
    if not isinstance(config, Tacotron2Config) or metadata.part != "decoder_iter":
        return f"it runs Tacotron 2's decoder step only, not the {metadata.part}"
    if metadata.precision != "fp16":
        return "it computes in FP16 only"
    for name in ("prenet_dim", "encoder_embedding_dim", "attention_rnn_dim", "decoder_rnn_dim", "attention_dim"):
        size = getattr(config, name)
        if size & (size - 1) or not 32 <= size <= 2048:
            return f"{name} is {size}; it takes powers of two from 32 to 2048"
    return triton_obstacle(device)


def supported(metadata: ModelMetadata, device: torch.device | str) -> bool:
    return obstacle(metadata, device) is None


def best_decoder_engine(module: DecoderIterPart, metadata: ModelMetadata, device: torch.device | str) -> Engine:
    """The fused engine where it can run, else the module on PyTorch."""
    if supported(metadata, device):
        return FusedDecoderEngine(module, metadata, device)
    return TorchEngine(module, metadata, device)


def default_tuning(device: torch.device, batch: int) -> Tuning:
    """What was fastest on an H200; elsewhere what needs no new hardware and 40 KB of shared memory."""
    overlap = torch.cuda.get_device_capability(device)[0] == 9
    if batch == 1:
        return Tuning(overlap, units=2, warps=2, matrix=False)
    if not overlap:
        return Tuning(overlap, units=4, warps=2)
    if batch <= 16:
        return Tuning(overlap, units=4, warps=2, step=256, stages=6, prenet_rows=32)
    return Tuning(
        overlap,
        units=8,
        warps=4,
        step=256,
        stages=6 if batch <= 32 else 4,
        query_rows=16,
        prenet_rows=64,
        projection_rows=16,
    )


class FusedDecoderEngine:
    """The `decoder_iter` part through fused kernels: an engine as in `common.engine`.

    A bound run may be captured into a CUDA graph once it has run outside of a capture. Beyond a batch of 64 or 1024
    symbols it runs the plain module.

    Args:
        module: the part, in FP16.
        metadata: its metadata.
        tuning: how the kernels are cut; by default `default_tuning` for each batch size.

    Raises:
        UserError: this decoder or this device is not supported (`obstacle` says why).
    """

    free_bindings = True  # a bound run owns nothing but a little scratch memory

    def __init__(
        self,
        module: DecoderIterPart,
        metadata: ModelMetadata,
        device: torch.device | str = "cuda",
        tuning: Tuning | None = None,
    ) -> None:
        self.name = f"Triton {metadata.part}"
        reason = obstacle(metadata, device)
        if reason is not None:
            raise UserError(f"{self.name}: {reason}; use the PyTorch engine")
        device = torch.device(device)
        self.device = torch.device("cuda", torch.cuda.current_device() if device.index is None else device.index)
        self.metadata = metadata
        self.contract = contract_of(metadata)
        self.limits: Mapping[str, Range] = {}
        self._plain = TorchEngine(module, metadata, self.device)
        self._step = FusedStep(module, metadata)
        self._tuning = tuning

    def bind(self, tensors: Mapping[str, Tensor]) -> Callable[[], None]:
        check_bound(self, tensors)
        batch, text = tensors["mask"].shape
        if batch > LARGEST_BATCH or text > LONGEST_TEXT:
            return self._plain.bind(tensors)
        launch = self._step.bind(tensors, self._tuning or default_tuning(self.device, batch))

        def run() -> None:
            with torch.cuda.device(self.device):
                launch()

        return run

    def close(self) -> None:
        self._plain.close()
        del self._step


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
        self.location = torch.nn.functional.pad(location.half(), (0, 0, 0, _power_of_2(2 * taps) - 2 * taps))
        self.v = module.v.weight.detach().float().flatten()
        self.projection = module.projection.weight.detach().half()
        self.projection_bias = module.projection.bias.detach().float()

    def bind(self, tensors: Mapping[str, Tensor], tuning: Tuning) -> Callable[[], None]:
        """What launches a step on these tensors (see `common.engine.Engine.bind`), which have been checked."""
        from tacotron2 import triton_kernels as kernels

        config = self.config
        batch, text = tensors["mask"].shape
        device = self.query.device
        prenet = torch.empty(batch, config.prenet_dim, dtype=torch.float16, device=device)
        query = torch.empty(batch, config.attention_dim, dtype=torch.float32, device=device)
        energies = torch.empty(batch, text, dtype=torch.float32, device=device)
        mask = tensors["mask"].view(torch.uint8)
        columns = min(tuning.context_columns, config.encoder_embedding_dim)
        prenet_rows = min(tuning.prenet_rows, config.prenet_dim)
        query_rows = min(tuning.query_rows, config.attention_dim)
        mels = config.n_mel_channels
        attention_weights, decoder_weights = self._lstms(tuning.units)
        attention_lstm = _bind_lstm(kernels, tensors, "attention", attention_weights, tuning)
        decoder_lstm = _bind_lstm(kernels, tensors, "decoder", decoder_weights, tuning)

        def launch() -> None:
            # What comes before a step that isn't captured is unknown: it has to be finished.
            overlap = _overlap(tuning.overlap)
            first_overlap = _overlap(tuning.overlap and torch.cuda.is_current_stream_capturing())
            kernels.prenet_kernel[(config.prenet_dim // prenet_rows, batch)](
                tensors["decoder_input"],
                tensors["prenet_dropout"],
                *self.prenet,
                prenet,
                MELS=mels,
                MELS_PADDED=_power_of_2(mels),
                DIM=config.prenet_dim,
                ROWS=prenet_rows,
                num_warps=8,
                **first_overlap,
            )
            attention_lstm(tensors["attention_context"], prenet)
            kernels.query_kernel[(config.attention_dim // query_rows, batch)](
                tensors["out_attention_hidden"],
                self.query,
                query,
                HIDDEN=config.attention_rnn_dim,
                DIM=config.attention_dim,
                ROWS=query_rows,
                num_warps=4,
                **overlap,
            )
            kernels.energies_kernel[(-(-text // tuning.text_tile), batch)](
                tensors["attention_weights"],
                tensors["attention_weights_cum"],
                tensors["processed_memory"],
                mask,
                query,
                self.location,
                self.v,
                energies,
                text,
                DIM=config.attention_dim,
                TAPS=config.attention_location_kernel_size,
                PATCH=self.location.size(0),
                TILE=tuning.text_tile,
                num_warps=4,
                **overlap,
            )
            kernels.context_kernel[(config.encoder_embedding_dim // columns, batch)](
                energies,
                tensors["attention_weights_cum"],
                tensors["memory"],
                tensors["out_attention_context"],
                tensors["out_attention_weights"],
                tensors["out_attention_weights_cum"],
                text,
                DIM=config.encoder_embedding_dim,
                COLUMNS=columns,
                TEXT=max(32, _power_of_2(text)),
                TILE=min(128, max(32, _power_of_2(text))),
                num_warps=4,
                **overlap,
            )
            decoder_lstm(tensors["out_attention_hidden"], tensors["out_attention_context"])
            kernels.projection_kernel[(-(-(mels + 1) // tuning.projection_rows), batch)](
                tensors["out_decoder_hidden"],
                tensors["out_attention_context"],
                self.projection,
                self.projection_bias,
                tensors["decoder_output"],
                tensors["gate_prediction"],
                MELS=mels,
                HIDDEN=config.decoder_rnn_dim,
                CONTEXT=config.encoder_embedding_dim,
                ROWS=tuning.projection_rows,
                num_warps=4,
                **overlap,
            )

        return launch

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


_PackedLSTM = tuple[Tensor, Tensor]  # weights FP16 (programs, 4 * units, columns), bias FP32 (programs, 4 * units)


def _pack_lstm(cell: MergedLSTMCell, widths: list[int], order: list[int], units: int) -> _PackedLSTM:
    # `widths` of the parts of the columns, the hidden state's last; `order` in which they are wanted.
    weight, bias = cell.gates.weight.detach(), cell.gates.bias.detach()
    parts = weight.split(widths, 1)
    weight = torch.cat([parts[i] for i in order], 1)
    rows = torch.arange(weight.size(0), device=weight.device).view(4, -1, units).transpose(0, 1).flatten()
    return weight[rows].half().view(-1, 4 * units, weight.size(1)), bias[rows].float().view(-1, 4 * units)


def _bind_lstm(
    kernels: Any, tensors: Mapping[str, Tensor], name: str, packed: _PackedLSTM, tuning: Tuning
) -> Callable[[Tensor, Tensor], None]:
    # What launches the LSTM `name` on what is known early and late.
    weights, bias = packed
    hidden, old_cell = tensors[f"{name}_hidden"], tensors[f"{name}_cell"]
    new_hidden, new_cell = tensors[f"out_{name}_hidden"], tensors[f"out_{name}_cell"]
    batch = hidden.size(0)

    def launch(early: Tensor, late: Tensor) -> None:
        arguments = (early, hidden, late, weights, bias, old_cell, new_hidden, new_cell, batch)
        sizes = {"N_EARLY": early.size(1), "N_LATE": late.size(1), "HIDDEN": hidden.size(1), "UNITS": tuning.units}
        options = {"num_warps": tuning.warps, **_overlap(tuning.overlap)}
        if not tuning.matrix:
            kernels.lstm_vector_kernel[(len(weights),)](*arguments, **sizes, **options)
            return
        kernels.lstm_matrix_kernel[(len(weights),)](
            *arguments,
            **sizes,
            ITEMS=max(16, _power_of_2(batch)),
            STEP=min(tuning.step, early.size(1), late.size(1), hidden.size(1)),
            num_stages=tuning.stages,
            **options,
        )

    return launch


def _overlap(overlap: bool) -> dict[str, bool]:
    # The launch option, which other kinds of GPU don't know, and the constant that tells the kernel.
    return {"OVERLAP": True, "launch_pdl": True} if overlap else {"OVERLAP": False}


def _power_of_2(size: int) -> int:
    return 1 << (size - 1).bit_length()
