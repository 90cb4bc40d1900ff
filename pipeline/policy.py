"""What to do next: decisions on plain data, without engines and tensors.

Where the windows of a piece lie, which of many come next, which request gets a slot, what goes through an engine
together, and when a request is refused. `pipeline.scheduler` asks, `pipeline.runner` executes.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

from waveglow.windows import CONTEXT, END_SILENCE, Window

Range = tuple[int, int]

# Slots of the decoder on a GPU, where each count is a CUDA graph. Counts from 4 on use the same kernels for a row, so
# that a row's rounding does not depend on how many others there are.
GPU_SLOT_COUNTS = (4, 16, 32, 64)
GPU_SLOTS, CPU_SLOTS = 32, 8  # at most, unless the caller says otherwise
ENCODED_TOGETHER = 8  # texts at most, on a GPU
MAX_UNREAD_SECONDS = 30.0  # of unread audio: beyond it no further piece of a request begins
# Blocks of decoder steps in one round on a GPU, at most: enough for a first window. What follows them (texts encoded,
# frames refined, windows vocoded) costs hardly more for many requests than for one.
GPU_BLOCKS, CPU_BLOCKS = 6, 1
# Frames of later windows in one round on a GPU: few while a request waits for its first sound.
LATER_FRAMES, LATER_FRAMES_WHILE_WAITING = 8192, 2048

POSTNET_CONTEXT = 10  # frames that a frame depends on, on either side: five convolutions of five
# On a GPU frames go through the postnet in windows of one size, which is one CUDA graph; those of streams in batches of
# one size, too: a convolution's rounding depends on it.
POSTNET_WINDOW, POSTNET_BATCH = 64, 32
GPU_WINDOWS = (64, 128, 256, 512)  # frames of a stream's first, second... window; the last one goes on
# On a CPU context costs as much as audio, so there is less of it: what lies farther away changes the demo voice's
# samples by less than 1e-4. The first window is long enough to be heard for as long as the second one takes.
CPU_CONTEXT = 20
CPU_WINDOWS = (96, 96, 128, 128, 160, 192, 256, 320)
# Window sizes that there may be: few where each is a CUDA graph of its own. Elsewhere a window is as short as can be.
EQUAL_SIZES = GPU_WINDOWS
ANY_SIZES = tuple(range(32, 513, 32))


# The windows of one piece


def frames_at_speed(frames: int, speed: float) -> int:
    """The number of frames that `frames` become: at least 1."""
    return frames if speed == 1 else max(1, round(frames / speed))


def frames_needed(stop: int, speed: float) -> int:
    """How many of the old frames have to be known for the new ones before `stop` (the end apart)."""
    return stop if speed == 1 else max(1, int((stop - 0.5) * speed - 0.5) + 2)


@dataclass(frozen=True)
class WindowPlan:
    """The window sizes of streams on a set of engines, in frames."""

    schedule: Sequence[int]  # of the first, second... window; the last one goes on
    sizes: Sequence[int]  # that there may be, ascending
    context: int  # of a window, on either side of what is kept of it
    overlap: bool  # whether windows are long enough to overlap; if not, a piece is one window
    refined: int | None  # frames that go through the postnet at a time; None for no more than are needed

    @classmethod
    def of(cls, window_sizes: Range, on_gpu: bool, packed: bool, mel: Range) -> "WindowPlan":
        """The plan for a vocoder that takes windows of these sizes (both inclusive; `packed`: of different ones in one
        run), and a postnet of these."""
        smallest, largest = window_sizes
        schedule, context = (GPU_WINDOWS, CONTEXT) if on_gpu else (CPU_WINDOWS, CPU_CONTEXT)
        fitting = [size for size in (ANY_SIZES if packed or not on_gpu else EQUAL_SIZES) if smallest <= size <= largest]
        within = tuple(min(max(size, smallest), largest) for size in schedule)
        sizes = tuple(sorted({*fitting, smallest, within[-1]}))
        return cls(within, sizes, context, within[0] > 2 * context, postnet_window(mel, on_gpu))

    def planned(self, number: int) -> int:
        return self.schedule[min(number, len(self.schedule) - 1)]

    def fitting(self, frames: int) -> int:
        """The smallest size that holds so many frames; the largest there is if none does."""
        return next((size for size in self.sizes if size >= frames), self.sizes[-1])


class StreamWindow(NamedTuple):
    """A stream's next window, in frames of its piece at the piece's speed.

    Frames [start, stop) are heard, and silence fills up to `start` + `size`. Of the audio, frames
    [keep_start, keep_stop) become the chunk; beside them lies context.
    """

    start: int
    stop: int
    size: int
    keep_start: int
    keep_stop: int
    first: bool
    last: bool


class PieceWindows:
    """The windows of one piece, in order, as its frames are decoded.

    A window computes what the whole piece would have given there: noise belongs to absolute positions, and context is
    real. Small windows come first for an early sound, large ones later for less overlap.

    Attributes:
        made: windows so far.
        kept: frames whose audio belongs to them.
        finished: whether the last one has been made.
    """

    def __init__(self, plan: WindowPlan, speed: float) -> None:
        self.plan = plan
        self.speed = speed
        self.made = 0
        self.kept = 0
        self.finished = False

    @property
    def start(self) -> int:
        """Where the next window begins."""
        return max(0, self.kept - self.plan.context)

    @property
    def stop(self) -> int:
        """Where the next window ends if the piece goes on."""
        return self.start + self.plan.planned(self.made)

    def ready(self, decoded: int, total: int | None) -> bool:
        """Whether all is there that the next window needs.

        Args:
            decoded: frames decoded so far.
            total: the piece's number of decoded frames, once it is known.
        """
        if self.finished or total is not None:
            return not self.finished
        return self.plan.overlap and decoded >= frames_needed(self.stop, self.speed) + POSTNET_CONTEXT

    def next(self, total: int | None) -> StreamWindow:
        """The next window, which must be ready. `advance` goes on to the one after it."""
        start, stop = self.start, self.stop
        size, heard, keep_stop, last = stop - start, stop, stop - self.plan.context, False
        if total is not None:
            end = frames_at_speed(total, self.speed)
            heard = min(stop, end)
            if end + END_SILENCE <= stop or not self.plan.overlap:
                size, heard, keep_stop, last = self.plan.fitting(end + END_SILENCE - start), end, end, True
        return StreamWindow(start, heard, size, self.kept, keep_stop, self.made == 0, last)

    def advance(self, window: StreamWindow) -> None:
        self.made += 1
        self.kept = window.keep_stop
        self.finished = window.last


def postnet_window(mel: Range, on_gpu: bool) -> int | None:
    """The size of all windows that a postnet of these limits refines; None where it takes any."""
    return POSTNET_WINDOW if on_gpu and mel[0] <= POSTNET_WINDOW <= mel[1] else None


def frames_to_refine(needed: int, refined: int, total: int | None, size: int | None) -> list[Window]:
    """Which decoded frames go through the postnet so that a piece's first `needed` are refined.

    The windows depend on what is needed alone, not on how much has been decoded by then: a frame's rounding may depend
    on its place in a window, and nobody's audio must depend on who else is spoken.

    Args:
        refined: frames refined so far.
        total: the piece's number of decoded frames, once it is known.
        size: of each window, but for pieces that are shorter. Windows begin less than `size` frames before `refined`,
            and may reach beyond what is decoded: what stands there changes nothing that is kept. None for windows that
            are as short as can be.
    """
    end = total if total is not None and needed > total - POSTNET_CONTEXT else None  # where context ends, too
    windows = []
    while refined < (needed if end is None else end):
        start = max(0, refined - POSTNET_CONTEXT)
        stop = needed + POSTNET_CONTEXT if size is None else start + size
        keep_stop = min(stop - POSTNET_CONTEXT, needed)
        if end is not None and stop >= end:
            start, stop, keep_stop = max(0, start - (stop - end)) if size else start, end, end
        windows.append(Window(start, stop, refined, keep_stop))
        refined = keep_stop
    return windows


# Many requests


@dataclass(eq=False)
class Standing:
    """How a request stands. Times are of one clock, in seconds.

    Attributes:
        submitted: when it came.
        first_audio: when its first chunk was delivered; None before.
        delivered: seconds of audio.
    """

    submitted: float
    first_audio: float | None = None
    delivered: float = 0.0

    def runs_out(self, now: float) -> float:
        """When its listener has heard everything: now, before the first sound."""
        return (now if self.first_audio is None else self.first_audio) + self.delivered

    @property
    def urgency(self) -> tuple[int, float]:
        """Sorts requests: those without a sound first, in their order; then whose listener runs out of audio first."""
        return (0, self.submitted) if self.first_audio is None else (1, self.runs_out(0.0))


Item = TypeVar("Item")
Request = TypeVar("Request", bound=Standing)


def refusal(waiting: int, under_way: int, max_waiting: int, max_slots: int) -> str | None:
    """Why one more request can't be taken; None if it can."""
    if waiting >= max_waiting:
        return f"{waiting} requests are waiting"
    if waiting + under_way >= max_waiting + max_slots:
        return f"{under_way} requests are under way"
    return None


def may_begin_piece(unread_seconds: float, draining: bool) -> bool:
    """Whether a request's next piece may begin. A slow reader must not fill the memory, nor hold up the end."""
    return draining or unread_seconds < MAX_UNREAD_SECONDS


def admitted(waiting: Iterable[Request], going_on: Iterable[Request], slots: int, now: float) -> list[Request]:
    """Which requests get the free slots: those that have waited longest.

    Args:
        waiting: for a first sound, since they came.
        going_on: for their next piece, since the audio before it ran out. Listeners who are seconds ahead come last.
    """
    since = [(one.submitted, one) for one in waiting] + [(one.runs_out(now), one) for one in going_on]
    return [one for _, one in sorted(since, key=lambda pair: pair[0])[: max(0, slots)]]


def next_windows(ready: Iterable[tuple[Request, int]], somebody_waits: bool, one_at_a_time: bool) -> list[Request]:
    """Whose windows are computed in this round: first ones before later ones, then by urgency.

    Args:
        ready: requests with the size of the window that each could have.
        somebody_waits: whether a request has no sound yet.
        one_at_a_time: whether a window takes the whole processor; then another may be more urgent after it.
    """
    chosen = []
    frames_left = LATER_FRAMES_WHILE_WAITING if somebody_waits else LATER_FRAMES
    for one, size in sorted(ready, key=lambda pair: pair[0].urgency):
        if one.first_audio is not None:
            if frames_left <= 0:
                continue
            frames_left -= size
        chosen.append(one)
    return chosen[:1] if one_at_a_time else chosen


def in_batches(items: Iterable[Item], size: Callable[[Item], int], most: Callable[[int], int]) -> list[list[Item]]:
    """Items of one size together, in powers of two (few shapes are captured), in the order of each size's first item.

    Args:
        most: how many of a size go through an engine at once, at most.
    """
    by_size: dict[int, list[Item]] = {}
    for item in items:
        by_size.setdefault(size(item), []).append(item)
    batches = []
    for key, group in by_size.items():
        done = 0
        while done < len(group):
            count = min(most(key), 1 << ((len(group) - done).bit_length() - 1))
            batches.append(group[done : done + count])
            done += count
    return batches


def slots(batch: Range, on_gpu: bool, max_slots: int | None) -> tuple[int, Sequence[int] | None]:
    """The number of the decoder's slots, and the counts that there may be (None: any), for engines of these batches."""
    low, high = batch
    if not on_gpu:
        return min(max_slots or CPU_SLOTS, high), None if low == 1 else range(low, high + 1)
    most = min(max_slots or GPU_SLOTS, high)
    return most, tuple(sorted({*(max(low, count) for count in GPU_SLOT_COUNTS if count < most), most}))
