"""Benchmarks Tacotron 2 and WaveGlow on TensorRT engines or ONNX files."""

import argparse
from collections.abc import Mapping

from common.cli import ArgumentParser, run
from common.config import WaveGlowConfig
from common.engine import Engine
from common.errors import UserError
from common.files import output_folder
from common.metadata import Part
from pipeline import Voice
from pipeline.console import report_benchmark, voice_speaker
from pipeline.flags import (
    add_benchmark_flags,
    add_engine_flags,
    benchmark_settings,
    check_audio_flags,
    check_precision,
    model_paths,
    report_settings,
    runtime_choice,
)

FRAMEWORKS = {"OnnxEngine": "ONNX Runtime", "OpenVINOEngine": "OpenVINO", "TensorRTEngine": "TensorRT"}


def make_parser() -> ArgumentParser:
    parser = ArgumentParser(prog="test_infer_trt.py", description=__doc__)
    add_benchmark_flags(parser)
    add_engine_flags(parser, required=True)
    return parser


def main(args: argparse.Namespace) -> None:
    benchmark = benchmark_settings(args)
    paths = model_paths(args)
    assert paths is not None  # the parser requires them
    with Voice.from_files(paths, work=benchmark.work_settings, **runtime_choice(args)) as voice:
        engines = voice.engines
        check_precision(args, engines.parts)
        check_audio_flags(args, engines.audio)
        if engines.batch_size < benchmark.batch:
            most = engines.batch_size
            raise UserError(f"-bs {benchmark.batch}: the engines take {most} at most; build them with a wider -bs")
        waveglow = engines.parts["waveglow"].metadata.model
        assert isinstance(waveglow, WaveGlowConfig)
        report = report_settings(args, output_folder(args.output))
        with voice_speaker(voice, benchmark, args.stream) as speak:
            report_benchmark(
                framework(engines.parts),
                benchmark,
                speak,
                engines.precision,
                waveglow.wn_channels,
                engines.device,
                engines.audio,
                report,
            )


def framework(engines: Mapping[Part, Engine]) -> str:
    """What runs the engines, as tables name it."""
    kinds = [type(engine).__name__ for engine in engines.values()]
    return " + ".join(dict.fromkeys(FRAMEWORKS.get(kind, kind) for kind in kinds))


if __name__ == "__main__":
    run(main, make_parser())
