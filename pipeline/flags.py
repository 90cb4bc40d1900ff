"""The models' dimensions as command line flags, under the classic's names.

A checkpoint carries its own dimensions; a flag is needed only where it carries none, and must agree where it does.
"""

import argparse
import dataclasses
from typing import Any

from common.config import AudioConfig, Tacotron2Config, WaveGlowConfig
from common.errors import UserError

_WAVEGLOW_FLAGS = {"n_flows": "--flows", "n_group": "--groups", "n_early_every": "--early-every"} | {
    "n_early_size": "--early-size"
}
# What the classic calls model flags, but which are choices of a run: scripts that speak define them themselves.
RUN_CHOICES = ("max_decoder_steps", "gate_threshold")


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
