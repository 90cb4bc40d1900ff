"""Judges a WaveGlow checkpoint alone: a recording becomes a mel spectrogram, and WaveGlow makes audio of it again.

The mel is computed as NVIDIA's TacotronSTFT does, with librosa's filter bank, so that no Tacotron 2 has a part in what
is heard. Beside the copy are left the original and a picture of both, and how far their mels are apart is printed.

Needs the extra `analysis`: bash scripts/install_prerequisites.sh analysis
"""

import argparse
from pathlib import Path

import numpy as np
import torch

from common.cli import ArgumentParser, run
from common.config import AudioConfig, WaveGlowConfig
from common.engine import TorchEngine
from common.files import output_folder, written_whole
from common.random_streams import RandomStreams
from pipeline import Audio, SpeakSettings
from pipeline.flags import add_setting_flags, denoise_strength
from pipeline.settings import settings_of
from waveglow.denoiser import Denoiser, bias_of
from waveglow.loading import DEMO_WAVEGLOW, load_waveglow
from waveglow.parts import waveglow_parts
from waveglow.recording import log_mel, read_recording
from waveglow.vocoder import vocode, window_sizes
from waveglow.windows import padded_frames


def make_parser() -> ArgumentParser:
    parser = ArgumentParser(prog="copy_synthesis.py", description=__doc__)
    parser.add_argument("recording", type=Path, help="wav file; other rates are resampled to the model's")
    parser.add_argument("-o", "--output", type=Path, default=Path("output"), help="folder for the results")
    parser.add_argument("--waveglow", type=Path, default=DEMO_WAVEGLOW, help="WaveGlow checkpoint")
    add_setting_flags(parser, (settings_of(SpeakSettings)[name] for name in ("seed", "sigma", "denoise")))
    return parser


def main(args: argparse.Namespace) -> None:
    loaded = load_waveglow(args.waveglow)
    audio, config = loaded.audio, loaded.model.config
    samples = read_recording(args.recording, audio)
    folder = output_folder(args.output)
    mel = log_mel(samples, audio, config)
    module, metadata = waveglow_parts(loaded, "fp32", args.sigma)["waveglow"]
    assert metadata.sigma is not None
    engine = TorchEngine(module, metadata)
    try:
        copy = vocoded(engine, mel, metadata.sigma, args.seed)
    finally:
        engine.close()
    if strength := denoise_strength(args):
        copy = Denoiser(bias_of(loaded), audio, strength)(copy)
    copied = copy.numpy()
    name = args.recording.stem
    originals = Audio(samples, audio.sampling_rate).save(folder / f"{name}_original.wav", normalize=False)
    copies = Audio(copied.clip(-1, 1), audio.sampling_rate).save(folder / f"{name}_copy.wav", normalize=False)
    mels = {"original": mel, "copy": log_mel(copied, audio, config)}
    picture = folder / f"{name}_copy.png"
    draw(picture, {"original": samples, "copy": copied}, mels, audio)
    print(f"Original: {originals}\nCopy: {copies}\nPicture: {picture}")
    print(f"Log-mel distance: {log_mel_distance(*mels.values()):.3f} (natural logarithms, mean absolute difference)")


def vocoded(engine: TorchEngine, mel: np.ndarray, sigma: float, seed: int) -> torch.Tensor:
    """WaveGlow's audio of a mel [n_mel_channels, frames]: float32 [frames * hop_length]."""
    config, hop = engine.metadata.model, engine.metadata.audio.hop_length
    assert isinstance(config, WaveGlowConfig)
    smallest, _ = window_sizes(engine, None)
    positions = padded_frames(mel.shape[1], smallest) * hop // config.n_group
    noise = sigma * torch.from_numpy(RandomStreams(seed, "").noise(positions, config.n_group).T.copy())
    [audio] = vocode(engine, [torch.from_numpy(mel)], [noise])
    return audio


def log_mel_distance(one: np.ndarray, other: np.ndarray) -> float:
    """Mean absolute difference of two log mels [n_mel_channels, frames], over the frames that both have."""
    frames = min(one.shape[1], other.shape[1])
    return float(np.abs(one[:, :frames] - other[:, :frames]).mean())


def draw(path: Path, waves: dict[str, np.ndarray], mels: dict[str, np.ndarray], audio: AudioConfig) -> None:
    """Draws waveforms and mels above one another, on one time axis in seconds."""
    from matplotlib.figure import Figure  # takes a while to load

    seconds = max(len(wave) for wave in waves.values()) / audio.sampling_rate
    figure = Figure(figsize=(min(20.0, max(8.0, 2 * seconds)), 8.0), layout="constrained")
    rows = figure.subplots(len(waves) + len(mels), sharex=True)
    low = min(float(mel.min()) for mel in mels.values())
    high = max(float(mel.max()) for mel in mels.values())
    for axes, (name, wave) in zip(rows, waves.items(), strict=False):
        axes.plot(np.arange(len(wave)) / audio.sampling_rate, wave, linewidth=0.4)
        axes.set(title=f"Waveform, {name}", ylim=(-1, 1))
    for axes, (name, mel) in zip(rows[len(waves) :], mels.items(), strict=True):
        extent = (0, mel.shape[1] * audio.hop_seconds, -0.5, mel.shape[0] - 0.5)
        axes.imshow(mel, origin="lower", aspect="auto", extent=extent, vmin=low, vmax=high)
        axes.set(title=f"Mel spectrogram, {name}", ylabel="Mel band")
    rows[-1].set(xlabel="Time (s)", xlim=(0, seconds))
    with written_whole(path) as temporary:
        figure.savefig(temporary, format="png", dpi=100)


if __name__ == "__main__":
    run(main, make_parser())
