"""Sounds as others write them, in the `{ARPAbet}` that the front end takes."""

import re
import unicodedata

from common.errors import InvalidInput
from tacotron2.text.symbols import ARPABET

# English sounds in IPA. The longest that fits is taken; vowels get their stress from the marks.
_IPA = {
    **{"i": "IY", "ɪ": "IH", "ɨ": "IH", "ᵻ": "IH", "e": "EH", "ɛ": "EH", "æ": "AE", "a": "AE", "ɑ": "AA", "ɒ": "AA"},
    **{"ɔ": "AO", "o": "OW", "ʊ": "UH", "u": "UW", "ʉ": "UW", "ʌ": "AH", "ə": "AH", "ɐ": "AH", "ɚ": "ER", "ɝ": "ER"},
    **{"ɜ": "ER", "ɜr": "ER", "ər": "ER", "ɝr": "ER", "ɚr": "ER", "eɪ": "EY", "ɛɪ": "EY", "ei": "EY", "aɪ": "AY"},
    **{"ai": "AY", "aʊ": "AW", "au": "AW", "ɔɪ": "OY", "ɔi": "OY", "oʊ": "OW", "əʊ": "OW", "ou": "OW"},
    **{"ɪə": "IH AH", "eə": "EH AH", "ɛə": "EH AH", "ʊə": "UH AH"},
    **{"p": "P", "b": "B", "t": "T", "d": "D", "k": "K", "g": "G", "f": "F", "v": "V", "θ": "TH", "ð": "DH", "s": "S"},
    **{"z": "Z", "ʃ": "SH", "ʒ": "ZH", "h": "HH", "m": "M", "n": "N", "ŋ": "NG", "l": "L", "r": "R", "w": "W"},
    **{"j": "Y", "tʃ": "CH", "dʒ": "JH", "ʧ": "CH", "ʤ": "JH", "ʍ": "HH W", "hw": "HH W", "x": "K", "ç": "HH"},
    **{"ɾ": "D", "ʔ": "T", "m̩": "AH M", "n̩": "AH N", "l̩": "AH L", "r̩": "ER"},
}
_SAME = str.maketrans(  # other ways to write those, and what makes no difference in English
    {"ɡ": "g", "ɹ": "r", "ɻ": "r", "ɫ": "l", "ɬ": "l", "ɱ": "m", "'": "ˈ", ",": "ˌ", "’": "ˈ"}
    | dict.fromkeys("ːˑ.‿|/[]()ʰ͜͡", "")
)
_STRESS = {"ˈ": "1", "ˌ": "2"}
_SOUND = re.compile("|".join(sorted(map(re.escape, (*_IPA, *_STRESS)), key=len, reverse=True)))
_VOWELS = frozenset(sound[:2] for sound in ARPABET if sound[-1] == "0")


def from_ipa(written: str) -> str:
    """`{ARPAbet}` for each word of a pronunciation of English in IPA. Raises InvalidInput for a sound that it lacks."""
    return " ".join("{" + " ".join(_sounds(word)) + "}" for word in _words(written))


def from_arpabet(written: str) -> str:
    """`{ARPAbet}` of symbols parted by spaces or hyphens, in any case. Raises InvalidInput for an unknown one."""
    sounds = written.upper().replace("-", " ").strip("{} ").split()
    if unknown := [sound for sound in sounds if sound not in ARPABET]:
        raise InvalidInput(f'"{unknown[0]}" is no ARPAbet symbol: the CMU dictionary\'s are known, as HH AW1 S')
    if not sounds:
        raise InvalidInput("no sounds are given")
    return "{" + " ".join(sounds) + "}"


def _words(written: str) -> list[str]:
    plain = unicodedata.normalize("NFD", written).replace("c\u0327", "ç").translate(_SAME).split()
    if not plain:
        raise InvalidInput("no sounds are given")
    return plain


def _sounds(word: str) -> list[str]:
    sounds: list[str] = []
    stress, done = "", 0
    while done < len(word):
        match = _SOUND.match(word, done)
        if match is None:
            raise InvalidInput(f'"{word[done]}" is no sound of English in IPA')
        done = match.end()
        if match[0] in _STRESS:
            stress = _STRESS[match[0]]
            continue
        for sound in _IPA[match[0]].split():
            if sound in _VOWELS:
                sounds.append(sound + (stress or "0"))
                stress = ""
            else:
                sounds.append(sound)
    if not any(sound[-1] == "1" for sound in sounds):  # the only vowel is stressed, else the first that is full
        full = [at for at, sound in enumerate(sounds) if sound[-1] == "0"]
        full = [at for at in full if sounds[at] != "AH0"] or full
        if full:
            sounds[full[0]] = sounds[full[0]][:-1] + "1"
    if not sounds:
        raise InvalidInput("no sounds are given")
    return sounds
