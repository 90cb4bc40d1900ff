"""What benchmarks speak: the classic's text, short phrases, and sentences of chosen lengths."""

import random

from common.files import REPOSITORY
from common.phrases import read_phrases

SHORT_PHRASES = (
    "Good morning.",
    "Your order is on its way.",
    "Turn left at the next light.",
    "The meeting begins at noon.",
    "Please say that again.",
    "It will rain in the afternoon.",
    "Thank you for calling.",
    "The train leaves from platform four.",
)


def classic_text() -> str:
    """The classic benchmark's text: the phrase of phrases/phrase.txt twice."""
    phrase = read_phrases(REPOSITORY / "phrases" / "phrase.txt", [])[0].text
    return f"{phrase} {phrase}"


def sentences(count: int, shortest: int, longest: int, usual: int) -> list[str]:
    """Different stretches of the sentences in phrases/, the same ones each time.

    Their lengths in characters are spread as a triangle; each ends with the word that reaches its length.
    """
    paths = sorted((REPOSITORY / "phrases").glob("*.txt"))
    words = " ".join(phrase.text for path in paths for phrase in read_phrases(path, [])).split()
    chance = random.Random(0)
    texts: dict[str, None] = {}
    while len(texts) < count:
        length, start = chance.triangular(shortest, longest, usual), chance.randrange(len(words))
        text = ""
        while len(text) < length:
            text, start = f"{text} {words[start % len(words)]}".strip(), start + 1
        texts[f"{text[0].upper()}{text[1:].rstrip('.,;:')}."] = None
    return list(texts)
