"""A streamed request under way. Decoded frames come into its pieces, and windows for WaveGlow go out.

The decoder is causal; the postnet looks some frames ahead and back; WaveGlow sees some on both sides; noise belongs to
absolute positions. So a window computes what the whole piece would have given there, and chunks join without
cross-fading. Where windows lie is decided in `pipeline.policy`.

Frames stay in the tensors that engines have made, each with rows of many pieces. A piece knows which rows are its own,
and one copy fetches those of all pieces (`FrameTable`): on a GPU every copy takes the host's time.
"""

from collections import deque
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from common.cuda import upload
from common.random_streams import Noise, RandomStreams
from pipeline.engine_set import EngineSet
from pipeline.pieces import Piece, PieceResult
from pipeline.policy import (
    POSTNET_CONTEXT,
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


class FrameTable:
    """The rows of several tensors, numbered as if they were one.

    Args:
        filler: the value of row 0, which stands where there is no frame.
    """

    def __init__(self, filler: float) -> None:
        self._filler = filler
        self._tensors: list[Tensor] = []
        self._firsts: dict[int, int] = {}  # the number of a tensor's first row, by its id
        self._rows = 1

    def first(self, tensor: Tensor) -> int:
        """The number of a tensor's first row. It is (rows, channels), and joins the table if it hasn't yet."""
        if id(tensor) not in self._firsts:
            self._firsts[id(tensor)] = self._rows
            self._tensors.append(tensor)
            self._rows += len(tensor)
        return self._firsts[id(tensor)]

    def fetch(self, numbers: np.ndarray) -> Tensor:
        """Rows by their numbers, int64 [n]: (n, channels)."""
        filler = self._tensors[0].new_full((1, self._tensors[0].size(1)), self._filler)
        rows = torch.cat([filler, *self._tensors])
        return rows.index_select(0, upload(numbers, rows.device))


@dataclass(frozen=True)
class WindowInputs:
    """What WaveGlow needs for a piece's next chunk.

    Attributes:
        mel: (n_mel_channels, size), on WaveGlow's device.
        noise: float32 (size * hop_length / n_group, n_group), on the host.
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
        self.denoise = settings.denoise
        engines.denoiser.prepare(settings.denoise)
        self.alignment: list[np.ndarray] = []
        self._keeps_attention, self._keeps_pictures = keeps_attention(settings), settings.keep_pictures
        words, seconds = piece.encoded.words, engines.frame_seconds / speed
        self._aligner = WordAligner(words, len(piece.encoded.ids), seconds) if words else None
        self._words: list[Word] = []  # with known times, and not taken yet
        self._plan, self._windows = plan, PieceWindows(plan, speed)
        self._decoded = _Frames()
        self._refined = _Frames()
        self._noise_per_frame = engines.noise_per_frame
        self._noise = Noise(streams, engines.noise_channels, pool, sigma(engines, settings))
        self._noise.draw_ahead(self._windows.stop * self._noise_per_frame)

    def add(self, frames: Tensor, rows: range, weights: Tensor | None) -> None:
        """Takes the next decoded frames. The stop rule has seen their gates.

        Args:
            frames: of all slots, (n, n_mel_channels).
            rows: the piece's own of them, in order.
            weights: of attention, (steps, at least the symbols), on the host; None where nobody keeps them.
        """
        if self.error is not None:
            return
        if self.frames is not None:
            rows = rows[: max(0, self.frames - self._decoded.stop)]
        if not rows:
            return
        self._decoded.append(frames, rows)
        if weights is not None and self._keeps_attention:
            kept = weights[: len(rows), : self.symbols].float().numpy()
            if self._aligner is not None:
                self._words += self._aligner.add(kept)
            if self._keeps_pictures:
                self.alignment.append(kept.copy())

    @property
    def ready(self) -> bool:
        """Whether the next window can be computed, or can't because of an error."""
        return self.error is not None or self._windows.ready(self._decoded.stop, self.frames)

    @property
    def next_window(self) -> StreamWindow:
        """The next window, which must be ready."""
        return self._windows.next(self.frames)

    def to_refine(self, table: FrameTable) -> list[tuple[Window, np.ndarray]]:
        """What has to go through the postnet before the next window: windows, and the decoded frames that it sees in
        each, int64 [size], by their numbers in a table."""
        needed = frames_needed(self.next_window.stop, self._windows.speed)
        windows = frames_to_refine(needed, self._refined.stop, self.frames, self._plan.refined)
        if not windows:
            return []
        start, stop = min(window.start for window in windows), max(window.stop for window in windows)
        numbers = self._decoded.numbers(table, start, stop - start)
        return [(window, numbers[window.start - start : window.stop - start]) for window in windows]

    def add_refined(self, frames: Tensor, first: int, window: Window) -> None:
        """Takes what the postnet made of a window, which begins in row `first` of `frames` (n, n_mel_channels)."""
        self._refined.append(
            frames, range(first + window.keep_start - window.start, first + window.keep_stop - window.start)
        )
        self._decoded.drop(self._refined.stop - (self._plan.refined or POSTNET_CONTEXT))

    def refined(self, table: FrameTable) -> np.ndarray:
        """The refined frames that the next window is made of, int64 [n]: their numbers in a table."""
        if self._windows.speed == 1:
            span = self.next_window
            return self._refined.numbers(table, span.start, span.size)
        return self._refined.numbers(table, self._refined.start, self._refined.stop - self._refined.start)

    def window(self, frames: Tensor) -> WindowInputs:
        """The next window, of the frames that `refined` names, (n, n_mel_channels)."""
        span, windows, per_frame, mel = self.next_window, self._windows, self._noise_per_frame, frames.T
        if windows.speed != 1:
            moved = at_speed(mel, windows.speed, span.start, span.stop, self._refined.start, self.frames)
            mel = with_silence(moved, span.size)
        noise = self._noise.take(span.start * per_frame, (span.start + span.size) * per_frame)
        return WindowInputs(self, span, mel, noise)

    def advance(self) -> None:
        """Goes on to the window after the next one."""
        windows = self._windows
        windows.advance(self.next_window)
        self._refined.drop(max(0, frames_needed(windows.start, windows.speed) - 3))
        if not windows.finished:
            self._noise.draw_ahead(windows.stop * self._noise_per_frame)

    def take_words(self, last: bool) -> list[Word]:
        """The words that became known since the last call, with times from the beginning of the piece's audio.

        Args:
            last: whether the last window is done; then all are known.
        """
        if last and self._aligner is not None:
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
    """A piece's frames, counted from its start: rows of tensors. They come at the end and go at the beginning."""

    def __init__(self) -> None:
        self._parts: deque[tuple[int, Tensor, np.ndarray]] = deque()  # the frame after its last one, and its rows
        self.start = 0
        self.stop = 0

    def append(self, tensor: Tensor, rows: range) -> None:
        self.stop += len(rows)
        self._parts.append((self.stop, tensor, np.arange(rows.start, rows.stop, rows.step)))

    def numbers(self, table: FrameTable, start: int, size: int) -> np.ndarray:
        """The numbers of `size` frames from `start` on, which must not have been dropped; 0 for those to come."""
        numbers = np.zeros(size, np.int64)
        for end, tensor, rows in self._parts:
            begin = end - len(rows)
            wanted = rows[max(0, start - begin) : max(0, start + size - begin)]
            if len(wanted):
                place = max(0, begin - start)
                np.add(wanted, table.first(tensor), out=numbers[place : place + len(wanted)])
        return numbers

    def drop(self, before: int) -> None:
        """Releases parts that end before a frame."""
        while self._parts and self._parts[0][0] <= before:
            self.start = self._parts.popleft()[0]
