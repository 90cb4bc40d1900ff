"""Installs the project with an extra, into .venv or into the Python that runs this. Needs Python and its venv module.

It is more than `pip install -e .[EXTRA]` for two reasons. Where there is neither an NVIDIA driver nor TensorRT it takes
PyTorch's CPU build, which saves gigabytes of CUDA. PyTorch, TensorRT and NumPy of NVIDIA's containers stay as they are.
"""

import argparse
import ctypes.util
import fcntl
import hashlib
import importlib.metadata
import importlib.util
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from pip._vendor.packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
MADE_HERE = ".made-by-scripts"  # a file in .venv; without it the environment is the user's, and is never deleted
EXTRAS = ("run", "serve", "corpus", "analysis", "openvino", "hopper", "test")
PROJECT = "tacotron2-waveglow-tensorrt"
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
TRIED_TORCH = "torch==2.13.0"  # the release that the project was tested with
# NVIDIA's builds of these would be lost to an upgrade.
KEPT = re.compile(r"(torch|torchvision|torchaudio|numpy|.*triton|tensorrt([-_].*)?|(nvidia|cuda)[-_].*)", re.IGNORECASE)
REASONS = {  # what pip's and the system's errors mean to users
    "No space left on device": f"the disk is full: free some space for {VENV} and {tempfile.gettempdir()}",
    "CERTIFICATE_VERIFY_FAILED": "the registry's certificate was not accepted: sudo apt-get install ca-certificates",
    "NewConnectionError|NameResolutionError|ConnectTimeout|ReadTimeout|ProxyError|Max retries|unreachable": (
        "the package registry can't be reached: check the network (`pip config list` shows pip's settings)"
    ),
    "Permission denied|Read-only file system": f"{ROOT} or {sys.prefix} can't be written: use a folder of yours",
}


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="install.py", description=__doc__)
    parser.add_argument("extra", metavar="EXTRA", help=f"{', '.join(EXTRAS)}: what speaking takes, and more than that")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--here", action="store_true", help="install into the Python that runs this, not into .venv")
    where.add_argument(
        "--active", action="store_true", help="the same if that is an environment or an NVIDIA container's"
    )
    return parser


def main(args: argparse.Namespace) -> None:
    if args.extra not in EXTRAS:
        fail(f"unknown extra {args.extra}: it is one of {', '.join(EXTRAS)}")
    if args.here:
        install(args.extra)
    elif args.active and (is_environment() or is_nvidia_container()):
        install(args.extra)
        print(f"Installed for {sys.executable}")
    else:
        ensure_environment(args.extra)
        if args.active:
            print(f"Installed. Before you use the scripts: source {shlex.quote(str(VENV / 'bin/activate'))}")


def is_environment() -> bool:
    return sys.prefix != sys.base_prefix or os.environ.get("CONDA_PREFIX") == sys.prefix


def is_nvidia_container() -> bool:
    """No virtual environment, and has TensorRT or a PyTorch of NVIDIA's own building (2.8.0a0+5228986c39.nv25.05)."""
    torch = installed_version("torch") or ""
    of_nvidia = importlib.util.find_spec("tensorrt") is not None or "nv" in torch.partition("+")[2]
    return of_nvidia and not is_environment()


def is_for_gpus() -> bool:
    """There is a driver, or TensorRT: a container is built where there is no driver, and run where there is one."""
    driver = Path("/proc/driver/nvidia/version").exists() or shutil.which("nvidia-smi") is not None
    return driver or ctypes.util.find_library("cuda") is not None or importlib.util.find_spec("tensorrt") is not None


def installed_version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def ensure_environment(extra: str) -> None:
    """Makes .venv and installs into it what isn't there yet; a second call finds its records, and does nothing."""
    whole, record = VENV / ".installed-run", VENV / f".installed-{extra}"
    if content_of(record) == expected_record():
        return
    with open(ROOT / "pyproject.toml", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"Another script is installing into {VENV}: waiting for it", flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        if content_of(record) == expected_record():
            return
        made_for, expected = (text.partition("\n")[0] for text in (content_of(whole), expected_record()))
        if made_for != expected:
            reason = f"it was made with {made_for}, and this is {expected}" if made_for else "it was not finished"
            make_environment(reason)
        command = [str(VENV / "bin/python"), __file__, extra, "--here"]
        if subprocess.run(command, check=False).returncode != 0:
            sys.exit(1)
        for path in (whole, record):
            path.write_text(expected_record(), encoding="utf-8")


def content_of(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def expected_record() -> str:
    """What an installation depends on: Python, the project's folder, and what it requires.

    Python is .venv's where it runs, unless the user names another one in PYTHON.
    """
    version = "" if "PYTHON" in os.environ else version_of(VENV / "bin/python")
    requirements = (ROOT / "requirements.txt").read_bytes() + (ROOT / "pyproject.toml").read_bytes()
    return f"Python {version or platform.python_version()} for {ROOT}\n{hashlib.sha256(requirements).hexdigest()}"


def version_of(python: Path) -> str:
    """The version of an interpreter; "" if it doesn't run."""
    try:
        command = [str(python), "-c", "import platform; print(platform.python_version())"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def make_environment(reason: str) -> None:
    """Makes an empty .venv, which replaces one of these scripts' own for a reason that is printed."""
    try:
        import ensurepip  # noqa: F401  Debian has it in a package of its own
        import venv
    except ImportError:
        fail("this Python has no venv module: sudo apt-get install python3-venv, then run this again")
    if os.path.lexists(VENV):
        if not (VENV / MADE_HERE).exists():
            fail(f"{VENV} was not made by these scripts: rename or delete it, and run this again")
        print(f"The environment is made anew: {reason}")
    print(f"Making a virtual environment in {VENV} (Python {platform.python_version()})", flush=True)
    # In a container its own PyTorch and TensorRT are used, and can't be replaced.
    builder = venv.EnvBuilder(system_site_packages=is_nvidia_container(), symlinks=True, with_pip=True)
    try:
        shutil.rmtree(VENV, ignore_errors=True)
        VENV.mkdir()
        (VENV / MADE_HERE).touch()
        builder.create(VENV)
    except (OSError, subprocess.CalledProcessError) as error:
        text = error.output.decode(errors="replace") if isinstance(error, subprocess.CalledProcessError) else str(error)
        shutil.rmtree(VENV, ignore_errors=True)
        fail(f"{VENV} could not be made: {explain(text)}")


def install(extra: str) -> None:
    """Installs the project in place into the Python that runs this, with what the extra needs."""
    if importlib.util.find_spec("pip") is None:
        fail(f"{sys.executable} has no pip: sudo apt-get install python3-pip, then run this again")
    print(f"Installing into {sys.prefix}", flush=True)
    require(pip("--no-deps", "--editable", str(ROOT), PIP_CONSTRAINT=""))
    kept, wanted, needs_torch = kept_packages(), [], False
    for requirement in project_requirements(extra):
        version = kept.get(requirement.name)
        if version is None:
            wanted.append(str(requirement))
            if requirement.name == "torch":
                needs_torch = not requirement.specifier.contains(installed_version("torch") or "0")
        elif not requirement.specifier.contains(version, prereleases=True):
            print(f"Warning: {requirement.name} {version} is kept, but the project was tried with {requirement}")
    if needs_torch and not is_for_gpus():
        print("Installing PyTorch, without CUDA as there is no NVIDIA driver", flush=True)
        # An index that can't be reached is no error to pip: it goes on to the wheels that it is configured to look at.
        if pip("--no-deps", "--retries", "0", "--timeout", "5", "--index-url", CPU_INDEX, TRIED_TORCH):
            print(f"No CPU build at {CPU_INDEX}: the package registry's may take 3 GB (Ctrl-C stops it)", flush=True)
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", suffix=".txt") as constraints:
        constraints.writelines(f"{name}=={version}\n" for name, version in kept.items())
        constraints.flush()
        print("Installing the other packages", flush=True)
        require(pip("--constraint", constraints.name, *wanted))
    command = [sys.executable, "-c", "import onnxruntime, torch"]
    imports = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    if imports.returncode != 0:
        last_line = (imports.stderr.strip() or f"status {imports.returncode}").splitlines()[-1]
        fail(f"the packages were installed, but don't work on this machine: {last_line}")


def kept_packages() -> dict[str, str]:
    """Names and versions of the packages that must stay as they are.

    In .venv, those that lie outside of it; in an environment of the user's, all that are there.
    """
    kept: dict[str, str] = {}
    for distribution in importlib.metadata.distributions():
        name = distribution.metadata["Name"]
        in_venv = VENV in Path(str(distribution.locate_file(""))).resolve().parents and (VENV / MADE_HERE).exists()
        if name and KEPT.fullmatch(name) and not in_venv:
            kept.setdefault(re.sub(r"[-_.]+", "-", name).lower(), distribution.version)
    return kept


def project_requirements(extra: str) -> "list[Requirement]":
    """What the installed project requires, with one of its extras; extras that an extra names are followed."""
    from pip._vendor.packaging.requirements import Requirement

    importlib.invalidate_caches()
    requirements: list[Requirement] = []
    extras = [extra]
    for name in extras:  # grows
        for requirement in map(Requirement, importlib.metadata.requires(PROJECT) or []):
            if requirement.marker is not None and not requirement.marker.evaluate({"extra": name}):
                continue
            requirement.marker = None
            if requirement.name == PROJECT:
                extras += sorted(requirement.extras)
            elif requirement not in requirements:
                requirements.append(requirement)
    return requirements


def pip(*arguments: str, **variables: str) -> str:
    """Runs `pip install`, with its progress on a terminal and in silence elsewhere. Returns its errors, or ""."""
    environment = {**os.environ, "PIP_ROOT_USER_ACTION": "ignore", "PIP_DISABLE_PIP_VERSION_CHECK": "1", **variables}
    if is_nvidia_container():
        environment["PIP_BREAK_SYSTEM_PACKAGES"] = "1"  # its Python is Ubuntu's, and was made to be installed into
    quiet = [] if sys.stdout.isatty() else ["--quiet"]
    command = [sys.executable, "-m", "pip", "install", "--no-input", *quiet, *arguments]
    result = subprocess.run(command, stderr=subprocess.PIPE, text=True, env=environment, check=False)
    return (result.stderr or f"status {result.returncode}") if result.returncode != 0 else ""


def require(errors: str) -> None:
    """Ends the program where pip has failed."""
    if errors:
        fail(explain(errors))


def explain(errors: str) -> str:
    """One line of what errors mean for the user: their known reason, or their last line."""
    for marks, reason in REASONS.items():
        if re.search(marks, errors):
            return reason
    lines = [line.strip() for line in errors.splitlines() if line.strip() and not line.startswith(("hint:", "note:"))]
    last = ([line for line in lines if line.lower().startswith("error")] or lines or ["no reason given"])[-1]
    return last.removeprefix("ERROR:").strip()


def fail(message: str) -> NoReturn:
    sys.exit(f"install.py: error: {message}")


if __name__ == "__main__":
    main(make_parser().parse_args())
