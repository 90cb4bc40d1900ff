"""Takes WaveGlow's own hum out of its audio, by spectral subtraction of what it says when it has nothing to say.

The hum's spectrum, the bias, is a property of the checkpoint. It is measured once, in FP32 whatever precision the voice
runs in, and travels in the metadata of every WaveGlow file.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from common.checkpoint import LoadedModel
from common.config import AudioConfig
from common.cuda import ShapeCache
from common.engine import Engine, TorchEngine, infer
from common.errors import InvalidInput, UserError
from common.metadata import ModelMetadata
from waveglow.model import WaveGlow
from waveglow.parts import waveglow_parts

DEFAULT_STRENGTH = 0.01
BIAS_FRAMES = 88  # mel frames of nothing that the bias is measured on
KEPT_STRENGTHS = 16
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
    """Subtracts `strength` times the bias spectrum, of the WaveGlow that made the audio, from audio.

    Raises:
        UserError: WaveGlow's metadata carry no bias.
    """

    def __init__(self, waveglow: ModelMetadata, strength: float = DEFAULT_STRENGTH) -> None:
        if waveglow.bias is None:
            raise UserError(NO_BIAS)
        self.audio = waveglow.audio
        floor = np.asarray(waveglow.bias, np.float32) * np.float32(strength)
        self._floor = torch.from_numpy(floor).unsqueeze(1)  # (bins, 1)

    def __call__(self, audio: Tensor) -> Tensor:
        """audio: float32 [n] on any device -> denoised audio of the same length."""
        if audio.numel() <= self.audio.filter_length // 2:
            return audio  # too short for one padded frame; and too short to hear a hum in
        spectrum = _stft(audio, self.audio)
        magnitude = spectrum.abs()
        self._floor = self._floor.to(audio.device)  # once
        kept = (magnitude - self._floor).clamp_min(0)
        spectrum = spectrum * (kept / magnitude.clamp_min(1e-9))
        return torch.istft(spectrum, **_settings(self.audio, audio.device), length=audio.numel())


class Denoisers:
    """The denoisers of a voice, by strength, from the bias that its WaveGlow file carries.

    Args:
        measure_bias: gives the bias where the file carries none; called once, when it is needed.
    """

    def __init__(self, waveglow: ModelMetadata, measure_bias: Callable[[], tuple[float, ...]] | None = None) -> None:
        self._waveglow = waveglow
        self._measure_bias = measure_bias
        self._made = ShapeCache[float, Denoiser](KEPT_STRENGTHS)

    def get(self, strength: float) -> Denoiser | None:
        """The denoiser of this strength; None for 0. Raises InvalidInput if there is no bias."""
        self.check(strength)
        if strength == 0:
            return None
        if self._waveglow.bias is None and self._measure_bias is not None:
            self._waveglow = replace(self._waveglow, bias=self._measure_bias())
        return self._made.get(strength, lambda: Denoiser(self._waveglow, strength))

    def check(self, strength: float) -> None:
        """Raises InvalidInput for a strength above 0 if there is no bias. Thread-safe."""
        if strength and self._waveglow.bias is None and self._measure_bias is None:
            raise InvalidInput(f"denoise: {NO_BIAS}", "denoise")


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
