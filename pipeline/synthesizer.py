"""The pipeline, offline: phrases in, audio out, in batches, on whatever engines it is given.

text -> ids -> encoder -> decoder loop -> postnet -> (speed) -> WaveGlow -> denoiser -> audio.

Library code: it prints nothing and owns no files. For audio that comes as it is made, see `pipeline.scheduler`.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from common.errors import UserError
from common.phrases import Phrase
from common.random_streams import NoiseAhead, RandomStreams
from common.timing import Stages
from pipeline.engine_set import EngineSet
from pipeline.mel import at_speed, frames_at_speed
from pipeline.pieces import Piece, PreparedPhrase, describe, prepare
from pipeline.settings import SpeakSettings
from tacotron2.decoder import DecodedBatch, StopReason, Utterance
from waveglow.vocoder import padded_frames, vocode

STAGES = ("encoder", "decoder", "postnet", "waveglow", "denoiser")
BATCHES_AHEAD = 8  # batches are made of so many batches' worth of pieces, so that lengths match and memory is bounded
DECODER_SHARE = 0.4  # of the work, for the progress bar alone
TYPICAL_FRAMES = 6  # of a symbol: for the progress bar, and for how much noise to draw ahead


@dataclass(frozen=True)
class SpokenPiece:
    """A piece of a phrase as speech.

    Attributes:
        audio: float32 [frames * hop_length] at the model's own level, a copy of its own.
        frames: mel frames, at the speed that was asked for.
        stop_reason: "gate" at the end of the text, "cap" where the frame limit cut it.
        seconds: of computing; a batch's time is shared out by frames.
        mel: float32 [n_mel_channels, frames], where pictures are kept.
        alignment: float32 [frames as decoded, symbols], where pictures are kept.
    """

    piece: Piece
    audio: np.ndarray
    frames: int
    stop_reason: StopReason
    seconds: float
    mel: np.ndarray | None
    alignment: np.ndarray | None


@dataclass(frozen=True)
class FailedPiece:
    """A piece that could not be spoken, and why; the others of its batch are not harmed."""

    piece: Piece
    error: UserError


class Synthesizer:
    """Speaks phrases in batches. Not thread-safe; owns neither the engines nor the denoiser.

    Args:
        engines: the voice.
        settings: how it speaks.
        on_message: told in the classic's words what is running; for printing.
        on_progress: told the number of symbols whose speech is done, fractions included; for a progress bar.
    """

    def __init__(
        self,
        engines: EngineSet,
        settings: SpeakSettings | None = None,
        on_message: Callable[[str], None] = lambda message: None,
        on_progress: Callable[[float], None] = lambda symbols: None,
    ) -> None:
        self.engines = engines
        self.settings = settings or SpeakSettings()
        self.on_message = on_message
        self.on_progress = on_progress
        self.stages = Stages(engines.device)
        self.stop = engines.stop_rule(self.settings)
        self.sigma = self.settings.sigma if self.settings.sigma is not None else engines.sigma
        self.denoiser = engines.denoiser(self.settings.denoise)
        # While a GPU works, the host is free to draw noise; on a CPU drawing ahead would only take from the engines.
        self._pool = ThreadPoolExecutor(thread_name_prefix="synthesizer") if engines.on_gpu else None
        self._symbols_done = 0.0

    def prepare(self, phrases: Sequence[Phrase]) -> list[PreparedPhrase]:
        """The phrases as pieces that these engines can speak."""
        return prepare(phrases, self.settings, self.engines.max_symbols)

    def speak(self, phrases: Sequence[Phrase]) -> Iterator[SpokenPiece | FailedPiece]:
        """Yields every piece of every phrase that can be spoken, in order, as soon as it and all before it are done.

        Phrases that nothing can be read from are left out: `prepare` names them.
        """
        return self.speak_pieces([piece for phrase in self.prepare(phrases) for piece in phrase.pieces])

    def speak_pieces(self, pieces: Sequence[Piece]) -> Iterator[SpokenPiece | FailedPiece]:
        """As `speak`, on prepared pieces."""
        self._symbols_done = 0.0
        ahead = BATCHES_AHEAD * self.engines.batch_size
        for start in range(0, len(pieces), ahead):
            window = pieces[start : start + ahead]
            spoken: dict[int, SpokenPiece | FailedPiece] = {}
            next_out = 0
            for batch in _batches_by_length(window, self.engines.batch_size):
                spoken.update(zip(batch, self._speak_batch([window[i] for i in batch]), strict=True))
                while next_out in spoken:
                    yield spoken.pop(next_out)
                    next_out += 1

    def close(self) -> None:
        """Ends the threads that help the GPU; may be called again."""
        if self._pool is not None:
            self._pool.shutdown()

    def __enter__(self) -> "Synthesizer":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _speak_batch(self, pieces: Sequence[Piece]) -> list[SpokenPiece | FailedPiece]:
        """Speaks a batch; where that fails, its halves, until the piece that is to blame is alone."""
        symbols_done = self._symbols_done
        try:
            with self.engines.running():
                return list(self._speak_together(pieces))
        except torch.OutOfMemoryError as error:
            torch.cuda.empty_cache()
            problem = UserError(
                f"out of device memory for {describe(pieces[0])}; use a smaller window or shorter pieces (max_symbols)"
            )
            problem.__cause__ = error
        except UserError as error:
            problem = error
        if len(pieces) == 1:
            return [FailedPiece(pieces[0], problem)]
        self._symbols_done = symbols_done
        middle = len(pieces) // 2  # random numbers belong to the text, so that halves say what the whole would have
        return self._speak_batch(pieces[:middle]) + self._speak_batch(pieces[middle:])

    def _speak_together(self, pieces: Sequence[Piece]) -> list[SpokenPiece]:
        started = time.perf_counter()
        seeds = [self.settings.seed if piece.seed is None else piece.seed for piece in pieces]
        streams = [RandomStreams(seed, piece.encoded.text) for seed, piece in zip(seeds, pieces, strict=True)]
        memory = self._encode(pieces)
        noises = [
            NoiseAhead(stream, self.engines.noise_channels, self._noise_size(piece), self._pool, self.engines.on_gpu)
            for stream, piece in zip(streams, pieces, strict=True)
        ]
        decoded = self._decode(pieces, memory, streams)
        mels = self._refine(decoded)
        audios = self._vocode(pieces, mels, noises)
        for item, (piece, audio) in enumerate(zip(pieces, audios, strict=True)):
            if not np.isfinite(audio).all():
                raise self._nan_error(piece, memory[0][item], decoded.mels[item, :, : decoded.frames[item]], mels[item])
        seconds_per_frame = (time.perf_counter() - started) / sum(decoded.frames)
        keep = self.settings.keep_pictures
        return [
            SpokenPiece(
                piece=piece,
                audio=audio,
                frames=mel.size(1),
                stop_reason=reason,
                seconds=frames * seconds_per_frame,
                mel=mel.float().cpu().numpy() if keep else None,
                alignment=self._alignment(decoded, item, len(piece.encoded.ids)),
            )
            for item, (piece, audio, frames, reason, mel) in enumerate(
                zip(pieces, audios, decoded.frames, decoded.stop_reasons, mels, strict=True)
            )
        ]

    def _encode(self, pieces: Sequence[Piece]) -> tuple[Tensor, Tensor]:
        self.on_message("Running Tacotron2 Encoder")
        with self.stages("encoder"):
            return self.engines.encode([piece.encoded.ids for piece in pieces])

    def _decode(
        self, pieces: Sequence[Piece], memory: tuple[Tensor, Tensor], streams: Sequence[RandomStreams]
    ) -> DecodedBatch:
        self.on_message("Running Tacotron2 Decoder")
        symbols = [len(piece.encoded.ids) for piece in pieces]
        share, expected = DECODER_SHARE * sum(symbols), TYPICAL_FRAMES * max(symbols)
        done = self._symbols_done
        with self.stages("decoder"):
            try:
                decoded = self.engines.decoder.decode(
                    *memory,
                    [Utterance(count, stream, self.stop) for count, stream in zip(symbols, streams, strict=True)],
                    keep_alignments=self.settings.keep_pictures,
                    on_step=lambda step: self._advance_to(done + share * min(1.0, step / expected)),
                )
            except UserError as error:
                if not torch.isfinite(memory[0]).all():  # then the decoder is not to blame
                    raise self.engines.nan_error("encoder", describe(pieces[0])) from error
                raise UserError(f"{describe(pieces[0])}: {error}") from error
        self._advance_to(done + share)
        self.on_message(f"Stopping after {max(decoded.frames)} decoder steps")
        for piece, frames, reason in zip(pieces, decoded.frames, decoded.stop_reasons, strict=True):
            if reason == "cap":
                self.on_message(f"Warning! Reached max decoder steps: {describe(piece)} was cut at {frames} frames")
        return decoded

    def _refine(self, decoded: DecodedBatch) -> list[Tensor]:
        self.on_message("Running Tacotron2 Postnet")
        with self.stages("postnet"):
            mels = self.engines.refine_each(decoded.mels, decoded.frames)
        speed = self.settings.speed
        return [
            at_speed(mels[item], speed, 0, frames_at_speed(frames, speed)) for item, frames in enumerate(decoded.frames)
        ]

    def _vocode(
        self, pieces: Sequence[Piece], mels: Sequence[Tensor], noises: Sequence[NoiseAhead]
    ) -> list[np.ndarray]:
        self.on_message("Running WaveGlow")
        engines = self.engines
        waveglow = engines.engines["waveglow"]
        dtype = waveglow.contract.outputs[0].dtype
        frames = [padded_frames(mel.size(1), engines.window_sizes[0]) for mel in mels]
        done, share = self._symbols_done, (1 - DECODER_SHARE) * sum(len(piece.encoded.ids) for piece in pieces)
        with self.stages("waveglow"):
            positions = [count * engines.noise_per_frame for count in frames]
            drawn = [noise.take(count) for noise, count in zip(noises, positions, strict=True)]
            z = torch.cat([noise.to(waveglow.device, non_blocking=True) for noise in drawn]).mul_(self.sigma).to(dtype)
            audios = vocode(
                waveglow,
                mels,
                [part.T for part in z.split(positions)],
                window=engines.work.window,
                on_frames=lambda finished: self._advance_to(done + share * finished / sum(frames)),
            )
        if self.denoiser is not None:
            with self.stages("denoiser"):
                audios = [self.denoiser(audio.float()) for audio in audios]
        ends = np.cumsum([audio.numel() for audio in audios])
        parts = np.split(self._on_host(torch.cat(audios).float()), ends[:-1])
        # A view would keep the whole batch. Memory that is new is slow to write to, unless many threads do.
        return [part.copy() for part in parts] if self._pool is None else list(self._pool.map(np.copy, parts))

    def _on_host(self, audio: Tensor) -> np.ndarray:
        host = torch.empty(audio.shape, pin_memory=self.engines.on_gpu)
        host.copy_(audio)
        return host.numpy()

    def _noise_size(self, piece: Piece) -> int:
        # Positions of noise that a piece will probably need.
        return round(TYPICAL_FRAMES / self.settings.speed * len(piece.encoded.ids)) * self.engines.noise_per_frame

    def _alignment(self, decoded: DecodedBatch, item: int, symbols: int) -> np.ndarray | None:
        if decoded.alignments is None:
            return None
        return decoded.alignments[item, : decoded.frames[item], :symbols].float().cpu().numpy()

    def _nan_error(self, piece: Piece, memory: Tensor, decoded: Tensor, mel: Tensor) -> UserError:
        """The error that names the part at which what isn't a number came in."""
        for part, tensor in (("encoder", memory), ("decoder_iter", decoded), ("postnet", mel)):
            if not torch.isfinite(tensor).all():
                return self.engines.nan_error(part, describe(piece))  # type: ignore[arg-type]
        return self.engines.nan_error("waveglow", describe(piece))

    def _advance_to(self, symbols: float) -> None:
        self._symbols_done = symbols
        self.on_progress(symbols)


def _batches_by_length(pieces: Sequence[Piece], batch_size: int) -> list[list[int]]:
    order = sorted(range(len(pieces)), key=lambda i: len(pieces[i].encoded.ids))
    batches = [sorted(order[i : i + batch_size]) for i in range(0, len(order), batch_size)]
    return sorted(batches)  # the batch with the earliest phrase first, so that results come out early
