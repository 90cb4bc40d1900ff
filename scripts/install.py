"""Installs the project into the Python environment that runs this script; the shell scripts beside it call it.

It needs nothing but Python and pip. Three things make it more than `pip install -e .`:

- Without an NVIDIA driver it takes PyTorch's CPU build, so that no laptop downloads gigabytes of CUDA.
- PyTorch, TensorRT and NumPy that come with the machine (NVIDIA's containers) stay as they are.
- What was installed is written down at the end, so that the next run knows without asking pip, and never trusts an
  installation that was interrupted.
"""

import argparse
import ctypes.util
import importlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import queue
import re
import shutil
import ssl
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from common.cli import ArgumentParser, run
from common.errors import UserError
from common.files import sha256_of, written_whole

ROOT = Path(__file__).resolve().parent.parent
PROJECT = "tacotron2-waveglow-tensorrt"
PURPOSES = ("run", "test")
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
PROBE_SECONDS = 5.0
TRIED_TORCH = "torch==2.13.0"  # where only the registry is left, the release that the project was tested with
# The types of TensorRT's API; its dependency, TensorRT itself, is what machines without a GPU can't install.
TENSORRT_TYPES = "tensorrt-stubs==10.13.0.35.1"
CUDA_NOTICE_SECONDS = 10
GIGABYTE = 1e9
DISK_GB = {"cpu": 3, "cuda": 10}  # downloads, and what they unpack to
# Machines that come with these built for them would lose that build to an upgrade.
KEPT = re.compile(r"(torch|torchvision|torchaudio|numpy|.*triton|tensorrt([-_].*)?|(nvidia|cuda)[-_].*)", re.IGNORECASE)


def make_parser() -> ArgumentParser:
    parser = ArgumentParser(prog="install.py", description="Installs the project into the Python that runs this.")
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    for name, text in (
        ("install", "install what a purpose needs"),
        ("state", "print whether what a purpose needs is installed: ready, update or rebuild"),
    ):
        actions.add_parser(name, help=text).add_argument("purpose", choices=PURPOSES)
    actions.add_parser("nvidia-container", help="print yes if this is the Python of an NVIDIA container")
    actions.add_parser("own-environment", help="print yes if packages may be installed right into this Python")
    return parser


def main(args: argparse.Namespace) -> None:
    if args.action == "install":
        install(args.purpose)
    elif args.action == "state":
        print(state(args.purpose))
    elif args.action == "nvidia-container":
        print("yes" if is_nvidia_container() else "no")
    else:
        print("yes" if is_own_environment() else "no")


# What is there


def is_nvidia_container() -> bool:
    """No virtual environment, and has TensorRT or a PyTorch of NVIDIA's own building (2.8.0a0+5228986c39.nv25.05)."""
    if sys.prefix != sys.base_prefix:
        return False
    torch = installed_version("torch") or ""
    return importlib.util.find_spec("tensorrt") is not None or "nv" in torch.partition("+")[2]


def is_own_environment() -> bool:
    """This Python is a virtual or conda environment, or an NVIDIA container's that pip may write to."""
    if sys.prefix != sys.base_prefix or os.environ.get("CONDA_PREFIX") == sys.prefix:
        return True
    managed_by_system = (Path(sysconfig.get_path("stdlib")) / "EXTERNALLY-MANAGED").exists()
    allowed = os.environ.get("PIP_BREAK_SYSTEM_PACKAGES", "").lower() in ("1", "true", "yes")
    return is_nvidia_container() and (allowed or not managed_by_system)


def installed_version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def has_nvidia_driver() -> bool:
    if Path("/proc/driver/nvidia/version").exists() or shutil.which("nvidia-smi"):
        return True
    return ctypes.util.find_library("cuda") is not None


# The record of what was installed


def record_path(purpose: str) -> Path:
    return Path(sys.prefix) / f".installed-for-{purpose}.json"


def expected_record() -> dict[str, str]:
    """What an installation depends on. The project's folder is part of it: it is installed in place."""
    record = {"python": ".".join(platform.python_version_tuple()[:2]), "project": str(ROOT)}
    return record | {name: sha256_of(ROOT / name) for name in ("requirements.txt", "pyproject.toml")}


def read_record(purpose: str) -> dict[str, str]:
    try:
        return json.loads(record_path(purpose).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def state(purpose: str) -> str:
    """Whether this environment holds what `purpose` needs.

    Returns:
        "ready"; "update": a whole installation that lacks something; "rebuild": an unfinished one, or one for
        another Python or another folder.
    """
    expected = expected_record()
    if read_record(purpose) == expected:
        return "ready"
    found = read_record("run")  # every installation writes this one
    return "update" if all(found.get(key) == expected[key] for key in ("python", "project")) else "rebuild"


# Installing


def install(purpose: str) -> None:
    """Installs the project in place with what `purpose` needs. Raises UserError with what is missing."""
    if importlib.util.find_spec("pip") is None:
        raise UserError(f"{sys.executable} has no pip: sudo apt-get install python3-pip, then run this again")
    if read_record("run") != expected_record():  # otherwise adding to it leaves it whole, also if that fails
        cuda = has_nvidia_driver() and installed_version("torch") is None
        check_disk(DISK_GB["cuda" if cuda else "cpu"])
        for name in PURPOSES:
            record_path(name).unlink(missing_ok=True)
    print(f"Installing into {sys.prefix}", flush=True)
    if is_made_by_scripts():
        pip("pip>=23.1")  # some systems' older ones don't read metadata without downloading the package
    pip("--no-deps", "--editable", str(ROOT), environment={"PIP_CONSTRAINT": None})
    kept = kept_packages()
    if kept:
        listed = ", ".join(f"{name} {version}" for name, version in kept.items() if "-" not in name)
        print(f"Keeping what this machine comes with: {listed}")
    requirements = [text for text in project_requirements(purpose) if requirement_name(text) not in kept]
    for text in project_requirements(purpose):
        version = kept.get(requirement_name(text))
        if version and not satisfies(version, text):
            print(f"Warning: {requirement_name(text)} {version} is kept, but the project was tried with {text}")
    if "torch" not in kept:
        install_torch(next(text for text in requirements if requirement_name(text) == "torch"))
        torch = installed_version("torch")
        if torch:
            kept = kept | {"torch": torch}  # no other requirement may exchange it
    with tempfile.TemporaryDirectory() as folder:
        constraints = Path(folder) / "constraints.txt"
        constraints.write_text("".join(f"{name}=={version}\n" for name, version in kept.items()), encoding="utf-8")
        print("Installing the other packages", flush=True)
        pip("--constraint", str(constraints), *requirements)
    if purpose == "test":
        pip("--no-deps", TENSORRT_TYPES)
    check_imports([requirement_name(text) for text in project_requirements("run")])
    if sys.prefix == sys.base_prefix:
        return  # the system's Python: only a virtual environment in .venv is ever asked for its record
    for name in PURPOSES[: PURPOSES.index(purpose) + 1]:
        with written_whole(record_path(name)) as path:
            path.write_text(json.dumps(expected_record(), indent=2) + "\n", encoding="utf-8")


def is_made_by_scripts() -> bool:
    return (Path(sys.prefix) / ".made-by-scripts").exists()


def kept_packages() -> dict[str, str]:
    """Names and versions of the packages that must stay as they are.

    In an environment that these scripts made, those that lie outside it; in one of the user's, all that are there.
    """
    kept: dict[str, str] = {}
    for distribution in importlib.metadata.distributions():
        name = distribution.metadata["Name"]
        if not name or not KEPT.fullmatch(name):
            continue
        inside = Path(sys.prefix).resolve() in Path(str(distribution.locate_file(""))).resolve().parents
        if not (inside and is_made_by_scripts()):
            kept.setdefault(name.lower().replace("_", "-"), distribution.version)
    return kept


def project_requirements(purpose: str) -> list[str]:
    """The requirement lines of the installed project for `purpose`."""
    importlib.invalidate_caches()
    lines = []
    for text in importlib.metadata.requires(PROJECT) or []:
        requirement, _, marker = text.partition(";")
        extra = re.search(r"extra\s*==\s*[\"'](\w+)[\"']", marker)
        if extra is None or extra[1] == purpose:
            other_markers = re.sub(r"(\s*and\s*)?extra\s*==\s*[\"']\w+[\"'](\s*and\s*)?", "", marker).strip()
            lines.append(f"{requirement.strip()}; {other_markers}" if other_markers else requirement.strip())
    return lines


def requirement_name(text: str) -> str:
    match = re.match(r"[\w.-]+", text)
    assert match, text
    return match[0].lower().replace("_", "-")


def satisfies(version: str, requirement: str) -> bool:
    from pip._vendor.packaging.requirements import Requirement

    return Requirement(requirement).specifier.contains(version, prereleases=True)


def install_torch(requirement: str) -> None:
    """Installs PyTorch, the CPU build where there is no NVIDIA driver and it can be had. Raises UserError."""
    present = installed_version("torch")
    if present and satisfies(present, requirement):
        return
    if has_nvidia_driver():
        print("Installing PyTorch for the NVIDIA driver of this machine (several GB)", flush=True)
        pip(requirement)
        return
    print("Installing PyTorch, without CUDA as there is no NVIDIA driver", flush=True)
    if can_be_reached(f"{CPU_INDEX}/torch/") and try_pip("--no-deps", "--index-url", CPU_INDEX, requirement) is None:
        return
    if try_pip("--no-deps", "--no-index", TRIED_TORCH) is None:  # a wheel on disk that pip is configured to look at
        if needs_cuda():
            announce_cuda()
        return
    if platform.system() == "Linux" and platform.machine() == "x86_64":
        announce_cuda()
    errors = try_pip(TRIED_TORCH)
    if errors is not None:
        if not no_such_release(errors):
            raise UserError(explain(errors))
        pip(requirement)


def needs_cuda() -> bool:
    """The installed PyTorch asks for CUDA's libraries."""
    importlib.invalidate_caches()
    requirements = [text for text in importlib.metadata.requires("torch") or [] if "extra ==" not in text]
    return any(requirement_name(text).startswith(("nvidia-", "cuda-")) for text in requirements)


def announce_cuda() -> None:
    check_disk(DISK_GB["cuda"])
    print(
        f"PyTorch's CPU build can't be had ({CPU_INDEX} can't be reached), so a build with CUDA comes from the package "
        "registry: about 3 GB to download, 7 GB on disk. Ctrl-C stops it.",
        flush=True,
    )
    if sys.stdin.isatty():
        time.sleep(CUDA_NOTICE_SECONDS)


def can_be_reached(url: str, seconds: float = PROBE_SECONDS) -> bool:
    """Whether a server answers within some seconds, the look-up of its name included."""
    answers: queue.SimpleQueue[bool] = queue.SimpleQueue()

    def ask() -> None:
        try:
            context = ssl.create_default_context()
            from pip._vendor import certifi  # bare systems have no certificates but pip's

            context.load_verify_locations(certifi.where())
            request = urllib.request.Request(url, method="HEAD")
            with urllib.request.urlopen(request, timeout=seconds, context=context):
                answers.put(True)
        except (OSError, ValueError, ImportError):
            answers.put(False)

    threading.Thread(target=ask, daemon=True).start()  # a name look-up can't be given a time limit
    try:
        return answers.get(timeout=seconds)
    except queue.Empty:
        return False


def check_disk(gigabytes: float) -> None:
    free = shutil.disk_usage(sys.prefix).free / GIGABYTE
    if free < gigabytes:
        needed = f"installing takes up to {gigabytes} GB; free some space and run again"
        raise UserError(f"{sys.prefix}: only {free:.1f} GB free, and {needed}")


def check_imports(modules: Sequence[str]) -> None:
    """Proves that the packages work on this machine, before the installation is called whole."""
    code = "import importlib, sys\nfor name in sys.argv[1:]: importlib.import_module(name)"
    command = [sys.executable, "-c", code, *(name.replace("-", "_") for name in modules)]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    if result.returncode != 0:
        last_line = (result.stderr.strip() or f"status {result.returncode}").splitlines()[-1]
        raise UserError(f"the packages were installed, but don't work on this machine: {last_line}")


# pip


def pip(*arguments: str, environment: dict[str, str | None] | None = None) -> None:
    errors = try_pip(*arguments, environment=environment)
    if errors is not None:
        raise UserError(explain(errors))


def try_pip(*arguments: str, environment: dict[str, str | None] | None = None) -> str | None:
    """Runs `pip install`, with its progress on a terminal and in silence elsewhere.

    Args:
        environment: variables to set, or to take away if None.

    Returns: None if it succeeded, else what it said of the errors.
    """
    variables = os.environ | {"PIP_ROOT_USER_ACTION": "ignore", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    paths = [path for path in variables.pop("PYTHONPATH", "").split(os.pathsep) if path and Path(path) != ROOT]
    if paths:  # the project's own folder was there for this script alone: pip would take it for an installation
        variables["PYTHONPATH"] = os.pathsep.join(paths)
    changed = variables | (environment or {})
    variables = {name: value for name, value in changed.items() if value is not None}
    quiet = [] if sys.stdout.isatty() else ["--quiet"]
    command = [sys.executable, "-m", "pip", "install", "--no-input", *quiet, *arguments]
    result = subprocess.run(command, stderr=subprocess.PIPE, text=True, env=variables, check=False)
    return None if result.returncode == 0 else result.stderr


def no_such_release(errors: str) -> bool:
    return "No matching distribution found" in errors and not is_network_failure(errors)


def is_network_failure(errors: str) -> bool:
    marks = "NewConnectionError|NameResolutionError|ConnectTimeout|ReadTimeout|ProxyError|Max retries|unreachable"
    return re.search(marks, errors) is not None


def explain(errors: str) -> str:
    """One line of what pip's errors mean for the user."""
    if "No space left on device" in errors:
        folders = f"{sys.prefix} and {tempfile.gettempdir()}"
        return f"the disk is full: free some space for {folders}, and run again"
    if "CERTIFICATE_VERIFY_FAILED" in errors:
        return "the package registry's certificate was not accepted: sudo apt-get install ca-certificates"
    if is_network_failure(errors):
        return "the package registry can't be reached: check the network (`pip config list` shows pip's settings)"
    if "Permission denied" in errors:
        return f"{sys.prefix} can't be written: use a virtual environment or a folder of yours"
    lines = [line.strip() for line in errors.splitlines() if line.strip() and not line.startswith(("hint:", "note:"))]
    lines = [line for line in lines if line.lower().startswith("error")] or lines or ["no reason given"]
    return f"pip failed: {lines[-1].removeprefix('ERROR:').strip()}"


if __name__ == "__main__":
    run(main, make_parser())
