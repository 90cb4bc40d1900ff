"""The TensorRT engine: checked when opened, checked when bound, quick when run, and safe when closed.

It runs on the strict double of `tests/trt_double.py`. The double's strictness is tested here too.
"""

import contextlib
import ctypes
import dataclasses
import gc
import hashlib
import json
import shutil
import sys
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, NoReturn

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor

from common.contract import contract_of
from common.engine import infer
from common.errors import UserError
from common.metadata import PARTS, Part, Precision
from common.model_flags import part_flag
from common.onnx_engine import OnnxEngine
from exports.onnx_file import example_inputs
from pipeline import Voice
from pipeline.console import EXIT_CUT
from pipeline.engine_set import EngineSet
from pipeline.model_files import default_paths
from pipeline.settings import SpeakSettings
from tacotron2.loading import load_tacotron2
from tests import trt_double
from tests.models import MELS, parts_of
from tests.scripts import run_here
from trt import bindings, verify_gpu
from trt.build import BuildOptions, build_engine
from trt.contexts import Workspace
from trt.engine import TensorRTEngine
from trt.record import SizeRange, record_path
from waveglow.loading import load_waveglow

REAL_FIND_GPU = bindings.find_gpu
# Random weights may say at once that a phrase is over.
LONG_ENOUGH = SpeakSettings(gate_threshold=0.999, max_decoder_steps=60)
PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, tiny_folders: dict[Precision, Path]) -> Path:
    """The tiny models as engines of the double, batch 1 to 8."""
    folder = tmp_path_factory.mktemp("engines")
    with pytest.MonkeyPatch.context() as monkeypatch:
        trt_double.install(monkeypatch)
        for precision in PRECISIONS:
            for part in PARTS:
                options = BuildOptions(batch=SizeRange(1, 4, 8))
                build_engine(tiny_folders[precision] / f"{part}.onnx", part, folder, options)
    return folder


@pytest.fixture(autouse=True)
def double(monkeypatch: pytest.MonkeyPatch) -> None:
    trt_double.install(monkeypatch)


def copy_engine(name: str, folder: Path, target: Path) -> Path:
    for kind in ("engine", "engine.json"):
        shutil.copy(folder / f"{name}.{kind}", target)
    return target / f"{name}.engine"


@pytest.fixture
def own(built: Path, tmp_path: Path) -> Path:
    """A postnet engine that a test may spoil."""
    return copy_engine("postnet_fp32", built, tmp_path)


@pytest.fixture
def postnet(built: Path):
    engine = TensorRTEngine(built / "postnet_fp32.engine", "postnet")
    yield engine
    engine.close()


def mel(batch: int = 1, frames: int = 40) -> Tensor:
    return torch.randn(batch, MELS, frames)


def bound(engine: TensorRTEngine, batch: int = 1, frames: int = 40) -> tuple[Callable[[], None], Tensor, Tensor]:
    given, refined = mel(batch, frames), torch.zeros(batch, MELS, frames)
    return engine.bind({"mel_outputs": given, "mel_outputs_postnet": refined}), given, refined


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("part", PARTS)
def test_engines_compute_what_onnx_runtime_computes_at_any_size_in_turn(
    part: Part, precision: Precision, built: Path, tiny_folders: dict[Precision, Path]
) -> None:
    engine = TensorRTEngine(built / f"{part}_{precision}.engine", part)
    reference = OnnxEngine(tiny_folders[precision] / f"{part}.onnx", part)
    for batch, text, frames in ((2, 33, 40), (8, 256, 64), (1, 4, 32), (2, 33, 40)):
        inputs = example_inputs(engine.metadata, {"batch": batch, "text": text, "mel": frames})
        found, expected = infer(engine, **inputs), infer(reference, **inputs)
        assert all(torch.equal(found[name], expected[name]) for name in expected)
    engine.close()


def test_an_engine_knows_its_limits(postnet: TensorRTEngine) -> None:
    assert postnet.limits == {"batch": (1, 8), "mel": (32, 1664)}
    for sizes in ((9, 40), (1, 31), (1, 1665)):
        with pytest.raises(UserError, match=r"size \d+ is outside \d+ to \d+.*build it with a wider -"):
            infer(postnet, mel_outputs=mel(*sizes))


def test_tensors_must_begin_where_tensorrt_demands_it(built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """256 bytes on a GPU, says NvInferRuntime.h of setTensorAddress; a slice may begin anywhere."""
    monkeypatch.setattr(trt_double, "GPU", dataclasses.replace(trt_double.GPU, alignment=bindings.Gpu.alignment))
    engine = TensorRTEngine(built / "postnet_fp32.engine", "postnet")

    def memory(size: int, byte: int = 0) -> Tensor:
        whole = torch.zeros(size + 512, dtype=torch.uint8)
        start = -whole.data_ptr() % 256 + byte
        return whole[start : start + size]

    def at(byte: int) -> Tensor:
        return memory(MELS * 40 * 4, byte).view(torch.float32).view(1, MELS, 40)

    monkeypatch.setattr(Workspace, "take", lambda self, size: memory(size))
    engine.bind({"mel_outputs": at(0), "mel_outputs_postnet": at(256)})
    with pytest.raises(UserError, match="mel_outputs must begin at a multiple of 256 bytes; pass a copy"):
        engine.bind({"mel_outputs": at(128), "mel_outputs_postnet": at(0)})


def test_contexts_are_made_when_needed_and_used_again(postnet: TensorRTEngine) -> None:
    for frames in (40, 50, 40):
        infer(postnet, mel_outputs=mel(1, frames))
    first, second = bound(postnet), bound(postnet)
    del first, second
    gc.collect()
    third, fourth = bound(postnet, 2), bound(postnet, 4)
    third[0](), fourth[0]()
    trt_double.destroyed.clear()
    postnet.close()
    assert trt_double.destroyed.count("IExecutionContext") == 2


def test_a_run_does_nothing_but_enqueue_on_the_current_stream(
    postnet: TensorRTEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, _, _ = bound(postnet)
    calls: list[str] = []
    for name in ("set_input_shape", "set_tensor_address", "set_device_memory", "infer_shapes"):
        monkeypatch.setattr(trt_double.IExecutionContext, name, lambda *args, name=name: calls.append(name))
    streams: list[int] = []
    monkeypatch.setattr(
        trt_double.IExecutionContext, "execute_async_v3", lambda self, stream: streams.append(stream) or True
    )
    monkeypatch.setattr(torch, "empty", lambda *args, **kwargs: calls.append("empty"))
    with trt_double.stream(0xA):
        run()
    with trt_double.stream(0xB):
        run()
    assert (calls, streams) == ([], [0xA, 0xB])


def test_a_run_on_the_default_stream_is_warned_of_once(
    postnet: TensorRTEngine, caplog: pytest.LogCaptureFixture
) -> None:
    with trt_double.stream():
        infer(postnet, mel_outputs=mel())
    assert caplog.messages == []
    for _ in range(2):
        infer(postnet, mel_outputs=mel())
    (warning,) = caplog.messages
    assert "runs on CUDA's default stream" in warning
    assert "enter a stream of your own" in warning


def test_an_engine_works_whichever_gpu_is_current(built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = []
    monkeypatch.setattr(bindings, "find_gpu", lambda device=None: chosen.append(device) or trt_double.SECOND_GPU)
    engine = TensorRTEngine(built / "postnet_fp32.engine", "postnet", "cuda:1")
    assert chosen == ["cuda:1"]
    for run, given, refined in (bound(engine), bound(engine)):
        run()
        assert torch.equal(refined, infer(engine, mel_outputs=given)["mel_outputs_postnet"])
    infer(engine, mel_outputs=mel(1, 50))
    trt_double.destroyed.clear()
    engine.close()
    assert "while another GPU was current" not in trt_double.destroyed
    assert "IExecutionContext" in trt_double.destroyed


def test_scratch_memory_is_shared_released_and_as_large_as_the_sizes_need(
    built: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    taken: list[weakref.ref[Tensor]] = []
    take = Workspace.take

    def seen(self: Workspace, size: int) -> Tensor:
        memory = take(self, size)
        sizes.append(size)
        taken.append(weakref.ref(memory))
        return memory

    monkeypatch.setattr(Workspace, "take", seen)
    engines = [TensorRTEngine(built / f"{part}_fp32.engine", part) for part in ("postnet", "waveglow", "postnet")]
    for engine, frames in zip(engines, (1664, 64, 40), strict=True):
        infer(engine, **example_inputs(engine.metadata, {"batch": 8, "mel": frames}))
    assert taken[0]() is taken[1]() is taken[2]() is not None
    assert sizes[0] == engines[0].cuda_engine.device_memory_size_v2 > sizes[2]
    for engine in engines:
        engine.close()
    del engines, engine
    gc.collect()
    assert taken[0]() is None


def test_scratch_memory_grows_and_what_was_taken_stays(postnet: TensorRTEngine) -> None:
    workspace = Workspace(torch.device("cpu"))
    small = workspace.take(100)
    small.fill_(7)
    large = workspace.take(1000)
    assert large.numel() >= 1000
    assert workspace.take(500) is large
    large.fill_(1)
    assert small.eq(7).all()
    small_run = bound(postnet, 1, 32)
    bound(postnet, 8, 1000)[0]()
    small_run[0]()


def test_a_context_changes_its_shapes_only_when_the_gpu_is_idle(
    postnet: TensorRTEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[None] = []
    monkeypatch.setattr(trt_double.CpuGpu, "synchronize", lambda self: waits.append(None))
    infer(postnet, mel_outputs=mel(1, 40))
    infer(postnet, mel_outputs=mel(1, 40))
    assert not waits
    infer(postnet, mel_outputs=mel(1, 50))
    assert len(waits) == 1


def no_memory(*args: Any) -> NoReturn:
    raise torch.cuda.OutOfMemoryError("CUDA out of memory")


def no_shapes(*args: Any) -> NoReturn:
    raise RuntimeError("Shape inference\nfailed")


def refused(reason: str, others: int = 0) -> Callable[..., int]:
    """What TensorRT does where it fails: it logs the reason, maybe behind others, and returns 0 or False."""

    def refuse(context: trt_double.IExecutionContext, *args: Any) -> int:
        for tactic in range(others):
            context._refuse("enqueueV3", f"tactic {tactic} of a layer with a long name " + 300 * "x")
        return int(context._refuse("enqueueV3", reason))

    return refuse


# What fails, what it does instead, and the message.
FAILURES: list[tuple[str, Callable[..., Any], str]] = [
    ("create_execution_context", lambda *_: None, "no execution context could be made"),
    ("set_input_shape", refused("why"), rf"refused the shape \[1, {MELS}, 40\] of mel_outputs: .*why"),
    ("infer_shapes", no_shapes, r"can't infer its shapes \(Shape inference failed\): "),
    ("infer_shapes", lambda *_: ["mel_outputs"], "has no shape for mel_outputs"),
    ("get_tensor_shape", lambda *_: (1, 9), rf"gives mel_outputs_postnet the shape \[1, 9\], not \[1, {MELS}, 40\]"),
    # 0 bytes would do, were it not for the error in the log.
    ("update_device_memory_size_for_shapes", refused("why"), "no scratch memory size for batch 1, mel 40: .*why"),
    ("set_tensor_address", refused("why"), "refused the memory of mel_outputs: .*why"),
    ("execute_async_v3", refused("why"), "could not run: .*why"),
    ("take", no_memory, "no 0 MB of scratch memory left for batch 1, mel 40; use a smaller --batch-size"),
    ("execute_async_v3", refused("OutOfMemory"), "could not run, out of device memory .*use a smaller --batch-size"),
    ("execute_async_v3", refused("OutOfMemory", others=3), "could not run, out of .*use a smaller --batch-size"),
]


@pytest.mark.parametrize(("method", "answer", "message"), FAILURES)
def test_every_failure_is_one_line_and_the_engine_goes_on(
    method: str, answer: Any, message: str, postnet: TensorRTEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    owners = (trt_double.IExecutionContext, trt_double.ICudaEngine, Workspace)
    with monkeypatch.context() as context:
        context.setattr(next(owner for owner in owners if method in vars(owner)), method, answer)
        with pytest.raises(UserError, match=message) as error:
            infer(postnet, mel_outputs=mel())
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 700
    # Of PyTorch's kind where memory is lacking, so that callers can take a smaller batch.
    assert isinstance(error.value, torch.cuda.OutOfMemoryError) == ("smaller --batch" in message)
    assert infer(postnet, mel_outputs=mel())


def test_an_engine_may_need_no_scratch_memory(postnet: TensorRTEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trt_double, "_scratch_bytes", lambda engine, shapes: 0)
    assert infer(postnet, mel_outputs=mel())


def test_contexts_go_before_their_engine_and_that_before_its_runtime(built: Path) -> None:
    engine = TensorRTEngine(built / "postnet_fp32.engine", "postnet")
    run, _, _ = bound(engine)
    gc.collect()
    trt_double.destroyed.clear()
    engine.close()
    assert list(trt_double.destroyed) == ["IExecutionContext", "ICudaEngine", "Runtime"]
    with pytest.raises(UserError, match="the engine was closed; open it again"):
        run()


# Opening: everything that can be wrong with a file, its JSON and the machine.


def rewrite(path: Path, **changes: Any) -> None:
    """Changes an engine's record."""
    record_path(path).write_text(json.dumps({**json.loads(record_path(path).read_text()), **changes}))


def replace_plan(path: Path, plan: bytes) -> None:
    """Another plan, with the record following it, as if it had been built so."""
    path.write_bytes(plan)
    rewrite(path, plan_sha256=hashlib.sha256(plan).hexdigest(), plan_bytes=len(plan))


def flip_a_byte(path: Path) -> None:
    plan = bytearray(path.read_bytes())
    plan[len(plan) // 2] ^= 1
    path.write_bytes(plan)


SPOILED: dict[str, tuple[Callable[[Path], Any], str]] = {
    "missing": (lambda path: path.unlink(), r"no such engine; build it with trt/export_onnx2trt\.py"),
    "empty": (lambda path: path.write_bytes(b""), "the file is empty; build it again"),
    "truncated": (lambda path: path.write_bytes(path.read_bytes()[:-10]), r"truncated \(\d+ of \d+ bytes\); copy it"),
    "one byte flipped": (flip_a_byte, "not the file that .* describes"),
    "longer": (lambda path: path.write_bytes(path.read_bytes() + b"x"), "not the file that .* describes"),
    "no JSON": (
        lambda path: record_path(path).unlink(),
        r"postnet_fp32\.engine\.json, which says .* is missing beside it",
    ),
    "JSON of another build": (lambda path: rewrite(path, plan_sha256="0" * 64), "one of the two is of another build"),
    "JSON is not JSON": (
        lambda path: record_path(path).write_text("{"),
        r"postnet_fp32\.engine\.json: not a readable engine description .*export the ONNX file and build",
    ),
    "JSON is binary": (lambda path: record_path(path).write_bytes(b"\xff\xfe\x00"), "not a readable engine descr"),
    "JSON of another format": (lambda path: rewrite(path, format=0), "written by an older version of this project"),
    "another TensorRT": (
        lambda path: rewrite(path, version="10.2.0"),
        r"built by TensorRT 10\.2\.0, but this is 10\.3\.0; build it again",
    ),
    "another GPU": (
        lambda path: rewrite(path, compute_capabilities=[86], gpu="NVIDIA A10"),
        r"for NVIDIA A10, compute capability 8\.6, but this GPU is Tesla T4, compute capability 7\.5; build it again",
    ),
    "another TensorRT in the plan alone": (
        lambda path: replace_plan(path, path.read_bytes().replace(b'"version": "10.3.0"', b'"version": "10.2.0"')),
        r"could not be opened: .*not compatible with this version of TensorRT.*; build it again",
    ),
    "no plan at all": (
        lambda path: replace_plan(path, b"something else"),
        r"could not be opened: .*wrong magic tag.*; build it again",
    ),
    "another profile": (
        lambda path: rewrite(path, profile={"batch": [1, 4, 16], "mel": [32, 768, 1664]}),
        rf"its profile for mel_outputs is .*, but its JSON says .*\(16, {MELS}, 1664\).*; build it again",
    ),
}


@pytest.mark.parametrize("fault", SPOILED)
def test_a_spoiled_engine_is_refused_in_one_line(fault: str, own: Path) -> None:
    spoil, message = SPOILED[fault]
    spoil(own)
    with pytest.raises(UserError, match=message) as caught:
        TensorRTEngine(own, "postnet")
    assert "\n" not in str(caught.value)
    assert str(own.with_suffix("")) in str(caught.value)


@pytest.fixture
def portable(tiny_folder: Path, tmp_path: Path) -> Path:
    """A postnet engine for any later TensorRT and any GPU of its compute capability."""
    options = BuildOptions(version_compatible=True, same_compute_capability=True)
    return build_engine(tiny_folder / "postnet.onnx", "postnet", tmp_path, options).path


@pytest.mark.parametrize("runtime", ["the same", "later", "lean"])
def test_a_version_compatible_engine_runs_on_later_and_lean_runtimes(
    runtime: str, portable: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if runtime != "the same":
        monkeypatch.setattr(trt_double, "__version__", "10.9.0")
        monkeypatch.setattr(bindings, "_loaded", {})
    if runtime == "lean":
        monkeypatch.setitem(sys.modules, "tensorrt", None)
        monkeypatch.setitem(sys.modules, "tensorrt_lean", trt_double.lean_runtime())
    given = mel()
    engine = TensorRTEngine(portable, "postnet")
    expected = infer(OnnxEngine(tiny_folder / "postnet.onnx", "postnet"), mel_outputs=given)
    assert torch.equal(infer(engine, mel_outputs=given)["mel_outputs_postnet"], expected["mel_outputs_postnet"])
    assert engine.capturable
    engine.close()


def test_an_older_runtime_is_refused(portable: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trt_double, "__version__", "10.2.9")
    monkeypatch.setattr(bindings, "_loaded", {})
    with pytest.raises(UserError, match=r"built by TensorRT 10\.3\.0, but this is 10\.2\.9; build it again"):
        TensorRTEngine(portable, "postnet")


def test_another_model_of_gpu_needs_an_engine_for_both(
    portable: Path, built: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = trt_double.CpuGpu(torch.device("cpu"), "Quadro RTX 6000", 75)
    monkeypatch.setattr(trt_double, "GPU", other)
    TensorRTEngine(portable, "postnet").close()
    with pytest.raises(UserError, match=r"built for Tesla T4, but this GPU is Quadro RTX 6000; .* --same-compute-cap"):
        TensorRTEngine(built / "postnet_fp32.engine", "postnet")


def test_an_onnx_file_under_an_engines_name_is_recognised(own: Path, tiny_folder: Path) -> None:
    own.write_bytes((tiny_folder / "postnet.onnx").read_bytes())
    with pytest.raises(UserError, match="an ONNX file was written over this engine; build it again"):
        TensorRTEngine(own, "postnet")
    record_path(own).unlink()
    with pytest.raises(UserError, match=r"this is an ONNX file; give it its name ending in \.onnx back"):
        TensorRTEngine(own, "postnet")


def test_another_parts_engine_is_refused_with_its_own_flag(built: Path) -> None:
    with pytest.raises(UserError, match="holds the decoder_iter, not the postnet; give it with --decoder"):
        TensorRTEngine(built / "decoder_iter_fp32.engine", "postnet")


def test_an_engine_with_other_tensors_than_its_part_is_refused(own: Path, built: Path) -> None:
    replace_plan(own, (built / "postnet_fp16.engine").read_bytes())
    with pytest.raises(UserError, match=r"expected mel_outputs float32\[.*found mel_outputs float16"):
        TensorRTEngine(own, "postnet")
    replace_plan(own, (built / "encoder_fp32.engine").read_bytes())
    with pytest.raises(UserError, match=r"tensor mel_outputs .* is missing"):
        TensorRTEngine(own, "postnet")


def test_an_engine_for_a_single_size_opens_whether_the_builder_fixed_its_dimensions_or_not(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = BuildOptions(batch=SizeRange(2, 2, 2), mel=SizeRange(64, 64, 64))
    path = build_engine(tiny_folder / "waveglow.onnx", "waveglow", tmp_path, options).path
    assert TensorRTEngine(path, "waveglow").limits == {"batch": (2, 2), "mel": (64, 64)}
    shapes = {"mel": (2, MELS, 64), "z": (2, 8, -1), "audio": (-1, 256 * 64)}
    monkeypatch.setattr(trt_double.ICudaEngine, "get_tensor_shape", lambda self, name: shapes[name])
    TensorRTEngine(path, "waveglow").close()
    shapes["audio"] = (2, 256 * 63)
    with pytest.raises(UserError, match=r"expected audio float32\[batch, 256\*mel\], found audio float32\[2, 16128\]"):
        TensorRTEngine(path, "waveglow")


def test_without_a_driver_it_says_so(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bindings, "find_gpu", REAL_FIND_GPU)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for cuda, why in (("13.0", r"no NVIDIA driver or GPU was found"), (None, "this PyTorch is a CPU build")):
        monkeypatch.setattr(torch.version, "cuda", cuda)
        with pytest.raises(UserError, match=rf"{why} .*; this machine can run the \.onnx files"):
            TensorRTEngine(own, "postnet")


@pytest.mark.parametrize("installed", [None, ModuleType("tensorrt")], ids=["nothing", "type stubs alone"])
def test_without_tensorrt_it_says_what_to_install(installed: Any, own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", installed)
    with pytest.raises(UserError, match=r"was built by TensorRT 10\.3\.0: TensorRT is not installed; install it"):
        TensorRTEngine(own, "postnet")


def test_a_voice_runs_all_of_its_engines_on_a_stream_of_its_own(
    built: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """On a CPU there are no streams to enter, so the double's is entered where a GPU's would be."""
    running = EngineSet.running

    @contextlib.contextmanager
    def on_a_stream(self: EngineSet):
        with running(self), trt_double.stream():
            yield

    monkeypatch.setattr(EngineSet, "running", on_a_stream)
    with Voice.load(engines_in(built)) as voice:
        settings = {"gate_threshold": 0.999, "max_decoder_steps": 60, "denoise": 0.01}
        assert voice.speak("Hello.", **settings).seconds > 0
        assert list(voice.stream("Hello.", **settings))
    assert caplog.messages == []  # of a run on the default stream


# Which files of a folder are taken.


@pytest.fixture
def full(built: Path, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with ONNX files and the FP32 engines that were built from them, on a machine with a GPU."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for part in PARTS:
        shutil.copy(tiny_folder / f"{part}.onnx", tmp_path)
        copy_engine(f"{part}_fp32", built, tmp_path)
    return tmp_path


def engines_in(folder: Path, precision: Precision = "fp32") -> dict[Part, Path]:
    return {part: folder / f"{part}_{precision}.engine" for part in PARTS}


def onnx_files_in(folder: Path) -> dict[Part, Path]:
    return {part: folder / f"{part}.onnx" for part in PARTS}


def test_with_a_gpu_engines_come_before_the_onnx_files_that_they_were_built_from(
    full: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert default_paths(full, "fp32") == default_paths(full) == engines_in(full)
    assert default_paths(full, "fp16") == onnx_files_in(full)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert default_paths(full, "fp32") == onnx_files_in(full)
    for path in onnx_files_in(full).values():
        path.unlink()
    assert default_paths(full, "fp32") == engines_in(full)  # and opening them says why they can't be used


def test_engines_beside_onnx_files_of_another_export_are_refused(full: Path) -> None:
    model = onnx.load(full / "encoder.onnx")
    model.doc_string = "exported again"
    onnx.save(model, full / "encoder.onnx")
    with pytest.raises(UserError, match=r"encoder_fp32\.engine was not built from the encoder\.onnx beside it; build"):
        default_paths(full, "fp32")


def test_engines_stay_good_beside_onnx_files_of_the_same_checkpoint_in_another_precision(
    full: Path, built: Path
) -> None:
    for part in PARTS:
        copy_engine(f"{part}_fp16", built, full)
    assert default_paths(full) == engines_in(full, "fp16")
    path = full / "waveglow_fp16.engine"
    rewrite(path, metadata={**json.loads(record_path(path).read_text())["metadata"], "checkpoint_sha256": "0" * 64})
    with pytest.raises(UserError, match=r"waveglow_fp16\.engine was not built from the waveglow\.onnx beside it"):
        default_paths(full)


# Scripts on engines.


def test_phrases_become_the_same_wavs_on_engines_as_on_onnx_files(
    built: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    phrases = tmp_path / "phrases.txt"
    phrases.write_text("Hello there, how are you?\nGood.\nA somewhat longer line comes third.\n")
    engines, files = engines_in(built), onnx_files_in(tiny_folder)
    mixed = {**engines, "decoder_iter": files["decoder_iter"]}
    wavs = []
    for number, paths in enumerate((engines, files, mixed)):
        folder = tmp_path / str(number)
        flags = [word for part, path in paths.items() for word in (part_flag(part), path)]
        limits = ("--max-decoder-steps", 60, "--gate-threshold", 0.999, "--max-symbols", 64, "--seed", 3)
        runtime = ("--cpu-backend", "onnxruntime")  # which the double computes through
        result = run_here("trt/inference_trt.py", "-i", phrases, "-o", folder, *flags, *limits, *runtime)
        assert result.returncode == EXIT_CUT, result.stderr  # untrained gates never fire: the frame limit cuts all
        wavs.append([(folder / f"audio_{i}_trt.wav").read_bytes() for i in range(3)])
    assert len(wavs[0][0]) > 10_000
    assert wavs[0] == wavs[1] == wavs[2]


@pytest.mark.slow
def test_the_gpu_check_passes_where_all_is_right_and_fails_where_not(
    tiny_folders: dict[Precision, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    flags = ["-o", str(tmp_path), "--models", str(tiny_folders["fp16"]), "-bs", "1,2,3"]
    monkeypatch.setattr(verify_gpu, "SETTINGS", LONG_ENOUGH)
    verify_gpu.main(verify_gpu.make_parser().parse_args(flags))
    report = (tmp_path / "report_fp16.md").read_text()
    assert report in capsys.readouterr().out
    assert "16 passed, 0 failed" in report
    assert "| captured decoder loop as the plain one | passed | identical |" in report
    assert "| version-compatible postnet on the lean runtime 10.3.0 | passed |" in report

    run = trt_double.IExecutionContext._run

    def slightly_wrong(self: trt_double.IExecutionContext) -> None:
        run(self)
        output, tensor = next(iter(self._engine._model.outputs.items()))
        size = tensor._bytes(self.get_tensor_shape(output))
        ctypes.memset(self._addresses[output], 0x7C, min(2, size))  # FP16's infinity and beyond

    monkeypatch.setattr(trt_double.IExecutionContext, "_run", slightly_wrong)
    with pytest.raises(UserError, match=r"\d+ of \d+ checks failed"):
        verify_gpu.main(verify_gpu.make_parser().parse_args(flags))
    assert "| postnet as ONNX Runtime | FAILED | mel_outputs_postnet " in (tmp_path / "report_fp16.md").read_text()


# On a real GPU: the double computes through PyTorch, on the addresses that it is given.


def on_device(address: int, shape: tuple[int, ...], dtype: Any) -> Tensor:
    """Device memory at an address as a tensor."""
    described = {"data": (address, False), "shape": shape, "typestr": np.dtype(dtype).str, "version": 3}
    return torch.as_tensor(SimpleNamespace(__cuda_array_interface__=described), device="cuda")


@pytest.fixture
def cuda_double(double: None, tiny_checkpoints: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """The double on this machine's GPU: real memory, real streams, and the tiny models as PyTorch modules."""
    models = (load_tacotron2(tiny_checkpoints["tacotron2"]), load_waveglow(tiny_checkpoints["waveglow"]))
    modules = {
        frozenset(spec.name for spec in contract_of(metadata).outputs): module.cuda()
        for loaded in models
        for module, metadata in parts_of(loaded, "fp16").values()
    }

    def view(context: trt_double.IExecutionContext, name: str) -> Tensor:
        dtype = context._engine._model.tensors[name]._numpy
        return on_device(context._addresses[name], context.get_tensor_shape(name), dtype)

    @torch.inference_mode()
    def compute(context: trt_double.IExecutionContext) -> None:
        model = context._engine._model
        results = modules[frozenset(model.outputs)](*(view(context, name) for name in model.inputs))
        for name, result in zip(model.outputs, results if isinstance(results, tuple) else [results], strict=True):
            view(context, name).copy_(result)

    def spoil(context: trt_double.IExecutionContext, address: int, size: int) -> None:
        on_device(address, (size,), np.uint8).fill_(0xA5)

    monkeypatch.setattr(bindings, "find_gpu", REAL_FIND_GPU)
    monkeypatch.setattr(trt_double, "GPU", REAL_FIND_GPU())
    monkeypatch.setattr(trt_double.IExecutionContext, "_run", compute)
    monkeypatch.setattr(trt_double.IExecutionContext, "_spoil", spoil)


@pytest.mark.cuda
@pytest.mark.usefixtures("cuda_double")
def test_on_a_gpu_a_bound_run_neither_waits_nor_needs_more_than_its_memory_when_captured(
    tiny_folders: dict[Precision, Path], tmp_path: Path
) -> None:
    engine = TensorRTEngine(build_engine(tiny_folders["fp16"] / "postnet.onnx", "postnet", tmp_path).path, "postnet")
    assert engine.device.type == "cuda"
    given = torch.randn(1, MELS, 40, device="cuda", dtype=torch.float16)
    refined = torch.zeros_like(given)
    run = engine.bind({"mel_outputs": given, "mel_outputs_postnet": refined})
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        run()
    stream.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            run()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    given.normal_()
    graph.replay()
    torch.cuda.synchronize()
    torch.testing.assert_close(refined, infer(engine, mel_outputs=given)["mel_outputs_postnet"])
    engine.close()


@pytest.mark.cuda
@pytest.mark.usefixtures("cuda_double")
def test_on_a_gpu_all_checks_pass(
    tiny_folders: dict[Precision, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The captured decoder loop and speech, on engines bound, run and captured as they are with TensorRT."""
    monkeypatch.setattr(verify_gpu, "SETTINGS", LONG_ENOUGH)
    # A built engine has its algorithms chosen; the double's come from cuDNN, and some of these sum in any order.
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    flags = ["-o", str(tmp_path), "--models", str(tiny_folders["fp16"]), "-bs", "1,2,8"]
    verify_gpu.main(verify_gpu.make_parser().parse_args(flags))
    assert "16 passed, 0 failed" in (tmp_path / "report_fp16.md").read_text()


# The double itself: it refuses what TensorRT's documentation says is refused.


@pytest.fixture
def errors() -> bindings.ErrorLog:
    errors = bindings.load("tensorrt").errors
    errors.clear()
    return errors


@pytest.fixture
def context(built: Path, errors: bindings.ErrorLog) -> Iterator[trt_double.IExecutionContext]:
    """A context on a pretended stream."""
    trt = bindings.load("tensorrt")
    cuda_engine = trt_double.Runtime(trt.logger).deserialize_cuda_engine((built / "postnet_fp32.engine").read_bytes())
    assert cuda_engine is not None
    with trt_double.stream():
        yield cuda_engine.create_execution_context(trt_double.ExecutionContextAllocationStrategy.USER_MANAGED)


def ready(context: trt_double.IExecutionContext) -> tuple[Tensor, ...]:
    """Everything that a context needs before it can run."""
    given, refined = mel(), torch.zeros(1, MELS, 40)
    assert context.set_input_shape("mel_outputs", (1, MELS, 40))
    scratch = torch.empty(context.update_device_memory_size_for_shapes(), dtype=torch.uint8)
    context.set_device_memory(scratch.data_ptr(), scratch.numel())
    assert context.set_tensor_address("mel_outputs", given.data_ptr())
    assert context.set_tensor_address("mel_outputs_postnet", refined.data_ptr())
    return given, refined, scratch


def test_the_double_refuses_wrong_calls_and_says_why(
    context: trt_double.IExecutionContext, errors: bindings.ErrorLog
) -> None:
    def refused(answer: object, why: str) -> None:
        assert not answer
        assert why in str(errors)
        errors.clear()

    refused(context.set_input_shape("mel_outputs_postnet", (1, MELS, 40)), "is not an input")
    for shape in ((9, MELS, 40), (1, MELS, 31), (1, MELS + 1, 40), (1, MELS)):
        refused(context.set_input_shape("mel_outputs", shape), "does not satisfy any optimization profile")
    refused(context.update_device_memory_size_for_shapes(), "not all input shapes are specified")
    refused(context.execute_async_v3(trt_double.STREAM), "Not all input shapes are specified: ['mel_outputs']")
    memory = ready(context)
    assert context.execute_async_v3(trt_double.STREAM)
    assert memory[1].abs().sum() > 0
    refused(context.set_tensor_address("audio", memory[1].data_ptr()), "invalid tensor name: audio")
    context.set_tensor_address("mel_outputs_postnet", 0)
    refused(context.execute_async_v3(trt_double.STREAM), "Neither address or allocator is set for tensor mel_outputs_p")
    memory = ready(context)
    context.set_input_shape("mel_outputs", (1, MELS, 50))  # which the scratch memory was not measured for
    refused(context.execute_async_v3(trt_double.STREAM), "device memory was not set")
    refused(context.set_device_memory(memory[2].data_ptr(), 8), "8 bytes")
    with pytest.raises(TypeError):
        context._engine.create_execution_context("USER_MANAGED")
    with pytest.raises(TypeError):
        trt_double.Runtime(object())
    with pytest.raises(AttributeError):
        trt_double.IBuilderConfig().max_workspace_size = 1 << 28  # gone from TensorRT


def test_the_double_catches_what_tensorrt_leaves_undefined(context: trt_double.IExecutionContext) -> None:
    memory = ready(context)
    address = memory[0].data_ptr()
    with trt_double.SECOND_GPU.current():
        for call in (
            lambda: context.execute_async_v3(trt_double.STREAM),
            lambda: context.set_input_shape("mel_outputs", (1, MELS, 40)),
            context._engine.create_execution_context,
        ):
            with pytest.raises(trt_double.UndefinedBehaviour, match="GPU 1 is current, but the engine is on GPU 0"):
                call()
    for call, why in (
        (lambda: context.execute_async_v3(trt_double.STREAM + 1), "stream"),
        (lambda: context.set_tensor_address("mel_outputs", address + 8), "mel_outputs begins at .* no multiple of"),
        (lambda: context.set_device_memory(memory[2].data_ptr() + 8, memory[2].numel()), "device memory begins at"),
        (context._engine.create_execution_context, "can't be given to a context that manages its own"),
    ):
        with pytest.raises(trt_double.UndefinedBehaviour, match=why):
            call()
    context.set_tensor_address("mel_outputs_postnet", address + 64)
    with pytest.raises(trt_double.UndefinedBehaviour, match="overlap in memory"):
        context.execute_async_v3(trt_double.STREAM)
