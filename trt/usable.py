"""Whether the engines of a folder are the ones to take, where ONNX files lie beside them."""

from collections.abc import Mapping
from pathlib import Path

from common.errors import UserError
from common.files import sha256_of
from common.metadata import Part
from trt.engine import gpu_for, tensorrt_of
from trt.record import EngineRecord, read_record


def obstacle(engines: Mapping[Part, Path], onnx_files: Mapping[Part, Path]) -> str | None:
    """Why engines should not be taken: they can't be opened here, or the ONNX files beside them are of another export.

    Args:
        engines: files that exist.
        onnx_files: files that may exist.

    Returns:
        the reason for the first engine that has one; None if they are good.
    """
    try:
        for part, path in engines.items():
            record = read_record(path)
            tensorrt_of(str(path), record)
            gpu_for(str(path), record)
            if onnx_files[part].is_file() and not _comes_from(record, onnx_files[part], part):
                return f"{path} was not built from {onnx_files[part].name}; build it again with trt/export_onnx2trt.py"
    except UserError as error:
        return str(error)
    return None


def _comes_from(record: EngineRecord, onnx_file: Path, part: Part) -> bool:
    """Whether an engine was built from this file, or from one of another precision of the same checkpoint."""
    if record.onnx_sha256 == sha256_of(onnx_file):
        return True
    from trt.build import read_onnx_metadata  # loads onnx, which running engines doesn't need

    metadata = read_onnx_metadata(onnx_file, part)
    return (
        metadata.precision != record.metadata.precision
        and metadata.checkpoint_sha256 == record.metadata.checkpoint_sha256
    )
