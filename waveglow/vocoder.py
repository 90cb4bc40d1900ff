"""Mel to audio in bounded memory: long mels go through WaveGlow in windows that overlap (see `waveglow.windows`)."""

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from common.engine import Engine, PackedVocoder, Range, infer
from common.errors import UserError
from waveglow.windows import CONTEXT, GRAIN, Window, grains_within, padded_frames, plan_windows

SILENCE = -11.512925  # the log mel of nothing: log(1e-5), the floor that models are trained with
CPU_WINDOW, GPU_WINDOW = 384, 1664  # frames vocoded at a time, context included
GPU_BATCH_FRAMES = 32 * 1024  # of all windows that go through a GPU at once: what bounds its memory


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
        engine: a `waveglow` engine; a PackedVocoder takes windows of different sizes in one run.
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
    windows = [
        (index, one)
        for index, mel in enumerate(padded)
        for one in plan_windows(mel.size(1), largest, context, smallest)
    ]
    packing = len({one.size for _, one in windows}) > 1 and isinstance(engine, PackedVocoder)
    done = 0
    for group in packs(windows, lambda pair: pair[1].size) if packing else _batches(engine, windows):
        chosen = [padded[i][:, one.start : one.stop] for i, one in group]
        noise = [noises[i][:, one.start * per_frame : one.stop * per_frame] for i, one in group]
        if packing and isinstance(engine, PackedVocoder):
            rows: Iterable[Tensor] = engine.run_packed(chosen, noise)
        else:
            rows = infer(engine, mel=torch.stack(chosen), z=torch.stack(noise))["audio"]
        for (index, one), row in zip(group, rows, strict=True):
            audio = audios[index]
            if audio is None:
                frames = padded[index].size(1)
                audio = audios[index] = row if one.size == frames else row.new_empty(frames * hop)
            if audio is not row:
                kept = slice((one.keep_start - one.start) * hop, (one.keep_stop - one.start) * hop)
                audio[one.keep_start * hop : one.keep_stop * hop] = row[kept]
            done += one.keep_stop - one.keep_start
        if on_frames is not None:
            on_frames(done)
    return [audio[: mel.size(1) * hop] for audio, mel in zip(audios, mels, strict=True) if audio is not None]


def _batches(engine: Engine, windows: Sequence[tuple[int, Window]]) -> Iterator[Sequence[tuple[int, Window]]]:
    """Windows of one size together, as many as go through at once."""
    by_size: dict[int, list[tuple[int, Window]]] = {}
    for index, window in windows:
        by_size.setdefault(window.size, []).append((index, window))
    for size, equal in by_size.items():
        batch = batch_of_windows(engine, size)
        for first in range(0, len(equal), batch):
            yield equal[first : first + batch]


Item = TypeVar("Item")


def packs(items: Sequence[Item], size: Callable[[Item], int]) -> Iterator[Sequence[Item]]:
    """Windows of any sizes together, for a vocoder that takes them: runs of about the same number of frames."""
    total = sum(map(size, items))
    share = total / max(1, -(-total // GPU_BATCH_FRAMES))
    pack: list[Item] = []
    frames = done = 0
    for item in items:
        if pack and frames + size(item) / 2 > share * (done + 1):
            yield pack
            pack, done = [], done + 1
        pack.append(item)
        frames += size(item)
    if pack:
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
