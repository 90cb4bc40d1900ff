"""Shared models: the demo voice, exported once a run, and tiny random models in NVIDIA's checkpoint layout."""

import fcntl
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from common.checkpoint import LoadedModel
from common.engine import Engine
from common.metadata import PARTS, Part, Precision
from exports.voice import export_voice
from pipeline.model_files import close_engines, open_engines
from pipeline.torch_engines import torch_engines
from tacotron2.loading import DEMO_TACOTRON2, load_tacotron2
from tests.models import TINY_TACOTRON2, TINY_WAVEGLOW, nested_waveglow_config, tiny_tacotron2, tiny_waveglow
from waveglow.loading import DEMO_WAVEGLOW, load_waveglow

# PyTorch's threads wait for one another by spinning: on a busy machine two take many times as long as one.
torch.set_num_threads(1)

# A runner in the background is started with Ctrl-C ignored, and so would be all that it starts; tests send it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("cuda"):
                item.add_marker(pytest.mark.skip(reason="needs an NVIDIA GPU"))


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """A folder that one process fills and all use: those of pytest-xdist, and where `scripts/run_tests.sh` says where
    such folders are, every pytest that it starts."""
    base = factory.getbasetemp()
    if "TESTS_SHARED_FOLDER" in os.environ:
        base = Path(os.environ["TESTS_SHARED_FOLDER"])
    elif "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent
    with open(base / f"{name}.lock", "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (base / name).exists():
            (base / f"{name}.making").mkdir(exist_ok=True)
            make(base / f"{name}.making")
            (base / f"{name}.making").rename(base / name)
    return base / name


@pytest.fixture(scope="session")
def demo_tacotron2() -> LoadedModel:
    return load_tacotron2(DEMO_TACOTRON2)


@pytest.fixture(scope="session")
def demo_waveglow() -> LoadedModel:
    return load_waveglow(DEMO_WAVEGLOW)


@pytest.fixture(scope="session")
def demo_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo voice's four FP32 ONNX files, as `inference_trt.py` exports them."""
    return made_once(tmp_path_factory, "demo_fp32", lambda folder: export_voice(folder, "fp32"))


@pytest.fixture(scope="session")
def demo_folder_fp16(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_once(tmp_path_factory, "demo_fp16", lambda folder: export_voice(folder, "fp16"))


@pytest.fixture(scope="session")
def demo_engines(demo_folder: Path):
    """The demo voice on ONNX Runtime."""
    engines = open_engines({part: demo_folder / f"{part}.onnx" for part in PARTS})
    yield engines
    close_engines(engines)


@pytest.fixture(scope="session")
def torch_demo_engines(demo_tacotron2: LoadedModel, demo_waveglow: LoadedModel) -> dict[Part, Engine]:
    """The demo voice on PyTorch."""
    return dict(torch_engines(demo_tacotron2, demo_waveglow, "fp32"))


@pytest.fixture(scope="session")
def tiny_checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Checkpoints of tiny random models: files by model name."""
    folder = made_once(tmp_path_factory, "tiny_checkpoints", save_tiny_checkpoints)
    return {model: folder / f"{model}.pt" for model in ("tacotron2", "waveglow")}


def save_tiny_checkpoints(folder: Path) -> None:
    torch.save({"state_dict": tiny_tacotron2().state_dict(), "config": vars(TINY_TACOTRON2)}, folder / "tacotron2.pt")
    config = nested_waveglow_config(TINY_WAVEGLOW)
    torch.save({"state_dict": tiny_waveglow().state_dict(), "config": config}, folder / "waveglow.pt")


@pytest.fixture(scope="session")
def tiny_folders(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoints: dict[str, Path]) -> dict[Precision, Path]:
    """The four ONNX files of the tiny models: folders by precision."""
    precisions: tuple[Precision, ...] = ("fp32", "fp16")
    return {
        precision: made_once(
            tmp_path_factory,
            f"tiny_{precision}",
            lambda folder, precision=precision: export_voice(folder, precision, **tiny_checkpoints),
        )
        for precision in precisions
    }


@pytest.fixture(scope="session")
def tiny_folder(tiny_folders: dict[Precision, Path]) -> Path:
    return tiny_folders["fp32"]


@pytest.fixture
def no_onednn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keeps PyTorch from oneDNN, which compiles a kernel for each shape of the plain WaveGlow's upsampling: that takes
    seconds, and many times as long as running it."""
    monkeypatch.setattr(torch.backends.mkldnn, "enabled", False)


@pytest.fixture
def small_disk(tmp_path: Path):
    """A disk of 300 KB; needs the right to mount one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(disk)], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip("no right to mount a small disk")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)
