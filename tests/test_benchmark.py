"""Benchmarks report the classic's lines, columns and keys, and every backend is timed over the same region."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.cpu import Measurement
from benchmarks.cpu import measure as compare
from benchmarks.offline import WARMUPS, Benchmark, Run, SpokenBatch, benchmark_text, measure
from benchmarks.result import CSV_HEADER, Result, closing_lines, read_results, results_table, store, summarize
from common.config import AudioConfig
from common.errors import UserError
from tests.scripts import assert_one_line_error, model_flags, run_here

CPU = torch.device("cpu")
PYTORCH, TRT = "test_infer.py", "trt/test_infer_trt.py"
STAGES = {"encoder": 0.1, "decoder": 0.2, "postnet": 0.1, "waveglow": 0.4}
TWO = Benchmark(batch=2, iterations=3)


def runs_of(latencies: list[float], first_audio: tuple[float, ...] = ()) -> list[Run]:
    return [Run(latency, STAGES, 100.0, 51_200, 0.01, 0.02, first_audio) for latency in latencies]


def result_of(latencies: list[float], framework: str = "PyTorch", benchmark: Benchmark = TWO, **changes) -> Result:
    return replace(summarize(framework, benchmark, runs_of(latencies), "fp16", 256, CPU, AudioConfig()), **changes)


def test_statistics_are_those_of_the_formulas() -> None:
    result = result_of([1.0, 2.0, 4.0])
    assert result.latency_mean == pytest.approx(7 / 3)
    assert result.latency_std == pytest.approx(np.std([1.0, 2.0, 4.0]))
    assert result.latency_percentiles[50] == 2.0
    assert result.latency_percentiles[100] == 4.0
    assert result.samples_per_second == pytest.approx(51_200 * (1 + 1 / 2 + 1 / 4) / 3)
    assert result.audio_per_second == pytest.approx(result.samples_per_second / 22050)


def test_seconds_of_audio_are_those_of_the_models_own_rate() -> None:
    audio = AudioConfig(sampling_rate=16000, hop_length=200)
    result = summarize("PyTorch", TWO, runs_of([1.0]), "fp16", 256, CPU, audio)
    assert result.audio_per_second == pytest.approx(51_200 / 16000)
    assert "| 1.25 |" in results_table([result])  # 100 frames of 200 samples


def test_the_classics_lines_columns_and_keys(tmp_path: Path) -> None:
    runs, result = runs_of([1.0, 2.0]), result_of([1.0, 2.0])
    store(tmp_path, result, runs, {"batch_size": 2}, csv_file="row.csv")
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
    header, row = list(csv.reader((tmp_path / "row.csv").open()))
    assert header == CSV_HEADER
    assert dict(zip(header, row, strict=True))["RUN_MODE"] == "cpu_fp16"
    assert dict(zip(header, row, strict=True))["LAT"] == "1.500000"
    entries = [json.loads(line.removeprefix("DLLL ")) for line in (tmp_path / "nvlog.json").read_text().splitlines()]
    assert [entry["step"] for entry in entries] == ["PARAMETER", [0], [1]]
    assert entries[1]["data"]["tacotron2_latency"] == pytest.approx(0.4)
    assert entries[1]["data"]["throughput"] == pytest.approx(51_200)


def test_a_stored_result_says_when_where_and_with_what_it_was_measured(tmp_path: Path) -> None:
    store(tmp_path, result_of([1.0, 2.0]), runs_of([1.0, 2.0]), {})
    (stored,) = read_results(tmp_path)
    assert stored == result_of([1.0, 2.0], machine=stored.machine)
    assert stored.latencies == (1.0, 2.0)
    assert stored.machine is not None
    assert stored.machine.device
    assert stored.machine.threads == torch.get_num_threads()
    assert stored.machine.versions["torch"] == torch.__version__
    assert stored.machine.date[:2] == "20"
    assert stored.machine.command


def test_a_file_that_is_no_result_is_named(tmp_path: Path) -> None:
    (tmp_path / "x_bs1_il2_FP32.json").write_text('{"framework": "x"}')
    with pytest.raises(UserError, match=r"x_bs1_il2_FP32\.json: not a benchmark's result"):
        read_results(tmp_path)


def test_streams_tell_the_time_to_first_audio() -> None:
    runs = runs_of([1.0, 1.0], first_audio=(0.1, 0.3))
    lines = closing_lines(summarize("PyTorch", TWO, runs, "fp16", 256, CPU, AudioConfig()))
    assert "First audio average (seconds) = 0.20000" in lines
    assert "First audio cl 100 (seconds) = 0.30000" in lines
    assert not [line for line in closing_lines(result_of([1.0])) if "First audio" in line]


def test_the_table_compares_with_the_baseline_of_the_same_setting(tmp_path: Path) -> None:
    one = Benchmark(batch=1)
    for result in (
        result_of([2.0], benchmark=one),
        result_of([3.0], benchmark=one, precision="FP32"),
        result_of([0.5], "TensorRT", one),
        result_of([0.6], "TensorRT", one, precision="FP32"),
        result_of([0.7], "TensorRT", Benchmark(batch=8)),
        result_of([0.8], "TensorRT", one, wn_channels=512),
    ):
        store(tmp_path, result, runs_of([1.0]), {})
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in results_table(read_results(tmp_path)).splitlines()
    ]
    speedup = rows[0].index("Speed-up over PyTorch")
    assert {(row[0], row[1], row[3], row[4], row[speedup]) for row in rows[2:]} == {
        ("PyTorch", "1", "FP16", "2.0000", "1.00"),
        ("PyTorch", "1", "FP32", "3.0000", "1.00"),
        ("TensorRT", "1", "FP16", "0.5000", "4.00"),
        ("TensorRT", "1", "FP32", "0.6000", "5.00"),
        ("TensorRT", "8", "FP16", "0.7000", "-"),
        ("TensorRT", "1", "FP16", "0.8000", "-"),
    }


def test_warmups_do_not_count(tmp_path: Path) -> None:
    calls = []

    def speak(pieces):
        calls.append([len(piece.encoded.ids) for piece in pieces])
        return SpokenBatch([np.ones(512, np.float32)] * 2, STAGES, 2.0)

    runs = measure(TWO, speak, CPU, tmp_path, 22050)
    assert len(runs) == 3
    assert calls == [[64, 64]] * (3 + WARMUPS)
    assert all(run.samples == 1024 and run.frames == 2.0 for run in runs)


def test_the_text_is_the_phrase_twice() -> None:
    first, second = benchmark_text()[:166], benchmark_text()[167:]
    assert first == second
    assert len(benchmark_text()) == 333


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
    assert {r.framework for r in results} == {"PyTorch", "PyTorch, this project's loop", "ONNX Runtime"}
    assert sorted(r.batches for r in results if "loop" in r.framework) == [1, 3]
    assert "| 2, 3 in a row |" in results_table(results)
    for result in results:
        assert result.samples_per_second * result.latency_mean == pytest.approx(2 * 20 * 256)
        assert result.frames == 20
        assert result.latency_mean >= sum(result.stages.values()) > 0


@pytest.mark.slow
def test_streams_are_benchmarked(tmp_path: Path, tiny_folder: Path) -> None:
    size = ["-bs", 2, "-il", 32, "--num-iters", 1, "--frames", 80, "-o", tmp_path]
    result = run_here(TRT, *model_flags(tiny_folder), "--cpu-backend", "onnxruntime", "--stream", *size)
    assert result.returncode == 0, result.stderr
    assert "First audio average (seconds) = " in result.stdout
    (stored,) = read_results(tmp_path)
    assert stored.first_audio_mean is not None
    assert 0 < stored.first_audio_mean < stored.latency_mean


def test_flags_that_would_do_nothing_are_refused(tmp_path: Path) -> None:
    for flag in (("--denoise",), ("--stream",), ("--batches", 2)):
        assert_one_line_error(run_here(PYTORCH, "--cpu", *flag, "-o", tmp_path), flag[0], "--loop")
    both = ("--cpu", "--loop", "--stream", "--batches", 2)
    assert_one_line_error(run_here(PYTORCH, *both, "-o", tmp_path), "--batches", "--stream")
    odd = ("--cpu", "--random-weights", "--prenet-dim", 16)
    assert_one_line_error(run_here(PYTORCH, *odd, "-o", tmp_path), "--prenet-dim", "random weights")


def test_names_that_leave_the_folder_are_refused(tmp_path: Path, tiny_folder: Path) -> None:
    for flag in ("--log-file", "--csv"):
        result = run_here(TRT, *model_flags(tiny_folder), flag, "../x", "-o", tmp_path / "out")
        assert_one_line_error(result, flag, "../x", "plain file name")


def test_audio_flags_that_contradict_the_model(tmp_path: Path, tiny_folder: Path) -> None:
    onnx = run_here(TRT, *model_flags(tiny_folder), "-sr", 16000, "-o", tmp_path)
    assert_one_line_error(onnx, "-sr 16000", "22050")


def test_sizes_that_make_no_sense(tmp_path: Path) -> None:
    assert_one_line_error(run_here(PYTORCH, "--cpu", "-il", "400", "-o", tmp_path), "-il 400", "333")
    assert_one_line_error(run_here(PYTORCH, "--cpu", "--num-iters", "0", "-o", tmp_path), "--num-iters 0")


def test_the_comparison_of_backends_says_what_it_has_measured(capsys: pytest.CaptureFixture[str]) -> None:
    runs = {"one": lambda: Measurement(2.0, 1.0), "another": lambda: Measurement(3.0, 1.0)}
    assert compare(runs, 1) == {"one": [Measurement(2.0, 1.0)], "another": [Measurement(3.0, 1.0)]}
    assert capsys.readouterr().err.splitlines() == [
        "one, warm-up: 2.00 s of audio a second",
        "another, warm-up: 3.00 s of audio a second",
        "one, run 1 of 1: 2.00 s of audio a second",
        "another, run 1 of 1: 3.00 s of audio a second",
    ]
