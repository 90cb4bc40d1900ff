"""The driver: sends shards to workers until all are done, even if workers die.

The disk alone says what is done (`Layout.is_done`), so that a run can be killed at any moment and started again. The
driver keeps four shards a worker in memory, not the corpus.
"""

import logging
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from queue import Empty, SimpleQueue
from typing import Any

from common.errors import UserError
from serving.corpora.job import Identity, Job, VoiceSource
from serving.corpora.layout import Shard
from serving.corpora.pool import Pool, PoolWorker
from serving.corpora.process import MOST_DEATHS, WorkerDied
from serving.corpora.shard import ShardReport

PATIENCE = 600.0  # seconds without any worker: longer than a machine takes to join a cluster
SHARDS_A_WORKER = 4  # one is written, one spoken and one read, and one is there when the first of these is reported

_log = logging.getLogger(__name__)


def start_workers(pool: Pool, source: VoiceSource, most: int) -> tuple[list[PoolWorker], Identity]:
    """Starts a pool's workers, or `most` of them, and waits for the first voice. Returns them, and what the voice is.

    Raises:
        UserError: the voice can't be opened.
    """
    workers = [pool.start(source) for _ in range(min(most, pool.size))]
    opened: SimpleQueue[Any] = SimpleQueue()
    for worker in workers:
        _in_thread(opened, map(_opened, [worker]))
    with suppress(Empty):
        return workers, _value(opened.get(timeout=PATIENCE))
    raise _no_worker()


def speak_shards(workers: list[PoolWorker], job: Job, shards: Iterator[Shard]) -> Iterator[ShardReport]:
    """Has all shards recorded, and yields a report of each.

    A thread for each worker sends it shards and waits. Shards that end every worker are recorded without audio. After
    an error, and if not all reports are taken, the workers go on until their pool is closed.

    Raises:
        UserError: workers differ, or none starts.
        OSError: a file can't be written. Other workers may or may not have recorded their shards.
    """
    waiting: SimpleQueue[Shard | None] = SimpleQueue()
    reports: SimpleQueue[Any] = SimpleQueue()
    deaths: Counter[str] = Counter()  # by shard: workers that ended while they spoke it
    for shard in islice(shards, SHARDS_A_WORKER * len(workers)):
        waiting.put(shard)
    unreported = waiting.qsize()
    for worker in workers:
        _in_thread(reports, _feed(worker, job, waiting, deaths))
    try:
        while unreported:
            try:
                report = _value(reports.get(timeout=PATIENCE))
            except Empty:
                if waiting.qsize() == unreported:
                    raise _no_worker() from None
                continue
            unreported -= 1
            for shard in islice(shards, 1):
                waiting.put(shard)
                unreported += 1
            yield report
    finally:
        for _ in workers:
            waiting.put(None)


def _feed(
    worker: PoolWorker, job: Job, waiting: "SimpleQueue[Shard | None]", deaths: Counter[str]
) -> Iterator[ShardReport]:
    """Has a worker do shards until None comes instead of one. Yields a report of each."""
    _opened(worker)
    unreported: dict[str, Shard] = {}
    following: Shard | None = None
    while (shard := following or waiting.get()) is not None:
        following = None
        unreported[shard.name] = shard
        try:
            if deaths[shard.name] >= MOST_DEATHS:
                reason = f"ended its worker {MOST_DEATHS} times"
                _log.warning("Shard %s (line %d and following) %s", shard.name, shard.lines[0].number, reason)
                reports = worker("give_up", job, shard, f"its shard {reason}")
            else:
                with suppress(Empty):
                    following = waiting.get_nowait()
                if following is not None:
                    unreported[following.name] = following
                reports = worker("speak", job, shard, following)
        except WorkerDied as error:
            _log.warning("A worker died (%s): another one takes its place", error)
            deaths[shard.name] += 1
            for one in unreported.values():
                waiting.put(one)
            following, unreported = None, {}
            _opened(worker)
            continue
        for one in reports:
            del unreported[one.shard]
            yield one


def _opened(worker: PoolWorker) -> Identity:
    """Waits until a worker has its voice. Raises UserError if it can't be opened."""
    for _ in range(MOST_DEATHS):
        try:
            return worker("open")
        except WorkerDied as error:
            death = error
    raise UserError(f"no worker could be started ({death}); check the machine's memory and its log") from death


def _in_thread(queue: "SimpleQueue[Any]", items: Iterator[Any]) -> None:
    """Puts what an iterator yields, and what it raises, in a daemon thread."""

    def run() -> None:
        try:
            for item in items:
                queue.put(item)
        except BaseException as error:
            queue.put(error)

    threading.Thread(target=run, name="corpus worker", daemon=True).start()


def _value(item: Any) -> Any:
    if isinstance(item, BaseException):
        raise item
    return item


def _no_worker() -> UserError:
    return UserError(f"no worker for {PATIENCE / 60:.0f} minutes; see whether the machines have room for one")
