"""Speech at another speed: the mel spectrogram resampled in time before it is vocoded, so that the pitch stays."""

import torch
from torch import Tensor


def frames_at_speed(frames: int, speed: float) -> int:
    """The number of frames that `frames` become: at least 1."""
    return frames if speed == 1 else max(1, round(frames / speed))


def frames_needed(stop: int, speed: float) -> int:
    """How many of the old frames have to be known for the new ones before `stop` (the end apart)."""
    return stop if speed == 1 else max(1, int((stop - 0.5) * speed - 0.5) + 2)


def at_speed(mel: Tensor, speed: float, start: int, stop: int, first: int = 0, total: int | None = None) -> Tensor:
    """New frames `start` to `stop` (exclusive), interpolated between the old ones.

    New frame j lies at the old time (j + 0.5) * speed - 0.5, whatever the utterance's length, so that a stream gives
    what the whole gives.

    Args:
        mel: old frames (n_mel_channels, n), from the utterance's frame `first` on, as many as `frames_needed` says or
            up to its end.
        speed: old frames a new one.
        total: the utterance's number of old frames, if it is known: none is read beyond.

    Returns:
        (n_mel_channels, stop - start)
    """
    if speed == 1:
        return mel[:, start - first : stop - first]
    # Positions in float64 on the host: float32 would move with the distance from the start.
    positions = (torch.arange(start, stop, dtype=torch.float64) + 0.5) * speed - 0.5
    last = (first + mel.size(1) if total is None else total) - 1
    positions = positions.clamp(0, last)
    left = positions.floor()
    share = (positions - left).to(mel.device, mel.dtype)
    left_index = left.to(torch.int64)
    right_index = (left_index + 1).clamp(max=last)
    before = mel.index_select(1, (left_index - first).to(mel.device))
    after = mel.index_select(1, (right_index - first).to(mel.device))
    return torch.lerp(before, after, share)
