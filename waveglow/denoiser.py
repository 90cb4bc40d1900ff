"""Takes WaveGlow's own hum out of its audio, by spectral subtraction of what it says when it has nothing to say.

The bias spectrum is computed once, when WaveGlow is exported, and stored beside its file; no checkpoint is needed at
inference.
"""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from common.config import AudioConfig
from common.engine import Engine, infer
from common.errors import UserError
from common.files import written_whole

DEFAULT_STRENGTH = 0.01
BIAS_FRAMES = 88  # mel frames of nothing that the bias is measured on


def bias_path(waveglow_path: Path) -> Path:
    """Where the bias of a WaveGlow file lies: `waveglow.onnx` and `waveglow_fp16.engine` share `waveglow_bias.npy`."""
    return waveglow_path.with_name("waveglow_bias.npy")


def measure_bias(engine: Engine, audio: AudioConfig) -> np.ndarray:
    """The spectrum of WaveGlow on an all-zero mel without noise: magnitudes [filter_length / 2 + 1], float32."""
    sizes = {"batch": 1, "mel": BIAS_FRAMES}
    inputs = {spec.name: torch.zeros(spec.resolve(sizes), dtype=spec.dtype) for spec in engine.contract.inputs}
    hum = infer(engine, **{name: tensor.to(engine.device) for name, tensor in inputs.items()})["audio"]
    spectrum = _stft(hum[0].float().cpu(), audio).abs()
    return spectrum[:, 0].numpy()


def save_bias(path: Path, bias: np.ndarray) -> None:
    with written_whole(path) as temporary, open(temporary, "wb") as file:
        np.save(file, bias)


class Denoiser:
    """Subtracts `strength` times the bias spectrum from audio."""

    def __init__(self, bias: np.ndarray, audio: AudioConfig, strength: float = DEFAULT_STRENGTH) -> None:
        self.audio = audio
        self._floor = torch.from_numpy(bias * np.float32(strength)).unsqueeze(1)  # (bins, 1)

    @classmethod
    def beside(cls, waveglow_path: Path, audio: AudioConfig, strength: float = DEFAULT_STRENGTH) -> "Denoiser":
        """Loads the bias stored beside a WaveGlow file. Raises UserError if it isn't there or doesn't fit."""
        path = bias_path(waveglow_path)
        try:
            bias = np.load(path, allow_pickle=False)
        except FileNotFoundError:
            raise UserError(
                f"{path}: the denoiser's bias is missing; exports/export_waveglow_onnx.py writes it beside its file"
            ) from None
        except (ValueError, EOFError) as error:
            raise UserError(f"{path}: not a readable bias file; export WaveGlow again") from error
        if bias.shape != (audio.filter_length // 2 + 1,) or bias.dtype != np.float32:
            raise UserError(f"{path}: the bias does not fit an FFT of {audio.filter_length}; export WaveGlow again")
        return cls(bias, audio, strength)

    def __call__(self, audio: Tensor) -> Tensor:
        """audio: float32 [n] on any device -> denoised audio of the same length."""
        if audio.numel() <= self.audio.filter_length // 2:
            return audio  # too short for one padded frame; and too short to hear a hum in
        spectrum = _stft(audio, self.audio)
        magnitude = spectrum.abs()
        kept = (magnitude - self._floor.to(audio.device)).clamp_min(0)
        spectrum = spectrum * (kept / magnitude.clamp_min(1e-9))
        return torch.istft(spectrum, **_settings(self.audio, audio.device), length=audio.numel())


def _stft(samples: Tensor, audio: AudioConfig) -> Tensor:
    return torch.stft(samples, **_settings(audio, samples.device), pad_mode="reflect", return_complex=True)


def _settings(audio: AudioConfig, device: torch.device) -> dict:
    return {
        "n_fft": audio.filter_length,
        "hop_length": audio.hop_length,
        "win_length": audio.win_length,
        "window": torch.hann_window(audio.win_length, device=device),
        "center": True,
    }
