"""The demo voice on an NVIDIA GPU in FP16: captured loop, plain loop, fast kernels and the CPU say the same."""

import numpy as np
import pytest
import torch

from common.engine import Engine
from common.metadata import Part
from common.phrases import Phrase
from pipeline import Audio, Voice
from pipeline.pieces import PieceResult
from pipeline.torch_engines import torch_engines
from tacotron2.loading import DEMO_TACOTRON2, load_tacotron2
from tests.models import speak_phrases, synthesizer_on
from waveglow.loading import DEMO_WAVEGLOW, load_waveglow

pytestmark = pytest.mark.cuda

Engines = dict[Part, Engine]
TEXTS = [
    "The forms of printed letters should be beautiful.",
    "Good morning!",
    "She sells seashells by the seashore, shells she sells are great.",
    "It is twelve o'clock.",
    "The weather was fine, and the children went out to play in the garden behind the house.",
    "Thank you.",
    "What a beautiful day it is today.",
    "Their arrangement on the page should be reasonable, and a help to the shapeliness of the letters themselves.",
]


def engines_on(device: str, fast: bool = False) -> Engines:
    precision = "fp16" if device == "cuda" else "fp32"
    return torch_engines(load_tacotron2(DEMO_TACOTRON2), load_waveglow(DEMO_WAVEGLOW), precision, device, fast)


@pytest.fixture(scope="module")
def plain_gpu() -> Engines:
    return engines_on("cuda")


@pytest.fixture(scope="module")
def fast_gpu() -> Engines:
    return engines_on("cuda", fast=True)


@pytest.fixture(scope="module")
def on_cpu() -> list[PieceResult]:
    torch.set_num_threads(8)
    return speak(engines_on("cpu"), range(8))


def speak(engines: Engines, which: range | list[int], **options) -> list[PieceResult]:
    spoken = list(speak_phrases(synthesizer_on(engines, **options), [Phrase(i, TEXTS[i]) for i in which]))
    return list(spoken)


def log_spectrum(audio: np.ndarray) -> np.ndarray:
    frames = np.lib.stride_tricks.sliding_window_view(audio, 1024)[::256] * np.hanning(1024)
    return np.log10(np.abs(np.fft.rfft(frames)) + 1e-3)


def assert_same_speech(found: PieceResult, expected: PieceResult, difference: float = 0.15) -> None:
    """Same ending and same length to a frame or two, and spectra that differ by little (mean, in decades)."""
    assert found.stop_reason == expected.stop_reason
    assert abs(found.frames - expected.frames) <= 2
    length = min(len(found.audio), len(expected.audio))
    distance = np.abs(log_spectrum(found.audio[:length]) - log_spectrum(expected.audio[:length])).mean()
    assert distance < difference, (expected.piece.encoded.text, distance)


@pytest.mark.parametrize("batch", [1, 3, 8])
def test_captured_loop_is_the_plain_loop(plain_gpu: Engines, batch: int) -> None:
    captured = speak(plain_gpu, range(8), batch_size=batch)
    stepped = speak(plain_gpu, range(8), batch_size=batch, cuda_graph=False)
    for found, expected in zip(captured, stepped, strict=True):
        assert_same_speech(found, expected, difference=0.03)


@pytest.mark.parametrize("batch", [1, 3, 8])
def test_gpu_says_what_the_cpu_says(
    plain_gpu: Engines, fast_gpu: Engines, on_cpu: list[PieceResult], batch: int
) -> None:
    for engines in (plain_gpu, fast_gpu):
        for found, expected in zip(speak(engines, range(8), batch_size=batch), on_cpu, strict=True):
            assert_same_speech(found, expected)


def test_requests_of_changing_size(fast_gpu: Engines, on_cpu: list[PieceResult]) -> None:
    synthesizer = synthesizer_on(fast_gpu)
    for which in (range(8), [1, 3, 5, 6], range(8), [2]):
        spoken = list(speak_phrases(synthesizer, [Phrase(i, TEXTS[i]) for i in which]))
        for found in spoken:
            assert found.error is None
            assert_same_speech(found, on_cpu[found.piece.phrase.index])


@pytest.mark.parametrize("cap", [1, 15, 16, 17, 100])
def test_caps_hold_on_the_gpu(fast_gpu: Engines, plain_gpu: Engines, cap: int) -> None:
    for engines in (fast_gpu, plain_gpu):
        spoken = speak(engines, range(3), max_decoder_steps=cap)
        assert all(s.frames <= cap for s in spoken)
        assert all(s.stop_reason == "cap" for s in spoken if s.frames == cap)
        assert spoken[0].frames == cap
        assert all(np.isfinite(s.audio).all() and len(s.audio) == s.frames * 256 for s in spoken)


def test_the_seed_decides_the_audio_on_the_gpu(fast_gpu: Engines) -> None:
    first, again, other = (speak(fast_gpu, [1], seed=seed)[0].audio for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert first.shape != other.shape or not np.array_equal(first, other)


def test_streams_say_the_same_alone_and_beside_others(fast_gpu: Engines) -> None:
    texts = [*TEXTS, "No.", "Yes, of course.", "And then it was over. " * 12]
    requests = [(text, {"seed": seed, "speed": (1.0, 0.8, 1.3)[seed % 3]}) for seed, text in enumerate(texts)]
    voice = Voice(fast_gpu)
    voice.scheduler().warm_up()
    speeches = [voice.submit(text, **settings) for text, settings in requests]
    together = [Audio.join(list(speech)) for speech in speeches]
    for (text, settings), beside in zip(requests, together, strict=True):
        alone = Audio.join(list(voice.stream(text, **settings)))
        assert len(alone) == len(beside), text
        assert np.abs(alone.samples - beside.samples).max() < 5e-4, text
        whole = voice.speak(text, **settings)
        assert abs(len(whole) - len(alone)) <= 2 * 256, text
        length = min(len(whole), len(alone))
        distance = np.abs(log_spectrum(whole.samples[:length]) - log_spectrum(alone.samples[:length])).mean()
        assert distance < 0.15, (text, distance)
    voice.scheduler().close()
