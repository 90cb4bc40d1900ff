"""Reads files of weights as data: both formats of torch.save, safetensors, and NeMo's archives. Runs no code of a file.

A pickle may ask for any class or function. It gets PyTorch's functions that make tensors. For names that checkpoints
hold beside tensors (`INERT_NAMES`) it gets stand-ins, so that pickled models and training state are data too. All other
names are refused. PyTorch's own unpickler for weights reads the files that it can read.
"""

import codecs
import functools
import json
import pickle
import pickletools
import re
import shutil
import tarfile
import tempfile
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from common.errors import UserError

# Names that get stand-ins: those of WaveGlow pickled as a module, and of training state beside the weights.
INERT_NAMES = re.compile(
    r"glow\.\w+"
    r"|torch\.nn\.(modules|parallel|utils|backends)\.[\w.]+"
    r"|numpy\.(dtype|ndarray|_?core\.multiarray\.(scalar|_reconstruct))"
    r"|torch\.(device|bfloat16|(float|int|uint)\d+|bool)"
    r"|argparse\.Namespace|pathlib\.\w*Path|datetime\.\w+"
    r"|builtins\.(set|frozenset|list|dict|tuple|int|float|bool|str)"
)
# Keys of the weights in files of training scripts; the first that exists counts.
WEIGHT_KEYS = ("state_dict", "model", "model_state_dict", "ema")
# Components of names that wrappers add: DistributedDataParallel, torch.compile, Lightning, averaged weights, NeMo.
WRAPPERS = {"module", "_orig_mod", "model", "ema", "waveglow"}
# Files that are mistaken for checkpoints, by their first bytes.
_NO_CHECKPOINTS = {
    b"version h": "a Git LFS pointer in the place of the file; fetch the file with git lfs pull",
    b"<": "a web page in the place of the file; download it in a browser",
    b"\x08": "an ONNX file, not a checkpoint; what runs it is inference_trt.py",
}
_NEMO_WEIGHTS, _NEMO_CONFIG = "model_weights.ckpt", "model_config.yaml"
_SAFETENSORS_DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_SAFETENSORS_DTYPES |= {"I64": torch.int64, "I32": torch.int32, "U8": torch.uint8, "BOOL": torch.bool}


class Inert(dict):
    """Stands in for an object of any class: keeps its attributes or items, and has no behaviour."""

    def __init__(self, *args: Any) -> None:
        super().__init__()

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, dict):
            self.update(state)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Reads a checkpoint as data.

    Returns:
        the file's content, with "state_dict": tensors on the CPU by the model's own names.

    Raises:
        UserError: the file is missing, can't be read, asks to run code or holds no weights.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such checkpoint; see scripts/download_checkpoints.sh or give another path")
    try:
        content = _read(path)
        state = _weights_in(content)
    except (OSError, UserError):
        raise
    except pickle.UnpicklingError as error:
        raise UserError(f"{path}: {_unpickling_problem(str(error))}") from error
    except Exception as error:  # torch raises RuntimeError, EOFError, KeyError, ValueError... for damaged files
        raise UserError(f"{path}: not a readable PyTorch checkpoint (truncated or damaged?); get it again") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: holds a {type(content).__name__}, not a checkpoint with a state_dict")
    if not state:
        raise UserError(f"{path}: holds no state_dict; give a checkpoint of Tacotron 2 or WaveGlow")
    return {**content, "state_dict": _unwrapped(state)}


def _read(path: Path) -> Any:
    if _head(path)[8:] == b"{":
        return _read_safetensors(path)
    if tarfile.is_tarfile(path):
        return _read_nemo(path)
    return _read_pickled(path, str(path))


def _read_pickled(path: Path, where: str) -> Any:
    """Reads a file of torch.save, in either of its formats."""
    if not zipfile.is_zipfile(path):
        for head, kind in _NO_CHECKPOINTS.items():
            if _head(path).startswith(head):
                raise UserError(f"{where}: {kind}")
        # PyTorch reads other files, as programs or archives, with less care.
        if _head(path)[:1] != pickle.PROTO or tarfile.is_tarfile(path):
            raise ValueError("no pickle")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the source of a pickled class can't be found
            return torch.load(path, map_location="cpu", weights_only=False, pickle_module=_LEGACY_PICKLE)
    with zipfile.ZipFile(path) as archive:
        members = archive.namelist()
        pickled = [name for name in members if name.endswith("/data.pkl")]
        if not pickled:
            raise UserError(f"{where}: an archive of {', '.join(members[:3])}; unpack it and give what is inside")
        if any(name.endswith("/constants.pkl") for name in members):
            raise UserError(f"{where}: a TorchScript program, not weights; save its state_dict() and give that")
        opcodes = pickletools.genops(archive.read(pickled[0]))
        asked = {str(argument).replace(" ", ".") for code, argument, _ in opcodes if code.name == "GLOBAL"}
    names = [name.replace("__builtin__.", "builtins.") for name in asked]
    stand_ins: list[Any] = [(stand_in, name) for name in names if (stand_in := _stand_in(name)) is not None]
    with torch.serialization.safe_globals(stand_ins):
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)


def _head(path: Path) -> bytes:
    with open(path, "rb") as file:
        return file.read(9)


@functools.cache
def _stand_in(name: str) -> Any:
    """The stand-in for a name, which keeps the name; None for a name that is refused."""
    if name == "collections.defaultdict":
        return _without_default  # PyTorch's unpickler sets items of plain dictionaries only
    return type(name, (Inert,), {}) if INERT_NAMES.fullmatch(name) else None


def _without_default(factory: Any = None) -> dict[Any, Any]:
    return {}


class _Rebuild:
    """Calls a PyTorch function that makes tensors. A pickle can't change it, as it could the function itself."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function

    def __call__(self, *args: Any) -> Any:
        return self.function(*args)

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError("a function was given attributes")


class _LegacyUnpickler(pickle.Unpickler):
    """Reads torch.save's older format, in which PyTorch's unpickler for weights refuses every pickled module."""

    def find_class(self, module: str, name: str) -> Any:
        asked = f"{module.replace('__builtin__', 'builtins')}.{name}"
        found = _REBUILDING.get(asked) or _stand_in(asked)
        if found is None:
            raise pickle.UnpicklingError(f"GLOBAL {asked}")
        return found


_REBUILDING: dict[str, Any] = {
    "collections.OrderedDict": OrderedDict,
    "torch._utils._rebuild_tensor": _Rebuild(torch._utils._rebuild_tensor),
    "torch._utils._rebuild_tensor_v2": _Rebuild(torch._utils._rebuild_tensor_v2),
    "torch._utils._rebuild_parameter": _Rebuild(torch._utils._rebuild_parameter),
    "torch.Size": torch.Size,
    "_codecs.encode": _Rebuild(codecs.encode),
}
# `torch.load` takes this instead of the module pickle.
_LEGACY_PICKLE: Any = SimpleNamespace(
    __name__="pickle", Unpickler=_LegacyUnpickler, load=lambda file, **options: _LegacyUnpickler(file, **options).load()
)


def _unpickling_problem(message: str) -> str:
    if "GLOBAL glow_old." in message:
        return (
            "a WaveGlow of the first release, which swaps the halves of its channels in every other flow and can't be "
            "run here; take a later one, such as waveglow_256channels_universal_v5.pt"
        )
    named = re.findall(r"GLOBAL ([\w.]+)|Unsupported (?:global|class) ([\w.]+)", message)
    types = sorted({name for pair in named for name in pair if name and "torch.load" not in name})
    if types:
        return (
            f"refused: it asks to run code when loaded ({', '.join(types)}); use a checkpoint that holds only tensors "
            "and plain data: where it was made, torch.save(model.state_dict(), FILE)"
        )
    return "not a readable PyTorch checkpoint (damaged, or not made by torch.save); get it again"


def _read_safetensors(path: Path) -> dict[str, Any]:
    """8 bytes of length, that many of JSON, and the tensors' bytes. Raises ValueError, or KeyError, if damaged."""
    content = memoryview(bytearray(path.read_bytes()))
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(bytes(content[8:start]))
    metadata = header.pop("__metadata__", {})
    state = {}
    for name, entry in header.items():
        first, end = (start + offset for offset in entry["data_offsets"])
        dtype, data = _SAFETENSORS_DTYPES[entry["dtype"]], content[first:end]
        if len(data) != end - first:
            raise ValueError("truncated")
        values = torch.frombuffer(data, dtype=dtype) if len(data) else torch.empty(0, dtype=dtype)
        state[name] = values.reshape(entry["shape"])
    return {**metadata, "state_dict": state}


def _read_nemo(path: Path) -> dict[str, Any]:
    with tarfile.open(path) as archive:
        members = {name.removeprefix("./"): name for name in archive.getnames()}
        files = {name: archive.extractfile(members[name]) for name in (_NEMO_WEIGHTS, _NEMO_CONFIG) if name in members}
        weights, config = files.get(_NEMO_WEIGHTS), files.get(_NEMO_CONFIG)
        if weights is None:
            raise UserError(f"{path}: an archive without {_NEMO_WEIGHTS}; give a .nemo file, or the checkpoint inside")
        text = config.read().decode() if config is not None else ""
        with tempfile.NamedTemporaryFile() as unpacked:  # the weights that are read outlast it
            shutil.copyfileobj(weights, unpacked)
            unpacked.flush()
            content = _read_pickled(Path(unpacked.name), str(path))
    # Only numbers of the YAML file are needed, at any depth; the first of a name counts.
    numbers = re.findall(r"^\s*(\w+):\s*([\d.]+)\s*$", text, re.MULTILINE)
    return {"state_dict": _weights_in(content), "config": dict(reversed(numbers))}


def _weights_in(content: Any) -> dict[str, torch.Tensor]:
    """The tensors of a checkpoint, a state_dict or a pickled module, by name; none if there are none."""
    if not isinstance(content, dict):
        return {}
    if "_modules" in content:
        return _state_of(content)
    for key in WEIGHT_KEYS:
        if isinstance(content.get(key), dict) and (state := _weights_in(content[key])):
            return state
    return {name: value for name, value in content.items() if isinstance(value, torch.Tensor)}


def _state_of(module: dict[str, Any], prefix: str = "") -> dict[str, torch.Tensor]:
    """The `state_dict()` of a module that was read as its attributes."""
    own = {**module.get("_parameters", {}), **module.get("_buffers", {})}
    state = {prefix + name: value for name, value in own.items() if isinstance(value, torch.Tensor)}
    for name, child in module.get("_modules", {}).items():
        if isinstance(child, dict):
            state |= _state_of(child, f"{prefix}{name}.")
    return state


def _unwrapped(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors under the model's own names. Averaged weights replace those that they are averages of."""
    words = {name: name.split(".") for name in state}
    ordered = sorted(state, key=lambda name: "ema" in words[name])
    return {".".join(word for word in words[name] if word not in WRAPPERS): state[name] for name in ordered}
