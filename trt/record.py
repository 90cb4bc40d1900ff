"""The record of an engine, a JSON file beside it: its ONNX file, its TensorRT version, its GPUs and its sizes.

A plan describes itself poorly, runs only on the GPUs that it was built for, and doesn't notice a flipped byte. So its
file is checked against the record before TensorRT loads it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from common.contract import TensorSpec
from common.errors import UserError
from common.metadata import ModelMetadata, read_fields
from trt.bindings import PRODUCTS, Flavour, dotted

RECORD_FORMAT = 3  # raised when the record changes
BUILD_AGAIN = "build it again with trt/export_onnx2trt.py"


class SizeRange(NamedTuple):
    """The sizes of a dimension that an engine takes, and the size that it is tuned for."""

    min: int
    opt: int
    max: int

    def __str__(self) -> str:
        return ",".join(str(size) for size in self)


@dataclass(frozen=True)
class EngineRecord:
    """The description of an engine and of its build."""

    metadata: ModelMetadata
    flavour: Flavour
    version: str  # of TensorRT
    gpu: str  # the name of the GPU it was built on; "" where it was built without one
    compute_capabilities: tuple[int, ...]  # that it runs on; 75 stands for 7.5
    profile: Mapping[str, SizeRange]  # by symbol: batch, text, mel
    workspace_mib: int | None
    optimization_level: int | None
    version_compatible: bool  # later versions of TensorRT run it too, and the lean runtime
    same_compute_capability: bool  # other models of GPU run it too, if they have its compute capability
    onnx_sha256: str
    # Two builds alike may give different plans: records are equal if they come from one ONNX file, one TensorRT and the
    # same settings.
    plan_sha256: str = field(compare=False)
    plan_bytes: int = field(compare=False)

    @property
    def built_by(self) -> str:
        capabilities = ", ".join(dotted(capability) for capability in self.compute_capabilities)
        gpu = f"{self.gpu}, " if self.gpu else ""
        return f"{PRODUCTS[self.flavour].name} {self.version} for {gpu}compute capability {capabilities}"

    def to_json(self) -> str:
        fields = {**vars(self), "metadata": json.loads(self.metadata.to_json())}
        return json.dumps({"format": RECORD_FORMAT, **fields}, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> EngineRecord:
        """Raises ValueError, with the reason, if the text isn't a record of this format."""
        fields = read_fields(text, cls, RECORD_FORMAT)
        if fields["flavour"] not in PRODUCTS:
            raise ValueError(f"unknown kind of TensorRT {fields['flavour']}")
        fields["metadata"] = ModelMetadata.from_json(json.dumps(fields["metadata"]))
        try:
            fields["compute_capabilities"] = tuple(int(number) for number in fields["compute_capabilities"])
            fields["profile"] = {symbol: SizeRange(*sizes) for symbol, sizes in fields["profile"].items()}
        except (AttributeError, TypeError) as error:
            raise ValueError(f"damaged ({error})") from error
        return cls(**fields)


def record_path(engine_path: Path) -> Path:
    """Where an engine's record lies: `encoder_fp16.engine` has `encoder_fp16.engine.json`."""
    return engine_path.with_name(engine_path.name + ".json")


def profile_shapes(record: EngineRecord, spec: TensorSpec) -> list[tuple[int, ...]]:
    """A tensor's smallest, best and largest shape."""
    return [spec.resolve({symbol: sizes[i] for symbol, sizes in record.profile.items()}) for i in range(3)]


def read_record(engine_path: Path) -> EngineRecord:
    """The record beside an engine. Raises UserError if the engine or its record is missing or unreadable."""
    if not engine_path.is_file():
        raise UserError(f"{engine_path}: no such engine; build it with trt/export_onnx2trt.py")
    path = record_path(engine_path)
    try:
        return EngineRecord.from_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if _is_onnx(engine_path):
            raise UserError(
                f"{engine_path}: this is an ONNX file; give it its name ending in .onnx back, or build an engine from "
                "it with trt/export_onnx2trt.py"
            ) from None
        raise UserError(
            f"{engine_path}: {path.name}, which says what it was built from, is missing beside it; copy it there, or "
            f"{BUILD_AGAIN}"
        ) from None
    except ValueError as error:  # not UTF-8, not JSON, not a record, or of another version
        raise UserError(
            f"{path}: not a readable engine description ({error}); export the ONNX file and build the engine again"
        ) from error


def read_plan(engine_path: Path, record: EngineRecord) -> bytes:
    """The engine file's content, checked against its record. Raises UserError if they don't agree."""
    if _is_onnx(engine_path):
        raise UserError(f"{engine_path}: an ONNX file was written over this engine; {BUILD_AGAIN}")
    plan = engine_path.read_bytes()
    if not plan:
        raise UserError(f"{engine_path}: the file is empty; {BUILD_AGAIN}")
    if len(plan) < record.plan_bytes:
        raise UserError(
            f"{engine_path}: truncated ({len(plan)} of {record.plan_bytes} bytes); copy it again, or {BUILD_AGAIN}"
        )
    if hashlib.sha256(plan).hexdigest() != record.plan_sha256:
        raise UserError(
            f"{engine_path}: not the file that {record_path(engine_path).name} describes (damaged, or one of the two "
            f"is of another build); copy both again, or {BUILD_AGAIN}"
        )
    return plan


def _is_onnx(path: Path) -> bool:
    # An ONNX file begins with its IR version (field 1, one small number) and its producer's name (field 2).
    with open(path, "rb") as file:
        head = file.read(64)
    return len(head) > 3 and head[0] == 0x08 and head[1] < 0x40 and head[2] == 0x12
