"""Vocoding in windows gives the audio of the whole, in memory that does not grow."""

import pytest
import torch

from common.engine import Engine
from common.metadata import Part
from waveglow.vocoder import CONTEXT, Window, plan_windows, vocode


@pytest.mark.parametrize("frames", [1, 47, 128, 129, 700, 1664, 5000])
def test_windows_keep_every_frame_once_with_context_around(frames: int) -> None:
    windows = plan_windows(frames, window=128, context=24)
    kept = [frame for window in windows for frame in range(window.keep_start, window.keep_stop)]
    assert kept == list(range(frames))
    for window in windows:
        assert window.stop - window.start <= 128
        assert window.start == max(0, window.keep_start - 24)
        assert window.stop == min(frames, window.keep_stop + 24)


def test_what_fits_goes_through_at_once() -> None:
    assert plan_windows(128, window=128, context=24) == [Window(0, 128, 0, 128)]


def test_a_window_without_room_for_context_is_refused() -> None:
    with pytest.raises(ValueError, match="no room"):
        plan_windows(500, window=48, context=24)


def test_windows_join_to_the_unchunked_audio(demo_engines: dict[Part, Engine]) -> None:
    engine = demo_engines["waveglow"]
    torch.manual_seed(0)
    mel = torch.randn(80, 300).cumsum(1) * 0.1 - 6  # slowly moving, as speech does
    z = 0.7 * torch.randn(8, 300 * 32)
    whole = vocode(engine, mel, z, window=300)
    windowed = vocode(engine, mel, z, window=120)
    assert whole.abs().max() > 0.01
    # With CONTEXT frames on both sides what is left is rounding; a third of it would be heard in a measurement.
    assert (windowed - whole).abs().max() < 1e-5
    short = vocode(engine, mel, z, window=120, context=CONTEXT // 6)
    assert (short - whole).abs().max() > 1e-4


def test_progress_reaches_the_last_frame(demo_engines: dict[Part, Engine]) -> None:
    seen: list[int] = []
    vocode(demo_engines["waveglow"], torch.full((80, 130), -6.0), torch.zeros(8, 130 * 32), 100, on_frames=seen.append)
    assert seen == sorted(seen)
    assert seen[-1] == 130
