"""Speaks a text through NVIDIA's Triton Inference Server: streamed over gRPC, or whole over HTTP."""

import argparse
import sys
from pathlib import Path

from common.cli import ArgumentParser, run
from pipeline.audio import Audio
from pipeline.flags import add_setting_flags
from pipeline.settings import settings_at
from serving.triton.client import speak, stream


def make_parser() -> ArgumentParser:
    parser = ArgumentParser(prog="triton_client.py", description=__doc__)
    parser.add_argument("--text", required=True, help="what to speak")
    parser.add_argument("-o", "--output", type=Path, default=Path("audio.wav"), help="wav file")
    parser.add_argument("--whole", action="store_true", help="ask the model tts over HTTP, for one answer")
    parser.add_argument("--url", help="host and port of the server [127.0.0.1:8001, with --whole 127.0.0.1:8000]")
    add_setting_flags(parser.add_argument_group("voice"), settings_at("triton"))
    return parser


def main(args: argparse.Namespace) -> None:
    given = {setting.name_at("triton"): getattr(args, setting.name) for setting in settings_at("triton")}
    options = {name: value for name, value in given.items() if value is not None}
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
