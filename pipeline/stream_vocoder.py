"""Decoded frames to audio: the postnet and WaveGlow on the next windows of many streams at a time."""

from collections.abc import Iterable, Sequence
from itertools import product

import numpy as np
import torch
from torch import Tensor

from common.engine import Engine, PackedVocoder, infer
from pipeline import policy, stages
from pipeline.engine_set import EngineSet
from pipeline.streaming import FrameTable, StreamedPiece, WindowInputs
from waveglow.vocoder import SILENCE, batch_of_windows, packs

WARM_BATCHES = (1, 2, 4, 8, 16)  # windows of one size in a run
WARM_FRAMES = tuple(round(4096 / 2 ** (step / 16)) for step in range(97))  # of all windows, where a run takes any


class StreamVocoder:
    """Computes streams' windows. What any of its calls raises has changed nothing: it may be called again.

    Attributes:
        plan: the sizes of windows.
    """

    def __init__(self, engines: EngineSet) -> None:
        self._engines = engines
        self._postnet, self._waveglow = engines.parts["postnet"], engines.parts["waveglow"]
        self._packs = isinstance(self._waveglow, PackedVocoder)
        self.plan = policy.WindowPlan.of(engines.window_sizes, engines.on_gpu, self._packs, engines.limits.mel)
        least, most = engines.limits.batch
        self._postnet_batch = least if self.plan.refined is None else max(least, min(policy.POSTNET_BATCH, most))

    def next_windows(self, pieces: Sequence[StreamedPiece]) -> list[WindowInputs]:
        """What WaveGlow needs for the pieces' next windows, which must be ready."""
        if not pieces:
            return []
        self._refine(pieces)
        table = FrameTable(SILENCE)
        numbers = [piece.refined(table) for piece in pieces]
        frames = table.fetch(np.concatenate(numbers)).split([len(some) for some in numbers])
        windows = [piece.window(some) for piece, some in zip(pieces, frames, strict=True)]
        for piece in pieces:
            piece.advance()
        return windows

    def _refine(self, pieces: Sequence[StreamedPiece]) -> None:
        """The postnet on what the pieces' next windows need."""
        table = FrameTable(0.0)
        rows = [(piece, *row) for piece in pieces for row in piece.to_refine(table)]
        for size in dict.fromkeys(len(numbers) for _, _, numbers in rows):
            equal = [row for row in rows if len(row[2]) == size]
            batch = self._postnet_batch if size == self.plan.refined else self._engines.limits.batch[0]
            numbers = np.zeros((-(-len(equal) // batch) * batch, size), np.int64)  # what fills the last batch is left
            numbers[: len(equal)] = [some for _, _, some in equal]
            mels = table.fetch(numbers.ravel()).view(*numbers.shape, -1).transpose(1, 2)
            for first, some in enumerate(mels.split(batch)):
                refined = stages.refine(self._engines, some, capture=size == self.plan.refined)
                frames = refined.transpose(1, 2).flatten(0, 1)
                for number, (piece, window, _) in enumerate(equal[first * batch : (first + 1) * batch]):
                    piece.add_refined(frames, number * size, window)

    def runs(self, windows: Sequence[WindowInputs]) -> Iterable[Sequence[WindowInputs]]:
        """The windows that WaveGlow takes in one run each."""
        if self._packs:
            return packs(windows, _size)
        return policy.in_batches(windows, _size, lambda size: batch_of_windows(self._waveglow, size))

    def start(self, windows: Sequence[WindowInputs]) -> stages.HostAudio:
        """Starts WaveGlow on the windows of one run. Returns their chunks, at the voice's level."""
        audio = stages.vocode_windows(
            self._engines, [window.mel for window in windows], [window.noise for window in windows]
        )
        chunks = [self._chunk(window, row) for window, row in zip(windows, audio, strict=True)]
        # Levelled here rather than on the host, where it would keep every other request waiting.
        levelled = stages.level(self._engines, torch.cat(chunks).float())
        return stages.HostAudio.of(levelled, [chunk.numel() for chunk in chunks])

    def _chunk(self, window: WindowInputs, audio: Tensor) -> Tensor:
        """The chunk's samples of a window's audio (size * hop_length,). The denoiser sees the context too."""
        span, hop = window.span, self._engines.audio.hop_length
        heard = self._engines.denoiser(audio[: (span.stop - span.start) * hop], window.piece.denoise)
        return heard[(span.keep_start - span.start) * hop : (span.keep_stop - span.start) * hop]

    def warm_up(self) -> None:
        """Compiles and captures on a GPU what windows will need."""
        runs: list[tuple[Engine, int, int]] = []
        if self.plan.refined is not None:
            runs.append((self._postnet, self._postnet_batch, self.plan.refined))
        if not self._packs:
            sizes = product(WARM_BATCHES, self.plan.sizes)
            runs += [(self._waveglow, *one) for one in sizes if one[0] <= batch_of_windows(self._waveglow, one[1])]
        for run in runs:
            for _ in range(2):  # the second run captures
                infer(run[0], **_zeros(*run))
        if isinstance(self._waveglow, PackedVocoder):
            for frames in WARM_FRAMES:  # the most first: memory that grows takes all graphs with it
                mel, z = (tensor[0] for tensor in _zeros(self._waveglow, 1, frames).values())
                for _ in range(2):
                    self._waveglow.run_packed([mel], [z])


def _zeros(engine: Engine, batch: int, frames: int) -> dict[str, Tensor]:
    """Inputs of the postnet or of WaveGlow, in their order."""
    sizes = {"batch": batch, "mel": frames}
    return {
        spec.name: torch.zeros(spec.resolve(sizes), dtype=spec.dtype, device=engine.device)
        for spec in engine.contract.inputs
    }


def _size(window: WindowInputs) -> int:
    return window.span.size
