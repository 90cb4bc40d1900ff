"""Turns a text into words before it is cut and encoded: by the normaliser, then by the user's lexicon."""

import re
from dataclasses import dataclass

from tacotron2.text.encoding import nothing_to_speak
from tacotron2.text.lexicon import Lexicon
from tacotron2.text.normalizer import get_normalizer

_SPEAKABLE = re.compile(r"[^\W_]")


@dataclass(frozen=True)
class TextFrontEnd:
    """How texts are read. Safe to share between threads.

    Attributes:
        normalizer: one of `normalizer.NORMALIZERS`; "none" leaves the text to the classic cleaners.
        lexicon: the user's own pronunciations; the normaliser leaves its words alone.
    """

    normalizer: str = "english"
    lexicon: Lexicon | None = None

    def __post_init__(self) -> None:
        """Raises UserError for an unknown normaliser."""
        get_normalizer(self.normalizer)

    def read(self, text: str) -> str:
        """The words that will be read for a text: what `tacotron2.text.split` takes. A `TracedText` gives another one.

        Raises:
            WithoutWords: nothing is left to speak.
        """
        marked = self.lexicon.mark(text) if self.lexicon and self.normalizer != "none" else text
        words = get_normalizer(self.normalizer)(marked)
        if self.lexicon:
            words = self.lexicon(words)
        if not _SPEAKABLE.search(words):
            raise nothing_to_speak(text)
        return words
