"""The driver: gives shards to workers until every one is done, whatever becomes of the workers.

What is done is known from the disk alone (`Layout.is_done`), so that a run can be killed at any moment and started
again. The driver keeps SHARDS_AT_ONCE shards a worker in memory, and nothing else of the corpus.
"""

import logging
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field
from pathlib import Path

from common.errors import UserError
from serving.corpora.corpus import Corpus
from serving.corpora.crew import Crew, Member, WorkerDied
from serving.corpora.job import Identity, Job, claim
from serving.corpora.layout import Shard
from serving.corpora.worker import SHARDS_AT_ONCE, ShardReport

MOST_ATTEMPTS = 3  # of a shard that ends its worker, and of opening a voice in a row
PATIENCE = 600.0  # seconds without any worker: longer than a machine of a cluster takes to come
TICK = 5.0  # seconds

_log = logging.getLogger(__name__)


def make_corpus(
    source: Path,
    job_of: Callable[[Identity], Job],
    shards: int,
    crew: Crew,
    *,
    retry: bool = False,
    on_start: Callable[[int, int], None] = lambda done, lines: None,
    on_report: Callable[[ShardReport], None] = lambda report: None,
) -> Corpus:
    """Has a crew do what is missing of a corpus. Its manifest is the caller's to write, with `Corpus.finish`.

    Args:
        source: the file of lines.
        job_of: what to make, given the voice that the workers have opened.
        shards: how many there are, so that no more workers are hired.
        retry: do the lines without audio again instead, with other seeds.
        on_start: told how many lines were done before, of how many.
        on_report: told of every shard that is done.

    Raises:
        UserError: another configuration's folder, a voice that can't be opened, or shards that end their workers.
        OSError: a file can't be written.
    """
    driver = Driver(crew, on_report)
    identity = driver.open(shards)
    job = job_of(identity)
    claim(job)
    corpus = Corpus(job, source)
    number = corpus.next_round() if retry else 0
    missing = corpus.missing(number)
    lines = corpus.count(number)
    on_start(lines - corpus.lines_of(number, missing), lines)
    driver.speak(job, identity, corpus.shards(number, missing))
    return corpus


@dataclass
class _Hired:
    """A worker, and the shards that it has."""

    member: Member
    shards: dict[Future, Shard] = field(default_factory=dict)
    is_ready: bool = False
    has_suspect: bool = False


class Driver:
    """Hires a crew and has it speak shards. Not thread-safe; close it, and the crew after it.

    Args:
        crew: hires the workers.
        on_report: told of every shard that is done.
    """

    def __init__(self, crew: Crew, on_report: Callable[[ShardReport], None]) -> None:
        self._crew = crew
        self._on_report = on_report
        self._hired: list[_Hired] = []
        self._starting: dict[Future, _Hired] = {}
        self._beginning: dict[Future, _Hired] = {}
        self._failed_starts = 0
        self._suspects: deque[Shard] = deque()  # a worker died with them: each goes alone to the next
        self._deaths: dict[str, int] = {}
        self._given_up: dict[str, str] = {}
        self._last_life = time.monotonic()

    def open(self, workers: int) -> Identity:
        """Hires workers, no more than the crew's size, and waits for the first voice. Returns what it is.

        Raises:
            UserError: the voice can't be opened.
        """
        for _ in range(min(workers, self._crew.size)):
            self._hire()
        while True:
            done, _ = wait(self._starting, timeout=TICK, return_when=FIRST_COMPLETED)
            for future in done:
                try:
                    return future.result()
                except WorkerDied as error:
                    self._start_failed(future, error)
            self._check_life()

    def speak(self, job: Job, identity: Identity, shards: Iterator[Shard]) -> None:
        """Has all shards spoken and recorded.

        Raises:
            UserError: workers differ, or a shard ended its worker again and again; all others are done then.
            OSError: a file can't be written. What was under way elsewhere may or may not be recorded.
        """
        self._job, self._identity = job, identity
        for hired in self._hired:
            if hired.is_ready:  # from an earlier job
                hired.is_ready = False
                self._beginning[hired.member.begin(job)] = hired
        waiting = _Peekable(shards)
        while waiting or self._suspects or any(hired.shards for hired in self._hired):
            self._hand_out(waiting)
            futures = [*self._starting, *self._beginning, *(f for hired in self._hired for f in hired.shards)]
            done, _ = wait(futures, timeout=TICK, return_when=FIRST_COMPLETED)
            for future in done:
                self._settle(future)
            self._check_life()
        if self._given_up:
            name, reason = next(iter(self._given_up.items()))
            raise UserError(
                f"{len(self._given_up)} shards ended their worker {MOST_ATTEMPTS} times, the first one {name} "
                f"({reason}); all others are done: start again to try these again"
            )

    def _hire(self) -> None:
        hired = _Hired(self._crew.hire())
        self._hired.append(hired)
        self._starting[hired.member.opened] = hired

    def _hand_out(self, waiting: "_Peekable") -> None:
        for hired in self._hired:
            if hired.is_ready and self._suspects and not hired.shards:
                self._give(hired, self._suspects.popleft())
                hired.has_suspect = True
        while True:  # evenly: a worker's second shard when every one has its first
            free = [h for h in self._hired if h.is_ready and not h.has_suspect and len(h.shards) < SHARDS_AT_ONCE]
            if not free or not waiting or self._suspects:
                return
            self._give(min(free, key=lambda hired: len(hired.shards)), next(waiting))

    def _give(self, hired: _Hired, shard: Shard) -> None:
        hired.shards[hired.member.do(shard)] = shard

    def _settle(self, future: Future) -> None:
        """Takes notice of something that came to its end: a start, or a shard."""
        if future in self._starting:
            self._started(future)
        elif future in self._beginning:
            hired = self._beginning.pop(future)
            self._unless_dead(hired, future)
            hired.is_ready = future.exception() is None
        else:
            for hired in [one for one in self._hired if future in one.shards]:  # none, if its worker was replaced
                self._shard_ended(hired, future)

    def _shard_ended(self, hired: _Hired, future: Future) -> None:
        if not self._unless_dead(hired, future):
            return
        del hired.shards[future]
        hired.has_suspect = False
        report: ShardReport = future.result()
        if report.error is not None:
            raise report.error
        self._on_report(report)

    def _started(self, future: Future) -> None:
        try:
            identity = future.result()
        except WorkerDied as error:
            self._start_failed(future, error)
            return
        if identity != self._identity:
            raise UserError(f"the workers differ: one has {identity}, another {self._identity}; install one version")
        hired = self._starting.pop(future)
        self._failed_starts = 0
        self._beginning[hired.member.begin(self._job)] = hired

    def _start_failed(self, future: Future, error: WorkerDied) -> None:
        self._failed_starts += 1
        if self._failed_starts >= MOST_ATTEMPTS:
            raise UserError(f"no worker comes up ({error}); look into the machine's memory and its log") from error
        self._replace(self._starting.pop(future))

    def _unless_dead(self, hired: _Hired, future: Future) -> bool:
        """Whether the worker lives; else its shards are suspects, and another one is hired."""
        try:
            future.result()
            return True
        except WorkerDied as error:
            _log.warning("A worker died (%s): another one takes its place", error)
            for shard in hired.shards.values():
                self._suspect(shard, str(error), alone=len(hired.shards) == 1)
            hired.shards.clear()
            self._replace(hired)
            return False

    def _suspect(self, shard: Shard, reason: str, alone: bool) -> None:
        # Of several shards, it isn't known which one is to blame: each goes alone next, and is counted then.
        self._deaths[shard.name] = self._deaths.get(shard.name, 0) + alone
        if self._deaths[shard.name] < MOST_ATTEMPTS:
            self._suspects.append(shard)
        else:
            self._given_up[f"{shard.name} (line {shard.lines[0].number} and following)"] = reason

    def _replace(self, hired: _Hired) -> None:
        hired.member.dismiss()
        self._hired.remove(hired)
        self._hire()

    def _check_life(self) -> None:
        if any(hired.is_ready for hired in self._hired):
            self._last_life = time.monotonic()
        elif time.monotonic() - self._last_life > PATIENCE:
            raise UserError(f"no worker for {PATIENCE / 60:.0f} minutes; see whether the machines have room for one")


class _Peekable(Iterator[Shard]):
    """Shards that say whether there is one more."""

    def __init__(self, shards: Iterator[Shard]) -> None:
        self._shards = shards
        self._next = next(shards, None)

    def __bool__(self) -> bool:
        return self._next is not None

    def __next__(self) -> Shard:
        shard, self._next = self._next, next(self._shards, None)
        if shard is None:
            raise StopIteration
        return shard
