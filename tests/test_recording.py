"""A recording as the mel that WaveGlow was trained on."""

import wave
from pathlib import Path

import numpy as np
import pytest

from common.config import AudioConfig, WaveGlowConfig
from common.errors import UserError
from waveglow.recording import log_mel, read_recording

pytest.importorskip("librosa", reason="the extra `analysis` is not installed")

pytestmark = [pytest.mark.slow, pytest.mark.alone]


def test_recordings_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    (tmp_path / "text.wav").write_text("no audio at all")
    with wave.open(str(tmp_path / "short.wav"), "wb") as file:
        file.setparams((1, 2, 22050, 0, "NONE", ""))
        file.writeframes(b"\0\0" * 100)
    for name, problem in (("no", "no such recording"), ("text", "can't be read as audio"), ("short", "too few")):
        with pytest.raises(UserError, match=rf"{name}\.wav: .*{problem}"):
            read_recording(tmp_path / f"{name}.wav", AudioConfig())


def test_the_mel_is_what_librosa_alone_gives() -> None:
    import librosa

    audio, config = AudioConfig(), WaveGlowConfig()
    samples = np.random.default_rng(0).uniform(-0.5, 0.5, 256 * 40).astype(np.float32)
    spectrum = np.abs(librosa.stft(samples, n_fft=1024, hop_length=256, window="hann", center=True, pad_mode="reflect"))
    filters = librosa.filters.mel(sr=22050, n_fft=1024, n_mels=80, fmin=0, fmax=8000)
    expected = np.log(np.maximum(filters @ spectrum, 1e-5))[:, :40]
    np.testing.assert_allclose(log_mel(samples, audio, config), expected, atol=1e-4)
    assert log_mel(np.zeros(2560, np.float32), audio, config).max() == np.float32(np.log(1e-5))
