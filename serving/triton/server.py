"""Starts NVIDIA's Triton Inference Server: the binary of the package nvidia-pytriton."""

import os
import shutil
import site
import sys
import sysconfig
from pathlib import Path

from common.errors import UserError
from common.files import appearing_together


def server_command(
    installed: Path, repository: Path, host: str, ports: dict[str, int]
) -> tuple[list[str], dict[str, str]]:
    """The command line and environment of a server on a repository.

    Args:
        installed: where the package nvidia-pytriton lies. NumPy 1 lies beside it: the backend's stubs, built before
            NumPy 2, read its arrays wrongly. The Python backend with the stub for this Python is put beside them.
        ports: of http, grpc and metrics.

    Raises:
        UserError: the server isn't installed, has no stub for this version of Python, or can't serve such a folder.
    """
    installed, repository = installed.resolve(), repository.resolve()
    for folder in (installed, repository):
        if any(character.isspace() for character in str(folder)):
            raise UserError(f"{folder}: the server starts no models from a folder with spaces in its name; move it")
    server = installed / "pytriton" / "tritonserver"
    if not (server / "bin" / "tritonserver").is_file():
        raise UserError(
            f"{installed}: NVIDIA's Triton Inference Server isn't installed there; see scripts/serve_triton.sh"
        )
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    stub = server / "python_backend_stubs" / version / "triton_python_backend_stub"
    if not stub.is_file():
        raise UserError(f"the server has no Python backend for Python {version}; use one of 3.8 to 3.13")
    backends = installed / f"backends-{version}"
    if not backends.is_dir():
        with appearing_together(installed) as temporary:
            shutil.copytree(server / "backends" / "python", temporary / backends.name / "python")
            shutil.copy2(stub, temporary / backends.name / "python")
    command = [
        str(server / "bin" / "tritonserver"),
        f"--model-repository={repository}",
        f"--backend-directory={backends}",
        f"--http-address={host}",
        f"--grpc-address={host}",
        f"--metrics-address={host}",
        *(f"--{name}-port={port}" for name, port in ports.items()),
    ]
    libraries = [str(sysconfig.get_config_var("LIBDIR")), str(installed / "nvidia_pytriton.libs")]
    if callers := os.environ.get("LD_LIBRARY_PATH"):  # an empty entry would be the current folder
        libraries.append(callers)
    packages = [str(installed), *site.getsitepackages()]
    environment = {
        **os.environ,
        "LD_LIBRARY_PATH": os.pathsep.join(libraries),
        # The backend's Python is a bare one: it finds what this one has installed, but not this clone's packages,
        # which a repository carries itself.
        "PYTHONPATH": os.pathsep.join(packages),
    }
    return command, environment
