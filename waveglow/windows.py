"""Chooses which frames go through WaveGlow together, on plain numbers without tensors.

What a window computes near an edge that is not the utterance's own differs from what the whole would have given, since
the networks see zeros instead of the neighbouring frames. The difference fades with distance: at least `CONTEXT` frames
are computed on both sides and thrown away (overlap-discard).

Utterances are first lengthened by silence, by at least `END_SILENCE` frames to a multiple of `GRAIN`, and the audio is
cut again. So engines meet few shapes, windows of different utterances go through in one batch, the shortest word is
long enough for a TensorRT profile, and how much silence follows is not heard. What is done to an utterance depends on
its own length alone.
"""

from itertools import pairwise
from typing import NamedTuple

GRAIN = 32  # frames
CONTEXT = 24  # frames; tests/test_vocoder.py states the error that is left
END_SILENCE = 12  # frames: what is beyond them changes the demo voice's samples by less than 1e-4


class Window(NamedTuple):
    """Frames [start, stop) go through a network; of its result, frames [keep_start, keep_stop) are kept."""

    start: int
    stop: int
    keep_start: int
    keep_stop: int

    @property
    def size(self) -> int:
        return self.stop - self.start


def padded_frames(frames: int, smallest: int = GRAIN) -> int:
    """The number of frames that an utterance of `frames` is lengthened to, and that it needs noise for.

    Args:
        smallest: the least that the engine takes, a multiple of GRAIN.
    """
    return max(smallest, -(-(frames + END_SILENCE) // GRAIN) * GRAIN)


def plan_windows(frames: int, window: int, context: int = CONTEXT, smallest: int = GRAIN) -> list[Window]:
    """Windows of one size, from `smallest` to `window` frames, that together keep each of `frames` frames once.

    All numbers of frames are multiples of GRAIN. Raises ValueError if a long mel meets windows without room.
    """
    if frames <= window:
        return [Window(0, frames, 0, frames)]
    if window <= 2 * context:
        raise ValueError(f"a window of {window} frames has no room for {context} frames of context on both sides")
    count = -(-(frames - 2 * context) // (window - 2 * context))
    even = -(-(frames + 2 * context * (count - 1)) // count)
    size = max(smallest, -(-even // GRAIN) * GRAIN)
    starts = [(frames - size) * i // (count - 1) for i in range(count)]
    middles = [(left + size + right) // 2 for left, right in pairwise(starts)]
    edges = [0, *middles, frames]
    return [Window(start, start + size, *keep) for start, keep in zip(starts, pairwise(edges), strict=True)]


def grains_within(low: int, high: int) -> tuple[int, int] | None:
    """The smallest and largest multiple of GRAIN from `low` to `high`, both inclusive; None where there is none."""
    smallest, largest = max(1, -(-low // GRAIN)) * GRAIN, high // GRAIN * GRAIN
    return (smallest, largest) if smallest <= largest else None
