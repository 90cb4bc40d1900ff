"""Mel to audio in bounded memory: long mels go through WaveGlow in windows that overlap by real context.

What a window computes near an edge that is not the utterance's own differs from what the whole would have given, since
the networks see zeros instead of the neighbouring frames. The difference fades with distance: at least `CONTEXT` frames
are computed on both sides and thrown away.

Utterances are first lengthened by silence to a multiple of `GRAIN` frames, and the audio is cut again. So engines meet
few shapes, windows of different utterances go through in one batch, and the shortest word is long enough for a TensorRT
profile. What is done to an utterance depends on its own length alone.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from common.engine import Engine, infer

GRAIN = 32  # frames
CONTEXT = 24  # frames; tests/test_vocoder.py states the error that is left
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


def padded_frames(frames: int) -> int:
    """The number of frames that an utterance of `frames` is lengthened to, and that it needs noise for."""
    return -(-frames // GRAIN) * GRAIN


def plan_windows(frames: int, window: int, context: int = CONTEXT) -> list[Window]:
    """Windows of one size, at most `window` frames, that together keep each of `frames` frames once.

    `frames` and `window` are multiples of GRAIN, and so is the size.
    """
    if window <= 2 * context:
        raise ValueError(f"a window of {window} frames has no room for {context} frames of context on both sides")
    if frames <= window:
        return [Window(0, frames, 0, frames)]
    count = -(-(frames - 2 * context) // (window - 2 * context))
    size = padded_frames(-(-(frames + 2 * context * (count - 1)) // count))
    starts = [(frames - size) * i // (count - 1) for i in range(count)]
    middles = [(left + size + right) // 2 for left, right in pairwise(starts)]
    edges = [0, *middles, frames]
    return [Window(start, start + size, *keep) for start, keep in zip(starts, pairwise(edges), strict=True)]


def window_of(engine: Engine, window: int | None) -> int:
    """The frames that an engine vocodes at a time: what the user says or what suits the device, within its limits."""
    window = window or (GPU_WINDOW if engine.device.type == "cuda" else CPU_WINDOW)
    if "mel" in engine.limits:
        window = min(window, engine.limits["mel"][1])
    return window // GRAIN * GRAIN


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
        engine: a `waveglow` engine.
        mels: of each utterance (n_mel_channels, M), on the engine's device and in its dtype.
        noises: of each utterance (n_group, padded_frames(M) * 256 / n_group), scaled by sigma, likewise; a window takes
            the noise of its own positions.
        window: the most frames of one utterance that go through WaveGlow at once: what bounds the memory.
        on_frames: called with the number of frames done, for progress.

    Returns:
        of each utterance its audio (M * 256,), in the engine's dtype.
    """
    window = window_of(engine, window)
    padded = [F.pad(mel, (0, padded_frames(mel.size(1)) - mel.size(1)), value=SILENCE) for mel in mels]
    per_frame = noises[0].size(1) // padded[0].size(1)
    hop = per_frame * noises[0].size(0)
    audios = [mel.new_empty(mel.size(1) * hop) for mel in padded]
    by_size: dict[int, list[tuple[int, Window]]] = {}
    for index, mel in enumerate(padded):
        for part in plan_windows(mel.size(1), window, context):
            by_size.setdefault(part.stop - part.start, []).append((index, part))
    done = 0
    for size, parts in by_size.items():
        batch = _batch_size(engine, size)
        for first in range(0, len(parts), batch):
            group = parts[first : first + batch]
            pieces = infer(
                engine,
                mel=torch.stack([padded[i][:, part.start : part.stop] for i, part in group]),
                z=torch.stack([noises[i][:, part.start * per_frame : part.stop * per_frame] for i, part in group]),
            )["audio"]
            for (index, part), piece in zip(group, pieces, strict=True):
                kept = slice((part.keep_start - part.start) * hop, (part.keep_stop - part.start) * hop)
                audios[index][part.keep_start * hop : part.keep_stop * hop] = piece[kept]
                done += part.keep_stop - part.keep_start
            if on_frames is not None:
                on_frames(done)
    return [audio[: mel.size(1) * hop] for audio, mel in zip(audios, mels, strict=True)]


def _batch_size(engine: Engine, size: int) -> int:
    # On a CPU one window fills all cores; more would only take more memory.
    batch = max(1, GPU_BATCH_FRAMES // size) if engine.device.type == "cuda" else 1
    return min(batch, engine.limits["batch"][1]) if "batch" in engine.limits else batch
