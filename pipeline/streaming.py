"""One piece of text as a stream: decoded frames in, windows for WaveGlow out, each as early as it can be computed.

The decoder is causal; the postnet looks `POSTNET_CONTEXT` frames ahead and back; WaveGlow sees some on both sides;
noise belongs to absolute positions. So a window computes what the whole utterance would have given there, and chunks
join without cross-fading. Windows grow: small ones first for an early sound, large ones later for less overlap.
"""

from collections import deque
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from common.random_streams import NoiseWindows, RandomStreams
from pipeline.engine_set import POSTNET_CONTEXT, EngineSet
from pipeline.mel import at_speed, frames_at_speed, frames_needed
from pipeline.settings import SpeakSettings
from tacotron2.decoder import Utterance
from waveglow.denoiser import Denoiser
from waveglow.vocoder import CONTEXT, END_SILENCE, with_silence

# Frames that an utterance's last run of the postnet is lengthened to a multiple of, by more context on its left: few
# lengths, because cuDNN takes longer to choose a convolution than to run it.
POSTNET_GRAIN = 32
GPU_WINDOWS = (64, 128, 256, 512)  # frames of a stream's first, second... window; the last one goes on
# On a CPU context costs as much as audio, so there is less of it: what lies farther away changes the demo voice's
# samples by less than 1e-4. The first window is long enough to be heard for as long as the second one takes.
CPU_CONTEXT = 20
CPU_WINDOWS = (96, 96, 128, 128, 160, 192, 256, 320)
# Window sizes that there may be. Few on a GPU, where each is a CUDA graph; on a CPU a window is as short as it can be.
GPU_SIZES = GPU_WINDOWS
CPU_SIZES = tuple(range(32, 417, 32))


@dataclass(frozen=True)
class WindowPlan:
    """The window sizes of streams on a set of engines, in frames."""

    schedule: Sequence[int]  # of the first, second... window; the last one goes on
    sizes: Sequence[int]  # that there may be, ascending
    context: int  # of a window, on either side of what is kept of it
    overlap: bool  # whether windows are long enough to overlap; if not, an utterance is one window

    @classmethod
    def of(cls, engines: EngineSet) -> "WindowPlan":
        smallest, largest = engines.window_sizes
        on_cpu = (CPU_WINDOWS, CPU_SIZES, CPU_CONTEXT)
        schedule, sizes, context = (GPU_WINDOWS, GPU_SIZES, CONTEXT) if engines.on_gpu else on_cpu
        fitting = [size for size in sizes if smallest <= size <= largest]
        within = tuple(min(max(size, smallest), largest) for size in schedule)
        return cls(within, tuple(sorted({*fitting, smallest, within[-1]})), context, within[0] > 2 * context)

    def planned(self, number: int) -> int:
        return self.schedule[min(number, len(self.schedule) - 1)]

    def fitting(self, frames: int) -> int:
        """The smallest size that holds so many frames; 0 if none does."""
        return next((size for size in self.sizes if size >= frames), 0)


@dataclass(frozen=True)
class WindowRange:
    """A window that can be computed: where it lies in the utterance, in frames at the speed asked for.

    Attributes:
        stop: of what is heard; silence fills up to `start` + `size`.
        kept_stop: where the frames that are kept end; they begin where those of the window before ended.
        unrefined: decoded frames (n_mel_channels, n) that the postnet has to see first; None if all are refined.
        refined: which of them are then taken, the others being context.
    """

    start: int
    stop: int
    size: int
    kept_stop: int
    last: bool
    unrefined: Tensor | None
    refined: slice


@dataclass(frozen=True)
class Window:
    """What WaveGlow needs for a stream's next chunk.

    Attributes:
        stream: whose it is.
        mel: (n_mel_channels, size), on WaveGlow's device.
        noise: standard normal, float32 [size * hop_length / n_group, n_group].
        sigma: its standard deviation.
        kept: frames of it that become the chunk; beside them lies context.
        heard: frames of it that belong to the utterance; the rest is silence.
        first, last: of the stream.
    """

    stream: "PieceStream"
    mel: Tensor
    noise: np.ndarray
    sigma: float
    kept: slice
    heard: int
    first: bool
    last: bool

    @property
    def size(self) -> int:
        return self.mel.size(1)


class PieceStream:
    """Turns the frames of one utterance, as they are decoded, into windows. Not thread-safe.

    Args:
        pool: where noise is drawn ahead; None draws it when it is needed.
    """

    def __init__(
        self,
        engines: EngineSet,
        plan: WindowPlan,
        utterance: Utterance,
        streams: RandomStreams,
        settings: SpeakSettings,
        pool: Executor | None = None,
    ) -> None:
        self.utterance = utterance
        self.denoiser = engines.denoiser(settings.denoise)
        self._engines = engines
        self._plan = plan
        self._speed = settings.speed
        self._sigma = settings.sigma if settings.sigma is not None else engines.sigma
        self._decoded = _Frames()
        self._refined = _Frames()
        self._noise = NoiseWindows(streams, engines.noise_channels, pool)
        self._noise.draw_ahead(plan.planned(0) * engines.noise_per_frame)
        self._windows = 0
        self.kept_frames = 0  # frames (at the speed asked for) whose audio has been planned
        self.finished = False  # whether the last window has been planned

    def add(self, frames: Tensor) -> None:
        """Takes the next decoded frames (steps, n_mel_channels), whose gates have been looked at."""
        end = self.utterance.frames
        if end is None:
            self._decoded.append(frames)
        elif end > self._decoded.stop:
            self._decoded.append(frames[: end - self._decoded.stop])

    @property
    def ready(self) -> bool:
        """Whether all is there that the next window needs."""
        if self.finished or self.utterance.ended:
            return not self.finished
        _, stop = self._planned()
        return self._plan.overlap and self._decoded.stop >= frames_needed(stop, self._speed) + POSTNET_CONTEXT

    def next_range(self) -> WindowRange | None:
        """Where the next window lies, if `ready`. `window` makes it."""
        if not self.ready:
            return None
        start, stop = self._planned()
        planned, total = stop - start, self.utterance.frames
        if total is not None:
            heard_total = frames_at_speed(total, self._speed)
            rest = heard_total + END_SILENCE - start
            if rest <= planned or not self._plan.overlap:
                size = self._plan.fitting(rest) or self._plan.sizes[-1]
                return self._range(start, heard_total, size, heard_total, last=True)
            return self._range(start, min(stop, heard_total), planned, stop - self._plan.context, last=False)
        return self._range(start, stop, planned, stop - self._plan.context, last=False)

    def window(self, place: WindowRange, refined: Tensor | None) -> Window:
        """The window of a range, and moves on.

        Args:
            refined: what the postnet made of `place.unrefined`, (n_mel_channels, n).
        """
        if refined is not None:
            self._refined.append(refined[:, place.refined].T)
            self._decoded.drop(self._refined.stop - POSTNET_CONTEXT - POSTNET_GRAIN)
        first = self._refined.start
        known = self._refined.slice(first, self._refined.stop)
        mel = at_speed(known, self._speed, place.start, place.stop, first, self.utterance.frames)
        per_frame = self._engines.noise_per_frame
        noise = self._noise.take(place.start * per_frame, (place.start + place.size) * per_frame)
        window = Window(
            stream=self,
            mel=with_silence(mel, place.size),
            noise=noise,
            sigma=self._sigma,
            kept=slice(self.kept_frames - place.start, place.kept_stop - place.start),
            heard=place.stop - place.start,
            first=self._windows == 0,
            last=place.last,
        )
        self._windows += 1
        self.kept_frames = place.kept_stop
        self.finished = place.last
        next_start = max(0, place.kept_stop - self._plan.context)
        self._refined.drop(max(0, frames_needed(next_start, self._speed) - 3))
        planned = self._plan.planned(self._windows)
        if not self.finished:
            self._noise.draw_ahead((next_start + planned) * per_frame)
        return window

    def _planned(self) -> tuple[int, int]:
        """Where the next window begins, and where it ends if the utterance goes on."""
        start = max(0, self.kept_frames - self._plan.context)
        return start, start + self._plan.planned(self._windows)

    def _range(self, start: int, stop: int, size: int, kept_stop: int, last: bool) -> WindowRange:
        """A window's range, with the frames that the postnet has to see for it, context on both sides."""
        needed, total = frames_needed(stop, self._speed), self.utterance.frames
        if total is not None:
            needed = min(needed, total)
        begin = self._refined.stop
        if needed <= begin:
            return WindowRange(start, stop, size, kept_stop, last, None, slice(0))
        before, after = max(0, begin - POSTNET_CONTEXT), min(needed + POSTNET_CONTEXT, self._decoded.stop)
        if after == total:
            before = max(self._decoded.start, before - (before - after) % POSTNET_GRAIN)
        unrefined = self._decoded.slice(before, after)
        return WindowRange(start, stop, size, kept_stop, last, unrefined, slice(begin - before, needed - before))


def kept_audio(window: Window, audio: Tensor, denoiser: Denoiser | None, hop_length: int) -> Tensor:
    """The chunk's samples of a window's audio (size * hop_length,); the denoiser sees the context too."""
    audio = audio[: window.heard * hop_length].float()
    if denoiser is not None:
        audio = denoiser(audio)
    return audio[window.kept.start * hop_length : window.kept.stop * hop_length]


class _Frames:
    """Frames (n, channels) that come at the end and go at the beginning, counted from the utterance's start."""

    def __init__(self) -> None:
        self._parts: deque[Tensor] = deque()
        self._stops: deque[int] = deque()  # of each part
        self.start = 0
        self.stop = 0

    def append(self, frames: Tensor) -> None:
        self.stop += frames.size(0)
        self._parts.append(frames)
        self._stops.append(self.stop)

    def slice(self, start: int, stop: int) -> Tensor:
        """Frames from `start` to `stop` (exclusive), which must not have been dropped, as (channels, n)."""
        whole = torch.cat(list(self._parts)) if len(self._parts) != 1 else self._parts[0]
        return whole[start - self.start : stop - self.start].T

    def drop(self, before: int) -> None:
        """Lets go of parts that end before a frame."""
        while self._stops and self._stops[0] <= before:
            self.start = self._stops.popleft()
            self._parts.popleft()
