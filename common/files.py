"""Files on disk: written whole or not at all, and known by their checksum."""

import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from common.errors import UserError

REPOSITORY = Path(__file__).resolve().parent.parent


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Yields a temporary path in the same folder; renames it to `path` on success, removes it on any failure.

    Readers of `path` see the old file or the new one, never a part of it.
    """
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    temporary = Path(name)
    try:
        umask = os.umask(0)
        os.umask(umask)
        os.fchmod(handle, 0o666 & ~umask)  # mkstemp's 0600 is meant for secrets, not for results
        os.close(handle)
        yield temporary
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file's content, as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def output_folder(path: Path) -> Path:
    """Makes the folder if need be and proves that it can be written, so that work is not done in vain.

    Raises:
        UserError: it can't be made, is no folder, or can't be written.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(f"{path}: the output folder can't be written ({reason}); choose another with -o") from error
    return path
