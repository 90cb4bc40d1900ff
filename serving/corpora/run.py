"""The driver: sends shards to workers until all are done, though workers may die.

The disk alone says what is done (`Layout.is_done`), so that a run can be killed at any moment and started again. The
driver keeps two shards a worker in memory, not the corpus.
"""

import logging
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from common.errors import UserError
from serving.corpora.corpus import Corpus
from serving.corpora.job import Identity, Job, claim
from serving.corpora.layout import Shard
from serving.corpora.pool import Pool, PoolWorker
from serving.corpora.process import MOST_DEATHS, WorkerDied
from serving.corpora.shard import ShardReport

PATIENCE = 600.0  # seconds without any worker: longer than a machine takes to join a cluster

_log = logging.getLogger(__name__)


def make_corpus(
    source: Path,
    job_of: Callable[[Identity], Job],
    shards: int,
    pool: Pool,
    *,
    retry: bool = False,
    on_start: Callable[[int, int], None] = lambda done, lines: None,
    on_report: Callable[[ShardReport], None] = lambda report: None,
) -> Corpus:
    """Has a pool's workers do the missing shards of a corpus. The caller writes its manifest with `Corpus.finish`.

    Args:
        source: the file of lines.
        job_of: what to make, given the voice that the workers have opened.
        shards: how many there are; no more workers are started.
        retry: do the lines without audio again, with other seeds.
        on_start: called with how many lines were done before, and how many there are.
        on_report: called for each shard that is done.

    Raises:
        UserError: another configuration's folder, or a voice that can't be opened.
        OSError: a file can't be written.
    """
    workers, identity = start_workers(pool, shards)
    job = job_of(identity)
    claim(job)
    corpus = Corpus(job, source)
    number = corpus.next_round() if retry else 0
    sizes, missing = corpus.sizes(number), corpus.missing(number)
    on_start(sum(size for shard, size in enumerate(sizes) if shard not in missing), sum(sizes))
    speak_shards(workers, job, corpus.shards(number, missing), on_report)
    return corpus


def start_workers(pool: Pool, most: int) -> tuple[list[PoolWorker], Identity]:
    """Starts a pool's workers, or `most` of them, and waits for the first voice. Returns them, and what the voice is.

    Raises:
        UserError: the voice can't be opened.
    """
    workers = [pool.start() for _ in range(min(most, pool.size))]
    opened: SimpleQueue[Any] = SimpleQueue()
    for worker in workers:
        _in_thread(opened.put, lambda worker: opened.put(_opened(worker)), worker)
    with suppress(Empty):
        return workers, _value(opened.get(timeout=PATIENCE))
    raise _no_worker()


def speak_shards(
    workers: list[PoolWorker], job: Job, shards: Iterator[Shard], on_report: Callable[[ShardReport], None]
) -> None:
    """Has all shards recorded. Those that end every worker are recorded without audio. Close the pool after it.

    A thread for each worker sends it shards and waits.

    Raises:
        UserError: workers differ, or none starts.
        OSError: a file can't be written. Other workers may or may not have recorded their shards.
    """
    work = _Work(shards)
    reports: SimpleQueue[Any] = SimpleQueue()
    try:
        for worker in workers:
            _in_thread(reports.put, _feed, worker, job, work, reports.put)
        while not work.is_done:
            try:
                report: ShardReport = _value(reports.get(timeout=PATIENCE))
            except Empty:
                if work.is_idle:
                    raise _no_worker() from None
                continue
            work.done(report.shard)
            on_report(report)
    finally:
        work.close()


class _Work:
    """The shards of a run. A worker's thread takes them, and returns what its worker has not done. Thread-safe."""

    def __init__(self, shards: Iterator[Shard]) -> None:
        self._shards = shards
        self._next = next(shards, None)
        self._returned: deque[Shard] = deque()
        self._taken: set[str] = set()
        self._deaths: Counter[str] = Counter()
        self._changed = threading.Condition()
        self.is_closed = False

    @property
    def is_done(self) -> bool:
        with self._changed:
            return self._next is None and not self._returned and not self._taken

    @property
    def is_idle(self) -> bool:
        """Whether no worker has a shard."""
        return not self._taken

    def take(self, wait: bool = True) -> Shard | None:
        """A shard to do. If all are taken, waits for one that is returned; None when all are done."""
        with self._changed:
            while not self.is_closed:
                if self._returned:
                    shard = self._returned.popleft()
                elif self._next is not None:
                    shard, self._next = self._next, next(self._shards, None)
                elif wait and self._taken:
                    self._changed.wait()
                    continue
                else:
                    return None
                self._taken.add(shard.name)
                return shard
        return None

    def return_shards(self, shards: list[Shard], died_of: Shard) -> None:
        """Takes back a dead worker's shards; it died while it spoke `died_of`."""
        with self._changed:
            self._deaths[died_of.name] += 1
            self._taken.difference_update(shard.name for shard in shards)
            self._returned += shards
            self._changed.notify_all()

    def ended_workers(self, shard: Shard) -> bool:
        """Whether the shard has ended MOST_DEATHS workers."""
        return self._deaths[shard.name] >= MOST_DEATHS

    def done(self, name: str) -> None:
        with self._changed:
            self._taken.discard(name)
            self._changed.notify_all()

    def close(self) -> None:
        """Ends all waiting."""
        with self._changed:
            self.is_closed = True
            self._changed.notify_all()


def _feed(worker: PoolWorker, job: Job, work: _Work, report: Callable[[ShardReport], None]) -> None:
    """Has a worker do shards until all are done, and reports each."""
    _opened(worker)
    following: Shard | None = None
    unreported: dict[str, Shard] = {}
    while (shard := following or work.take()) is not None and not work.is_closed:
        following = None if work.ended_workers(shard) else work.take(wait=False)
        unreported |= {one.name: one for one in (shard, following) if one is not None}
        try:
            if work.ended_workers(shard):
                reason = f"ended its worker {MOST_DEATHS} times"
                _log.warning("Shard %s (line %d and following) %s", shard.name, shard.lines[0].number, reason)
                reports = [worker.call("give_up", job, shard, f"its shard {reason}")]
            else:
                reports = worker.call("speak", job, shard, following)
            if following is None:
                reports += worker.call("finish")
        except WorkerDied as error:
            if work.is_closed:
                return
            _log.warning("A worker died (%s): another one takes its place", error)
            work.return_shards(list(unreported.values()), died_of=shard)
            following, unreported = None, {}
            _opened(worker)
            continue
        for one in reports:
            unreported.pop(one.shard, None)
            report(one)


def _opened(worker: PoolWorker) -> Identity:
    """Waits until a worker has its voice. Raises UserError if it can't be opened."""
    for attempt in range(1, MOST_DEATHS + 1):
        try:
            return worker.call("open")
        except WorkerDied as error:
            if attempt == MOST_DEATHS:
                raise UserError(f"no worker comes up ({error}); check the machine's memory and its log") from error
    raise AssertionError


def _in_thread(put: Callable[[BaseException], None], function: Callable[..., None], *arguments: object) -> None:
    """Runs a function in a daemon thread, and puts what it raises."""

    def run() -> None:
        try:
            function(*arguments)
        except BaseException as error:
            put(error)

    threading.Thread(target=run, name="corpus worker", daemon=True).start()


def _value(item: Any) -> Any:
    if isinstance(item, BaseException):
        raise item
    return item


def _no_worker() -> UserError:
    return UserError(f"no worker for {PATIENCE / 60:.0f} minutes; see whether the machines have room for one")
