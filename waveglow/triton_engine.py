"""WaveGlow on an NVIDIA GPU in FP16, through `waveglow.triton_kernels` and one CUDA graph per shape.

It computes the function of `waveglow.parts.WaveGlowPart` with the weights that `waveglow.folding` folds.
"""

import math
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from common.config import WaveGlowConfig
from common.contract import PRECISION_DTYPES, contract_of
from common.cuda import triton_obstacle
from common.engine import Engine, Range, TorchEngine, check_bound
from common.errors import UserError
from common.metadata import ModelMetadata
from waveglow.folding import OUTPUTS, WIDTH, FoldedFlow, FoldedLayer, fold
from waveglow.model import WaveGlow
from waveglow.parts import WaveGlowPart

ROW_TILE = 128  # planes are a multiple of this long: the largest tile's rows
CACHED_SHAPES = 16  # shapes (batch, frames) that keep their graph; the one used longest ago goes first


@dataclass(frozen=True)
class Tiles:
    """How a matrix kernel cuts its work: rows and (at most) output columns of a program, warps, loads in flight."""

    rows: int
    columns: int
    warps: int
    stages: int


@dataclass(frozen=True)
class Tuning:
    """`descriptors`: tiles come through the bulk copy engine; `overlap`: a kernel starts while its predecessor drains;
    both need compute capability 9.0. `approximate`: the hardware's tanh, which Triton's interpreter has not."""

    gate: Tiles
    residual: Tiles
    descriptors: bool
    overlap: bool
    approximate: bool = True


# The fastest of a dozen on an H200, at 256 and at 64 channels, alone and in batches.
HOPPER = Tuning(Tiles(128, 128, 4, 3), Tiles(128, 128, 4, 3), descriptors=True, overlap=True)
# For GPUs without those engines: within the 99 KB of shared memory that the smallest of them gives a program.
GENERAL = Tuning(Tiles(128, 128, 8, 3), Tiles(128, 128, 8, 2), descriptors=False, overlap=False)


def obstacle(metadata: ModelMetadata, device: torch.device | str) -> str | None:
    """Why `FastWaveGlowEngine` can't run this WaveGlow on this device; None if it can."""
    config, device = metadata.model, torch.device(device)
    if not isinstance(config, WaveGlowConfig):
        return f"it runs WaveGlow only, not the {metadata.part}"
    if metadata.precision != "fp16":
        return "it computes in FP16 only"
    if config.wn_channels % WIDTH:
        return f"{config.wn_channels} channels are no multiple of {WIDTH}"
    if config.n_group & (config.n_group - 1) or not 2 <= config.n_group <= OUTPUTS:
        return f"groups of {config.n_group} samples; it takes 2, 4, 8 or 16"
    return triton_obstacle(device)


def supported(metadata: ModelMetadata, device: torch.device | str) -> bool:
    return obstacle(metadata, device) is None


def best_waveglow_engine(module: WaveGlowPart, metadata: ModelMetadata, device: torch.device | str) -> Engine:
    """The fast engine where it can run, else the module on PyTorch, converted to the metadata's precision.

    An FP32 module is the better source for both.
    """
    if supported(metadata, device):
        return FastWaveGlowEngine(module, metadata, device)
    return TorchEngine(module.to(PRECISION_DTYPES[metadata.precision]), metadata, device)


def default_tuning(device: torch.device) -> Tuning:
    return HOPPER if torch.cuda.get_device_capability(device)[0] == 9 else GENERAL


@dataclass
class Buffers:
    """Working memory, and the sizes it is cut for: `rows` a plane, of which the first `used_rows` hold utterances."""

    table: Tensor  # (rows of all sections, WIDTH), FP16
    outputs: Tensor  # (positions, OUTPUTS), FP32
    states: tuple[Tensor, Tensor]  # (positions, n_group) each, FP32
    frames: int
    rows: int
    used_rows: int


class Network:
    """The folded WaveGlow and the launches that run it.

    Args:
        part: in FP32 or FP16; folding FP32 weights rounds once.
        device: a CUDA device, or the CPU under Triton's interpreter.
    """

    def __init__(self, part: WaveGlowPart, device: torch.device, tuning: Tuning) -> None:
        from waveglow import triton_kernels

        self.kernels = triton_kernels
        self.config = part.config
        self.remaining = part.remaining
        self.tuning = tuning
        self.device = device
        self.phases = part.upsample.stride[0]
        self.mel_taps = part.upsample.kernel_size[0] // self.phases
        self.mel_blocks = math.ceil(self.mel_taps * self.config.n_mel_channels / WIDTH)
        reach = 2 ** (self.config.wn_layers - 1) * (self.config.wn_kernel_size // 2)  # positions
        self.gap = max(math.ceil(reach / self.phases), 1)
        channels = self.config.wn_channels
        self.gate_columns = math.gcd(2 * channels, tuning.gate.columns)
        self.residual_columns = math.gcd(channels, tuning.residual.columns)
        self.flows = fold(part, device)
        self.weights = [[self._weight_tiles(layer) for layer in flow.layers] for flow in self.flows]

    def _weight_tiles(self, layer: FoldedLayer) -> tuple:
        return (
            self._tiles(layer.gate, self.gate_columns),
            self._tiles(layer.residual, self.residual_columns),
            self._tiles(layer.residual, OUTPUTS),
        )

    def _tiles(self, table: Tensor, rows: int):
        # What a kernel loads tiles of `rows` rows through.
        if not self.tuning.descriptors:
            return table
        from triton.tools.tensor_descriptor import TensorDescriptor

        return TensorDescriptor.from_tensor(table, [rows, WIDTH])

    def sizes(self, batch: int, frames: int) -> tuple[int, int, int]:
        """(used rows, rows of a plane, rows of the table)"""
        used_rows = batch * (frames + self.gap)
        rows = math.ceil(used_rows / ROW_TILE) * ROW_TILE
        blocks = self.config.wn_channels // WIDTH
        return used_rows, rows, self.gap + ((1 + 2 * blocks) * self.phases + self.mel_blocks) * rows

    def bytes_for(self, batch: int, frames: int) -> int:
        """The size of the working memory for a batch of mels of `frames` frames."""
        _, rows, table_rows = self.sizes(batch, frames)
        return 2 * table_rows * WIDTH + 4 * self.phases * rows * (OUTPUTS + 2 * self.config.n_group)

    def buffers(self, memory: Tensor, batch: int, frames: int) -> Buffers:
        """Cuts working memory, a byte tensor of at least `bytes_for(batch, frames)`.

        The table comes first, so that its leading rows, which have to be zeros, are the same memory for every shape.
        """
        used_rows, rows, table_rows = self.sizes(batch, frames)
        positions, group = self.phases * rows, self.config.n_group
        sizes = [2 * table_rows * WIDTH, *(4 * positions * columns for columns in (OUTPUTS, group, group))]
        table, outputs, state, next_state = memory[: sum(sizes)].split(sizes)
        return Buffers(
            table.view(torch.float16).view(table_rows, WIDTH),
            outputs.view(torch.float32).view(positions, OUTPUTS),
            (
                state.view(torch.float32).view(positions, group),
                next_state.view(torch.float32).view(positions, group),
            ),
            frames,
            rows,
            used_rows,
        )

    def launch(self, buffers: Buffers, mel: Tensor, z: Tensor, audio: Tensor) -> None:
        """Enqueues the whole network on the current stream. mel (B, n_mel_channels, M), z (B, n_group, G) -> audio."""
        tuning, kernels = self.tuning, self.kernels
        table, rows, gap, frames = buffers.table, buffers.rows, self.gap, buffers.frames
        planes = self.phases * (rows // ROW_TILE)
        shape = {"CHANNELS": self.config.wn_channels, "PHASES": self.phases}
        lap = {"OVERLAP": tuning.overlap, **({"launch_pdl": True} if tuning.overlap else {})}
        kernels.spread_mel[(rows // ROW_TILE, self.mel_blocks)](
            table, mel, rows, gap, frames, buffers.used_rows,
            MEL_CHANNELS=self.config.n_mel_channels, MEL_TAPS=self.mel_taps, TILE=ROW_TILE, **shape, **lap,
        )  # fmt: skip
        state, next_state = buffers.states

        def couple(flow: FoldedFlow | None, early: int, count: int, last: bool) -> None:
            kernels.couple[(planes,)](
                table, buffers.outputs, state, next_state, flow.mixer if flow else state, z, audio,
                rows, gap, frames, buffers.used_rows, early,
                FLOW_CHANNELS=flow.channels if flow else 0, EARLY=count, GROUP=self.config.n_group,
                PHASES=self.phases, LAST=last, TILE=ROW_TILE, **lap,
            )  # fmt: skip

        couple(None, 0, self.remaining, False)
        early = self.remaining
        gate, residual = tuning.gate, tuning.residual
        gate_table, residual_table = self._tiles(table, gate.rows), self._tiles(table, residual.rows)
        used = self.phases * math.ceil(buffers.used_rows / gate.rows)
        residual_used = self.phases * (rows // residual.rows)
        channels, mel_blocks = self.config.wn_channels, self.mel_blocks
        for number, (flow, weights) in enumerate(zip(self.flows, self.weights, strict=True)):
            state, next_state = next_state, state
            for i, (layer, (gate_w, residual_w, output_w)) in enumerate(zip(flow.layers, weights, strict=True)):
                first, last = i == 0, i == len(flow.layers) - 1
                kernels.gate[(used * (2 * channels // self.gate_columns),)](
                    table, gate_table, gate_w, layer.gate_bias, rows, gap, 2**i,
                    FIRST=first, TAPS=self.config.wn_kernel_size, MEL_BLOCKS=mel_blocks,
                    TILE=gate.rows, COLUMNS=self.gate_columns,
                    DESCRIPTOR=tuning.descriptors, APPROXIMATE=tuning.approximate,
                    num_warps=gate.warps, num_stages=gate.stages, **shape, **lap,
                )  # fmt: skip
                kernels.residual[(residual_used * (1 if last else channels // self.residual_columns),)](
                    table, residual_table, residual_w, output_w, layer.residual_bias, flow.output_bias,
                    buffers.outputs, rows, gap, frames, buffers.used_rows,
                    FIRST=first, LAST=last, MEL_BLOCKS=mel_blocks,
                    TILE=residual.rows, COLUMNS=self.residual_columns, DESCRIPTOR=tuning.descriptors,
                    num_warps=residual.warps, num_stages=residual.stages, **shape, **lap,
                )  # fmt: skip
            couple(flow, early, flow.early, number == len(self.flows) - 1)
            early += flow.early


@dataclass
class _Plan:
    """The memory that a shape's launches read and write (the working memory among it, to keep it alive), and their
    graph from the second run on: for a shape that comes once, a capture would take longer than the launches."""

    buffers: Buffers
    mel: Tensor
    z: Tensor
    audio: Tensor
    launched: bool = False
    graph: torch.cuda.CUDAGraph | None = None


class FastWaveGlowEngine:
    """WaveGlow in FP16 on CUDA: an `Engine` as `TorchEngine` is, several times as fast.

    A shape (batch, frames) that runs a second time is captured into a CUDA graph; the last CACHED_SHAPES shapes keep
    theirs. All shapes work in the same memory, which grows to the largest: runs must follow one another, on one stream
    at a time. A bound run may itself be captured into a graph; its launches are then recorded there.

    Args:
        module: the part or the model it is made from; in FP32, so that weights are rounded once, or in FP16.
        metadata: its metadata, of FP16.
        tuning: how the kernels are cut; by default what was fastest on this kind of GPU.
        graphs: whether shapes are captured; if not, every run launches its kernels one by one.

    Raises:
        UserError: this WaveGlow or this device is not supported (`obstacle` says why).
    """

    def __init__(
        self,
        module: WaveGlowPart | WaveGlow,
        metadata: ModelMetadata,
        device: torch.device | str = "cuda",
        tuning: Tuning | None = None,
        graphs: bool = True,
    ) -> None:
        self.name = f"Triton {metadata.part}"
        reason = obstacle(metadata, device)
        if reason is not None:
            raise UserError(f"{self.name}: {reason}; use the PyTorch engine")
        self.metadata = metadata
        self.contract = contract_of(metadata)
        device = torch.device(device)
        self.device = torch.device("cuda", torch.cuda.current_device() if device.index is None else device.index)
        self.limits: Mapping[str, Range] = {}
        part = module if isinstance(module, WaveGlowPart) else WaveGlowPart(module)
        with torch.cuda.device(self.device):
            self._network = Network(part, self.device, tuning or default_tuning(self.device))
        self._graphs = graphs
        self._memory = torch.empty(0, dtype=torch.uint8, device=self.device)
        self._plans: OrderedDict[tuple[int, int], _Plan] = OrderedDict()
        self._compiled = False

    def bind(self, tensors: Mapping[str, Tensor]) -> Callable[[], None]:
        check_bound(self, tensors)
        mel, z, audio = (tensors[name] for name in ("mel", "z", "audio"))
        plan = self._plan(mel.size(0), mel.size(2))

        @torch.inference_mode()
        def run() -> None:
            with torch.cuda.device(self.device):
                plan.mel.copy_(mel)
                plan.z.copy_(z)
                if not (self._graphs and plan.launched) or torch.cuda.is_current_stream_capturing():
                    self._launch(plan)
                    plan.launched = True
                else:
                    if plan.graph is None:
                        plan.graph = torch.cuda.CUDAGraph()
                        with torch.cuda.graph(plan.graph, capture_error_mode="thread_local"):
                            self._launch(plan)
                    plan.graph.replay()
                audio.copy_(plan.audio)

        return run

    @torch.inference_mode()
    def _plan(self, batch: int, frames: int) -> _Plan:
        # The shape's plan, made if it is new.
        plan = self._plans.get((batch, frames))
        if plan is not None:
            self._plans.move_to_end((batch, frames))
            return plan
        with torch.cuda.device(self.device):
            plan = self._new_plan(batch, frames)
        self._plans[batch, frames] = plan
        if len(self._plans) > CACHED_SHAPES:
            self._plans.popitem(last=False)
        return plan

    def _new_plan(self, batch: int, frames: int) -> _Plan:
        network = self._network
        needed = network.bytes_for(batch, frames)
        if needed > self._memory.numel():
            # Graphs work at fixed addresses: those of the smaller memory go with it.
            self._plans.clear()
            self._memory = torch.empty(0, dtype=torch.uint8, device=self.device)
            self._memory = torch.zeros(needed, dtype=torch.uint8, device=self.device)
        sizes = {"batch": batch, "mel": frames}
        mel, z, audio = (
            torch.zeros(self.contract.tensors[name].resolve(sizes), dtype=torch.float16, device=self.device)
            for name in ("mel", "z", "audio")
        )
        plan = _Plan(network.buffers(self._memory, batch, frames), mel, z, audio)
        if not self._compiled:  # Triton compiles at the first launch, which must not happen during a capture
            self._launch(plan)
            self._compiled = True
        return plan

    def _launch(self, plan: _Plan) -> None:
        self._network.launch(plan.buffers, plan.mel, plan.z, plan.audio)

    def close(self) -> None:
        self._plans.clear()
        del self._network, self._memory
