"""Words in capitals: initialisms are spelt, acronyms and stressed words are read. Codes of letters and figures too."""

import re

from tacotron2.text.normalizer.say import HELD, code, letters, spelt, text_before, units
from tacotron2.text.numbers import NUMBER_WORDS
from tacotron2.text.rewriting import Pattern, Rules, matched
from tacotron2.text.tables import table

CAPITALS = Rules()

CAPITALS.add(r"_(?<=\w_)_*(?=\w)", " ")  # "snake_case"


@CAPITALS.rule(r"(?<![\w.])((?:[A-Za-z]\.){2,8}(?:[A-Z](?![A-Za-z]))?)('?s\b)?(\s*$|\s+(?=(?&openers)\b))?")
def _dotted(match: re.Match[str]) -> str:
    """ "U.S." keeps its period where a sentence plainly ends; elsewhere the period would cut a sentence in two."""
    words = letters(match[1]) + ("'s" if match[2] else "")
    if match[3] is None:
        return words + " " * match.string[match.end() : match.end() + 1].isalpha()  # "U.S.Army"
    return words + ("." if match[1].endswith(".") and not match[2] else "") + match[3]


_LETTERED = Pattern(r"\b(?&Before-a-letter) $")


# Initials before a name, or several in a row; not a letter that names something ("plan B. Then").
@CAPITALS.rule(
    r"(?<![\w.'-])([A-HJ-Z]\. ?(?:[A-Z]\. ?){0,4})(?=[A-Z][a-z'])(?!(?&openers)\b)"
    r"|(?<![\w.'-])([A-HJ-Z]\. (?:[A-Z]\. ?){1,4})(?=([a-z,;:!?)])?)"
)
def _initials(match: re.Match[str]) -> str:
    """ "J. R. R. Lee"; where the points don't lead on to a name, the last may end a sentence."""
    written = match[1] or match[2]
    if written.count(".") == 1 and _LETTERED.search(text_before(match, 10)):
        return match[0]
    ends = match[2] is not None and match[3] is None
    return f"{letters(written)}{'.' if ends else ''}{'' if match[3] and match[3] in ',;:!?)' else ' '}"


CAPITALS.add(r"\b(?:OK|Ok|ok)\b(?!\.[a-z])", lambda match: "Okay" if match[0] == "Ok" else "okay")
CAPITALS.add(r"A/(?<!\w..)(?=[A-Z]\b)", "ay ")


@CAPITALS.rule(r"(?<![\w/.])([A-Za-zµ]{1,3})/(s|h|hr|min|sec|L|dL|kg)(?![\w/])")
def _lone_rate(match: re.Match[str]) -> str:
    unit, per = match.groups()
    written = table("units")
    return f"{units(written[unit])} per {written[per]}" if unit in written else match[0]


CAPITALS.add(r"(?<=[A-Z])/(?=[A-Z])", " ")
CAPITALS.add(
    r"(?<![\w&])([A-Z]{1,3})&([A-Z]{1,3})(s?)(?![\w&])",
    lambda match: f"{letters(match[1])} and {letters(match[2])}{match[3]}",
)
CAPITALS.add(r"&+", " and ")
_SAID_AFTER = {"++": "plus plus", "#": "sharp", "+": "plus", "-": "minus"}  # languages, notes and grades
CAPITALS.add(
    r"(?<!\w)([A-Za-z])(\+\+(?!\w)|(?<=[A-Z])#(?!\w)|(?<=[A-F])[+-](?=[\s.,;:!?)]|$))",
    lambda match: f"{letters(match[1])} {_SAID_AFTER[match[2]]}",
)
CAPITALS.add(
    r"(?<![A-Za-z0-9'])(?=[A-Za-z]*[0-9])(?=[0-9]*[A-Za-z])([A-Za-z0-9]+)(?![A-Za-z0-9])", lambda match: _code(match[1])
)


@CAPITALS.rule(r"(?<![A-Za-z0-9])(?:((?&mixed-case))|([A-Z]o[A-Z])|([A-Z]?[a-z]{1,15})([A-Z]{2,4}))(s?)(?![A-Za-z0-9])")
def _mixed(match: re.Match[str]) -> str:
    listed, small_of, head, capitals, ending = match.groups()  # "IoT", "DoD": the small letter begins "of" or "over"
    if listed or small_of:
        return (table("mixed-case")[listed] if listed else letters(small_of)) + ending
    first = letters(head) if len(head) == 1 else head
    return f"{first} {capitals if is_word(capitals) else letters(capitals)}{ending}"


@CAPITALS.rule(r"(?<![\w'.-])([bcdfghj-np-tv-xz]{2,5})(?![\w'])")
def _no_vowels(match: re.Match[str]) -> str:
    """Units without a number are read as units, other letters that make no word one by one: "tv", "html"."""
    word = match[1]
    if word in table("interjections"):
        return word
    if word in table("streets"):
        return table("streets")[word]
    return units(table("units")[word]) if word in table("units") else letters(word)


CAPITALS.add(r"\bA(?= {1,3}(?:to|and|or|plus|minus|versus) {1,3}[B-Z]\b)", "ay")
CAPITALS.add(
    r"(?<![A-Za-z0-9'])(?:[A-Z]+'(?:T|LL|RE|VE|D|M)|(?:IT|HE|SHE|THAT|WHAT|WHO|WHERE|THERE|HERE|LET|HOW)'S)(?![A-Za-z0-9'])",
    lambda match: match[0].capitalize(),
)
# The question, not the organisation: "WHO did this?", "WHO are you".
CAPITALS.add(
    r"WHO(?:(?<=^WHO)|(?<=\"WHO)|(?<=[.!?:,] WHO))(?=(?:'s)? [^.!?]{1,200}\?)"
    r"|WHO(?<!\wWHO)(?<![Tt]he WHO)(?= (?:am|are|is|was|were) (?:I|you|s?he|it|we|they|th(?:is|at|ese|ose))\b"
    r"| (?:cares|knows|else)\b)",
    "Who",
)
_CAPITALS = Pattern(r"(?<![A-Za-z0-9])([A-Z]{2,})('?s|'S)?(?![A-Za-z0-9])")
_WORD = Pattern(r"[A-Za-z]+")


@CAPITALS.rule(r"[^.!?\n]*(?:[.!?\n]+|$)")
def _sentence(match: re.Match[str]) -> str:
    """A sentence with its words in capitals read. In one that is all in capitals they are mostly no initialisms."""
    sentence = matched(match)
    if not _CAPITALS.search(sentence):
        return sentence
    words = _WORD.findall(sentence)
    shouted = [word for word in words if word.isupper() and len(word) > 1]
    small = sum(not word.isupper() and word not in NUMBER_WORDS for word in words)
    known = sum(_is_plainly_a_word(word) for word in shouted)
    all_capitals = len(shouted) > 1 and small == 0 and known > 0
    return _CAPITALS.sub(lambda found: _capitals(found, all_capitals), sentence)


CAPITALS.add(r"(?<=\()[Aa](?=\))", "ay")
_NAMES_A = Pattern(r"\b(?:(?&Before-the-letter-a)|from) $")
CAPITALS.add(r"(?<= )A\b(?! [a-z]{3,})", lambda match: "ay" if _NAMES_A.search(text_before(match, 16)) else match[0])
CAPITALS.add(r"(?<![\w'.])[B-HJ-Z](?:(?![\w'.&])|(?=\.(?:\s|$))|\.(?=[,;:)]))", lambda match: letters(match[0]))
CAPITALS.add(
    rf"(?<![\w'.&-])[b-hj-z](?:(?<![{HELD}].)(?![\w'.&{HELD}-])|(?=\.(?:\s*$| [A-Z])))",
    lambda match: letters(match[0]),
)
_CODE_PART = Pattern(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")
_LONG_CODE = 8  # characters: hashes and serial numbers, where each one counts
_DRAWN_OUT = Pattern(r"([AEIOUYHMRSZ])\1\1")
_VOWELS = frozenset("AEIOUY")
_GOOD_END = Pattern(
    r"(?:^|[AEIOUY])(?:[BCDFGHJKLMNPQRSTVWXZ]?|C[HKT]|F[FT]|GH|L[DFKLMPST]|MP|N[CDGKST]|P[ST]|R[BCDEFGKLMNPST]|S[HKPST]"
    r"|T[HSZ]|X[T]|Z{2}|DTH|NCH|NTH|RCH|RST|RTH|TCH)S?$"
)
_BAD_BEGINNING = Pattern(
    r"[BCDFGHJKLMNPQRSTVWXZ]{4}|(?!SCH|SCR|SHR|SPH|SPL|SPR|STR|THR|CHR|PHR)[BCDFGHJKLMNPQRSTVWXZ]{3}"
    r"|(?!BL|BR|CH|CL|CR|DR|DW|FL|FR|GH|GL|GN|GR|KN|KL|KR|PH|PL|PR|PS|QU|RH|SC|SH|SK|SL|SM|SN|SP|ST|SW|TH|TR|TW|WH|WR)"
    r"[BCDFGHJKLMNPQRSTVWXZ]{2}"
)


def is_word(capitals: str) -> bool:
    """Whether capitals are said as a word, in a sentence that is not all in capitals."""
    by_letter = capitals in table("spelt-initialisms")
    if capitals in table("spoken-acronyms") or (capitals in table("common-short-words") and not by_letter):
        return True
    if by_letter or len(capitals) < 4:
        return False
    return _is_pronounceable(capitals)


def _is_pronounceable(capitals: str) -> bool:
    vowels = sum(letter in _VOWELS for letter in capitals)
    if vowels * 5 < len(capitals) or vowels >= len(capitals) - 1 or _BAD_BEGINNING.match(capitals):
        return False
    return len(capitals) > 5 or bool(_GOOD_END.search(capitals))


def _is_plainly_a_word(word: str) -> bool:
    if _is_spelt_among_capitals(word):
        return False
    return word in table("common-short-words") or (
        len(word) > 3 and word not in table("spoken-acronyms") and _is_pronounceable(word)
    )


def _is_spelt_among_capitals(word: str) -> bool:
    return word in table("spelt-initialisms") and word not in table("initialisms-or-words")


def _capitals(match: re.Match[str], all_capitals: bool) -> str:
    word, ending = match[1], match[2] or ""
    initialism = _is_spelt_among_capitals(word)
    if len(word) > 3 and not initialism and _DRAWN_OUT.search(word):
        by_letter = False
    elif all_capitals:
        by_letter = initialism or not _has_vowel(word)
    else:
        by_letter = not is_word(word) and len(word) <= 8
        if by_letter and not initialism and _stands_among_words(match):
            by_letter = not _has_vowel(word)
    return (letters(word) if by_letter else word.lower()) + ending.lower()


def _has_vowel(word: str) -> bool:
    return any(letter in _VOWELS for letter in word)


def _stands_among_words(match: re.Match[str]) -> bool:
    """Whether a neighbour in capitals is plainly a word, so that both are stressed."""
    before = _WORD.findall(text_before(match, 16))[-1:]
    after = _WORD.findall(match.string[match.end() : match.end() + 16])[:1]
    return any(len(word) > 1 and word.isupper() and _is_plainly_a_word(word) for word in before + after)


def _code(written: str) -> str:
    """ "MP3" is "em pee three", "H100" "aitch one hundred", "2x4" "two by four"."""
    if re.fullmatch("[0-9]+x[0-9]+", written):
        first, _, last = written.partition("x")
        return f"{code(first)} by {code(last)}"
    parts = _CODE_PART.findall(written)
    if len(written) >= _LONG_CODE and len(parts) > 3:
        return spelt(written)
    return " ".join(code(part) if part.isdecimal() else _code_letters(part) for part in parts)


def _code_letters(part: str) -> str:
    if part.isupper():
        return part.lower() if (len(part) > 3 and is_word(part)) or part in table("spoken-acronyms") else letters(part)
    if len(part) < 3 or not _has_vowel(part.upper()):
        return letters(part)
    return part
