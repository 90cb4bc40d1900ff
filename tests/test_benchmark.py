"""Benchmarks report the classic's lines, columns and keys, and every backend is timed over the same region."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.cpu import measure as compare
from benchmarks.machine import Machine
from benchmarks.offline import Benchmark, SpokenBatch, measure
from benchmarks.report import CSV_HEADER, closing_lines, log_name, read_results, results_table, store
from benchmarks.result import Result
from benchmarks.texts import classic_text
from common.errors import UserError
from tests.scripts import assert_one_line_error, model_flags, run_here

CPU = torch.device("cpu")
PYTORCH, TRT = "test_infer.py", "trt/test_infer_trt.py"
STAGES = {"encoder": 0.1, "decoder": 0.2, "postnet": 0.1, "waveglow": 0.4, "denoiser": 0.0}
SETTINGS = {
    "device": "CPU",
    "batch_size": 2,
    "batches": 1,
    "input_length": 64,
    "precision": "FP16",
    "wn_channels": 256,
    "sampling_rate": 22050,
    "hop_length": 256,
}


def result_of(latencies: list[float], framework: str = "PyTorch", first_audio: tuple[float, ...] = (), **settings):
    """A result of batches of 51,200 samples."""
    values = {stage: [seconds] * len(latencies) for stage, seconds in STAGES.items()}
    values |= {"latency": latencies, "throughput": [51_200 / latency for latency in latencies]}
    fixed = {"frames": 100.0, "samples": 51_200.0, "preprocessing": 0.01, "postprocessing": 0.02}
    values |= {name: [value] * len(latencies) for name, value in fixed.items()} | {"first_audio": list(first_audio)}
    return Result(framework, SETTINGS | settings, values, Machine.this(CPU))


def test_statistics_are_those_of_the_formulas() -> None:
    result = result_of([1.0, 2.0, 4.0])
    assert result.mean("latency") == pytest.approx(7 / 3)
    assert result.std("latency") == pytest.approx(np.std([1.0, 2.0, 4.0]))
    assert result.percentile("latency", 50) == 2.0
    assert result.percentile("latency", 100) == 4.0
    assert "Throughput average (samples/sec) = 29867" in closing_lines(result)  # 51,200 * (1 + 1/2 + 1/4) / 3
    assert "Audio seconds per second = 1.4" in closing_lines(result)


def test_seconds_of_audio_are_those_of_the_models_own_rate() -> None:
    result = result_of([1.0], sampling_rate=16000, hop_length=200)
    assert "| 1.25 | 3.2 |" in results_table([result])  # 100 frames of 200 samples; 51,200 samples in a second


def test_the_classics_lines_columns_and_keys(tmp_path: Path) -> None:
    result = result_of([1.0, 2.0])
    store(tmp_path, result, {"batch_size": 2}, "nvlog.json", "mine")
    printed = "\n".join(closing_lines(result))
    for start in (
        "Throughput average (samples/sec) = ",
        "Preprocessing average (seconds) = ",
        "Postprocessing average (seconds) = ",
        "Number of mels per audio average = ",
        "Tacotron2 latency average (seconds) = ",
        "WaveGlow latency average (seconds) = ",
        "Denoiser latency average (seconds) = ",
        "Latency average (seconds) = ",
        "Latency std (seconds) = ",
        *(f"Latency cl {p} (seconds) = " for p in (50, 90, 95, 99, 100)),
    ):
        assert f"\n{start}" in printed
    assert "Peak device memory" not in printed  # of a GPU alone
    header, row = list(csv.reader((tmp_path / "log_bs2_il64_cpu_fp16_wn256_pytorch_mine.log").open()))
    assert header == CSV_HEADER.split(",")
    assert dict(zip(header, row, strict=True))["RUN_MODE"] == "cpu_fp16"
    assert dict(zip(header, row, strict=True))["LAT"] == "1.500000"
    entries = [json.loads(line.removeprefix("DLLL ")) for line in (tmp_path / "nvlog.json").read_text().splitlines()]
    assert [entry["step"] for entry in entries] == ["PARAMETER", [0], [1]]
    assert entries[1]["data"]["tacotron2_latency"] == pytest.approx(0.4)
    assert entries[1]["data"]["throughput"] == pytest.approx(51_200)


def test_a_stored_result_says_when_where_and_with_what_it_was_measured(tmp_path: Path) -> None:
    result = result_of([1.0, 2.0])
    store(tmp_path, result, {}, "nvlog.json")
    [stored] = read_results(tmp_path)
    assert stored == result
    assert stored.machine.device
    assert stored.machine.threads == torch.get_num_threads()
    assert stored.machine.versions["torch"] == torch.__version__
    assert stored.machine.date[:2] == "20"
    [path] = tmp_path.glob("PyTorch_bs2_il64_FP16_wn256_cpu.json")
    assert json.loads(path.read_text())["statistics"]["latency"]["p50"] == 1.5


def test_a_file_that_is_no_result_is_named(tmp_path: Path) -> None:
    (tmp_path / "x_bs1_il2_FP32.json").write_text('{"framework": "x"}')
    with pytest.raises(UserError, match=r"x_bs1_il2_FP32\.json: not a benchmark's result"):
        read_results(tmp_path)


def test_streams_report_the_time_to_first_audio() -> None:
    lines = closing_lines(result_of([1.0, 1.0], first_audio=(0.1, 0.3)))
    assert "First audio average (seconds) = 0.20000" in lines
    assert "First audio cl 100 (seconds) = 0.30000" in lines
    assert not [line for line in closing_lines(result_of([1.0])) if "First audio" in line]


def test_the_table_compares_with_the_baseline_of_the_same_setting(tmp_path: Path) -> None:
    for result in (
        result_of([2.0]),
        result_of([3.0], precision="FP32"),
        result_of([0.5], "TensorRT"),
        result_of([0.6], "TensorRT", precision="FP32"),
        result_of([0.7], "TensorRT", batch_size=8),
        result_of([0.8], "TensorRT", wn_channels=512),
    ):
        store(tmp_path, result, {}, "nvlog.json")
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in results_table(read_results(tmp_path)).splitlines()
    ]
    speedup = rows[0].index("Speed-up over PyTorch")
    assert {(row[0], row[1], row[3], row[4], row[speedup]) for row in rows[2:]} == {
        ("PyTorch", "2", "FP16", "2.0000", "1.00"),
        ("PyTorch", "2", "FP32", "3.0000", "1.00"),
        ("TensorRT", "2", "FP16", "0.5000", "4.00"),
        ("TensorRT", "2", "FP32", "0.6000", "5.00"),
        ("TensorRT", "8", "FP16", "0.7000", "-"),
        ("TensorRT", "2", "FP16", "0.8000", "-"),
    }


def test_logs_are_named_by_what_ran() -> None:
    loop = result_of([1.0], "PyTorch, this project's loop")
    assert log_name(loop, "mine") == "log_bs2_il64_cpu_fp16_wn256_pytorch-loop_mine.log"
    assert log_name(result_of([1.0], "ONNX Runtime"), "x") == "log_bs2_il64_cpu_fp16_wn256_onnx-runtime_x.log"


def test_warm_ups_do_not_count(tmp_path: Path) -> None:
    calls = []

    def speak(pieces):
        calls.append([len(piece.encoded.ids) for piece in pieces])
        return SpokenBatch([np.ones(512, np.float32)] * 2, STAGES, 2.0)

    values = measure(Benchmark(batch_size=2, num_iters=3, output=tmp_path), speak, CPU, 22050)
    assert len(calls) > 3
    assert calls[0] == [64, 64]
    assert values["samples"] == [1024] * 3
    assert values["frames"] == [2.0] * 3
    assert len(values["latency"]) == 3


def test_the_text_is_the_phrase_twice() -> None:
    first, second = classic_text()[:166], classic_text()[167:]
    assert first == second
    assert len(classic_text()) == 333


@pytest.mark.slow
def test_every_backend_speaks_the_frames_it_was_asked_for(
    tmp_path: Path, tiny_folder: Path, tiny_checkpoints: dict[str, Path]
) -> None:
    size = ["-bs", 2, "-il", 32, "--num-iters", 1, "--frames", 20, "-o", tmp_path]
    tiny = ["--cpu", "--tacotron2", tiny_checkpoints["tacotron2"], "--waveglow", tiny_checkpoints["waveglow"]]
    onnx = [*model_flags(tiny_folder), "--cpu-backend", "onnxruntime"]
    for script, flags in (
        (PYTORCH, tiny),
        (PYTORCH, [*tiny, "--loop", "--denoise"]),
        (PYTORCH, [*tiny, "--loop", "--batches", 3]),
        (TRT, onnx),
    ):
        result = run_here(script, *flags, *size)
        assert result.returncode == 0, result.stderr
    results = read_results(tmp_path)
    assert {r.subject for r in results} == {"PyTorch", "PyTorch, this project's loop", "ONNX Runtime"}
    assert sorted(r.settings["batches"] for r in results if "loop" in r.subject) == [1, 3]
    assert "| 2, 3 in a row |" in results_table(results)
    for result in results:
        assert result.mean("throughput") * result.mean("latency") == pytest.approx(2 * 20 * 256)
        assert result.mean("frames") == 20
        assert result.mean("latency") >= sum(map(result.mean, STAGES)) > 0


@pytest.mark.slow
def test_streams_are_benchmarked(tmp_path: Path, tiny_folder: Path) -> None:
    size = ["-bs", 2, "-il", 32, "--num-iters", 1, "--frames", 80, "-o", tmp_path]
    result = run_here(TRT, *model_flags(tiny_folder), "--cpu-backend", "onnxruntime", "--stream", *size)
    assert result.returncode == 0, result.stderr
    assert "First audio average (seconds) = " in result.stdout
    (stored,) = read_results(tmp_path)
    assert 0 < stored.mean("first_audio") < stored.mean("latency")


def test_flags_that_would_do_nothing_are_refused(tmp_path: Path) -> None:
    for flag in (("--denoise",), ("--stream",), ("--batches", 2)):
        assert_one_line_error(run_here(PYTORCH, "--cpu", *flag, "-o", tmp_path), flag[0], "--loop")
    both = ("--cpu", "--loop", "--stream", "--batches", 2)
    assert_one_line_error(run_here(PYTORCH, *both, "-o", tmp_path), "--batches", "--stream")
    odd = ("--cpu", "--random-weights", "--prenet-dim", 16)
    assert_one_line_error(run_here(PYTORCH, *odd, "-o", tmp_path), "--prenet-dim", "random weights")


def test_names_that_leave_the_folder_are_refused(tmp_path: Path, tiny_folder: Path) -> None:
    for flag in ("--log-file", "--log-suffix"):
        result = run_here(TRT, *model_flags(tiny_folder), flag, "../x", "-o", tmp_path / "out")
        assert_one_line_error(result, flag, "../x", "plain file name")


def test_audio_flags_that_contradict_the_model(tmp_path: Path, tiny_folder: Path) -> None:
    onnx = run_here(TRT, *model_flags(tiny_folder), "-sr", 16000, "-o", tmp_path)
    assert_one_line_error(onnx, "-sr 16000", "22050")


def test_sizes_that_make_no_sense(tmp_path: Path) -> None:
    assert_one_line_error(run_here(PYTORCH, "--cpu", "-il", "400", "-o", tmp_path), "-il", "400", "333")
    assert_one_line_error(run_here(PYTORCH, "--cpu", "--num-iters", "0", "-o", tmp_path), "--num-iters", "0")


def test_the_comparison_of_backends_says_what_it_has_measured(capsys: pytest.CaptureFixture[str]) -> None:
    found = compare({name: lambda: {"audio": 2.0, "taken": 1.0} for name in ("one", "another")}, 1)
    assert [(result.subject, result.values["speed"]) for result in found] == [("one", [2.0]), ("another", [2.0])]
    assert capsys.readouterr().err.splitlines() == [
        "one, warm-up: 2.00 s of audio a second",
        "another, warm-up: 2.00 s of audio a second",
        "one, run 1 of 1: 2.00 s of audio a second",
        "another, run 1 of 1: 2.00 s of audio a second",
    ]
