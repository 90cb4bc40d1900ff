"""The shell scripts a user starts with: what they install, what they say is missing, and what they download.

pip is a double here that writes down what it is asked for; a whole installation is what started these tests.
"""

import ast
import hashlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import venv
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pip
import pytest
from pip._vendor.packaging.requirements import Requirement

from common.files import REPOSITORY
from scripts import install
from tests.scripts import assert_one_line_error, run_here

pytestmark = pytest.mark.slow

NO_NETWORK = "WARNING: Retrying after connection broken by 'NewConnectionError'\nERROR: No matching distribution found"

PIP_DOUBLE = """
import json, os, sys
from pathlib import Path

arguments = sys.argv[1:]
here = Path(__file__).parent.parent
for i, argument in enumerate(arguments[:-1]):
    if argument == "--constraint":
        arguments[i + 1] = Path(arguments[i + 1]).read_text()
with open(here / "pip.log", "a") as log:
    log.write(json.dumps(arguments) + "\\n")
refused = os.environ.get("PIP_REFUSES")
if refused and any(refused in argument for argument in arguments):
    sys.exit(os.environ["PIP_SAYS"])

def add(name, version, *requirements):
    info = here / f"{name}-{version}.dist-info"
    info.mkdir(exist_ok=True)
    lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
    lines += [f"Requires-Dist: {text}" for text in requirements]
    (info / "METADATA").write_text("\\n".join(lines) + "\\n")

if "--editable" in arguments:
    add("tacotron2_waveglow_tensorrt", "1", "torch<9,>=2.11", "tqdm>=4", 'checker>=8; extra == "test"')
    lint_imports = Path(sys.prefix, "bin/lint-imports")
    lint_imports.write_text((here / "lint_imports.py").read_text())
elif arguments[-1].startswith("torch"):
    add("torch", "2.13.0")
"""

VENV_DOUBLE = """
import importlib.util, os, sysconfig
spec = importlib.util.spec_from_file_location("real_venv", sysconfig.get_path("stdlib") + "/venv/__init__.py")
real = importlib.util.module_from_spec(spec)
spec.loader.exec_module(real)

class EnvBuilder(real.EnvBuilder):
    def __init__(self, **options):
        super().__init__(**{**options, "with_pip": False})  # the double of pip lies on the path

    def create(self, folder):
        if "VENV_FAILS" in os.environ:
            raise OSError(os.environ["VENV_FAILS"])
        super().create(folder)
"""

SPEAK_DOUBLE = """
import json, os, sys
print(json.dumps([os.getcwd(), *sys.argv[1:]]))
sys.exit("--fail" in sys.argv)
"""

TOOL_DOUBLE = """
import os, sys
name = __spec__.name if __spec__ else "imports"
print("ran", name, sys.argv[1:])
sys.exit(int(name == os.environ.get("TOOL_FAILS")))
"""


class Project:
    """A copy of the scripts in a folder of its own, with doubles of pip, of the tools and of what speaks."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "pro ject"
        self.doubles = folder / "doubles"
        path = f"{self.doubles / 'bin'}:{os.environ['PATH']}"
        self.environment = {"PATH": path, "HOME": str(folder), "PYTHONPATH": str(self.doubles)}
        shell_scripts = [str(path.relative_to(REPOSITORY)) for path in REPOSITORY.glob("scripts/*.sh")]
        for name in ("requirements.txt", "pyproject.toml", "phrases/phrase.txt", "scripts/install.py", *shell_scripts):
            self.copy(name)
        (self.root / "trt").mkdir()
        (self.root / "trt/inference_trt.py").write_text(SPEAK_DOUBLE)
        (self.root / "tests").mkdir()
        (self.root / "tests/test_quick.py").touch()
        (self.root / "tests/test_lengthy.py").write_text("pytestmark = pytest.mark.slow")
        (self.root / "tests/test_lengthy_too.py").write_text("pytestmark = pytest.mark.slow")
        (self.root / "tests/test_lonely.py").write_text("pytestmark = [pytest.mark.slow, pytest.mark.alone]")
        (self.doubles / "pip").mkdir(parents=True)
        (self.doubles / "pip/__init__.py").touch()
        (self.doubles / "pip/__main__.py").write_text(PIP_DOUBLE)
        (self.doubles / "pip/_vendor").symlink_to(Path(pip.__file__).parent / "_vendor")
        for name in ("torch", "onnxruntime"):
            (self.doubles / f"{name}.py").touch()
        (self.doubles / "venv.py").write_text(VENV_DOUBLE)
        for name in ("ruff", "mypy", "lint_imports", "pytest"):
            (self.doubles / f"{name}.py").write_text(TOOL_DOUBLE)
        self.environment["PYTHON"] = str(self.executable("python", EXEC))
        for name in ("chromium", "chromedriver"):  # there, so that nothing of the system's is installed
            self.executable(name, "exit 1")

    def copy(self, name: str) -> None:
        (self.root / name).parent.mkdir(exist_ok=True)
        shutil.copy(REPOSITORY / name, self.root / name)

    def executable(self, name: str, code: str) -> Path:
        path = self.doubles / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!{shutil.which('bash')}\n{code}\n")
        path.chmod(0o755)
        return path

    def without_python(self) -> None:
        """Leaves only what a bare system has on the PATH."""
        del self.environment["PYTHON"]
        folder = self.doubles / "bin"
        (folder / "python").unlink()
        for name in ("bash", "dirname", "cat", "sha256sum", "rm", "mkdir", "flock"):
            (folder / name).symlink_to(str(shutil.which(name)))
        self.environment["PATH"] = str(folder)

    def run(self, script: str, *arguments: str, cwd: Path | None = None, **environment: str):
        command = [str(shutil.which("bash")), str(self.root / "scripts" / script), *arguments]
        variables = self.environment | environment
        return subprocess.run(
            command, cwd=cwd or "/", env=variables, capture_output=True, text=True, timeout=60, check=False
        )

    def pip_calls(self) -> list[list[str]]:
        log = self.doubles / "pip.log"
        return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []

    def plant(self) -> Path:
        """A file in .venv, there for as long as the environment is not made again."""
        path = self.root / ".venv" / "planted"
        path.touch()
        return path


EXEC = f'exec "{sys.executable}" "$@"'


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


# What is missing


def test_no_python_is_said_and_a_later_one_beside_an_old_one_found(project: Project) -> None:
    project.without_python()
    missing = ("run_demo.sh: error:", "Python 3.10 or later is missing", "apt-get install python3 python3-venv")
    assert_one_line_error(project.run("run_demo.sh"), *missing)
    project.executable("python3", "exit 1")  # as new_enough sees it
    assert_one_line_error(project.run("run_demo.sh"), *missing)
    project.executable("python3.11", EXEC)
    assert project.run("run_demo.sh").returncode == 0


@pytest.mark.parametrize("code", [None, "exit 1"], ids=["none", "old"])
def test_python_that_the_user_names_must_do(project: Project, code: str | None) -> None:
    python = str(project.executable("other", code)) if code else "/no/python"
    assert_one_line_error(project.run("run_demo.sh", PYTHON=python), f"PYTHON={python} is not Python 3.10 or later")


def test_no_venv_module(project: Project) -> None:
    (project.doubles / "ensurepip.py").write_text("raise ImportError")
    assert_one_line_error(project.run("run_tests.sh"), "no venv module", "apt-get install python3-venv")
    assert not (project.root / ".venv").exists()


def test_virtual_environment_that_fails_is_not_trusted(project: Project) -> None:
    result = project.run("run_demo.sh", VENV_FAILS="[Errno 28] No space left on device")
    assert_one_line_error(result, "could not be made: the disk is full")
    assert not (project.root / ".venv").exists()
    assert project.run("run_demo.sh").returncode == 0


def test_no_network_is_said_and_the_next_run_starts_anew(project: Project) -> None:
    result = project.run("run_demo.sh", PIP_REFUSES="--editable", PIP_SAYS=NO_NETWORK)
    assert_one_line_error(result, "package registry can't be reached")
    planted = project.plant()
    assert project.run("run_demo.sh").returncode == 0
    assert not planted.exists()


def test_packages_that_do_not_work_are_not_trusted(project: Project) -> None:
    (project.doubles / "torch.py").write_text("raise ImportError('libgomp.so.1: cannot open shared object file')")
    for _ in range(2):
        assert_one_line_error(project.run("run_demo.sh"), "don't work on this machine", "libgomp.so.1")


def test_environment_of_the_users_own_is_never_deleted(project: Project) -> None:
    mine = project.root / ".venv" / "mine"
    mine.mkdir(parents=True)
    assert_one_line_error(project.run("run_demo.sh"), "was not made by these scripts", "rename or delete it")
    assert mine.exists()
    shutil.rmtree(mine.parent)
    mine.parent.symlink_to("/nowhere")
    assert_one_line_error(project.run("run_demo.sh"), "was not made by these scripts")


# What is reused


def test_second_run_asks_pip_for_nothing_until_the_requirements_change(project: Project) -> None:
    first = project.run("run_demo.sh")
    assert first.returncode == 0, first.stderr
    calls, planted = project.pip_calls(), project.plant()
    second = project.run("run_demo.sh")
    assert second.returncode == 0
    assert project.pip_calls() == calls
    assert "Installing" in first.stdout
    assert "Installing" not in second.stdout
    with open(project.root / "requirements.txt", "a", encoding="utf-8") as file:
        file.write("more>=1\n")
    assert project.run("run_demo.sh", "--fail").returncode == 1  # what speaks decides the status
    assert planted.exists()
    assert len(project.pip_calls()) > len(calls)


def test_moved_project_is_installed_anew_and_says_why(project: Project) -> None:
    assert project.run("run_demo.sh").returncode == 0
    planted = project.plant().relative_to(project.root)
    project.root = project.root.rename(project.root.with_name("moved"))
    result = project.run("run_demo.sh")
    assert result.returncode == 0
    assert "made anew: it was made with Python" in result.stdout
    assert "pro ject, and this is" in result.stdout
    assert not (project.root / planted).exists()


def test_tests_add_to_the_environment_and_leave_it_whole_if_that_fails(project: Project) -> None:
    assert project.run("run_demo.sh").returncode == 0
    planted = project.plant()
    assert_one_line_error(project.run("run_tests.sh", PIP_REFUSES="checker", PIP_SAYS=NO_NETWORK), "registry")
    calls = len(project.pip_calls())
    assert project.run("run_demo.sh").returncode == 0
    assert len(project.pip_calls()) == calls
    result = project.run("run_tests.sh")
    assert result.returncode == 0, result.stderr
    assert planted.exists()
    ran = [line for line in result.stdout.splitlines() if line.startswith("ran pytest")]
    assert ["not slow" in line for line in ran] == [True, True, False, False]
    files = sorted(ast.literal_eval(line.removeprefix("ran pytest "))[3:] for line in ran[2:])
    assert files == [["tests/test_lengthy.py", "tests/test_lengthy_too.py"], ["tests/test_lonely.py"]]
    assert any("checker>=8" in call for call in project.pip_calls()[calls:])


# What is run


@pytest.mark.parametrize(
    ("flags", "given"),
    [
        (["--denoise"], ["-i", "{root}/phrases/phrase.txt", "--denoise"]),
        (["-i", "my file", "-oout"], ["-i", "my file", "-oout"]),
        (["--output=out", "--text", "Hello you."], ["--output=out", "--text", "Hello you."]),
        (["-o", "my -i folder"], ["-i", "{root}/phrases/phrase.txt", "-o", "my -i folder"]),
    ],
    ids=str,
)
def test_demo_speaks_the_phrase_file_unless_something_else_is_given(
    project: Project, tmp_path: Path, flags: list[str], given: list[str]
) -> None:
    """The users' paths are relative to their folder, and a later -o goes before the first."""
    output = ["-o", f"{project.root}/output"]
    expected = [str(tmp_path), *output, *(word.format(root=project.root) for word in given)]
    assert spoken(project.run("run_demo.sh", *flags, cwd=tmp_path)) == expected


def spoken(result) -> list[str]:
    """The folder and the arguments that the speaking script was started with."""
    assert result.returncode == 0, result.stderr
    return json.loads(next(line for line in result.stdout.splitlines() if line.startswith("[")))


def test_all_checks_run_and_any_that_fails_is_the_status(project: Project) -> None:
    for failing in ("ruff", "mypy", "imports", "pytest", ""):
        result = project.run("run_tests.sh", "-k", "a word", TOOL_FAILS=failing)
        ran = [line for line in result.stdout.splitlines() if line.startswith("ran")]
        assert [line.split()[1] for line in ran] == ["ruff", "mypy", "imports", "pytest"]
        assert ran[3].endswith("['-k', 'a word']")
        if failing:
            assert_one_line_error(result, f"failed: {failing}")
        else:
            assert result.returncode == 0


def test_ci_runs_the_tests_of_the_readme() -> None:
    command = "bash scripts/run_tests.sh"
    assert f"exec {command}\n" in (REPOSITORY / ".ci/run").read_text()
    assert f"\n{command}\n" in (REPOSITORY / "README.md").read_text()


# What benchmarks leave

BENCHMARK_DOUBLE = """
import sys
flags = dict(zip(sys.argv[1:], sys.argv[2:]))
framework = "ONNX Runtime" if "trt" in sys.argv[0] else "PyTorch"
open(f"{flags['-o']}/{framework}_bs1_il128_FP32.json", "w").close() if "-o" in flags else None
print(framework, "iterations", flags["--num-iters"], *sys.argv[1:])
"""
SHELL_SCRIPTS = sorted(
    path for path in REPOSITORY.glob("**/*.sh") if ".venv" not in path.parts and path.name != "lib.sh"
)


@pytest.fixture
def benchmarks(project: Project) -> Project:
    for name in ("test_infer.sh", "run_latency_tests.sh"):
        project.copy(name)
    (project.root / "test_infer.py").write_text(BENCHMARK_DOUBLE)
    (project.root / "trt/test_infer_trt.py").write_text(BENCHMARK_DOUBLE)
    (project.root / "benchmarks").mkdir()
    (project.root / "benchmarks/report.py").write_text("import os, sys; print(sorted(os.listdir(sys.argv[1])))")
    return project


def test_flags_are_passed_on_to_the_benchmark_and_come_last(benchmarks: Project, tmp_path: Path) -> None:
    result = benchmarks.run("../test_infer.sh", "--cpu", "--frames", "20", "-bs", "4", cwd=tmp_path)
    assert re.fullmatch(
        r"PyTorch iterations 10 -bs 1 -il 128 --num-iters 10 --log-suffix \d{8}-\d{6} --cpu --frames 20 -bs 4\n",
        result.stdout,
    )
    result = benchmarks.run("../test_infer.sh", "--cpu", "--test", "trt/test_infer_trt.py", cwd=tmp_path)
    assert result.stdout.startswith("ONNX Runtime iterations 10 ")
    assert "--test" not in result.stdout


def test_the_sweep_says_what_it_takes_on_a_cpu_and_does_less(benchmarks: Project, tmp_path: Path) -> None:
    result = benchmarks.run("../run_latency_tests.sh", "--cpu", cwd=tmp_path)
    assert "about 20 minutes on two cores" in result.stdout
    assert result.stdout.count("iterations 3 ") == 5
    assert "-bs 32" not in result.stdout


def test_a_comparison_leaves_all_earlier_results_alone(benchmarks: Project, tmp_path: Path) -> None:
    (benchmarks.root / "output").mkdir()
    (benchmarks.root / "output/encoder.onnx").touch()
    sweep = tmp_path / "results/PyTorch_bs1_il128_FP32.json"
    sweep.parent.mkdir()
    sweep.write_text("an hour of work")
    result = benchmarks.run("inference_benchmark.sh", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "['ONNX Runtime_bs1_il128_FP32.json', 'PyTorch_bs1_il128_FP32.json']" in result.stdout
    assert sweep.read_text() == "an hour of work"


def test_benchmarks_say_that_packages_are_missing(benchmarks: Project, tmp_path: Path) -> None:
    (benchmarks.doubles / "onnxruntime.py").write_text("raise ImportError")
    for script in ("../test_infer.sh", "inference_benchmark.sh", "verify_gpu.sh"):
        assert_one_line_error(benchmarks.run(script, cwd=tmp_path), "lacks the project's packages")
    assert list(tmp_path.glob("results")) == []


@pytest.mark.parametrize("script", SHELL_SCRIPTS, ids=lambda path: path.name)
def test_help_says_what_a_script_does_and_starts_nothing(project: Project, tmp_path: Path, script: Path) -> None:
    name = script.relative_to(REPOSITORY)
    project.copy(str(name))
    program = re.search(r"^PASSES_FLAGS_TO=(.+)", script.read_text(encoding="utf-8"), re.MULTILINE)
    if program:
        (project.root / program[1]).write_text(SPEAK_DOUBLE)
    result = project.run(f"../{name}", "--help", cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    assert len(result.stdout.splitlines()) > 1
    assert ('"--help"]' in result.stdout) == bool(program)  # its flags are listed too
    assert project.pip_calls() == []
    assert not (project.root / ".venv").exists()
    assert not {path.name for path in tmp_path.iterdir()} - {"pro ject", "doubles"}


# What is installed


def test_prerequisites_go_into_the_environment_that_is_active(project: Project, tmp_path: Path) -> None:
    venv.create(tmp_path / "active")
    python = tmp_path / "active/bin/python"
    result = project.run("install_prerequisites.sh", PYTHON=str(python))
    assert result.returncode == 0, result.stderr
    assert f"Installed for {python}" in result.stdout
    assert not (project.root / ".venv").exists()
    unknown = project.run("install_prerequisites.sh", "everything", PYTHON=str(python))
    assert_one_line_error(unknown, "unknown extra everything")


def test_what_a_container_brings_stays_as_it_is(project: Project, tmp_path: Path) -> None:
    venv.create(tmp_path / "active")
    for name, version in {"torch": "2.8.0a0+5228986c39.nv25.05", "tensorrt": "10.9.0", "numpy": "1.26.4"}.items():
        info = project.doubles / f"{name}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    result = project.run("install_prerequisites.sh", PYTHON=str(tmp_path / "active/bin/python"))
    assert result.returncode == 0, result.stderr
    assert "Warning: torch 2.8.0a0+5228986c39.nv25.05 is kept" in result.stdout
    [call] = [call for call in project.pip_calls() if "--constraint" in call]
    constraints = call[call.index("--constraint") + 1].split()
    assert sorted(constraints) == ["numpy==1.26.4", "tensorrt==10.9.0", "torch==2.8.0a0+5228986c39.nv25.05"]
    assert call[call.index("--constraint") + 2 :] == ["tqdm>=4"]


@pytest.mark.parametrize(
    ("machine", "has_cpu_build", "asked", "noted"),
    [
        ("bare", True, True, False),
        ("bare", False, True, True),
        ("driver", True, False, False),
        ("tensorrt", True, False, False),
    ],
)
def test_pytorch_without_cuda_is_preferred_where_no_gpu_will_be(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], machine, has_cpu_build, asked, noted
) -> None:
    """A container with TensorRT is built without a driver, and run with one."""
    calls: list[tuple[str, ...]] = []

    def pip_double(*arguments: str, **variables: str) -> str:
        calls.append(arguments)
        return "ERROR: No matching distribution found" if install.CPU_INDEX in arguments and not has_cpu_build else ""

    monkeypatch.setattr(install.sys, "executable", shutil.which("true"))  # imports nothing, and succeeds
    real_find = importlib.util.find_spec
    monkeypatch.setattr(install, "pip", pip_double)
    monkeypatch.setattr(install, "kept_packages", dict)
    monkeypatch.setattr(install, "installed_version", lambda name: None)
    monkeypatch.setattr(install, "project_requirements", lambda extra: [Requirement("torch<9,>=2"), Requirement("x")])
    monkeypatch.setattr(install.shutil, "which", lambda name: "there" if machine == "driver" else None)
    monkeypatch.setattr(
        install.importlib.util,
        "find_spec",
        lambda name: (machine == "tensorrt" or None) if name == "tensorrt" else real_find(name),
    )
    install.install("run")
    assert [install.CPU_INDEX in call for call in calls] == ([False, True, False] if asked else [False, False])
    assert calls[-1][2:] == ("torch<9,>=2", "x")
    assert ("3 GB" in capsys.readouterr().out) == noted


def dockerfile() -> list[tuple[str, str]]:
    """The Dockerfile's instructions and their arguments."""
    lines = (REPOSITORY / "Dockerfile").read_text().splitlines()
    return [(line.split(" ", 1)[0], line.split(" ", 1)[1]) for line in lines if line and not line.startswith("#")]


def test_the_dockerfiles_steps_run_on_a_bare_machine(project: Project, tmp_path: Path) -> None:
    """What it runs is run here, with doubles of pip; what it starts says its flags; what it copies is all there is."""
    venv.create(tmp_path / "active")
    instructions = dockerfile()
    environment = project.environment | {"PYTHON": str(tmp_path / "active/bin/python")}
    environment |= dict(pair.split("=", 1) for name, pair in instructions if name == "ENV")
    steps = [command for name, command in instructions if name == "RUN"]
    assert steps
    for command in steps:
        result = subprocess.run(
            command, shell=True, cwd=project.root, env=environment, capture_output=True, text=True, check=False
        )
        assert result.returncode == 0, result.stderr
    assert any("--constraint" in call for call in project.pip_calls())
    assert not (project.root / ".venv").exists()  # which the entry points would not look into
    entries = [json.loads(words) for name, words in instructions if name == "ENTRYPOINT"]
    for _, *script in entries:
        assert "--host" in run_here(*script, "--help").stdout
    assert [words for name, words in instructions if name == "COPY"] == [". ."]


def test_the_documented_docker_commands_fit_the_dockerfile() -> None:
    documented = (REPOSITORY / "docs/tensorrt.md").read_text()
    instructions = dockerfile()
    release = next(words for name, words in instructions if name == "ARG").partition("=")[0]
    stages = {words.split(" AS ")[1] for name, words in instructions if name == "FROM"}
    assert f"--build-arg {release}=" in documented
    assert set(re.findall(r"--target (\w+)", documented)) == stages
    assert "--shm-size" in documented


@pytest.mark.parametrize(
    ("errors", "words"),
    [
        (NO_NETWORK, "can't be reached"),
        ("ERROR: Could not install packages: [Errno 28] No space left on device", "disk is full"),
        ("SSLError(SSLCertVerificationError(1, '[SSL: CERTIFICATE_VERIFY_FAILED]'))", "ca-certificates"),
        ("ERROR: [Errno 13] Permission denied: '/usr/lib/x'", "can't be written"),
        ("note\nERROR: Cannot install a and b", "Cannot install a and b"),
    ],
)
def test_errors_of_pip_in_a_line(errors: str, words: str) -> None:
    assert words in install.explain(errors)
    assert "\n" not in install.explain(errors)


# What is downloaded

NAME, OTHER = "nvidia_tacotron2pyt_fp16_20190427", "nvidia_waveglow256pyt_fp16"
CONTENT = {name: hashlib.sha256(name.encode()).digest() * 2000 for name in (NAME, OTHER)}
RECORD = "downloads.sha256"
SIZE = len(CONTENT[NAME])


class Server(ThreadingHTTPServer):
    """A server of the checkpoints that can be made to misbehave."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = dict(CONTENT)
        self.requests: list[tuple[str, str | None]] = []  # file name and Range
        self.cuts: list[int] = []  # bytes after which the next answers end too early
        self.ranges = True
        self.version = "1"
        self.status = 200
        self.type = "application/octet-stream"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_HEAD(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.server.content[self.path.rpartition("/")[2]])))
        self.end_headers()

    def do_GET(self) -> None:
        server, name = self.server, self.path.rpartition("/")[2]
        asked = self.headers.get("Range")
        server.requests.append((name, asked))
        content, start, status = server.content[name], 0, server.status
        if asked and server.ranges and self.headers.get("If-Range") in (None, f'"{server.version}"'):
            start, status = int(asked.removeprefix("bytes=").removesuffix("-")), 206
            if start >= len(content):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(content)}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
        self.send_response(status)
        self.send_header("Content-Type", server.type)
        self.send_header("Content-Length", str(len(content) - start))
        self.send_header("ETag", f'"{server.version}"')
        if status == 206:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        end = start + server.cuts.pop(0) if server.cuts else len(content)
        self.wfile.write(content[start:end])

    def log_message(self, format: str, *args: object) -> None:
        """The test's output stays readable."""


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield server
        server.shutdown()


def run_download(server: Server, folder: Path, *names: str, cache: str = "nowhere"):
    url = f"http://127.0.0.1:{server.server_port}/models"
    variables = {"RETRY_SECONDS": "0", "CHECKPOINTS_URL": url, "TORCH_HOME": str(cache)}
    script = [str(REPOSITORY / "scripts/download_checkpoints.sh"), "-o", str(folder), *names]
    environment = os.environ | variables | {"no_proxy": "*"}
    return subprocess.run(script, env=environment, capture_output=True, text=True, timeout=60, check=False)


def assert_whole(result, folder: Path, content: dict[str, bytes] = CONTENT) -> None:
    assert result.returncode == 0, result.stderr
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.name != RECORD} == content
    record = (folder / RECORD).read_text()
    assert record == "".join(f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in content.items())


def test_both_checkpoints_are_downloaded_once(server: Server, tmp_path: Path) -> None:
    assert_whole(run_download(server, tmp_path), tmp_path)
    assert server.requests == [(NAME, None), (OTHER, None)]
    again = run_download(server, tmp_path)
    assert_whole(again, tmp_path)
    assert "is there, and whole" in again.stdout
    assert len(server.requests) == 2


def test_later_versions_are_downloaded_by_name(server: Server, tmp_path: Path) -> None:
    later = dict.fromkeys(("nvidia_tacotron2pyt_fp16.pt", "nvidia_waveglow256pyt_fp16.pt"), b"later")
    server.content |= later
    assert_whole(run_download(server, tmp_path, *later), tmp_path, later)
    assert_one_line_error(run_download(server, tmp_path, "nvidia_waveglow256pyt_fp16xpt"), "unknown checkpoint nvidia")


@pytest.mark.parametrize("cache_folder", ["checkpoints", "hub/checkpoints"])
def test_what_torch_hub_has_downloaded_is_taken_where_it_is_whole(
    server: Server, tmp_path: Path, cache_folder: str
) -> None:
    cache = tmp_path / "torch" / cache_folder
    cache.mkdir(parents=True)
    (cache / NAME).write_bytes(CONTENT[NAME])
    (cache / OTHER).write_bytes(CONTENT[OTHER][:-1])  # torch.hub leaves what it was cut off at
    folder = tmp_path / "checkpoints of mine"
    result = run_download(server, folder, cache=str(tmp_path / "torch"))
    assert result.returncode == 0, result.stderr
    assert {name: (folder / name).read_bytes() for name in CONTENT} == CONTENT
    assert server.requests == [(OTHER, None)]
    assert f"copied from {cache / NAME}" in result.stdout
    assert f"{cache / OTHER} is not whole" in result.stdout


@pytest.mark.parametrize(("ranges", "third"), [(True, "bytes=1500-"), (False, None)])
def test_cut_connection_is_resumed_where_the_server_can(
    server: Server, tmp_path: Path, ranges: bool, third: str | None
) -> None:
    server.cuts, server.ranges = [1000, 500], ranges
    assert_whole(run_download(server, tmp_path), tmp_path)
    assert server.requests == [(NAME, None), (NAME, "bytes=1000-"), (NAME, third), (OTHER, None)]


def test_next_run_goes_on_from_what_is_there(server: Server, tmp_path: Path) -> None:
    server.cuts = [1000] + [0] * 4
    assert_one_line_error(run_download(server, tmp_path), "1000 bytes are kept", "run again")
    assert not (tmp_path / NAME).exists()
    server.cuts, server.requests = [], []
    assert_whole(run_download(server, tmp_path), tmp_path)
    assert server.requests[0] == (NAME, "bytes=1000-")


def test_file_that_changed_meanwhile_is_not_patched_together(server: Server, tmp_path: Path) -> None:
    server.cuts = [1000] + [0] * 4
    run_download(server, tmp_path)
    server.cuts, server.version = [], "2"
    server.content[NAME] = CONTENT[NAME][::-1]
    assert_whole(run_download(server, tmp_path), tmp_path, server.content)


@pytest.mark.parametrize("extra", [b"", b"what a longer file left"])
def test_part_that_is_as_long_as_the_file_or_longer(server: Server, tmp_path: Path, extra: bytes) -> None:
    (tmp_path / f"{NAME}.part").write_bytes(CONTENT[NAME] + extra)
    assert_whole(run_download(server, tmp_path), tmp_path)
    assert server.requests[0] == (NAME, f"bytes={SIZE + len(extra)}-")


def test_other_file_than_the_one_on_record_is_refused(server: Server, tmp_path: Path) -> None:
    assert_whole(run_download(server, tmp_path), tmp_path)
    (tmp_path / NAME).unlink()
    server.content[NAME] = CONTENT[NAME][::-1]
    assert_one_line_error(run_download(server, tmp_path), NAME, "sha256", hashlib.sha256(CONTENT[NAME]).hexdigest())
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([OTHER, RECORD])


def test_damaged_file_is_named_and_left_alone(server: Server, tmp_path: Path) -> None:
    assert_whole(run_download(server, tmp_path), tmp_path)
    (tmp_path / OTHER).write_bytes(b"cut short")
    assert_one_line_error(run_download(server, tmp_path), OTHER, "9 bytes", "delete it")
    assert (tmp_path / OTHER).read_bytes() == b"cut short"


@pytest.mark.parametrize(
    ("attribute", "value", "words"),
    [
        ("status", 404, "no such file on the server"),
        ("status", 401, "wants a login"),
        ("status", 503, "503"),
        ("type", "text/html; charset=utf-8", "web page"),
        ("server_port", 9, "check the network"),  # nothing listens there
    ],
)
def test_server_that_sends_no_checkpoint(server: Server, tmp_path: Path, attribute: str, value, words: str) -> None:
    setattr(server, attribute, value)
    assert_one_line_error(run_download(server, tmp_path), NAME, words)
    assert list(tmp_path.iterdir()) == []


def test_file_put_there_by_hand_is_never_vouched_for(server: Server, tmp_path: Path) -> None:
    (tmp_path / NAME).write_bytes(CONTENT[NAME])
    result = run_download(server, tmp_path)
    assert "content is unverified" in result.stdout
    assert NAME not in (tmp_path / RECORD).read_text()
    (tmp_path / NAME).write_bytes(CONTENT[NAME][:-1])
    assert_one_line_error(run_download(server, tmp_path), f"{SIZE - 1} bytes, but {SIZE} on the server")
    server.server_port = 9  # nothing listens there
    assert "unverified, as it was not downloaded" in run_download(server, tmp_path).stdout


def test_demo_voice_is_the_one_on_record() -> None:
    for line in (REPOSITORY / "checkpoints/SHA256SUMS").read_text().splitlines():
        digest, name = line.split()
        assert hashlib.sha256((REPOSITORY / "checkpoints" / name).read_bytes()).hexdigest() == digest
        assert digest in (REPOSITORY / "checkpoints/README.md").read_text()
