"""Many requests at once on one set of engines: continuous batching, audio as it is made.

One worker thread owns the engines. Requests join and leave the decoder's batch at block borders; WaveGlow's windows of
all requests are gathered by size, first windows before later ones. What the neighbours are never changes a request's
audio: every random number, every window and every shape of a window is the request's own.

    submit -> waiting -> encoder -> decoder slots -> PieceStream -> windows -> WaveGlow -> Speech (a queue of Audio)
"""

import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from common.engine import infer
from common.errors import UserError
from common.random_streams import RandomStreams
from pipeline.audio import Audio, Resampler, limit
from pipeline.engine_set import EngineSet
from pipeline.pieces import Piece, describe
from pipeline.settings import SpeakSettings
from pipeline.streaming import PieceStream, Window, WindowPlan, kept_audio
from tacotron2.decoder import StopReason, Utterance
from tacotron2.decoder_graph import DecoderSession, StartedBlock, make_decoder
from waveglow.vocoder import batch_of_windows

# Slots of the decoder on a GPU, where each count is a CUDA graph. Counts from 4 on use the same kernels for a row, so
# that a row's rounding does not depend on how many others there are.
GPU_SLOT_COUNTS = (4, 16, 32, 64)
GPU_SLOTS, CPU_SLOTS = 32, 8  # at most, unless the caller says otherwise
QUEUE_LENGTH = 64  # waiting requests, unless the caller says otherwise
MAX_UNREAD_SECONDS = 30.0  # of audio that a slow reader may leave before no further piece of his is begun
WINDOW_FRAMES_PER_ROUND = 2048  # of later windows on a GPU, so that first windows never wait for long

_log = logging.getLogger(__name__)


class BusyError(UserError):
    """The queue is full: nothing was accepted; try again later."""


class CancelledError(Exception):
    """The request was cancelled before its audio was complete."""


@dataclass(frozen=True)
class PieceReport:
    """How a piece of a request came out: its mel frames as decoded, and what ended it."""

    text: str
    frames: int
    stop_reason: StopReason


@dataclass(frozen=True)
class SchedulerStatus:
    """A moment's load: requests that wait for a first slot, requests under way, and audio made since the start."""

    waiting: int
    active: int
    audio_seconds: float


class Speech:
    """A request's audio as it comes: iterate over it, in any one thread.

    Iterating raises UserError where the request failed (what came before is not the whole), and CancelledError after
    `cancel`. `on_event` is called in the worker thread whenever something new can be read; it must return at once.
    """

    def __init__(
        self, pieces: Sequence[Piece], settings: SpeakSettings, sampling_rate: int, on_event: Callable[[], object]
    ) -> None:
        self.settings = settings
        self.sampling_rate = settings.sampling_rate or sampling_rate
        self.submitted = time.perf_counter()
        self.first_audio_seconds: float | None = None  # from submitting to the first chunk
        self.reports: list[PieceReport] = []
        self._pieces = deque(pieces)
        self._on_event = on_event
        self._chunks: queue.SimpleQueue[Audio | BaseException | None] = queue.SimpleQueue()
        self._unread_seconds = 0.0
        self._lock = threading.Lock()
        self._cancelled = threading.Event()
        self._wake: Callable[[], None] = lambda: None
        different = self.sampling_rate != sampling_rate
        self._resampler = Resampler(sampling_rate, self.sampling_rate) if different else None
        self._alignments: list[np.ndarray] = []

    def __iter__(self) -> Iterator[Audio]:
        while (chunk := self.next_chunk()) is not None:
            yield chunk

    def next_chunk(self, timeout: float | None = None) -> Audio | None:
        """The next chunk, waited for; None after the last.

        Args:
            timeout: most seconds to wait; None waits for as long as it takes, 0 not at all.

        Raises:
            UserError: the request failed.
            CancelledError: it was cancelled.
            queue.Empty: nothing came within the timeout.
        """
        item = self._chunks.get(timeout is None or timeout > 0, timeout or None)
        if item is None or isinstance(item, BaseException):
            self._chunks.put(item)  # whoever asks again hears the same
            if item is None:
                return None
            raise item
        with self._lock:
            self._unread_seconds -= item.seconds
        self._wake()
        return item

    def cancel(self) -> None:
        """Gives the request up: its slot is free at the next block. May be called at any time, from any thread."""
        self._cancelled.set()
        self._wake()

    @property
    def cancelled(self) -> bool:
        return self._cancelled.is_set()

    @property
    def alignments(self) -> list[np.ndarray]:
        """Of each piece that has ended, float32 [frames, symbols], where pictures are kept."""
        return self._alignments

    @property
    def _may_begin_piece(self) -> bool:
        return bool(self._pieces) and self._unread_seconds < MAX_UNREAD_SECONDS

    def _deliver(self, samples: np.ndarray, last: bool) -> None:
        if self._resampler is not None:
            samples = self._resampler(samples, last)
        if len(samples):
            if self.first_audio_seconds is None:
                self.first_audio_seconds = time.perf_counter() - self.submitted
            audio = Audio(samples, self.sampling_rate)
            with self._lock:
                self._unread_seconds += audio.seconds
            self._chunks.put(audio)
        if last:
            self._chunks.put(None)
        self._on_event()

    def _fail(self, error: BaseException) -> None:
        self._chunks.put(error)
        self._on_event()


@dataclass
class _Active:
    """A request under way: the pieces that are being decoded or vocoded, in order."""

    speech: Speech
    streams: deque["_ActivePiece"] = field(default_factory=deque)
    begun: bool = False

    @property
    def decoding(self) -> bool:
        return any(not piece.stream.utterance.ended for piece in self.streams)


@dataclass
class _ActivePiece:
    piece: Piece
    stream: PieceStream
    alignments: list[Tensor] = field(default_factory=list)


class Scheduler:
    """Speaks requests on a set of engines, in a worker thread of its own. Thread-safe.

    Args:
        engines: only the worker may use them while the scheduler lives, unless `lock` is held.
        max_slots: most pieces of text decoded at a time; None takes what suits the device.
        max_waiting: most requests that may wait for a first slot.
        lock: held by the worker while it uses the engines.
    """

    def __init__(
        self,
        engines: EngineSet,
        *,
        max_slots: int | None = None,
        max_waiting: int = QUEUE_LENGTH,
        lock: AbstractContextManager | None = None,
    ) -> None:
        self.engines = engines
        self.plan = WindowPlan.of(engines)
        # Its own blocks: the offline synthesizer may decode while streams are under way.
        self._decoder = make_decoder(engines.engines["decoder_iter"], engines.work.cuda_graph)
        self.max_slots, self._slot_counts = _slots(engines, max_slots)
        self.max_waiting = max_waiting
        self._lock = lock or threading.Lock()
        self._changed = threading.Condition()
        self._waiting: deque[_Active] = deque()
        self._active: list[_Active] = []
        self._session: DecoderSession | None = None
        self._block: StartedBlock | None = None  # started and not yet looked at
        self._owners: dict[int, _ActivePiece] = {}  # by id of the utterance in a slot
        self._audio_seconds = 0.0
        self._closing = False
        self._thread = threading.Thread(target=self._work, name="speech", daemon=True)
        self._thread.start()

    def submit(
        self, pieces: Sequence[Piece], settings: SpeakSettings, on_event: Callable[[], object] = lambda: None
    ) -> Speech:
        """Accepts a request of one or more pieces of text.

        Raises:
            BusyError: as many requests as may wait are waiting.
            UserError: the settings don't fit the voice, or the scheduler is closed.
        """
        self.engines.denoiser(settings.denoise)
        speech = Speech(pieces, settings, self.engines.audio.sampling_rate, on_event)
        speech._wake = self._notify
        with self._changed:
            if self._closing:
                raise UserError("the voice is closed: nothing more is spoken")
            if len(self._waiting) >= self.max_waiting:
                raise BusyError(f"busy: {len(self._waiting)} requests are waiting; try again later")
            self._waiting.append(_Active(speech))
            self._changed.notify()
        return speech

    def status(self) -> SchedulerStatus:
        with self._changed:
            return SchedulerStatus(len(self._waiting), len(self._active), self._audio_seconds)

    def close(self, drain: bool = False) -> None:
        """Ends the worker; may be called again. Requests that are not done fail, unless `drain` waits for them."""
        with self._changed:
            self._closing = True
            if not drain:
                for active in (*self._waiting, *self._active):
                    active.speech.cancel()
            self._changed.notify()
        if threading.current_thread() is not self._thread:
            self._thread.join()
            self._decoder.close()

    def _notify(self) -> None:
        with self._changed:
            self._changed.notify()

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._something_to_do():
                    if self._closing and not self._waiting and not self._active:
                        return
                    self._changed.wait()
            with self._lock, self.engines.running():
                self._round()

    def _something_to_do(self) -> bool:
        if any(active.speech.cancelled for active in (*self._waiting, *self._active)):
            return True
        return bool(self._waiting) or any(active.streams or active.speech._may_begin_piece for active in self._active)

    def _round(self) -> None:
        """One block of decoder steps for all who have a slot, and the windows that can be computed by then."""
        self._drop_cancelled()
        self._admit()
        if self._session is not None and (self._session.utterances or self._block is not None):
            self._decode_block(self._session)
        for windows in self._batches(self._next_windows()):
            self._vocode(windows)
        self._drop_finished()

    def _drop_cancelled(self) -> None:
        with self._changed:
            gone = [active for active in (*self._active, *self._waiting) if active.speech.cancelled]
            self._waiting = deque(active for active in self._waiting if not active.speech.cancelled)
        for active in gone:
            self._end(active, CancelledError("the request was cancelled"))

    def _admit(self) -> None:
        """Gives free slots to the next pieces: of requests under way first, then of waiting ones, oldest first."""
        session = self._session
        free = self.max_slots - (len(session.utterances) if session is not None else 0)
        chosen: list[tuple[_Active, Piece]] = []
        with self._changed:
            candidates = [active for active in self._active if not active.decoding and active.speech._may_begin_piece]
            while self._waiting and len(candidates) < free:
                active = self._waiting.popleft()
                self._active.append(active)
                candidates.append(active)
        chosen = [(active, active.speech._pieces.popleft()) for active in candidates[: max(0, free)]]
        if chosen:
            self._join(chosen)

    def _join(self, chosen: Sequence[tuple[_Active, Piece]]) -> None:
        """Encodes pieces and gives them slots."""
        try:
            # One at a time: a batch would round otherwise, and the neighbours must not be heard.
            encoded = [self.engines.encode([piece.encoded.ids]) for _, piece in chosen]
        except Exception as error:
            for active, piece in chosen:
                self._end(active, _explained(error, piece))
            return
        if self._session is None:
            self._session = DecoderSession(self._decoder, slot_counts=self._slot_counts)
        self._session.keep_alignments = any(active.speech.settings.keep_pictures for active in self._active)
        for (active, piece), (memory, processed_memory) in zip(chosen, encoded, strict=True):
            settings = active.speech.settings
            streams = RandomStreams(settings.seed, piece.encoded.text)
            utterance = Utterance(len(piece.encoded.ids), streams, self.engines.stop_rule(settings))
            stream = PieceStream(self.engines, self.plan, utterance, streams, settings)
            active.streams.append(_ActivePiece(piece, stream))
            self._owners[id(utterance)] = active.streams[-1]
            self._session.join(memory, processed_memory, [utterance])

    def _decode_block(self, session: DecoderSession) -> None:
        """Starts the next block and, while a GPU is busy with it, looks at the one before."""
        try:
            started = session.start() if session.utterances else None
            previous, self._block = self._block, started
            if started is not None and not self.engines.on_gpu:
                previous, self._block = started, None
            if previous is not None:
                self._take(previous)
            ended = [utterance for utterance in session.utterances if utterance.ended]
            session.leave(ended)
            if ended and not self.engines.on_gpu:
                session.compact()
        except Exception as error:  # whose fault it was can't be known: all who had a slot end, and the next go on
            _log.exception("a block of decoder steps failed")
            self._session, self._block = None, None
            self._decoder.close()
            for active in list(self._active):
                if active.decoding:
                    self._end(active, _explained(error, active.streams[-1].piece))

    def _take(self, block: StartedBlock) -> None:
        """Hands a finished block's frames to their streams."""
        block.finish()
        for slot, utterance in enumerate(block.slots):
            owner = self._owners.get(id(utterance)) if utterance is not None else None
            if owner is None or utterance is None:
                continue
            owner.stream.add(block.frames[:, slot])
            if block.alignments is not None:
                owner.alignments.append(block.alignments[:, slot])
            if utterance.ended:
                del self._owners[id(utterance)]

    def _next_windows(self) -> list[Window]:
        """The windows that can be computed now, at most one a request: the first ones first, then by urgency."""
        windows: list[tuple[float, Window]] = []
        now = time.perf_counter()
        for active in list(self._active):
            if not active.streams:
                continue
            piece = active.streams[0]
            if piece.stream.utterance.error is not None:
                self._end(active, UserError(f"{describe(piece.piece)}: {piece.stream.utterance.error}"))
                continue
            try:
                window = piece.stream.next_window()
            except Exception as error:
                self._end(active, _explained(error, piece.piece))
                continue
            if window is not None:
                begun = active.speech.first_audio_seconds is not None
                windows.append((active.speech.submitted - (0 if begun else now), window))
        return [window for _, window in sorted(windows, key=lambda pair: pair[0])]

    def _batches(self, windows: Sequence[Window]) -> list[list[Window]]:
        """Windows of one size together, in powers of two (few shapes are captured), in the order of urgency."""
        batches: list[list[Window]] = []
        by_size: dict[int, list[Window]] = {}
        for window in windows:
            by_size.setdefault(window.size, []).append(window)
        for size, group in by_size.items():
            most = batch_of_windows(self.engines.engines["waveglow"], size)
            done = 0
            while done < len(group):
                count = min(most, 1 << ((len(group) - done).bit_length() - 1))
                batches.append(group[done : done + count])
                done += count
        return batches

    def _vocode(self, windows: Sequence[Window]) -> None:
        """Runs WaveGlow on windows of one size and delivers their chunks; a batch that fails is tried one by one."""
        try:
            chunks = vocode_windows(self.engines, windows)
        except Exception as error:
            if len(windows) > 1:
                for window in windows:
                    self._vocode([window])
                return
            active = self._active_of(windows[0].stream)
            if active is not None:
                self._end(active, _explained(error, active.streams[0].piece))
            return
        for window, samples in zip(windows, chunks, strict=True):
            self._deliver(window, samples)

    def _deliver(self, window: Window, samples: np.ndarray) -> None:
        active = self._active_of(window.stream)
        if active is None:
            return
        piece = active.streams[0]
        if not np.isfinite(samples).all():
            self._end(active, self.engines.nan_error("waveglow", describe(piece.piece)))
            return
        speech = active.speech
        if window.last:
            utterance = window.stream.utterance
            assert utterance.frames is not None
            assert utterance.stop_reason is not None
            speech.reports.append(PieceReport(piece.piece.encoded.text, utterance.frames, utterance.stop_reason))
            if speech.settings.keep_pictures:
                symbols = len(piece.piece.encoded.ids)
                alignment = torch.cat(piece.alignments)[: utterance.frames, :symbols]
                speech._alignments.append(alignment.float().cpu().numpy())
            active.streams.popleft()
        done = window.last and not active.streams and not speech._pieces
        self._audio_seconds += len(samples) / self.engines.audio.sampling_rate
        speech._deliver(limit(samples, self.engines.gain), last=done)

    def _active_of(self, stream: PieceStream) -> _Active | None:
        return next((a for a in self._active if a.streams and a.streams[0].stream is stream), None)

    def _drop_finished(self) -> None:
        with self._changed:
            self._active = [active for active in self._active if active.streams or active.speech._pieces]

    def _end(self, active: _Active, error: BaseException) -> None:
        """Takes a request out, with an error for whoever reads it."""
        utterances = [piece.stream.utterance for piece in active.streams]
        for utterance in utterances:
            self._owners.pop(id(utterance), None)
        if self._session is not None:
            self._session.leave(utterances)
        active.streams.clear()
        active.speech._pieces.clear()
        with self._changed:
            self._active = [other for other in self._active if other is not active]
        active.speech._fail(error)


def vocode_windows(engines: EngineSet, windows: Sequence[Window]) -> list[np.ndarray]:
    """WaveGlow on windows of one size: each one's chunk, float32 [kept frames * hop_length] on the host."""
    waveglow = engines.engines["waveglow"]
    noise = torch.from_numpy(np.stack([window.noise for window in windows]))
    audio = infer(
        waveglow,
        mel=torch.stack([window.mel for window in windows]),
        z=noise.to(waveglow.device).to(waveglow.contract.outputs[0].dtype),
    )["audio"]
    hop = engines.audio.hop_length
    chunks = [kept_audio(window, row, window.stream.denoiser, hop) for window, row in zip(windows, audio, strict=True)]
    ends = np.cumsum([chunk.numel() for chunk in chunks])
    return np.split(torch.cat(chunks).cpu().numpy(), ends[:-1])


def _slots(engines: EngineSet, max_slots: int | None) -> tuple[int, Sequence[int] | None]:
    """The number of slots, and the counts that there may be (None: any)."""
    low, high = engines.limits.batch
    if engines.engines["decoder_iter"].metadata.int8_lstms:
        high = 1  # 8-bit scales are shared by a batch: neighbours would change what is said
    if not engines.on_gpu:
        return min(max_slots or CPU_SLOTS, high), None if low == 1 else range(low, high + 1)
    most = min(max_slots or GPU_SLOTS, high)
    return most, tuple(sorted({*(max(low, count) for count in GPU_SLOT_COUNTS if count < most), most}))


def _explained(error: Exception, piece: Piece) -> UserError:
    """An engine's exception as an error of the request that met it."""
    if isinstance(error, UserError):
        return error
    _log.error("speaking %s failed", describe(piece), exc_info=error)
    if isinstance(error, torch.OutOfMemoryError):
        torch.cuda.empty_cache()
        return UserError(f"out of device memory for {describe(piece)}; try again later or with shorter text")
    explained = UserError(f"an engine failed on {describe(piece)}: {type(error).__name__}; see the log")
    explained.__cause__ = error
    return explained
