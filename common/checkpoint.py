"""PyTorch checkpoints of NVIDIA's layout as data, without running code that a file may carry.

A checkpoint is `{"state_dict", "config", ...}`; names may be prefixed "module." (DistributedDataParallel). Training
state beside them (optimizer, amp, random generators) is passed over. Both of torch.save's formats are read.
`tacotron2.loading` and `waveglow.loading` make models of it.
"""

import dataclasses
import json
import pickle
import re
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

import numpy as np
import torch
from torch import nn

from common.config import AudioConfig, Tacotron2Config, WaveGlowConfig
from common.errors import UserError
from common.files import sha256_of
from common.metadata import MAX_GAIN, MAX_SIGMA, check_number, config_from
from common.modules import NoRandomWeights

ModelName = Literal["Tacotron 2", "WaveGlow"]
Model = TypeVar("Model", bound=nn.Module, covariant=True)
State = dict[str, torch.Tensor]

MODEL_FLAGS: dict[ModelName, str] = {"Tacotron 2": "--tacotron2", "WaveGlow": "--waveglow"}
# What the classic calls model flags, but which are choices of a run: a flag may differ from the checkpoint's value.
RUN_CHOICES = ("max_decoder_steps", "gate_threshold", "decoder_no_early_stopping")
_CONFIGS: dict[ModelName, type] = {"Tacotron 2": Tacotron2Config, "WaveGlow": WaveGlowConfig}
_TRAINING_COUNTER = "num_batches_tracked"  # of no use at inference, and absent from old checkpoints


@dataclass(frozen=True)
class LoadedModel(Generic[Model]):
    """A model in FP32, in evaluation mode, and what its checkpoint says of it."""

    model: Model
    audio: AudioConfig
    sha256: str
    sigma: float | None  # the noise that the checkpoint's author judged best, where it says so
    voice: str
    gain: float = 1.0  # of the audio, from the checkpoint or the JSON file beside it (WaveGlow alone)
    arpabet: bool | None = None  # whether it was trained on ARPAbet, where it says so (Tacotron 2 alone)

    @property
    def config(self) -> Any:
        """The model's Tacotron2Config or WaveGlowConfig."""
        return self.model.config


def load_model(
    path: Path,
    name: ModelName,
    make_model: Callable[[Any], Model],
    flags: Mapping[str, Any],
    adapt_state: Callable[[State, Any], State] = lambda state, config: state,
) -> LoadedModel[Model]:
    """Reads a checkpoint and puts its weights into the model that `make_model` makes of its configuration.

    Args:
        name: the model that the file has to hold.
        make_model: from a Tacotron2Config or WaveGlowConfig to the empty model.
        flags: dimensions given by the user: they fill what the checkpoint's config lacks and must agree with what it
            has.
        adapt_state: from the state_dict of any of NVIDIA's releases to the names of our model.

    Raises:
        UserError: the file is missing, unreadable, truncated, unsafe, of another model or of other dimensions.
    """
    checkpoint = read_checkpoint(path)
    state: State = {name.removeprefix("module."): tensor for name, tensor in checkpoint["state_dict"].items()}
    found = model_name_of(state)
    if found is not None and found != name:
        raise UserError(f"{path}: this is a {found} checkpoint, not {name}; give it with {MODEL_FLAGS[found]}")
    stored = _flat(checkpoint.get("config") or {})
    config: Any = config_from(_CONFIGS[name], _merged(path, _CONFIGS[name], stored, dict(flags)))
    try:
        config.validate()
    except ValueError as error:
        raise UserError(f"{path}: {error}") from error
    with torch.device("meta"), NoRandomWeights():  # they would be overwritten
        model = make_model(config)
    state = adapt_state(state, config)
    check_state(path, model, state, has_config=bool(stored))
    counters = {name: torch.tensor(0) for name in model.state_dict() if name.endswith(_TRAINING_COUNTER)}
    state = {**counters, **{name: t.float() if t.is_floating_point() else t for name, t in state.items()}}
    model.load_state_dict(state, assign=True)
    arpabet = checkpoint.get("arpabet")
    return LoadedModel(
        model=model.eval().requires_grad_(False),
        audio=config_from(AudioConfig, {k: v for k, v in checkpoint.items() if isinstance(v, int | float)}),
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


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Reads a checkpoint file as data only. Raises UserError, one line, for anything that is not a checkpoint."""
    if not path.is_file():
        raise UserError(f"{path}: no such checkpoint; see scripts/download_checkpoints.sh or give another path")
    try:
        with torch.serialization.safe_globals(_numpy_globals()):
            checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        raise UserError(f"{path}: {_unpickling_problem(str(error))}") from error
    except OSError:
        raise
    except Exception as error:  # torch raises RuntimeError, EOFError, KeyError, ValueError... for damaged files
        raise UserError(f"{path}: not a readable PyTorch checkpoint (truncated or damaged?); get it again") from error
    if not isinstance(checkpoint, dict):
        raise UserError(f"{path}: holds a {type(checkpoint).__name__}, not a checkpoint with a state_dict")
    if checkpoint and all(isinstance(value, torch.Tensor) for value in checkpoint.values()):
        checkpoint = {"state_dict": checkpoint}  # a bare state_dict
    state = checkpoint.get("state_dict")
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise UserError(f"{path}: holds no state_dict; give a checkpoint of Tacotron 2 or WaveGlow")
    return checkpoint


def _numpy_globals() -> list[Any]:
    # Checkpoints keep the state of NumPy's random generator: an array and its dtype, which are data, not code.
    reconstruct = np.array(0).__reduce__()[0]
    names = ["numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct"]
    dtypes = [type(np.dtype(kind)) for kind in ("u4", "u8", "i8", "f4", "f8")]
    return [*((reconstruct, name) for name in names), np.ndarray, np.dtype, *dtypes]


def _unpickling_problem(message: str) -> str:
    named = re.findall(r"GLOBAL ([\w.]+)|Unsupported (?:global|class) ([\w.]+)", message)
    types = sorted({name for pair in named for name in pair if name and "torch.load" not in name})
    if types:
        return (
            f"refused: it asks to run code when loaded ({', '.join(types)}); use a checkpoint that holds only tensors "
            "and plain data"
        )
    return "not a readable PyTorch checkpoint (damaged, or not made by torch.save); get it again"


def model_name_of(state: Mapping[str, Any]) -> ModelName | None:
    """The model that a state_dict is of, by its names; None for neither."""
    if "embedding.weight" in state or any(name.startswith("decoder.attention_rnn.") for name in state):
        return "Tacotron 2"
    if "upsample.weight" in state or any(name.startswith("WN.") for name in state):
        return "WaveGlow"
    return None


def _flat(config: Mapping[str, Any]) -> dict[str, Any]:
    # WaveGlow's config nests the dimensions of its networks in WN_config.
    nested = config.get("WN_config") or {}
    return {**config, **{f"wn_{name.removeprefix('n_')}": value for name, value in nested.items()}}


def _merged(path: Path, config_class: type, stored: dict[str, Any], flags: dict[str, Any]) -> dict[str, Any]:
    for field in dataclasses.fields(config_class):
        name = field.name
        if name in stored and name in flags and name not in RUN_CHOICES and stored[name] != flags[name]:
            raise UserError(
                f"{path}: the checkpoint has {name} = {stored[name]}, but --{name.replace('_', '-')} says "
                f"{flags[name]}; leave the flag out"
            )
    return {**stored, **flags}


def check_state(path: Path, model: nn.Module, state: Mapping[str, torch.Tensor], has_config: bool) -> None:
    expected = model.state_dict()
    hint = "" if has_config else "; the checkpoint has no config: give its dimensions with the model flags"
    for name, tensor in expected.items():
        if name not in state:
            if name.endswith(_TRAINING_COUNTER):
                continue
            raise UserError(f"{path}: the state_dict lacks {name}{hint}")
        if state[name].shape != tensor.shape:
            raise UserError(
                f"{path}: {name} is {list(state[name].shape)} in the state_dict, but {list(tensor.shape)} by the "
                f"model's dimensions{hint}"
            )
    surplus = sorted(set(state) - set(expected))
    if surplus:
        raise UserError(f"{path}: the state_dict has {surplus[0]}, for which the dimensions have no place{hint}")
