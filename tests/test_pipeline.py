"""The whole pipeline as users run it: scripts as processes, phrase files in, wav files out."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.io import wavfile

from common.files import REPOSITORY
from pipeline.console import EXIT_CUT
from tests.scripts import leftovers, model_flags, run_here, run_script

pytestmark = [pytest.mark.slow, pytest.mark.alone]

PHRASES = [
    "The forms of printed letters should be beautiful.",
    "Good morning!",
    "She sells seashells by the seashore.",
    "It is twelve o'clock.",
    "The weather was fine, and the children played in the garden.",
    "Thank you.",
    "He paid $25 for the book in 1984.",
    "What a beautiful day it is today.",
]


def check_wav(path: Path, text: str) -> np.ndarray:
    """A wav must be float32 mono at 22,050 Hz, finite, not silent, not clipped, and as long as its text takes."""
    rate, audio = wavfile.read(path)
    assert rate == 22050
    assert audio.dtype == np.float32
    assert audio.ndim == 1
    assert len(audio) % 256 == 0
    assert np.isfinite(audio).all()
    peak, level = float(np.abs(audio).max()), float(np.sqrt((audio**2).mean()))
    assert peak == pytest.approx(1, abs=1e-4)
    assert 0.02 < level < 0.4
    assert (np.abs(audio) > 0.999).sum() < 5  # a peak, no plateau
    assert 0.035 * len(text) < len(audio) / rate < 0.15 * len(text) + 0.5
    return audio


@pytest.fixture(scope="module")
def spoken(tmp_path_factory: pytest.TempPathFactory, demo_folder: Path) -> tuple[Path, subprocess.CompletedProcess]:
    folder = tmp_path_factory.mktemp("spoken")
    phrases = folder / "eight.txt"
    phrases.write_text("\n".join(PHRASES) + "\n")
    result = run_script("trt/inference_trt.py", "-i", phrases, "-o", folder, *model_flags(demo_folder), cwd=folder)
    assert result.returncode == 0, result.stderr
    return folder, result


def test_eight_phrases_become_eight_sound_wavs(spoken: tuple[Path, subprocess.CompletedProcess]) -> None:
    folder, _ = spoken
    assert sorted(p.name for p in folder.glob("*.wav")) == [f"audio_{i}_trt.wav" for i in range(8)]
    for i, text in enumerate(PHRASES):
        check_wav(folder / f"audio_{i}_trt.wav", text)
    assert not [p for p in folder.iterdir() if p.name.startswith(".")]


def test_words_are_recognised_in_the_right_files(spoken: tuple[Path, subprocess.CompletedProcess]) -> None:
    from tests.recogniser import transcribe, word_errors

    folder, _ = spoken
    errors = words = 0
    for i, text in enumerate(PHRASES):
        wrong, total = word_errors(text, transcribe(folder / f"audio_{i}_trt.wav"))
        assert wrong <= total / 2, text  # the right phrase in the right file
        errors, words = errors + wrong, words + total
    assert errors / words < 0.15  # the voice's own measurements: 9 % over harder sentences


def test_the_run_is_reported(spoken: tuple[Path, subprocess.CompletedProcess]) -> None:
    _, result = spoken
    out = result.stdout
    for stage in ("Tacotron2 Encoder", "Tacotron2 Decoder", "Tacotron2 Postnet", "WaveGlow"):
        assert f"Running {stage}\n" in out
    assert re.search(r"^Stopping after \d+ decoder steps$", out, re.MULTILINE)
    assert "\r" not in result.stderr  # no progress bar where there is no terminal
    table = out[out.index("Phrase") :]
    for i in range(8):
        assert f"audio_{i}_trt.wav" in table
    assert table.count("end of speech") == 8


def test_standard_input_and_text_flag_say_the_same(tmp_path: Path, demo_folder: Path) -> None:
    models = model_flags(demo_folder)
    piped = run_script("trt/inference_trt.py", "-i", "-", "-o", tmp_path / "a", *models, input="Good morning!\n")
    flag = run_here("trt/inference_trt.py", "--text", "Good morning!", "-o", tmp_path / "b", *models)
    assert piped.returncode == flag.returncode == 0, piped.stderr + flag.stderr
    name = "audio_0_trt.wav"
    assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_pytorch_baseline_speaks_the_same_words(tmp_path: Path, demo_folder: Path) -> None:
    request = ("--text", "Good morning!", "-o", tmp_path, "--denoise")
    baseline = run_here("inference.py", *request, "--suffix", "pt", "--cpu")
    engines = run_here("trt/inference_trt.py", *request, *model_flags(demo_folder))
    assert baseline.returncode == engines.returncode == 0, baseline.stderr + engines.stderr
    plain = check_wav(tmp_path / "audio_0_pt.wav", "Good morning!")
    onnx = check_wav(tmp_path / "audio_0_trt.wav", "Good morning!")
    assert len(plain) == len(onnx)
    assert np.abs(plain - onnx).max() < 5e-3


def test_without_paths_the_demo_voice_is_exported_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    models = tmp_path / "project" / "output"
    monkeypatch.setattr("pipeline.model_files.DEMO_FOLDER", models)
    spoken = tmp_path / "spoken"
    spoken.mkdir()
    flags = ("--text", "Hi.", "-o", spoken)
    first = run_here("trt/inference_trt.py", *flags, cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    assert f"Exporting the demo voice to {models}" in first.stdout
    written = (models / "encoder.onnx").stat().st_mtime_ns
    second = run_here("trt/inference_trt.py", *flags, cwd=tmp_path)
    assert second.returncode == 0
    assert "Exporting" not in second.stdout
    assert (models / "encoder.onnx").stat().st_mtime_ns == written
    assert sorted(path.name for path in spoken.iterdir()) == ["audio_0_trt.wav", "manifest.jsonl", "nvlog.json"]
    assert not (tmp_path / "output").exists()


def test_the_readmes_arpabet_is_spoken_as_it_says(tmp_path: Path, demo_folder: Path) -> None:
    from tests.recogniser import transcribe

    readme = (REPOSITORY / "README.md").read_text()
    (line,) = re.findall(r'echo "(I say \{[A-Z0-9 ]+\}\.)"', readme)
    result = run_here("trt/inference_trt.py", "--text", line, "-o", tmp_path, *model_flags(demo_folder))
    assert result.returncode == 0
    assert "ARPAbet" not in result.stdout
    assert "houses" in transcribe(tmp_path / "audio_0_trt.wav").lower()


def test_interrupting_leaves_the_finished_wavs_whole(tmp_path: Path, demo_folder: Path) -> None:
    phrases = tmp_path / "many.txt"
    phrases.write_text("\n".join(PHRASES * 5))
    script = [sys.executable, REPOSITORY / "trt/inference_trt.py", "-i", phrases, "-o", tmp_path]
    command = [*script, "--batch-size", "1", *model_flags(demo_folder)]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, env=environment, text=True, **pipes) as process:
        assert process.stdout is not None
        vocoded = 0
        while vocoded < 3:  # two phrases are done, and the third one is in WaveGlow
            line = process.stdout.readline()
            assert line, "it ended before its third phrase"
            vocoded += line == "Running WaveGlow\n"
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted; 2 of 40 phrases are done, and their files are whole; --resume" in errors
    finished = sorted(tmp_path.glob("*.wav"))
    assert len(finished) == 2
    for path in finished:
        check_wav(path, PHRASES[int(path.name.split("_")[1]) % 8])
    assert not [name for name in leftovers(tmp_path) if not name.endswith(".wav")]


def test_a_hundred_thousand_characters_in_bounded_memory(tmp_path: Path, tiny_folder: Path) -> None:
    """With the tiny model, so that it takes seconds; what grows with the text is the same with any model."""
    text = "The forms of printed letters should be beautiful, and so on. "
    (tmp_path / "long.txt").write_text(text * (100_000 // len(text) + 1))
    # VmHWM, since getrusage's maximum counts the process that this one was forked from.
    code = (
        "import re, runpy, sys; sys.argv = sys.argv[1:]\n"
        "try: runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "finally: print('PEAK', int(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1]) // 1024)"
    )
    script = [sys.executable, "-c", code, REPOSITORY / "trt/inference_trt.py", "-i", tmp_path / "long.txt"]
    flags = ["-o", tmp_path, *model_flags(tiny_folder), "--max-decoder-steps", "16", "--gate-threshold", "1"]
    result = subprocess.run([*script, *flags], capture_output=True, text=True, check=False, timeout=900)
    assert result.returncode == EXIT_CUT, result.stderr
    samples = os.path.getsize(tmp_path / "audio_0_trt.wav") // 4
    pieces = 100_000 // 256
    assert samples > pieces * 16 * 256
    assert int(result.stdout.split("PEAK ")[1]) < 800  # MB


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_memory_stays_as_lengths_vary(backend: str, tiny_folder: Path) -> None:
    """In a process of its own, whose memory is its own. 130 lengths show what more would."""
    code = f"""
import random, re
from pipeline import Voice
random.seed(0)
def resident():
    return int(re.search(r"VmRSS:\\s+(\\d+)", open("/proc/self/status", encoding="utf-8").read())[1]) // 1024
with Voice.load({str(tiny_folder)!r}, cpu_backend={backend!r}) as voice:
    for number in range(130):
        settings = dict(gate_threshold=1.0, max_decoder_steps=random.randint(5, 100))
        text = "word " * random.randint(1, 50)
        list(voice.stream(text, **settings)) if number % 2 else voice.speak(text, **settings)
        if number == 10:
            before = resident()
    print(resident() - before)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=900)
    assert result.returncode == 0, result.stderr
    assert int(result.stdout) < 150  # MB
