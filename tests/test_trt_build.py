"""ONNX files become engines with a record beside them: whole, up to date, and refused in one clear line."""

import _thread
import errno
import json
import shutil
import signal
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

import onnx
import pytest
import torch

from common.checkpoint import LoadedModel
from common.config import AudioConfig, WaveGlowConfig
from common.contract import contract_of
from common.engine import infer
from common.errors import UserError
from common.files import sha256_of
from common.metadata import PARTS, Part, Precision
from common.onnx_engine import OnnxEngine
from exports import onnx_file
from tests import rtx_double, trt_double
from tests.models import MELS, parts_of
from trt import bindings, build, export_onnx2trt, timing_cache
from trt.build import BuildOptions, build_engine, make_profile
from trt.engine import TensorRTEngine
from trt.record import EngineRecord, SizeRange, profile_shapes, read_record, record_path
from waveglow.model import WaveGlow

BATCHES = BuildOptions(batch=SizeRange(1, 4, 8))
BUILT_FOR = (75, 86, 120)  # T4, A10 and RTX 50


def files_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.fixture
def double(monkeypatch: pytest.MonkeyPatch) -> None:
    trt_double.install(monkeypatch)


@pytest.fixture
def encoder(tiny_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(tiny_folder / "encoder.onnx", tmp_path / "encoder.onnx"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "engines").mkdir()
    return tmp_path / "engines"


def run_script(*flags: object) -> None:
    export_onnx2trt.main(export_onnx2trt.make_parser().parse_args([str(flag) for flag in flags]))


class TestWithTheDouble:
    pytestmark = pytest.mark.usefixtures("double")

    def test_engines_get_the_classic_names(
        self, tiny_folders: dict[Precision, Path], folder: Path, capsys: pytest.CaptureFixture
    ) -> None:
        for precision, files in tiny_folders.items():
            run_script(
                *("--encoder", files / "encoder.onnx", "--decoder", files / "decoder_iter.onnx"),
                *("--postnet", files / "postnet.onnx", "--waveglow", files / "waveglow.onnx", "-o", folder),
                *(["--fp16"] if precision == "fp16" else []),
            )
        names = {f"{part}_{precision}" for part in PARTS for precision in ("fp16", "fp32")}
        assert files_in(folder) == {f"{name}.{kind}" for name in names for kind in ("engine", "engine.json")}
        assert "encoder_fp16.engine: built in" in capsys.readouterr().out
        bias = read_record(folder / "waveglow_fp32.engine").metadata.bias  # of the denoiser
        assert bias == OnnxEngine(tiny_folders["fp32"] / "waveglow.onnx", "waveglow").metadata.bias is not None

    def test_the_record_says_what_was_built(self, encoder: Path, folder: Path) -> None:
        built = build_engine(encoder, "encoder", folder, BuildOptions(workspace_mib=256, optimization_level=4))
        record = read_record(folder / "encoder_fp32.engine")
        assert record == built.record
        assert record.built_by == "TensorRT 10.3.0 for Tesla T4, compute capability 7.5"
        assert record.profile == {"batch": (1, 1, 1), "text": (4, 128, 256)}
        assert record.onnx_sha256 == sha256_of(encoder)
        assert record.plan_sha256 == sha256_of(built.path)
        assert record.plan_bytes == built.path.stat().st_size
        assert (record.workspace_mib, record.optimization_level) == (256, 4)
        assert record.metadata.part == "encoder"
        assert json.loads(record_path(built.path).read_text())["metadata"]["precision"] == "fp32"

    def test_what_is_up_to_date_is_not_built_again(self, encoder: Path, folder: Path) -> None:
        first = build_engine(encoder, "encoder", folder)
        assert first.seconds is not None
        again = build_engine(encoder, "encoder", folder)
        assert again.seconds is None
        assert again.record == first.record
        assert build_engine(encoder, "encoder", folder, force=True).seconds is not None

    @pytest.mark.parametrize("change", ["options", "onnx", "plan", "record", "version", "gpu"])
    def test_what_has_changed_is_built_again(
        self, change: str, encoder: Path, folder: Path, tiny_folders: dict, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = build_engine(encoder, "encoder", folder).path
        options = BuildOptions()
        if change == "options":
            options = BATCHES
        elif change == "onnx":
            model = onnx.load(encoder)
            model.doc_string = "other"
            onnx.save(model, encoder)
        elif change == "plan":
            path.write_bytes(path.read_bytes()[:-1])
        elif change == "record":
            record_path(path).write_text("{}")
        elif change == "version":
            monkeypatch.setattr(trt_double, "__version__", "10.4.0")
            monkeypatch.setattr(bindings, "_loaded", {})
        else:
            other = trt_double.CpuGpu(torch.device("cpu"), "NVIDIA A10", 86)
            monkeypatch.setattr(bindings, "find_gpu", lambda device=None: other)
        assert build_engine(encoder, "encoder", folder, options).seconds is not None

    def test_nested_phases_become_one_fraction(self, encoder: Path, folder: Path) -> None:
        fractions: list[float] = []
        build_engine(encoder, "encoder", folder, on_progress=fractions.append)
        assert fractions == [step / 8 for step in range(1, 9)]

    def test_the_builder_is_configured_as_asked(
        self, encoder: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        configs: list[trt_double.IBuilderConfig] = []
        create = trt_double.Builder.create_builder_config
        monkeypatch.setattr(
            trt_double.Builder, "create_builder_config", lambda self: configs.append(create(self)) or configs[-1]
        )
        portable = {"version_compatible": True, "same_compute_capability": True}
        options = BuildOptions(workspace_mib=64, optimization_level=5, **portable)
        build_engine(encoder, "encoder", folder, options)
        (config,) = configs
        assert config.max_aux_streams == 0
        assert config.builder_optimization_level == 5
        assert config.get_memory_pool_limit(trt_double.MemoryPoolType.WORKSPACE) == 64 << 20
        assert not config.get_flag(trt_double.BuilderFlag.TF32)
        assert config.hardware_compatibility_level is trt_double.HardwareCompatibilityLevel.SAME_COMPUTE_CAPABILITY
        assert config.get_flag(trt_double.BuilderFlag.VERSION_COMPATIBLE)
        assert config.get_flag(trt_double.BuilderFlag.EXCLUDE_LEAN_RUNTIME)

    def test_the_timing_cache_is_kept_and_checked(self, encoder: Path, folder: Path) -> None:
        cache = folder / "caches" / "timing.cache"  # in a folder that is made
        options = BuildOptions(timing_cache=cache)
        build_engine(encoder, "encoder", folder, options)
        kept = cache.read_bytes()
        assert kept
        build_engine(encoder, "encoder", folder, options, force=True)
        cache.write_bytes(b"of another GPU")
        with pytest.raises(UserError, match=r"timing\.cache: not a timing cache of TensorRT 10\.3\.0.*delete it"):
            build_engine(encoder, "encoder", folder, options, force=True)
        assert cache.read_bytes() == b"of another GPU"

    def test_a_timing_cache_that_cannot_be_written_is_refused_before_the_build(
        self, encoder: Path, folder: Path
    ) -> None:
        (folder / "file").write_bytes(b"")
        fractions: list[float] = []
        for cache in (folder / "file" / "t.bin", folder):
            with pytest.raises(UserError, match=r"can't be a timing cache .*; choose another file with -tcf"):
                build_engine(encoder, "encoder", folder, BuildOptions(timing_cache=cache), on_progress=fractions.append)
        assert fractions == []

    def test_a_build_is_kept_where_its_timing_cache_cannot_be_written(
        self, encoder: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        def disk_is_full(path: Path, content: object) -> NoReturn:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(timing_cache, "write_whole", disk_is_full)
        built = build_engine(encoder, "encoder", folder, BuildOptions(timing_cache=folder / "t.bin"))
        assert read_record(built.path) == built.record
        assert files_in(folder) == {"encoder_fp32.engine", "encoder_fp32.engine.json"}
        assert "the timing cache was not written (No space left on device); the engine is good" in caplog.text

    def test_engines_that_differ_in_their_suffix_have_records_of_their_own(self, encoder: Path, folder: Path) -> None:
        path = build_engine(encoder, "encoder", folder).path
        plan = Path(shutil.copy(path, path.with_suffix(".plan")))
        assert record_path(plan) != record_path(path)
        with pytest.raises(UserError, match=r"encoder_fp32\.plan\.json, which says .* is missing beside it"):
            read_record(plan)

    def test_the_builders_refusal_comes_out_in_its_own_words_and_leaves_an_old_engine_whole(
        self, encoder: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(trt_double, "_problem", lambda network, config: "no implementation\nfor node X")
        refused = r"encoder\.onnx: TensorRT could not build it: .*Error Code 4: no implementation for node X"
        with pytest.raises(UserError, match=refused) as caught:
            build_engine(encoder, "encoder", folder)
        assert "\n" not in str(caught.value)
        assert files_in(folder) == set()
        monkeypatch.setattr(trt_double, "_problem", lambda network, config: None)
        before = build_engine(encoder, "encoder", folder).record
        monkeypatch.setattr(trt_double, "_problem", lambda network, config: "something")
        with pytest.raises(UserError):
            build_engine(encoder, "encoder", folder, force=True)
        assert files_in(folder) == {"encoder_fp32.engine", "encoder_fp32.engine.json"}
        assert sha256_of(folder / "encoder_fp32.engine") == read_record(folder / "encoder_fp32.engine").plan_sha256
        assert read_record(folder / "encoder_fp32.engine") == before

    def test_the_parsers_refusal_comes_out_in_its_own_words(self, encoder: Path, folder: Path) -> None:
        with_unknown_operator(encoder)
        with pytest.raises(UserError, match=r"encoder\.onnx: TensorRT could not parse it: Failed to parse"):
            build_engine(encoder, "encoder", folder)
        assert files_in(folder) == set()

    def test_ctrl_c_stops_the_builder_and_leaves_nothing(self, encoder: Path, folder: Path) -> None:
        fractions: list[float] = []

        def interrupt(fraction: float) -> None:
            fractions.append(fraction)
            _thread.interrupt_main()

        with pytest.raises(KeyboardInterrupt):
            build_engine(encoder, "encoder", folder, on_progress=interrupt)
        assert len(fractions) == 1
        assert files_in(folder) == set()
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler

    def test_a_handler_that_python_did_not_install_is_left_alone(
        self, encoder: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # Where a program embeds Python, the handler may be C's own: Python can't put it back.
        monkeypatch.setattr(signal, "getsignal", lambda number: None)
        monkeypatch.setattr(signal, "signal", lambda number, handler: pytest.fail("the handler was changed"))
        assert build_engine(encoder, "encoder", folder).seconds is not None

    def test_an_error_while_reporting_does_not_pass_through_the_builder(self, encoder: Path, folder: Path) -> None:
        def broken(fraction: float) -> None:
            raise BrokenPipeError("the terminal has gone")

        with pytest.raises(BrokenPipeError):
            build_engine(encoder, "encoder", folder, on_progress=broken)
        assert files_in(folder) == set()

    @pytest.mark.parametrize(
        ("flags", "message"),
        [
            ([], "nothing to build: give at least one of --encoder, --decoder, --postnet, --waveglow"),
            (["--encoder", "{postnet}"], "holds the postnet, not the encoder; give it with --postnet"),
            (["--encoder", "missing.onnx"], r"missing\.onnx: no such ONNX file; make it with exports/"),
            (["--encoder", "{garbage}"], r"garbage\.onnx: not a readable ONNX file"),
            (["--encoder", "{int8}"], "can't read its 8-bit weights, which are for CPUs; export it again with --fp16"),
            (["--encoder", "{encoder}", "--fp16"], "is fp32, but --fp16 was given; export it with --fp16"),
            (["--encoder", "{encoder}", "-bs", "4,2,8"], "4,2,8: must be min,opt,max with 1 <= min <= opt <= max"),
            (["--encoder", "{encoder}", "--text-size", "0,2,8"], "--text-size 0,2,8: must be"),
            (["--encoder", "{encoder}", "--mel-size", "9,8,8"], "--mel-size 9,8,8: must be"),
            (["--waveglow", "{waveglow}", "--mel-size", "33,40,63"], "33,40,63: must hold a multiple of 32"),
            (["--encoder", "{encoder}", "--workspace", "0"], "--workspace 0: must be at least 1 MiB"),
            (["--encoder", "{encoder}", "--optimization-level", "9"], "must be between 0 and 5"),
            (
                ["--encoder", "{encoder}", "--version-compatible", "--compute-capability", "86"],
                "are TensorRT's; leave --compute-capability out",
            ),
        ],
    )
    def test_bad_flags_and_files_are_refused_before_anything_is_written(
        self, flags: list[str], message: str, encoder: Path, tiny_folder: Path, folder: Path
    ) -> None:
        content = encoder.read_bytes()
        spoiled = {"garbage": content[:5000], "int8": content.replace(b'"int8_lstms": false', b'"int8_lstms": true ')}
        for name, changed in spoiled.items():
            encoder.with_name(f"{name}.onnx").write_bytes(changed)
        names = {name: encoder.with_name(f"{name}.onnx") for name in ("encoder", *spoiled)}
        names |= {part: tiny_folder / f"{part}.onnx" for part in ("postnet", "waveglow")}
        with pytest.raises(UserError, match=message):
            run_script("-o", folder, *(flag.format(**names) for flag in flags))
        assert files_in(folder) == set()

    def test_sizes_are_one_number_or_three(self, capsys: pytest.CaptureFixture) -> None:
        assert export_onnx2trt.size_range("4") == (4, 4, 4)
        with pytest.raises(SystemExit):
            export_onnx2trt.make_parser().parse_args(["-o", "x", "-bs", "1,two"])
        assert "'1,two' is not a number, nor three as min,opt,max" in capsys.readouterr().err


def test_without_a_gpu_the_builder_says_what_to_do(
    encoder: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", trt_double)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match=r"no .*GPU.*; TensorRT builds an engine only on the GPU that it is for"):
        build_engine(encoder, "encoder", folder)


def test_without_tensorrt_the_builder_says_what_to_install(
    encoder: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    with pytest.raises(UserError, match=r"TensorRT or TensorRT-RTX is not installed; install it \(pip install tensor"):
        build_engine(encoder, "encoder", folder)
    with pytest.raises(UserError, match=r"TensorRT-RTX is not installed; install it \(pip install tensorrt-rtx-cu13\)"):
        build_engine(encoder, "encoder", folder, BuildOptions(compute_capabilities=(75,)))


def test_a_gpu_that_tensorrt_has_left_behind_is_named(
    encoder: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trt_double.install(monkeypatch)
    volta = trt_double.CpuGpu(torch.device("cpu"), "Tesla V100-SXM2-16GB", 70)
    monkeypatch.setattr(bindings, "find_gpu", lambda device=None: volta)
    assert build_engine(encoder, "encoder", folder).record.compute_capabilities == (70,)  # TensorRT 10.3
    monkeypatch.setattr(trt_double, "__version__", "10.5.0")
    monkeypatch.setattr(bindings, "_loaded", {})
    with pytest.raises(UserError, match=r"TensorRT 10\.5\.0 no longer runs on Tesla V100.*install TensorRT 10\.0 to"):
        build_engine(encoder, "encoder", folder)


@pytest.mark.parametrize(
    ("double", "version", "message"),
    [
        (trt_double, "8.6.1", r"TensorRT 8\.6\.1 is too old; install version 10 or later \(pip install tensorrt,"),
        (rtx_double, "1.6.9", r"TensorRT-RTX 1\.6\.9 is too old; install version 1\.7 or later \(pip install tensor"),
    ],
    ids=["TensorRT", "TensorRT-RTX"],
)
def test_old_tensorrt_is_refused(
    double: ModuleType, version: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    double.install(monkeypatch)
    monkeypatch.setattr(double, "__version__", version)
    with pytest.raises(UserError, match=message):
        bindings.load()


def with_unknown_operator(path: Path) -> None:
    """Gives a file's last node an operator that nobody knows; everything else stays in order."""
    model = onnx.load(path)
    model.graph.node[-1].op_type = "Unheard"
    onnx.save(model, path)


@pytest.fixture
def of_rtx(tiny_folder: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A postnet engine of the double of TensorRT-RTX."""
    rtx_double.install(monkeypatch)
    return build_engine(tiny_folder / "postnet.onnx", "postnet", folder, BuildOptions(compute_capabilities=(75,))).path


def test_engines_of_rtx_are_built_and_opened_so_that_they_can_be_captured(
    of_rtx: Path, tiny_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    engine = TensorRTEngine(of_rtx, "postnet")
    assert engine.capturable
    assert caplog.messages == []
    given = torch.randn(1, MELS, 40)
    expected = infer(OnnxEngine(tiny_folder / "postnet.onnx", "postnet"), mel_outputs=given)
    assert torch.equal(infer(engine, mel_outputs=given)["mel_outputs_postnet"], expected["mel_outputs_postnet"])
    engine.close()


def test_kernels_of_rtx_are_kept_beside_the_engine_for_the_next_process(of_rtx: Path) -> None:
    cache = of_rtx.with_name("postnet_fp32.engine.cache")

    def compiled_in_a_run() -> int:
        rtx_double.compiled.clear()
        engine = TensorRTEngine(of_rtx, "postnet")
        infer(engine, mel_outputs=torch.randn(1, MELS, 40))
        engine.close()
        return len(rtx_double.compiled)

    assert compiled_in_a_run() == 1
    kept = cache.read_bytes()
    assert compiled_in_a_run() == 0
    assert cache.read_bytes() == kept
    cache.write_bytes(kept.replace(b"1.7.1", b"1.7.0"))  # of another version
    assert compiled_in_a_run() == 1
    assert cache.read_bytes() == kept


def test_engines_that_cannot_be_captured_say_so_once(
    of_rtx: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(rtx_double.IExecutionContext, "is_stream_capturable", lambda self, stream: False)
    engine = TensorRTEngine(of_rtx, "postnet")
    assert not engine.capturable
    assert not engine.capturable
    (warning,) = caplog.messages
    assert "TensorRT-RTX can't record it in a CUDA graph; the host launches it at each step" in warning


# What follows builds with a real TensorRT: TensorRT-RTX, which needs neither a GPU nor a driver for it.


@pytest.fixture(scope="module")
def rtx() -> Any:
    return pytest.importorskip("tensorrt_rtx", reason="needs tensorrt-rtx-cu13 (pip install tensorrt-rtx-cu13)")


@pytest.fixture
def only_rtx(rtx: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """TensorRT-RTX as the only TensorRT, as on this kind of machine, whatever else is installed."""
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    return rtx


def build_and_read_back(
    path: Path, part: Part, folder: Path, monkeypatch: pytest.MonkeyPatch, capabilities: tuple[int, ...] = BUILT_FOR
) -> None:
    """Builds at batch 1 to 8; the profile is read back from TensorRT's object, since the plan itself can be read only
    with a driver. The build has compared the network's tensors with the contract by then."""
    ranges: list[list[tuple[int, ...]]] = []

    def reading_profile(builder: Any, record: EngineRecord) -> Any:
        profile = make_profile(builder, record)
        inputs = contract_of(record.metadata).inputs
        ranges.extend([tuple(shape) for shape in profile.get_shape(spec.name)] for spec in inputs)
        assert ranges == [profile_shapes(record, spec) for spec in inputs]
        return profile

    monkeypatch.setattr(build, "make_profile", reading_profile)
    options = BuildOptions(batch=SizeRange(1, 4, 8), compute_capabilities=capabilities)
    fractions: list[float] = []
    built = build_engine(path, part, folder, options, on_progress=fractions.append)
    assert ranges
    assert fractions[-1] == 1.0
    record = read_record(built.path)
    assert (record.flavour, record.gpu, record.compute_capabilities) == ("tensorrt_rtx", "", capabilities)
    assert (record.plan_sha256, record.plan_bytes) == (sha256_of(built.path), built.path.stat().st_size)
    assert record.plan_bytes > path.stat().st_size / 2  # the weights are inside
    assert build_engine(path, part, folder, options).seconds is None


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.usefixtures("only_rtx")
class TestWithRtx:
    @pytest.mark.parametrize("part", PARTS)
    def test_rtx_builds_the_demo_voice_in_fp16(
        self, part: Part, demo_folder_fp16: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        build_and_read_back(demo_folder_fp16 / f"{part}.onnx", part, folder, monkeypatch)

    def test_rtx_builds_waveglow_of_ngc_size_in_fp16(
        self, tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # Of NVIDIA's published checkpoints only WaveGlow differs from the demo voice in size.
        monkeypatch.setattr(onnx_file, "TRACED_SIZES", {"batch": 2, "text": 8, "mel": 1})  # FP16 is slow on a CPU
        monkeypatch.setattr(onnx_file, "CHECKED_SIZES", {"batch": 1, "text": 8, "mel": 2})
        torch.manual_seed(0)
        model = WaveGlow(WaveGlowConfig(wn_channels=256)).eval()
        loaded = LoadedModel(model, AudioConfig(), "0" * 64, None, "random")
        module, metadata = parts_of(loaded, "fp16")["waveglow"]
        onnx_file.export_part(module, metadata, tmp_path / "waveglow.onnx")
        build_and_read_back(tmp_path / "waveglow.onnx", "waveglow", folder, monkeypatch, (75,))

    def test_rtx_refuses_fp32_for_t4_and_says_what_to_do(self, tiny_folder: Path, folder: Path) -> None:
        path = tiny_folder / "encoder.onnx"
        with pytest.raises(UserError, match=r"FP32 GEMM is not supported.*export the .* with --fp16, leave 75 out"):
            build_engine(path, "encoder", folder, BuildOptions(compute_capabilities=(75,)))
        assert files_in(folder) == set()
        built = build_engine(path, "encoder", folder, BuildOptions(compute_capabilities=(86,)))
        assert built.record.metadata.precision == "fp32"

    def test_rtx_names_the_gpus_it_knows(
        self, tiny_folder: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = tiny_folder / "postnet.onnx"
        with pytest.raises(UserError, match=r"does not build for compute capability 9\.0; it knows 7\.5, "):
            build_engine(path, "postnet", folder, BuildOptions(compute_capabilities=(90,)))
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        with pytest.raises(UserError, match=r"name the GPUs to build for: --compute-capability with any of 75 "):
            build_engine(path, "postnet", folder)

    def test_rtx_refusals_come_out_in_its_own_words(self, encoder: Path, folder: Path) -> None:
        with_unknown_operator(encoder)
        with pytest.raises(UserError, match=r"encoder\.onnx: TensorRT-RTX could not parse it: .*Unheard"):
            build_engine(encoder, "encoder", folder, BuildOptions(compute_capabilities=(86,)))
        assert files_in(folder) == set()

    def test_an_engine_for_another_machine_says_so(
        self, tiny_folder: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        options = BuildOptions(compute_capabilities=(86,))
        path = build_engine(tiny_folder / "postnet.onnx", "postnet", folder, options).path
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        with pytest.raises(UserError, match=r"postnet_fp32\.engine: no .*GPU.*; this machine can run the \.onnx files"):
            TensorRTEngine(path, "postnet")
        monkeypatch.setattr(bindings, "find_gpu", lambda device=None: trt_double.GPU)
        with pytest.raises(UserError, match=r"for compute capability 8\.6, but this GPU is Tesla T4, compute cap.* 7"):
            TensorRTEngine(path, "postnet")

    def test_a_timing_cache_is_of_no_use_to_rtx_and_it_says_so(
        self, tiny_folder: Path, folder: Path, capsys: pytest.CaptureFixture
    ) -> None:
        flags = ("--postnet", tiny_folder / "postnet.onnx", "-o", folder, "--compute-capability", 86)
        run_script(*flags, "-tcf", folder / "cache")
        assert "-tcf has no effect" in capsys.readouterr().out
        assert files_in(folder) == {"postnet_fp32.engine", "postnet_fp32.engine.json"}
