"""Files on disk: atomic writes, locks on folders, checksums."""

import errno
import fcntl
import hashlib
import os
import re
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from importlib.metadata import version
from pathlib import Path

from common.errors import UserError, check_type

REPOSITORY = Path(__file__).resolve().parent.parent  # where the packages lie: a clone, or site-packages
DISTRIBUTION = "tacotron2-waveglow-tensorrt"  # this project, as pip knows it
IS_CLONE = (REPOSITORY / "pyproject.toml").is_file()
DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS)  # all files of a folder fail alike
_UNFINISHED = ".exporting."  # + a random word: a folder of files that are being written
_LOCK = _UNFINISHED + "lock"
_FINISHED = ".exported"  # a folder of whole files that are being moved
_PART = ".part"  # ends the name of a file that is being written


def path_of(name: str, value: object) -> Path:
    """The path that an argument gives. Raises InvalidInput for another type."""
    check_type(name, value, str, Path)
    return Path(value)  # type: ignore[arg-type]  # it is one of these


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Yields a temporary path in the same folder; renames it to `path` on success, removes it on any failure.

    Readers of `path` see the old file or the new one, never a part of it. An `OSError` on the way names `path`.
    `output_folder` of the next run removes what a killed process leaves. Thread-safe.
    """
    with _replacing(path) as (temporary, _):
        yield temporary


def write_whole(path: Path, content: bytes | memoryview) -> None:
    """Writes a file in whole or not at all, as `written_whole` does, without opening it again: for many files.

    Raises:
        OSError: names `path`.
    """
    with _replacing(path) as (_, handle):
        left = memoryview(content).cast("B")  # a memoryview may have another format: TensorRT's
        while left:
            left = left[os.write(handle, left) :]


@contextmanager
def _replacing(path: Path) -> Iterator[tuple[Path, int]]:
    """See `written_whole`; yields the temporary path and a handle for writing there."""
    try:
        with _held(path.parent, f".{path.name}.", _PART, _make_file) as (temporary, handle):
            try:
                yield temporary, handle
                os.replace(temporary, path)
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise
    except OSError as error:  # of a disk or of a temporary file: it gets the name that the user knows
        of_disk = error.filename is None and error.errno in (*DISK_ERRORS, errno.EFBIG)
        if of_disk or str(error.filename).endswith(_PART):
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


@contextmanager
def _held(folder: Path, prefix: str, suffix: str, make: Callable[[Path], int | None]) -> Iterator[tuple[Path, int]]:
    """Makes and locks a new temporary file or folder. Another process that gets the lock knows that this one is dead.

    Args:
        make: makes and opens it; None if another process removed it as a leftover in between.
    """
    while True:
        temporary = folder / f"{prefix}{secrets.token_hex(4)}{suffix}"
        handle = make(temporary)
        if handle is None:
            continue
        if _lock(handle):
            break
    try:
        yield temporary, handle
    finally:
        os.close(handle)


def _lock(handle: int) -> bool:
    """Waits for the lock of an open file or folder. False, with the handle closed, if it was removed meanwhile."""
    with suppress(OSError):  # a file system without locks
        fcntl.flock(handle, fcntl.LOCK_EX)
    if os.fstat(handle).st_nlink:
        return True
    os.close(handle)
    return False


def _make_file(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)  # less the umask, as for any result


def _make_folder(path: Path) -> int | None:
    os.mkdir(path)
    with suppress(FileNotFoundError):
        return os.open(path, os.O_RDONLY)
    return None


@contextmanager
def locked_folder(path: Path) -> Iterator[None]:
    """Keeps a folder to one writer, in this process and in all others of this machine, while the context lasts.

    Raises:
        UserError: another one is writing into it.
    """
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(handle)
        raise UserError(f"{path}: another run is writing here; wait for it to end, or choose another folder") from error
    except OSError:
        pass  # a file system without locks
    try:
        yield
    finally:
        os.close(handle)


def remove_leftovers(folder: Path) -> None:
    """Removes the unfinished files of killed processes from a folder, and leaves those of living ones alone."""
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries if entry.name.startswith(".")]
    for name in names:
        is_part = re.fullmatch(r"\..*\.[0-9a-f]{8}\.part", name) is not None
        if is_part or name.startswith(_UNFINISHED):
            with suppress(OSError):  # it is being written, another process removes it, or it is another user's
                _remove_if_abandoned(folder / name)


def _remove_if_abandoned(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
    finally:
        os.close(handle)


@contextmanager
def appearing_together(folder: Path) -> Iterator[Path]:
    """Yields an empty folder. On success all files in it appear in `folder`, replacing those of the same names.

    All of them or none, even if the process is killed: first the whole set takes its name by a single rename, then its
    files are moved, which `finish_appearing`, or the next export to `folder`, completes. On failure nothing is left.
    """
    with _held(folder, _UNFINISHED, "", _make_folder) as (temporary, _):
        try:
            yield temporary
            with _locked(folder / _LOCK):  # one set after the other
                finish_appearing(folder)
                os.rename(temporary, folder / _FINISHED)
                finish_appearing(folder)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Waits for a lock. Its file exists while it is held."""
    while True:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT, 0o666)
        if _lock(handle):
            break
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(handle)


def finish_appearing(folder: Path) -> None:
    """Moves files that a killed process has finished, but not yet moved, into `folder`. Safe in several processes."""
    finished = folder / _FINISHED
    for name in sorted(os.listdir(finished)) if finished.is_dir() else []:
        with suppress(FileNotFoundError):  # another process has moved it
            os.replace(finished / name, folder / name)
    with suppress(OSError):  # another process has removed it, or the next set has come
        os.rmdir(finished)


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file's content, as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def output_folder(path: Path) -> Path:
    """Makes the folder if need be and proves that it can be written, before work is done for it.

    Removes the unfinished files of killed runs.

    Raises:
        UserError: it can't be made, is no folder, or can't be written.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
        remove_leftovers(path)
    except OSError as error:
        reason = dangling_link(path) or ("it is a file" if path.is_file() else error.strerror or str(error))
        raise UserError(f"{path}: the output folder can't be written ({reason}); choose another with -o") from error
    return path


def dangling_link(path: Path) -> str:
    """What a path is if it, or a folder above it, is a link that leads nowhere; else an empty text."""
    for link in (path, *path.parents):
        if link.is_symlink() and not link.exists():
            return f"{link} is a link to {os.readlink(link)}, which isn't there"
    return ""


def describe_os_error(error: OSError) -> str:
    """One line: the file, the system's reason, and what to do."""
    reason = error.strerror or str(error)
    if isinstance(error, FileNotFoundError) and isinstance(error.filename, str):
        reason = dangling_link(Path(error.filename)) or reason
    where = f"{error.filename}: " if error.filename else ""
    advice = {
        errno.ENOSPC: "; free some space or choose another output folder",
        errno.EDQUOT: "; free some space or choose another output folder",
        errno.EACCES: "; check the permissions or choose another folder",
        errno.EPERM: "; check the permissions or choose another folder",
        errno.EROFS: "; choose a folder that can be written",
    }.get(error.errno or 0, "")
    return f"{where}{reason}{advice}"


@cache
def project_version() -> str:
    """This project's version, by the clone or by pip."""
    if not IS_CLONE:
        return version(DISTRIBUTION)
    stated = re.search(r'^version = "(.+)"', (REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)
    return stated[1] if stated else "unknown"


def user_cache_folder(name: str) -> Path | None:
    """This project's folder `name` among the user's caches, made if need be; None if there can be none.

    Users may delete it at any time: it holds only what can be made again.
    """
    try:
        caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        folder = caches / DISTRIBUTION / name
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):  # not writable; a user without a home folder
        return None
    return folder if os.access(folder, os.W_OK) else None
