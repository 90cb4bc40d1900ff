"""Audio files are whole, right and normalised, or not there."""

from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pytest
from scipy.io import wavfile

from common.errors import UserError
from common.wav import pcm16
from pipeline.encoders import AudioWriter, audio_file


def wav_file(path: Path) -> AbstractContextManager[AudioWriter]:
    return audio_file(path, 22050, "float32")


def test_blocks_join_and_the_loudest_sample_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(AudioWriter, "BLOCK", 7)  # several blocks, the last one partly filled
    audio = np.sin(np.arange(100, dtype=np.float32)) * 0.25
    with wav_file(tmp_path / "a.wav") as wav:
        wav.append(audio[:30])
        wav.append(audio[30:])
        assert wav.seconds == pytest.approx(100 / 22050)
    rate, samples = wavfile.read(tmp_path / "a.wav")
    assert rate == 22050
    assert samples.dtype == np.float32
    assert np.allclose(samples, audio / np.abs(audio).max(), atol=1e-6)
    assert np.abs(samples).max() == pytest.approx(1)


def test_silence_stays_silence(tmp_path: Path) -> None:
    with wav_file(tmp_path / "a.wav") as wav:
        wav.append(np.zeros(50, np.float32))
    assert (wavfile.read(tmp_path / "a.wav")[1] == 0).all()


def test_integers_clip_what_is_too_loud() -> None:
    assert pcm16(np.array([1.5, 1, 0, -1, -9], np.float32)).tolist() == [32767, 32767, 0, -32767, -32767]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_never_written(tmp_path: Path, bad: float) -> None:
    with pytest.raises(UserError, match=r"a\.wav: the audio holds NaN"), wav_file(tmp_path / "a.wav") as wav:
        wav.append(np.array([0.1, bad], np.float32))
    assert list(tmp_path.iterdir()) == []


def test_no_audio_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no audio"), wav_file(tmp_path / "a.wav"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_file_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(b"old")

    def write_until_interrupted() -> None:
        with wav_file(path) as wav:
            wav.append(np.ones(10, np.float32))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_until_interrupted()
    assert path.read_bytes() == b"old"
    assert len(list(tmp_path.iterdir())) == 1
