"""Vocoding in windows gives the audio of the whole, in memory that does not grow."""

from pathlib import Path

import pytest
import torch

from common.checkpoint import LoadedModel
from common.config import AudioConfig
from common.engine import Engine, TorchEngine, infer
from common.errors import UserError
from common.metadata import Part
from common.onnx_engine import OnnxEngine
from tests.engine_doubles import run_each
from tests.models import MELS, parts_of, tiny_waveglow
from waveglow.vocoder import vocode, window_sizes, with_silence
from waveglow.windows import END_SILENCE, GRAIN, Window, padded_frames, plan_windows


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


@pytest.mark.parametrize(("low", "high", "sizes"), [(32, 1664, (32, 384)), (33, 100, (64, 96)), (500, 900, (512, 512))])
def test_window_sizes_stay_within_the_engines_profile(
    tiny_waveglow_engine: TorchEngine, low: int, high: int, sizes: tuple[int, int]
) -> None:
    tiny_waveglow_engine.limits = {"mel": (low, high)}
    assert window_sizes(tiny_waveglow_engine) == sizes


def test_a_profile_without_a_multiple_of_the_grain_is_refused(tiny_waveglow_engine: TorchEngine) -> None:
    tiny_waveglow_engine.limits = {"mel": (33, 40)}
    with pytest.raises(UserError, match="33 to 40 mel frames, none of them a multiple of 32"):
        window_sizes(tiny_waveglow_engine)


@pytest.mark.numerical
@pytest.mark.parametrize(("low", "high"), [(64, 1664), (32, 96), (320, 384)])
@pytest.mark.parametrize("frames", [1, 20, 300])
def test_utterances_of_any_length_fit_a_profile(
    tiny_waveglow_engine: TorchEngine, frames: int, low: int, high: int
) -> None:
    tiny_waveglow_engine.limits = {"mel": (low, high)}
    mel, z = utterance(frames, 0, smallest=window_sizes(tiny_waveglow_engine)[0])
    (audio,) = vocode(tiny_waveglow_engine, [mel], [z])
    assert audio.shape == (frames * 256,)


@pytest.fixture
def tiny_waveglow_engine() -> TorchEngine:
    return TorchEngine(*parts_of(LoadedModel(tiny_waveglow(), AudioConfig(), "0" * 64, 0.6, ""), "fp32")["waveglow"])


def utterance(frames: int, seed: int, smallest: int = GRAIN, mels: int = MELS) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    steps = torch.randn(mels, frames, generator=generator)
    mel = steps.cumsum(1) * 0.1 - 6  # slowly moving, as speech does
    return mel, 0.7 * torch.randn(8, padded_frames(frames, smallest) * 32, generator=generator)


@pytest.mark.slow
def test_windows_join_to_the_unchunked_audio(demo_engines: dict[Part, Engine]) -> None:
    engine = demo_engines["waveglow"]
    mel, z = utterance(240, 3, mels=80)
    (whole,) = vocode(engine, [mel], [z], window=256)
    (windowed,) = vocode(engine, [mel], [z], window=128)
    assert whole.shape == (240 * 256,)
    assert whole.abs().max() > 0.01
    # With context on both sides what is left is rounding; with none the joins could be heard.
    assert (windowed - whole).abs().max() < 1e-5
    (abrupt,) = vocode(engine, [mel], [z], window=128, context=0)
    assert (abrupt - whole).abs().max() > 1e-3


@pytest.mark.slow
def test_how_much_silence_follows_the_end_is_not_heard(demo_engines: dict[Part, Engine]) -> None:
    engine, frames = demo_engines["waveglow"], 60
    mel, _ = utterance(frames, 0, mels=80)
    z = 0.7 * torch.randn(8, 128 * 32, generator=torch.Generator().manual_seed(1))
    short, long = (
        infer(engine, mel=with_silence(mel, total).unsqueeze(0), z=z[:, : total * 32].unsqueeze(0).contiguous())[
            "audio"
        ]
        for total in (frames + END_SILENCE, 128)
    )
    heard = frames * 256
    assert (short[0, :heard] - long[0, :heard]).abs().max() < 5e-4


@pytest.mark.numerical
def test_an_utterance_does_not_depend_on_the_others(tiny_folder: Path) -> None:
    engine = OnnxEngine(tiny_folder / "waveglow.onnx", "waveglow")
    given = [utterance(frames, seed) for seed, frames in enumerate((70, 5, 150, 96))]
    together = vocode(engine, [mel for mel, _ in given], [z for _, z in given], window=96)
    for (mel, z), audio in zip(given, together, strict=True):
        assert audio.shape == (mel.size(1) * 256,)
        assert torch.equal(audio, vocode(engine, [mel], [z], window=96)[0])


@pytest.mark.numerical
def test_an_engine_that_packs_gets_windows_of_all_sizes_in_even_runs(
    tiny_waveglow_engine: TorchEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    utterances = [utterance(frames, seed) for seed, frames in enumerate((100, 20, 300, 70, 30))]
    expected = vocode(tiny_waveglow_engine, *zip(*utterances, strict=True), window=128)
    runs: list[list[int]] = []

    def run_packed(mels: list[torch.Tensor], noises: list[torch.Tensor]) -> list[torch.Tensor]:
        runs.append([mel.size(1) for mel in mels])
        return run_each(tiny_waveglow_engine, mels, noises)

    monkeypatch.setattr(tiny_waveglow_engine, "run_packed", run_packed, raising=False)
    monkeypatch.setattr("waveglow.vocoder.GPU_BATCH_FRAMES", 200)
    packed = vocode(tiny_waveglow_engine, *zip(*utterances, strict=True), window=128)
    for found, audio in zip(packed, expected, strict=True):
        torch.testing.assert_close(found, audio, rtol=0, atol=1e-5)
    sums = [sum(run) for run in runs]
    assert len(runs) == -(-sum(sums) // 200)
    assert max(sums) - min(sums) <= 128  # a window
    assert len({size for run in runs for size in run}) > 2


def test_progress_reaches_the_last_frame(tiny_waveglow_engine: TorchEngine) -> None:
    seen: list[int] = []
    mel, z = utterance(130, 0)
    vocode(tiny_waveglow_engine, [mel], [z], 96, on_frames=seen.append)
    assert len(seen) > 1
    assert seen == sorted(seen)
    assert seen[-1] == padded_frames(130)
