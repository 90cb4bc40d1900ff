"""Speaks phrases to wav files with Tacotron 2 and WaveGlow, on TensorRT engines or ONNX files."""

import argparse

from common.cli import ArgumentParser, run
from pipeline import Voice
from pipeline.console import Request, show_text, speak_request
from pipeline.flags import (
    add_engine_flags,
    add_speak_flags,
    check_audio_flags,
    check_precision,
    model_paths,
    read_request,
    runtime_choice,
)
from pipeline.model_files import DEMO_FOLDER

DEFAULT_MODELS = (
    f"Give all four, or none: then those in ./output itself, else the demo voice, exported once to {DEMO_FOLDER}."
)


def make_parser(prog: str = "inference_trt.py") -> ArgumentParser:
    parser = ArgumentParser(prog=prog, description=__doc__)
    add_speak_flags(parser, text_without_flag=prog == "speak")
    add_engine_flags(parser, DEFAULT_MODELS)
    return parser


def speak() -> None:
    """The console command `speak`: this script with the text as its argument."""
    run(main, make_parser("speak"))


def main(args: argparse.Namespace) -> None:
    request = read_request(args, suffix="trt")
    if args.show_text:
        show_text(request)
        return
    with open_voice(args, request) as voice:
        check_precision(args, voice.engines.parts)
        check_audio_flags(args, voice.engines.audio)
        speak_request(voice, request)


def open_voice(args: argparse.Namespace, request: Request) -> Voice:
    """The voice of the four files that the flags name, or of the default ones."""
    paths = model_paths(args)
    if paths is not None:
        return Voice.load(paths, work=request.work, **runtime_choice(args))
    return Voice.load(
        precision="fp16" if args.fp16 else None,
        work=request.work,
        on_message=lambda message: print(message, file=request.messages),
        **runtime_choice(args),
    )


if __name__ == "__main__":
    run(main, make_parser())
