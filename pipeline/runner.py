"""Runs streamed requests on a set of engines, a round at a time: `pipeline.policy` decides, this executes.

decoder slots -> frames -> windows -> postnet -> WaveGlow -> chunks
"""

import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from common.errors import Closed, EngineFailure, explained
from common.random_streams import RandomStreams
from pipeline import policy, stages
from pipeline.engine_set import EngineSet
from pipeline.pieces import Piece, describe
from pipeline.settings import SpeakSettings
from pipeline.stream_vocoder import StreamVocoder
from pipeline.streaming import Request, StreamedPiece, WindowInputs
from tacotron2.decoder import Utterance
from tacotron2.decoder_graph import (
    TEXT_BUCKETS,
    DecoderSession,
    StartedBlock,
    UtteranceType,
    bucket_of,
    make_decoder,
)

Owner = tuple[Request, Piece]  # a request that an error ends, and the piece that the error names
Item = TypeVar("Item")
Result = TypeVar("Result")


class Runner:
    """Requests under way, and what they occupy on the engines. One thread uses it, in `EngineSet.running`.

    An engine's exception ends the requests that met it; what ran for several is tried again for each.

    Args:
        max_slots: most pieces decoded at a time; None takes what suits the device.

    Attributes:
        requests: under way, in the order of their admission.
        audio_seconds: of audio made so far.
        failures: exceptions that ended requests so far.
        slot_counts: the numbers of slots that the decoder may have; None where any will do.
        vocoder: of the streams' windows.
    """

    def __init__(self, engines: EngineSet, max_slots: int | None) -> None:
        self.engines = engines
        self.max_slots, self.slot_counts = policy.slots(engines.limits.batch, engines.on_gpu, max_slots)
        self.requests: list[Request] = []
        self.audio_seconds = 0.0
        self.failures = 0
        self.vocoder = StreamVocoder(engines)
        # Its own blocks: the offline synthesizer may decode while streams are under way.
        self._decoder = make_decoder(engines.parts["decoder_iter"], engines.work.cuda_graph)
        self._session: DecoderSession[StreamedPiece] | None = None
        self._block: StartedBlock[StreamedPiece] | None = None  # started, and its frames not yet read
        self._vocoding: deque[tuple[Sequence[WindowInputs], stages.HostAudio]] = deque()  # on their way from the GPU
        self._pool = ThreadPoolExecutor(2, thread_name_prefix="noise") if engines.on_gpu else None

    @property
    def free_slots(self) -> int:
        return self.max_slots - (len(self._session.utterances) if self._session is not None else 0)

    @property
    def computing(self) -> bool:
        """Whether something is under way on a GPU."""
        return bool(self._vocoding) or self._block is not None

    # The steps of a round

    def join(self, requests: Sequence[Request]) -> None:
        """Encodes each request's next piece and gives it a slot."""
        if not requests:
            return
        if self._session is None:
            self._session = self.new_session(StreamedPiece)
        self._session.keep_alignments = any(stages.keeps_attention(one.speech.settings) for one in self.requests)
        limits = self.engines.limits
        most = min(policy.ENCODED_TOGETHER, limits.batch[1]) if self.engines.on_gpu else 1
        beginning = [(one, one.left.popleft()) for one in requests]
        groups = policy.in_batches(
            beginning, lambda pair: bucket_of(len(pair[1].encoded.ids), limits.text), lambda bucket: most
        )
        encoded = [one for group in groups for one in self._together(self._encode, group, lambda pair: pair)]
        if not encoded:
            return
        joining = [pair for group, _ in encoded for pair in group]
        memories = [memory for _, memory in encoded]
        try:
            plan = self.vocoder.plan
            pieces = [StreamedPiece(one, piece, self.engines, plan, self._pool) for one, piece in joining]
            for piece in pieces:
                piece.request.pieces.append(piece)
            self._session.join(*stages.in_one_batch(memories, max(memory.size(1) for memory, _ in memories)), pieces)
        except Exception as error:
            self._fail(error, joining)

    def decode(self) -> bool:
        """Decodes some blocks: until all requests have a window that can be computed, or one is cancelled.

        Returns whether there was anything to decode.
        """
        most = policy.GPU_BLOCKS if self.engines.on_gpu else policy.CPU_BLOCKS
        session, blocks = self._session, 0
        while session is not None and (session.utterances or self._block is not None) and blocks < most:
            self._decode_block(session)
            blocks += 1
            self.deliver(wait=False)
            if session is not self._session or any(one.speech.cancelled for one in self.requests):
                break
            if all(one.pieces[0].ready for one in self.requests if one.pieces):
                break
        return blocks > 0

    def next_windows(self) -> list[WindowInputs]:
        """The windows to compute in this round, at most one a request, the most urgent first."""
        for one in list(self.requests):
            if one.pieces and one.pieces[0].error is not None:
                self.end(one, EngineFailure(f"{describe(one.pieces[0].piece)}: {one.pieces[0].error}"))
        chosen = policy.next_windows(
            [(one, one.pieces[0].next_window.size) for one in self.requests if one.pieces and one.pieces[0].ready],
            somebody_waits=any(one.first_audio is None for one in self.requests),
            one_at_a_time=not self.engines.on_gpu,
        )
        pieces = [one.pieces[0] for one in chosen]
        return self._together(self.vocoder.next_windows, pieces, lambda piece: (piece.request, piece.piece))

    def vocode(self, windows: Sequence[WindowInputs]) -> None:
        """Starts WaveGlow on windows."""
        for run in self.vocoder.runs(windows):
            self._vocoding += self._together(
                lambda some: [(some, self.vocoder.start(some))],
                run,
                lambda window: (window.piece.request, window.piece.piece),
            )

    def deliver(self, wait: bool) -> None:
        """Delivers the audio that has come to the host, or waits for all that is on its way."""
        while self._vocoding and (wait or self._vocoding[0][1].arrived()):
            windows, audio = self._vocoding.popleft()
            for window, samples in zip(windows, audio.wait(), strict=True):
                try:
                    self._deliver_chunk(window, samples)
                except Exception as error:
                    self._fail(error, [(window.piece.request, window.piece.piece)])

    def drop_finished(self) -> None:
        self.requests = [one for one in self.requests if not one.finished]

    # Ends

    def end(self, request: Request, error: BaseException) -> None:
        """Takes a request out, with an error for its reader."""
        if self._session is not None:
            self._session.leave(request.pieces)
        request.pieces.clear()
        request.left.clear()
        self.requests = [other for other in self.requests if other is not request]
        request.speech.fail(error)

    def abandon(self, error: Exception) -> None:
        """Ends all requests after an exception that nothing expected. Raises Closed as `EngineSet.recover`."""
        self._fail(error, [])
        self._stop_decoding()
        self._vocoding.clear()
        for one in list(self.requests):
            self.end(one, explained(error, "a request"))

    def close(self) -> None:
        """Releases what the engines hold for it; the engines stay open."""
        self._decoder.close()
        if self._pool is not None:
            self._pool.shutdown()

    def _together(
        self, run: Callable[[Sequence[Item]], list[Result]], items: Sequence[Item], owner: Callable[[Item], Owner]
    ) -> list[Result]:
        """What `run` makes of items together; where that fails, of each alone. What fails alone ends its request."""
        try:
            return run(items)
        except Exception as error:
            if len(items) == 1:
                self._fail(error, [owner(items[0])])
                return []
            self.engines.recover()
            return [result for item in items for result in self._together(run, [item], owner)]

    def _fail(self, error: Exception, pieces: Sequence[Owner]) -> None:
        """Ends the requests of pieces that met an engine's exception. Raises Closed as `EngineSet.recover`."""
        if isinstance(error, Closed):
            raise error
        self.failures += 1
        self.engines.recover()
        for request, piece in pieces:
            self.end(request, explained(error, describe(piece)))

    def _stop_decoding(self) -> None:
        self._session, self._block = None, None
        self._decoder.close()

    # Decoding

    def new_session(self, of: type[UtteranceType]) -> DecoderSession[UtteranceType]:
        """A batch for the decoder, of utterances of this type; the one before must have ended."""
        # One text length on a GPU: each is a graph of its own.
        smallest_text = self.engines.max_symbols if self.engines.on_gpu else 0
        return DecoderSession(self._decoder, slot_counts=self.slot_counts, smallest_text=smallest_text)

    def _encode(self, group: Sequence[Owner]) -> list[tuple[Sequence[Owner], tuple[Tensor, Tensor]]]:
        """A group with what the encoder makes of it."""
        return [(group, stages.encode(self.engines, [piece.encoded.ids for _, piece in group]))]

    def _decode_block(self, session: DecoderSession[StreamedPiece]) -> None:
        """Starts the next block and, while a GPU is busy with it, looks at the one before."""
        try:
            started = session.start() if session.utterances else None
            previous, self._block = self._block, started
            if started is not None and not self.engines.on_gpu:
                previous, self._block = started, None
            if previous is not None:
                self._take(previous)
            ended = [piece for piece in session.utterances if piece.ended]
            session.leave(ended)
            if ended and not self.engines.on_gpu:
                session.compact()
        except Exception as error:  # which piece is to blame can't be known: all that had a slot end
            decoding = [(one, one.pieces[-1].piece) for one in self.requests if one.decoding]
            self._stop_decoding()
            self._fail(error, decoding)

    @staticmethod
    def _take(block: StartedBlock[StreamedPiece]) -> None:
        """Hands a finished block's frames to their pieces."""
        block.finish()
        frames, slots = block.frames.flatten(0, 1), len(block.slots)
        for slot, piece in enumerate(block.slots):
            if piece is not None:
                weights = None if block.alignments is None else block.alignments[:, slot]
                piece.add(frames, range(slot, len(frames), slots), weights)

    # Audio

    def _deliver_chunk(self, window: WindowInputs, samples: np.ndarray) -> None:
        piece, request, rate = window.piece, window.piece.request, self.engines.audio.sampling_rate
        if not request.pieces or request.pieces[0] is not piece:
            return  # the request has ended
        if np.isnan(samples.max(initial=0.0)):
            self.end(request, stages.nan_error(self.engines, "waveglow", describe(piece.piece)))
            return
        start = request.delivered - window.span.keep_start * self.engines.frame_seconds  # of the piece's audio
        words = [word.later(start) for word in piece.take_words(window.span.last)]
        pause = 0
        if window.span.last:
            request.speech.results.append(piece.result())
            request.pieces.popleft()
            pause = round(piece.piece.pause * rate)
        if request.first_audio is None:
            request.first_audio = time.perf_counter()
        seconds = (len(samples) + pause) / rate
        request.delivered += seconds
        self.audio_seconds += seconds
        # A view of `samples` would keep the whole batch, in memory that can't be swapped.
        chunk = np.pad(samples, (0, pause)) if pause else samples.copy()
        request.speech.deliver(chunk, words, last=request.finished)


def warm_up(runner: Runner) -> None:
    """Compiles and captures on a GPU what requests will need. Takes seconds."""
    engines = runner.engines
    texts = [np.ones(length, np.int32) for length in TEXT_BUCKETS if length <= engines.max_symbols]
    for ids, batch in product(texts, (1, 2, 4, 8)):
        if batch <= min(policy.ENCODED_TOGETHER, engines.limits.batch[1]):
            for _ in range(2):  # the second run captures
                stages.encode(engines, [ids] * batch)
    session = runner.new_session(Utterance)
    memory, processed_memory = stages.encode(engines, [texts[0]] * engines.limits.batch[0])
    rule = stages.stop_rule(engines, SpeakSettings(), speed=1.0)
    for count in runner.slot_counts or ():
        utterances = [Utterance(len(texts[0]), RandomStreams(0, str(slot)), rule) for slot in range(count)]
        for utterance in utterances:
            session.join(memory[:1], processed_memory[:1], [utterance])
        session.start().finish()
        session.leave(utterances)
    runner.vocoder.warm_up()
    torch.cuda.synchronize(engines.device)
