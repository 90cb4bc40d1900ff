"""The four engines of a voice as one thing: checked to belong together, with the sizes that all of them take.

The stages of speaking that the offline synthesizer and the scheduler share are methods here: encode, refine.
"""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from common.config import Tacotron2Config, WaveGlowConfig
from common.cuda import ShapeCache, upload
from common.engine import Engine, Range, infer
from common.errors import Closed, EngineFailure, InvalidInput, UserError
from common.metadata import DEFAULT_SIGMA, PARTS, Part
from pipeline.settings import SpeakSettings, WorkSettings
from tacotron2.decoder import LONGEST_DECODING, StopRule
from tacotron2.decoder_graph import bucket_of, make_decoder
from waveglow.denoiser import Denoiser
from waveglow.vocoder import CONTEXT, END_SILENCE, SILENCE, window_sizes

DENOISERS = 16  # strengths that are kept
NEVER = 1.0  # a gate threshold that no gate passes
POSTNET_CONTEXT = 10  # frames that a frame depends on, on either side: five convolutions of five
# On a GPU, whose graphs are of one size each, the postnet sees utterances of different lengths in windows of one.
POSTNET_WINDOW, POSTNET_WINDOWS = 96, 64  # frames of a window, and windows at a time


@dataclass(frozen=True)
class Limits:
    """The sizes that all four engines take, inclusive; the largest is sys.maxsize where none has a limit."""

    batch: Range
    text: Range  # symbols
    mel: Range  # frames

    @classmethod
    def of(cls, engines: Mapping[Part, Engine]) -> "Limits":
        return cls(*(_shared_range(engines, symbol) for symbol in ("batch", "text", "mel")))


class EngineSet:
    """Four engines of one precision, from models that fit together. Owns them: `close` closes them.

    Not thread-safe: one thread runs engines at a time.

    Args:
        engines: one engine for each part.
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
        check_together(engines)
        self.engines = engines
        self.work = work or WorkSettings()
        self.limits = Limits.of(engines)
        waveglow, tacotron2 = engines["waveglow"].metadata, engines["encoder"].metadata
        assert isinstance(waveglow.model, WaveGlowConfig)
        assert isinstance(tacotron2.model, Tacotron2Config)
        self.tacotron2_config = tacotron2.model
        self.audio = waveglow.audio
        self.voice = tacotron2.voice
        self.precision = tacotron2.precision
        self.sigma = waveglow.sigma if waveglow.sigma is not None else DEFAULT_SIGMA
        self.gain = waveglow.gain
        self.noise_channels = waveglow.model.n_group
        self.noise_per_frame = self.audio.hop_length // self.noise_channels
        self.window_sizes = window_sizes(engines["waveglow"], self.work.window)
        self.batch_size = min(self.work.batch_size, self.limits.batch[1])
        if engines["decoder_iter"].metadata.int8_lstms:
            self.batch_size = 1  # 8-bit scales are shared by a batch: neighbours would change what is said
        self.max_symbols = min(self.work.max_symbols, self.limits.text[1])
        devices = [engine.device for engine in engines.values() if engine.device.type == "cuda"]
        self.device = devices[0] if devices else torch.device("cpu")
        self.on_gpu = bool(devices)
        self.decoder = make_decoder(engines["decoder_iter"], self.work.cuda_graph)
        self._stream = torch.cuda.Stream(self.device) if devices else None
        self._denoisers = ShapeCache[float, Denoiser](DENOISERS)
        self._waveglow_metadata = waveglow
        self._measure_bias = measure_bias
        self._closed = False

    @contextmanager
    def running(self) -> Iterator[None]:
        """What engines run in: inference, the set's device and a CUDA stream of its own.

        On the default stream TensorRT would wait for the whole device at every run.
        """
        with torch.inference_mode():
            if self._stream is None:
                yield
                return
            with torch.cuda.device(self.device), torch.cuda.stream(self._stream):
                yield

    def stop_rule(self, settings: SpeakSettings) -> StopRule:
        """When an utterance ends: the caller's choice, else the voice's own, within what the engines take."""
        config = self.tacotron2_config
        threshold = settings.gate_threshold
        if threshold is None:
            threshold = NEVER if config.decoder_no_early_stopping else config.gate_threshold
        steps = settings.max_decoder_steps
        if steps is None:
            steps = min(config.max_decoder_steps, LONGEST_DECODING)
        longest = self.limits.mel[1]
        if self.window_sizes[1] <= 2 * CONTEXT:  # too little for windows that overlap: all in one, or not at all
            longest = min(longest, int((self.window_sizes[1] - END_SILENCE) * settings.speed))
        return StopRule(threshold, min(steps, longest))

    def denoiser(self, strength: float) -> Denoiser | None:
        """The denoiser of this strength, from the bias that the WaveGlow file carries; None for strength 0.

        Raises:
            InvalidInput: the file carries none.
        """
        self.check_denoiser(strength)
        if strength == 0:
            return None
        if self._waveglow_metadata.bias is None and self._measure_bias is not None:
            self._waveglow_metadata = replace(self._waveglow_metadata, bias=self._measure_bias())
        return self._denoisers.get(strength, lambda: Denoiser.of(self._waveglow_metadata, strength))

    def check_denoiser(self, strength: float) -> None:
        """Raises InvalidInput for a strength above 0 where the WaveGlow file carries no bias. Thread-safe."""
        if strength and self._waveglow_metadata.bias is None and self._measure_bias is None:
            raise InvalidInput(
                "denoise: the WaveGlow file carries no bias for it; export the file with "
                "exports/export_waveglow_onnx.py, or leave the denoiser off",
                "denoise",
            )

    def encode(self, texts: Sequence[np.ndarray]) -> tuple[Tensor, Tensor]:
        """Symbol ids, int32 [symbols] each -> memory (B, T, .) and processed memory (B, T, .) on the decoder's device.

        T is the longest text's length, or on a GPU the bucket that it falls into, so that graphs are used again.
        """
        engine, decoder = self.engines["encoder"], self.engines["decoder_iter"]
        lengths = [len(ids) for ids in texts]
        width = max(*lengths, self.limits.text[0])
        if self.on_gpu:
            width = bucket_of(width, self.limits.text)
        sequences = np.zeros((len(texts), width), np.int32)
        for row, ids in zip(sequences, texts, strict=True):
            row[: len(ids)] = ids
        outputs = infer(
            engine,
            sequences=upload(sequences, engine.device),
            sequence_lengths=upload(np.array(lengths, np.int32), engine.device),
        )
        return outputs["memory"].to(decoder.device), outputs["processed_memory"].to(decoder.device)

    def refine(self, mels: Tensor, capture: bool = True) -> Tensor:
        """The postnet: frames (B, n_mel_channels, M) as decoded -> the same refined, on WaveGlow's device.

        All of the batch have M frames: padding would be heard across an utterance's end.

        Args:
            capture: whether an engine that captures graphs may capture this size, because it comes again.
        """
        engine = self.engines["postnet"]
        if not capture:
            engine = getattr(engine, "plain", engine)
        frames = mels.size(2)
        mels = mels.contiguous().to(engine.device)
        if frames < self.limits.mel[0]:  # shorter than the engine takes: silence follows, and is cut off
            mels = F.pad(mels, (0, self.limits.mel[0] - frames), value=SILENCE)
        refined = infer(engine, mel_outputs=mels)["mel_outputs_postnet"][:, :, :frames]
        return refined.to(self.engines["waveglow"].device)

    def refine_each(self, mels: Tensor, frames: Sequence[int]) -> list[Tensor]:
        """The postnet on utterances of any lengths.

        Args:
            mels: (B, n_mel_channels, M) as decoded.
            frames: of each utterance; what lies beyond them is ignored.

        Returns:
            of each utterance (n_mel_channels, frames), on WaveGlow's device.
        """
        low, high = self.limits.mel
        windowed = self.on_gpu and len(set(frames)) > 1 and low <= POSTNET_WINDOW <= high
        items = [item for item, length in enumerate(frames) if windowed and length > POSTNET_WINDOW]
        refined: dict[int, Tensor] = {}
        if items:
            whole = self._refine_in_windows(mels, items, frames)
            refined = {item: whole[item, :, : frames[item]] for item in items}
        for length in dict.fromkeys(length for item, length in enumerate(frames) if item not in refined):
            equal = [item for item, other in enumerate(frames) if other == length]
            chosen = mels if len(equal) == len(frames) else mels[equal]
            refined.update(zip(equal, self.refine(chosen[:, :, :length]), strict=True))
        return [refined[item] for item in range(len(frames))]

    def _refine_in_windows(self, mels: Tensor, items: Sequence[int], frames: Sequence[int]) -> Tensor:
        """As `refine_each` for some of the utterances, all longer than a window: (B, n_mel_channels, M).

        The first window begins where its utterance does and the last one ends with it, so that the edges see what they
        should; each frame between has its context.
        """
        windows: list[tuple[int, int, int, int]] = []  # whose, where it begins, and where what is kept begins and ends
        for item in items:
            last = frames[item] - POSTNET_WINDOW
            starts = [*range(0, last, POSTNET_WINDOW - 2 * POSTNET_CONTEXT), last]
            edges = [0, *(start + POSTNET_CONTEXT for start in starts[1:]), frames[item]]
            windows += zip([item] * len(starts), starts, edges, edges[1:], strict=False)
        at_once = min(1 << (len(windows) - 1).bit_length(), POSTNET_WINDOWS, self.limits.batch[1])
        at_once = max(at_once, self.limits.batch[0])
        windows += [(items[0], 0, 0, 0)] * (-len(windows) % at_once)  # of which nothing is kept
        owner, start, kept_start, kept_stop = np.array(windows).T[:, :, None]
        frame = start + np.arange(POSTNET_WINDOW)  # (windows, POSTNET_WINDOW)
        window, place = ((frame >= kept_start) & (frame < kept_stop)).nonzero()

        rows = mels.transpose(1, 2)  # (B, M, n_mel_channels)
        seen = rows[upload(owner, rows.device), upload(frame, rows.device)].transpose(1, 2)
        done = torch.cat([self.refine(part) for part in seen.split(at_once)]).transpose(1, 2)
        result = torch.empty_like(rows, device=done.device)
        target = tuple(upload(index, done.device) for index in (owner[window, 0], frame[window, place]))
        source = tuple(upload(index, done.device) for index in (window, place))
        result[target] = done[source]
        return result.transpose(1, 2)

    def nan_error(self, part: Part, which: str) -> EngineFailure:
        """The error of a part that gave what isn't a number."""
        return EngineFailure(
            f"{self.engines[part].name}: NaN or infinity in the {part}'s output for {which}; "
            "try FP32, or export and build the file again"
        )

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

    def close(self) -> None:
        """Closes the engines; may be called again."""
        if self._closed:
            return
        self._closed = True
        self.decoder.close()
        for engine in reversed(list(self.engines.values())):
            engine.close()


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
