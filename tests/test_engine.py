"""Every engine checks its tensors, and names the expected and the found."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch

from common.engine import Engine, TorchEngine, infer
from common.errors import UserError
from common.metadata import PARTS, Precision
from common.onnx_engine import OnnxEngine
from common.openvino_engine import OpenVINOEngine
from common.triton_engine import TritonEngine
from exports.onnx_file import example_inputs
from pipeline.engine_set import check_together
from pipeline.model_files import default_paths, open_engine, open_engines
from tacotron2.loading import load_tacotron2
from tacotron2.parts import tacotron2_parts
from tests import trt_double
from tests.models import MELS
from trt.build import build_engine
from trt.engine import TensorRTEngine


@pytest.fixture(
    params=["pytorch", "onnxruntime", "tensorrt", pytest.param("openvino", marks=[pytest.mark.slow, pytest.mark.alone])]
)
def postnet(
    request: pytest.FixtureRequest, tiny_folder: Path, tiny_checkpoints: dict[str, Path], tmp_path: Path
) -> Iterator[Engine]:
    """The tiny postnet on each kind of engine; TensorRT's runs on its double."""
    path = tiny_folder / "postnet.onnx"
    engine: Engine
    if request.param == "pytorch":
        loaded = load_tacotron2(tiny_checkpoints["tacotron2"])
        engine = TorchEngine(*tacotron2_parts(loaded, "fp32")["postnet"])
    elif request.param == "tensorrt":
        trt_double.install(request.getfixturevalue("monkeypatch"))
        engine = TensorRTEngine(build_engine(path, "postnet", tmp_path).path, "postnet")
    else:
        engine = OnnxEngine(path, "postnet") if request.param == "onnxruntime" else OpenVINOEngine(path, "postnet")
    yield engine
    engine.close()


def test_wrong_tensors_are_refused(postnet: Engine) -> None:
    mel = torch.zeros(1, MELS, 40)
    with pytest.raises(UserError, match=rf"expected mel_outputs float32\[batch, {MELS}, mel\], found .*float64"):
        infer(postnet, mel_outputs=mel.double())
    with pytest.raises(UserError, match=rf"found mel_outputs float32\[1, {MELS - 1}, 40\]"):
        infer(postnet, mel_outputs=mel[:, 1:])
    with pytest.raises(UserError, match=r"has no tensor mel; it has mel_outputs, mel_outputs_postnet"):
        infer(postnet, mel=mel)
    with pytest.raises(UserError, match="no memory was given for mel_outputs_postnet"):
        postnet.bind({"mel_outputs": mel})
    with pytest.raises(UserError, match="must be contiguous"):
        infer(postnet, mel_outputs=torch.zeros(1, 40, MELS).transpose(1, 2))


def test_bound_runs_take_turns_and_read_their_own_memory_anew(postnet: Engine) -> None:
    bound = []
    for batch, frames in ((1, 40), (1, 50)):
        mel, refined = torch.zeros(batch, MELS, frames), torch.zeros(batch, MELS, frames)
        bound.append((postnet.bind({"mel_outputs": mel, "mel_outputs_postnet": refined}), mel, refined))
    for _ in range(2):
        for run, mel, refined in bound:
            mel.normal_()
            run()
            assert torch.equal(refined, infer(postnet, mel_outputs=mel)["mel_outputs_postnet"])


def test_closing_twice_is_closing_once_and_nothing_runs_afterwards(postnet: Engine) -> None:
    postnet.close()
    postnet.close()
    with pytest.raises(UserError, match="the engine was closed; open it again"):
        infer(postnet, mel_outputs=torch.zeros(1, MELS, 40))


def test_shapes_that_disagree_are_refused(tiny_folder: Path) -> None:
    engine = OnnxEngine(tiny_folder / "waveglow.onnx", "waveglow")
    inputs = example_inputs(engine.metadata, {"batch": 1, "mel": 10})
    with pytest.raises(UserError, match=r"z float32\[1, 8, 352\] has mel size 11, but the tensors before it have 10"):
        infer(engine, mel=inputs["mel"], z=torch.zeros(1, 8, 352))


def test_parts_of_different_files_are_not_mixed(tmp_path: Path, tiny_folders: dict[Precision, Path]) -> None:
    paths = {part: tiny_folders["fp32"] / f"{part}.onnx" for part in PARTS}
    engines = open_engines(paths)
    check_together(engines)
    other = open_engine(tiny_folders["fp16"] / "postnet.onnx", "postnet")
    with pytest.raises(UserError, match=r"is fp16 but .* is fp32"):
        check_together({**engines, "postnet": other})


def test_parts_of_different_checkpoints_are_not_mixed(tiny_folder: Path) -> None:
    engines = open_engines({part: tiny_folder / f"{part}.onnx" for part in PARTS})
    foreign = open_engine(tiny_folder / "postnet.onnx", "postnet")
    foreign.metadata = dataclasses.replace(foreign.metadata, checkpoint_sha256="f" * 64)
    with pytest.raises(UserError, match="come from different checkpoints"):
        check_together({**engines, "postnet": foreign})


def test_unknown_suffix_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"unknown kind of model file; give a \.onnx, \.engine or \.plan"):
        open_engine(tmp_path / "encoder.pt", "encoder")


def test_default_files_are_all_four_or_none(tmp_path: Path) -> None:
    assert default_paths(tmp_path, "fp32") is None
    for part in PARTS[:3]:
        (tmp_path / f"{part}.onnx").touch()
    with pytest.raises(UserError, match=r"waveglow\.onnx missing; export the whole voice: exports/export_voice\.py"):
        default_paths(tmp_path, "fp32")
    (tmp_path / "waveglow.onnx").touch()
    assert default_paths(tmp_path, "fp32") == {part: tmp_path / f"{part}.onnx" for part in PARTS}


def test_engines_that_are_not_asked_for_or_not_four_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for part in PARTS:
        (tmp_path / f"{part}_fp16.engine").touch()
    assert default_paths(tmp_path) == {part: tmp_path / f"{part}_fp16.engine" for part in PARTS}
    with pytest.raises(UserError, match=r"holds decoder_iter_fp16\.engine, but no fp32 engines"):
        default_paths(tmp_path, "fp32")
    (tmp_path / "postnet_fp16.engine").unlink()
    with pytest.raises(UserError, match=r"postnet_fp16\.engine missing beside engines in fp16"):
        default_paths(tmp_path)
    for part in PARTS:
        (tmp_path / f"{part}.onnx").touch()
    assert default_paths(tmp_path) == {part: tmp_path / f"{part}.onnx" for part in PARTS}  # there is no GPU
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(UserError, match=r"postnet_fp16\.engine missing beside engines in fp16"):
        default_paths(tmp_path)


@pytest.mark.parametrize("missing", ["bind", "close", "model_obstacle"])
def test_an_engine_on_kernels_that_lacks_a_method_can_not_be_made(missing: str) -> None:
    methods = {name: lambda *_: None for name in ("bind", "close", "model_obstacle") if name != missing}
    unfinished = type("Unfinished", (TritonEngine,), methods)
    with pytest.raises(TypeError, match=rf"abstract .*{missing}"):
        unfinished(None, "cuda")


class FakeStream:
    """Stands for a CUDA stream, and writes into `log` what is ordered."""

    def __init__(self, log: list[Any], name: str) -> None:
        self.log, self.name = log, name
        self.cuda_stream, self.device = 4711, torch.device("cuda", 1)

    def wait_stream(self, other: "FakeStream") -> None:
        self.log.append(f"{self.name} waits for {other.name}")


class TensorOnGpu(torch.Tensor):
    """A tensor that says it lies on the second GPU."""

    device = torch.device("cuda", 1)  # type: ignore[assignment]

    @classmethod
    def of(cls, tensor: torch.Tensor) -> "TensorOnGpu":
        return torch.Tensor._make_subclass(cls, tensor)  # type: ignore[no-any-return]


class FakeGpu:
    """ONNX Runtime with GPU providers, on PyTorch with two GPUs; `log` and `providers` record the calls."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.log: list[Any] = []
        self.providers: list[Any] = []
        self.loaded = True
        own, current = FakeStream(self.log, "own"), FakeStream(self.log, "current")
        real = onnxruntime.InferenceSession
        fake = self

        class Session:
            def __init__(self, path: str, options: Any, providers: list[Any]) -> None:
                fake.providers = providers
                cpu = real(path, options, providers=["CPUExecutionProvider"])
                self.get_modelmeta, self.get_inputs, self.get_outputs = (
                    cpu.get_modelmeta,
                    cpu.get_inputs,
                    cpu.get_outputs,
                )

            def get_providers(self) -> list[str]:
                return [p if isinstance(p, str) else p[0] for p in fake.providers][0 if fake.loaded else -1 :]

            def io_binding(self) -> Any:
                return self

            def bind_input(self, *args: Any) -> None:
                fake.log.append(args)

            bind_output = bind_input

            def run_with_iobinding(self, binding: Any, options: Any) -> None:
                fake.log.append(f"run {options.get_run_config_entry('disable_synchronize_execution_providers')}")

        available = ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]
        monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
        monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: available)
        monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: None)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
        monkeypatch.setattr(torch.cuda, "Stream", lambda device: own)
        monkeypatch.setattr(torch.cuda, "current_stream", lambda device: current)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> FakeGpu:
    return FakeGpu(monkeypatch)


def test_on_a_gpu_device_memory_is_bound_and_runs_stand_in_the_current_stream(gpu: FakeGpu, tiny_folder: Path) -> None:
    engine = open_engine(tiny_folder / "postnet.onnx", "postnet", device="cuda")
    assert engine.device == torch.device("cuda", 1)
    cuda, cpu = gpu.providers
    assert cuda == ("CUDAExecutionProvider", {"device_id": "1", "user_compute_stream": "4711"})
    assert cpu == "CPUExecutionProvider"
    mel, refined = (TensorOnGpu.of(torch.zeros(1, MELS, 40)) for _ in range(2))
    run = engine.bind({"mel_outputs": mel, "mel_outputs_postnet": refined})
    assert [(name, *device, shape, pointer) for name, *device, _, shape, pointer in gpu.log] == [
        ("mel_outputs", "cuda", 1, (1, MELS, 40), mel.data_ptr()),
        ("mel_outputs_postnet", "cuda", 1, (1, MELS, 40), refined.data_ptr()),
    ]
    gpu.log.clear()
    run()
    assert gpu.log == ["own waits for current", "run 1", "current waits for own"]


def test_on_a_gpu_host_memory_is_refused(gpu: FakeGpu, tiny_folder: Path) -> None:
    engine = open_engine(tiny_folder / "postnet.onnx", "postnet", device="cuda:1")
    with pytest.raises(UserError, match="must be contiguous and on cuda:1"):
        engine.bind({"mel_outputs": torch.zeros(1, MELS, 40), "mel_outputs_postnet": torch.zeros(1, MELS, 40)})


def test_onnx_runtimes_tensorrt_keeps_its_engines(
    gpu: FakeGpu, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    open_engine(tiny_folder / "postnet.onnx", "postnet", device="cuda:0", gpu_provider="tensorrt")
    (name, options), (fallback, _), _ = gpu.providers
    assert (name, fallback) == ("TensorrtExecutionProvider", "CUDAExecutionProvider")
    assert (options["device_id"], options["trt_engine_cache_enable"]) == ("0", "1")
    assert Path(options["trt_engine_cache_path"]).is_relative_to(tmp_path)


def test_a_session_on_a_gpu_says_that_it_cannot_be_captured(gpu: FakeGpu, tiny_folder: Path) -> None:
    engine = open_engine(tiny_folder / "decoder_iter.onnx", "decoder_iter", device="cuda")
    assert isinstance(engine, OnnxEngine)
    assert not engine.capturable


def test_a_gpu_that_cannot_be_used_is_an_error(
    gpu: FakeGpu, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tiny_folder / "postnet.onnx"
    with pytest.raises(UserError, match="there are 2 GPUs"):
        open_engine(path, "postnet", device="cuda:2")
    with pytest.raises(UserError, match="give cpu, cuda or cuda:N"):
        open_engine(path, "postnet", device="gpu")
    gpu.loaded = False
    with pytest.raises(UserError, match="could not load its cuda provider"):
        open_engine(path, "postnet", device="cuda")
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(UserError, match="install onnxruntime-gpu"):
        open_engine(path, "postnet", device="cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="finds no NVIDIA GPU"):
        open_engine(path, "postnet", device="cuda")
