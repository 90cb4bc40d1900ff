"""Writes a model repository for NVIDIA's Triton Inference Server: the models `tts` and `tts_stream` of one voice."""

import argparse
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from common.cli import ArgumentParser, bounded_int, run
from common.errors import UserError
from common.files import REPOSITORY, appearing_together, output_folder
from common.metadata import PARTS, Part
from common.model_flags import part_flag
from pipeline.model_files import default_paths
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


INPUTS = (
    TensorField("TEXT", "TYPE_STRING", 1),
    TensorField("SEED", "TYPE_INT64", 1, optional=True),
    TensorField("SPEED", "TYPE_FP32", 1, optional=True),
    TensorField("SIGMA", "TYPE_FP32", 1, optional=True),
    TensorField("OUTPUT_RATE", "TYPE_INT32", 1, optional=True),
)
OUTPUTS = (TensorField("AUDIO", "TYPE_FP32", -1), TensorField("SAMPLING_RATE", "TYPE_INT32", 1))


def make_parser() -> ArgumentParser:
    parser = ArgumentParser(prog="repository.py", description=__doc__)
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder for the repository")
    models = parser.add_argument_group("models", "Four model files, or a folder of them.")
    models.add_argument("--models", type=Path, default=Path("output"), metavar="FOLDER", help="folder of the files")
    for part in PARTS:
        models.add_argument(part_flag(part), type=Path, dest=part, help=f"{part} .engine, .plan or .onnx file")
    limits = parser.add_argument_group("limits")
    limits.add_argument("--max-characters", type=bounded_int(1, 1_000_000), default=4096, help="of a request's text")
    limits.add_argument("--max-waiting", type=bounded_int(1, 10_000), default=64, help="requests that may wait")
    return parser


def main(args: argparse.Namespace) -> None:
    paths = model_paths(args.models, {part: getattr(args, part) for part in PARTS})
    make_repository(args.output, paths, args.max_characters, args.max_waiting)
    print(f"Written to {args.output}: tts and tts_stream. To serve them: bash scripts/serve_triton.sh {args.output}")


def model_paths(folder: Path, given: Mapping[Part, Path | None]) -> dict[Part, Path]:
    """The four files that were named, or those of the folder. Raises UserError."""
    named = {part: path for part, path in given.items() if path is not None}
    if not named:
        found = default_paths(folder)
        if found is None:
            raise UserError(f"{folder}: no model files; export them there, or name a folder with --models")
        return found
    missing = [part_flag(part) for part in PARTS if part not in named]
    if missing:
        raise UserError(f"{', '.join(missing)} missing; give all four model files, or none")
    for path in named.values():
        if not path.is_file():
            raise UserError(f"{path}: no such model file")
    return named


def make_repository(
    output: Path, paths: Mapping[Part, Path], max_characters: int = 4096, max_waiting: int = 64
) -> None:
    """Writes the repository: both models appear, or neither.

    It holds all that the server needs beside the Python packages of requirements.txt, and may be moved.

    Raises:
        UserError: the folder can't be written, or holds models already.
    """
    output_folder(output)
    for name in ("tts", "tts_stream"):
        if (output / name).exists():
            raise UserError(f"{output / name} is there already; delete it, or choose another folder with -o")
    on_gpu = any(path.suffix != ".onnx" for path in paths.values())
    with appearing_together(output) as temporary:
        parameters = {"max_characters": str(max_characters), "max_waiting": str(max_waiting)}
        stream = _write_model(temporary, "stream", config_of("tts_stream", True, 1, on_gpu, parameters))
        for package in PACKAGES:
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(REPOSITORY / package, stream / "code" / package, ignore=ignored)
        _copy_voice(paths, stream / "voice")
        # Each instance waits for one request, and the server queues the others.
        bound = f"default_queue_policy {{ max_queue_size: {max_waiting} timeout_action: REJECT }}"
        config = config_of("tts", False, PLAIN_INSTANCES, False, {}) + f"dynamic_batching {{ {bound} }}\n"
        _write_model(temporary, "plain", config)


def config_of(name: str, decoupled: bool, instances: int, on_gpu: bool, parameters: Mapping[str, str]) -> str:
    """A model's config.pbtxt."""
    kind = "KIND_GPU" if on_gpu else "KIND_CPU"
    lines = [
        f'name: "{name}"',
        'backend: "python"',
        "max_batch_size: 0  # the model batches by itself: the server joins only texts of one shape",
        *_fields("input", INPUTS),
        *_fields("output", OUTPUTS),
        f"instance_group [ {{ count: {instances}, kind: {kind} }} ]",
    ]
    if decoupled:
        lines.append("model_transaction_policy { decoupled: true }")
    for key, value in parameters.items():
        lines.append(f'parameters {{ key: "{key}", value: {{ string_value: "{value}" }} }}')
    return "\n".join(lines) + "\n"


def _fields(kind: str, fields: Sequence[TensorField]) -> list[str]:
    return [f"{kind} [", ",\n".join(map(str, fields)), "]"]


def _write_model(repository: Path, kind: str, config: str) -> Path:
    """Writes a model's configuration and program; returns the folder of its version."""
    name = {"stream": "tts_stream", "plain": "tts"}[kind]
    version = repository / name / "1"
    version.mkdir(parents=True)
    (repository / name / "config.pbtxt").write_text(config, encoding="utf-8")
    shutil.copyfile(REPOSITORY / "serving" / "triton" / f"{kind}_model.py", version / "model.py")
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


if __name__ == "__main__":
    run(main, make_parser())
