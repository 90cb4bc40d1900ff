"""A corpus as a whole: which shards are missing, rounds of --retry, and the files about all of it."""

import hashlib
import heapq
import json
from array import array
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

from common.errors import UserError
from common.files import remove_leftovers, written_whole
from common.table import counted
from serving.corpora.job import Job, claim
from serving.corpora.layout import LAYOUTS, MANIFEST, RETRY, Layout, Shard, json_line, shard_name
from serving.corpora.lines import Line, line_of, read_lines
from serving.corpora.report import CorpusTotals

SHARD_CHARACTERS = 100_000  # of a shard, if it has more than one line: a worker has all its audio in memory
_SMALLER = 8  # by how much shards shrink in each round of --retry
_CHECKERS = 16  # threads that check whether files exist: on a network disk they wait most of the time


class Corpus:
    """The state of a corpus on disk, for one driver at a time; see `common.files.locked_folder`.

    Args:
        job: its folder is there.
        source: the file of lines.

    Raises:
        UserError: the folder holds a corpus of another configuration, or something else.
    """

    def __init__(self, job: Job, source: Path) -> None:
        claim(job)
        self.job = job
        self.layout = Layout(job)
        self._source = source
        self._sizes: dict[int, Sequence[int]] = {}  # by round
        self._clean()

    def missing(self, round_number: int) -> set[int]:
        """The numbers of a round's shards that are not done."""
        with ThreadPoolExecutor(_CHECKERS) as pool:
            numbers = range(len(self.sizes(round_number)))
            done = pool.map(lambda number: self.layout.is_done(shard_name(round_number, number)), numbers)
            return {number for number, is_done in zip(numbers, done, strict=True) if not is_done}

    def shards(self, round_number: int, chosen: set[int]) -> Iterator[Shard]:
        """The chosen shards of a round, read as they are asked for."""
        for number, lines in enumerate(self._cut(round_number)):
            if number in chosen:
                yield Shard(round_number, number, lines)

    def sizes(self, round_number: int) -> Sequence[int]:
        """The number of lines of each shard of a round."""
        if round_number not in self._sizes:
            self._sizes[round_number] = array("L", map(len, self._cut(round_number)))
        return self._sizes[round_number]

    def _cut(self, round_number: int) -> Iterator[tuple[Line, ...]]:
        # Smaller shards separate a line that ends its workers from the lines beside it.
        most = max(1, self.job.shard_lines // _SMALLER**round_number)
        taken: list[Line] = []
        characters = 0
        for line in self._lines(round_number):
            characters += len(line.text)
            if taken and (len(taken) == most or characters > SHARD_CHARACTERS):
                yield tuple(taken)
                taken, characters = [], len(line.text)
            taken.append(line)
        if taken:
            yield tuple(taken)

    def next_round(self) -> int:
        """The round of --retry that is under way, or else a new one, with other seeds.

        It has all lines without audio, but for those that need another text.

        Raises:
            UserError: the corpus itself isn't done, or there is nothing to try again.
        """
        if self.missing(0):
            raise UserError(f"{self.job.folder}: the corpus is not done yet; finish it without --retry first")
        last = self._rounds()[-1]
        if self.missing(last):
            return last
        unspoken = [entry for entry in self._final_entries() if "reason" in entry]
        entries = [entry for entry in unspoken if not entry.get("text_at_fault")]
        if not entries:
            self.finish()  # the last round may have been killed before this
            why = need_other_texts(len(unspoken)) if unspoken else "every line has its audio"
            raise UserError(f"{self.job.folder}: nothing to try again; {why}")
        path = self.layout.round_file(last + 1)
        with written_whole(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
            for entry in entries:
                line = line_of(entry)
                file.write(json_line(replace(line, seed=_other_seed(line.seed or 0, last + 1)).to_dict()))
        return last + 1

    def finish(self) -> CorpusTotals:
        """Writes the manifest, retry.jsonl and the format's index from the shards' records, in the order of lines.

        Raises:
            OSError: a file can't be written.
        """
        shared = {
            "configuration": self.job.hash,
            "models": self.job.identity.models,
            "versions": self.job.identity.versions,
        }
        layout, totals = LAYOUTS[self.job.format], CorpusTotals()
        with ExitStack() as stack:

            def opened(name: str) -> Any:
                temporary = stack.enter_context(written_whole(self.job.folder / name))
                return stack.enter_context(open(temporary, "w", encoding="utf-8"))

            manifest, retry = opened(MANIFEST), opened(RETRY)
            listing = opened(layout.index) if layout.index else None
            for entry in self._final_entries():
                totals.add(entry)
                if "reason" in entry:
                    retry.write(json_line(entry))
                    continue
                manifest.write(json_line(entry | shared))
                if listing is not None:
                    listing.write(layout.index_line(entry))
        self._clean()
        return totals

    def _final_entries(self) -> Iterator[dict[str, Any]]:
        """Each line once, in order: from the last round that has audio of it, else from its last round."""
        rounds = [number for number in self._rounds() if number == 0 or not self.missing(number)]
        streams = [self.layout.entries(number, len(self.sizes(number))) for number in rounds]
        merged = heapq.merge(*streams, key=lambda entry: (entry["line"], entry["round"]))
        for _, versions in groupby(merged, key=lambda entry: entry["line"]):
            yield max(versions, key=lambda entry: ("reason" not in entry, entry["round"]))

    def _rounds(self) -> list[int]:
        number = 0
        while self.layout.round_file(number + 1).exists():
            number += 1
        return list(range(number + 1))

    def _lines(self, round_number: int) -> Iterator[Line]:
        if round_number == 0:
            yield from read_lines(self._source)
            return
        with open(self.layout.round_file(round_number), encoding="utf-8") as file:
            yield from map(line_of, map(json.loads, file))

    def _clean(self) -> None:
        """Makes the folders that every run needs, and removes the half-written files of workers that were killed."""
        for folder in self.layout.folders():
            folder.mkdir(exist_ok=True)
            remove_leftovers(folder)


def need_other_texts(lines: int) -> str:
    """What to do about lines without audio that no other seed can help."""
    where = "change them in a copy of retry.jsonl, and speak it into another folder"
    return f"other texts are needed for {counted(lines, 'line')}: {where}"


def _other_seed(seed: int, round_number: int) -> int:
    """The seed with which a line is tried again: always the same."""
    return int.from_bytes(hashlib.sha256(f"{seed} {round_number}".encode()).digest()[:7], "big")
