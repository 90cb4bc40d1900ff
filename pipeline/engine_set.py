"""The four engines of a voice as one thing: checked to belong together, with the sizes that all of them take."""

import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import torch

from common.config import Tacotron2Config, WaveGlowConfig
from common.engine import Engine, Range
from common.errors import Closed, InvalidInput, UserError, check_type
from common.metadata import DEFAULT_SIGMA, PARTS, Part
from pipeline.settings import WorkSettings
from tacotron2.decoder_graph import make_decoder
from waveglow.denoiser import Denoiser
from waveglow.vocoder import window_sizes

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Limits:
    """The sizes that all four engines take, inclusive; the largest is sys.maxsize where none has a limit."""

    batch: Range
    text: Range  # symbols
    mel: Range  # frames

    @classmethod
    def of(cls, engines: Mapping[Part, Engine]) -> "Limits":
        return cls(*(_shared_range(engines, symbol) for symbol in ("batch", "text", "mel")))


class EngineLock:
    """Held by the thread that runs the engines. Unlike an RLock it isn't given to that thread a second time: a callback
    in the middle of a run must not begin another.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._holder: int | None = None
        self._process = os.getpid()

    @property
    def is_forked(self) -> bool:
        """Whether this is a copy in a forked process. That has none of the threads that engines compute in."""
        return os.getpid() != self._process

    @property
    def held_here(self) -> bool:
        """Whether the calling thread holds it."""
        return self._holder == threading.get_ident()

    def check_process(self) -> None:
        """Raises Closed if `is_forked`."""
        if self.is_forked:
            raise Closed("a forked process can't speak with its parent's voice; load the voice in each process")

    def check(self) -> None:
        """Raises Closed if `is_forked`, and UserError if `held_here`: the thread would wait for itself."""
        self.check_process()
        if self.held_here:
            raise UserError("a callback can't speak with the voice that calls it; let it return first")

    def acquire(self, timeout: float = -1) -> bool:
        """Waits at most `timeout` seconds, and for ever if that is negative. Raises what `check` does."""
        self.check()
        acquired = self._lock.acquire(timeout=timeout)
        if acquired:
            self._holder = threading.get_ident()
        return acquired

    def release(self) -> None:
        self._holder = None
        self._lock.release()

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(self, *exception: object) -> None:
        self.release()


class EngineSet:
    """Four engines of one precision, from models that fit together. Owns them: `close` closes them.

    Thread-safe where they are `running`. `pipeline.stages` has what is run on them.

    Args:
        engines: one engine for each part, in `parts` afterwards.
        work: how the work is cut.
        measure_bias: gives the denoiser's bias where WaveGlow's metadata carry none; called once, when it is needed.

    Raises:
        UserError: engines that don't belong together, or with profiles that leave no room for speech.
    """

    def __init__(
        self,
        engines: Mapping[Part, Engine],
        work: WorkSettings | None = None,
        measure_bias: Callable[[], tuple[float, ...]] | None = None,
    ) -> None:
        check_parts("engines", engines)
        check_together(engines)
        self.parts = engines
        self.work = WorkSettings.given(work, "work")
        self.limits = Limits.of(engines)
        waveglow, tacotron2 = engines["waveglow"].metadata, engines["encoder"].metadata
        assert isinstance(waveglow.model, WaveGlowConfig)
        assert isinstance(tacotron2.model, Tacotron2Config)
        self.tacotron2_config = tacotron2.model
        self.audio = waveglow.audio
        self.frame_seconds = self.audio.hop_length / self.audio.sampling_rate
        self.voice = tacotron2.voice
        self.precision = tacotron2.precision
        self.sigma = waveglow.sigma if waveglow.sigma is not None else DEFAULT_SIGMA
        self.gain = waveglow.gain
        self.denoiser = Denoiser(waveglow, measure_bias)
        self.noise_channels = waveglow.model.n_group
        self.noise_per_frame = self.audio.hop_length // self.noise_channels
        self.window_sizes = window_sizes(engines["waveglow"], self.work.window)
        self.batch_size = min(self.work.batch_size, self.limits.batch[1])
        self.max_symbols = min(self.work.max_symbols, self.limits.text[1])
        devices = [engine.device for engine in engines.values() if engine.device.type == "cuda"]
        self.device = devices[0] if devices else torch.device("cpu")
        self.on_gpu = bool(devices)
        self.decoder = make_decoder(engines["decoder_iter"], self.work.cuda_graph)
        self.lock = EngineLock()
        self._stream = torch.cuda.Stream(self.device) if devices else None
        self._closed = False

    @contextmanager
    def running(self) -> Iterator[None]:
        """What engines run in: the set's lock, inference, its device and a CUDA stream of its own.

        On the default stream TensorRT would wait for the whole device at every run.

        Raises:
            Closed: the engines are closed, or another process's.
            UserError: a callback of this thread's own run asks for another.
        """
        with self.lock, torch.inference_mode():
            if self._closed:
                raise Closed("the voice is closed; load it again")
            if self._stream is None:
                yield
                return
            with torch.cuda.device(self.device), torch.cuda.stream(self._stream):
                yield

    def recover(self) -> None:
        """Makes the device usable after an engine's exception: cached memory is released.

        Raises:
            Closed: the device has failed for good. CUDA calls an error sticky that every later call of the process
                returns.
        """
        if not self.on_gpu:
            return
        with suppress(Exception):  # an earlier kernel's error, returned once
            torch.cuda.synchronize(self.device)
        try:
            torch.cuda.synchronize(self.device)
            torch.cuda.empty_cache()
        except Exception as error:
            raise Closed(f"{self.device} has failed ({type(error).__name__}); start the program again") from error

    def hide_folders(self, error: Exception) -> None:
        """Names model files in an error without their folders, as a server's clients may read it; logs the whole."""
        whole = shown = str(error)
        for engine in self.parts.values():
            shown = shown.replace(engine.name, Path(engine.name).name)
        if shown != whole:
            _log.error("%s", whole)
            error.args = (shown,)

    def close(self) -> None:
        """Closes the engines; may be called again."""
        if self._closed:
            return
        self._closed = True
        self.decoder.close()
        for engine in reversed(list(self.parts.values())):
            engine.close()


def check_parts(name: str, given: Mapping[Part, object]) -> None:
    """Raises InvalidInput for an argument that isn't a mapping from each of the four parts."""
    check_type(name, given, Mapping)
    if missing := [part for part in PARTS if part not in given]:
        raise InvalidInput(f"{name}: {', '.join(missing)} missing", name)


def check_together(engines: Mapping[Part, Engine]) -> None:
    """Raises UserError unless the four engines have one precision and come from models that fit together."""
    encoder = engines["encoder"]
    for part in PARTS[1:]:
        engine = engines[part]
        if engine.metadata.precision != encoder.metadata.precision:
            raise UserError(
                f"{engine.name} is {engine.metadata.precision} but {encoder.name} is {encoder.metadata.precision}; "
                "export or build all four in one precision"
            )
        if engine.metadata.audio != encoder.metadata.audio:
            raise UserError(
                f"{engine.name}: its audio settings {engine.metadata.audio} are not those of {encoder.name}, "
                f"{encoder.metadata.audio}; use models trained alike"
            )
        if part != "waveglow" and engine.metadata.checkpoint_sha256 != encoder.metadata.checkpoint_sha256:
            raise UserError(
                f"{engine.name} and {encoder.name} come from different checkpoints; export all parts of one checkpoint"
            )
    mels = [engines[part].metadata.model.n_mel_channels for part in PARTS]
    if len(set(mels)) > 1:
        raise UserError(f"{engines['waveglow'].name}: takes {mels[-1]} mel channels, Tacotron 2 gives {mels[0]}")


def _shared_range(engines: Mapping[Part, Engine], symbol: str) -> Range:
    ranges = [engine.limits[symbol] for engine in engines.values() if symbol in engine.limits]
    return max((low for low, _ in ranges), default=1), min((high for _, high in ranges), default=sys.maxsize)
