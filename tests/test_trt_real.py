"""NVIDIA's own classes, which say what can be called and how: our calls and the doubles are held against them.

The Python bindings of TensorRT load without a GPU, and without TensorRT, where libraries stand in that have its entry
points. Nothing of it is run: its classes are listed as type stubs.
"""

import ast
import importlib.util
import inspect
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import pytest

from common.files import REPOSITORY
from tests import rtx_double, trt_double
from trt.bindings import Flavour

pytestmark = [pytest.mark.slow]

BINDINGS: dict[Flavour, str] = {
    "tensorrt": "tensorrt_bindings.tensorrt",
    "tensorrt_rtx": "tensorrt_rtx_bindings.tensorrt_rtx",
    "tensorrt_lean": "tensorrt_lean_bindings.tensorrt_lean",
}
LIBRARIES = ("libnvinfer.so.11", "libnvinfer_plugin.so.11", "libnvonnxparser.so.11")
ENTRY_POINTS = """
#define STANDS_IN(name) void *name(void) { return 0; }
STANDS_IN(createInferBuilder_INTERNAL)
STANDS_IN(createInferRuntime_INTERNAL)
STANDS_IN(createInferRefitter_INTERNAL)
STANDS_IN(createNvOnnxParser_INTERNAL)
STANDS_IN(createNvOnnxParserRefitter_INTERNAL)
STANDS_IN(getNvOnnxParserVersion)
STANDS_IN(getPluginRegistry)
STANDS_IN(getBuilderPluginRegistry)
STANDS_IN(initLibNvInferPlugins)
"""


class Real(NamedTuple):
    """The classes of one TensorRT: of each its members, and of its methods the parameters of every overload."""

    stubs: Path  # a package of type stubs
    members: dict[str, set[str]]
    overloads: dict[
        tuple[str, str], list[str]
    ]  # "a, b" for each way to call it; none where the parameters can't be listed


def listed(flavour: Flavour, folder: Path) -> Real:
    module = BINDINGS[flavour]
    if importlib.util.find_spec(module.partition(".")[0]) is None:
        pytest.skip(f"needs {module.partition('.')[0]} (bash scripts/install_prerequisites.sh test)")
    environment = dict(os.environ)
    if flavour == "tensorrt":
        if shutil.which("gcc") is None:
            pytest.skip("needs a C compiler (gcc)")
        for library in LIBRARIES:
            command = ["gcc", "-shared", "-fPIC", "-x", "c", "-", "-o", str(folder / library)]
            subprocess.run(command, input=ENTRY_POINTS, text=True, check=True)
        environment["LD_LIBRARY_PATH"] = str(folder)
    list_classes = "from mypy.stubgen import main; main()"
    command = [sys.executable, "-c", list_classes, "--quiet", "--inspect-mode", "-m", module, "-o", str(folder)]
    subprocess.run(command, env=environment, check=True)
    text = (folder / module.replace(".", "/")).with_suffix(".pyi").read_text()
    # Some overloads of layers have parameters in an order that Python doesn't allow.
    lines = [line for line in text.splitlines() if not line.startswith("    def ") or is_python(line.strip())]
    stubs = folder / "stubs" / flavour
    stubs.mkdir(parents=True)
    (stubs / "__init__.pyi").write_text("\n".join(lines))
    members: dict[str, set[str]] = {}
    overloads: dict[tuple[str, str], list[str]] = {}
    for owner in ast.parse("\n".join(lines)).body:
        if isinstance(owner, ast.ClassDef):
            names = members.setdefault(owner.name, set())
            for member in owner.body:
                if isinstance(member, ast.FunctionDef):
                    names.add(member.name)
                    if member.args.vararg is None:
                        names_of = [argument.arg for argument in member.args.args[1:]]
                        required = len(names_of) - len(member.args.defaults)
                        taken = overloads.setdefault((owner.name, member.name), [])
                        taken += [", ".join(names_of[:number]) for number in range(required, len(names_of) + 1)]
                elif isinstance(member, ast.AnnAssign) and isinstance(member.target, ast.Name):
                    names.add(member.target.id)
                elif isinstance(member, ast.ClassDef):
                    names.add(member.name)
    return Real(stubs.parent, members, overloads)


def is_python(text: str) -> bool:
    try:
        ast.parse(text)
    except SyntaxError:
        return False
    return True


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Lists the classes of a TensorRT, once."""
    known: dict[Flavour, Real] = {}

    def of(flavour: Flavour) -> Real:
        if flavour not in known:
            known[flavour] = listed(flavour, tmp_path_factory.mktemp(flavour))
        return known[flavour]

    return of


def doubled_classes(module: ModuleType) -> dict[str, type]:
    own = [trt_double.__name__, module.__name__]
    classes = {name: value for name, value in vars(module).items() if isinstance(value, type)}
    left_out = ("UndefinedBehaviour", "CpuGpu")
    return {
        name: value
        for name, value in classes.items()
        if value.__module__ in own and not name.startswith("_") and name not in left_out
    }


DOUBLES = [
    *[("tensorrt", trt_double, name) for name in doubled_classes(trt_double)],
    *[("tensorrt_rtx", rtx_double, name) for name in doubled_classes(rtx_double)],
    *[("tensorrt_lean", trt_double, name) for name in trt_double.RUNTIME],
]


@pytest.mark.parametrize(("flavour", "module", "name"), DOUBLES, ids=lambda value: getattr(value, "__name__", value))
def test_the_doubles_have_nothing_that_tensorrt_has_not(
    flavour: Flavour, module: ModuleType, name: str, real: Any
) -> None:
    """Each public member of a double is one of the real class; each of its methods takes what an overload takes."""
    members, overloads = real(flavour).members, real(flavour).overloads
    assert name in members
    for owner in doubled_classes(module)[name].__mro__:
        for member, value in vars(owner).items():
            if member.startswith("_") or owner.__module__ not in (trt_double.__name__, module.__name__):
                continue
            assert member in members[name], f"{name} has no {member}"
            if inspect.isfunction(value) and (name, member) in overloads:
                parameters = ", ".join(list(inspect.signature(value).parameters)[1:])
                assert parameters in overloads[name, member], f"{name}.{member}"


def names_in(node: ast.AST) -> list[str]:
    """a.b.c as ["a", "b", "c"]; empty for anything else."""
    if isinstance(node, ast.Name):
        return [node.id]
    before = names_in(node.value) if isinstance(node, ast.Attribute) else []
    return [*before, node.attr] if isinstance(node, ast.Attribute) and before else []


def test_the_classes_and_flags_that_the_code_names_are_real(real: Any) -> None:
    """The code takes them from the module at run time, where no type checker sees them."""
    named = set()
    for path in (REPOSITORY / "trt").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = names_in(node)
            if "api" in names[:-1] and "__version__" not in names:
                named.add(tuple(names[names.index("api") + 1 :][:2]))
    assert len(named) > 10
    both = [real(flavour).members for flavour in ("tensorrt", "tensorrt_rtx")]
    for owner, *member in named:
        assert any(owner in members and set(member) <= members[owner] for members in both), (owner, *member)


def test_the_code_calls_tensorrt_as_its_classes_want_it(real: Any, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.py"
    wrong.write_text("import tensorrt\n\ndef f(c: tensorrt.IExecutionContext) -> None:\n    c.execute_async_v3('0')\n")
    command = [sys.executable, "-m", "mypy", "--config-file", str(REPOSITORY / "pyproject.toml"), str(wrong)]
    result = subprocess.run(
        [*command, *map(str, (REPOSITORY / "trt").glob("*.py"))],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        env={**os.environ, "MYPYPATH": str(real("tensorrt").stubs)},
        check=False,
    )
    complaints = [line for line in result.stdout.splitlines() if "error:" in line and ".pyi:" not in line]
    assert [line for line in complaints if line.startswith("trt/")] == []
    assert ["arg-type" in line for line in complaints] == [True]  # of the wrong call: the stubs are what mypy reads
