"""WaveGlow on an NVIDIA GPU in FP16: an engine on the launches of `waveglow.gpu.network`, one CUDA graph per shape."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from common.config import WaveGlowConfig
from common.cuda import ShapeCache, on_device
from common.engine import check_bound
from common.graph_engine import GraphRun
from common.metadata import ModelMetadata
from common.triton_engine import Launch, TritonEngine
from waveglow.gpu.folding import OUTPUTS
from waveglow.gpu.geometry import Buffers
from waveglow.gpu.network import Network
from waveglow.gpu.tuning import ROW_TILE, Tuning, default_tuning
from waveglow.model import WaveGlow
from waveglow.parts import WaveGlowPart

CACHED_SHAPES = 64  # shapes that keep their graph


@dataclass
class _Plan:
    """A shape: the memory of its launches, and a function that runs them."""

    buffers: Buffers
    mel: Tensor
    z: Tensor
    audio: Tensor
    run: Callable[[], None]


class FastWaveGlowEngine(TritonEngine):
    """WaveGlow in FP16 on CUDA: an `Engine` as `TorchEngine` is, several times as fast.

    A shape that runs a second time is captured into a CUDA graph; the last CACHED_SHAPES shapes keep their graphs. One
    run takes utterances of different lengths (`run_packed`); its shape is the sum of their lengths, rounded up. All
    shapes share one memory, which grows to the largest: runs must follow one another, on one stream at a time. A bound
    run may itself be captured into a graph, which then records its launches.

    Args:
        module: the part or the model it is made from; in FP32, so that weights are rounded once, or in FP16.
        metadata: its metadata, of FP16.
        tuning: of the kernels; by default the fastest on this kind of GPU.
        graphs: whether shapes are captured. Without, every run launches its kernels one by one.
    """

    def __init__(
        self,
        module: WaveGlowPart | WaveGlow,
        metadata: ModelMetadata,
        device: torch.device | str = "cuda",
        tuning: Tuning | None = None,
        graphs: bool = True,
    ) -> None:
        super().__init__(metadata, device)
        part = module if isinstance(module, WaveGlowPart) else WaveGlowPart(module)
        with on_device(self.device):
            self._network = Network(part, self.device, tuning or default_tuning(self.device))
        self._graphs = graphs
        self._memory = torch.empty(0, dtype=torch.uint8, device=self.device)
        self._plans = ShapeCache[tuple[int, int], _Plan](CACHED_SHAPES)  # by rows of a plane, and frames
        self._compiled: set[int] = set()  # ids of kernels

    @staticmethod
    def model_obstacle(metadata: ModelMetadata) -> str | None:
        config = metadata.model
        if not isinstance(config, WaveGlowConfig):
            return f"it runs WaveGlow only, not the {metadata.part}"
        if config.n_group & (config.n_group - 1) or not 2 <= config.n_group <= OUTPUTS:
            return f"groups of {config.n_group} samples; it takes 2, 4, 8 or 16"
        return None

    def bind(self, tensors: Mapping[str, Tensor]) -> Callable[[], None]:
        check_bound(self, tensors)
        mel, z, audio = (tensors[name] for name in ("mel", "z", "audio"))
        batch, frames = mel.size(0), mel.size(2)
        lengths = [frames] * batch
        used_rows = self._network.geometry.rows_of(lengths)
        plan = self._plans.get((used_rows, batch * frames), lambda: self._plan(used_rows, batch * frames, lengths))

        @torch.inference_mode()
        def run() -> None:
            with on_device(self.device):
                plan.mel.unflatten(1, (batch, -1)).copy_(mel.transpose(0, 1))
                plan.z.unflatten(1, (batch, -1)).copy_(z.transpose(0, 1))
                plan.run()
                audio.view(-1).copy_(plan.audio)

        return run

    @torch.inference_mode()
    def run_packed(self, mels: Sequence[Tensor], noises: Sequence[Tensor]) -> list[Tensor]:
        """See `common.engine.PackedVocoder`. Each utterance gets the audio that it would get alone."""
        frames = [mel.size(1) for mel in mels]
        geometry = self._network.geometry
        total, rows = sum(frames), _rounded_up(geometry.rows_of(frames), geometry.processors)
        most = rows // geometry.frame_rows
        plan = self._plans.get((rows, most), lambda: self._plan(rows, most))
        row_map = torch.from_numpy(geometry.row_map(frames, rows)).pin_memory()
        with on_device(self.device):
            plan.buffers.row_map.copy_(row_map, non_blocking=True)
            plan.mel[:, :total].copy_(torch.cat(list(mels), 1))
            plan.z[:, : total * self._network.positions].copy_(torch.cat(list(noises), 1))
            plan.run()
            hop = self._network.positions * self._network.config.n_group
            return list(plan.audio[: total * hop].clone().split([count * hop for count in frames]))

    @torch.inference_mode()
    def _plan(self, used_rows: int, frames: int, lengths: Sequence[int] = ()) -> _Plan:
        """A plan for planes of so many rows and for so many frames; its row map is that of the given lengths."""
        needed = self._network.geometry.bytes_for(used_rows)
        if needed > self._memory.numel():
            # Graphs work at fixed addresses: those on the smaller memory are of no use any more.
            self._plans.clear()
            self._memory = torch.empty(0, dtype=torch.uint8, device=self.device)
            self._memory = torch.zeros(needed, dtype=torch.uint8, device=self.device)
        buffers = self._network.geometry.buffers(self._memory, used_rows, lengths)
        config = self._network.config
        positions = frames * self._network.positions
        sizes = (config.n_mel_channels, frames), (config.n_group, positions), (config.n_group * positions,)
        mel, z, audio = (torch.zeros(size, dtype=torch.float16, device=self.device) for size in sizes)
        launches = self._network.launches(buffers, mel, z, audio)

        def run() -> None:
            for launch in launches:
                launch()

        with on_device(self.device):
            kernels = {id(launch.kernel) for launch in launches if isinstance(launch, Launch)}
            if not kernels <= self._compiled:
                run()  # Triton compiles at the first launch, which is illegal during a capture
                self._compiled |= kernels
            replay = GraphRun(run, self.device, warm_up=False) if self._graphs else run
            return _Plan(buffers, mel, z, audio, replay)

    def close(self) -> None:
        self._plans.clear()
        for name in ("_network", "_memory"):  # absent where the engine is closed already
            vars(self).pop(name, None)


def _rounded_up(rows: int, processors: int) -> int:
    """Rows rounded up so that few shapes serve all lengths and hardly any takes longer.

    A kernel's tiles go over the multiprocessors in waves, and a wave takes as long with fewer tiles; the last one may
    be of tiles of half the size. So rows fill half waves, or a half, a quarter... of one; many are rounded up by at
    most a sixteenth.
    """
    tiles, step = -(-rows // ROW_TILE), -(-processors // 2)
    while 2 * tiles <= step:
        step = -(-step // 2)
    step *= max(1, (1 << max(0, tiles.bit_length() - 5)) // step)
    return -(-tiles // step) * step * ROW_TILE
