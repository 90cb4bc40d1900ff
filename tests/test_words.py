"""When words are heard: the path through the attention, as frames come, and how near it is to what is heard."""

import numpy as np

from pipeline.words import LAG, Word, WordAligner
from tacotron2.text import WordSpan

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
