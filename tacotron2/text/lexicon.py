"""A user's own pronunciations: words, and how to respell them or which ARPAbet sounds to speak."""

import hashlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from common.errors import UserError
from tacotron2.text.encoding import encode
from tacotron2.text.rewriting import Pattern
from tacotron2.text.symbols import ARPABET_GROUP, KEEP_END, KEEP_START

_CHUNK = Pattern(rf"{ARPABET_GROUP.pattern}|[^\s{{}}]+")
_PART = Pattern(r"[\w'\u2019]+")
_OUTER = "\"'.,;:!?()[]<>*_~`\u2018\u2019\u201c\u201d\u2026"  # punctuation that is not part of a word at its ends
_POSSESSIVE = Pattern(r"['\u2019][sS]?$")
_VOICELESS = frozenset("F K P T TH".split())  # noqa: SIM905
_SIBILANT = frozenset("CH JH S SH Z ZH".split())  # noqa: SIM905


class Lexicon:
    """Respellings by word. Safe to share between threads: nothing changes after it is made.

    A word is found whatever its case and as a whole only, also before a possessive ("Nguyen's") and in a compound
    ("Nguyen-style"). `{ARPAbet}` groups in a text are left alone. Takes linear time whatever the number of words.
    """

    def __init__(self, respellings: Mapping[str, str]) -> None:
        """Takes words without white space, each with its respelling: plain words or `{ARPAbet}`."""
        self._respellings = {_key(word): respelling for word, respelling in respellings.items()}

    @classmethod
    def load(cls, path: str | Path) -> "Lexicon":
        """Reads a UTF-8 file: word, tab, respelling or `{ARPAbet}` on each line.

        Empty lines, and lines that begin with `#` and have no tab, are passed over.

        Raises:
            UserError: the file can't be read, or a line is malformed, which the message names by its number.
        """
        path = Path(path)
        try:
            content = path.read_bytes()
        except OSError as error:
            raise UserError(f"cannot read the lexicon {path}: {error.strerror}") from error
        respellings: dict[str, str] = {}
        lines: dict[str, int] = {}
        for number, raw in enumerate(content.removeprefix(b"\xef\xbb\xbf").splitlines(), start=1):
            entry = _entry(raw, where=f"{path}:{number}")
            if entry is None:
                continue
            word, respelling = entry
            if (first := lines.setdefault(_key(word), number)) < number:
                raise UserError(f'{path}:{number}: "{word}" stands on line {first} already: take one of them out')
            respellings[word] = respelling
        if not respellings:
            raise UserError(f"{path} holds no words: write a word, a tab and its respelling on each line")
        return cls(respellings)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Lexicon) and self._respellings == other._respellings

    def sha256(self) -> str:
        """Of the words and their respellings, whatever their order: 64 hexadecimal digits."""
        return hashlib.sha256(repr(sorted(self._respellings.items())).encode()).hexdigest()

    def __hash__(self) -> int:
        return hash(frozenset(self._respellings.items()))

    def __call__(self, text: str) -> str:
        """The text with every word of the lexicon respelled."""
        return self._replaced(text, lambda _, respelling: respelling)

    def mark(self, text: str) -> str:
        """The text with marks around the lexicon's words, which the normaliser then leaves as they are."""
        return self._replaced(text, lambda word, _: f"{KEEP_START}{word}{KEEP_END}")

    def _replaced(self, text: str, replace) -> str:
        def chunk(match: re.Match[str]) -> str:
            if match[0].endswith("}"):
                return match[0]
            done, pieces = 0, []
            for start, stop, respelling in self._found(match[0]):
                pieces += [match[0][done:start], replace(match[0][start:stop], respelling)]
                done = stop
            return "".join([*pieces, match[0][done:]]) if pieces else match[0]

        return _CHUNK.sub(chunk, text)

    def _found(self, chunk: str) -> Iterator[tuple[int, int, str]]:
        """Where the lexicon's words are in a text without white space, and how each is said."""
        stop = len(chunk.rstrip(_OUTER))
        start = len(chunk) - len(chunk.lstrip(_OUTER))
        for first, last in ((0, len(chunk)), (0, stop), (start, len(chunk)), (start, stop)):
            if respelling := self._respelling(chunk[first:last]):
                yield first, last, respelling
                return
        for part in _PART.finditer(chunk, start, max(start, stop)):
            if part.span() != (start, stop) and (respelling := self._respelling(part[0])):
                yield part.start(), part.end(), respelling

    def _respelling(self, word: str) -> str | None:
        respelling = self._respellings.get(_key(word))
        if respelling is not None or not (possessive := _POSSESSIVE.search(word)):
            return respelling
        respelling = self._respellings.get(_key(word[: possessive.start()]))
        if respelling is None:
            return None
        return _possessive(respelling) if len(possessive[0]) == 2 else respelling + "'"


def _key(word: str) -> str:
    return word.casefold().replace("\u2019", "'")


def _entry(raw: bytes, where: str) -> tuple[str, str] | None:
    """The word and the respelling of a line, or None for an empty line or a comment."""
    try:
        line = raw.decode()
    except UnicodeDecodeError as error:
        raise UserError(f"{where}: not UTF-8 text: save the lexicon as UTF-8") from error
    if not line.strip() or (line.startswith("#") and "\t" not in line):
        return None
    word, respelling = (part.strip() for part in line.partition("\t")[::2])
    if "\t" not in line:
        raise UserError(f'{where}: no tab in "{line.strip()[:40]}": write a word, a tab and its respelling')
    if not word or not respelling:
        raise UserError(
            f"{where}: nothing {'after' if word else 'before'} the tab: write a word, a tab and its respelling"
        )
    if "\t" in respelling:
        raise UserError(f'{where}: a second tab after "{word}": write a word, a tab and its respelling')
    if len(word.split()) > 1 or "{" in word or "}" in word:
        raise UserError(f'{where}: "{word}" is not one word: the lexicon holds single words, without spaces or braces')
    try:
        dropped = encode(respelling).dropped
    except UserError as error:
        raise UserError(f"{where}: {error}") from error
    if {"{", "}"} & set(dropped):
        raise UserError(
            f'{where}: "{respelling}": braces hold ARPAbet alone, the CMU dictionary\'s, as in {{HH AW1 S}}'
        )
    if dropped:
        raise UserError(f'{where}: the voice has no sound for "{"".join(dropped)}": respell "{word}" in plain letters')
    return word, respelling


def _possessive(respelling: str) -> str:
    """The respelling with an "'s"; ARPAbet takes the sound that English gives it after the last one."""
    if not respelling.endswith("}"):
        return respelling + "'s"
    last = respelling[:-1].split()[-1].lstrip("{")
    sound = "IH0 Z" if last in _SIBILANT else "S" if last in _VOICELESS else "Z"
    return f"{respelling[:-1]} {sound}}}"
