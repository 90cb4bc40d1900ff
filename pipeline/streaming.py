"""A streamed request under way. Decoded frames come into its pieces, and windows for WaveGlow go out.

The decoder is causal; the postnet looks some frames ahead and back; WaveGlow sees some on both sides; noise belongs to
absolute positions. So a window computes what the whole piece would have given there, and chunks join without
cross-fading. Where windows lie is decided in `pipeline.policy`.
"""

from collections import deque
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from common.random_streams import Noise, RandomStreams
from pipeline.engine_set import EngineSet
from pipeline.pieces import Piece, PieceResult
from pipeline.policy import (
    POSTNET_CONTEXT,
    POSTNET_GRAIN,
    PieceWindows,
    Standing,
    StreamWindow,
    WindowPlan,
    frames_at_speed,
    frames_needed,
    frames_to_refine,
)
from pipeline.speech import Speech
from pipeline.stages import at_speed, keeps_attention, sigma, stop_rule
from pipeline.words import Word, WordAligner
from tacotron2.decoder import Utterance
from waveglow.vocoder import with_silence
from waveglow.windows import Window


class Request(Standing):
    """A request that waits or is under way.

    Attributes:
        left: pieces that have not begun.
        pieces: those that are being decoded or vocoded, in order.
    """

    def __init__(self, speech: Speech, pieces: Sequence[Piece]) -> None:
        super().__init__(speech.submitted)
        self.speech = speech
        self.left = deque(pieces)
        self.pieces: deque[StreamedPiece] = deque()

    @property
    def decoding(self) -> bool:
        return any(not piece.ended for piece in self.pieces)

    @property
    def finished(self) -> bool:
        return not self.pieces and not self.left


class PlannedWindow(NamedTuple):
    """A window that can be computed once `refine`'s frames have been through the postnet; None if all have."""

    piece: "StreamedPiece"
    span: StreamWindow
    refine: Window | None

    @property
    def frames_to_refine(self) -> int:
        return 0 if self.refine is None else self.refine.stop - self.refine.start


@dataclass(frozen=True)
class WindowInputs:
    """What WaveGlow needs for a piece's next chunk.

    Attributes:
        mel: (n_mel_channels, size), on WaveGlow's device.
        noise: standard normal, float32 (size * hop_length / n_group, n_group).
    """

    piece: "StreamedPiece"
    span: StreamWindow
    mel: Tensor
    noise: Tensor


class StreamedPiece(Utterance):
    """A piece of a request in a slot of the decoder, and its windows. Not thread-safe.

    Args:
        pool: where noise is drawn ahead; None draws it when it is needed.

    Attributes:
        alignment: attention weights, float32 [steps of a block, symbols] for each block so far, none beyond the end;
            empty unless pictures are kept.
    """

    def __init__(
        self, request: Request, piece: Piece, engines: EngineSet, plan: WindowPlan, pool: Executor | None = None
    ) -> None:
        settings = request.speech.settings
        speed, streams = piece.speed_in(settings), RandomStreams(piece.seed_in(settings), piece.encoded.text)
        super().__init__(len(piece.encoded.ids), streams, stop_rule(engines, settings, speed))
        self.request = request
        self.piece = piece
        self.denoiser = engines.denoisers.get(settings.denoise)
        self.sigma = sigma(engines, settings)
        self.alignment: list[np.ndarray] = []
        self._keeps_attention, self._keeps_pictures = keeps_attention(settings), settings.keep_pictures
        self._aligner = WordAligner(piece.encoded.words, len(piece.encoded.ids), engines.frame_seconds / speed)
        self._words: list[Word] = []  # with known times, and not taken yet
        self._windows = PieceWindows(plan, speed)
        self._decoded = _Frames()
        self._refined = _Frames()
        self._noise_per_frame = engines.noise_per_frame
        self._noise = Noise(streams, engines.noise_channels, pool)
        self._noise.draw_ahead(self._windows.stop * self._noise_per_frame)

    def add(self, frames: Tensor, weights: Tensor | None) -> None:
        """Takes the next decoded frames (steps, n_mel_channels). The stop rule has seen their gates.

        Args:
            weights: of attention, (steps, at least the symbols), on the host; None where nobody keeps them.
        """
        if self.error is not None:
            return
        if self.frames is not None:
            frames = frames[: max(0, self.frames - self._decoded.stop)]
        if not len(frames):
            return
        self._decoded.append(frames)
        if weights is not None and self._keeps_attention:
            kept = weights[: len(frames), : self.symbols].float().numpy()
            if self.piece.encoded.words:
                self._words += self._aligner.add(kept)
            if self._keeps_pictures:
                self.alignment.append(kept.copy())

    @property
    def ready(self) -> bool:
        """Whether the next window can be computed, or can't because of an error."""
        return self.error is not None or self._windows.ready(self._decoded.stop, self.frames)

    def next_window(self) -> PlannedWindow:
        """The next window, which must be ready. `window` computes it."""
        span = self._windows.next(self.frames)
        needed = frames_needed(span.stop, self._windows.speed)
        decoded = self._decoded.start, self._decoded.stop
        return PlannedWindow(self, span, frames_to_refine(needed, self._refined.stop, decoded, self.frames))

    def unrefined(self, refine: Window) -> Tensor:
        """Decoded frames that the postnet has to see, (n_mel_channels, n)."""
        return self._decoded.slice(refine.start, refine.stop)

    def window(self, planned: PlannedWindow, refined: Tensor | None) -> WindowInputs:
        """The next window as tensors; goes on to the one after it.

        Args:
            refined: what the postnet made of `planned.refine`, (n_mel_channels, n).
        """
        span, refine = planned.span, planned.refine
        if refined is not None and refine is not None:
            self._refined.append(refined[:, refine.keep_start - refine.start : refine.keep_stop - refine.start].T)
            self._decoded.drop(self._refined.stop - POSTNET_CONTEXT - POSTNET_GRAIN)
        first, windows, per_frame = self._refined.start, self._windows, self._noise_per_frame
        known = self._refined.slice(first, self._refined.stop)
        mel = with_silence(at_speed(known, windows.speed, span.start, span.stop, first, self.frames), span.size)
        noise = self._noise.take(span.start * per_frame, (span.start + span.size) * per_frame)
        windows.advance(span)
        self._refined.drop(max(0, frames_needed(windows.start, windows.speed) - 3))
        if not windows.finished:
            self._noise.draw_ahead(windows.stop * per_frame)
        return WindowInputs(self, span, mel, noise)

    def take_words(self, last: bool) -> list[Word]:
        """The words that became known since the last call, with times from the beginning of the piece's audio.

        Args:
            last: whether the last window is done; then all are known.
        """
        if last and self.piece.encoded.words:
            self._words += self._aligner.finish(cut=self.stop_reason == "cap")
        words, self._words = self._words, []
        return words

    def result(self) -> PieceResult:
        """What became of the piece, after its last window."""
        assert self.frames is not None
        frames = frames_at_speed(self.frames, self._windows.speed)
        alignment = np.concatenate(self.alignment) if self.alignment else None
        return PieceResult(self.piece, None, frames, self.stop_reason, alignment=alignment)


class _Frames:
    """Frames (n, channels) that come at the end and go at the beginning, counted from the utterance's start."""

    def __init__(self) -> None:
        self._blocks: deque[Tensor] = deque()
        self._stops: deque[int] = deque()  # of each block
        self.start = 0
        self.stop = 0

    def append(self, frames: Tensor) -> None:
        self.stop += frames.size(0)
        self._blocks.append(frames)
        self._stops.append(self.stop)

    def slice(self, start: int, stop: int) -> Tensor:
        """Frames from `start` to `stop` (exclusive), which must not have been dropped, as (channels, n)."""
        whole = torch.cat(list(self._blocks)) if len(self._blocks) != 1 else self._blocks[0]
        return whole[start - self.start : stop - self.start].T

    def drop(self, before: int) -> None:
        """Releases blocks that end before a frame."""
        while self._stops and self._stops[0] <= before:
            self.start = self._stops.popleft()
            self._blocks.popleft()
