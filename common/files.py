"""Files on disk: written whole or not at all, and known by their checksum."""

import hashlib
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from common.errors import UserError

REPOSITORY = Path(__file__).resolve().parent.parent
_UNFINISHED = ".exporting."  # + host.process.time: a folder whose files are being written
_FINISHED = ".exported"  # a folder whose files are whole and on their way
_ABANDONED_SECONDS = 2 * 24 * 3600


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


@contextmanager
def appearing_together(folder: Path) -> Iterator[Path]:
    """Yields an empty folder whose files, on success, all appear in `folder`, replacing those of the same names.

    All of them or none, even if the process is killed: first the whole set takes its name by a single rename, then its
    files are moved, which `finish_appearing`, or the next export to `folder`, completes. On failure nothing is left.
    """
    _remove_abandoned(folder)
    temporary = folder / f"{_UNFINISHED}{socket.gethostname()}.{os.getpid()}.{time.monotonic_ns()}"
    temporary.mkdir()
    try:
        yield temporary
        finish_appearing(folder)  # of an earlier set: this one must not meet a part of it
        os.rename(temporary, folder / _FINISHED)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    finish_appearing(folder)


def finish_appearing(folder: Path) -> None:
    """Moves what a killed process has finished but not yet moved into `folder`. Any number of processes may do so."""
    finished = folder / _FINISHED
    for name in sorted(os.listdir(finished)) if finished.is_dir() else []:
        with suppress(FileNotFoundError):  # another process has moved it
            os.replace(finished / name, folder / name)
    with suppress(FileNotFoundError):
        os.rmdir(finished)


def _remove_abandoned(folder: Path) -> None:
    """Removes what killed processes of this machine, or of any machine days ago, have left unfinished."""
    for path in folder.glob(f"{_UNFINISHED}*"):
        host, _, rest = path.name.removeprefix(_UNFINISHED).rpartition(".")[0].rpartition(".")
        dead = host == socket.gethostname() and rest.isdecimal() and not _is_running(int(rest))
        with suppress(FileNotFoundError):
            if dead or time.time() - path.stat().st_mtime > _ABANDONED_SECONDS:
                shutil.rmtree(path, ignore_errors=True)


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        return True
    return True


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
