"""The error of a lossy conditioning of WaveGlow, measured on a voice's own mels before a file is written."""

import math
from pathlib import Path

import torch
from torch import Tensor

from common.checkpoint import LoadedModel
from common.errors import UserError
from tacotron2.decoder import StopRule
from tacotron2.loading import load_tacotron2
from tacotron2.text import encode
from waveglow.conditioning import FP16_ROUNDING, Factors, upsampling_taps
from waveglow.model import WaveGlow
from waveglow.parts import WaveGlowPart
from waveglow.recording import log_mel, read_recording

LEAST_SNR = 25.0  # dB: with less a hiss is heard
TEXT = "She had your dark suit in greasy wash water all year."


def measured_snr(
    waveglow: LoadedModel[WaveGlow], rank: int, sigma: float, measure_on: Path | None, force: bool = False
) -> float | None:
    """How far the error of a conditioning of some rank lies below the audio, in dB; None where the rank loses nothing.

    Args:
        sigma: standard deviation of the noise.
        measure_on: where mels come from: a Tacotron 2 checkpoint, which speaks a sentence, or a recording (.wav).
        force: accept any loss.

    Raises:
        UserError: nothing was given to measure on, or more than LEAST_SNR allows is lost.
    """
    if Factors(upsampling_taps(waveglow.model.upsample, waveglow.config.n_group)).residual(rank) < FP16_ROUNDING:
        return None
    if measure_on is None:
        raise UserError(
            f"a conditioning of rank {rank} is lossy for this WaveGlow: name a Tacotron 2 checkpoint or a recording of "
            "the voice with --measure-on, or take auto or exact"
        )
    snr = _signal_to_error(waveglow.model, rank, sigma, _mel_of(measure_on, waveglow))
    if not (snr >= LEAST_SNR or force):  # a NaN is no success
        raise UserError(
            f"a conditioning of rank {rank} is too lossy for this WaveGlow: its error is {snr:.1f} dB below the audio, "
            f"and {LEAST_SNR:g} dB are asked for; take a higher rank, auto or exact, or insist with --force"
        )
    return round(snr, 1)


def _mel_of(path: Path, waveglow: LoadedModel[WaveGlow]) -> Tensor:
    # (1, n_mel_channels, M)
    if path.suffix.lower() == ".wav":
        return torch.from_numpy(log_mel(read_recording(path, waveglow.audio), waveglow.audio, waveglow.config))[None]
    tacotron2 = load_tacotron2(path).model
    config, ids = tacotron2.config, torch.from_numpy(encode(TEXT).ids)[None]
    steps = StopRule(config.gate_threshold, config.max_decoder_steps).cap(ids.size(1))
    generator = torch.Generator().manual_seed(0)
    dropout = 2.0 * torch.randint(0, 2, (steps, 1, 2, config.prenet_dim), generator=generator)
    return tacotron2.infer(ids, dropout, steps, config.gate_threshold).mel


@torch.inference_mode()
def _signal_to_error(model: WaveGlow, rank: int, sigma: float, mel: Tensor) -> float:
    positions = mel.size(2) * model.upsample.stride[0] // model.config.n_group
    z = sigma * torch.randn(1, model.config.n_group, positions, generator=torch.Generator().manual_seed(0))
    exact = model.infer(mel, z)
    error = WaveGlowPart(model, rank).eval()(mel, z) - exact
    return 20 * math.log10(float(exact.norm() / error.norm().clamp_min(1e-30)))
