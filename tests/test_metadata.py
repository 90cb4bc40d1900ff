"""Metadata: what a voice is beside its weights goes from the checkpoint into every file, whole and checked."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from common.config import AudioConfig, Tacotron2Config, WaveGlowConfig
from common.contract import contract_of
from common.errors import UserError
from common.metadata import METADATA_FORMAT, PARTS, ModelMetadata, Part, Precision
from common.onnx_engine import OnnxEngine
from exports.onnx_file import TOLERANCE
from exports.voice import export_parts, export_voice, waveglow_voice_parts
from tacotron2.loading import load_tacotron2
from tacotron2.parts import tacotron2_parts
from tests.models import tiny_waveglow
from waveglow.denoiser import Denoiser, bias_of, measure_bias
from waveglow.loading import load_waveglow
from waveglow.parts import waveglow_parts

BINS = 513
WAVEGLOW = ModelMetadata(
    "waveglow", "fp16", WaveGlowConfig(), AudioConfig(), "0" * 64, 0.7, "a voice", bias=(0.1,) * BINS, gain=2.0
)
ENCODER = ModelMetadata("encoder", "fp32", Tacotron2Config(), AudioConfig(), "0" * 64, arpabet=True)


def resaved(checkpoint: Path, path: Path, **changes: Any) -> Path:
    """A checkpoint's copy with other values beside its weights."""
    torch.save({**torch.load(checkpoint, weights_only=True), **changes}, path)
    return path


@pytest.mark.parametrize("metadata", [WAVEGLOW, ENCODER], ids=["waveglow", "encoder"])
def test_metadata_survive_being_written_and_read(metadata: ModelMetadata) -> None:
    # The bias is kept in float32, so the first reading rounds it; after that nothing changes.
    once = ModelMetadata.from_json(metadata.to_json())
    assert ModelMetadata.from_json(once.to_json()) == once
    assert dataclasses.replace(once, bias=metadata.bias) == metadata
    assert once.bias == pytest.approx(metadata.bias) if metadata.bias else once.bias is None


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"format": METADATA_FORMAT - 1}, "written by an older version of this project"),
        ({"format": METADATA_FORMAT + 1}, "written by another version of this project"),
        ({"colour": "red"}, "has unknown keys: colour"),
        ({"gain": ...}, "lacks gain"),
        ({"part": "drums"}, "neither part nor precision"),
        ({"sigma": None}, "sigma None: must be a number from 0 to 10"),
        ({"sigma": float("nan")}, "sigma nan: must be a number from 0 to 10"),
        ({"sigma": -1}, "sigma -1: must be"),
        ({"gain": 0.0}, "gain 0.0: must be above 0"),
        ({"gain": "loud"}, "gain loud: must be a number"),
        ({"bias": "AAAA"}, "buffer size must be a multiple|bias is not 513"),
        ({"bias": "AAAAAA=="}, "bias is not 513 finite numbers"),
        ({"audio": 7}, "its metadata is damaged"),
    ],
)
def test_metadata_that_no_file_of_ours_has_are_refused(changes: dict[str, Any], why: str) -> None:
    fields = {**json.loads(WAVEGLOW.to_json()), **changes}
    present = {name: value for name, value in fields.items() if value is not ...}
    with pytest.raises(ValueError, match=why):
        ModelMetadata.from_json(json.dumps(present))


@pytest.mark.slow
def test_the_bias_belongs_to_the_checkpoint_and_needs_no_file_beside(
    tmp_path: Path, tiny_checkpoints: dict[str, Path]
) -> None:
    weights = tiny_waveglow(seed=1).state_dict()
    other = resaved(tiny_checkpoints["waveglow"], tmp_path / "other.pt", state_dict=weights)
    biases = []
    for checkpoint in (tiny_checkpoints["waveglow"], other):
        # Both voices go into one folder, where they once shared a file that held the bias of the last.
        path = export_parts(waveglow_voice_parts(checkpoint, "fp32"), tmp_path)["waveglow"]
        engine = OnnxEngine(path, "waveglow")
        biases.append(engine.metadata.bias)
        measured = measure_bias(engine)
        assert np.abs(measured - biases[-1]).max() <= TOLERANCE["fp32"]["waveglow"] * measured.max()
        Denoiser(engine.metadata).check(0.1)
    assert biases[0] != biases[1]
    assert not [path.name for path in tmp_path.iterdir() if path.suffix not in (".onnx", ".pt")]


def test_the_bias_is_the_same_whatever_precision_the_voice_runs_in(
    tiny_folders: dict[Precision, Path], tiny_checkpoints: dict[str, Path]
) -> None:
    measured = bias_of(load_waveglow(tiny_checkpoints["waveglow"]))
    found = [OnnxEngine(folder / "waveglow.onnx", "waveglow").metadata.bias for folder in tiny_folders.values()]
    assert found[0] == found[1] == pytest.approx(measured)


# Names and sizes of the classic's tensors: those of its engines, and of programs that load them.
TENSORS: dict[Part, tuple[str, str]] = {
    "encoder": (
        "sequences int32[batch, text]; sequence_lengths int32[batch]",
        "memory float16[batch, text, 512]; processed_memory float16[batch, text, 128]; lens int32[batch]",
    ),
    "decoder_iter": (
        "decoder_input float16[batch, 80]; attention_hidden float16[batch, 1024]; attention_cell float16[batch, 1024]; "
        "decoder_hidden float16[batch, 1024]; decoder_cell float16[batch, 1024]; "
        "attention_weights float16[batch, text]; attention_weights_cum float16[batch, text]; "
        "attention_context float16[batch, 512]; memory float16[batch, text, 512]; "
        "processed_memory float16[batch, text, 128]; mask bool[batch, text]; prenet_dropout float16[batch, 2, 256]",
        "decoder_output float16[batch, 80]; gate_prediction float16[batch, 1]; "
        "out_attention_hidden float16[batch, 1024]; out_attention_cell float16[batch, 1024]; "
        "out_decoder_hidden float16[batch, 1024]; out_decoder_cell float16[batch, 1024]; "
        "out_attention_weights float16[batch, text]; out_attention_weights_cum float16[batch, text]; "
        "out_attention_context float16[batch, 512]",
    ),
    "postnet": ("mel_outputs float16[batch, 80, mel]", "mel_outputs_postnet float16[batch, 80, mel]"),
    "waveglow": ("mel float16[batch, 80, mel]; z float16[batch, 8, 32*mel]", "audio float16[batch, 256*mel]"),
}


@pytest.mark.parametrize("part", PARTS)
def test_the_parts_take_and_give_the_classics_tensors(part: Part) -> None:
    model = WaveGlowConfig() if part == "waveglow" else Tacotron2Config()
    contract = contract_of(ModelMetadata(part, "fp16", model, AudioConfig(), "0" * 64))
    inputs, outputs = ("; ".join(map(str, specs)) for specs in (contract.inputs, contract.outputs))
    assert (inputs, outputs) == TENSORS[part]


def test_a_file_without_a_bias_says_what_to_do() -> None:
    with pytest.raises(UserError, match="carries no bias for the denoiser; export it with exports/export_waveglow"):
        Denoiser(dataclasses.replace(WAVEGLOW, bias=None)).check(0.1)


def test_gain_and_arpabet_come_from_the_checkpoints(tmp_path: Path, tiny_checkpoints: dict[str, Path]) -> None:
    plain = load_waveglow(tiny_checkpoints["waveglow"])
    assert waveglow_parts(plain, "fp32")["waveglow"][1].gain == 1.0
    assert tacotron2_parts(load_tacotron2(tiny_checkpoints["tacotron2"]), "fp32")["encoder"][1].arpabet is None
    waveglow = resaved(tiny_checkpoints["waveglow"], tmp_path / "loud.pt", gain=1.5)
    tacotron2 = resaved(tiny_checkpoints["tacotron2"], tmp_path / "arpabet.pt", arpabet=True)
    assert waveglow_parts(load_waveglow(waveglow), "fp32")["waveglow"][1].gain == 1.5
    assert tacotron2_parts(load_tacotron2(tacotron2), "fp32")["encoder"][1].arpabet is True
    (tmp_path / "loud.json").write_text('{"gain": 3}')
    assert load_waveglow(waveglow).gain == 3.0


def test_a_file_beside_the_checkpoint_gives_its_gain_or_is_another_programs(
    tmp_path: Path, tiny_checkpoints: dict[str, Path]
) -> None:
    checkpoint, beside = resaved(tiny_checkpoints["waveglow"], tmp_path / "voice.pt"), tmp_path / "voice.json"
    for content, gain in (("[]", 1.0), ('{"train_config": {"epochs": 2}}', 1.0), ('{"gain": 2, "pitch": 1}', 2.0)):
        beside.write_text(content)
        assert load_waveglow(checkpoint).gain == gain
    for content, message in (("", "must be JSON"), ('{"gain": "loud"}', "gain loud: must be a number")):
        beside.write_text(content)
        with pytest.raises(UserError, match=rf"voice\.json: {message}"):
            load_waveglow(checkpoint)


def test_a_sigma_of_zero_is_not_taken_for_none(tmp_path: Path, tiny_checkpoints: dict[str, Path]) -> None:
    loaded = load_waveglow(resaved(tiny_checkpoints["waveglow"], tmp_path / "still.pt", sigma=0.0))
    assert waveglow_parts(loaded, "fp32")["waveglow"][1].sigma == 0.0


@pytest.mark.parametrize("sigma", [float("nan"), -1.0, 11.0])
def test_a_sigma_that_no_run_would_take_is_not_exported(
    sigma: float, tmp_path: Path, tiny_checkpoints: dict[str, Path]
) -> None:
    with pytest.raises(UserError, match=r"-s/--sigma-infer .*: must be a number from 0 to 10"):
        export_voice(tmp_path / "out", sigma=sigma, **tiny_checkpoints)
    assert not (tmp_path / "out").exists()
