"""Many requests at once on one set of engines: continuous batching, audio as it is made.

One worker thread owns the engines. Requests join and leave the decoder's batch at block borders; WaveGlow's windows of
all requests are gathered by size, first windows before later ones. What the neighbours are never changes a request's
audio: every random number, every window and every shape of a window is the request's own.

    submit -> waiting -> encoder -> decoder slots -> PieceStream -> windows -> WaveGlow -> Speech (a queue of Audio)
"""

import atexit
import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from itertools import product
from operator import itemgetter
from typing import Literal, TypeVar

import numpy as np
import torch
from torch import Tensor

from common.engine import infer
from common.errors import Busy, Closed, EngineFailure, explained
from common.random_streams import RandomStreams
from pipeline.audio import Audio, Resampler, limit
from pipeline.engine_set import EngineSet
from pipeline.mel import frames_at_speed
from pipeline.pieces import Piece, PieceResult, describe
from pipeline.settings import SpeakSettings
from pipeline.streaming import PieceStream, Window, WindowPlan, WindowRange, kept_audio
from tacotron2.decoder import Utterance
from tacotron2.decoder_graph import TEXT_BUCKETS, DecoderSession, StartedBlock, bucket_of, make_decoder
from waveglow.vocoder import batch_of_windows

# Slots of the decoder on a GPU, where each count is a CUDA graph. Counts from 4 on use the same kernels for a row, so
# that a row's rounding does not depend on how many others there are.
GPU_SLOT_COUNTS = (4, 16, 32, 64)
GPU_SLOTS, CPU_SLOTS = 32, 8  # at most, unless the caller says otherwise
QUEUE_LENGTH = 64  # waiting requests, unless the caller says otherwise
ENCODED_TOGETHER = 8  # texts at most, on a GPU
WARM_BATCHES = (1, 2, 4, 8, 16)  # texts and windows at a time that `warm_up` makes ready
MAX_UNREAD_SECONDS = 30.0  # of unread audio: beyond it no further piece of a request begins
# Blocks of decoder steps in one round on a GPU, at most: enough for a first window. What follows them (texts encoded,
# frames refined, windows vocoded) costs hardly more for many requests than for one.
GPU_BLOCKS = 6
# Frames of later windows in one round on a GPU: few while somebody waits for his first sound, who must not wait long.
LATER_FRAMES, LATER_FRAMES_WHILE_WAITING = 8192, 2048
# For sys.setswitchinterval, in programs that speak to many: seconds for which a thread that computes in Python may keep
# the others waiting. With Python's 5 ms, the worker would lose more time than the others take.
SWITCH_INTERVAL = 5e-5

FAILED_ROUNDS = 5  # in a row, without any audio between them: then the engines can't work any more
STUCK_SECONDS = 300.0  # of one round; a runtime may compile for minutes where it meets a shape for the first time
WATCH_SECONDS = 5.0  # after which a reader looks whether the worker is stuck
CLOSING_SECONDS = 60.0  # most that `close` waits: for requests under way, and for the worker

State = Literal["running", "draining", "failed"]

_log = logging.getLogger(__name__)


class CancelledError(Exception):
    """The request was cancelled before its audio was complete."""


@dataclass(frozen=True)
class SchedulerStatus:
    """A moment's state and load.

    Attributes:
        waiting: requests that wait for a first slot.
        active: requests under way.
        audio_seconds: of audio made since the start.
        state: "running" takes requests; "draining" is closing, and takes none; "failed" can't work any more, and all
            its requests have failed.
        reason: of "failed".
    """

    waiting: int
    active: int
    audio_seconds: float
    state: State = "running"
    reason: str = ""


class Speech:
    """A request's audio as it comes: iterate over it, in any one thread.

    Iterating raises EngineFailure where the request failed (what came before is not the whole), Closed where the voice
    was closed or can't work any more, and CancelledError after `cancel`. `on_event` is called in the worker thread
    whenever something new can be read; it must return at once.
    """

    def __init__(
        self, pieces: Sequence[Piece], settings: SpeakSettings, sampling_rate: int, on_event: Callable[[], object]
    ) -> None:
        self.settings = settings
        self.sampling_rate = settings.sampling_rate or sampling_rate
        self.submitted = time.perf_counter()
        self.first_audio_seconds: float | None = None  # from submitting to the first chunk
        self.results: list[PieceResult] = []  # of each piece that has ended
        self._pieces = deque(pieces)
        self._on_event = on_event
        self._chunks: queue.SimpleQueue[Audio | BaseException | None] = queue.SimpleQueue()
        self._unread_seconds = 0.0
        self._lock = threading.Lock()
        self._cancelled = threading.Event()
        self._wake: Callable[[], None] = lambda: None
        self._watch: Callable[[], None] = lambda: None
        different = self.sampling_rate != sampling_rate
        self._resampler = Resampler(sampling_rate, self.sampling_rate) if different else None

    def __iter__(self) -> Iterator[Audio]:
        while (chunk := self.next_chunk()) is not None:
            yield chunk

    def next_chunk(self, timeout: float | None = None) -> Audio | None:
        """The next chunk, waited for; None after the last.

        Args:
            timeout: most seconds to wait; None waits for as long as the worker works, 0 not at all.

        Raises:
            EngineFailure: the request failed.
            Closed: the voice was closed, or can't work any more.
            CancelledError: it was cancelled.
            queue.Empty: nothing came within the timeout.
        """
        item = self._next_item(timeout)
        if item is None or isinstance(item, BaseException):
            self._chunks.put(item)  # whoever asks again hears the same
            if item is None:
                return None
            raise item
        with self._lock:
            self._unread_seconds -= item.seconds
        self._wake()
        return item

    def _next_item(self, timeout: float | None) -> Audio | BaseException | None:
        if timeout is not None:
            return self._chunks.get(timeout > 0, timeout or None)
        while True:
            try:
                return self._chunks.get(timeout=WATCH_SECONDS)
            except queue.Empty:
                self._watch()

    def cancel(self) -> None:
        """Gives the request up: its slot is free at the next block. May be called at any time, from any thread."""
        self._cancelled.set()
        self._wake()

    @property
    def cancelled(self) -> bool:
        return self._cancelled.is_set()

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
        self._tell()

    def _fail(self, error: BaseException) -> None:
        self._chunks.put(error)
        self._tell()

    def _tell(self) -> None:
        try:
            self._on_event()
        except Exception:  # the caller's own: other requests must not suffer from it
            _log.exception("on_event failed")


@dataclass(eq=False)
class _Active:
    """A request under way: the pieces that are being decoded or vocoded, in order."""

    speech: Speech
    streams: deque["_ActivePiece"] = field(default_factory=deque)
    first_audio: float | None = None  # when its first chunk was delivered, by time.perf_counter
    delivered_seconds: float = 0.0

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
        max_waiting: most requests that may wait for a first slot. With those under way, whose readers may be slow,
            there are never more than `max_slots` + `max_waiting`.
        lock: held by the worker while it uses the engines.
        on_failed: called once, in any thread, with the reason why the scheduler can't work any more. It must return at
            once. What serves requests ends then, so that it is started again.
    """

    def __init__(
        self,
        engines: EngineSet,
        *,
        max_slots: int | None = None,
        max_waiting: int = QUEUE_LENGTH,
        lock: AbstractContextManager | None = None,
        on_failed: Callable[[str], object] = lambda reason: None,
    ) -> None:
        self.engines = engines
        self.plan = WindowPlan.of(engines)
        # Its own blocks: the offline synthesizer may decode while streams are under way.
        self._decoder = make_decoder(engines.engines["decoder_iter"], engines.work.cuda_graph)
        self.max_slots, self._slot_counts = _slots(engines, max_slots)
        self.max_waiting = max_waiting
        self._blocks = GPU_BLOCKS if engines.on_gpu else 1
        self._lock = lock or threading.Lock()
        self._changed = threading.Condition()
        self._waiting: deque[_Active] = deque()
        self._active: list[_Active] = []
        self._session: DecoderSession | None = None
        self._block: StartedBlock | None = None  # started and not yet looked at
        self._owners: dict[int, _ActivePiece] = {}  # by id of the utterance in a slot
        self._vocoding: deque[_VocodedBatch] = deque()  # on their way from the GPU
        self._pool = ThreadPoolExecutor(2, thread_name_prefix="noise") if engines.on_gpu else None
        self._audio_seconds = 0.0
        self._closing = False
        self._cut = False  # closing without waiting for requests under way
        self._failure: str | None = None
        self._on_failed = on_failed
        self._round_began: float | None = None  # by time.monotonic; None between rounds
        self._round_failed = False
        self._failed_rounds = 0  # in a row
        self._thread = threading.Thread(target=self._work, name="speech", daemon=True)
        self._thread.start()
        # A daemon thread that is inside PyTorch when the interpreter ends would abort the process.
        atexit.register(self.close)

    def submit(
        self, pieces: Sequence[Piece], settings: SpeakSettings, on_event: Callable[[], object] = lambda: None
    ) -> Speech:
        """Accepts a request of one or more pieces of text.

        Raises:
            InvalidInput: the settings don't fit the voice.
            Busy: as many requests as may be are waiting or under way.
            Closed: the scheduler is closed, or can't work any more.
        """
        self.engines.check_denoiser(settings.denoise)
        speech = Speech(pieces, settings, self.engines.audio.sampling_rate, on_event)
        speech._wake, speech._watch = self._notify, self._give_up_if_stuck
        self._give_up_if_stuck()
        with self._changed:
            if self._failure is not None:
                raise Closed(self._failure)
            if self._closing:
                raise Closed("the voice is closed: nothing more is spoken")
            if len(self._waiting) >= self.max_waiting:
                raise Busy(f"busy: {len(self._waiting)} requests are waiting; try again later")
            if len(self._waiting) + len(self._active) >= self.max_waiting + self.max_slots:
                raise Busy(f"busy: {len(self._active)} requests are under way; try again later")
            self._waiting.append(_Active(speech))
            self._changed.notify()
        return speech

    def warm_up(self, batches: Sequence[int] = WARM_BATCHES) -> None:
        """Compiles and captures on a GPU what requests will need, so that none of them waits for it. Takes seconds.

        Args:
            batches: the numbers of texts and windows at a time that are made ready.
        """
        if not self.engines.on_gpu:
            return
        with self._lock, self.engines.running():
            session = self._new_session()
            texts = [np.ones(length, np.int32) for length in TEXT_BUCKETS if length <= self.engines.max_symbols]
            for ids, batch in product(texts, batches):
                if batch <= min(ENCODED_TOGETHER, self.engines.limits.batch[1]):
                    for _ in range(2):  # what runs a second time is captured
                        self.engines.encode([ids] * batch)
            for count in self._slot_counts or ():
                memory = self.engines.encode([texts[0]] * self.engines.limits.batch[0])
                rule = self.engines.stop_rule(SpeakSettings())
                utterances = [Utterance(len(texts[0]), RandomStreams(0, str(slot)), rule) for slot in range(count)]
                for utterance in utterances:
                    session.join(memory[0][:1], memory[1][:1], [utterance])
                session.start().finish()
                session.leave(utterances)
            waveglow = self.engines.engines["waveglow"]
            for size, batch in product(self.plan.sizes, batches):
                if batch <= batch_of_windows(waveglow, size):
                    sizes = {"batch": batch, "mel": size}
                    inputs = {
                        spec.name: torch.zeros(spec.resolve(sizes), dtype=spec.dtype, device=waveglow.device)
                        for spec in waveglow.contract.inputs
                    }
                    for _ in range(2):
                        infer(waveglow, **inputs)
            torch.cuda.synchronize(self.engines.device)

    def status(self) -> SchedulerStatus:
        self._give_up_if_stuck()
        with self._changed:
            state: State = "draining" if self._closing else "running"
            if self._failure is not None:
                state = "failed"
            return SchedulerStatus(
                len(self._waiting), len(self._active), self._audio_seconds, state, self._failure or ""
            )

    def close(self, drain: bool = False, timeout: float = CLOSING_SECONDS) -> None:
        """Ends the worker; may be called again. Requests that are not done fail with Closed.

        Args:
            drain: lets requests end first.
            timeout: most seconds to wait for requests, and then for a worker that is in an engine's hands. One that
                doesn't return is left alone, with its engines.
        """
        with self._changed:
            self._closing = True
            self._cut = self._cut or not drain
            self._changed.notify()
        if threading.current_thread() is self._thread:
            return
        atexit.unregister(self.close)
        if drain:
            self._thread.join(timeout)
        with self._changed:
            self._cut = True
            self._changed.notify()
        self._thread.join(timeout)
        if self._thread.is_alive():
            self._fail(Closed("the voice is closed, and an engine has not returned"))
            return
        self._decoder.close()
        if self._pool is not None:
            self._pool.shutdown()

    def _notify(self) -> None:
        with self._changed:
            self._changed.notify()

    def _work(self) -> None:
        try:
            while self._wait_for_work():
                with self._lock, self.engines.running():
                    self._try_round()
        except BaseException as error:  # nobody may wait for a worker that has ended
            self._fail(error)

    def _wait_for_work(self) -> bool:
        """Returns once there is something to do; whether there is."""
        with self._changed:
            while self._failure is None and not self._something_to_do():
                if self._closing and not self._waiting and not self._active:
                    return False
                self._changed.wait()
            return self._failure is None

    def _give_up_if_stuck(self) -> None:
        began = self._round_began
        if began is not None and time.monotonic() - began > STUCK_SECONDS:
            self._fail(Closed(f"an engine has not returned for {STUCK_SECONDS:g} s; start again"))

    def _try_round(self) -> None:
        """A round; what fails in it ends the requests under way, and those that wait are spoken next.

        Raises:
            Closed: the engines can't work any more.
        """
        made, self._round_failed = self._audio_seconds, False
        self._round_began = time.monotonic()
        try:
            self._round()
        except Exception as error:
            self._failed_on(error, [])
            self._session, self._block = None, None
            self._vocoding.clear()
            self._decoder.close()
            for active in list(self._active):
                self._end(active, explained(error, "a request"))
        finally:
            self._round_began = None
        if self._audio_seconds > made:
            self._failed_rounds = 0
        elif self._round_failed:
            self._failed_rounds += 1
        if self._failed_rounds == FAILED_ROUNDS:
            raise Closed(f"{FAILED_ROUNDS} attempts to speak have failed in a row; see the log, and start again")

    def _failed_on(self, error: Exception, owners: Sequence[tuple[_Active, Piece]]) -> None:
        """Ends the requests that met an engine's exception.

        Raises:
            Closed: the engines can't work any more.
        """
        if isinstance(error, Closed):
            raise error
        self._round_failed = True
        self.engines.recover()
        for active, piece in owners:
            self._end(active, explained(error, describe(piece)))

    def _fail(self, error: BaseException) -> None:
        """Ends all requests, and takes no more."""
        reason = str(error) if isinstance(error, Closed) else f"speaking failed: {type(error).__name__}; see the log"
        with self._changed:
            if self._failure is not None:
                return
            self._failure = reason
            everybody = [*self._active, *self._waiting]
            self._active, self._waiting = [], deque()
        _log.critical("nothing more can be spoken: %s", reason, exc_info=error)
        for active in everybody:
            active.speech._fail(Closed(reason))
        self._on_failed(reason)

    def _something_to_do(self) -> bool:
        if any(self._cut or active.speech.cancelled for active in (*self._waiting, *self._active)):
            return True
        if self._waiting or self._vocoding or self._block is not None:
            return True
        return any(active.streams or self._may_begin_piece(active.speech) for active in self._active)

    def _may_begin_piece(self, speech: Speech) -> bool:
        # A scheduler that drains doesn't wait for readers.
        return bool(speech._pieces) and (self._closing or speech._unread_seconds < MAX_UNREAD_SECONDS)

    def _round(self) -> None:
        """Decoder steps for all who have a slot, and the windows that can be computed by then."""
        self._drop_cancelled()
        self._admit()
        decoding = self._decode()
        windows = self._next_windows()
        for batch in self._batches(windows):
            self._vocode(batch)
        # Who speaks alone gets his first sound at once, and audio is waited for where there is no other work; otherwise
        # it is handed over when it has come, which is seen after the next block.
        alone = len(self._active) == 1 and any(window.first for window in windows)
        self._hand_over(wait=alone or not (decoding or windows))
        self._drop_finished()

    def _drop_cancelled(self) -> None:
        with self._changed:
            gone = [active for active in (*self._active, *self._waiting) if self._cut or active.speech.cancelled]
            self._waiting = deque(active for active in self._waiting if active not in gone)
        for active in gone:
            if active.speech.cancelled:
                self._end(active, CancelledError("the request was cancelled"))
            else:
                self._end(active, Closed("the voice was closed before the request's end"))

    def _admit(self) -> None:
        """Gives free slots to those who have waited longest: for a first sound since they came, for the next piece
        since the audio before it ran out. Listeners who are seconds ahead come last.
        """
        session, now = self._session, time.perf_counter()
        free = self.max_slots - (len(session.utterances) if session is not None else 0)
        with self._changed:
            candidates = [(active.speech.submitted, active) for active in self._waiting]
            for active in self._active:
                if not active.decoding and self._may_begin_piece(active.speech):
                    candidates.append(((active.first_audio or now) + active.delivered_seconds, active))
            chosen = [active for _, active in sorted(candidates, key=itemgetter(0))[: max(0, free)]]
            self._active += [active for active in chosen if active in self._waiting]
            self._waiting = deque(active for active in self._waiting if active not in chosen)
        if chosen:
            self._join([(active, active.speech._pieces.popleft()) for active in chosen])

    def _join(self, chosen: Sequence[tuple[_Active, Piece]]) -> None:
        """Encodes pieces and gives them slots."""
        if self._session is None:
            self._session = self._new_session()
        self._session.keep_alignments = any(active.speech.settings.keep_pictures for active in self._active)
        for group in self._groups(chosen):
            self._join_group(self._session, group)

    def _join_group(self, session: DecoderSession, group: Sequence[tuple[_Active, Piece]]) -> None:
        try:
            memory, processed_memory = self.engines.encode([piece.encoded.ids for _, piece in group])
        except Exception as error:
            if len(group) == 1:
                self._failed_on(error, group)
                return
            self.engines.recover()
            for one in group:
                self._join_group(session, [one])
            return
        try:
            session.join(memory, processed_memory, [self._begin(active, piece) for active, piece in group])
        except Exception as error:
            self._failed_on(error, group)

    def _new_session(self) -> DecoderSession:
        # One text length on a GPU: each is a graph of its own.
        smallest_text = self.engines.max_symbols if self.engines.on_gpu else 0
        return DecoderSession(self._decoder, slot_counts=self._slot_counts, smallest_text=smallest_text)

    def _groups(self, chosen: Sequence[tuple[_Active, Piece]]) -> list[Sequence[tuple[_Active, Piece]]]:
        """Pieces that are encoded together: of one text bucket, in powers of two (few shapes are captured)."""
        by_bucket: dict[int, list[tuple[_Active, Piece]]] = {}
        for active, piece in chosen:
            by_bucket.setdefault(bucket_of(len(piece.encoded.ids), self.engines.limits.text), []).append(
                (active, piece)
            )
        most = min(ENCODED_TOGETHER, self.engines.limits.batch[1]) if self.engines.on_gpu else 1
        return [part for group in by_bucket.values() for part in _in_powers_of_two(group, most)]

    def _begin(self, active: _Active, piece: Piece) -> Utterance:
        settings = piece.own_settings(active.speech.settings)
        streams = RandomStreams(settings.seed, piece.encoded.text)
        utterance = Utterance(len(piece.encoded.ids), streams, self.engines.stop_rule(settings))
        stream = PieceStream(self.engines, self.plan, utterance, streams, settings, self._pool)
        active.streams.append(_ActivePiece(piece, stream))
        self._owners[id(utterance)] = active.streams[-1]
        return utterance

    def _decode(self) -> bool:
        """Decodes until all requests under way have a window that can be computed, or one is cancelled, or for some
        blocks. Returns whether there was anything to decode.
        """
        session, blocks = self._session, 0
        while session is not None and (session.utterances or self._block is not None) and blocks < self._blocks:
            self._decode_block(session)
            blocks += 1
            self._hand_over(wait=False)
            if session is not self._session or any(active.speech.cancelled for active in self._active):
                break
            if all(active.streams[0].stream.ready for active in self._active if active.streams):
                break
        return blocks > 0

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
            owners = [(active, active.streams[-1].piece) for active in self._active if active.decoding]
            self._session, self._block = None, None
            self._decoder.close()
            self._failed_on(error, owners)

    def _take(self, block: StartedBlock) -> None:
        """Hands a finished block's frames to their streams."""
        block.finish()
        frames = block.frames.unbind(1)
        for slot, utterance in enumerate(block.slots):
            owner = self._owners.get(id(utterance)) if utterance is not None else None
            if owner is None or utterance is None:
                continue
            owner.stream.add(frames[slot])
            if block.alignments is not None:
                owner.alignments.append(block.alignments[:, slot])
            if utterance.ended:
                del self._owners[id(utterance)]

    def _next_windows(self) -> list[Window]:
        """The windows that can be computed now, at most one a request: the first ones first, then by urgency."""
        found: list[tuple[_Active, WindowRange]] = []
        waiting = any(active.first_audio is None for active in self._active)
        frames_left = LATER_FRAMES_WHILE_WAITING if waiting else LATER_FRAMES
        for active in sorted(self._active, key=_urgency):
            if not active.streams or (frames_left <= 0 and active.first_audio is not None):
                continue
            piece = active.streams[0]
            error = piece.stream.utterance.error
            if error is not None:
                self._end(active, EngineFailure(f"{describe(piece.piece)}: {error}"))
                continue
            place = piece.stream.next_range()
            if place is None:
                continue
            found.append((active, place))
            if active.first_audio is not None:
                frames_left -= place.size
            if not self.engines.on_gpu:
                break  # on a CPU a window takes all cores: the next may be more urgent by then
        return self._refined(found)

    def _refined(self, found: Sequence[tuple[_Active, WindowRange]]) -> list[Window]:
        """The windows of ranges, their frames refined together where they are as many."""
        by_frames: dict[int, list[tuple[_Active, WindowRange]]] = {}
        for active, place in found:
            by_frames.setdefault(0 if place.unrefined is None else place.unrefined.size(1), []).append((active, place))
        windows: dict[int, Window] = {}
        most = self.engines.limits.batch[1]
        for group in by_frames.values():
            for part in _in_powers_of_two(group, most):
                self._refine(part, windows)
        return [windows[id(active)] for active, _ in found if id(active) in windows]

    def _refine(self, part: Sequence[tuple[_Active, WindowRange]], windows: dict[int, Window]) -> None:
        """Adds the windows of ranges of as many frames, by id; ranges that fail together are tried one by one."""
        refined: Sequence[Tensor | None] = [None] * len(part)
        unrefined = [place.unrefined for _, place in part if place.unrefined is not None]
        try:
            if unrefined:
                refined = list(self.engines.refine(torch.stack(unrefined), capture=False))
            for (active, place), mel in zip(part, refined, strict=True):
                windows[id(active)] = active.streams[0].stream.window(place, mel)
        except Exception as error:
            left = [(active, place) for active, place in part if id(active) not in windows]
            if len(left) == 1:
                self._failed_on(error, [(left[0][0], left[0][0].streams[0].piece)])
                return
            self.engines.recover()
            for one in left:
                self._refine([one], windows)

    def _batches(self, windows: Sequence[Window]) -> list[Sequence[Window]]:
        """Windows of one size together, in powers of two (few shapes are captured), in the order of urgency."""
        by_size: dict[int, list[Window]] = {}
        for window in windows:
            by_size.setdefault(window.size, []).append(window)
        waveglow = self.engines.engines["waveglow"]
        return [
            part
            for size, group in by_size.items()
            for part in _in_powers_of_two(group, batch_of_windows(waveglow, size))
        ]

    def _vocode(self, windows: Sequence[Window]) -> None:
        """Starts WaveGlow on windows of one size; a batch that fails is tried one by one."""
        try:
            self._vocoding.append(_VocodedBatch.start(self.engines, windows))
        except Exception as error:
            if len(windows) > 1:
                self.engines.recover()
                for window in windows:
                    self._vocode([window])
                return
            active = self._active_of(windows[0].stream)
            self._failed_on(error, [(active, active.streams[0].piece)] if active is not None else [])

    def _hand_over(self, wait: bool) -> None:
        """Delivers the audio that has come to the host, or waits for all that is on its way."""
        while self._vocoding and (wait or self._vocoding[0].arrived()):
            batch = self._vocoding.popleft()
            for window, samples in zip(batch.windows, batch.chunks(), strict=True):
                self._deliver(window, samples)

    def _deliver(self, window: Window, samples: np.ndarray) -> None:
        active = self._active_of(window.stream)
        if active is None:
            return
        piece = active.streams[0]
        if np.isnan(samples.max(initial=0.0)):
            self._end(active, self.engines.nan_error("waveglow", describe(piece.piece)))
            return
        speech = active.speech
        if window.last:
            speech.results.append(_result(piece, speech.settings))
            active.streams.popleft()
            pause = round(piece.piece.pause * self.engines.audio.sampling_rate)
            samples = np.concatenate((samples, np.zeros(pause, np.float32)))
        done = window.last and not active.streams and not speech._pieces
        if active.first_audio is None:
            active.first_audio = time.perf_counter()
        active.delivered_seconds += len(samples) / self.engines.audio.sampling_rate
        self._audio_seconds += len(samples) / self.engines.audio.sampling_rate
        speech._deliver(samples, last=done)

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


@dataclass
class _VocodedBatch:
    """Windows of one size whose audio is being computed and brought to the host."""

    windows: Sequence[Window]
    samples: Tensor  # float32 (all chunks' samples,) at the voice's level, on the host once `event` has come
    lengths: list[int]  # samples of each chunk
    event: torch.cuda.Event | None  # None on a CPU

    @classmethod
    def start(cls, engines: EngineSet, windows: Sequence[Window]) -> "_VocodedBatch":
        waveglow = engines.engines["waveglow"]
        pinned = waveglow.device.type == "cuda"
        noise = torch.empty(len(windows), *windows[0].noise.shape, pin_memory=pinned)
        for row, window in zip(noise.numpy(), windows, strict=True):
            row[:] = window.noise
        sigma = torch.tensor([window.sigma for window in windows], pin_memory=pinned).view(-1, 1, 1)
        z = noise.to(waveglow.device, non_blocking=True) * sigma.to(waveglow.device, non_blocking=True)
        audio = infer(
            waveglow,
            mel=torch.stack([window.mel for window in windows]),
            z=z.transpose(1, 2).to(waveglow.contract.outputs[0].dtype).contiguous(),
        )["audio"]
        hop = engines.audio.hop_length
        chunks = [
            kept_audio(window, row, window.stream.denoiser, hop) for window, row in zip(windows, audio, strict=True)
        ]
        joined = torch.cat(chunks)
        # Here rather than on the host, where it would keep every other request waiting.
        leveled = limit(joined, engines.gain).masked_fill_(~joined.isfinite(), torch.nan)
        samples = torch.empty(joined.shape, pin_memory=pinned)
        samples.copy_(leveled, non_blocking=True)
        event = torch.cuda.current_stream(waveglow.device).record_event() if pinned else None
        return cls(windows, samples, [chunk.numel() for chunk in chunks], event)

    def arrived(self) -> bool:
        return self.event is None or self.event.query()

    def chunks(self) -> list[np.ndarray]:
        """Each window's chunk, float32 [kept frames * hop_length], NaN where it isn't finite; waits for them."""
        if self.event is not None:
            self.event.synchronize()
        parts = np.split(self.samples.numpy(), np.cumsum(self.lengths)[:-1])
        return [part.copy() for part in parts]  # a view would keep the whole batch, in memory that can't be swapped


def _result(piece: _ActivePiece, settings: SpeakSettings) -> PieceResult:
    """What became of a piece whose last window has been computed."""
    utterance, alignment = piece.stream.utterance, None
    assert utterance.frames is not None
    if settings.keep_pictures:
        symbols = len(piece.piece.encoded.ids)
        alignment = torch.cat(piece.alignments)[: utterance.frames, :symbols].float().cpu().numpy()
    frames = frames_at_speed(utterance.frames, piece.piece.own_settings(settings).speed)
    return PieceResult(piece.piece, None, frames, utterance.stop_reason, alignment=alignment)


def _urgency(active: _Active) -> tuple[int, float]:
    """Sorts requests: those without a sound first, in their order; then whose listener runs out of audio first."""
    if active.first_audio is None:
        return 0, active.speech.submitted
    return 1, active.first_audio + active.delivered_seconds


Item = TypeVar("Item")


def _in_powers_of_two(items: Sequence[Item], most: int) -> list[Sequence[Item]]:
    parts = []
    done = 0
    while done < len(items):
        count = min(most, 1 << ((len(items) - done).bit_length() - 1))
        parts.append(items[done : done + count])
        done += count
    return parts


def _slots(engines: EngineSet, max_slots: int | None) -> tuple[int, Sequence[int] | None]:
    """The number of slots, and the counts that there may be (None: any)."""
    low, high = engines.limits.batch
    if not engines.on_gpu:
        return min(max_slots or CPU_SLOTS, high), None if low == 1 else range(low, high + 1)
    most = min(max_slots or GPU_SLOTS, high)
    return most, tuple(sorted({*(max(low, count) for count in GPU_SLOT_COUNTS if count < most), most}))
