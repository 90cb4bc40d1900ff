"""WaveGlow judged alone: the mel is NVIDIA's, and the copy lies beside the original."""

import wave
from pathlib import Path

import numpy as np
import pytest

from common.config import AudioConfig, WaveGlowConfig
from pipeline.audio import Audio
from scripts.copy_synthesis import log_mel_distance
from tests.scripts import assert_one_line_error, run_here
from waveglow.recording import log_mel

pytest.importorskip("librosa", reason="the extra `analysis` is not installed")
SCRIPT = "scripts/copy_synthesis.py"

pytestmark = [pytest.mark.slow, pytest.mark.alone]


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    """Half a second of a gliding tone at another rate than the model's."""
    seconds = np.arange(8000) / 16000
    samples = 0.5 * np.sin(2 * np.pi * (200 + 400 * seconds) * seconds)
    return Audio(samples.astype(np.float32), 16000).save(tmp_path / "glide.wav", sample_format="pcm16")


def test_the_copy_lies_beside_the_original_with_a_picture(
    tmp_path: Path, recording: Path, tiny_checkpoints: dict[str, Path]
) -> None:
    out = tmp_path / "out"
    result = run_here(SCRIPT, recording, "-o", out, "--waveglow", tiny_checkpoints["waveglow"])
    assert result.returncode == 0, result.stderr
    assert "Log-mel distance: " in result.stdout
    names = ["glide_copy.png", "glide_copy.wav", "glide_original.wav"]
    assert sorted(path.name for path in out.iterdir()) == names
    assert (out / "glide_copy.png").read_bytes().startswith(b"\x89PNG")


def test_recordings_that_cannot_be_read_are_named(tmp_path: Path, tiny_checkpoints: dict[str, Path]) -> None:
    flags = ("-o", tmp_path / "out", "--waveglow", tiny_checkpoints["waveglow"])
    assert_one_line_error(run_here(SCRIPT, tmp_path / "no.wav", *flags), "no.wav", "no such recording")
    (tmp_path / "text.wav").write_text("no audio at all")
    assert_one_line_error(run_here(SCRIPT, tmp_path / "text.wav", *flags), "text.wav", "can't be read as audio")
    with wave.open(str(tmp_path / "short.wav"), "wb") as file:
        file.setparams((1, 2, 22050, 0, "NONE", ""))
        file.writeframes(b"\0\0" * 100)
    assert_one_line_error(run_here(SCRIPT, tmp_path / "short.wav", *flags), "too few")
    assert not (tmp_path / "out").exists()


def test_the_mel_is_what_librosa_alone_gives() -> None:
    import librosa

    audio, config = AudioConfig(), WaveGlowConfig()
    samples = np.random.default_rng(0).uniform(-0.5, 0.5, 256 * 40).astype(np.float32)
    spectrum = np.abs(librosa.stft(samples, n_fft=1024, hop_length=256, window="hann", center=True, pad_mode="reflect"))
    filters = librosa.filters.mel(sr=22050, n_fft=1024, n_mels=80, fmin=0, fmax=8000)
    expected = np.log(np.maximum(filters @ spectrum, 1e-5))[:, :40]
    np.testing.assert_allclose(log_mel(samples, audio, config), expected, atol=1e-4)
    assert log_mel(np.zeros(2560, np.float32), audio, config).max() == np.float32(np.log(1e-5))


def test_the_distance_is_that_of_the_frames_both_have() -> None:
    assert log_mel_distance(np.zeros((80, 10)), np.ones((80, 12))) == 1.0


def test_the_demo_voice_copies_its_own_speech_closely(tmp_path: Path, recording: Path) -> None:
    result = run_here(SCRIPT, recording, "-o", tmp_path, "--seed", "1")
    assert result.returncode == 0, result.stderr
    # A tone is not speech, and is copied at 0.9 or so; random weights give 4 and more.
    assert float(result.stdout.rpartition("distance: ")[2].split()[0]) < 2.5
