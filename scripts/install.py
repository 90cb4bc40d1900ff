"""Installs the project into the Python that runs this script; scripts/lib.sh calls it. Needs only Python and pip.

It is more than `pip install -e .` for two reasons. Without an NVIDIA driver it takes PyTorch's CPU build, which saves
gigabytes of CUDA. And PyTorch, TensorRT and NumPy that NVIDIA's containers come with are kept as they are.
"""

import argparse
import ctypes.util
import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from common.cli import ArgumentParser, run
from common.errors import UserError

if TYPE_CHECKING:
    from pip._vendor.packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
PROJECT = "tacotron2-waveglow-tensorrt"
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
TRIED_TORCH = "torch==2.13.0"  # the release that the project was tested with
# NVIDIA's builds of these would be lost to an upgrade.
KEPT = re.compile(r"(torch|torchvision|torchaudio|numpy|.*triton|tensorrt([-_].*)?|(nvidia|cuda)[-_].*)", re.IGNORECASE)
# Their own dependencies are not wanted: TensorRT itself, which machines without a GPU can't install, and a Python
# wrapper of the server, where only the server's binary is used.
WITHOUT_DEPENDENCIES = {"test": ("tensorrt-stubs==10.13.0.35.1", "nvidia-pytriton==0.7.0")}


def make_parser() -> ArgumentParser:
    parser = ArgumentParser(prog="install.py", description="Installs the project into the Python that runs this.")
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    install_parser = actions.add_parser("install", help="install what speaking takes, and an extra")
    install_parser.add_argument("purpose", metavar="PURPOSE", help="run, or an extra of pyproject.toml")
    actions.add_parser("nvidia-container", help="print yes if this is the Python of an NVIDIA container")
    actions.add_parser("own-environment", help="print yes if packages may be installed right into this Python")
    return parser


def main(args: argparse.Namespace) -> None:
    if args.action == "install":
        install(args.purpose)
    else:
        answer = is_nvidia_container() if args.action == "nvidia-container" else is_own_environment()
        print("yes" if answer else "no")


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


def has_nvidia_driver() -> bool:
    if Path("/proc/driver/nvidia/version").exists() or shutil.which("nvidia-smi"):
        return True
    return ctypes.util.find_library("cuda") is not None


def canonicalize_name(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def installed_version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def install(purpose: str) -> None:
    """Installs the project in place with what `purpose` needs. Raises UserError with what is missing."""
    if importlib.util.find_spec("pip") is None:
        raise UserError(f"{sys.executable} has no pip: sudo apt-get install python3-pip, then run this again")
    print(f"Installing into {sys.prefix}", flush=True)
    pip("--no-deps", "--editable", str(ROOT), PIP_CONSTRAINT="")
    kept = kept_packages()
    requirements = project_requirements(purpose)
    for requirement in requirements:
        version = kept.get(canonicalize_name(requirement.name))
        if version and not requirement.specifier.contains(version, prereleases=True):
            print(f"Warning: {requirement.name} {version} is kept, but the project was tried with {requirement}")
    wanted = [str(requirement) for requirement in requirements if canonicalize_name(requirement.name) not in kept]
    if "torch" not in kept:
        install_torch(next(requirement for requirement in requirements if requirement.name == "torch"))
        kept["torch"] = installed_version("torch") or ""  # its own dependencies come now, and none may exchange it
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", suffix=".txt") as constraints:
        constraints.writelines(f"{name}=={version}\n" for name, version in kept.items() if version)
        constraints.flush()
        print("Installing the other packages", flush=True)
        pip("--constraint", constraints.name, *wanted)
    if purpose in WITHOUT_DEPENDENCIES:
        pip("--no-deps", *WITHOUT_DEPENDENCIES[purpose])
    check_imports([requirement.name for requirement in project_requirements("run")])


def kept_packages() -> dict[str, str]:
    """Names and versions of the packages that must stay as they are.

    In an environment that these scripts made, those that lie outside it; in one of the user's, all that are there.
    """
    kept: dict[str, str] = {}
    made_here = (Path(sys.prefix) / ".made-by-scripts").exists()
    for distribution in importlib.metadata.distributions():
        name = distribution.metadata["Name"]
        inside = Path(sys.prefix).resolve() in Path(str(distribution.locate_file(""))).resolve().parents
        if name and KEPT.fullmatch(name) and not (inside and made_here):
            kept.setdefault(canonicalize_name(name), distribution.version)
    return kept


def project_requirements(purpose: str) -> "list[Requirement]":
    """What the installed project requires, with one of its extras; extras that an extra names are followed."""
    from pip._vendor.packaging.requirements import Requirement

    importlib.invalidate_caches()
    requirements: list[Requirement] = []
    extras = [purpose]
    for extra in extras:  # grows
        for requirement in map(Requirement, importlib.metadata.requires(PROJECT) or []):
            if requirement.marker is not None and not requirement.marker.evaluate({"extra": extra}):
                continue
            requirement.marker = None
            if canonicalize_name(requirement.name) == PROJECT:
                extras += sorted(requirement.extras)
            elif requirement not in requirements:
                requirements.append(requirement)
    return requirements


def install_torch(requirement: "Requirement") -> None:
    """Installs PyTorch, the CPU build where there is no NVIDIA driver and it can be had. Raises UserError."""
    if requirement.specifier.contains(installed_version("torch") or "0"):
        return
    if has_nvidia_driver():
        print("Installing PyTorch for the NVIDIA driver of this machine (several GB)", flush=True)
        pip(str(requirement))
        return
    print("Installing PyTorch, without CUDA as there is no NVIDIA driver", flush=True)
    # An index that can't be reached is no error to pip: it goes on to the wheels that it is configured to look at.
    once = ("--no-deps", "--retries", "0", "--timeout", "5", "--index-url", CPU_INDEX)
    if try_pip(*once, TRIED_TORCH) is None:
        return
    print(f"No CPU build at {CPU_INDEX}: the package registry's may take 3 GB (Ctrl-C stops it)", flush=True)
    errors = try_pip(TRIED_TORCH)
    if errors is not None and "No matching distribution" in errors and not is_network_failure(errors):
        errors = try_pip(str(requirement))  # this Python has no such release
    if errors is not None:
        raise UserError(explain(errors))


def check_imports(modules: list[str]) -> None:
    """Proves that the packages work on this machine, before the installation is called whole."""
    code = "import importlib, sys\nfor name in sys.argv[1:]: importlib.import_module(name)"
    command = [sys.executable, "-c", code, *(name.replace("-", "_") for name in modules)]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    if result.returncode != 0:
        last_line = (result.stderr.strip() or f"status {result.returncode}").splitlines()[-1]
        raise UserError(f"the packages were installed, but don't work on this machine: {last_line}")


def pip(*arguments: str, **variables: str) -> None:
    errors = try_pip(*arguments, **variables)
    if errors is not None:
        raise UserError(explain(errors))


def try_pip(*arguments: str, **variables: str) -> str | None:
    """Runs `pip install`, with its progress on a terminal and in silence elsewhere. Returns the errors, if any."""
    environment = os.environ | {"PIP_ROOT_USER_ACTION": "ignore", "PIP_DISABLE_PIP_VERSION_CHECK": "1"} | variables
    # The project's own folder is there for this script alone: pip would take it for an installation.
    paths = [path for path in environment.pop("PYTHONPATH", "").split(os.pathsep) if path and Path(path) != ROOT]
    environment["PYTHONPATH"] = os.pathsep.join(paths)
    quiet = [] if sys.stdout.isatty() else ["--quiet"]
    command = [sys.executable, "-m", "pip", "install", "--no-input", *quiet, *arguments]
    result = subprocess.run(command, stderr=subprocess.PIPE, text=True, env=environment, check=False)
    return None if result.returncode == 0 else result.stderr


def is_network_failure(errors: str) -> bool:
    marks = "NewConnectionError|NameResolutionError|ConnectTimeout|ReadTimeout|ProxyError|Max retries|unreachable"
    return re.search(marks, errors) is not None


def explain(errors: str) -> str:
    """One line of what pip's errors mean for the user."""
    if "No space left on device" in errors:
        return f"the disk is full: free some space for {sys.prefix} and {tempfile.gettempdir()}, and run again"
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
