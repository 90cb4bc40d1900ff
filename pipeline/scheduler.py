"""Many requests at once on one set of engines: continuous batching, audio as it is made.

One worker thread owns the engines. Requests join and leave the decoder's batch between blocks; WaveGlow's windows of
all requests are gathered by size, first windows before later ones. A request's audio doesn't depend on its neighbours:
its random numbers, its windows and their shapes are its own.

    submit -> waiting -> admitted -> Runner (encoder, decoder slots, windows, WaveGlow) -> Speech (a queue of Audio)

This module has the queue, the thread, and its supervision. `pipeline.policy` decides what to do next.
"""

import atexit
import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from common.errors import Busy, Closed, check_positive
from pipeline import policy
from pipeline.engine_set import EngineSet
from pipeline.pieces import Piece
from pipeline.runner import Runner, warm_up
from pipeline.settings import SpeakSettings
from pipeline.speech import CancelledError, Speech
from pipeline.streaming import Request

QUEUE_LENGTH = 64  # waiting requests, unless the caller says otherwise

FAILED_ROUNDS = 5  # in a row, without any audio between them: then the engines can't work any more
STUCK_SECONDS = 300.0  # of one round; a runtime may compile for minutes where it meets a shape for the first time
CLOSING_SECONDS = 60.0  # most that `close` waits: for requests under way, and for the worker

State = Literal["running", "draining", "failed"]

_log = logging.getLogger(__name__)


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


class Scheduler:
    """Speaks requests on a set of engines, in a worker thread of its own. Thread-safe.

    Args:
        engines: the voice.
        max_slots: most pieces of text decoded at a time; None takes what suits the device.
        max_waiting: most requests that may wait for a first slot. A reader may be slow: with those under way
            there are never more than `max_slots` + `max_waiting`.
        on_failed: called once, in any thread, with the reason why the scheduler can't work any more. It must return at
            once; what it raises is logged. What serves requests ends then, so that it is started again.

    Raises:
        InvalidInput: a limit isn't a whole number from 1.
    """

    def __init__(
        self,
        engines: EngineSet,
        *,
        max_slots: int | None = None,
        max_waiting: int = QUEUE_LENGTH,
        on_failed: Callable[[str], object] = lambda reason: None,
    ) -> None:
        if max_slots is not None:
            check_positive("max_slots", max_slots)
        check_positive("max_waiting", max_waiting)
        self.engines = engines
        self.max_waiting = max_waiting
        self._runner = Runner(engines, max_slots)
        self.max_slots = self._runner.max_slots
        self._changed = threading.Condition()
        self._waiting: list[Request] = []
        self._closing = False
        self._cut = False  # closing without waiting for requests under way
        self._failure: str | None = None
        self._on_failed = on_failed
        self._round_began: float | None = None  # by time.monotonic; None between rounds
        self._failed_rounds = 0  # in a row
        self._thread = threading.Thread(target=self._work, name="speech", daemon=True)
        self._thread.start()
        # A daemon thread that is inside PyTorch when the interpreter ends would abort the process.
        atexit.register(self.close)

    def submit(
        self, pieces: Sequence[Piece], settings: SpeakSettings, on_event: Callable[[], object] = lambda: None
    ) -> Speech:
        """Accepts a request of one or more pieces of text. `on_event` is for `Speech`.

        Raises:
            InvalidInput: the settings don't fit the voice.
            Busy: as many requests as may be are waiting or under way.
            Closed: the scheduler is closed, another process's, or can't work any more.
        """
        self.engines.lock.check_process()
        self.engines.denoiser.check(settings.denoise)
        rate = self.engines.audio.sampling_rate
        speech = Speech(settings, rate, on_event, self._notify, self.watch)
        self._give_up_if_stuck()
        with self._changed:
            if self._failure is not None:
                raise Closed(self._failure)
            if self._closing:
                raise Closed("the voice is closed: nothing more is spoken")
            under_way = len(self._runner.requests)
            refusal = policy.refusal(len(self._waiting), under_way, self.max_waiting, self.max_slots)
            if refusal is not None:
                raise Busy(f"busy: {refusal}; try again later")
            self._waiting.append(Request(speech, pieces))
            self._changed.notify()
        return speech

    def watch(self) -> None:
        """Looks whether audio can still come. Whoever waits for audio calls this, now and then.

        Raises:
            UserError: it is a callback, and the engines wait for that one.
            Closed: the scheduler is another process's.
        """
        self.engines.lock.check()
        self._give_up_if_stuck()

    def warm_up(self) -> None:
        """Compiles and captures on a GPU what requests will need, so that none of them waits for it. Takes seconds."""
        if self.engines.on_gpu:
            with self.engines.running():
                warm_up(self._runner)

    def status(self) -> SchedulerStatus:
        self._give_up_if_stuck()
        with self._changed:
            seconds = self._runner.audio_seconds
            if self._failure is not None:
                return SchedulerStatus(0, 0, seconds, "failed", self._failure)
            state: State = "draining" if self._closing else "running"
            return SchedulerStatus(len(self._waiting), len(self._runner.requests), seconds, state)

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
        self._runner.close()

    def _notify(self) -> None:
        with self._changed:
            self._changed.notify()

    # The worker

    def _work(self) -> None:
        try:
            while self._wait_for_work():
                with self.engines.running():
                    self._try_round()
        except BaseException as error:  # no reader may wait for a worker that has ended
            self._fail(error)

    def _wait_for_work(self) -> bool:
        """Returns once there is something to do; whether there is."""
        with self._changed:
            while self._failure is None and not self._something_to_do():
                if self._closing and not self._waiting and not self._runner.requests:
                    return False
                self._changed.wait()
            return self._failure is None

    def _something_to_do(self) -> bool:
        under_way = self._runner.requests
        if any(self._cut or one.speech.cancelled for one in (*self._waiting, *under_way)):
            return True
        if self._waiting or self._runner.computing:
            return True
        return any(one.pieces or self._may_go_on(one) for one in under_way)

    def _may_go_on(self, request: Request) -> bool:
        """Whether the request's next piece may begin."""
        return bool(request.left) and policy.may_begin_piece(request.speech.unread_seconds, self._closing)

    def _round(self) -> None:
        """Some blocks of decoder steps for all that have a slot, and the windows that can be computed by then."""
        runner = self._runner
        self._end_cancelled()
        runner.join(self._admitted())
        decoding = runner.decode()
        windows = runner.next_windows()
        runner.vocode(windows)
        # A lone request's first chunk is delivered synchronously. Otherwise audio is delivered once its event has come,
        # or waited for when there is no other work.
        alone = len(runner.requests) == 1 and any(window.span.first for window in windows)
        runner.deliver(wait=alone or not (decoding or windows))
        runner.drop_finished()

    def _end_cancelled(self) -> None:
        with self._changed:
            under_way = self._runner.requests
            gone = [one for one in (*under_way, *self._waiting) if self._cut or one.speech.cancelled]
            self._waiting = [one for one in self._waiting if one not in gone]
        for one in gone:
            cancelled = one.speech.cancelled
            reason = "the request was cancelled" if cancelled else "the voice was closed before the request's end"
            self._runner.end(one, CancelledError(reason) if cancelled else Closed(reason))

    def _admitted(self) -> list[Request]:
        """Requests that get the free slots; those that waited are under way from now on."""
        with self._changed:
            if self._failure is not None:
                return []
            runner, now = self._runner, time.perf_counter()
            going_on = [one for one in runner.requests if not one.decoding and self._may_go_on(one)]
            chosen = policy.admitted(self._waiting, going_on, runner.free_slots, now)
            runner.requests += [one for one in chosen if one in self._waiting]
            self._waiting = [one for one in self._waiting if one not in chosen]
            return chosen

    # Supervision

    def _try_round(self) -> None:
        """A round. What fails in it ends the requests under way; those that wait are spoken next.

        Raises:
            Closed: the engines can't work any more.
        """
        runner = self._runner
        made, failures = runner.audio_seconds, runner.failures
        self._round_began = time.monotonic()
        try:
            self._round()
        except Exception as error:
            runner.abandon(error)
        finally:
            self._round_began = None
        if runner.audio_seconds > made:
            self._failed_rounds = 0
        elif runner.failures > failures:
            self._failed_rounds += 1
        if self._failed_rounds == FAILED_ROUNDS:
            raise Closed(f"{FAILED_ROUNDS} attempts to speak have failed in a row; see the log, and start again")

    def _give_up_if_stuck(self) -> None:
        began = self._round_began
        if began is not None and time.monotonic() - began > STUCK_SECONDS:
            self._fail(Closed(f"an engine has not returned for {STUCK_SECONDS:g} s; start again"))

    def _fail(self, error: BaseException) -> None:
        """Ends all requests, and takes no more."""
        reason = str(error) if isinstance(error, Closed) else f"speaking failed: {type(error).__name__}; see the log"
        with self._changed:
            if self._failure is not None:
                return
            self._failure = reason
            requests = [*self._runner.requests, *self._waiting]
            self._waiting = []
        _log.critical("nothing more can be spoken: %s", reason, exc_info=error)
        for one in requests:
            one.speech.fail(Closed(reason))
        try:
            self._on_failed(reason)
        except Exception:  # the caller's own: whoever noticed the failure is not to blame
            _log.exception("on_failed failed")
