"""Mel to audio in bounded memory: long mels go through WaveGlow in windows that overlap by real context.

What a window computes near an edge that is not the utterance's own differs from what the whole would have given, since
the networks see zeros instead of the neighbouring frames. The difference fades with distance: at least `CONTEXT` frames
are computed on both sides and thrown away (overlap-discard).

Utterances are first lengthened by silence, by at least `END_SILENCE` frames to a multiple of `GRAIN`, and the audio is
cut again. So engines meet few shapes, windows of different utterances go through in one batch, the shortest word is
long enough for a TensorRT profile, and how much silence follows is not heard. What is done to an utterance depends on
its own length alone.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from common.engine import Engine, Range, infer
from common.errors import UserError

GRAIN = 32  # frames
CONTEXT = 24  # frames; tests/test_vocoder.py states the error that is left
END_SILENCE = 12  # frames: what is beyond them changes the demo voice's samples by less than 1e-4
SILENCE = -11.512925  # the log mel of nothing: log(1e-5), the floor that models are trained with
CPU_WINDOW, GPU_WINDOW = 384, 1664  # frames vocoded at a time, context included
GPU_BATCH_FRAMES = 32 * 1024  # of all windows that go through a GPU at once: what bounds its memory


@dataclass(frozen=True)
class Window:
    """Frames [start, stop) go through WaveGlow; of its audio, frames [keep_start, keep_stop) are kept."""

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


def grains_within(low: int, high: int) -> Range | None:
    """The smallest and largest multiple of GRAIN from `low` to `high`, both inclusive; None where there is none."""
    smallest, largest = max(1, -(-low // GRAIN)) * GRAIN, high // GRAIN * GRAIN
    return (smallest, largest) if smallest <= largest else None


def window_sizes(engine: Engine, window: int | None = None) -> Range:
    """The smallest and largest number of frames that a `waveglow` engine vocodes at a time, multiples of GRAIN.

    Args:
        window: the most that the user wants; None takes what suits the device.

    Raises:
        UserError: the engine's profile holds no multiple of GRAIN.
    """
    low, high = engine.limits.get("mel", (1, sys.maxsize))
    grains = grains_within(low, high)
    if grains is None:
        raise UserError(
            f"{engine.name}: its profile takes {low} to {high} mel frames, none of them a multiple of {GRAIN}; build "
            "it with a wider --mel-size"
        )
    smallest = grains[0]
    wanted = window or (GPU_WINDOW if engine.device.type == "cuda" else CPU_WINDOW)
    largest = min(max(wanted, smallest), grains[1]) // GRAIN * GRAIN
    return smallest, largest


def vocode(
    engine: Engine,
    mels: Sequence[Tensor],
    noises: Sequence[Tensor],
    window: int | None = None,
    context: int = CONTEXT,
    on_frames: Callable[[int], None] | None = None,
) -> list[Tensor]:
    """Vocodes utterances of any lengths.

    Args:
        engine: a `waveglow` engine; one with a method `run_packed` takes windows of different sizes in one run.
        mels: of each utterance (n_mel_channels, M), on the engine's device and in its dtype.
        noises: of each utterance (n_group, padded_frames(M, smallest) * hop_length / n_group), scaled by sigma,
            likewise; a window takes the noise of its own positions.
        window: the most frames of one utterance that go through WaveGlow at once: what bounds the memory.
        on_frames: called with the number of frames done, for progress.

    Returns:
        of each utterance its audio (M * hop_length,), in the engine's dtype.
    """
    smallest, largest = window_sizes(engine, window)
    padded = [with_silence(mel, padded_frames(mel.size(1), smallest)) for mel in mels]
    per_frame = noises[0].size(1) // padded[0].size(1)
    hop = per_frame * noises[0].size(0)
    audios: list[Tensor | None] = [None] * len(padded)
    parts = [
        (index, part)
        for index, mel in enumerate(padded)
        for part in plan_windows(mel.size(1), largest, context, smallest)
    ]
    packed = getattr(engine, "run_packed", None) is not None and len({part.size for _, part in parts}) > 1
    done = 0
    for group in _packs(parts) if packed else _batches(engine, parts):
        chosen = [padded[i][:, part.start : part.stop] for i, part in group]
        noise = [noises[i][:, part.start * per_frame : part.stop * per_frame] for i, part in group]
        if packed:
            pieces = engine.run_packed(chosen, noise)  # type: ignore[attr-defined]
        else:
            pieces = infer(engine, mel=torch.stack(chosen), z=torch.stack(noise))["audio"]
        for (index, part), piece in zip(group, pieces, strict=True):
            audio = audios[index]
            if audio is None:
                frames = padded[index].size(1)
                audio = audios[index] = piece if part.size == frames else piece.new_empty(frames * hop)
            if audio is not piece:
                kept = slice((part.keep_start - part.start) * hop, (part.keep_stop - part.start) * hop)
                audio[part.keep_start * hop : part.keep_stop * hop] = piece[kept]
            done += part.keep_stop - part.keep_start
        if on_frames is not None:
            on_frames(done)
    return [audio[: mel.size(1) * hop] for audio, mel in zip(audios, mels, strict=True) if audio is not None]


def _batches(engine: Engine, parts: Sequence[tuple[int, Window]]) -> Iterator[Sequence[tuple[int, Window]]]:
    """Windows of one size together, as many as go through at once."""
    by_size: dict[int, list[tuple[int, Window]]] = {}
    for index, part in parts:
        by_size.setdefault(part.size, []).append((index, part))
    for size, equal in by_size.items():
        batch = batch_of_windows(engine, size)
        for first in range(0, len(equal), batch):
            yield equal[first : first + batch]


def _packs(parts: Sequence[tuple[int, Window]]) -> Iterator[Sequence[tuple[int, Window]]]:
    """Windows of any sizes together, for an engine that takes them: runs of about the same number of frames."""
    total = sum(part.size for _, part in parts)
    share = total / -(-total // GPU_BATCH_FRAMES)
    pack: list[tuple[int, Window]] = []
    frames = packs = 0
    for index, part in parts:
        if pack and frames + part.size / 2 > share * (packs + 1):
            yield pack
            pack, packs = [], packs + 1
        pack.append((index, part))
        frames += part.size
    yield pack


def with_silence(mel: Tensor, frames: int) -> Tensor:
    """(n_mel_channels, M) lengthened by silence to (n_mel_channels, frames)."""
    return mel if mel.size(1) == frames else F.pad(mel, (0, frames - mel.size(1)), value=SILENCE)


def batch_of_windows(engine: Engine, size: int) -> int:
    """How many windows of `size` frames go through at once, at most.

    On a CPU one window fills all cores; more would only take more memory.
    """
    batch = max(1, GPU_BATCH_FRAMES // size) if engine.device.type == "cuda" else 1
    return min(batch, engine.limits["batch"][1]) if "batch" in engine.limits else batch
