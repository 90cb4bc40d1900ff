"""Model repositories for NVIDIA's Triton Inference Server, of one voice: the models `tts` and `tts_stream`."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from common.errors import UserError
from common.files import REPOSITORY, appearing_together, output_folder
from common.metadata import Part
from pipeline.settings import Setting, settings_at
from trt.record import record_path

# The packages of this project that a served voice imports.
PACKAGES = ("common", "tacotron2", "waveglow", "pipeline", "trt")
PLAIN_INSTANCES = 8  # of `tts`, which does nothing but wait for `tts_stream`


@dataclass(frozen=True)
class TensorField:
    """An input or output of the served models, as config.pbtxt names it."""

    name: str
    data_type: str
    dims: int
    optional: bool = False

    def __str__(self) -> str:
        optional = ", optional: true" if self.optional else ""
        return f'  {{ name: "{self.name}", data_type: {self.data_type}, dims: [ {self.dims} ]{optional} }}'


def _input(setting: Setting) -> TensorField:
    whole = "TYPE_INT64" if setting.range is not None and setting.range[1] >= 2**31 else "TYPE_INT32"
    data_type = {int: whole, float: "TYPE_FP32", bool: "TYPE_BOOL", str: "TYPE_STRING"}[setting.type]
    return TensorField(setting.name_at("triton").upper(), data_type, 1, optional=True)


INPUTS = (TensorField("TEXT", "TYPE_STRING", 1), *map(_input, settings_at("triton")))
OUTPUTS = (
    TensorField("AUDIO", "TYPE_FP32", -1),
    TensorField("SAMPLING_RATE", "TYPE_INT32", 1),
    TensorField("WORDS", "TYPE_STRING", 1),
)


def make_repository(
    output: Path, paths: Mapping[Part, Path], max_characters: int = 4096, max_waiting: int = 64, instances: int = 1
) -> None:
    """Writes the repository: both models appear, or neither.

    It holds all that the server needs beside the Python packages of requirements.txt, and may be moved.

    Args:
        max_characters: of a request's text.
        max_waiting: requests that wait at each instance of `tts_stream`, and at `tts`.
        instances: of `tts_stream`, on each GPU; each is a process with a voice of its own.

    Raises:
        UserError: the folder can't be written or holds models already, or a model file isn't there.
    """
    output_folder(output)
    for name in ("tts", "tts_stream"):
        if (output / name).exists():
            raise UserError(f"{output / name} is there already; delete it, or choose another folder with -o")
    for path in paths.values():
        if not path.is_file():
            raise UserError(f"{path}: no such model file")
    kind = "KIND_GPU" if any(path.suffix != ".onnx" for path in paths.values()) else "KIND_CPU"
    parameters = {"max_characters": max_characters, "max_waiting": max_waiting}
    streams = [
        "model_transaction_policy { decoupled: true }",
        *(f'parameters {{ key: "{key}", value: {{ string_value: "{value}" }} }}' for key, value in parameters.items()),
    ]
    # Each instance of `tts` waits for one request, and the server queues the others.
    bound = f"default_queue_policy {{ max_queue_size: {max_waiting} timeout_action: REJECT }}"
    with appearing_together(output) as temporary:
        _write_model(temporary, "tts", "plain_model.py", PLAIN_INSTANCES, "KIND_CPU", f"dynamic_batching {{ {bound} }}")
        version = _write_model(temporary, "tts_stream", "stream_model.py", instances, kind, *streams)
        for package in PACKAGES:
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(REPOSITORY / package, version / "code" / package, ignore=ignored)
        _copy_voice(paths, version / "voice")


def _write_model(repository: Path, name: str, program: str, instances: int, kind: str, *more: str) -> Path:
    """Writes a model's program and its config.pbtxt, with more lines; returns the folder of its version."""
    version = repository / name / "1"
    version.mkdir(parents=True)
    lines = [
        f'name: "{name}"',
        'backend: "python"',
        "max_batch_size: 0  # the model batches by itself: the server joins only texts of one shape",
        *("input [", ",\n".join(map(str, INPUTS)), "]"),
        *("output [", ",\n".join(map(str, OUTPUTS)), "]"),
        f"instance_group [ {{ count: {instances}, kind: {kind} }} ]",
        *more,
    ]
    (repository / name / "config.pbtxt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    shutil.copyfile(REPOSITORY / "serving" / "triton" / program, version / "model.py")
    return version


def _copy_voice(paths: Mapping[Part, Path], folder: Path) -> None:
    """Copies the model files, with the JSON beside an engine, under the names that they have."""
    folder.mkdir()
    for path in paths.values():
        shutil.copy2(path, folder / path.name)
        record = record_path(path)
        if record.is_file():
            shutil.copy2(record, folder / record.name)
    names = {part: path.name for part, path in paths.items()}
    (folder / "voice.json").write_text(json.dumps(names, indent=1) + "\n", encoding="utf-8")
