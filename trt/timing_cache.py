"""TensorRT's timing cache: the builder's measurements in a file, so that the next build needn't repeat them."""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from common.errors import UserError
from common.files import write_whole
from trt.bindings import TensorRT

if TYPE_CHECKING:
    import tensorrt

_log = logging.getLogger(__name__)


def prove_writable(path: Path) -> None:
    """Makes the cache's folder if it is missing. Raises UserError if the cache can't be read or written there."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
        if path.exists():
            with open(path, "rb"):
                pass
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(f"{path}: can't be a timing cache ({reason}); choose another file with -tcf") from error


def load(trt: TensorRT, config: tensorrt.IBuilderConfig, path: Path) -> None:
    """Gives the builder the timing cache of an earlier build, or an empty one. Raises UserError for a foreign one."""
    cache = config.create_timing_cache(path.read_bytes() if path.exists() else b"")
    if cache is None or not config.set_timing_cache(cache, ignore_mismatch=False):
        raise UserError(
            f"{path}: not a timing cache of TensorRT {trt.version} on this GPU; delete it, or give another file "
            "with -tcf"
        )


def save(config: tensorrt.IBuilderConfig, path: Path) -> None:
    """Writes the builder's measurements. A failure is only a warning: the engine is built already."""
    cache = config.get_timing_cache()
    content = cache.serialize() if cache is not None else None
    try:
        if content is None:
            raise OSError("TensorRT gave no timing cache")
        write_whole(path, memoryview(content))  # type: ignore[arg-type]
    except OSError as error:
        _log.warning("%s: the timing cache was not written (%s); the engine is good", path, error.strerror or error)
