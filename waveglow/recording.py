"""A recording as a mel spectrogram, computed as NVIDIA's TacotronSTFT does. Needs librosa (the extra `analysis`)."""

from pathlib import Path
from types import ModuleType

import numpy as np
import torch

from common.config import AudioConfig, WaveGlowConfig
from common.errors import UserError

LOWEST_AMPLITUDE = 1e-5  # TacotronSTFT's floor, before the logarithm


def read_recording(path: Path, audio: AudioConfig) -> np.ndarray:
    """The samples of a recording, mono, at the model's rate: float32 [n], -1 to 1. Raises UserError."""
    librosa = import_librosa()
    import soundfile  # comes with librosa

    if not path.is_file():
        raise UserError(f"{path}: no such recording; check the path")
    try:
        recorded, rate = soundfile.read(path, dtype="float32", always_2d=True)
    except (soundfile.SoundFileError, OSError) as error:
        raise UserError(f"{path}: can't be read as audio ({error})") from error
    samples = librosa.resample(recorded.mean(axis=1), orig_sr=rate, target_sr=audio.sampling_rate)
    if len(samples) < audio.filter_length:
        raise UserError(f"{path}: {len(samples)} samples are too few; give a longer recording")
    return samples.astype(np.float32)


def log_mel(samples: np.ndarray, audio: AudioConfig, config: WaveGlowConfig) -> np.ndarray:
    """The mel spectrogram as NVIDIA's TacotronSTFT computes it.

    Magnitudes of a Hann-windowed STFT with reflected ends, through a mel filter bank of unit area (Slaney's), their
    natural logarithm from LOWEST_AMPLITUDE up.

    Args:
        samples: float32 [n], -1 to 1.

    Returns:
        float32 [n_mel_channels, n // hop_length].
    """
    librosa = import_librosa()
    window = torch.hann_window(audio.win_length)
    sizes = (audio.filter_length, audio.hop_length, audio.win_length)
    spectrum = torch.stft(torch.from_numpy(samples), *sizes, window, pad_mode="reflect", return_complex=True)
    filters = librosa.filters.mel(
        sr=audio.sampling_rate,
        n_fft=audio.filter_length,
        n_mels=config.n_mel_channels,
        fmin=audio.mel_fmin,
        fmax=audio.mel_fmax,
    )
    mel = np.log(np.maximum(filters @ spectrum.abs().numpy(), LOWEST_AMPLITUDE)).astype(np.float32)
    return mel[:, : len(samples) // audio.hop_length]


def import_librosa() -> ModuleType:
    try:
        import librosa
    except ImportError as error:
        raise UserError("librosa is missing: bash scripts/install_prerequisites.sh analysis") from error
    return librosa
