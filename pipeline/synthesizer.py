"""The pipeline, offline: phrases in, audio out, in batches, on whatever engines it is given.

text -> ids -> encoder -> decoder loop -> postnet -> (speed) -> WaveGlow -> denoiser -> audio.

Library code: it prints nothing and owns no files. For audio that comes as it is made, see `pipeline.scheduler`.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from common.callbacks import ignore, notify
from common.errors import Closed, EngineFailure, explained
from common.metadata import PARTS, Part
from common.random_streams import Noise, RandomStreams
from common.timing import Stages
from pipeline import stages
from pipeline.engine_set import EngineSet
from pipeline.pieces import Piece, PieceResult, describe
from pipeline.policy import frames_at_speed
from pipeline.settings import SpeakSettings
from pipeline.words import Word, piece_words
from tacotron2.decoder import DecodedBatch, Utterance
from waveglow.windows import padded_frames

STAGES = ("encoder", "decoder", "postnet", "waveglow", "denoiser")
BATCHES_AHEAD = 8  # batches are made of so many batches' worth of pieces, so that lengths match and memory is bounded
DECODER_SHARE = 0.4  # of the work, for the progress bar alone
TYPICAL_FRAMES = 6  # of a symbol: for the progress bar, and for how much noise to draw ahead


@dataclass(frozen=True)
class _Vocoding:
    """A batch under way: its audio is being computed and brought to the host."""

    engines: EngineSet
    settings: SpeakSettings
    pieces: Sequence[Piece]
    started: float
    memory: Tensor
    decoded: DecodedBatch
    mels: Sequence[Tensor]  # of each piece, refined and at its speed
    audio: stages.HostAudio

    def result(self, item: int, audio: np.ndarray | None, seconds: float) -> PieceResult:
        """What became of a piece.

        Args:
            audio: None where it isn't finite.
            seconds: of computing the batch.

        Raises:
            EngineFailure: that names the part at which what isn't a number came in.
        """
        piece, mel, frames = self.pieces[item], self.mels[item], self.decoded.frames[item]
        if audio is None:
            came = {"encoder": self.memory[item], "decoder_iter": self.decoded.mels[item, :, :frames], "postnet": mel}
            part: Part = next((part for part in PARTS[:-1] if not torch.isfinite(came[part]).all()), "waveglow")
            raise stages.nan_error(self.engines, part, describe(piece))
        stop_reason, keep, alignment = self.decoded.stop_reasons[item], self.settings.keep_pictures, None
        words: tuple[Word, ...] = ()
        if self.decoded.alignments is not None:
            alignment = self.decoded.alignments[item, :frames, : len(piece.encoded.ids)].float().numpy()
            heard = frames * self.engines.frame_seconds / piece.speed_in(self.settings)
            if piece.encoded.words:
                words = piece_words(piece.encoded.words, alignment, heard, cut=stop_reason == "cap")
        return PieceResult(
            piece=piece,
            audio=audio,
            frames=mel.size(1),
            stop_reason=stop_reason,
            seconds=seconds * frames / sum(self.decoded.frames),
            mel=mel.float().cpu().numpy() if keep else None,
            alignment=alignment if keep else None,
            words=words,
        )


class Synthesizer:
    """Speaks phrases in batches, taking turns with others on the same engines. Not thread-safe; owns no engines.

    Args:
        engines: the voice.
        settings: how it speaks.
        on_message: called with what is running, in the classic's words; for printing.
        on_progress: called with the number of symbols that are spoken, fractions included; for a progress bar.

    What a callback raises ends the work as the cause of a `CallbackError`.
    """

    def __init__(
        self,
        engines: EngineSet,
        settings: SpeakSettings,
        on_message: Callable[[str], object] | None = None,
        on_progress: Callable[[float], object] | None = None,
    ) -> None:
        self.engines = engines
        self.settings = settings
        self.on_message = on_message or ignore
        self.on_progress = on_progress or ignore
        self.stages = Stages(engines.device)
        self.sigma = stages.sigma(engines, self.settings)
        with engines.lock:  # its bias may have to be measured
            engines.denoiser.prepare(self.settings.denoise)
        # While a GPU works, the host is free to draw noise; on a CPU drawing ahead would only take from the engines.
        self._pool = ThreadPoolExecutor(thread_name_prefix="synthesizer") if engines.on_gpu else None
        self._one_ahead = engines.on_gpu
        self.failures = 0  # of batches; each was spoken again in halves, if it had any
        self._symbols_done = 0.0
        self._finished = 0.0  # when the last batch was

    def speak(self, pieces: Sequence[Piece]) -> Iterator[PieceResult]:
        """Yields the result of every piece, in order, as soon as it and all before it are done."""
        self._symbols_done = 0.0
        size = self.engines.batch_size
        batches = [
            [start + item for item in batch]
            for start in range(0, len(pieces), BATCHES_AHEAD * size)
            for batch in _batches_by_length(pieces[start : start + BATCHES_AHEAD * size], size)
        ]
        spoken: dict[int, PieceResult] = {}
        next_out = 0
        results = self.speak_batches([pieces[item] for item in batch] for batch in batches)
        for batch, done in zip(batches, results, strict=True):
            spoken.update(zip(batch, done, strict=True))
            while next_out in spoken:
                yield spoken.pop(next_out)
                next_out += 1

    def speak_batches(self, batches: Iterable[Sequence[Piece]]) -> Iterator[list[PieceResult]]:
        """Speaks batches of at most `batch_size` pieces, and yields the results of each.

        On a GPU a batch is yielded when the next one has been decoded: the GPU has work while the host copies audio.
        """
        finish_before: Callable[[], list[PieceResult]] | None = None
        for batch in batches:
            finish = self._start(batch)
            if finish_before is not None:
                yield finish_before()
            finish_before = finish if self._one_ahead else None
            if finish_before is None:
                yield finish()
        if finish_before is not None:
            yield finish_before()

    def close(self) -> None:
        """Ends the threads that help the GPU; may be called again."""
        if self._pool is not None:
            self._pool.shutdown()

    def __enter__(self) -> "Synthesizer":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _start(self, pieces: Sequence[Piece]) -> Callable[[], list[PieceResult]]:
        """Everything up to WaveGlow, which on a GPU is under way then. Returns what waits for the results."""
        symbols_done = self._symbols_done
        try:
            with self.engines.running():
                return partial(self._finish, self._start_together(pieces))
        except Exception as error:
            self._recover_from(error)
            return partial(self._in_halves, pieces, symbols_done, error)

    def _finish(self, batch: _Vocoding) -> list[PieceResult]:
        symbols_done = self._symbols_done
        try:
            with self.engines.running():
                return self._results(batch)
        except Exception as error:
            self._recover_from(error)
            return self._in_halves(batch.pieces, symbols_done, error)

    def _recover_from(self, error: Exception) -> None:
        """Makes the engines ready again. Raises Closed where they can't work any more: then no piece is to blame."""
        if isinstance(error, Closed):
            raise error
        self.failures += 1
        self.engines.recover()

    def _in_halves(self, pieces: Sequence[Piece], symbols_done: float, error: Exception) -> list[PieceResult]:
        """The results of a batch that failed, spoken in halves until the piece that is to blame is alone."""
        if len(pieces) == 1:
            return [PieceResult(pieces[0], error=explained(error, describe(pieces[0])))]
        # Random numbers belong to the text, so that halves say what the whole would have.
        halves = pieces[: len(pieces) // 2], pieces[len(pieces) // 2 :]
        done, self._symbols_done = self._symbols_done, symbols_done
        results = [result for half in halves for result in self._start(half)()]
        self._symbols_done = max(done, self._symbols_done)
        return results

    def _start_together(self, pieces: Sequence[Piece]) -> _Vocoding:
        started = time.perf_counter()
        memory = self._encode(pieces)
        utterances = [stages.utterance(self.engines, piece, self.settings) for piece in pieces]
        noises = [self._noise(piece, one.streams) for piece, one in zip(pieces, utterances, strict=True)]
        decoded = self._decode(pieces, memory, utterances)
        mels = self._refine(pieces, decoded)
        audios = self._vocode(pieces, mels, noises)
        if self.settings.denoise:
            with self.stages("denoiser"):
                audios = [self.engines.denoiser(audio, self.settings.denoise) for audio in audios]
        leveled = stages.level(self.engines, torch.cat(audios).float())
        on_host = stages.HostAudio.of(leveled, [audio.numel() for audio in audios])
        return _Vocoding(self.engines, self.settings, pieces, started, memory[0], decoded, mels, on_host)

    def _results(self, batch: _Vocoding) -> list[PieceResult]:
        views = batch.audio.wait()
        # Page faults dominate this copy; threads hide them.
        over_all = self._pool.map if self._pool is not None and len(views) > 1 else map
        silences = [round(piece.pause * self.engines.audio.sampling_rate) for piece in batch.pieces]
        audios = list(over_all(_copied, views, silences))
        now = time.perf_counter()
        seconds, self._finished = now - max(batch.started, self._finished), now
        return [batch.result(item, audio, seconds) for item, audio in enumerate(audios)]

    def _encode(self, pieces: Sequence[Piece]) -> tuple[Tensor, Tensor]:
        self._say("Running Tacotron2 Encoder")
        with self.stages("encoder"):
            return stages.encode(self.engines, [piece.encoded.ids for piece in pieces])

    def _decode(
        self, pieces: Sequence[Piece], memory: tuple[Tensor, Tensor], utterances: Sequence[Utterance]
    ) -> DecodedBatch:
        self._say("Running Tacotron2 Decoder")
        symbols = [len(piece.encoded.ids) for piece in pieces]
        share, expected = DECODER_SHARE * sum(symbols), TYPICAL_FRAMES * max(symbols)
        done = self._symbols_done
        with self.stages("decoder"):
            try:
                decoded = self.engines.decoder.decode(
                    *memory,
                    utterances,
                    keep_alignments=stages.keeps_attention(self.settings),
                    on_step=lambda step: self._advance_to(done + share * min(1.0, step / expected)),
                )
            except EngineFailure as error:
                if not torch.isfinite(memory[0]).all():  # then the decoder is not to blame
                    raise stages.nan_error(self.engines, "encoder", describe(pieces[0])) from error
                raise EngineFailure(f"{describe(pieces[0])}: {error}") from error
        self._advance_to(done + share)
        self._say(f"Stopping after {max(decoded.frames)} decoder steps")
        for piece, frames, reason in zip(pieces, decoded.frames, decoded.stop_reasons, strict=True):
            if reason == "cap":
                self._say(f"Warning! Reached max decoder steps: {describe(piece)} was cut at {frames} frames")
        return decoded

    def _refine(self, pieces: Sequence[Piece], decoded: DecodedBatch) -> list[Tensor]:
        self._say("Running Tacotron2 Postnet")
        with self.stages("postnet"):
            mels = stages.refine_each(self.engines, decoded.mels, decoded.frames)
        speeds = [piece.speed_in(self.settings) for piece in pieces]
        return [
            stages.at_speed(mel, speed, 0, frames_at_speed(frames, speed))
            for mel, speed, frames in zip(mels, speeds, decoded.frames, strict=True)
        ]

    def _vocode(self, pieces: Sequence[Piece], mels: Sequence[Tensor], noises: Sequence[Noise]) -> list[Tensor]:
        """Starts WaveGlow: the audio of each piece."""
        self._say("Running WaveGlow")
        engines = self.engines
        frames = [padded_frames(mel.size(1), engines.window_sizes[0]) for mel in mels]
        done, share = self._symbols_done, (1 - DECODER_SHARE) * sum(len(piece.encoded.ids) for piece in pieces)
        with self.stages("waveglow"):
            drawn = [
                noise.take(0, count * engines.noise_per_frame) for noise, count in zip(noises, frames, strict=True)
            ]
            return stages.vocode(
                engines,
                mels,
                drawn,
                on_frames=lambda finished: self._advance_to(done + share * finished / sum(frames)),
            )

    def _noise(self, piece: Piece, streams: RandomStreams) -> Noise:
        """A piece's noise. A likely amount of it is drawn ahead while a GPU decodes."""
        noise = Noise(streams, self.engines.noise_channels, self._pool, self.sigma, self.engines.on_gpu)
        frames = round(TYPICAL_FRAMES / piece.speed_in(self.settings) * len(piece.encoded.ids))
        noise.draw_ahead(frames * self.engines.noise_per_frame)
        return noise

    def _advance_to(self, symbols: float) -> None:
        self._symbols_done = symbols
        notify(self.on_progress, symbols)

    def _say(self, message: str) -> None:
        notify(self.on_message, message)


def _batches_by_length(pieces: Sequence[Piece], batch_size: int) -> list[list[int]]:
    order = sorted(range(len(pieces)), key=lambda i: len(pieces[i].encoded.ids))
    batches = [sorted(order[i : i + batch_size]) for i in range(0, len(order), batch_size)]
    return sorted(batches)  # the batch with the earliest phrase first, so that results come out early


def _copied(audio: np.ndarray, silence: int) -> np.ndarray | None:
    """A copy with silence after it, because a view would keep the whole batch; None where the audio isn't finite."""
    if not np.isfinite(audio.sum()):  # a sum needs no memory
        return None
    return np.pad(audio, (0, silence)) if silence else audio.copy()
