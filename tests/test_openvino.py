"""The ONNX files say the same on OpenVINO, and each processor gets what is faster on it."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from common import cpu_backend
from common.cpu_backend import (
    AMX_BF16,
    AVX512,
    CpuBackend,
    choose_backend,
    cpu_flags,
    faster_backend,
    thread_count,
    usable_cores,
)
from common.engine import infer
from common.errors import UserError
from common.metadata import PARTS, Part, Precision
from common.onnx_engine import OnnxEngine
from common.openvino_engine import OpenVINOEngine
from exports.onnx_file import example_inputs
from pipeline.audio import Audio
from pipeline.model_files import open_engine
from pipeline.voice import Voice
from tests.models import MELS

pytestmark = [pytest.mark.slow, pytest.mark.alone]

# FP32 sums in another order, through four models and some hundred decoder steps: 1e-5 in practice.
SAME_AUDIO = 1e-3
TEXTS = ["Hello there.", "A second, longer phrase in the same batch."]
BACKENDS: tuple[CpuBackend, ...] = ("onnxruntime", "openvino")


@pytest.fixture(autouse=True)
def caches(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's caches, emptied: no test writes to the real ones."""
    folder = tmp_path_factory.mktemp("caches")
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    return folder


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("sizes", [{"batch": 1, "text": 9, "mel": 33}, {"batch": 3, "text": 20, "mel": 64}])
def test_each_part_gives_what_onnx_runtime_gives(tiny_folder: Path, part: Part, sizes: dict[str, int]) -> None:
    path = tiny_folder / f"{part}.onnx"
    engine, reference = OpenVINOEngine(path, part), OnnxEngine(path, part)
    inputs = example_inputs(engine.metadata, sizes)
    expected = infer(reference, **inputs)
    for name, output in infer(engine, **inputs).items():
        torch.testing.assert_close(output, expected[name], atol=1e-4, rtol=1e-4)


def test_half_precision_files_run_too(tiny_folders: dict[Precision, Path]) -> None:
    path = tiny_folders["fp16"] / "postnet.onnx"
    inputs = example_inputs(OnnxEngine(path, "postnet").metadata, {"batch": 1, "mel": 40})
    refined = infer(OpenVINOEngine(path, "postnet"), **inputs)["mel_outputs_postnet"]
    expected = infer(OnnxEngine(path, "postnet"), **inputs)["mel_outputs_postnet"]
    assert refined.dtype == torch.float16
    torch.testing.assert_close(
        refined.float(), expected.float(), atol=2e-2, rtol=2e-2
    )  # FP16's rounding, layer by layer


def test_bound_runs_keep_their_memory_alive(tiny_folder: Path) -> None:
    engine = OpenVINOEngine(tiny_folder / "postnet.onnx", "postnet")
    outputs = [torch.zeros(1, MELS, 40) for _ in range(3)]
    mel = torch.full((1, MELS, 40), -5.0)
    runs = [engine.bind({"mel_outputs": mel.clone(), "mel_outputs_postnet": out}) for out in outputs]
    scratch = [torch.full((1, MELS, 40), 9.0) for _ in range(8)]  # would be put where freed inputs were
    for run in runs:
        run()
    assert len(scratch) == 8
    assert torch.equal(outputs[0], outputs[1])
    assert torch.equal(outputs[0], outputs[2])


def test_files_that_are_not_the_part_are_refused(tiny_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds the encoder, not the postnet"):
        OpenVINOEngine(tiny_folder / "encoder.onnx", "postnet")
    with pytest.raises(UserError, match="no such ONNX file"):
        OpenVINOEngine(tmp_path / "missing.onnx", "encoder")
    damaged = tmp_path / "damaged.onnx"
    damaged.write_bytes((tiny_folder / "encoder.onnx").read_bytes()[:1000])
    with pytest.raises(UserError, match="not a readable ONNX file"):
        OpenVINOEngine(damaged, "encoder")


def test_what_was_compiled_is_kept_among_the_users_caches(tiny_folder: Path, caches: Path) -> None:
    for _ in range(2):
        OpenVINOEngine(tiny_folder / "waveglow.onnx", "waveglow")
        assert len(list((caches / "tacotron2-waveglow-tensorrt" / "openvino").glob("*.blob"))) == 1


def test_a_cut_off_or_unwritable_cache_does_no_harm(
    tiny_folder: Path, caches: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tiny_folder / "waveglow.onnx"
    inputs = example_inputs(OnnxEngine(path, "waveglow").metadata, {"batch": 1, "mel": 4})
    expected = infer(OpenVINOEngine(path, "waveglow"), **inputs)["audio"]
    for blob in caches.rglob("*.blob"):
        blob.write_bytes(blob.read_bytes()[:2000])
    assert torch.equal(infer(OpenVINOEngine(path, "waveglow"), **inputs)["audio"], expected)
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/nowhere")
    assert torch.equal(infer(OpenVINOEngine(path, "waveglow"), **inputs)["audio"], expected)


def test_the_demo_voice_speaks_the_same_audio(demo_folder: Path) -> None:
    paths: dict[Part, Path] = {part: demo_folder / f"{part}.onnx" for part in PARTS}
    spoken: dict[CpuBackend, list[Audio | UserError]] = {}
    for backend in BACKENDS:
        with Voice.load(paths, cpu_backend=backend) as voice:
            spoken[backend] = [audio for _, audio in voice.speak_many(TEXTS)]
    for audio, reference in zip(spoken["openvino"], spoken["onnxruntime"], strict=True):
        assert isinstance(audio, Audio)
        assert isinstance(reference, Audio)
        assert audio.samples.shape == reference.samples.shape
        assert np.abs(audio.samples - reference.samples).max() <= SAME_AUDIO


def _pretend(monkeypatch: pytest.MonkeyPatch, flags: frozenset[str], installed: bool = True) -> None:
    monkeypatch.setattr(cpu_backend, "cpu_flags", lambda: flags)
    monkeypatch.setattr(cpu_backend, "is_openvino_installed", lambda: installed)


def test_instruction_sets_are_read_from_what_linux_says(tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor\t: 0\nflags\t\t: fpu avx2 avx512f\n\nprocessor\t: 1\nflags\t\t: fpu\n")
    assert cpu_flags(cpuinfo) == {"fpu", "avx2", "avx512f"}
    cpuinfo.write_text("processor\t: 0\nFeatures\t: fp asimd asimddp\n")  # as on ARM
    assert cpu_flags(cpuinfo) == {"fp", "asimd", "asimddp"}
    assert cpu_flags(tmp_path / "missing") == frozenset()


def test_openvino_is_chosen_with_avx512_alone_and_never_for_the_decoder() -> None:
    assert [faster_backend(part, AVX512 | {"avx2"}) for part in PARTS] == ["openvino", "onnxruntime"] + ["openvino"] * 2
    assert {faster_backend(part, frozenset({"avx2", "fma", "avx512f"})) for part in PARTS} == {"onnxruntime"}


def test_auto_follows_the_processor_and_what_is_installed(monkeypatch: pytest.MonkeyPatch, tiny_folder: Path) -> None:
    path = tiny_folder / "postnet.onnx"
    _pretend(monkeypatch, AVX512)
    assert isinstance(open_engine(path, "postnet"), OpenVINOEngine)
    assert isinstance(open_engine(path, "postnet", cpu_backend="onnxruntime"), OnnxEngine)
    _pretend(monkeypatch, AVX512, installed=False)
    assert isinstance(open_engine(path, "postnet"), OnnxEngine)
    with pytest.raises(UserError, match="OpenVINO is not installed: pip install openvino"):
        open_engine(path, "postnet", cpu_backend="openvino")
    _pretend(monkeypatch, frozenset())
    assert isinstance(open_engine(path, "postnet"), OnnxEngine)
    assert isinstance(open_engine(path, "postnet", cpu_backend="openvino"), OpenVINOEngine)


def test_bf16_wants_amx_and_openvino(monkeypatch: pytest.MonkeyPatch) -> None:
    _pretend(monkeypatch, AVX512)
    with pytest.raises(UserError, match="no AMX"):
        choose_backend("waveglow", "auto", "bf16")
    _pretend(monkeypatch, AVX512 | AMX_BF16)
    assert choose_backend("waveglow", "auto", "bf16") == "openvino"
    with pytest.raises(UserError, match="ONNX Runtime doesn't offer it"):
        choose_backend("waveglow", "onnxruntime", "bf16")
    _pretend(monkeypatch, AVX512 | AMX_BF16, installed=False)
    with pytest.raises(UserError, match="not installed"):
        choose_backend("waveglow", "auto", "bf16")


@pytest.mark.parametrize(
    ("given", "threads"), [("3", 3), ("", usable_cores()), ("0", usable_cores()), ("x", usable_cores())]
)
def test_the_environment_may_say_how_many_threads(monkeypatch: pytest.MonkeyPatch, given: str, threads: int) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", given)
    assert thread_count(None) == threads
    assert thread_count(2) == 2


@pytest.mark.parametrize(
    ("quota", "cores"), [("200000 100000", 2), ("250000 100000", 3), ("5000 100000", 1), ("max 100000", 64), ("", 64)]
)
def test_a_containers_quota_limits_the_cores(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, quota: str, cores: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: range(64), raising=False)
    assert usable_cores(tmp_path / "cpu.max") == 64
    (tmp_path / "cpu.max").write_text(quota + "\n", encoding="ascii")
    assert usable_cores(tmp_path / "cpu.max") == cores


@pytest.mark.parametrize("threads", [0, -3, 100_000])
def test_senseless_numbers_of_threads_are_refused(threads: int) -> None:
    with pytest.raises(UserError, match=r"threads .*must be between 1 and 256"):
        thread_count(threads)
