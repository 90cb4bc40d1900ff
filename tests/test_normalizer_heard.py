"""The demo voice speaks what the normaliser reads, and a recogniser hears what was meant."""

import difflib
import re
from pathlib import Path

import pytest

from pipeline import Audio, Voice
from tacotron2.text.cleaners import english_cleaners
from tacotron2.text.normalizer import get_normalizer

pytestmark = [pytest.mark.slow, pytest.mark.alone]

PHRASES = [
    *("It rose by 20%.", "We paid $5.99 for it.", "Tom & Jerry ran 5 km.", "It was -5°C outside.", "See No. 5."),
    *("They met on 12/25/2024.", "The train leaves at 3:30.", "Come back at 9am.", "We sold 1/2 of it."),
    *("Send it to john@doe.com.", "Henry VIII had six wives.", "Chapter IV is short.", "The GPU is fast."),
    *("Dr. Smith lives on Main St.", "The 1990s were good.", "It takes 10-20 minutes.", "It costs €50."),
    *("He drove at 60 mph.", "She came 2nd of 300.", "It has 16 GB.", "“Hello” — he said…", "It is 3x faster."),
    *("NASA went to the moon.", "I HAVE THREE CATS.", "Over 5M people.", "The score was 3-2."),
    *("World War II ended in 1945.", "He ran 3.14 miles.", "Cats vs. dogs, etc.", "The 21st of May."),
]
UNDERSTOOD = 0.8  # the share of the letters of a phrase that is heard, in order
PHRASES_UNDERSTOOD = 0.75  # the rest is left to the voice, which is a small one, and to the recogniser's spelling


def letters(text: str) -> str:
    """Of a text read aloud: "9 a.m.", "9am" and "nine ay em" are alike, however the recogniser writes it."""
    return re.sub("[^a-z]", "", english_cleaners(get_normalizer()(text)))


def test_the_meaning_of_thirty_phrases_is_heard(demo_folder: Path, tmp_path: Path) -> None:
    from tests.recogniser import transcribe

    heard = {}
    with Voice.load(demo_folder) as voice:
        for place, audio in voice.speak_many(PHRASES):
            assert isinstance(audio, Audio)
            heard[PHRASES[place]] = transcribe(audio.save(tmp_path / "phrase.wav"))
    shares = {
        phrase: difflib.SequenceMatcher(None, letters(phrase), letters(text), autojunk=False).ratio()
        for phrase, text in heard.items()
    }
    understood = [phrase for phrase, share in shares.items() if share >= UNDERSTOOD]
    lost = {phrase: heard[phrase] for phrase in PHRASES if phrase not in understood}
    print(f"{len(understood)} of {len(PHRASES)} understood; not: {lost}")
    assert len(understood) >= PHRASES_UNDERSTOOD * len(PHRASES), lost
