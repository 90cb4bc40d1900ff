"""Where a long text is cut into pieces that can each be spoken in one breath.

Works on a text as a row of units: a character, or a group of ARPAbet symbols that stays together.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from itertools import accumulate, pairwise
from typing import NamedTuple

from tacotron2.text.rewriting import Pattern

# How units stand in `marks`; letters, in lower case, spaces and punctuation stand for themselves.
GROUP, SILENT = "A", "\0"  # SILENT: a character without a symbol

# These words lead to the next one: a piece doesn't end after them.
_LEADING = Pattern(r"(?<![a-z'])((?&conjunctions)|(?&prepositions)|(?&determiners)) ")
_TIE = "~"  # a space after a leading word

# Where a piece may end, best first: after a sentence, after a clause, before a conjunction, before a preposition, at a
# space, at a tie. A closing bracket or quotation mark (which has no symbol) belongs to the text before it. A point
# after a single letter mostly ends an abbreviation or an initial ("e.g.", "J. Smith"), no sentence.
_ENDS = (
    Pattern(rf"(?<![.!?])(?:[!?]|\.(?=[.!?])|(?<!^[a-z])(?<![ .('\-{SILENT}][a-z])\.)[.!?]*[)'{SILENT}]*(?= )"),
    Pattern(rf"[,;:][)'{SILENT}]*(?= )"),
    Pattern(rf"(?<! )(?= (?&conjunctions)[ {_TIE}])"),
    Pattern(rf"(?<! )(?= (?&prepositions)[ {_TIE}])"),
    Pattern(r"(?<! )(?= )"),
    Pattern(_TIE),
)
_INSIDE_A_WORD = len(_ENDS)


class _Atom(NamedTuple):
    """A stretch of units that is not cut any further."""

    start: int
    stop: int
    cut: int  # the kind of its end: an index in `_ENDS`, or `_INSIDE_A_WORD`


class _Row:
    """The units of a text, with the size of any stretch of them in constant time."""

    def __init__(self, marks: str, sizes: Sequence[int]) -> None:
        self.marks = marks
        self._symbols = [0, *accumulate(sizes)]
        self._spoken = [0, *accumulate(map(str.isalpha, marks))]
        # By index: the end of the text before it without its last spaces, the start of the text from it likewise.
        heard = [mark not in (" ", SILENT) for mark in marks]
        self._end = [0, *accumulate((index if here else 0 for index, here in enumerate(heard, start=1)), max)]
        firsts = [index if here else len(marks) for index, here in enumerate(heard)] + [len(marks)]
        self._start = [*accumulate(reversed(firsts), min)][::-1]

    def size(self, start: int, stop: int) -> int:
        """Symbols of the stretch without the spaces at its ends."""
        return max(0, self._symbols[self._end[stop]] - self._symbols[self._start[start]])

    def is_spoken(self, start: int, stop: int) -> bool:
        return self._spoken[stop] > self._spoken[start]


def cut(marks: str, sizes: Sequence[int], max_symbols: int, by_sentence: bool = False) -> list[tuple[int, int]]:
    """Cuts a row of units into pieces of at most `max_symbols` symbols, in linear time.

    A sentence that fits is never cut; of one that doesn't, no clause that fits; and so on to words.
    Every piece has something to speak. Only more punctuation in a row than fits beside a letter is left out.

    Args:
        marks: one character a unit: itself in lower case, or GROUP or SILENT.
        sizes: each unit's number of symbols, none above `max_symbols`.
        by_sentence: end a piece with every sentence.

    Returns:
        The pieces as (first unit, unit after the last), in order. Spaces at a piece's ends don't count in its size.
    """
    row = _Row(marks, sizes)
    if by_sentence:
        ends = (match.end() for match in _ENDS[0].finditer(marks))
        sentences = _with_speech(row, _cut_at(_Atom(0, len(marks), 0), ends, 0), max_symbols)
        return [
            (start + one.start, stop + one.start)
            for one in sentences
            for start, stop in cut(marks[one.start : one.stop], sizes[one.start : one.stop], max_symbols)
        ]
    if row.size(0, len(marks)) <= max_symbols:
        return [(0, len(marks))]
    atoms = _with_speech(row, _atoms(row, max_symbols), max_symbols)
    return _evened(row, atoms, _packed(row, atoms, max_symbols), max_symbols)


def _atoms(row: _Row, max_symbols: int) -> list[_Atom]:
    """The text cut only as finely as it has to be so that each part fits."""
    atoms, marks = [_Atom(0, len(row.marks), 0)], _LEADING.sub(rf"\1{_TIE}", row.marks)
    for level, pattern in enumerate(_ENDS):
        finer: list[_Atom] = []
        for atom in atoms:
            if row.size(atom.start, atom.stop) <= max_symbols:
                finer.append(atom)
            else:
                ends = (match.end() for match in pattern.finditer(marks, atom.start, atom.stop))
                finer.extend(_cut_at(atom, ends, level))
        atoms = finer
    finest: list[_Atom] = []
    for atom in atoms:
        fits = row.size(atom.start, atom.stop) <= max_symbols
        finest.extend([atom] if fits else _cut_at(atom, range(atom.start + 1, atom.stop), _INSIDE_A_WORD))
    return finest


def _cut_at(atom: _Atom, indices: Iterable[int], level: int) -> list[_Atom]:
    inner = [index for index in indices if atom.start < index < atom.stop]
    starts, stops = [atom.start, *inner], [*inner, atom.stop]
    cuts = [level] * len(inner) + [atom.cut]
    return [_Atom(*parts) for parts in zip(starts, stops, cuts, strict=True)]


def _with_speech(row: _Row, atoms: Sequence[_Atom], max_symbols: int) -> list[_Atom]:
    """Joins atoms of punctuation alone to the one before if they fit there, else to the one after."""
    joined: list[_Atom] = []
    waiting: deque[int] = deque()  # starts of atoms of punctuation that didn't fit after their neighbour
    for atom in atoms:
        if row.is_spoken(atom.start, atom.stop):
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
