"""The checks of an ONNX file before a runtime opens it, and their errors."""

from collections.abc import Mapping
from pathlib import Path

from common.errors import UserError
from common.metadata import METADATA_KEY, ModelMetadata, Part
from common.model_flags import export_command, part_flag


def check_onnx_path(path: Path, part: Part) -> None:
    """Raises UserError, with the command that makes it, where the file is missing."""
    if not path.is_file():
        raise UserError(f"{path}: no such ONNX file; make it with {export_command(part)}")


def unreadable(path: Path) -> UserError:
    return UserError(f"{path}: not a readable ONNX file (truncated or damaged?); export it again")


def read_metadata(path: Path, part: Part, stored: Mapping[str, str]) -> ModelMetadata:
    """The metadata stored in a file, which has to hold the wanted part. Raises UserError."""
    try:
        metadata = ModelMetadata.from_json(stored[METADATA_KEY])
    except KeyError:
        raise UserError(f"{path}: not exported by this project; make it with {export_command(part)}") from None
    except ValueError as error:
        raise UserError(f"{path}: {error}; make it again with {export_command(part)}") from error
    check_part(path, metadata, part)
    return metadata


def check_part(path: Path, metadata: ModelMetadata, part: Part) -> None:
    """Raises UserError unless a model file holds the wanted part."""
    if metadata.part != part:
        raise UserError(f"{path}: holds the {metadata.part}, not the {part}; give it with {part_flag(metadata.part)}")
