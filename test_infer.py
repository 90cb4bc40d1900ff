"""Benchmarks Tacotron 2 and WaveGlow in PyTorch: as the classic runs them, or through this project's loop."""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from common.benchmark import (
    NEVER,
    RANDOM_FRAMES,
    Spoken,
    add_benchmark_flags,
    check_benchmark_flags,
    measure,
    options,
    random_models,
    report,
    speak_once,
    summarize,
)
from common.checkpoint import DEMO_TACOTRON2, DEMO_WAVEGLOW, LoadedModel, load_tacotron2, load_waveglow
from common.cli import ArgumentParser, run
from common.contract import PRECISION_DTYPES
from common.errors import UserError
from common.metadata import DEFAULT_SIGMA, Precision
from common.model_flags import RUN_CHOICES, add_model_flags, given_flags
from common.parts import torch_engines
from common.synthesizer import Piece, Synthesizer
from common.timing import Stages
from tacotron2.config import Tacotron2Config
from tacotron2.decoder_loop import StopRule
from tacotron2.model import Tacotron2
from waveglow.config import WaveGlowConfig
from waveglow.denoiser import Denoiser, measure_bias
from waveglow.model import WaveGlow

CLASSIC, LOOP = "PyTorch", "PyTorch, this project's loop"


def make_parser() -> ArgumentParser:
    parser = ArgumentParser(prog="test_infer.py", description=__doc__)
    add_benchmark_flags(parser)
    models = parser.add_argument_group("models")
    models.add_argument("--tacotron2", type=Path, default=DEMO_TACOTRON2, help="Tacotron 2 checkpoint")
    models.add_argument("--waveglow", type=Path, default=DEMO_WAVEGLOW, help="WaveGlow checkpoint")
    models.add_argument(
        "--random-weights",
        action="store_true",
        help=f"NGC's dimensions with random weights, no checkpoints; {RANDOM_FRAMES} frames unless --frames says",
    )
    models.add_argument("--loop", action="store_true", help="run this project's engines and loop, not the classic's")
    models.add_argument("--denoise", action="store_true", help="with --loop: run the denoiser too")
    where = models.add_mutually_exclusive_group()
    where.add_argument("--fp16", action="store_true", help="half precision, on a GPU")
    where.add_argument("--cpu", action="store_true", help="run on the CPU even where there is a GPU")
    add_model_flags(parser, Tacotron2Config, WaveGlowConfig, leave_out=RUN_CHOICES)
    return parser


def main(args: argparse.Namespace) -> None:
    check_benchmark_flags(args)
    device = torch.device("cuda" if torch.cuda.is_available() and not args.cpu else "cpu")
    if args.fp16 and device.type == "cpu":
        raise UserError("--fp16 needs an NVIDIA GPU, and PyTorch finds none; leave it out to run in FP32 on the CPU")
    precision: Precision = "fp16" if args.fp16 else "fp32"
    if args.random_weights:
        args.frames = args.frames or RANDOM_FRAMES
        tacotron2, waveglow = random_models(args.wn_channels or 256)
    else:
        tacotron2 = load_tacotron2(args.tacotron2, given_flags(args, Tacotron2Config))
        waveglow = load_waveglow(args.waveglow, given_flags(args, WaveGlowConfig))
    backend = loop_backend if args.loop else classic_backend
    runs = measure(args, backend(args, tacotron2, waveglow, precision, device), device)
    assert isinstance(waveglow.config, WaveGlowConfig)
    name = LOOP if args.loop else CLASSIC
    report(args, summarize(name, args, runs, precision, waveglow.config.wn_channels, device), runs)


def loop_backend(
    args: argparse.Namespace, tacotron2: LoadedModel, waveglow: LoadedModel, precision: Precision, device: torch.device
) -> Callable[[Sequence[Piece]], Spoken]:
    """The project's synthesizer on PyTorch engines."""
    engines = torch_engines(tacotron2, waveglow, precision, device, fast=True)
    denoiser = None
    if args.denoise:
        denoiser = Denoiser(measure_bias(engines["waveglow"], waveglow.audio), waveglow.audio, args.denoising_strength)
    synthesizer = Synthesizer(engines, options(args), denoiser)
    return lambda pieces: speak_once(synthesizer, pieces)


def classic_backend(
    args: argparse.Namespace, tacotron2: LoadedModel, waveglow: LoadedModel, precision: Precision, device: torch.device
) -> Callable[[Sequence[Piece]], Spoken]:
    """Eager PyTorch as the classic demo runs it: a host check after every step, tensors that grow by concatenation.

    Its random numbers are drawn on the device, as there, so they cost it as little as possible.
    """
    dtype = PRECISION_DTYPES[precision]
    assert isinstance(tacotron2.model, Tacotron2)
    assert isinstance(waveglow.model, WaveGlow)
    speaker = tacotron2.model.to(device, dtype)
    vocoder = waveglow.model.prepare_for_inference().to(device, dtype)
    sigma = args.sigma_infer if args.sigma_infer is not None else waveglow.sigma or DEFAULT_SIGMA
    rule = StopRule(NEVER, args.frames) if args.frames else StopRule()
    groups, hop = vocoder.config.n_group, waveglow.audio.hop_length

    @torch.inference_mode()
    def speak(pieces: Sequence[Piece]) -> Spoken:
        stages = Stages(device)
        ids = torch.from_numpy(np.stack([piece.encoded.ids for piece in pieces])).to(device)
        cap = rule.cap(ids.size(1))
        with stages("decoder"):
            # One draw for all steps stands for the classic's two dropouts a step.
            dropout = 2 * torch.randint(0, 2, (cap, len(pieces), 2, speaker.config.prenet_dim), device=device).to(dtype)
            spoken = speaker.infer(ids, dropout, cap, rule.gate_threshold)
        with stages("waveglow"):
            z = sigma * torch.randn(len(pieces), groups, spoken.mel.size(2) * hop // groups, device=device, dtype=dtype)
            audio = vocoder.infer(spoken.mel, z)
        lengths = spoken.lengths.tolist()
        samples = audio.float().cpu().numpy()
        audios = [row[: length * hop] for row, length in zip(samples, lengths, strict=True)]
        return audios, stages.seconds, float(np.mean(lengths))

    return speak


if __name__ == "__main__":
    run(main, make_parser())
