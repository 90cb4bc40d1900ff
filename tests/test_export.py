"""ONNX files: dynamic, self-describing, and equal to PyTorch on ONNX Runtime, alone and in batches."""

import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from common import cpu_backend
from common.checkpoint import LoadedModel
from common.contract import DECODER_STATE
from common.engine import Engine, infer
from common.errors import UserError
from common.files import sha256_of
from common.metadata import METADATA_KEY, PARTS, ModelMetadata, Part, Precision
from common.onnx_engine import OnnxEngine
from common.onnx_file import read_metadata
from common.phrases import Phrase
from exports import export_tacotron2_onnx, voice
from exports import export_voice as export_voice_script
from exports.onnx_file import INT8_TOLERANCE, TOLERANCE, example_inputs, export_part
from pipeline.pieces import PieceResult
from tacotron2.loading import DEMO_TACOTRON2
from tacotron2.text.symbols import SYMBOLS
from tests.models import parts_of, speak_phrases, synthesizer_on

SIZES = [
    {"batch": 1, "text": 4, "mel": 1},
    {"batch": 1, "text": 128, "mel": 100},
    {"batch": 4, "text": 61, "mel": 33},
]


def export_tacotron2(*flags: object) -> None:
    export_tacotron2_onnx.main(export_tacotron2_onnx.make_parser().parse_args([str(flag) for flag in flags]))


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found.float() - expected.float()).abs().max() / expected.float().abs().max())


@pytest.mark.slow
@pytest.mark.parametrize("sizes", SIZES, ids=["shortest", "single", "batch"])
@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_onnx_runtime_gives_what_pytorch_gives(
    part: Part,
    precision: Precision,
    sizes: dict[str, int],
    request: pytest.FixtureRequest,
    torch_demo_engines: dict[Part, Engine],
) -> None:
    folder = request.getfixturevalue("demo_folder" if precision == "fp32" else "demo_folder_fp16")
    engine = OnnxEngine(folder / f"{part}.onnx", part)
    inputs = example_inputs(engine.metadata, sizes, seed=5)
    found = infer(engine, **inputs)
    floats = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in inputs.items()}
    for name, expected in infer(torch_demo_engines[part], **floats).items():
        assert torch.isfinite(found[name]).all()
        assert relative(found[name], expected) <= TOLERANCE[precision][part], name


@pytest.mark.slow
def test_decoder_step_in_a_batch_is_the_step_alone(demo_folder: Path) -> None:
    engine = OnnxEngine(demo_folder / "decoder_iter.onnx", "decoder_iter")
    together_inputs = example_inputs(engine.metadata, {"batch": 3, "text": 50})
    together = infer(engine, **together_inputs)
    for row in range(3):
        length = int((~together_inputs["mask"][row]).sum())
        alone = infer(engine, **{name: _row(name, t, row, length) for name, t in together_inputs.items()})
        for name in (*DECODER_STATE.values(), "gate_prediction"):
            expected = _row(name, together[name], row, length)
            assert torch.allclose(alone[name], expected, atol=1e-5), name


def _row(name: str, tensor: torch.Tensor, row: int, length: int) -> torch.Tensor:
    # One item of a batch, cut to its own length where the tensor has a text axis.
    item = tensor[row : row + 1]
    has_text_axis = "weights" in name or name in ("memory", "processed_memory", "mask")
    return (item[:, :length] if has_text_axis else item).contiguous()


@pytest.mark.slow
def test_files_describe_themselves(demo_folder: Path, demo_folder_fp16: Path) -> None:
    for folder, precision in ((demo_folder, "fp32"), (demo_folder_fp16, "fp16")):
        for part in PARTS:
            model = onnx.load(folder / f"{part}.onnx")
            onnx.checker.check_model(model)
            stored = {entry.key: entry.value for entry in model.metadata_props}
            metadata = read_metadata(folder / f"{part}.onnx", part, stored)
            assert metadata.part == part
            assert metadata.precision == precision
            assert metadata.audio.sampling_rate == 22050
            assert metadata.sigma == (0.7 if part == "waveglow" else None)
            if part != "waveglow":
                assert metadata.checkpoint_sha256 == sha256_of(DEMO_TACOTRON2)
            assert metadata.arpabet is (None if part == "waveglow" else True)
            assert (metadata.bias is None) == (part != "waveglow")


@pytest.mark.slow
def test_graphs_draw_no_random_numbers(demo_folder: Path) -> None:
    for part in PARTS:
        operators = {node.op_type for node in onnx.load(demo_folder / f"{part}.onnx").graph.node}
        assert not {op for op in operators if "Random" in op or op in ("Dropout", "Bernoulli", "Multinomial")}


@pytest.mark.numerical
def test_an_export_that_fails_its_check_leaves_no_file(tmp_path: Path, demo_tacotron2: LoadedModel) -> None:
    module, metadata = parts_of(demo_tacotron2, "fp32")["postnet"]
    with torch.no_grad():
        module.convolutions[0].weight[0, 0, 0] = float("nan")
    with pytest.raises(UserError, match=r"postnet\.onnx: ONNX Runtime differs from PyTorch by nan"):
        export_part(module, metadata, tmp_path / "postnet.onnx")
    assert list(tmp_path.iterdir()) == []


def test_bad_onnx_files_get_one_clear_line(tmp_path: Path, tiny_folder: Path) -> None:
    whole = (tiny_folder / "encoder.onnx").read_bytes()
    for name, content in {"truncated": whole[: len(whole) // 2], "empty": b"", "text": b"hello " * 50}.items():
        path = tmp_path / f"{name}.onnx"
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"not a readable ONNX file.*export it again"):
            OnnxEngine(path, "encoder")
    with pytest.raises(UserError, match="no such ONNX file; make it with exports/export_tacotron2_onnx"):
        OnnxEngine(tmp_path / "missing.onnx", "encoder")
    with pytest.raises(UserError, match="holds the encoder, not the postnet; give it with --encoder"):
        OnnxEngine(tiny_folder / "encoder.onnx", "postnet")
    model = onnx.load(tiny_folder / "encoder.onnx")
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "foreign.onnx")
    with pytest.raises(UserError, match="not exported by this project"):
        OnnxEngine(tmp_path / "foreign.onnx", "encoder")
    entry = model.metadata_props.add()
    original = onnx.load(tiny_folder / "encoder.onnx").metadata_props[0].value
    entry.key = METADATA_KEY
    entry.value = original.replace('"encoder_embedding_dim": 32', '"encoder_embedding_dim": 64')
    onnx.save(model, tmp_path / "other_config.onnx")
    with pytest.raises(UserError, match=r"expected memory float32\[batch, text, 64\], found memory float32"):
        OnnxEngine(tmp_path / "other_config.onnx", "encoder")


@pytest.fixture(scope="module")
def int8_decoder(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoints: dict[str, Path]) -> Path:
    folder = tmp_path_factory.mktemp("int8")
    export_tacotron2("-o", folder, "--tacotron2", tiny_checkpoints["tacotron2"], "--int8-decoder")
    return folder / "decoder_iter.onnx"


@pytest.mark.numerical
@pytest.mark.parametrize("batch", [2, 4, 7])
def test_a_row_of_an_8_bit_decoders_batch_is_the_row_alone(int8_decoder: Path, batch: int) -> None:
    engine = OnnxEngine(int8_decoder, "decoder_iter")
    inputs = example_inputs(engine.metadata, {"batch": batch, "text": 32})
    together = infer(engine, **inputs)
    for row in range(batch):
        alone = infer(engine, **{name: tensor[row : row + 1] for name, tensor in inputs.items()})
        for name, tensor in alone.items():
            assert torch.equal(tensor[0], together[name][row]), name


@pytest.mark.numerical
@pytest.mark.parametrize("flag", ["sse4_2", "asimd"])
def test_a_processor_without_the_kernel_computes_8_bit_weights_in_fp32(
    int8_decoder: Path, flag: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    inputs = example_inputs(OnnxEngine(int8_decoder, "decoder_iter").metadata, {"batch": 3, "text": 20})
    expected = infer(OnnxEngine(int8_decoder, "decoder_iter"), **inputs)
    assert not caplog.messages
    monkeypatch.setattr(cpu_backend, "cpu_flags", lambda: frozenset({flag}))
    engine = OnnxEngine(int8_decoder, "decoder_iter")
    assert caplog.messages == [
        f"{int8_decoder}: no kernel for its 8-bit weights on this device; they are computed with in FP32"
    ]
    found = infer(engine, **inputs)
    assert any(not torch.equal(found[name], expected[name]) for name in expected)  # activations aren't rounded any more
    for name, tensor in expected.items():
        assert relative(found[name], tensor) <= INT8_TOLERANCE, name


@pytest.mark.slow
def test_an_8_bit_decoder_speaks_the_same(tmp_path: Path, demo_folder: Path, demo_engines: dict[Part, Engine]) -> None:
    export_tacotron2("-o", tmp_path, "--int8-decoder")
    path = tmp_path / "decoder_iter.onnx"
    assert path.stat().st_size < 0.35 * (demo_folder / "decoder_iter.onnx").stat().st_size
    decoder = OnnxEngine(path, "decoder_iter")
    assert decoder.metadata.int8_lstms
    phrases = [Phrase(0, "Printed letters should be beautiful."), Phrase(1, "Good morning!")]

    def spoken(engines: dict[Part, Engine]) -> list[PieceResult]:
        return list(speak_phrases(synthesizer_on(engines, keep_pictures=True), phrases))

    plain, quantised = spoken(demo_engines), spoken({**demo_engines, "decoder_iter": decoder})
    for found, expected in zip(quantised, plain, strict=True):
        assert found.stop_reason == "gate"
        assert abs(found.frames - expected.frames) <= 2
        frames = min(found.frames, expected.frames)
        assert np.abs(found.mel[:, :frames] - expected.mel[:, :frames]).mean() < 0.3  # of a log mel that spans 11


def test_8_bits_and_half_precision_exclude_each_other(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="leave --fp16 out"):
        export_tacotron2("-o", tmp_path, "--int8-decoder", "--fp16")


def test_the_classic_script_writes_the_classic_files(int8_decoder: Path) -> None:
    names = {file.name for file in int8_decoder.parent.iterdir()}
    assert names == {"encoder.onnx", "decoder_iter.onnx", "postnet.onnx"}


def test_a_voice_is_one_command(
    tmp_path: Path, tiny_folder: Path, tiny_checkpoints: dict[str, Path], capsys: pytest.CaptureFixture
) -> None:
    checkpoints = [word for name, path in tiny_checkpoints.items() for word in (f"--{name}", str(path))]
    (tmp_path / "symbols.txt").write_text("\n".join(SYMBOLS))
    given = ["--sampling-rate", "16000", "--symbols", str(tmp_path / "symbols.txt")]
    argv = ["-o", str(tmp_path / "new"), "--fp16", "-s", "0.8", *checkpoints, *given]
    export_voice_script.main(export_voice_script.make_parser().parse_args(argv))
    assert {file.name for file in (tmp_path / "new").iterdir()} == {f"{part}.onnx" for part in PARTS}
    metadata = OnnxEngine(tmp_path / "new" / "waveglow.onnx", "waveglow").metadata
    assert (metadata.precision, metadata.sigma, metadata.audio.sampling_rate) == ("fp16", 0.8, 16000)
    assert OnnxEngine(tiny_folder / "waveglow.onnx", "waveglow").metadata.sigma == 0.6  # without -s: the classic's
    assert [line.split(":")[0] for line in capsys.readouterr().out.splitlines()] == [f"{part}.onnx" for part in PARTS]


def test_a_voice_whose_last_part_fails_leaves_the_old_one_whole(
    tmp_path: Path, tiny_folder: Path, tiny_checkpoints: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    for part in PARTS:
        shutil.copy(tiny_folder / f"{part}.onnx", tmp_path)
    before = {path.name: sha256_of(path) for path in tmp_path.iterdir()}

    def fails(module: torch.nn.Module, metadata: ModelMetadata, path: Path) -> float:
        if metadata.part == "waveglow":
            raise UserError(f"{path}: it does not compute the same")
        path.write_bytes(b"new")
        return 0.0

    monkeypatch.setattr(voice, "export_part", fails)
    with pytest.raises(UserError, match=r"waveglow\.onnx: it does not"):
        voice.export_voice(tmp_path, **tiny_checkpoints)
    assert {path.name: sha256_of(path) for path in tmp_path.iterdir()} == before
