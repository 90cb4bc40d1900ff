"""The pipeline: order kept, batches without influence, stopping rules, long text, clear errors."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from common.engine import Engine, TorchEngine
from common.errors import UserError
from common.metadata import PARTS, Part
from common.phrases import Phrase
from pipeline.model_files import open_engines
from pipeline.synthesizer import SpokenPiece, SynthesisOptions, Synthesizer
from tacotron2.decoder import StopRule
from waveglow.denoiser import Denoiser

Engines = dict[Part, Engine]
TEXTS = ["The page.", "Printed letters should be beautiful.", "Good morning!", "She sells seashells by the seashore."]


@pytest.fixture(scope="module")
def tiny_engines(tiny_folder: Path) -> Engines:
    return open_engines({part: tiny_folder / f"{part}.onnx" for part in PARTS})


def speak(engines: Engines, texts: dict[int, str], **options) -> dict[int, SpokenPiece]:
    synthesizer = Synthesizer(engines, SynthesisOptions(**options))
    return {s.piece.phrase.index: s for s in synthesizer.speak([Phrase(i, text) for i, text in texts.items()])}


def test_a_phrase_sounds_the_same_alone_in_any_batch_and_in_any_order(demo_engines: Engines) -> None:
    texts = dict(enumerate(TEXTS))
    together = speak(demo_engines, texts)
    backwards = speak(demo_engines, dict(reversed(texts.items())), batch_size=3)
    for index, text in texts.items():
        alone = speak(demo_engines, {index: text}, batch_size=1)[index]
        for other in (together[index], backwards[index]):
            assert other.frames == alone.frames
            assert other.stop_reason == alone.stop_reason == "gate"
            assert np.abs(other.audio - alone.audio).max() < 1e-3 * np.abs(alone.audio).max(), text


def test_the_seed_decides_the_audio(tiny_engines: Engines) -> None:
    rule = StopRule(max_decoder_steps=30)
    first, again, other = (speak(tiny_engines, {0: "Hello."}, seed=s, stop=rule)[0].audio for s in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_sigma_scales_all_of_the_noise(tiny_engines: Engines) -> None:
    rule = StopRule(max_decoder_steps=30)
    quiet, default, loud = (speak(tiny_engines, {0: "Hi."}, sigma=s, stop=rule)[0].audio for s in (0.0, None, 1.2))
    assert np.abs(loud - default).max() > 0
    assert default.std() == pytest.approx(speak(tiny_engines, {0: "Hi."}, sigma=0.6, stop=rule)[0].audio.std())
    assert quiet.std() < default.std() < loud.std()


def test_pytorch_and_onnx_runtime_say_the_same(demo_engines: Engines, torch_demo_engines: Engines) -> None:
    onnx = speak(demo_engines, {0: TEXTS[1]})[0]
    plain = speak(torch_demo_engines, {0: TEXTS[1]})[0]
    assert onnx.frames == plain.frames
    assert np.abs(onnx.audio - plain.audio).max() < 1e-3 * np.abs(plain.audio).max()


def test_pieces_come_in_order_whatever_their_length(tiny_engines: Engines) -> None:
    phrases = [Phrase(i, "a" * n + ".") for i, n in enumerate([30, 3, 20, 90, 1, 50, 2, 9, 70, 4])]
    options = SynthesisOptions(batch_size=2, max_symbols=24, stop=StopRule(max_decoder_steps=8))
    spoken = list(Synthesizer(tiny_engines, options).speak(phrases))
    order = [(s.piece.phrase.index, s.piece.number) for s in spoken]
    assert order == sorted(order)
    assert [i for i, _ in order if _ == 0] == list(range(10))
    assert [s.piece.phrase.index for s in spoken if s.piece.last] == list(range(10))


def test_caps_stop_each_phrase_by_itself_and_are_told(tiny_engines: Engines) -> None:
    messages: list[str] = []
    options = SynthesisOptions(stop=StopRule(gate_threshold=0.999999, max_decoder_steps=130))
    synthesizer = Synthesizer(tiny_engines, options, on_message=messages.append)
    spoken = list(synthesizer.speak([Phrase(0, "a."), Phrase(1, "A longer phrase.")]))
    assert [s.stop_reason for s in spoken] == ["cap", "cap"]
    assert [s.frames for s in spoken] == [100 + 10 * 2, 130]
    assert [len(s.audio) for s in spoken] == [120 * 256, 130 * 256]
    warnings = [m for m in messages if m.startswith("Warning! Reached max decoder steps")]
    assert len(warnings) == 2
    assert 'phrase 1 ("a longer phrase.")' in warnings[1]


def test_the_gate_threshold_is_obeyed(demo_engines: Engines) -> None:
    stop = StopRule(gate_threshold=0.001)
    early = speak(demo_engines, {0: TEXTS[1]}, stop=stop)[0]
    normal = speak(demo_engines, {0: TEXTS[1]})[0]
    assert early.frames < normal.frames


def test_long_text_is_spoken_piece_by_piece(demo_engines: Engines) -> None:
    text = "The forms of printed letters should be beautiful. " * 3 + "And that is all, as far as letters go."
    synthesizer = Synthesizer(demo_engines, SynthesisOptions(max_symbols=64))
    spoken = list(synthesizer.speak([Phrase(0, text)]))
    assert len(spoken) > 2
    assert all(s.stop_reason == "gate" for s in spoken)
    assert all(len(s.piece.encoded.ids) <= 64 for s in spoken)
    per_symbol = [s.frames / len(s.piece.encoded.ids) for s in spoken]
    assert 3 < min(per_symbol) <= max(per_symbol) < 9


def test_pictures_are_kept_where_asked_for(demo_engines: Engines) -> None:
    spoken = speak(demo_engines, {0: TEXTS[0], 1: TEXTS[1]}, keep_pictures=True)
    for index in (0, 1):
        alignment, mel = spoken[index].alignment, spoken[index].mel
        assert alignment is not None
        assert mel is not None
        symbols = len(spoken[index].piece.encoded.ids)
        assert alignment.shape == (spoken[index].frames, symbols)
        assert mel.shape == (80, spoken[index].frames)
        assert np.allclose(alignment.sum(1), 1, atol=1e-3)
        peaks = alignment.argmax(1)
        assert peaks[0] < 4
        assert peaks[-1] > symbols - 4
        assert (np.diff(peaks) >= -1).all()  # speech goes forward through the text


def test_nan_from_an_engine_names_the_part_and_the_phrase(torch_demo_engines: Engines) -> None:
    for part in PARTS:
        broken = BrokenEngine(torch_demo_engines[part])
        with pytest.raises(UserError, match="NaN") as error:
            speak({**torch_demo_engines, part: broken}, {0: "Hello there."})
        assert part in str(error.value)


class BrokenEngine:
    """An engine that gives NaN in its first output."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def __getattr__(self, name: str):
        return getattr(self.engine, name)

    def bind(self, tensors):
        run = self.engine.bind(tensors)
        floating = [s.name for s in self.engine.contract.outputs if s.dtype.is_floating_point]
        poisoned = "gate_prediction" if "gate_prediction" in floating else floating[0]

        def run_and_break() -> None:
            run()
            tensors[poisoned].fill_(float("nan"))

        return run_and_break


class LimitedEngine:
    """An engine that takes what a TensorRT engine with a narrow profile takes."""

    limits = {"batch": (1, 2), "text": (4, 40), "mel": (32, 64)}  # noqa: RUF012  a constant of the test

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def __getattr__(self, name: str):
        return getattr(self.engine, name)

    def bind(self, tensors):
        symbols = {s: self.limits[s] for spec in self.engine.contract.inputs for s in self.limits if s in spec.shape}
        sizes = {}
        for spec in self.engine.contract.inputs:
            sizes.update(spec.sizes_in(tensors[spec.name].shape))
        for symbol, (low, high) in symbols.items():
            assert low <= sizes[symbol] <= high, (self.engine.name, symbol, sizes)
        return self.engine.bind(tensors)


def test_what_engines_take_is_what_they_get(tiny_engines: Engines) -> None:
    limited: Engines = {part: LimitedEngine(engine) for part, engine in tiny_engines.items()}
    never = StopRule(gate_threshold=0.999999)
    texts = {0: "A.", 1: "A phrase that is longer than forty symbols is spoken in pieces.", 2: "Hi!"}
    spoken = list(Synthesizer(limited, SynthesisOptions(stop=never)).speak([Phrase(i, t) for i, t in texts.items()]))
    assert [s.frames for s in spoken if s.piece.phrase.index != 1] == [64, 64]
    assert len(spoken) > 3
    brief = Synthesizer(limited, SynthesisOptions(stop=StopRule(0.999999, max_decoder_steps=5)))
    assert [s.audio.shape for s in brief.speak([Phrase(0, "A.")])] == [(5 * 256,)]


def test_a_batch_that_does_not_fit_is_spoken_in_halves(tiny_engines: Engines) -> None:
    class Small(LimitedEngine):
        limits = {}  # noqa: RUF012

        def bind(self, tensors):
            if tensors["memory"].size(0) > self.fits:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return self.engine.bind(tensors)

    small = Small(tiny_engines["decoder_iter"])
    rule = StopRule(max_decoder_steps=30)
    texts = dict(enumerate(TEXTS))
    expected = speak(tiny_engines, texts, stop=rule)
    small.fits = 1
    found = speak({**tiny_engines, "decoder_iter": small}, texts, stop=rule)
    for index in texts:
        assert np.abs(found[index].audio - expected[index].audio).max() < 1e-4
    small.fits = 0
    with pytest.raises(UserError, match=r"out of device memory for phrase 0 .*smaller --window"):
        speak({**tiny_engines, "decoder_iter": small}, {0: TEXTS[0]}, stop=rule)


def test_denoiser_takes_the_hum_and_leaves_the_speech(demo_engines: Engines) -> None:
    audio = torch.from_numpy(speak(demo_engines, {0: TEXTS[1]})[0].audio)
    waveglow = demo_engines["waveglow"].metadata
    off = Denoiser.of(waveglow, strength=0)(audio)
    assert torch.allclose(off, audio, atol=1e-5)
    denoised = Denoiser.of(waveglow, strength=0.1)(audio)
    assert denoised.shape == audio.shape
    change = (denoised - audio).norm() / audio.norm()
    assert 1e-4 < change < 0.3


def test_engines_for_other_mels_are_refused(tiny_engines: Engines) -> None:
    waveglow = tiny_engines["waveglow"]
    model = dataclasses.replace(waveglow.metadata.model, n_mel_channels=40)
    other = TorchEngine(torch.nn.Identity(), dataclasses.replace(waveglow.metadata, model=model))
    with pytest.raises(UserError, match="takes 40 mel channels, Tacotron 2 gives 80"):
        Synthesizer({**tiny_engines, "waveglow": other})
