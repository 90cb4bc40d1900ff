"""Speaks phrases to wav files with Tacotron 2 and WaveGlow in PyTorch: the baseline of the engines."""

import argparse
from pathlib import Path

import torch

from common.checkpoint import RUN_CHOICES
from common.cli import ArgumentParser, run
from common.config import Tacotron2Config, WaveGlowConfig
from common.errors import UserError
from common.metadata import Precision
from pipeline.flags import add_model_flags, given_flags
from pipeline.speak import add_speak_flags, read_request, speak
from pipeline.synthesizer import Synthesizer
from pipeline.torch_engines import torch_engines
from tacotron2.loading import DEMO_TACOTRON2, load_tacotron2
from waveglow.denoiser import Denoiser, bias_of
from waveglow.loading import DEMO_WAVEGLOW, load_waveglow


def make_parser() -> ArgumentParser:
    parser = ArgumentParser(prog="inference.py", description=__doc__)
    add_speak_flags(parser)
    parser.add_argument("--suffix", default="", help="of the file names: audio_{i}_{suffix}.wav")
    models = parser.add_argument_group("models")
    models.add_argument("--tacotron2", type=Path, default=DEMO_TACOTRON2, help="Tacotron 2 checkpoint")
    models.add_argument("--waveglow", type=Path, default=DEMO_WAVEGLOW, help="WaveGlow checkpoint")
    where = models.add_mutually_exclusive_group()
    where.add_argument("--fp16", action="store_true", help="half precision, on a GPU")
    where.add_argument("--cpu", action="store_true", help="run on the CPU even where there is a GPU")
    models.add_argument("--fast", action="store_true", help="use this project's GPU kernels, where supported")
    models.add_argument("--include-warmup", action="store_true", help="speak once before the clock runs")
    add_model_flags(parser, Tacotron2Config, WaveGlowConfig, leave_out=RUN_CHOICES)
    return parser


def main(args: argparse.Namespace) -> None:
    if "/" in args.suffix or "{" in args.suffix:
        raise UserError(f"--suffix {args.suffix}: must be usable in a file name")
    request = read_request(args, name="{i}_" + args.suffix)
    device = "cuda" if torch.cuda.is_available() and not args.cpu else "cpu"
    if args.fp16 and device == "cpu":
        raise UserError("--fp16 needs an NVIDIA GPU, and PyTorch finds none; leave it out to run in FP32 on the CPU")
    precision: Precision = "fp16" if args.fp16 else "fp32"
    tacotron2 = load_tacotron2(args.tacotron2, given_flags(args, Tacotron2Config))
    waveglow = load_waveglow(args.waveglow, given_flags(args, WaveGlowConfig))
    engines = torch_engines(tacotron2, waveglow, precision, device, fast=args.fast)
    denoiser = None
    if args.denoise:
        denoiser = Denoiser(bias_of(waveglow, device), waveglow.audio, args.denoising_strength)
    if args.include_warmup:
        list(Synthesizer(engines, request.options).speak(request.phrases[:1]))
    speak(args, request, engines, denoiser)


if __name__ == "__main__":
    run(main, make_parser())
