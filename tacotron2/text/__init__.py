"""The text front end: from a line of text to the ids that Tacotron 2 was trained on.

The ids are those of the classic front end (keithito's, in NVIDIA's examples), except where that one misreads a number
(see `numbers`) and at the ends of a text: no space begins or ends it, and a period is added if no punctuation ends it.

Before that, a `TextFrontEnd` reads units, dates, addresses, initialisms and the like as words.
"""

from tacotron2.text.encoding import MIN_PIECE, EncodedText, WordSpan, encode, split
from tacotron2.text.front_end import TextFrontEnd
from tacotron2.text.rewriting import TracedText

__all__ = ["MIN_PIECE", "EncodedText", "TextFrontEnd", "TracedText", "WordSpan", "encode", "split"]
