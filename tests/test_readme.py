"""The README's commands are commands that exist, with flags that exist, and its examples speak."""

import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from common.files import REPOSITORY
from tests.scripts import assert_one_line_error, run_here

README = (REPOSITORY / "README.md").read_text()


def commands() -> list[str]:
    """The lines of the README's shell examples, continued lines joined, comments cut."""
    blocks = re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [line.split("  #")[0].strip() for line in lines if line.strip()]


PYTHON_COMMANDS = [line for line in commands() if re.search(r"python3 \S+\.py", line)]
SCRIPTS = re.findall(r"(?:bash |\./)(\S+\.sh)", "\n".join(commands()) + README)


@pytest.mark.parametrize("line", PYTHON_COMMANDS)
def test_flags_of_the_readme_are_flags_of_the_scripts(line: str) -> None:
    words = shlex.split(line.split("| ")[-1])
    script = REPOSITORY / words[1]
    runpy.run_path(str(script), run_name="not main")["make_parser"]().parse_args(words[2:])


def test_scripts_of_the_readme_exist() -> None:
    assert SCRIPTS
    for script in SCRIPTS:
        assert (REPOSITORY / script).is_file(), script
        subprocess.run(["bash", "-n", REPOSITORY / script], check=True)


def test_links_of_the_readme_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (REPOSITORY / target).exists(), target


@pytest.mark.slow
def test_speaking_examples_speak(tmp_path: Path, demo_folder: Path) -> None:
    (tmp_path / "output").symlink_to(demo_folder)
    for name in ("trt", "phrases"):
        (tmp_path / name).symlink_to(REPOSITORY / name)
    section = README[README.index("## Speak phrase files") : README.index("## TensorRT")]
    examples = [line for line in PYTHON_COMMANDS if line in section]
    assert len(examples) == 3
    for line in examples:
        shorter = line.replace("phrase_8_64.txt", "phrase_1_64.txt")
        command = shorter.replace("python3", shlex.quote(sys.executable)).replace("-o output/", "-o spoken/")
        result = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stderr
        assert (tmp_path / "spoken" / "audio_0_trt.wav").stat().st_size > 40_000


def test_benchmark_scripts_refuse_what_they_do_not_know() -> None:
    script = ["bash", REPOSITORY / "scripts" / "inference_benchmark.sh"]
    result = subprocess.run([*script, "--batch", "3"], capture_output=True, text=True, check=False)
    assert "unknown flag --batch" in assert_one_line_error(result)
    assert_one_line_error(run_here("benchmarks/report.py", "no_such_folder"), "holds no results")
