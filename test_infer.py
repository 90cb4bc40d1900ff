"""Benchmarks Tacotron 2 and WaveGlow in PyTorch: as the classic runs them, or through this project's loop."""

import argparse
from contextlib import ExitStack

from benchmarks.classic import classic_speaker
from benchmarks.offline import (
    RANDOM_FRAMES,
    add_benchmark_flags,
    random_models,
    read_benchmark,
    run_benchmark,
    voice_speaker,
)
from common.cli import ArgumentParser, given_flags, run
from common.config import Tacotron2Config, WaveGlowConfig
from common.errors import UserError
from common.metadata import Precision
from pipeline import Voice, WorkSettings
from pipeline.flags import add_checkpoint_flags, add_model_flags, check_audio_flags, device_of
from tacotron2.loading import load_tacotron2
from waveglow.loading import load_waveglow

CLASSIC, LOOP = "PyTorch", "PyTorch, this project's loop"


def make_parser() -> ArgumentParser:
    parser = ArgumentParser(prog="test_infer.py", description=__doc__)
    add_benchmark_flags(parser)
    models = add_checkpoint_flags(parser)
    models.add_argument(
        "--random-weights",
        action="store_true",
        help=f"NGC's dimensions with random weights, no checkpoints; {RANDOM_FRAMES} frames unless --frames says",
    )
    models.add_argument("--loop", action="store_true", help="run this project's engines and loop, not the classic's")
    add_model_flags(parser, Tacotron2Config, WaveGlowConfig)
    return parser


def main(args: argparse.Namespace) -> None:
    benchmark = read_benchmark(args, frames=RANDOM_FRAMES if args.random_weights else None)
    device = device_of(args)
    of_loop = {
        "--stream": benchmark.stream,
        "--denoise": benchmark.settings.denoise,
        "--batches": benchmark.batches > 1,
        "--conditioning": args.conditioning != "auto",
    }
    if not args.loop and any(of_loop.values()):
        flag = next(name for name, given in of_loop.items() if given)
        raise UserError(f"{flag} goes with --loop: the classic's loop has none; add --loop or leave {flag} out")
    precision: Precision = "fp16" if args.fp16 else "fp32"
    flags = given_flags(args, Tacotron2Config, WaveGlowConfig)
    if args.random_weights:
        _check_random_weights(flags)
        tacotron2, waveglow = random_models(args.wn_channels or 256)
    else:
        tacotron2, waveglow = load_tacotron2(args.tacotron2, flags), load_waveglow(args.waveglow, flags)
    check_audio_flags(args, waveglow.audio)
    with ExitStack() as stack:
        if args.loop:
            voice = stack.enter_context(
                Voice.from_checkpoints(
                    tacotron2,
                    waveglow,
                    device=device,
                    precision=precision,
                    conditioning=args.conditioning,
                    work=WorkSettings(batch_size=benchmark.batch_size),
                )
            )
            speak = stack.enter_context(voice_speaker(voice, benchmark))
        else:
            speak = classic_speaker(tacotron2, waveglow, precision, device, benchmark.settings)
        name = LOOP if args.loop else CLASSIC
        if args.conditioning not in ("auto", "exact"):
            name += f", conditioning of rank {args.conditioning}"
        width = waveglow.config.wn_channels
        run_benchmark(name, benchmark, speak, precision, width, device, waveglow.audio)


def _check_random_weights(flags: dict[str, object]) -> None:
    surplus = [name for name in flags if name != "wn_channels"]
    if surplus:
        flag = f"--{surplus[0].replace('_', '-')}"
        raise UserError(f"{flag}: random weights have NGC's dimensions, but for --wn-channels; leave it out")


if __name__ == "__main__":
    run(main, make_parser())
