"""Speaks a text through NVIDIA's Triton Inference Server: streamed over gRPC, or whole over HTTP."""

import argparse
import sys
from pathlib import Path

from common.cli import ArgumentParser, run
from pipeline.audio import Audio
from serving.triton.client import speak, stream


def make_parser() -> ArgumentParser:
    parser = ArgumentParser(prog="triton_client.py", description=__doc__)
    parser.add_argument("--text", required=True, help="what to speak")
    parser.add_argument("-o", "--output", type=Path, default=Path("audio.wav"), help="wav file")
    parser.add_argument("--whole", action="store_true", help="ask the model tts over HTTP, for one answer")
    parser.add_argument("--url", help="host and port of the server [127.0.0.1:8001, with --whole 127.0.0.1:8000]")
    parser.add_argument("--seed", type=int, help="seed of the random numbers [0]")
    parser.add_argument("--speed", type=float, help="0.5 to 2.0 [1.0]")
    return parser


def main(args: argparse.Namespace) -> None:
    options = {name: getattr(args, name) for name in ("seed", "speed") if getattr(args, name) is not None}
    if args.whole:
        audio = speak(args.url or "127.0.0.1:8000", args.text, **options)
    else:
        chunks = []
        for chunk in stream(args.url or "127.0.0.1:8001", args.text, **options):
            chunks.append(chunk)
            print(f"{chunk.seconds:.2f} s of audio", file=sys.stderr)
        audio = Audio.join(chunks)
    audio.save(args.output, normalize=False)
    print(f"{args.output}: {audio.seconds:.2f} s")


if __name__ == "__main__":
    run(main, make_parser())
