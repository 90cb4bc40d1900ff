"""Takes WaveGlow's own hum out of its audio, by subtracting the spectrum of its output for a mel of zeros.

The hum's spectrum, the bias, is a property of the checkpoint. It is measured once, in FP32 whatever precision the voice
runs in, and travels in the metadata of every WaveGlow file.
"""

from collections.abc import Callable
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from common.checkpoint import LoadedModel
from common.config import AudioConfig
from common.engine import Engine, TorchEngine, infer
from common.errors import InvalidInput
from common.metadata import ModelMetadata
from waveglow.model import WaveGlow
from waveglow.parts import waveglow_parts

DEFAULT_STRENGTH = 0.01
BIAS_FRAMES = 88  # mel frames of nothing that the bias is measured on
NO_BIAS = (
    "the WaveGlow file carries no bias for the denoiser; export it with exports/export_waveglow_onnx.py, or leave the "
    "denoiser off"
)


def bias_of(waveglow: LoadedModel[WaveGlow], device: torch.device | str = "cpu") -> tuple[float, ...]:
    """Measures a checkpoint's bias in FP32: filter_length // 2 + 1 magnitudes, as `ModelMetadata.bias` has them."""
    engine = TorchEngine(*waveglow_parts(waveglow, "fp32")["waveglow"], device)
    try:
        return tuple(measure_bias(engine).tolist())
    finally:
        engine.close()


def measure_bias(engine: Engine) -> np.ndarray:
    """The first frame's spectrum of WaveGlow on an all-zero mel without noise.

    Returns:
        magnitudes, float32 [filter_length // 2 + 1].
    """
    sizes = {"batch": 1, "mel": BIAS_FRAMES}
    inputs = {
        spec.name: torch.zeros(spec.resolve(sizes), dtype=spec.dtype, device=engine.device)
        for spec in engine.contract.inputs
    }
    hum = infer(engine, **inputs)["audio"]
    spectrum = _stft(hum[0].float().cpu(), engine.metadata.audio).abs()
    return spectrum[:, 0].numpy()


class Denoiser:
    """Subtracts the bias spectrum of the WaveGlow that made the audio, times a strength, from audio.

    Args:
        waveglow: of the file, which carries the bias.
        measure_bias: gives the bias where the file carries none; called once, when it is needed.
    """

    def __init__(self, waveglow: ModelMetadata, measure_bias: Callable[[], tuple[float, ...]] | None = None) -> None:
        self._audio = waveglow.audio
        self._measure_bias = measure_bias
        self._bias = None if waveglow.bias is None else _column(waveglow.bias)

    def check(self, strength: float) -> None:
        """Raises InvalidInput for a strength above 0 if there is no bias. Thread-safe."""
        if strength and self._bias is None and self._measure_bias is None:
            raise InvalidInput(f"denoise: {NO_BIAS}", "denoise")

    def prepare(self, strength: float) -> None:
        """Measures the bias if a strength needs it. Raises as `check` does."""
        self.check(strength)
        if strength and self._bias is None and self._measure_bias is not None:
            self._bias = _column(self._measure_bias())

    def __call__(self, audio: Tensor, strength: float) -> Tensor:
        """audio: [n] on any device -> denoised audio of the same length, float32; at strength 0 as it is."""
        if strength == 0:
            return audio
        self.prepare(strength)
        assert self._bias is not None
        audio = audio.float()
        if audio.numel() <= self._audio.filter_length // 2:
            return audio  # too short for one padded frame; and too short to hear a hum in
        spectrum = _stft(audio, self._audio)
        magnitude = spectrum.abs()
        self._bias = self._bias.to(audio.device)  # once
        kept = (magnitude - self._bias * strength).clamp_min(0)
        spectrum = spectrum * (kept / magnitude.clamp_min(1e-9))
        return torch.istft(spectrum, **_settings(self._audio, audio.device), length=audio.numel())


def _column(bias: tuple[float, ...]) -> Tensor:
    return torch.tensor(bias, dtype=torch.float32).unsqueeze(1)  # (bins, 1)


def _stft(samples: Tensor, audio: AudioConfig) -> Tensor:
    return torch.stft(samples, **_settings(audio, samples.device), pad_mode="reflect", return_complex=True)


@lru_cache(maxsize=8)
def _window(length: int, device: torch.device) -> Tensor:
    return torch.hann_window(length, device=device)


def _settings(audio: AudioConfig, device: torch.device) -> dict:
    return {
        "n_fft": audio.filter_length,
        "hop_length": audio.hop_length,
        "win_length": audio.win_length,
        "window": _window(audio.win_length, device),
        "center": True,
    }
