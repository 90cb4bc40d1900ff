"""The pipeline: order kept, batches without influence, stopping rules, long text, clear errors."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch

from common.engine import Engine, TorchEngine
from common.errors import UserError
from common.metadata import PARTS, Part
from common.phrases import Phrase
from common.random_streams import RandomStreams
from pipeline import Audio, Voice
from pipeline.engine_set import EngineSet
from pipeline.model_files import open_engines
from pipeline.pieces import PieceResult
from pipeline.stages import POSTNET_WINDOW, encode, refine, refine_each
from pipeline.synthesizer import Synthesizer
from tacotron2.decoder import StopRule, Utterance
from tests.engine_doubles import Watched
from tests.models import MELS, speak_phrases, synthesizer_on
from waveglow.denoiser import Denoiser

Engines = dict[Part, Engine]
TEXTS = ["The forms of letters.", "Good morning!", "Thank you very much.", "She sells seashells by the sea."]


@pytest.fixture(scope="module")
def tiny_engines(tiny_folder: Path) -> Engines:
    return open_engines({part: tiny_folder / f"{part}.onnx" for part in PARTS})


def speak(engines: Engines, texts: dict[int, str], **settings) -> dict[int, PieceResult]:
    """Every phrase's first piece, by its index. Fails where a piece failed."""
    return {s.piece.phrase.index: s for s in spoken_by(synthesizer_on(engines, **settings), texts)}


def spoken_by(synthesizer: Synthesizer, texts: dict[int, str]) -> list[PieceResult]:
    found = list(speak_phrases(synthesizer, [Phrase(i, text) for i, text in texts.items()]))
    assert [piece.error for piece in found] == [None] * len(found)
    return found


def failure_of(engines: Engines, text: str, **settings) -> str:
    """The reason why a text of one piece could not be spoken."""
    (failed,) = speak_phrases(synthesizer_on(engines, **settings), [Phrase(0, text)])
    assert failed.error is not None
    return str(failed.error)


@pytest.mark.numerical
def test_a_phrase_is_the_same_alone_in_any_batch_in_any_order(tiny_engines: Engines) -> None:
    settings = {"gate_threshold": 1.0, "max_decoder_steps": 60}
    texts = dict(enumerate(TEXTS))
    together = speak(tiny_engines, texts, **settings)
    backwards = speak(tiny_engines, dict(reversed(texts.items())), batch_size=2, **settings)
    for index, text in texts.items():
        alone = speak(tiny_engines, {7 * index: text}, batch_size=1, **settings)[7 * index]
        for other in (together[index], backwards[index]):
            assert other.frames == alone.frames
            assert np.abs(other.audio - alone.audio).max() < 1e-3 * np.abs(alone.audio).max(), text


@pytest.mark.numerical
def test_what_is_decoded_is_the_same_to_the_bit_in_any_batch(tiny_engines: Engines) -> None:
    # A last bit would be enough for another rounding to 8 bits, which can grow over hundreds of steps.
    engines = EngineSet(tiny_engines)
    texts = [np.arange(1, 1 + symbols, dtype=np.int32) % 40 for symbols in (9, 33, 20, 61, 100, 31, 70, 5)]

    def decoded(chosen: list[int]) -> dict[int, torch.Tensor]:
        utterances = [Utterance(len(texts[number]), RandomStreams(number, ""), StopRule(1.0, 40)) for number in chosen]
        with engines.running():
            batch = engines.decoder.decode(*encode(engines, [texts[number] for number in chosen]), utterances)
        return dict(zip(chosen, batch.mels, strict=True))

    for size in (2, 4, 8):
        for start in range(0, len(texts), size):
            for number, frames in decoded(list(range(start, start + size))).items():
                assert torch.equal(frames, decoded([number])[number]), (size, number)


@pytest.mark.numerical
def test_the_postnet_in_windows_is_the_postnet_on_each_utterance(tiny_engines: Engines) -> None:
    # As on a GPU. What is left is the rounding of convolutions of other lengths.
    engines = EngineSet(tiny_engines)
    frames = [300, POSTNET_WINDOW + 1, POSTNET_WINDOW, 50, 401, 50, 3 * POSTNET_WINDOW]
    mels = torch.randn(len(frames), MELS, max(frames), generator=torch.Generator().manual_seed(0))
    one_by_one = [refine(engines, mels[item : item + 1, :, :length])[0] for item, length in enumerate(frames)]
    for on_gpu in (False, True):
        engines.on_gpu = on_gpu
        for found, expected in zip(refine_each(engines, mels, frames), one_by_one, strict=True):
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


@pytest.mark.numerical
def test_the_seed_decides_the_audio(tiny_engines: Engines) -> None:
    first, again, other = (speak(tiny_engines, {0: "Hello."}, seed=s, max_decoder_steps=30)[0].audio for s in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.numerical
def test_sigma_scales_all_of_the_noise(tiny_engines: Engines) -> None:
    quiet, default, loud = (
        speak(tiny_engines, {0: "Hi."}, sigma=s, max_decoder_steps=30)[0].audio for s in (0.0, None, 1.2)
    )
    assert np.abs(loud - default).max() > 0
    assert default.std() == pytest.approx(
        speak(tiny_engines, {0: "Hi."}, sigma=0.6, max_decoder_steps=30)[0].audio.std()
    )
    assert quiet.std() < default.std() < loud.std()


@pytest.mark.numerical
def test_pieces_come_in_order_whatever_their_length(tiny_engines: Engines) -> None:
    phrases = [Phrase(i, "a" * n + ".") for i, n in enumerate([30, 3, 20, 90, 1, 50, 2, 9, 70, 4])]
    synthesizer = synthesizer_on(tiny_engines, batch_size=2, max_symbols=24, max_decoder_steps=8)
    spoken = list(speak_phrases(synthesizer, phrases))
    order = [(s.piece.phrase.index, s.piece.number) for s in spoken]
    assert order == sorted(order)
    assert [i for i, _ in order if _ == 0] == list(range(10))
    assert [s.piece.phrase.index for s in spoken if s.piece.last] == list(range(10))


def test_caps_stop_each_phrase_by_itself_and_are_named(tiny_engines: Engines) -> None:
    messages: list[str] = []
    synthesizer = synthesizer_on(tiny_engines, gate_threshold=1.0, max_decoder_steps=130)
    synthesizer.on_message = messages.append
    spoken = spoken_by(synthesizer, {0: "a.", 1: "A longer phrase."})
    assert [s.stop_reason for s in spoken] == ["cap", "cap"]
    assert [s.frames for s in spoken] == [100 + 10 * 2, 130]
    assert [len(s.audio) for s in spoken] == [120 * 256, 130 * 256]
    warnings = [m for m in messages if m.startswith("Warning! Reached max decoder steps")]
    assert len(warnings) == 2
    assert 'line 2 ("a longer phrase.")' in warnings[1]


def test_the_gate_threshold_is_obeyed(tiny_engines: Engines) -> None:
    early = speak(tiny_engines, {0: TEXTS[1]}, gate_threshold=1e-6)[0]  # untrained gates are near one half
    assert (early.frames, early.stop_reason) == (1, "gate")
    never = speak(tiny_engines, {0: TEXTS[1]}, gate_threshold=1.0, max_decoder_steps=40)[0]
    assert (never.frames, never.stop_reason) == (40, "cap")


def test_the_voices_own_stop_rule_is_the_default(tiny_engines: Engines) -> None:
    encoder = Watched(tiny_engines["encoder"])
    model = dataclasses.replace(encoder.metadata.model, gate_threshold=1e-6, max_decoder_steps=30)
    for stubborn, frames in ((False, 1), (True, 30)):
        chosen = dataclasses.replace(model, decoder_no_early_stopping=stubborn)
        encoder.metadata = dataclasses.replace(encoder.metadata, model=chosen)
        assert speak({**tiny_engines, "encoder": encoder}, {0: "Hello."})[0].frames == frames


@pytest.mark.slow
def test_long_text_is_spoken_piece_by_piece(demo_engines: Engines) -> None:
    text = "The forms of printed letters should be beautiful. " * 2 + "And that is all, as far as letters go."
    spoken = spoken_by(synthesizer_on(demo_engines, max_symbols=64), {0: text})
    assert len(spoken) > 2
    assert all(s.stop_reason == "gate" for s in spoken)
    assert all(len(s.piece.encoded.ids) <= 64 for s in spoken)
    per_symbol = [s.frames / len(s.piece.encoded.ids) for s in spoken]
    assert 3 < min(per_symbol) <= max(per_symbol) < 9


@pytest.mark.slow
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


def test_nan_from_an_engine_names_the_part_and_the_phrase(tiny_engines: Engines) -> None:
    for part in PARTS:
        engine = tiny_engines[part]
        floating = [spec.name for spec in engine.contract.outputs if spec.dtype.is_floating_point]
        output = "gate_prediction" if "gate_prediction" in floating else floating[0]
        spoilt = Watched(engine, after=lambda tensors, output=output: tensors[output].fill_(torch.nan))
        broken: Engines = {**tiny_engines, part: spoilt}
        problem = failure_of(broken, "Hello there.", max_decoder_steps=30)
        assert "NaN" in problem
        assert part in problem


@pytest.mark.numerical
def test_a_batch_is_copied_to_the_host_while_the_next_is_decoded(tiny_engines: Engines) -> None:
    def refuse_nine(tensors: Mapping[str, torch.Tensor]) -> None:
        if 9 in tensors["sequence_lengths"].tolist():
            raise UserError("nine are too many")

    def spoil_seven(tensors: Mapping[str, torch.Tensor]) -> None:
        tensors["memory"][tensors["sequence_lengths"] == 7] = torch.nan

    texts = {0: "One.", 1: "Three?", 2: "Fours!!", 3: "Five.", 4: "Sixes?", 5: "Sevens?!!", 6: "Eight.", 7: "Nine."}
    choosy: Engines = {**tiny_engines, "encoder": Watched(tiny_engines["encoder"], refuse_nine, spoil_seven)}
    expected = speak(tiny_engines, texts, max_decoder_steps=30, final_period=False)
    for ahead in (False, True):
        synthesizer = synthesizer_on(choosy, batch_size=2, max_decoder_steps=30, final_period=False)
        synthesizer._one_ahead = ahead  # as on a GPU
        encoded: list[str] = []
        synthesizer.on_message = lambda message, seen=encoded: seen.append(message) if "Encoder" in message else None
        results = speak_phrases(synthesizer, [Phrase(*item) for item in texts.items()])
        found = [next(results)]
        assert len(encoded) == (2 if ahead else 1)
        found += results
        assert [piece.piece.phrase.index for piece in found] == list(texts)
        for index, piece in enumerate(found):
            if index in (2, 5):
                assert ("nine are too many" if index == 5 else "NaN") in str(piece.error)
            else:
                assert np.abs(piece.samples - expected[index].audio).max() < 1e-4
                assert piece.seconds > 0


LIMITS = {"batch": (1, 2), "text": (4, 40), "mel": (32, 64)}


def limited(engines: Engines, **others: tuple[int, int]) -> Engines:
    """Engines that take what TensorRT engines with narrow profiles take."""
    limits = LIMITS | others

    def watched(engine: Engine) -> Watched:
        def check(tensors: Mapping[str, torch.Tensor]) -> None:
            for spec in engine.contract.inputs:
                for symbol, size in spec.sizes_in(tensors[spec.name].shape).items():
                    assert limits[symbol][0] <= size <= limits[symbol][1], (engine.name, symbol, size)

        made = Watched(engine, check)
        made.limits = limits
        return made

    return {part: watched(engine) for part, engine in engines.items()}


def test_what_engines_take_is_what_they_get(tiny_engines: Engines) -> None:
    narrow = limited(tiny_engines)
    texts = {0: "A.", 1: "A phrase that is longer than forty symbols is spoken in pieces.", 2: "Hi!"}
    spoken = spoken_by(synthesizer_on(narrow, gate_threshold=1.0), texts)
    assert [s.frames for s in spoken if s.piece.phrase.index != 1] == [64, 64]
    assert len(spoken) > 3
    brief = synthesizer_on(narrow, gate_threshold=1.0, max_decoder_steps=5)
    assert [s.audio.shape for s in spoken_by(brief, {0: "A."})] == [(5 * 256,)]


@pytest.mark.numerical
def test_engines_of_one_window_take_slow_speech_whole(tiny_engines: Engines) -> None:
    one_window = limited(tiny_engines, mel=(32, 48))
    settings = {"gate_threshold": 1.0, "speed": 0.5}
    (spoken,) = spoken_by(synthesizer_on(one_window, **settings), {0: "Hi!"})
    assert spoken.frames < 48
    voice = Voice(one_window)  # not closed: its engines are other tests' too
    joined = Audio.join(list(voice.stream("Hi!", **settings)))
    voice.scheduler().close()
    assert joined.samples.shape == spoken.audio.shape == (spoken.frames * 256,)


@pytest.mark.numerical
def test_a_batch_that_does_not_fit_is_spoken_in_halves(tiny_engines: Engines) -> None:
    fits = 1

    def allocate(tensors: Mapping[str, torch.Tensor]) -> None:
        if tensors["memory"].size(0) > fits:
            raise torch.OutOfMemoryError("CUDA out of memory")

    small = Watched(tiny_engines["decoder_iter"], allocate)
    texts = dict(enumerate(TEXTS))
    expected = speak(tiny_engines, texts, max_decoder_steps=30)
    found = speak({**tiny_engines, "decoder_iter": small}, texts, max_decoder_steps=30)
    for index in texts:
        assert np.abs(found[index].audio - expected[index].audio).max() < 1e-4
    fits = 0
    problem = failure_of({**tiny_engines, "decoder_iter": small}, TEXTS[0], max_decoder_steps=30)
    assert "out of memory for line 1" in problem


@pytest.mark.slow
def test_denoiser_takes_the_hum_and_leaves_the_speech(demo_engines: Engines) -> None:
    audio = torch.from_numpy(speak(demo_engines, {0: TEXTS[1]})[0].audio)
    waveglow = demo_engines["waveglow"].metadata
    denoiser = Denoiser(waveglow)
    assert denoiser(audio, 0) is audio
    assert torch.allclose(denoiser(audio, 1e-9), audio, atol=1e-5)
    denoised = denoiser(audio, 0.1)
    assert denoised.shape == audio.shape
    change = (denoised - audio).norm() / audio.norm()
    assert 1e-4 < change < 0.3


def test_engines_for_other_mels_are_refused(tiny_engines: Engines) -> None:
    waveglow = tiny_engines["waveglow"]
    model = dataclasses.replace(waveglow.metadata.model, n_mel_channels=40)
    other = TorchEngine(torch.nn.Identity(), dataclasses.replace(waveglow.metadata, model=model))
    with pytest.raises(UserError, match=f"takes 40 mel channels, Tacotron 2 gives {MELS}"):
        synthesizer_on({**tiny_engines, "waveglow": other})
