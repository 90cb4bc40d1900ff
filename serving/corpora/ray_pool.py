"""Workers as Ray actors: on a Ray of this machine alone, or on a cluster. Needs the package ray."""

import logging
import os
import signal
import threading
from collections.abc import Callable
from typing import Any

from common.cpu_backend import usable_cores
from common.errors import UserError
from common.files import REPOSITORY
from serving.corpora.job import VoiceSource
from serving.corpora.pool import PoolWorker
from serving.corpora.process import WorkerDied, WorkerStopped
from serving.corpora.worker import Worker

OBJECT_STORE_BYTES = 100 << 20  # of a local Ray: only shards of text and short reports pass through it
_QUIET = {  # set before Ray is imported: no usage statistics, and no warnings about what this project doesn't use
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DISABLE_IMPORT_WARNING": "1",
}


class RayPool:
    """Workers as Ray actors, each with a GPU or a group of cores to itself.

    Args:
        size: number of workers; None takes all that the cluster has room for.
        on_gpus: whether each gets a GPU; None takes GPUs where there are any.
        threads: cores of a worker without a GPU.
        address: of a cluster; None starts a Ray on this machine, which ends with the pool.

    Raises:
        UserError: Ray isn't installed, there is no cluster at the address, or it has no room.
    """

    def __init__(self, size: int | None, on_gpus: bool | None, threads: int, address: str | None = None) -> None:
        os.environ.update({name: value for name, value in _QUIET.items() if name not in os.environ})
        try:
            import ray
        except ImportError as error:
            raise UserError("Ray is missing: bash scripts/run_corpus.sh installs it, --no-ray does without") from error
        self._ray = ray
        self._workers: list[_RayWorker] = []
        self._owns_ray = not ray.is_initialized()
        if self._owns_ray:
            _connect(ray, address, usable_cores() if size is None else size * threads)
        resources = ray.cluster_resources()
        gpus = int(resources.get("GPU", 0))
        self.on_gpus = gpus > 0 if on_gpus is None else on_gpus
        room = gpus if self.on_gpus else int(resources.get("CPU", 1)) // threads
        self.size = size if size is not None else max(1, room)
        if self.size > max(1, room):
            what = "GPUs" if self.on_gpus else f"groups of {threads} cores"
            self.close()
            raise UserError(f"{self.size} workers are asked for, and there are {room} {what}; ask for fewer")
        share: dict[str, Any] = {"num_gpus": 1, "num_cpus": 1} if self.on_gpus else {"num_gpus": 0, "num_cpus": threads}
        self._actor_class = ray.remote(**share)(Worker)

    def start(self, source: VoiceSource) -> PoolWorker:
        self._workers.append(_RayWorker(self._ray, lambda: self._actor_class.remote(source)))
        return self._workers[-1].call

    def close(self) -> None:
        for worker in self._workers:
            worker.stop()
        self._workers.clear()
        if self._owns_ray:
            self._ray.shutdown()


class _RayWorker:
    """An actor, and after its death a new one. Ray's own restarts would hide which call ended the actor."""

    def __init__(self, ray: Any, start: Callable[[], Any]) -> None:
        self._ray, self._start = ray, start
        self._actor = start()
        self._lock = threading.Lock()
        self._stopped = False

    def call(self, method: str, *arguments: object) -> Any:
        with self._lock:
            if self._stopped:
                raise WorkerStopped
            actor = self._actor
        try:
            return self._ray.get(getattr(actor, method).remote(*arguments))
        except self._ray.exceptions.RayTaskError as error:
            raise error.cause from error
        except self._ray.exceptions.RayError as error:
            with self._lock:
                if self._stopped:
                    raise WorkerStopped from error
                if self._actor is actor:
                    self._ray.kill(actor)  # it may be alive and out of reach
                    self._actor = self._start()
            first_line = (str(error).strip() or "no message").splitlines()[0]
            raise WorkerDied(f"{type(error).__name__}: {first_line}") from error

    def stop(self) -> None:
        with self._lock:
            self._stopped = True
            self._ray.kill(self._actor)


def _connect(ray: Any, address: str | None, cores: int) -> None:
    """Joins a cluster, or starts a Ray that only this machine sees."""
    # Workers import this project, which lies at the same path on every machine.
    path = os.pathsep.join(filter(None, (str(REPOSITORY), os.environ.get("PYTHONPATH"))))
    options: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    options["runtime_env"] = {"env_vars": {"PYTHONPATH": path}}
    if address is None:
        options |= {"address": "local", "include_dashboard": False, "object_store_memory": OBJECT_STORE_BYTES}
        options |= {"_node_ip_address": "127.0.0.1", "num_cpus": cores}
    else:
        options["address"] = address
    sigterm = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(**options)
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, sigterm)  # Ray's own handler ends the process with another status
    except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
        where = f"no Ray cluster at {address}" if address else "Ray does not start here"
        first_line = (str(error).strip() or "no message").splitlines()[0]
        raise UserError(f"{where} ({first_line}); check it with `ray status`, or use --no-ray") from error
