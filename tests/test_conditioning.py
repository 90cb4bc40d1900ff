"""The conditioning at the frames' rate: which rank is taken, that it computes what the reference does, and what a lossy
one costs."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from common.config import WaveGlowConfig
from common.errors import UserError
from common.onnx_engine import OnnxEngine
from pipeline.audio import Audio
from tests.models import TINY_WAVEGLOW, nested_waveglow_config, tiny_waveglow
from tests.scripts import assert_one_line_error, run_here
from waveglow.conditioning import Factors, parse_conditioning, upsampling_taps
from waveglow.model import WaveGlow
from waveglow.parts import WaveGlowPart

pytestmark = pytest.mark.usefixtures("no_onednn")

EXPORT = "exports/export_waveglow_onnx.py"


def waveglow_of_rank(rank: int, config: WaveGlowConfig = TINY_WAVEGLOW, noise: float = 0.0) -> WaveGlow:
    """Random weights with a coupling that matters, and with an upsampling of a rank but for relative noise."""
    model = tiny_waveglow(config)
    for network in model.WN:
        torch.nn.init.normal_(network.end.weight, 0, 0.1)
        for layer in network.cond_layers:
            layer.weight_g.data *= 60
    weight = model.upsample.weight.data  # (n_mel_channels, n_mel_channels, taps * positions * n_group)
    by_position = weight.unflatten(2, (4, -1, config.n_group)).transpose(0, 3).flatten(1)  # (positions, the rest)
    left, values, right = torch.linalg.svd(by_position, full_matrices=False)
    low = (left[:, :rank] * values[:rank]) @ right[:rank]
    low += noise * low.norm() / by_position.numel() ** 0.5 * torch.randn(low.shape)
    shape = (low.size(0), weight.size(1), 4, weight.size(0), config.n_group)
    weight.copy_(low.view(shape).transpose(0, 3).flatten(2))
    return model


def relative_error(model: WaveGlow, part: WaveGlowPart) -> float:
    config = model.config
    mel, z = torch.randn(2, config.n_mel_channels, 9), torch.randn(2, config.n_group, 9 * 256 // config.n_group)
    expected = model.infer(mel, z)
    with torch.inference_mode():
        return float((part(mel, z) - expected).norm() / expected.norm())


@pytest.mark.parametrize(
    ("rank", "noise", "expected"),
    [(4, 0.0, 4), (1, 0.0, 1), (4, 1e-4, 4), (4, 1e-2, None), (32, 0.0, None)],
    ids=["rank 4", "rank 1", "rounded to FP16", "noise that is heard", "full rank"],
)
def test_auto_takes_the_smallest_rank_that_loses_no_more_than_fp16_does(
    rank: int, noise: float, expected: int | None
) -> None:
    torch.manual_seed(0)
    assert WaveGlowPart(waveglow_of_rank(rank, noise=noise)).rank == expected


@pytest.mark.parametrize(
    "config",
    [
        TINY_WAVEGLOW,
        dataclasses.replace(TINY_WAVEGLOW, n_group=4, n_early_every=4),
        dataclasses.replace(TINY_WAVEGLOW, wn_layers=1, n_mel_channels=20),
        dataclasses.replace(TINY_WAVEGLOW, wn_kernel_size=5),
    ],
    ids=["tiny", "groups of 4", "one layer", "kernel of 5"],
)
@pytest.mark.parametrize("conditioning", ["auto", "exact", 5])
def test_an_upsampling_of_low_rank_gives_the_same_audio_in_either_form(config: WaveGlowConfig, conditioning) -> None:
    torch.manual_seed(0)
    model = waveglow_of_rank(3, config)
    part = WaveGlowPart(model, conditioning)
    assert part.rank == (3 if conditioning == "auto" else None if conditioning == "exact" else 5)
    assert relative_error(model, part) < 1e-5


def test_a_lower_rank_loses_more() -> None:
    torch.manual_seed(0)
    model = waveglow_of_rank(32)
    factors = Factors(upsampling_taps(model.upsample, model.config.n_group))
    errors = [relative_error(model, WaveGlowPart(model, rank)) for rank in (8, 24, 32)]
    assert factors.residual(8) > factors.residual(24) > factors.residual(32) == 0
    assert errors[0] > errors[1] > 1e-3
    assert errors[2] < 1e-5


def test_ranks_that_cannot_be_are_named() -> None:
    model = tiny_waveglow()
    with pytest.raises(UserError, match="rank 33: this upsampling has ranks from 1 to 32"):
        WaveGlowPart(model, 33)
    model.upsample.weight.data[0, 0, 0] = torch.nan
    for conditioning in ("auto", "exact"):
        with pytest.raises(UserError, match="upsampling holds NaN or infinity"):
            WaveGlowPart(model, conditioning)  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["0", "-1", "four", "4.0", ""])
def test_what_is_no_conditioning_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="give auto, exact, or a rank from 1"):
        parse_conditioning(text)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A WaveGlow of full rank in a file."""
    torch.manual_seed(0)
    model = waveglow_of_rank(32)
    path = tmp_path / "full_rank.pt"
    torch.save({"state_dict": model.state_dict(), "config": nested_waveglow_config(model.config)}, path)
    return path


def test_the_exporter_refuses_a_rank_that_loses_too_much(
    tmp_path: Path, checkpoint: Path, tiny_checkpoints: dict[str, Path]
) -> None:
    flags = ("--waveglow", checkpoint, "-o", tmp_path / "out")
    on = ("--measure-on", tiny_checkpoints["tacotron2"])
    assert_one_line_error(run_here(EXPORT, *flags, "--conditioning", "1"), "rank 1 is lossy", "--measure-on")
    assert_one_line_error(run_here(EXPORT, *flags, *on, "--conditioning", "1"), "dB below the audio", "--force")
    assert_one_line_error(run_here(EXPORT, *flags, *on, "--conditioning", "40"), "ranks from 1 to 32")
    assert not (tmp_path / "out" / "waveglow.onnx").exists()
    result = run_here(EXPORT, *flags, *on, "--conditioning", "1", "--force")
    assert result.returncode == 0, result.stderr
    engine = OnnxEngine(tmp_path / "out" / "waveglow.onnx", "waveglow")
    assert engine.metadata.conditioning_rank == 1
    assert engine.metadata.conditioning_snr is not None
    assert engine.metadata.conditioning_snr < 25
    assert f"conditioning of rank 1 (its error {engine.metadata.conditioning_snr:.1f} dB below" in result.stdout


@pytest.mark.slow
def test_a_recording_serves_to_measure_on(tmp_path: Path, checkpoint: Path) -> None:
    pytest.importorskip("librosa", reason="the extra `analysis` is not installed")
    tone = 0.5 * np.sin(np.arange(8000) * 0.1)
    recording = Audio(tone.astype(np.float32), 22050).save(tmp_path / "tone.wav")
    flags = ("--waveglow", checkpoint, "-o", tmp_path / "out", "--conditioning", "31", "--force")
    result = run_here(EXPORT, *flags, "--measure-on", recording)
    assert result.returncode == 0, result.stderr
    assert OnnxEngine(tmp_path / "out" / "waveglow.onnx", "waveglow").metadata.conditioning_snr is not None
