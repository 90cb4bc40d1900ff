"""Translates pronunciations in other notations into the `{ARPAbet}` that the front end takes."""

import unicodedata

from common.errors import InvalidInput
from tacotron2.text.rewriting import Pattern
from tacotron2.text.symbols import ARPABET
from tacotron2.text.tables import table

_SAME = str.maketrans(  # other forms of the table's sounds, and marks that make no difference in English
    {"ɡ": "g", "ɹ": "r", "ɻ": "r", "ɫ": "l", "ɬ": "l", "ɱ": "m", "'": "ˈ", ",": "ˌ", "’": "ˈ"}
    | dict.fromkeys("ːˑ.‿|/[]()ʰ͜͡", "")
)
_STRESS = {"ˈ": "1", "ˌ": "2"}
_SOUND = Pattern("(?&ipa)|[ˈˌ]")
_VOWELS = frozenset(sound[:2] for sound in ARPABET if sound[-1] == "0")


def from_ipa(written: str) -> str:
    """`{ARPAbet}` for each word of a pronunciation of English in IPA. Raises InvalidInput for a sound that it lacks."""
    plain = unicodedata.normalize("NFD", written).replace("c\u0327", "ç").translate(_SAME)
    return " ".join(_group(_sounds(word)) for word in plain.split() or [""])


def from_arpabet(written: str) -> str:
    """`{ARPAbet}` of symbols parted by spaces or hyphens, in any case. Raises InvalidInput for an unknown one."""
    sounds = written.upper().replace("-", " ").strip("{} ").split()
    if unknown := [sound for sound in sounds if sound not in ARPABET]:
        raise InvalidInput(f'"{unknown[0][:40]}" is no ARPAbet symbol: the CMU dictionary\'s are known, as HH AW1 S')
    return _group(sounds)


def _group(sounds: list[str]) -> str:
    if not sounds:
        raise InvalidInput("no sounds are given")
    return "{" + " ".join(sounds) + "}"


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
        for sound in table("ipa")[match[0]].split():
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
    return sounds
