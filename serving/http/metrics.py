"""A server's metrics, for Prometheus."""

from collections.abc import Iterable, Mapping
from typing import get_args

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    Info,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric, StateSetMetricFamily
from prometheus_client.registry import Collector

from common.files import project_version
from pipeline.scheduler import SchedulerStatus, State

# Seconds: from a GPU's first sound to a CPU's with a full queue.
_FIRST_AUDIO_BUCKETS = (0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_REQUEST_BUCKETS = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 60.0, 300.0)


class Metrics:
    """The metrics of one server, in a registry of its own.

    Attributes:
        first_audio: seconds from a request's arrival to its first audio.
        seconds: from a request's arrival to its last byte.
    """

    def __init__(self) -> None:
        disable_created_metrics()
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        Info("speech_build", "The version of this server", registry=self._registry).info({"version": project_version()})
        self._requests = Counter(
            "speech_requests",
            "Requests for speech, by HTTP status and how they ended (done, refused, failed, cancelled)",
            ("status", "outcome"),
            registry=self._registry,
        )
        self._cut = Counter(
            "speech_requests_cut", "Requests whose speech the limit of frames has cut", registry=self._registry
        )
        self.first_audio = Histogram(
            "speech_first_audio_seconds",
            "From a request's arrival to its first audio",
            buckets=_FIRST_AUDIO_BUCKETS,
            registry=self._registry,
        )
        self._load = _Load()
        self._registry.register(self._load)
        self.seconds = Histogram(
            "speech_request_seconds",
            "From the arrival of a request that was spoken to its last byte",
            buckets=_REQUEST_BUCKETS,
            registry=self._registry,
        )
        self._characters = Counter("speech_characters", "Characters of texts that were spoken", registry=self._registry)

    def ended(self, status: int, outcome: str, characters: int, cut: bool) -> None:
        """A request has ended."""
        self._requests.labels(str(status), outcome).inc()
        self._cut.inc(cut)
        if outcome == "done":
            self._characters.inc(characters)

    def exposition(self, engines: Mapping[str, SchedulerStatus], audio_seconds: float) -> bytes:
        """All of it in Prometheus' text format, with the engines' states and load, and the audio of all."""
        self._load.engines, self._load.audio_seconds = engines, audio_seconds
        return generate_latest(self._registry)


class _Load(Collector):
    def __init__(self) -> None:
        self.engines: Mapping[str, SchedulerStatus] = {}  # by name
        self.audio_seconds = 0.0

    def collect(self) -> Iterable[Metric]:
        state = StateSetMetricFamily("speech_state", "1 for the state that an engine is in", labels=["engine"])
        for name, status in self.engines.items():
            state.add_metric([name], {one: one == status.state for one in get_args(State)})
        yield state
        waiting, active = (sum(getattr(one, load) for one in self.engines.values()) for load in ("waiting", "active"))
        yield GaugeMetricFamily("speech_queue_length", "Requests that wait for a first slot", waiting)
        yield GaugeMetricFamily("speech_active_streams", "Requests being spoken", active)
        yield CounterMetricFamily("speech_audio_seconds", "Seconds of audio made", self.audio_seconds)
