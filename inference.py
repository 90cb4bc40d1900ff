"""Speaks phrases to wav files with Tacotron 2 and WaveGlow in PyTorch: the baseline of the engines."""

import argparse
import dataclasses

from common.cli import ArgumentParser, given_flags, run
from common.config import Tacotron2Config, WaveGlowConfig
from pipeline import Voice
from pipeline.console import show_text, speak_request
from pipeline.flags import (
    SPEAKING_DIMENSIONS,
    add_checkpoint_flags,
    add_model_flags,
    add_speak_flags,
    add_symbols_flag,
    check_audio_flags,
    device_of,
    read_request,
)
from tacotron2.loading import load_tacotron2
from waveglow.loading import load_waveglow


def make_parser() -> ArgumentParser:
    parser = ArgumentParser(prog="inference.py", description=__doc__)
    add_speak_flags(parser)
    parser.add_argument("--suffix", default="", help="of the file names: audio_{i}_{suffix}.wav")
    models = add_checkpoint_flags(parser)
    add_symbols_flag(models)
    models.add_argument("--fast", action="store_true", help="use this project's GPU kernels, where supported")
    models.add_argument("--include-warmup", action="store_true", help="speak once before the clock runs")
    add_model_flags(parser, Tacotron2Config, WaveGlowConfig, leave_out=SPEAKING_DIMENSIONS)
    return parser


def main(args: argparse.Namespace) -> None:
    request = read_request(args, args.suffix)
    if args.show_text:
        show_text(request)
        return
    device = device_of(args)
    flags = {**given_flags(args, Tacotron2Config, WaveGlowConfig), "sampling_rate": args.model_sampling_rate}
    with Voice.from_checkpoints(
        load_tacotron2(args.tacotron2, flags, args.symbols),
        load_waveglow(args.waveglow, flags),
        device=device,
        precision="fp16" if args.fp16 else "fp32",
        fast=args.fast,
        conditioning=args.conditioning,
        work=request.work,
    ) as voice:
        check_audio_flags(args, voice.engines.audio)
        if args.include_warmup:  # on the same engines: the timed run finds their graphs captured
            request = dataclasses.replace(request, groups=list(request.groups))
            texts = [phrase.text for phrases in request.groups for phrase in phrases]
            list(voice.speak_many(texts, request.settings))
        speak_request(voice, request)


if __name__ == "__main__":
    run(main, make_parser())
