"""Benchmarks report the classic's lines, columns and keys, and every backend is timed over the same region."""

import argparse
import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.benchmark import (
    CSV_HEADER,
    WARMUPS,
    Run,
    benchmark_text,
    measure,
    read_results,
    report,
    results_table,
    summarize,
)
from tests.scripts import assert_one_line_error, model_flags, run_script

STAGES = {"encoder": 0.1, "decoder": 0.2, "postnet": 0.1, "waveglow": 0.4}


def arguments(folder: Path, **changes) -> argparse.Namespace:
    values = {"batch_size": 2, "input_length": 64, "num_iters": 3, "output": folder, "log_file": "nvlog.json"}
    return argparse.Namespace(**{**values, "csv": "row.csv", **changes})


def runs_of(latencies: list[float]) -> list[Run]:
    return [Run(latency, STAGES, 100.0, 51_200, 0.01, 0.02) for latency in latencies]


def test_statistics_are_those_of_the_formulas(tmp_path: Path) -> None:
    latencies = [1.0, 2.0, 4.0]
    result = summarize("PyTorch", arguments(tmp_path), runs_of(latencies), "fp16", 256, torch.device("cpu"))
    assert result.latency_mean == pytest.approx(7 / 3)
    assert result.latency_std == pytest.approx(np.std(latencies))
    assert result.latency_percentiles[50] == 2.0
    assert result.latency_percentiles[100] == 4.0
    assert result.samples_per_second == pytest.approx(51_200 * (1 + 1 / 2 + 1 / 4) / 3)
    assert result.audio_per_second == pytest.approx(result.samples_per_second / 22050)


def test_the_classics_lines_columns_and_keys(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args, runs = arguments(tmp_path), runs_of([1.0, 2.0])
    report(args, summarize("PyTorch", args, runs, "fp16", 256, torch.device("cpu")), runs)
    printed = capsys.readouterr().out
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


def test_the_table_compares_with_the_baseline_of_the_same_size(tmp_path: Path) -> None:
    for framework, latencies, batch in (("PyTorch", [2.0], 1), ("TensorRT", [0.5], 1), ("TensorRT", [0.7], 8)):
        args = arguments(tmp_path, batch_size=batch, csv=None)
        runs = runs_of(latencies)
        report(args, summarize(framework, args, runs, "fp16", 256, torch.device("cpu")), runs)
    rows = [line.split("|")[1:-1] for line in results_table(read_results(tmp_path)).splitlines()]
    cells = [[cell.strip() for cell in row] for row in rows[2:]]
    speedup = [cell.strip() for cell in rows[0]].index("Speed-up over PyTorch")
    assert [(row[0], row[1], row[speedup]) for row in cells] == [
        ("PyTorch", "1", "1.00"),
        ("TensorRT", "1", "4.00"),
        ("TensorRT", "8", "-"),
    ]


def test_warmups_do_not_count(tmp_path: Path) -> None:
    calls = []

    def speak(pieces):
        calls.append([len(piece.encoded.ids) for piece in pieces])
        return [np.ones(512, np.float32)] * 2, STAGES, 2.0

    runs = measure(arguments(tmp_path), speak, torch.device("cpu"))
    assert len(runs) == 3
    assert calls == [[64, 64]] * (3 + WARMUPS)
    assert all(run.samples == 1024 and run.frames == 2.0 for run in runs)


def test_the_text_is_the_phrase_twice() -> None:
    first, second = benchmark_text()[:166], benchmark_text()[167:]
    assert first == second
    assert len(benchmark_text()) == 333


@pytest.mark.slow
def test_every_backend_speaks_the_frames_it_was_asked_for(tmp_path: Path, tiny_folder: Path) -> None:
    size = ["-bs", 2, "-il", 32, "--num-iters", 1, "--frames", 20, "-o", tmp_path]
    random = ["--cpu", "--random-weights", "--wn-channels", 16]
    classic = run_script("test_infer.py", *random, *size)
    loop = run_script("test_infer.py", "--loop", *random, *size)
    onnx = run_script("trt/test_infer_trt.py", *model_flags(tiny_folder), *size)
    for result in (classic, loop, onnx):
        assert result.returncode == 0, result.stderr
    results = read_results(tmp_path)
    assert {r.framework for r in results} == {"PyTorch", "PyTorch, this project's loop", "ONNX Runtime"}
    for result in results:
        assert result.frames == 20
        assert result.latency_mean >= sum(result.stages.values()) > 0


def test_audio_flags_that_contradict_the_model(tmp_path: Path, tiny_folder: Path) -> None:
    onnx = run_script("trt/test_infer_trt.py", *model_flags(tiny_folder), "-sr", 16000, "-o", tmp_path)
    assert_one_line_error(onnx, "-sr 16000", "22050")


def test_sizes_that_make_no_sense(tmp_path: Path) -> None:
    assert_one_line_error(run_script("test_infer.py", "--cpu", "-il", "400", "-o", tmp_path), "-il 400", "333")
    assert_one_line_error(run_script("test_infer.py", "--cpu", "--num-iters", "0", "-o", tmp_path), "--num-iters 0")
