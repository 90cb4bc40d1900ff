"""Benchmarks Tacotron 2 and WaveGlow on TensorRT engines or ONNX files."""

import argparse
from collections.abc import Mapping

from benchmarks.offline import add_benchmark_flags, read_benchmark, run_benchmark, voice_speaker
from common.cli import ArgumentParser, run
from common.config import WaveGlowConfig
from common.engine import Engine
from common.errors import UserError
from common.metadata import Part
from pipeline import Voice, WorkSettings
from pipeline.flags import add_engine_flags, check_audio_flags, check_precision, model_paths, runtime_choice

FRAMEWORKS = {"OnnxEngine": "ONNX Runtime", "OpenVINOEngine": "OpenVINO", "TensorRTEngine": "TensorRT"}


def make_parser() -> ArgumentParser:
    parser = ArgumentParser(prog="test_infer_trt.py", description=__doc__)
    add_benchmark_flags(parser)
    add_engine_flags(parser, required=True)
    parser.add_argument("--wn-channels", type=int, help="of WaveGlow; must agree with the models' [the models']")
    return parser


def main(args: argparse.Namespace) -> None:
    benchmark = read_benchmark(args)
    paths = model_paths(args)
    assert paths is not None  # the parser requires them
    with Voice.load(paths, work=WorkSettings(batch_size=benchmark.batch_size), **runtime_choice(args)) as voice:
        engines = voice.engines
        check_precision(args, engines.parts)
        check_audio_flags(args, engines.audio)
        if engines.batch_size < benchmark.batch_size:
            most = engines.batch_size
            raise UserError(f"-bs {benchmark.batch_size}: the engines take {most} at most; build them with a wider -bs")
        waveglow = engines.parts["waveglow"].metadata.model
        assert isinstance(waveglow, WaveGlowConfig)
        name, width = framework(engines.parts), waveglow.wn_channels
        if args.wn_channels not in (None, width):
            raise UserError(f"--wn-channels {args.wn_channels}: the models have {width}; leave the flag out")
        with voice_speaker(voice, benchmark) as speak:
            run_benchmark(name, benchmark, speak, engines.precision, width, engines.device, engines.audio)


def framework(engines: Mapping[Part, Engine]) -> str:
    """What runs the engines, as tables name it."""
    kinds = [type(engine).__name__ for engine in engines.values()]
    return " + ".join(dict.fromkeys(FRAMEWORKS.get(kind, kind) for kind in kinds))


if __name__ == "__main__":
    run(main, make_parser())
