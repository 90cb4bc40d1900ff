"""The 148 symbols that NVIDIA's Tacotron 2 was trained on; a symbol's id is its index in `SYMBOLS`."""

import re
import string

PAD = "_"  # fills up shorter texts of a batch; never comes from a text
PUNCTUATION = "!'(),.:;?"
SPACE = " "
LETTERS = string.ascii_uppercase + string.ascii_lowercase

_STRESSES = ("", "0", "1", "2")
_VOWELS = ("AA", "AE", "AH", "AO", "AW", "AY", "EH", "ER", "EY", "IH", "IY", "OW", "OY", "UH", "UW")
_CONSONANTS = "B CH D DH F G HH JH K L M N NG P R S SH T TH V W Y Z ZH".split()  # noqa: SIM905

ARPABET = tuple(sorted([vowel + stress for vowel in _VOWELS for stress in _STRESSES] + _CONSONANTS))
_SOUND = "(?:" + "|".join(sorted(ARPABET, key=len, reverse=True)) + ")"
# Group 1: ARPAbet symbols between braces. Other braces are text; the first alternative passes over those of TeX.
ARPABET_GROUP = re.compile(rf"\\[A-Za-z]+(?:\{{[^{{}}]*\}})+|\{{\s*({_SOUND}(?:\s+{_SOUND})*)\s*\}}")
ARPABET_MARK = "@"  # before each ARPAbet symbol, so that "B" the sound is not "B" the letter

# Private use characters that mark words which the normaliser leaves as they are.
KEEP_START, KEEP_END = "\ue000", "\ue001"

SYMBOLS = (PAD, "-", *PUNCTUATION, SPACE, *LETTERS, *(ARPABET_MARK + sound for sound in ARPABET))
SYMBOL_IDS = {symbol: index for index, symbol in enumerate(SYMBOLS)}
