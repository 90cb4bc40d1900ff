"""Chooses where a long text is cut into pieces that are each spoken in one go.

Works on a text as a row of units: a character, or a group of ARPAbet symbols that stays together.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from itertools import accumulate, pairwise
from typing import NamedTuple

from tacotron2.text.rewriting import Pattern

# How units stand in `marks`; letters, in lower case, spaces and punctuation stand for themselves.
GROUP, SILENT = "A", "\0"  # SILENT: a character without a symbol
_UNHEARD = f" {SILENT}"  # at the ends of a piece

# These words lead to the next one: a piece doesn't end after them.
_LEADING = Pattern(r"(?<![a-z'])((?&conjunctions)|(?&prepositions)|(?&determiners)) ")
_TIE = "~"  # a space after a leading word

# Where a piece may end, best first: after a sentence, after a clause, before a conjunction, before a preposition, at a
# space, at a tie, inside a word. A closing bracket or quotation mark (which has no symbol) belongs to the text before
# it. A point after a single letter mostly ends an abbreviation or an initial ("e.g.", "J. Smith"), no sentence.
_ENDS = (
    Pattern(rf"(?<![.!?])(?:[!?]|\.(?=[.!?])|(?<!^[a-z])(?<![ .('\-{SILENT}][a-z])\.)[.!?]*[)'{SILENT}]*(?= )"),
    Pattern(rf"[,;:][)'{SILENT}]*(?= )"),
    Pattern(rf"(?<! )(?= (?&conjunctions)[ {_TIE}])"),
    Pattern(rf"(?<! )(?= (?&prepositions)[ {_TIE}])"),
    Pattern(r"(?<! )(?= )"),
    Pattern(_TIE),
    Pattern(""),
)


class _Atom(NamedTuple):
    """A stretch of units that is not cut any further, without spaces and silent units at its ends."""

    start: int
    stop: int
    cut: int  # the kind of its end: an index in `_ENDS`


class _Row:
    """The units of a text, with the symbols of any stretch of them in constant time."""

    def __init__(self, marks: str, sizes: Sequence[int]) -> None:
        self.marks = marks
        self._symbols = [0, *accumulate(sizes)]

    def size(self, start: int, stop: int) -> int:
        return self._symbols[stop] - self._symbols[start]

    def is_spoken(self, atom: _Atom) -> bool:
        return any(map(str.isalpha, self.marks[atom.start : atom.stop]))

    def cut_at(self, atom: _Atom, indices: Iterable[int], level: int) -> list[_Atom]:
        """The atoms between these ends inside an atom."""
        inner = [index for index in indices if atom.start < index < atom.stop]
        kinds = [level] * len(inner) + [atom.cut]
        atoms: list[_Atom] = []
        for (start, stop), kind in zip(pairwise([atom.start, *inner, atom.stop]), kinds, strict=True):
            part = self.marks[start:stop]
            heard = part.strip(_UNHEARD)
            if heard:
                first = start + len(part) - len(part.lstrip(_UNHEARD))
                atoms.append(_Atom(first, first + len(heard), kind))
            elif atoms:
                atoms[-1] = atoms[-1]._replace(cut=kind)
        return atoms


def cut(marks: str, sizes: Sequence[int], max_symbols: int, by_sentence: bool = False) -> list[tuple[int, int]]:
    """Cuts a row of units into pieces of at most `max_symbols` symbols, in linear time.

    A sentence that fits is never cut; of one that doesn't, no clause that fits; and so on to words.
    Every piece has something to speak. Only more punctuation in a row than fits beside a letter is left out.

    Args:
        marks: one character a unit: itself in lower case, or GROUP or SILENT.
        sizes: each unit's number of symbols, none above `max_symbols`.
        by_sentence: end a piece with every sentence.

    Returns:
        The pieces as (first unit, unit after the last), in order. No space or silent unit is at a piece's ends.
    """
    row = _Row(marks, sizes)
    atoms = row.cut_at(_Atom(0, len(marks), 0), (), 0)
    if by_sentence:
        atoms = row.cut_at(atoms[0], (match.end() for match in _ENDS[0].finditer(marks)), 0)
        return [
            (start + one.start, stop + one.start)
            for one in _with_speech(row, atoms, max_symbols)
            for start, stop in cut(marks[one.start : one.stop], sizes[one.start : one.stop], max_symbols)
        ]
    if row.size(atoms[0].start, atoms[0].stop) <= max_symbols:
        return [(atoms[0].start, atoms[0].stop)]
    tied = _LEADING.sub(rf"\1{_TIE}", marks)
    for level, pattern in enumerate(_ENDS):  # only as finely as each part has to be cut to fit
        finer: list[_Atom] = []
        for atom in atoms:
            if row.size(atom.start, atom.stop) <= max_symbols:
                finer.append(atom)
                continue
            finer += row.cut_at(atom, (match.end() for match in pattern.finditer(tied, atom.start, atom.stop)), level)
        atoms = finer
    atoms = _with_speech(row, atoms, max_symbols)
    return _evened(row, atoms, _packed(row, atoms, max_symbols), max_symbols)


def _with_speech(row: _Row, atoms: Sequence[_Atom], max_symbols: int) -> list[_Atom]:
    """Joins atoms of punctuation alone to the one before if they fit there, else to the one after."""
    joined: list[_Atom] = []
    waiting: deque[int] = deque()  # starts of atoms of punctuation that didn't fit after their neighbour
    for atom in atoms:
        if row.is_spoken(atom):
            while waiting and row.size(waiting[0], atom.stop) > max_symbols:
                waiting.popleft()
            joined.append(_Atom(waiting[0] if waiting else atom.start, atom.stop, atom.cut))
            waiting.clear()
        elif not waiting and joined and row.size(joined[-1].start, atom.stop) <= max_symbols:
            joined[-1] = _Atom(joined[-1].start, atom.stop, atom.cut)
        else:
            waiting.append(atom.start)
    return joined


def _packed(row: _Row, atoms: Sequence[_Atom], max_symbols: int) -> list[int]:
    """Fills pieces from the left. Returns the indices in `atoms` where they start, and len(atoms)."""
    starts = [0]
    while starts[-1] < len(atoms):
        first = starts[-1]
        begin, best, after = atoms[first].start, first, first
        while after < len(atoms) and row.size(begin, atoms[after].stop) <= max_symbols:
            # The furthest cut, but one of the best kind as long as the piece is at least half full.
            small = 2 * row.size(begin, atoms[best].stop) < max_symbols
            if small or atoms[after].cut <= atoms[best].cut:
                best = after
            after += 1
        starts.append(len(atoms) if after == len(atoms) else best + 1)
    return starts


def _evened(row: _Row, atoms: Sequence[_Atom], starts: Sequence[int], max_symbols: int) -> list[tuple[int, int]]:
    """Moves cuts, to others as good, where a piece is less than half as long as its neighbour."""
    starts = list(starts)
    for piece in range(len(starts) - 2, 0, -1):
        first, current, end = starts[piece - 1 : piece + 2]
        begin, stop = atoms[first].start, atoms[end - 1].stop

        def halves(start: int, begin: int = begin, stop: int = stop) -> tuple[int, int]:
            return row.size(begin, atoms[start - 1].stop), row.size(atoms[start].start, stop)

        if 2 * min(halves(current)) >= max(halves(current)):
            continue
        as_good = (
            start
            for start in range(first + 1, end)
            if atoms[start - 1].cut <= atoms[current - 1].cut and max(halves(start)) <= max_symbols
        )
        starts[piece] = min(as_good, key=lambda start: max(halves(start)))
    return [(atoms[a].start, atoms[b - 1].stop) for a, b in pairwise(starts)]
