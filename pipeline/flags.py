"""The models' dimensions as command line flags, under the classic's names.

A checkpoint carries its own dimensions; a flag is needed only where it carries none, and must agree where it does.
"""

import argparse
import dataclasses
from collections.abc import Mapping
from typing import Any, get_args

from common.config import AudioConfig, Tacotron2Config, WaveGlowConfig
from common.cpu_backend import CpuBackend, CpuPrecision
from common.engine import Engine
from common.errors import UserError
from common.metadata import Part
from common.onnx_engine import GpuProvider
from waveglow.denoiser import Denoiser

_WAVEGLOW_FLAGS = {"n_flows": "--flows", "n_group": "--groups", "n_early_every": "--early-every"} | {
    "n_early_size": "--early-size"
}


def add_model_flags(parser: argparse.ArgumentParser, *configs: type, leave_out: tuple[str, ...] = ()) -> None:
    """Adds a flag for every dimension of the given config classes (one flag where they share a name)."""
    group = parser.add_argument_group("model dimensions (needed only where the checkpoint carries no config)")
    defaults = {field.name: field.default for config in configs for field in dataclasses.fields(config)}
    for name, default in defaults.items():
        if name in leave_out:
            continue
        flag = _WAVEGLOW_FLAGS.get(name, "--" + name.replace("_", "-"))
        options: dict[str, Any] = {"dest": name, "default": None, "help": f"{name} [{default}]"}
        if isinstance(default, bool):
            group.add_argument(flag, action="store_true", **options)
        else:
            group.add_argument(flag, type=type(default), metavar="N", **options)


def given_flags(args: argparse.Namespace, config: type[Tacotron2Config] | type[WaveGlowConfig]) -> dict[str, Any]:
    """The dimensions of `config` that were given on the command line."""
    names = {field.name for field in dataclasses.fields(config)}
    return {name: value for name, value in vars(args).items() if name in names and value is not None}


def check_audio_flags(args: argparse.Namespace, audio: AudioConfig) -> None:
    """Raises UserError if -sr or --stft-hop-length contradict the model."""
    for flag, given, actual in (
        ("-sr", args.sampling_rate, audio.sampling_rate),
        ("--stft-hop-length", args.stft_hop_length, audio.hop_length),
    ):
        if given is not None and given != actual:
            raise UserError(f"{flag} {given}: the model's is {actual}; leave the flag out")


def add_run_flags(group: argparse._ArgumentGroup) -> None:
    """Adds the flags, beside the four paths, of every script that runs model files."""
    group.add_argument("--waveglow-ckpt", default="", help="classic flag: anything given turns the denoiser on")
    group.add_argument("--fp16", action="store_true", help="the models are in half precision")
    group.add_argument("--threads", type=int, help="CPU threads for .onnx files [all cores]")
    group.add_argument(
        "--cpu-backend",
        choices=get_args(CpuBackend),
        default="auto",
        help="what runs .onnx files on a CPU; auto takes what is faster on this processor",
    )
    group.add_argument(
        "--cpu-precision",
        choices=get_args(CpuPrecision),
        default="fp32",
        help="what .onnx files are computed in on a CPU; bf16 needs AMX and OpenVINO",
    )
    group.add_argument("--device", default="cpu", help="what runs .onnx files: cpu, cuda or cuda:N")
    group.add_argument(
        "--gpu-provider",
        choices=get_args(GpuProvider),
        default="cuda",
        help="what ONNX Runtime runs .onnx files with on --device cuda",
    )


def runtime_choice(args: argparse.Namespace) -> dict[str, Any]:
    """What the flags of `add_run_flags` say of how to run `.onnx` files, as the arguments of `open_engines`."""
    names = ("threads", "cpu_backend", "cpu_precision", "device", "gpu_provider")
    return {name: getattr(args, name) for name in names}


def check_precision(args: argparse.Namespace, engines: Mapping[Part, Engine]) -> None:
    """Raises UserError if --fp16 was given and a model isn't."""
    for engine in engines.values():
        precision = engine.metadata.precision
        if args.fp16 and precision != "fp16":
            raise UserError(f"{engine.name} is {precision}, but --fp16 was given; export it with --fp16")


def denoiser_for(args: argparse.Namespace, engines: Mapping[Part, Engine]) -> Denoiser | None:
    """The denoiser, if the flags ask for it, from the bias that the WaveGlow file carries."""
    if not (args.denoise or args.waveglow_ckpt):
        return None
    return Denoiser.of(engines["waveglow"].metadata, args.denoising_strength)
