"""Mel to audio in bounded memory: long mels go through WaveGlow in windows that overlap by real context.

What a window computes near an edge that is not the utterance's own end differs from what the whole would have given,
since the networks see zeros instead of the neighbouring frames. The difference fades with distance: `CONTEXT` frames
are computed on both sides and thrown away.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from common.engine import Engine, infer

CONTEXT = 24  # frames; tests/test_vocoder.py states the error that is left
DEFAULT_WINDOW = 400  # frames vocoded at a time on a CPU, context included


@dataclass(frozen=True)
class Window:
    """Frames [start, stop) go through WaveGlow; of its audio, frames [keep_start, keep_stop) are kept."""

    start: int
    stop: int
    keep_start: int
    keep_stop: int


def plan_windows(frames: int, window: int, context: int = CONTEXT) -> list[Window]:
    """Windows of at most `window` frames that together keep every frame once, of nearly equal size.

    The plan depends on the utterance alone, so that its audio does not depend on what else is spoken.
    """
    if window <= 2 * context:
        raise ValueError(f"a window of {window} frames has no room for {context} frames of context on both sides")
    if frames <= window:
        return [Window(0, frames, 0, frames)]
    # The first and the last window have one side without context, so each keeps `context` frames more.
    inner = frames - 2 * context
    count = -(-inner // (window - 2 * context))
    edges = [0, *(context + inner * i // count for i in range(1, count)), frames]
    return [
        Window(max(0, start - context), min(frames, stop + context), start, stop) for start, stop in pairwise(edges)
    ]


def vocode(
    engine: Engine,
    mel: Tensor,
    z: Tensor,
    window: int = DEFAULT_WINDOW,
    context: int = CONTEXT,
    on_frames: Callable[[int], None] | None = None,
) -> Tensor:
    """Vocodes one utterance.

    Args:
        engine: a `waveglow` engine.
        mel: (n_mel_channels, M), on the engine's device and in its dtype.
        z: noise scaled by sigma, (n_group, M * 256 / n_group); a window takes the noise of its own positions.
        window: the most frames that go through WaveGlow at once: what bounds the memory.
        on_frames: called with the number of frames done, for progress.

    Returns:
        audio (M * 256,), in the engine's dtype.
    """
    per_frame = z.size(1) // mel.size(1)
    hop = per_frame * z.size(0)
    audio = torch.empty(mel.size(1) * hop, dtype=mel.dtype, device=mel.device)
    for part in plan_windows(mel.size(1), window, context):
        piece = infer(
            engine,
            mel=mel[None, :, part.start : part.stop].contiguous(),
            z=z[None, :, part.start * per_frame : part.stop * per_frame].contiguous(),
        )["audio"][0]
        offset = part.start
        audio[part.keep_start * hop : part.keep_stop * hop] = piece[
            (part.keep_start - offset) * hop : (part.keep_stop - offset) * hop
        ]
        if on_frames is not None:
            on_frames(part.keep_stop)
    return audio
