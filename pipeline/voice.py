"""A voice that speaks text: for scripts, servers, corpora and other people's programs.

with Voice.load("output") as voice:
    audio = voice.speak("Hello there.")
    audio.save("hello.wav")
"""

import itertools
import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from typing_extensions import Unpack

from common.callbacks import ignore, own_errors
from common.checkpoint import LoadedModel
from common.engine import Engine
from common.errors import Closed, InvalidInput, UserError, check_choice, explained
from common.files import path_of
from common.metadata import Part, Precision
from common.phrases import Phrase
from pipeline.audio import Audio
from pipeline.engine_set import EngineSet
from pipeline.model_files import close_engines, open_engines, voice_files
from pipeline.pieces import PieceResult, PreparedPhrase, prepare
from pipeline.scheduler import CLOSING_SECONDS, QUEUE_LENGTH, Scheduler
from pipeline.settings import RuntimeOptions, RuntimeSettings, SpeakOptions, SpeakSettings, WorkSettings, written_out
from pipeline.speech import AudioStream, Speech, speak_whole
from pipeline.synthesizer import BATCHES_AHEAD, Synthesizer
from pipeline.text_stream import speak_bits
from pipeline.torch_engines import torch_engines
from pipeline.words import joined_words
from tacotron2.loading import DEMO_TACOTRON2, load_tacotron2
from tacotron2.model import Tacotron2
from waveglow.conditioning import Conditioning
from waveglow.denoiser import bias_of
from waveglow.loading import DEMO_WAVEGLOW, load_waveglow
from waveglow.model import WaveGlow

_log = logging.getLogger(__name__)

_with_settings = written_out(SpeakSettings, SpeakOptions)
_with_runtime = written_out(RuntimeSettings, RuntimeOptions)

OnProgress = Callable[[float, int], object]  # of the number done, and of how many


class Voice:
    """Four engines that speak. Owns them; a context manager. Thread-safe: calls of several threads take turns, and
    streams of several threads are spoken together.

    What speaks takes its settings by name, as a `SpeakSettings`, which explains them, or as one with changes by name.

    Args:
        engines: one engine for each part; closed with the voice.
        work: how the work is cut.

    Raises:
        UserError: engines that don't belong together.
    """

    def __init__(self, engines: Mapping[Part, Engine] | EngineSet, work: WorkSettings | None = None) -> None:
        self.engines = engines if isinstance(engines, EngineSet) else EngineSet(engines, work)
        self._starting = threading.Lock()  # of the scheduler: a request must not wait for the engines to be queued
        self._scheduler: Scheduler | None = None
        self._closed = False

    @classmethod
    @_with_runtime
    def load(
        cls,
        models: str | Path | Mapping[Part, Path] | None = None,
        *,
        precision: Precision | None = None,
        work: WorkSettings | None = None,
        on_message: Callable[[str], object] | None = None,
        **runtime: Unpack[RuntimeOptions],
    ) -> "Voice":
        """Opens the voice of four model files of any kinds.

        Args:
            models: a folder of .engine or .onnx files, as the builder and the exporters name them; or each part's file.
                None takes ./output if models are there, else the demo voice, which it exports once.
            precision: that they must have; None takes a folder's FP16 engines if they are there, else FP32.
            on_message: called with the files that are taken, and before what takes long.
            **runtime: by name; `pipeline.settings.RuntimeSettings` says what each means.

        Raises:
            UserError: files are missing, damaged or don't belong together.
        """
        say = on_message or ignore
        if precision is not None:
            check_choice("precision", precision, get_args(Precision))
        if not isinstance(models, Mapping):
            models = voice_files(None if models is None else path_of("models", models), precision, say)
        say(f"Models: {', '.join(map(str, models.values()))}")
        return cls(_closed_on_error(open_engines(models, precision, **runtime), work))

    @classmethod
    def from_checkpoints(
        cls,
        tacotron2: str | Path | LoadedModel[Tacotron2] = DEMO_TACOTRON2,
        waveglow: str | Path | LoadedModel[WaveGlow] = DEMO_WAVEGLOW,
        *,
        device: str | torch.device = "cpu",
        precision: Precision = "fp32",
        fast: bool = True,
        conditioning: Conditioning = "auto",
        work: WorkSettings | None = None,
        sampling_rate: int | None = None,
        symbols: str | Path | None = None,
    ) -> "Voice":
        """Takes PyTorch checkpoints of NVIDIA's layout: files, or what `load_tacotron2` and `load_waveglow` return.

        Args:
            device: where they run.
            precision: "fp16" needs a GPU.
            fast: take this project's GPU kernels, where the device supports them.
            conditioning: "auto" computes WaveGlow's conditioning at the frames' rate where that loses nothing, "exact"
                at the positions', a number at the frames' with that rank, which may be lossy.
            sampling_rate: in Hz, of files that don't say it [22050].
            symbols: a list of Tacotron 2's own; see `tacotron2.loading.load_tacotron2` [NVIDIA's].

        Raises:
            UserError: a checkpoint can't be used, they don't fit together, or FP16 was asked for on a CPU.
        """
        given = {"sampling_rate": sampling_rate}
        if not isinstance(tacotron2, LoadedModel):
            listed = path_of("symbols", symbols) if symbols else None
            tacotron2 = load_tacotron2(path_of("tacotron2", tacotron2), given, listed)
        if not isinstance(waveglow, LoadedModel):
            waveglow = load_waveglow(path_of("waveglow", waveglow), given)
        engines = torch_engines(tacotron2, waveglow, precision, device, fast, conditioning)
        return cls(_closed_on_error(engines, work, partial(bias_of, waveglow, device)))

    def __repr__(self) -> str:
        engines = ", ".join(engine.name for engine in self.engines.parts.values())
        return f"<Voice {self.name!r}, {self.sampling_rate} Hz, {self.engines.precision}: {engines}>"

    @property
    def sampling_rate(self) -> int:
        """In Hz, of audio that isn't resampled."""
        return self.engines.audio.sampling_rate

    @property
    def name(self) -> str:
        """What the checkpoint says of the voice; may be empty."""
        return self.engines.voice

    @_with_settings
    def speak(
        self,
        text: str,
        settings: SpeakSettings | None = None,
        *,
        on_progress: OnProgress | None = None,
        **options: Unpack[SpeakOptions],
    ) -> Audio:
        """Speaks a text of any length.

        Args:
            on_progress: called with the symbols of the text that are spoken, fractions included, and with all of them.

        Raises:
            UserError: nothing can be spoken, a setting is of another type or out of range, or an engine gave what isn't
                a number.
            Exception: what `on_progress` raises, as it is.
        """
        ((_, audio),) = self.speak_many([text], settings, on_progress=on_progress, **options)
        if isinstance(audio, UserError):
            raise audio
        return audio

    @_with_settings
    def speak_many(
        self,
        texts: Iterable[str],
        settings: SpeakSettings | None = None,
        *,
        on_progress: OnProgress | None = None,
        **options: Unpack[SpeakOptions],
    ) -> Iterator[tuple[int, Audio | UserError]]:
        """Speaks texts in batches, and reads them as it goes. Yields (index, audio or why there is none), in order.

        Args:
            on_progress: as for `speak`; its symbols are those of the texts that are spoken together.

        Raises:
            InvalidInput: an argument is of another type, or a setting out of range.
        """
        chosen = SpeakSettings.given(settings, **options)
        if isinstance(texts, (str, bytes)) or not isinstance(texts, Iterable):
            raise InvalidInput(f"texts: must be several of str, not one {type(texts).__name__}", "texts")
        if on_progress is not None and not callable(on_progress):
            raise InvalidInput("on_progress: must be a function, or None", "on_progress")
        phrases = itertools.starmap(Phrase, enumerate(texts))
        at_once = BATCHES_AHEAD * self.engines.batch_size
        with own_errors(), Synthesizer(self.engines, chosen) as synthesizer:
            while some := list(itertools.islice(phrases, at_once)):
                prepared = prepare(some, chosen, self.engines.max_symbols)
                pieces = [piece for phrase in prepared for piece in phrase.pieces]
                if on_progress is not None:
                    symbols = sum(len(piece.encoded.ids) for piece in pieces)
                    synthesizer.on_progress = partial(_progress, on_progress, symbols)
                spoken = synthesizer.speak(pieces)
                for phrase in prepared:
                    yield phrase.phrase.index, _joined(phrase, spoken, self.sampling_rate, chosen)

    @_with_settings
    def stream(
        self, text: str | Iterable[str], settings: SpeakSettings | None = None, **options: Unpack[SpeakOptions]
    ) -> AudioStream:
        """Speaks a text in chunks, the first one early: together what `speak` gives of a whole text, but for rounding.

        Args:
            text: whole; or bits of it, as they come (an iterator is read in a thread of its own). Each sentence of
                these is spoken as a text by itself: pauses and samples aren't those of the whole text.

        Closing the stream cancels the rest. Settings and errors as for `speak`; an error may come after chunks.
        """
        chosen = SpeakSettings.given(settings, **options)
        if isinstance(text, (str, bytes)) or not isinstance(text, Iterable):
            return AudioStream(lambda closing: speak_whole(lambda: self.submit(text, chosen), closing))
        if chosen.ssml:
            raise InvalidInput("ssml: text that comes in bits can't be SSML", "ssml")
        speak = partial(speak_bits, text, chosen, lambda bit, on_event: self.submit(bit, chosen, on_event))
        return AudioStream(partial(speak, lambda: self.scheduler().watch()))

    @_with_settings
    def submit(
        self,
        text: str,
        settings: SpeakSettings | None = None,
        on_event: Callable[[], object] | None = None,
        **options: Unpack[SpeakOptions],
    ) -> Speech:
        """Queues a text for streaming and returns at once; see `pipeline.speech.Speech`.

        Raises:
            InvalidInput: nothing can be spoken, or a setting is out of range.
            Busy: the queue is full.
            Closed: the voice is closed, or can't work any more.
        """
        chosen = SpeakSettings.given(settings, **options)
        (prepared,) = prepare([Phrase(0, text)], chosen, self.engines.max_symbols)
        if prepared.error is not None:
            raise prepared.error
        speech = self.scheduler().submit(prepared.pieces, chosen, on_event or ignore)
        speech.dropped = prepared.dropped
        return speech

    def scheduler(
        self,
        *,
        max_slots: int | None = None,
        max_waiting: int = QUEUE_LENGTH,
        on_failed: Callable[[str], object] | None = None,
    ) -> Scheduler:
        """The voice's scheduler. The first call starts it, with the arguments of `Scheduler`."""
        with self._starting:
            if self._closed:
                raise Closed("the voice is closed; load it again")
            if self._scheduler is None:
                limits: dict[str, Any] = {"max_slots": max_slots, "max_waiting": max_waiting}
                self._scheduler = Scheduler(self.engines, **limits, on_failed=on_failed or ignore)
            return self._scheduler

    def close(self, drain: bool = False, timeout: float = CLOSING_SECONDS) -> None:
        """Closes the engines; may be called again. Arguments as for `Scheduler.close`.

        Calls under way raise Closed at their next use of the engines. Engines in use after the timeout stay open. In a
        callback it returns at once, and they are closed when they come free. In a forked process it does nothing.
        """
        if self.engines.lock.is_forked:
            return
        was_closed, self._closed = self._closed, True
        if self.engines.lock.held_here:
            if not was_closed:
                threading.Thread(target=self.close, args=(drain, timeout), name="closing").start()
            return
        with self._starting:
            scheduler, self._scheduler = self._scheduler, None
        if scheduler is not None:
            scheduler.close(drain, timeout)
        if not self.engines.lock.acquire(timeout):
            _log.warning("the voice is closed, and an engine has not returned: the engines stay open")
            return
        try:
            self.engines.close()
        finally:
            self.engines.lock.release()

    def __enter__(self) -> "Voice":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _progress(on_progress: OnProgress, symbols: int, done: float) -> None:
    on_progress(done, symbols)


def _joined(
    phrase: PreparedPhrase, spoken: Iterator[PieceResult], sampling_rate: int, settings: SpeakSettings
) -> Audio | UserError:
    """The audio of a phrase's pieces, taken from the spoken ones in order."""
    if phrase.error is not None:
        return phrase.error
    pieces = [next(spoken) for _ in phrase.pieces]
    try:
        samples = np.concatenate([piece.samples for piece in pieces])
        words = joined_words((piece.words, len(piece.samples) / sampling_rate) for piece in pieces)
        cut = any(piece.cut for piece in pieces)
        return Audio(samples, sampling_rate, words, cut).resampled(settings.sampling_rate)
    except Exception as error:
        return explained(error, f"line {phrase.phrase.line}")


def _closed_on_error(
    engines: Mapping[Part, Engine],
    work: WorkSettings | None,
    measure_bias: Callable[[], tuple[float, ...]] | None = None,
) -> EngineSet:
    """The engines as a set; none stays open if they don't belong together."""
    try:
        return EngineSet(engines, work, measure_bias)
    except BaseException:
        close_engines(engines)
        raise
