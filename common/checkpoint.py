"""A model from a checkpoint: dimensions, audio settings and weights, each checked.

Dimensions that a checkpoint doesn't name are read from the shapes of its weights. `common.checkpoint_file` reads the
files; `tacotron2.loading` and `waveglow.loading` have what is particular to a model.
"""

import dataclasses
import itertools
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from common.checkpoint_file import read_checkpoint
from common.config import AudioConfig, Tacotron2Config, WaveGlowConfig
from common.errors import UserError
from common.files import sha256_of
from common.metadata import MAX_GAIN, MAX_SIGMA, check_number

ModelName = Literal["Tacotron 2", "WaveGlow"]
Model = TypeVar("Model", bound=nn.Module, covariant=True)
State = dict[str, torch.Tensor]

MODEL_ARGUMENTS: dict[ModelName, str] = {"Tacotron 2": "tacotron2", "WaveGlow": "waveglow"}
# The classic counts these among the model's flags. They are choices of a run: a flag may differ from the checkpoint.
RUN_CHOICES = ("max_decoder_steps", "gate_threshold", "decoder_no_early_stopping")
_CONFIGS: dict[ModelName, type] = {"Tacotron 2": Tacotron2Config, "WaveGlow": WaveGlowConfig}
# Keys under which trainers keep their settings, and NeMo's names of those of audio.
_CONFIG_KEYS = ("config", "hparams", "hyper_parameters", "args", "data_config", "audio")
_AUDIO_NAMES = {
    "sample_rate": "sampling_rate",
    "n_fft": "filter_length",
    "n_window_size": "win_length",
    "n_window_stride": "hop_length",
    "lowfreq": "mel_fmin",
    "highfreq": "mel_fmax",
}
_TRAINING_COUNTER = "num_batches_tracked"  # of no use at inference, and absent from old checkpoints


@dataclass(frozen=True)
class LoadedModel(Generic[Model]):
    """A model in FP32, in evaluation mode, with its checkpoint's description."""

    model: Model
    audio: AudioConfig
    sha256: str
    sigma: float | None  # the noise that the checkpoint's author judged best, if stored
    voice: str
    gain: float = 1.0  # of the audio, from the checkpoint or the JSON file beside it (WaveGlow alone)
    arpabet: bool | None = None  # whether it was trained on ARPAbet, if stored (Tacotron 2 alone)

    @property
    def config(self) -> Any:
        """The model's Tacotron2Config or WaveGlowConfig."""
        return self.model.config


class NoRandomWeights(TorchFunctionMode):
    """In this context modules are made without `torch.nn.init`: their weights are whatever memory holds.

    For modules all of whose weights are set right after: random numbers for millions of them take longer than reading a
    checkpoint. On the meta device they would cost nothing but to import PyTorch's compiler, which takes seconds.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__module__", "") == "torch.nn.init":
            return kwargs["tensor"] if kwargs and "tensor" in kwargs else args[0]
        return func(*args, **(kwargs or {}))


def load_model(
    path: Path,
    name: ModelName,
    make_model: Callable[[Any], Model],
    flags: Mapping[str, Any],
    dimensions_of: Callable[[State], dict[str, int]],
    adapt_state: Callable[[State], State] = lambda state: state,
) -> LoadedModel[Model]:
    """Reads a checkpoint and puts its weights into the model that `make_model` makes of its configuration.

    Args:
        name: the model that the file has to hold.
        make_model: from a Tacotron2Config or WaveGlowConfig to the empty model.
        flags: the user's dimensions and sampling_rate. They complete the checkpoint's own, and must agree with them;
            None is left out.
        dimensions_of: reads dimensions from the weights; may raise KeyError for a missing tensor.
        adapt_state: from the state_dict of any trainer to the names of our model.

    Raises:
        UserError: the file is missing, unreadable, truncated, unsafe, of another model or of other dimensions.
    """
    checkpoint = read_checkpoint(path)
    found = _model_name_of(checkpoint["state_dict"])
    if found is not None and found != name:
        raise UserError(f"{path}: this is a {found} checkpoint, not {name}; give it as {MODEL_ARGUMENTS[found]}")
    try:
        state = adapt_state(checkpoint["state_dict"])
        shown = dimensions_of(state)
    except KeyError as error:
        raise UserError(f"{path}: the state_dict lacks {error.args[0]}") from error
    except (ValueError, IndexError, RuntimeError) as error:
        raise UserError(f"{path}: its tensors don't have the dimensions of {name}'s ({error})") from error
    config_class = _CONFIGS[name]
    try:
        stored = _agreeing(_typed_fields(config_class, _flat(checkpoint.get("config"))), shown)
        config = _config_of(config_class, stored, flags)
        audio: AudioConfig = _config_of(AudioConfig, _audio_settings(checkpoint), flags)
    except ValueError as error:
        raise UserError(f"{path}: {error}") from error
    with torch.device("meta"), NoRandomWeights():  # the checkpoint's replace them
        model = make_model(config)
    _check_state(path, model, state)
    counters = {name: torch.tensor(0) for name in model.state_dict() if name.endswith(_TRAINING_COUNTER)}
    state = {**counters, **{name: t.float() if t.is_floating_point() else t for name, t in state.items()}}
    model.load_state_dict(state, assign=True)
    arpabet = checkpoint.get("arpabet")
    return LoadedModel(
        model=model.eval().requires_grad_(False),
        audio=audio,
        sha256=sha256_of(path),
        sigma=_number_of(path, checkpoint, "sigma", MAX_SIGMA),
        voice=str(checkpoint.get("voice", "")),
        gain=_gain_of(path, checkpoint) if name == "WaveGlow" else 1.0,
        arpabet=None if arpabet is None else bool(arpabet),
    )


def _number_of(path: Path, values: Mapping[str, Any], name: str, high: float) -> float | None:
    if values.get(name) is None:
        return None
    try:
        return check_number(name, values[name], 0, high)
    except ValueError as error:
        raise UserError(f"{path}: {error}") from error


def _gain_of(path: Path, checkpoint: Mapping[str, Any]) -> float:
    """The audio's gain: "gain" in the JSON file beside the checkpoint, else the checkpoint's own, else 1.

    A JSON file without that key is another program's.
    """
    sidecar, values = path.with_suffix(".json"), checkpoint
    if sidecar.is_file():
        try:
            beside = json.loads(sidecar.read_text(encoding="utf-8"))
        except ValueError as error:
            raise UserError(f'{sidecar}: must be JSON, such as {{"gain": 2.0}}; mend or rename it') from error
        if isinstance(beside, dict) and "gain" in beside:
            path, values = sidecar, beside
    gain = _number_of(path, values, "gain", MAX_GAIN)
    if gain == 0:
        raise UserError(f"{path}: gain 0.0: must be above 0")
    return 1.0 if gain is None else gain


def _model_name_of(state: Mapping[str, Any]) -> ModelName | None:
    """The model of a state_dict, recognised by its tensors' names; None for neither."""
    if "embedding.weight" in state or any(name.startswith("decoder.attention_rnn.") for name in state):
        return "Tacotron 2"
    if "upsample.weight" in state or any(name.startswith("WN.") for name in state):
        return "WaveGlow"
    return None


def count(state: Mapping[str, Any], name: str) -> int:
    """The number of layers of a name that has {} in the position of their number."""
    return next(number for number in itertools.count() if name.format(number) not in state)


def _flat(config: Any) -> dict[str, Any]:
    # WaveGlow's config nests the dimensions of its networks in WN_config.
    config = {} if config is None else config
    nested = config.get("WN_config") or {} if isinstance(config, dict) else None
    if not isinstance(nested, dict):
        raise ValueError("its config, or the WN_config in it, is no dictionary")
    return {**config, **{f"wn_{name.removeprefix('n_')}": value for name, value in nested.items()}}


def _typed_fields(config_class: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """The values that are fields of a config class, in the fields' types. Raises ValueError for others."""
    kinds = {field.name: type(field.default) for field in dataclasses.fields(config_class)}
    return {name: _typed(name, value, kinds[name]) for name, value in values.items() if name in kinds}


def _typed(name: str, value: Any, kind: type) -> Any:
    if kind is bool and isinstance(value, int) and value in (0, 1):
        return bool(value)
    try:
        number = None if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = None
    if number is None or (kind is int and not number.is_integer()):
        wanted = {bool: "true or false", int: "a whole number", float: "a number"}[kind]
        raise ValueError(f"{name} is {value!r}: it must be {wanted}")
    return kind(number)


def _agreeing(stored: dict[str, Any], shown: dict[str, int]) -> dict[str, Any]:
    """The stored dimensions, completed by those of the weights. Raises ValueError where they differ."""
    for name, value in shown.items():
        if stored.setdefault(name, value) != value:
            raise ValueError(f"its config has {name} = {stored[name]}, but its weights have {value}")
    return stored


def _audio_settings(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """The audio settings of a checkpoint: at its top level, or anywhere in its configuration.

    Raises:
        ValueError: a setting is no number, or has two values.
    """
    found: dict[str, Any] = {}
    for name, value in _settings_in(checkpoint, at_top=True):
        for setting, number in _typed_fields(AudioConfig, {_AUDIO_NAMES.get(name, name): value}).items():
            if found.setdefault(setting, number) != number:
                raise ValueError(f"{setting} is {found[setting]} in one place and {number} in another")
    return found


def _settings_in(values: Mapping[str, Any], at_top: bool = False) -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, dict):
            if not at_top or name in _CONFIG_KEYS:
                yield from _settings_in(value)
        elif value is not None:
            yield name, value


def _config_of(config_class: type, stored: dict[str, Any], flags: Mapping[str, Any]) -> Any:
    """A config of a checkpoint's values and the flags. Raises ValueError where they differ, or no model has them."""
    names = [field.name for field in dataclasses.fields(config_class)]
    given = {name: flags[name] for name in names if flags.get(name) is not None}
    for name in given:
        if name in stored and name not in RUN_CHOICES and stored[name] != given[name]:
            raise ValueError(
                f"the checkpoint has {name} = {stored[name]}, but --{name.replace('_', '-')} says {given[name]}; "
                "leave the flag out"
            )
    config = config_class(**{**stored, **given})
    config.validate()
    return config


def _check_state(path: Path, model: nn.Module, state: Mapping[str, torch.Tensor]) -> None:
    expected = model.state_dict()
    for name, tensor in expected.items():
        if name not in state:
            if name.endswith(_TRAINING_COUNTER):
                continue
            raise UserError(f"{path}: the state_dict lacks {name}")
        if state[name].shape != tensor.shape:
            raise UserError(
                f"{path}: {name} is {list(state[name].shape)} in the state_dict, but {list(tensor.shape)} by the "
                "model's dimensions"
            )
    surplus = sorted(set(state) - set(expected))
    if surplus:
        raise UserError(f"{path}: the state_dict has {surplus[0]}, which a model of its dimensions lacks")
