"""Vocoding in windows gives the audio of the whole, in memory that does not grow."""

import pytest
import torch

from common.engine import Engine
from common.metadata import Part
from waveglow.vocoder import GRAIN, Window, padded_frames, plan_windows, vocode


@pytest.mark.parametrize("window", [64, 128, 384])
@pytest.mark.parametrize("frames", [32, 64, 128, 160, 416, 704, 1664, 5024])
def test_windows_keep_every_frame_once_with_context_around(frames: int, window: int) -> None:
    windows = plan_windows(frames, window, context=24)
    kept = [frame for part in windows for frame in range(part.keep_start, part.keep_stop)]
    assert kept == list(range(frames))
    assert len({part.stop - part.start for part in windows}) == 1
    for part in windows:
        assert part.stop - part.start <= window
        assert (part.stop - part.start) % GRAIN == 0
        assert part.start == 0 or part.keep_start - part.start >= 24
        assert part.stop == frames or part.stop - part.keep_stop >= 24


def test_what_fits_goes_through_at_once() -> None:
    assert plan_windows(128, window=128) == [Window(0, 128, 0, 128)]


def test_a_window_without_room_for_context_is_refused() -> None:
    with pytest.raises(ValueError, match="no room"):
        plan_windows(512, window=32, context=24)


def utterance(frames: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    steps = torch.randn(80, frames, generator=generator)
    mel = steps.cumsum(1) * 0.1 - 6  # slowly moving, as speech does
    return mel, 0.7 * torch.randn(8, padded_frames(frames) * 32, generator=generator)


def test_windows_join_to_the_unchunked_audio(demo_engines: dict[Part, Engine]) -> None:
    engine = demo_engines["waveglow"]
    mel, z = utterance(300, 0)
    (whole,) = vocode(engine, [mel], [z], window=320)
    (windowed,) = vocode(engine, [mel], [z], window=128)
    assert whole.shape == (300 * 256,)
    assert whole.abs().max() > 0.01
    # With context on both sides what is left is rounding; with none the joins could be heard.
    assert (windowed - whole).abs().max() < 1e-5
    (abrupt,) = vocode(engine, [mel], [z], window=160, context=0)
    assert (abrupt - whole).abs().max() > 1e-3


def test_an_utterance_does_not_depend_on_the_others(demo_engines: dict[Part, Engine]) -> None:
    engine = demo_engines["waveglow"]
    given = [utterance(frames, seed) for seed, frames in enumerate((70, 5, 150, 96))]
    together = vocode(engine, [mel for mel, _ in given], [z for _, z in given], window=96)
    for (mel, z), audio in zip(given, together, strict=True):
        assert audio.shape == (mel.size(1) * 256,)
        assert torch.equal(audio, vocode(engine, [mel], [z], window=96)[0])


def test_progress_reaches_the_last_frame(demo_engines: dict[Part, Engine]) -> None:
    seen: list[int] = []
    mel, z = utterance(130, 0)
    vocode(demo_engines["waveglow"], [mel], [z], 96, on_frames=seen.append)
    assert len(seen) > 1
    assert seen == sorted(seen)
    assert seen[-1] == padded_frames(130)
