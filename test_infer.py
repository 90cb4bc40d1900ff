"""Benchmarks Tacotron 2 and WaveGlow in PyTorch: as the classic runs them, or through this project's loop."""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from common.checkpoint import RUN_CHOICES, LoadedModel
from common.cli import ArgumentParser, run
from common.config import Tacotron2Config, WaveGlowConfig
from common.errors import UserError
from common.metadata import Precision
from pipeline.benchmark import (
    RANDOM_FRAMES,
    add_benchmark_flags,
    check_benchmark_flags,
    measure,
    options,
    random_models,
    report,
    speak_once,
    summarize,
)
from pipeline.classic import Spoken, classic_speaker
from pipeline.flags import add_model_flags, check_audio_flags, given_flags
from pipeline.synthesizer import Piece, Synthesizer
from pipeline.torch_engines import torch_engines
from tacotron2.loading import DEMO_TACOTRON2, load_tacotron2
from waveglow.denoiser import Denoiser, bias_of
from waveglow.loading import DEMO_WAVEGLOW, load_waveglow

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
    check_audio_flags(args, waveglow.audio)
    if args.loop:
        speak = loop_backend(args, tacotron2, waveglow, precision, device)
    else:
        speak = classic_speaker(tacotron2, waveglow, precision, device, options(args))
    runs = measure(args, speak, device)
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
        denoiser = Denoiser(bias_of(waveglow, device), waveglow.audio, args.denoising_strength)
    synthesizer = Synthesizer(engines, options(args), denoiser)
    return lambda pieces: speak_once(synthesizer, pieces)


if __name__ == "__main__":
    run(main, make_parser())
