"""Running the project's scripts as users do: as processes of their own."""

import os
import subprocess
import sys
from pathlib import Path

from common.engine import part_flag
from common.files import REPOSITORY
from common.metadata import PARTS


def run_script(script: str, *args: object, cwd: Path | None = None, **options) -> subprocess.CompletedProcess:
    """Runs `python script args...` and returns its status, standard output and standard error."""
    command = [sys.executable, str(REPOSITORY / script), *map(str, args)]
    options.setdefault("timeout", 600)
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False, **options)


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
