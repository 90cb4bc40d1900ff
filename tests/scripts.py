"""Running the project's scripts as users do: in this process, or in one of their own."""

import io
import os
import runpy
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from unittest import mock

from common.files import REPOSITORY
from common.metadata import PARTS
from common.model_flags import part_flag


def run_script(script: str, *args: object, cwd: Path | None = None, **options) -> subprocess.CompletedProcess:
    """Runs `python script args...` and returns its status, standard output and standard error."""
    command = [sys.executable, str(REPOSITORY / script), *map(str, args)]
    options.setdefault("timeout", 600)
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, **options)


def run_here(script: str, *args: object, cwd: Path | None = None) -> subprocess.CompletedProcess:
    """As `run_script`, but in this process: what it takes to start Python and PyTorch is paid once."""
    path, before = str(REPOSITORY / script), Path.cwd()
    out, err, status = io.StringIO(), io.StringIO(), 0
    os.chdir(cwd or before)
    try:
        with redirect_stdout(out), redirect_stderr(err), mock.patch.object(sys, "argv", [path, *map(str, args)]):
            runpy.run_path(path, run_name="__main__")
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    finally:
        os.chdir(before)
    return subprocess.CompletedProcess([script, *map(str, args)], status, out.getvalue(), err.getvalue())


def run_interpreted(call: str) -> None:
    """Runs an expression of a test module, as `test_gpu_encoder.interpret()`, with Triton's interpreter in place of its
    compiler: in a process of its own, because Triton decides when it is imported."""
    module = call.partition(".")[0]
    done = subprocess.run(
        [sys.executable, "-c", f"from tests import {module}; {call}"],
        env={**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
        cwd=REPOSITORY,
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def model_flags(folder: Path) -> list[str]:
    """The four model flags of `inference_trt.py` for the ONNX files of a folder."""
    return [word for part in PARTS for word in (part_flag(part), str(folder / f"{part}.onnx"))]


def assert_one_line_error(result: subprocess.CompletedProcess, *words: str) -> str:
    """The process failed with one line of error that holds the given words, and without a traceback."""
    assert result.returncode not in (0, -11, -6), result.stdout
    assert "Traceback" not in result.stderr
    lines = [line for line in result.stderr.splitlines() if line.strip()]
    assert len(lines) == 1, result.stderr
    for word in words:
        assert word in lines[0]
    return lines[0]


def leftovers(folder: Path) -> list[str]:
    """Names of the files in a folder that an interrupted or failed run must not leave: wavs and temporary files."""
    names = os.listdir(folder) if folder.is_dir() else []
    return [name for name in names if name.endswith((".wav", ".part")) or name.startswith(".")]
