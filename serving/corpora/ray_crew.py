"""Workers as Ray actors: on a Ray of this machine alone, or on a cluster. Needs the package ray."""

import logging
import os
import sys
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from common.errors import UserError
from common.files import REPOSITORY
from pipeline.scheduler import SWITCH_INTERVAL
from serving.corpora.crew import Member, WorkerDied
from serving.corpora.job import Identity, Job, VoiceSource
from serving.corpora.layout import Shard
from serving.corpora.worker import SHARDS_AT_ONCE, ShardReport, Worker

OBJECT_STORE_BYTES = 100 << 20  # of a local Ray: shards of text and short reports pass through it, and no audio
_QUIET = {  # before Ray is imported: it asks nobody, tells nobody and warns of nothing that concerns us
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DISABLE_IMPORT_WARNING": "1",
}


class _Actor:
    """A worker in an actor; what it raises travels as a value, so that Ray doesn't wrap it."""

    def __init__(self) -> None:
        sys.setswitchinterval(SWITCH_INTERVAL)
        self._worker: Worker | None = None

    def open(self, source: VoiceSource) -> Identity | UserError:
        try:
            self._worker = Worker(source)
        except UserError as error:
            return UserError(str(error))
        return self._worker.identity

    def begin(self, job: Job) -> UserError | None:
        assert self._worker is not None
        try:
            self._worker.begin(job)
        except UserError as error:
            return UserError(str(error))
        return None

    def do(self, shard: Shard) -> ShardReport:
        assert self._worker is not None
        return self._worker.do(shard)


class RayCrew:
    """Workers as Ray actors, each with a GPU or a group of cores to itself.

    Args:
        source_of: the workers' voice, with GPUs or without; its files lie at the same paths on all machines.
        size: number of workers; None takes all that the cluster has room for.
        on_gpus: whether each gets a GPU; None takes GPUs where there are any.
        threads: cores of a worker without a GPU.
        address: of a cluster; None starts a Ray on this machine, which ends with the crew.

    Raises:
        UserError: Ray isn't installed, there is no cluster at the address, or it has no room.
    """

    def __init__(
        self,
        source_of: Callable[[bool], VoiceSource],
        size: int | None,
        on_gpus: bool | None,
        threads: int,
        address: str | None = None,
    ) -> None:
        os.environ.update({name: value for name, value in _QUIET.items() if name not in os.environ})
        try:
            import ray
        except ImportError as error:
            raise UserError("Ray is missing: bash scripts/run_corpus.sh installs it, --no-ray does without") from error
        self._ray = ray
        self._owns_ray = not ray.is_initialized()
        if self._owns_ray:
            _connect(ray, address, cores=None if size is None else size * threads)
        resources = ray.cluster_resources()
        gpus = int(resources.get("GPU", 0))
        self.on_gpus = gpus > 0 if on_gpus is None else on_gpus
        room = gpus if self.on_gpus else int(resources.get("CPU", 1)) // threads
        self.size = size if size is not None else max(1, room)
        if self.size > max(1, room):
            what = "GPUs" if self.on_gpus else f"groups of {threads} cores"
            self.close()
            raise UserError(f"{self.size} workers are asked for, and there are {room} {what}; ask for fewer")
        self._source = source_of(self.on_gpus)
        share: dict[str, Any] = {"num_gpus": 1, "num_cpus": 1} if self.on_gpus else {"num_gpus": 0, "num_cpus": threads}
        # The driver replaces the dead itself: Ray would start them again without their voice.
        self._actor = ray.remote(max_restarts=0, **share)(_Actor).options(max_concurrency=SHARDS_AT_ONCE)
        self._members: list[_RayMember] = []

    def hire(self) -> Member:
        member = _RayMember(self._ray, self._actor.remote(), self._source)
        self._members = [one for one in self._members if not one.dismissed] + [member]
        return member

    def close(self) -> None:
        for member in getattr(self, "_members", []):
            member.dismiss()
        if self._owns_ray:
            self._ray.shutdown()


class _RayMember:
    def __init__(self, ray: Any, actor: Any, source: VoiceSource) -> None:
        self._ray, self._actor = ray, actor
        self.dismissed = False
        self.opened: Future[Identity] = self._follow(actor.open.remote(source))

    def begin(self, job: Job) -> "Future[None]":
        return self._follow(self._actor.begin.remote(job))

    def do(self, shard: Shard) -> "Future[ShardReport]":
        return self._follow(self._actor.do.remote(shard))

    def dismiss(self) -> None:
        self.dismissed = True
        self._ray.kill(self._actor)

    def _follow(self, reference: Any) -> "Future[Any]":
        """Ray's future, with our exceptions."""
        ours: Future[Any] = Future()

        def pass_on(theirs: "Future[Any]") -> None:
            error = theirs.exception()
            result = None if error is not None else theirs.result()
            if error is not None:
                first_line = (str(error).strip() or "no message").splitlines()[0]
                ours.set_exception(WorkerDied(f"{type(error).__name__}: {first_line}"))
            elif isinstance(result, UserError):
                ours.set_exception(result)
            else:
                ours.set_result(result)

        reference.future().add_done_callback(pass_on)
        return ours


def _connect(ray: Any, address: str | None, cores: int | None) -> None:
    """Joins a cluster, or starts a Ray that only this machine sees."""
    # Workers import this project, from the same place on every machine.
    path = os.pathsep.join(filter(None, (str(REPOSITORY), os.environ.get("PYTHONPATH"))))
    options: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    options["runtime_env"] = {"env_vars": {"PYTHONPATH": path}}
    if address is None:
        options |= {"address": "local", "include_dashboard": False, "object_store_memory": OBJECT_STORE_BYTES}
        options |= {"_node_ip_address": "127.0.0.1"} | ({} if cores is None else {"num_cpus": max(1, cores)})
    else:
        options["address"] = address
    try:
        ray.init(**options)
    except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
        where = f"no Ray cluster at {address}" if address else "Ray does not start here"
        first_line = (str(error).strip() or "no message").splitlines()[0]
        raise UserError(f"{where} ({first_line}); check it with `ray status`, or use --no-ray") from error
