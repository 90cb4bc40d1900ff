"""Downloads NVIDIA's Tacotron 2 and WaveGlow checkpoints from NGC, by plain HTTPS, and goes on where it was cut off.

Size and sha256 of each file are written down when it is first downloaded (downloads.json, beside the files), and every
later run checks the files against that record. Needs nothing but Python.
"""

import argparse
import fcntl
import http.client
import json
import os
import shutil
import ssl
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from common.cli import ArgumentParser, run
from common.errors import UserError
from common.files import output_folder, sha256_of, written_whole

NGC = "https://api.ngc.nvidia.com/v2/models/nvidia"
FILES = (
    "tacotron2_pyt_ckpt_amp/versions/19.09.0/files/nvidia_tacotron2pyt_fp16_20190427",
    "waveglow_ckpt_amp_256/versions/19.10.0/files/nvidia_waveglow256pyt_fp16",
)
RECORD = "downloads.json"
BLOCK = 1 << 18
TIMEOUT = 30.0  # seconds without a byte
ATTEMPTS = 4  # in a row without a byte more
MEGABYTE = 1e6


def make_parser() -> ArgumentParser:
    parser = ArgumentParser(prog="download_checkpoints.sh", description=__doc__)
    folder = Path(__file__).resolve().parent.parent / "checkpoints"
    parser.add_argument("-o", "--output", type=Path, default=folder, help="folder for the checkpoints")
    base = os.environ.get("CHECKPOINTS_URL") or NGC
    parser.add_argument("--base-url", default=base, help="where the models lie (environment: CHECKPOINTS_URL)")
    parser.add_argument("--retry-delay", type=float, default=1.0, help="seconds before the first new attempt")
    return parser


def main(args: argparse.Namespace) -> None:
    if not args.base_url.startswith(("http://", "https://")):
        raise UserError(f"--base-url {args.base_url}: must begin with https:// or http://")
    folder = output_folder(args.output)
    for file in FILES:
        path = folder / file.rpartition("/")[2]
        known = read_record(folder).get(path.name)
        if path.exists():
            check(path, known)
            print(f"{path}: is there, and whole")
            continue
        found = download(f"{args.base_url.rstrip('/')}/{file}", path, known, args.retry_delay)
        print(f"{path}: {found.size / MEGABYTE:,.1f} MB, sha256 {found.sha256}")


# What was downloaded before


@dataclass(frozen=True)
class Known:
    """What a file is known by."""

    size: int  # bytes
    sha256: str


def read_record(folder: Path) -> dict[str, Known]:
    """The files that were downloaded into a folder, by name. Raises UserError if the record is damaged."""
    path = folder / RECORD
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        return {name: Known(int(entry["size"]), str(entry["sha256"])) for name, entry in record.items()}
    except FileNotFoundError:
        return {}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: not a record of downloads; delete it and run again") from error


def write_record(path: Path, found: Known) -> None:
    """Adds a file to the record beside it."""
    record_path = path.parent / RECORD
    record = {name: vars(known) for name, known in read_record(path.parent).items()}
    record[path.name] = vars(found)
    with written_whole(record_path) as temporary:
        temporary.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def check(path: Path, known: Known | None) -> None:
    """Checks a file that is there against its record; one without a record (put there by hand) is recorded now."""
    found = Known(path.stat().st_size, sha256_of(path))
    if known is None:
        write_record(path, found)
    elif found != known:
        raise UserError(f"{path}: {difference(found, known)}; delete it and run again")


def difference(found: Known, known: Known) -> str:
    if found.size != known.size:
        return f"{found.size} bytes, but {known.size} when it was first downloaded"
    return f"its sha256 is {found.sha256}, but was {known.sha256} when it was first downloaded"


# Downloading


def download(url: str, path: Path, known: Known | None, retry_delay: float) -> Known:
    """Downloads a file under a temporary name and gives it its own once it is whole.

    What a cut connection left is kept as `NAME.part`, and the next attempt or run goes on from there.

    Raises:
        UserError: the server can't be reached, hasn't got the file, cut every attempt short, or sent another file
            than the one on record; or the file is being downloaded by another process.
    """
    part = path.with_name(path.name + ".part")
    with open(part, "ab") as file, locked(file, path):
        try:
            fetch_all(url, file, part, retry_delay)
            found = Known(part.stat().st_size, sha256_of(part))
            if found.size == 0:
                raise UserError(f"{url}: the server sent an empty file; try again later")
            if known is not None and found != known:
                file.truncate(0)
                raise UserError(f"{url}: {difference(found, known)}; if it may change, delete {path.parent / RECORD}")
            write_record(path, found)
            os.replace(part, path)
            validator_path(part).unlink(missing_ok=True)
        finally:
            if part.exists() and part.stat().st_size == 0:
                part.unlink()
                validator_path(part).unlink(missing_ok=True)
    return found


@contextmanager
def locked(file, path: Path) -> Iterator[None]:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise UserError(f"{path}: is being downloaded by another process; wait for it to end") from error
    yield


def fetch_all(url: str, file, part: Path, retry_delay: float) -> None:
    """Appends what is missing to an open partial file, in as many attempts as bring it further."""
    failures = 0
    while True:
        before = file.tell()
        try:
            if fetch(url, file, part):
                return
            reason = "the connection was cut"
        except urllib.error.HTTPError as error:
            if error.code < 500 and error.code != 429:
                raise UserError(refusal(url, error.code, part.with_suffix(""))) from error
            reason = f"the server failed ({error.code} {error.reason})"
        except urllib.error.URLError as error:
            if isinstance(error.reason, ssl.SSLCertVerificationError):
                advice = "sudo apt-get install ca-certificates"
                raise UserError(f"{url}: the server's certificate was not accepted: {advice}") from error
            reason = f"the server can't be reached ({getattr(error.reason, 'strerror', None) or error.reason})"
        except (http.client.HTTPException, ConnectionError, TimeoutError) as error:
            reason = f"the connection was cut ({str(error) or type(error).__name__})"
        failures = 1 if file.tell() > before else failures + 1
        if failures == ATTEMPTS:
            if file.tell() == 0:
                raise UserError(f"{url}: {reason}; check the network and run again")
            have = f"{file.tell() / MEGABYTE:,.1f} MB are kept"
            raise UserError(f"{url}: {reason}; {have}, run again to go on from there")
        time.sleep(retry_delay * 2 ** (failures - 1))


def refusal(url: str, code: int, path: Path) -> str:
    if code in (401, 403):
        return f"{url}: the server wants a login ({code}); download it in a browser and put it at {path}"
    if code == 404:
        return f"{url}: no such file on the server (404); if it moved, give its new place with --base-url"
    return f"{url}: the server refused ({code})"


def fetch(url: str, file, part: Path) -> bool:
    """Asks once for what is missing and appends it. Returns whether the file is whole."""
    start = file.tell()
    headers = {"User-Agent": "download_checkpoints", "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
        validator = read_validator(part)
        if validator:
            headers["If-Range"] = validator  # a file that changed meanwhile is sent from its beginning
    try:
        response = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code != 416:
            raise
        # Nothing lies after what we have: it is whole, unless the server's file is a shorter one by now.
        whole = error.headers.get("Content-Range") == f"bytes */{start}"
        if not whole:
            start_again(file)
        return whole
    with response:
        if response.headers.get_content_type() == "text/html":
            raise UserError(f"{url}: the server sent a web page instead of a file; download it in a browser")
        length = response.headers.get("Content-Length", "")
        total = int(length) if length.isdigit() else None
        if response.status == 206 and response.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
            total = None if total is None else start + total
        else:
            start_again(file)
            start = 0
            validator = response.headers.get("ETag") or response.headers.get("Last-Modified") or ""
            validator_path(part).write_text(validator, encoding="utf-8")
        check_space(part, total, start)
        append(response, file, total)
    return total is None or file.tell() == total


def start_again(file) -> None:
    file.seek(0)
    file.truncate()


def append(response: http.client.HTTPResponse, file, total: int | None) -> None:
    """Copies a response to the end of a file, with a progress bar on a terminal."""
    bar = Bar(Path(file.name).stem, file.tell(), total)
    try:
        while block := response.read(BLOCK):
            file.write(block)
            bar.show(file.tell())
    finally:
        file.flush()
        bar.close()


def validator_path(part: Path) -> Path:
    return part.with_name(part.name + ".etag")


def read_validator(part: Path) -> str:
    """What the server named the version by that the partial file is of; a weak name can't prove equal bytes."""
    try:
        validator = validator_path(part).read_text(encoding="utf-8")
    except OSError:
        return ""
    return "" if validator.startswith("W/") else validator


def check_space(part: Path, total: int | None, have: int) -> None:
    free = shutil.disk_usage(part.parent).free
    if total is not None and total - have > free:
        needed = f"{(total - have) / MEGABYTE:,.0f} MB are needed"
        raise UserError(f"{part.parent}: {needed}, {free / MEGABYTE:,.0f} MB are free; free some space or use -o")


class Bar:
    """A progress line on a terminal; nothing anywhere else."""

    def __init__(self, name: str, start: int, total: int | None) -> None:
        self.name, self.start, self.total = name, start, total
        self.began = self.shown = time.monotonic()
        self.on = sys.stderr.isatty()

    def show(self, done: int) -> None:
        now = time.monotonic()
        if not self.on or (now - self.shown < 0.2 and done != self.total):
            return
        self.shown = now
        rate = (done - self.start) / max(now - self.began, 1e-3)
        amount = f"{done / MEGABYTE:,.0f} MB"
        if self.total:
            left = (self.total - done) / max(rate, 1)
            share = f"{100 * done / self.total:3.0f} %"
            amount = f"{share} of {self.total / MEGABYTE:,.0f} MB, {left // 60:.0f}:{left % 60:02.0f} left"
        print(f"\r{self.name}: {amount}, {rate / MEGABYTE:.1f} MB/s\033[K", end="", file=sys.stderr, flush=True)

    def close(self) -> None:
        if self.on:
            print("\r\033[K", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    run(main, make_parser())
