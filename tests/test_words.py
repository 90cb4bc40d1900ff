"""When words are heard: the path through the attention, as frames come, and how near it is to what is heard."""

import re
from difflib import SequenceMatcher
from pathlib import Path

import numpy as np
import pytest

from pipeline import Audio, SpeakSettings, Voice
from pipeline.words import LAG, Word, WordAligner
from tacotron2.text import WordSpan
from tests.recogniser import word_times

FRAME = 0.01  # seconds
TEXT = "Say it, now."
WORDS = [WordSpan(0, 3, "Say", (0, 3)), WordSpan(4, 6, "it,", (4, 7)), WordSpan(8, 11, "now.", (8, 12))]
SYMBOLS = 12


def attention(reading: list[int], blur: float = 0.1) -> np.ndarray:
    """Weights, float32 [frames, symbols], of a decoder that reads these symbols, and their neighbours a little."""
    symbols = np.arange(SYMBOLS)
    return np.stack([np.where(symbols == at, 1 - blur, blur / SYMBOLS) for at in reading]).astype(np.float32)


def aligned(weights: np.ndarray, block: int | None = None, cut: bool = False) -> list[Word]:
    aligner = WordAligner(WORDS, SYMBOLS, FRAME)
    blocks = np.split(weights, range(block, len(weights), block)) if block else [weights]
    return [*(word for part in blocks for word in aligner.add(part)), *aligner.finish(cut)]


def frames(words: list[Word]) -> list[tuple[int, int]]:
    return [(round(word.start / FRAME), round(word.end / FRAME)) for word in words]


EVEN = [symbol for symbol in range(SYMBOLS) for _ in range(10)]


def test_a_word_lasts_from_its_first_symbol_to_the_next_word_or_to_its_punctuation() -> None:
    words = aligned(attention(EVEN))
    assert [(word.text, word.span) for word in words] == [("Say", (0, 3)), ("it,", (4, 7)), ("now.", (8, 12))]
    assert frames(words) == [(LAG, 40 + LAG), (40 + LAG, 60), (80 + LAG, 110)]


def test_attention_that_jumps_away_and_back_moves_no_word() -> None:
    jumping = list(EVEN)
    jumping[45:48] = [11, 11, 11]  # the furthest symbol attended to would end every word here
    jumping[90:93] = [0, 0, 0]
    assert frames(aligned(attention(jumping))) == frames(aligned(attention(EVEN)))


def test_words_are_known_early_and_never_change() -> None:
    noise = np.random.default_rng(0).random((len(EVEN), SYMBOLS), dtype=np.float32)
    for weights in (attention(EVEN), attention(EVEN, blur=0.5), noise):
        whole = aligned(weights)
        assert all(aligned(weights, block) == whole for block in (1, 7, 16))
    aligner = WordAligner(WORDS, SYMBOLS, FRAME)
    known = [len(aligner.add(attention(EVEN[at : at + 10]))) for at in range(0, len(EVEN), 10)]
    assert list(np.cumsum(known)[[6, 8]]) == [1, 2]  # within 25 frames of where they end


def test_words_that_were_cut_off_are_left_out() -> None:
    half = attention(EVEN[:75])
    assert [word.text for word in aligned(half, cut=True)] == ["Say", "it,"]
    assert frames(aligned(half))[-1] == (75, 75)  # the decoder ended by itself: the word may have been heard
    assert frames(aligned(attention(EVEN[:95]), cut=True))[-1] == (80 + LAG, 95)


def test_no_word_ends_after_the_audio() -> None:
    for count in (1, 3, 42, 90, 120):
        times = [time for pair in frames(aligned(attention(EVEN[:count]))) for time in pair]
        assert times == sorted(times)
        assert times[-1] <= count


SSML = """<speak>Hello there, it is 20% <sub alias="doctor">Dr.</sub> Smith.<break time="700ms"/>
Then <prosody rate="slow">we went on slowly</prosody> to the end of the road.</speak>"""


def check_stream_and_whole(voice: Voice, **settings) -> Audio:
    """The words of a stream are known with its chunks, and are those of the whole."""
    whole = voice.speak(SSML, ssml=True, timestamps=True, **settings)
    chunks = list(voice.stream(SSML, ssml=True, timestamps=True, **settings))
    words = Audio.join(chunks).words
    assert [(word.text, word.span) for word in words] == [(word.text, word.span) for word in whole.words]
    times = [time for word in whole.words for time in (word.start, word.end)]
    assert [time for word in words for time in (word.start, word.end)] == pytest.approx(times)
    assert np.diff([0, *times, whole.seconds]).min() > -0.006  # half a frame, by which a changed speed is rounded
    without = voice.speak(SSML, ssml=True, **settings)
    assert without == whole
    assert without.words == ()
    return whole


def test_words_of_a_stream_are_those_of_the_whole(tiny_folder: Path) -> None:
    with Voice.load(tiny_folder, cpu_backend="onnxruntime") as voice:
        check_stream_and_whole(voice, max_decoder_steps=90, gate_threshold=1.0)
        check_stream_and_whole(voice, max_decoder_steps=90, gate_threshold=1.0, sampling_rate=16000, speed=1.5)


@pytest.mark.slow
def test_words_of_ssml_are_where_they_were_written_and_pauses_are_none(demo_folder: Path) -> None:
    with Voice.load(demo_folder) as voice:
        words = check_stream_and_whole(voice).words
    written = "Hello there, it is 20% Dr. Smith. Then we went on slowly to the end of the road."
    assert " ".join(word.text for word in words) == written
    assert [SSML[slice(*word.span)] for word in words] == written.split()
    assert words[7].start - words[6].end >= 0.7
    slow = words[11]
    assert 0.5 < slow.end - slow.start < 1.0


PHRASES = """The quick brown fox jumps over the lazy dog.
Good morning! This is a test of the emergency broadcast system.
The weather tomorrow will be cold with a chance of rain in the afternoon.
The children were playing in the garden when it began to rain.
Turn left at the traffic lights, then take the second road on the right.
Thank you very much for listening, and have a nice day.""".splitlines()


@pytest.mark.slow
def test_word_times_are_near_those_that_the_recogniser_hears(demo_folder: Path, tmp_path: Path) -> None:
    errors = []
    with Voice.load(demo_folder) as voice:
        for _, audio in voice.speak_many(PHRASES, SpeakSettings(timestamps=True)):
            assert isinstance(audio, Audio)
            heard = word_times(audio.save(tmp_path / "phrase.wav"))
            said, found = (
                [re.sub("[^a-z]", "", word.lower()) for word in words]
                for words in ((word.text for word in audio.words), (word for word, _, _ in heard))
            )
            for block in SequenceMatcher(None, said, found, autojunk=False).get_matching_blocks():
                for ours, theirs in zip(audio.words[block.a :][: block.size], heard[block.b :], strict=False):
                    errors += [abs(ours.start - theirs[1]), abs(ours.end - theirs[2])]
    assert len(errors) > 2 * 0.9 * sum(len(phrase.split()) for phrase in PHRASES)
    assert np.median(errors) < 0.08  # 0.05 s; the recogniser's own times are no finer than that
