"""The pipeline: phrases in, audio out, on whatever engines it is given.

text -> ids -> encoder -> decoder loop -> postnet -> WaveGlow -> denoiser -> audio.

Library code: it prints nothing and owns no files. `trt/inference_trt.py`, `inference.py` and the benchmarks drive it.
"""

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from common.config import WaveGlowConfig
from common.engine import Engine, infer
from common.errors import UserError
from common.metadata import PARTS, Part
from common.phrases import Phrase
from common.random_streams import NoiseAhead, RandomStreams
from common.timing import Stages
from tacotron2.decoder import DecodedBatch, StopReason, StopRule
from tacotron2.decoder_graph import bucket_of, make_decoder
from tacotron2.text import EncodedText, split
from waveglow.denoiser import Denoiser
from waveglow.vocoder import SILENCE, padded_frames, vocode

STAGES = ("encoder", "decoder", "postnet", "waveglow", "denoiser")
MAX_SYMBOLS = 256  # of one piece: the classic's largest profile, and longer than attention was trained to hold
BATCHES_AHEAD = 8  # batches are made of so many batches' worth of pieces, so that lengths match and memory is bounded
DECODER_SHARE = 0.4  # of the work, for the progress bar alone
TYPICAL_FRAMES = 6  # of a symbol: for the progress bar, and for how much noise to draw ahead


@dataclass(frozen=True)
class SynthesisOptions:
    seed: int = 0
    sigma: float | None = None  # None: the WaveGlow file's own default
    stop: StopRule = field(default_factory=StopRule)
    batch_size: int = 8
    max_symbols: int = MAX_SYMBOLS
    window: int | None = None  # mel frames vocoded at a time; None: what suits the device
    cuda_graph: bool = True  # capture the decoder loop, where there is a GPU
    final_period: bool = True
    keep_pictures: bool = False  # keep each piece's mel and alignment


@dataclass(frozen=True)
class Piece:
    """As much of a phrase as is spoken in one breath: all of it, unless the phrase is long."""

    phrase: Phrase
    number: int  # within the phrase, from 0
    last: bool
    encoded: EncodedText


@dataclass(frozen=True)
class SpokenPiece:
    piece: Piece
    audio: np.ndarray  # float32 [frames * hop_length], not normalised
    frames: int
    stop_reason: StopReason
    seconds: float  # of computing; a batch's time is shared out by frames
    mel: np.ndarray | None  # float32 [n_mel_channels, frames], where pictures are kept
    alignment: np.ndarray | None  # float32 [frames, symbols]


def prepare(phrases: Sequence[Phrase], options: SynthesisOptions, max_symbols: int) -> list[list[Piece]]:
    """Each phrase's pieces, none longer than `max_symbols`. Raises UserError naming a phrase that can't be spoken."""
    prepared = []
    for phrase in phrases:
        try:
            texts = split(phrase.text, max_symbols, final_period=options.final_period)
        except UserError as error:
            raise UserError(f"phrase {phrase.index}: {error}") from error
        last = len(texts) - 1
        prepared.append([Piece(phrase, number, number == last, text) for number, text in enumerate(texts)])
    return prepared


class Synthesizer:
    """Speaks phrases on four engines, which have to be of one precision and of models that fit together.

    Args:
        engines: one engine for each part.
        denoiser: applied to the audio where given.
        on_message: told in the classic's words what is running; for printing.
        on_progress: told the number of symbols whose speech is done, fractions included; for a progress bar.

    Raises:
        UserError: engines that don't belong together.
    """

    def __init__(
        self,
        engines: Mapping[Part, Engine],
        options: SynthesisOptions | None = None,
        denoiser: Denoiser | None = None,
        on_message: Callable[[str], None] = lambda message: None,
        on_progress: Callable[[float], None] = lambda symbols: None,
    ) -> None:
        check_together(engines)
        self.engines = engines
        self.options = options or SynthesisOptions()
        self.decode = make_decoder(engines["decoder_iter"], self.options.cuda_graph)
        self.denoiser = denoiser
        self.on_message = on_message
        self.on_progress = on_progress
        on_gpu = [engine.device for engine in engines.values() if engine.device.type == "cuda"]
        self.stages = Stages(on_gpu[0] if on_gpu else torch.device("cpu"))
        self.audio_config = engines["waveglow"].metadata.audio
        waveglow = engines["waveglow"].metadata
        assert isinstance(waveglow.model, WaveGlowConfig)
        self.noise_channels = waveglow.model.n_group
        self.noise_per_frame = self.audio_config.hop_length // self.noise_channels
        sigma = self.options.sigma if self.options.sigma is not None else waveglow.sigma
        assert sigma is not None
        self.sigma = sigma
        limits = {symbol: shared_limits(engines, symbol) for symbol in ("batch", "text", "mel")}
        self.batch_size = min(self.options.batch_size, limits["batch"][1])
        self.max_symbols = min(self.options.max_symbols, limits["text"][1])
        self.min_symbols, self.min_frames = limits["text"][0], limits["mel"][0]
        steps = min(self.options.stop.max_decoder_steps, limits["mel"][1])
        self.stop = replace(self.options.stop, max_decoder_steps=steps)
        # While a GPU decodes, the host is free to draw; on a CPU drawing ahead would only take from the engines.
        self._noise_pool = ThreadPoolExecutor(thread_name_prefix="noise") if on_gpu else None
        self._symbols_done = 0.0

    def speak(self, phrases: Sequence[Phrase]) -> Iterator[SpokenPiece]:
        """Yields every piece of every phrase, in order, as soon as it and all before it are spoken.

        Raises:
            UserError: a phrase can't be spoken, or an engine gave what isn't a number.
        """
        return self.speak_pieces(prepare(phrases, self.options, self.max_symbols))

    def speak_pieces(self, prepared: Sequence[Sequence[Piece]]) -> Iterator[SpokenPiece]:
        """As `speak`, on the result of `prepare`."""
        pieces = [piece for of_phrase in prepared for piece in of_phrase]
        self._symbols_done = 0.0
        ahead = BATCHES_AHEAD * self.batch_size
        for start in range(0, len(pieces), ahead):
            window = pieces[start : start + ahead]
            spoken: dict[int, SpokenPiece] = {}
            next_out = 0
            for batch in _batches_by_length(window, self.batch_size):
                spoken.update(zip(batch, self._speak_batch([window[i] for i in batch]), strict=True))
                while next_out in spoken:
                    yield spoken.pop(next_out)
                    next_out += 1

    def _speak_batch(self, pieces: Sequence[Piece]) -> list[SpokenPiece]:
        symbols_done = self._symbols_done
        try:
            return self._speak_together(pieces)
        except torch.OutOfMemoryError as error:
            if len(pieces) == 1:
                raise UserError(
                    f"out of device memory for {describe(pieces[0])}; use a smaller --window or --max-symbols"
                ) from error
        torch.cuda.empty_cache()
        self._symbols_done = symbols_done
        middle = len(pieces) // 2  # random numbers belong to the phrases, so that halves say what the whole would have
        return self._speak_batch(pieces[:middle]) + self._speak_batch(pieces[middle:])

    def _speak_together(self, pieces: Sequence[Piece]) -> list[SpokenPiece]:
        started = time.perf_counter()
        streams = [RandomStreams(self.options.seed, piece.phrase.index, piece.number) for piece in pieces]
        memory = self._encode(pieces)
        noises = [
            NoiseAhead(stream, self.noise_channels, self._noise_size(piece), self._noise_pool)
            for stream, piece in zip(streams, pieces, strict=True)
        ]
        decoded = self._decode(pieces, memory, streams)
        mels = self._refine(pieces, decoded)
        audios = self._vocode(pieces, mels, noises)
        seconds_per_frame = (time.perf_counter() - started) / sum(decoded.frames)
        return [
            SpokenPiece(
                piece=piece,
                audio=audio,
                frames=frames,
                stop_reason=reason,
                seconds=frames * seconds_per_frame,
                mel=mel.float().cpu().numpy() if self.options.keep_pictures else None,
                alignment=self._alignment(decoded, item, len(piece.encoded.ids)),
            )
            for item, (piece, audio, frames, reason, mel) in enumerate(
                zip(pieces, audios, decoded.frames, decoded.stop_reasons, mels, strict=True)
            )
        ]

    def _encode(self, pieces: Sequence[Piece]) -> dict[str, Tensor]:
        self.on_message("Running Tacotron2 Encoder")
        engine = self.engines["encoder"]
        lengths = [len(piece.encoded.ids) for piece in pieces]
        width = max(*lengths, self.min_symbols)
        if engine.device.type == "cuda":
            width = bucket_of(width, self.engines["decoder_iter"])  # few widths, so that graphs are used again
        ids = np.zeros((len(pieces), width), np.int32)
        for row, piece in zip(ids, pieces, strict=True):
            row[: len(piece.encoded.ids)] = piece.encoded.ids
        with self.stages("encoder"):
            outputs = infer(
                engine,
                sequences=torch.from_numpy(ids).to(engine.device),
                sequence_lengths=torch.tensor(lengths, dtype=torch.int32, device=engine.device),
            )
        self._check_finite("encoder", outputs["memory"], pieces)
        return outputs

    def _decode(
        self, pieces: Sequence[Piece], memory: Mapping[str, Tensor], streams: Sequence[RandomStreams]
    ) -> DecodedBatch:
        self.on_message("Running Tacotron2 Decoder")
        symbols = [len(piece.encoded.ids) for piece in pieces]
        share, expected = DECODER_SHARE * sum(symbols), TYPICAL_FRAMES * max(symbols)
        done = self._symbols_done
        device = self.engines["decoder_iter"].device
        with self.stages("decoder"):
            decoded = self.decode(
                memory["memory"].to(device),
                memory["processed_memory"].to(device),
                symbols,
                streams,
                self.stop,
                keep_alignments=self.options.keep_pictures,
                on_step=lambda step: self._advance_to(done + share * min(1.0, step / expected)),
            )
        self._advance_to(done + share)
        self.on_message(f"Stopping after {max(decoded.frames)} decoder steps")
        for piece, frames, reason in zip(pieces, decoded.frames, decoded.stop_reasons, strict=True):
            if reason == "cap":
                self.on_message(f"Warning! Reached max decoder steps: {describe(piece)} was cut at {frames} frames")
        return decoded

    def _refine(self, pieces: Sequence[Piece], decoded: DecodedBatch) -> list[Tensor]:
        # One run for each length: padding would be heard across an utterance's end.
        self.on_message("Running Tacotron2 Postnet")
        engine = self.engines["postnet"]
        mels: dict[int, Tensor] = {}
        with self.stages("postnet"):
            for frames in dict.fromkeys(decoded.frames):
                items = [item for item, length in enumerate(decoded.frames) if length == frames]
                mel = decoded.mels[items, :, :frames].contiguous().to(engine.device)
                if frames < self.min_frames:  # shorter than the engine takes: silence follows, and is cut off
                    mel = F.pad(mel, (0, self.min_frames - frames), value=SILENCE)
                refined = infer(engine, mel_outputs=mel)["mel_outputs_postnet"][:, :, :frames]
                self._check_finite("postnet", refined, [pieces[item] for item in items])
                mels.update(zip(items, refined, strict=True))
        return [mels[item] for item in range(len(pieces))]

    def _vocode(
        self, pieces: Sequence[Piece], mels: Sequence[Tensor], noises: Sequence[NoiseAhead]
    ) -> list[np.ndarray]:
        self.on_message("Running WaveGlow")
        engine = self.engines["waveglow"]
        dtype = engine.contract.outputs[0].dtype
        frames = [padded_frames(mel.size(1)) for mel in mels]
        done, share = self._symbols_done, (1 - DECODER_SHARE) * sum(len(piece.encoded.ids) for piece in pieces)
        with self.stages("waveglow"):
            scaled = [
                torch.from_numpy(noise.take(count * self.noise_per_frame)).to(engine.device).mul_(self.sigma)
                for noise, count in zip(noises, frames, strict=True)
            ]
            audios = vocode(
                engine,
                [mel.to(engine.device) for mel in mels],
                [noise.T.to(dtype) for noise in scaled],
                window=self.options.window,
                on_frames=lambda finished: self._advance_to(done + share * finished / sum(frames)),
            )
        if self.denoiser is not None:
            with self.stages("denoiser"):
                audios = [self.denoiser(audio.float()) for audio in audios]
        joined = torch.cat(audios).float()
        if not torch.isfinite(joined).all():
            for piece, audio in zip(pieces, audios, strict=True):
                self._check_finite("waveglow", audio, [piece])
        ends = np.cumsum([audio.numel() for audio in audios])
        return np.split(joined.cpu().numpy(), ends[:-1])

    def _noise_size(self, piece: Piece) -> int:
        # Positions of noise that a piece will probably need.
        return TYPICAL_FRAMES * len(piece.encoded.ids) * self.noise_per_frame

    def _alignment(self, decoded: DecodedBatch, item: int, symbols: int) -> np.ndarray | None:
        if decoded.alignments is None:
            return None
        return decoded.alignments[item, : decoded.frames[item], :symbols].float().cpu().numpy()

    def _check_finite(self, part: Part, tensor: Tensor, pieces: Sequence[Piece]) -> None:
        if torch.isfinite(tensor).all():
            return
        which = describe(pieces[0]) if len(pieces) == 1 else f"the batch of {describe(pieces[0])}"
        raise UserError(
            f"{self.engines[part].name}: NaN or infinity in the {part}'s output for {which}; "
            "try FP32, or export and build the file again"
        )

    def _advance_to(self, symbols: float) -> None:
        self._symbols_done = symbols
        self.on_progress(symbols)


def describe(piece: Piece) -> str:
    """A piece in a message: its phrase's number and the beginning of its text."""
    text = piece.encoded.text
    return f'phrase {piece.phrase.index} ("{text[:40]}{"..." if len(text) > 40 else ""}")'


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


def shared_limits(engines: Mapping[Part, Engine], symbol: str) -> tuple[int, int]:
    """The sizes of a symbol that all engines take; (1, sys.maxsize) where none has a limit."""
    limits = [engine.limits[symbol] for engine in engines.values() if symbol in engine.limits]
    return max((low for low, _ in limits), default=1), min((high for _, high in limits), default=sys.maxsize)


def _batches_by_length(pieces: Sequence[Piece], batch_size: int) -> list[list[int]]:
    order = sorted(range(len(pieces)), key=lambda i: len(pieces[i].encoded.ids))
    batches = [sorted(order[i : i + batch_size]) for i in range(0, len(order), batch_size)]
    return sorted(batches)  # the batch with the earliest phrase first, so that results come out early
