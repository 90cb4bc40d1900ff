"""Bad input: one clear line, a non-zero exit, and nothing broken left behind."""

import os
from pathlib import Path

import pytest
import torch

from common.metadata import Precision
from tests.scripts import assert_one_line_error, leftovers, model_flags, run_here, run_script

SPEAK = "trt/inference_trt.py"


@pytest.fixture
def phrases(tmp_path: Path) -> Path:
    path = tmp_path / "phrases.txt"
    path.write_text("Hello there.\n")
    return path


@pytest.mark.parametrize(
    ("content", "word"),
    [("Crème brûlée\n".encode("latin-1"), "UTF-8"), ("... !\n\U0001f600\n".encode(), "line 1: nothing to speak")],
    ids=["latin1", "nothing to speak"],
)
def test_bad_phrase_file(tmp_path: Path, tiny_folder: Path, content: bytes, word: str) -> None:
    path = tmp_path / "bad.txt"
    path.write_bytes(content)
    result = run_here(SPEAK, "-i", path, "-o", tmp_path / "out", "--strict", *model_flags(tiny_folder))
    assert_one_line_error(result, word)
    assert leftovers(tmp_path / "out") == []


def test_output_folder_that_cannot_be_written(tmp_path: Path, phrases: Path, tiny_folder: Path) -> None:
    (tmp_path / "file").touch()
    result = run_here(SPEAK, "-i", phrases, "-o", tmp_path / "file", *model_flags(tiny_folder))
    assert_one_line_error(result, "can't be written", "-o")


@pytest.mark.parametrize(
    "flags",
    [
        ("--gate-threshold", "1.5"),
        ("--max-decoder-steps", "0"),
        ("--batch-size", "-1"),
        ("-s", "nan"),
        ("--seed", "-3"),
        ("--window", "10"),
        ("-sr", "16000"),
        ("--stft-hop-length", "200"),
    ],
    ids=" ".join,
)
def test_values_out_of_range(tmp_path: Path, phrases: Path, tiny_folder: Path, flags: tuple[str, str]) -> None:
    result = run_here(SPEAK, "-i", phrases, "-o", tmp_path / "out", *flags, *model_flags(tiny_folder))
    assert_one_line_error(result, *flags)
    assert leftovers(tmp_path / "out") == []


def test_models_incomplete_missing_or_of_the_wrong_kind(tmp_path: Path, phrases: Path, tiny_folder: Path) -> None:
    common = ["-i", phrases, "-o", tmp_path / "out"]
    encoder = ["--encoder", tiny_folder / "encoder.onnx"]
    assert_one_line_error(run_here(SPEAK, *common, *encoder), "--decoder", "--waveglow", "all four")
    flags = model_flags(tiny_folder)
    assert_one_line_error(run_here(SPEAK, *common, *flags, "--postnet", tmp_path / "no.onnx"), "no.onnx", "export")
    swapped = [*flags, "--postnet", tiny_folder / "waveglow.onnx"]
    assert_one_line_error(run_here(SPEAK, *common, *swapped), "holds the waveglow, not the postnet")
    (tmp_path / "cut.onnx").write_bytes((tiny_folder / "postnet.onnx").read_bytes()[:3000])
    truncated = [*flags, "--postnet", tmp_path / "cut.onnx"]
    assert_one_line_error(run_here(SPEAK, *common, *truncated), "cut.onnx", "truncated")
    assert not (tmp_path / "out").exists()


def test_precisions_that_do_not_agree(tmp_path: Path, phrases: Path, tiny_folders: dict[Precision, Path]) -> None:
    common = ["-i", phrases, "-o", tmp_path / "out"]
    fp32 = model_flags(tiny_folders["fp32"])
    assert_one_line_error(run_here(SPEAK, *common, *fp32, "--fp16"), "is fp32, but --fp16 was given")
    assert not (tmp_path / "out").exists()
    mixed = [*fp32, "--postnet", tiny_folders["fp16"] / "postnet.onnx"]
    assert_one_line_error(run_here(SPEAK, *common, *mixed), "fp16", "fp32", "one precision")


@pytest.mark.parametrize("script", ["exports/export_tacotron2_onnx.py", "exports/export_waveglow_onnx.py"])
def test_bad_checkpoints_leave_no_onnx_file(tmp_path: Path, tiny_checkpoints: dict[str, Path], script: str) -> None:
    own, other = ("tacotron2", "waveglow") if "tacotron2" in script else ("waveglow", "tacotron2")
    whole = tiny_checkpoints[own].read_bytes()
    (tmp_path / "cut.pt").write_bytes(whole[: len(whole) // 2])
    flag, out = f"--{own}", tmp_path / "out"
    assert_one_line_error(run_here(script, flag, tmp_path / "cut.pt", "-o", out), "cut.pt", "truncated")
    assert_one_line_error(run_here(script, flag, tiny_checkpoints[other], "-o", out), f"give it as {other}")
    assert_one_line_error(run_here(script, flag, tmp_path / "no.pt", "-o", out), "no.pt", "no such checkpoint")
    torch.save({"state_dict": {}, "hook": UnsafeObject()}, tmp_path / "unsafe.pt")
    assert_one_line_error(run_here(script, flag, tmp_path / "unsafe.pt", "-o", out), "refused", "system")
    assert not out.exists() or list(out.iterdir()) == []


class UnsafeObject:
    def __reduce__(self):
        return (os.system, ("true",))


@pytest.mark.slow
def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    # In a process of its own: whatever ends a process is in it.
    assert_one_line_error(run_script(SPEAK, "-i", tmp_path / "no.txt", cwd=tmp_path), "no.txt")
    result = run_script(SPEAK, "-i", tmp_path / "no.txt", "--debug", cwd=tmp_path)
    assert result.returncode != 0
    assert "Traceback" in result.stderr


def test_full_disk_leaves_no_half_wav(small_disk: Path, tmp_path: Path, tiny_folder: Path) -> None:
    phrases = tmp_path / "two.txt"
    phrases.write_text("Hi.\nA somewhat longer phrase that does not fit any more.\n")
    flags = ["--gate-threshold", "0.999999", "--batch-size", "1", *model_flags(tiny_folder)]
    result = run_here(SPEAK, "-i", phrases, "-o", small_disk, *flags)
    assert_one_line_error(result, "No space left", "free some space")
    assert leftovers(small_disk) == ["audio_0_trt.wav"]
    assert (small_disk / "audio_0_trt.wav").stat().st_size > 100_000
