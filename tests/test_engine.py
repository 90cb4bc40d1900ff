"""Every engine checks what it is given, and says expected against found."""

from pathlib import Path

import pytest
import torch

from common.engine import TorchEngine, infer
from common.errors import UserError
from common.metadata import PARTS, Precision
from common.onnx_engine import OnnxEngine
from exports.onnx_file import example_inputs
from pipeline.engine_set import check_together
from pipeline.model_files import default_paths, open_engine, open_engines
from tacotron2.loading import load_tacotron2
from tacotron2.parts import tacotron2_parts


@pytest.fixture(scope="module")
def postnet(tiny_folder: Path) -> OnnxEngine:
    return OnnxEngine(tiny_folder / "postnet.onnx", "postnet")


def test_wrong_tensors_are_refused(postnet: OnnxEngine) -> None:
    mel = torch.zeros(1, 80, 40)
    with pytest.raises(UserError, match=r"expected mel_outputs float32\[batch, 80, mel\], found .*float64"):
        infer(postnet, mel_outputs=mel.double())
    with pytest.raises(UserError, match=r"found mel_outputs float32\[1, 79, 40\]"):
        infer(postnet, mel_outputs=mel[:, :79])
    with pytest.raises(UserError, match=r"has no tensor mel; it has mel_outputs, mel_outputs_postnet"):
        infer(postnet, mel=mel)
    with pytest.raises(UserError, match="no memory was given for mel_outputs_postnet"):
        postnet.bind({"mel_outputs": mel})
    with pytest.raises(UserError, match="must be contiguous"):
        infer(postnet, mel_outputs=torch.zeros(1, 40, 80).transpose(1, 2))


def test_shapes_that_disagree_are_refused(tiny_folder: Path) -> None:
    engine = OnnxEngine(tiny_folder / "waveglow.onnx", "waveglow")
    inputs = example_inputs(engine.metadata, {"batch": 1, "mel": 10})
    with pytest.raises(UserError, match=r"z float32\[1, 8, 352\] has mel size 11, but the tensors before it have 10"):
        infer(engine, mel=inputs["mel"], z=torch.zeros(1, 8, 352))


def test_sizes_beyond_the_limits_are_refused(tiny_folder: Path) -> None:
    engine = OnnxEngine(tiny_folder / "postnet.onnx", "postnet")
    engine.limits = {"mel": (32, 768)}
    with pytest.raises(UserError, match=r"mel size 800 is outside 32 to 768.*--mel-size"):
        infer(engine, mel_outputs=torch.zeros(1, 80, 800))


def test_a_bound_run_reads_and_writes_the_memory_it_was_given(postnet: OnnxEngine) -> None:
    mel, refined = torch.zeros(1, 80, 40), torch.zeros(1, 80, 40)
    run = postnet.bind({"mel_outputs": mel, "mel_outputs_postnet": refined})
    run()
    before = refined.clone()
    mel.normal_()
    run()
    assert not torch.equal(refined, before)
    assert torch.equal(refined, infer(postnet, mel_outputs=mel)["mel_outputs_postnet"])


def test_parts_of_different_files_are_not_mixed(tmp_path: Path, tiny_folders: dict[Precision, Path]) -> None:
    paths = {part: tiny_folders["fp32"] / f"{part}.onnx" for part in PARTS}
    engines = open_engines(paths)
    check_together(engines)
    other = open_engine(tiny_folders["fp16"] / "postnet.onnx", "postnet")
    with pytest.raises(UserError, match=r"is fp16 but .* is fp32"):
        check_together({**engines, "postnet": other})


def test_parts_of_different_checkpoints_are_not_mixed(tiny_folder: Path, demo_folder: Path) -> None:
    engines = open_engines({part: tiny_folder / f"{part}.onnx" for part in PARTS})
    foreign = open_engine(demo_folder / "postnet.onnx", "postnet")
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


def test_closing_twice_is_closing_once_and_nothing_runs_afterwards(
    tiny_folder: Path, tiny_checkpoints: dict[str, Path]
) -> None:
    loaded = load_tacotron2(tiny_checkpoints["tacotron2"])
    for engine in (
        OnnxEngine(tiny_folder / "postnet.onnx", "postnet"),
        TorchEngine(*tacotron2_parts(loaded, "fp32")["postnet"]),
    ):
        engine.close()
        engine.close()
        with pytest.raises(UserError, match="the engine was closed; open it again"):
            infer(engine, mel_outputs=torch.zeros(1, 80, 40))
