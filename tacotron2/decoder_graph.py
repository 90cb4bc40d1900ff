"""The decoder loop in blocks of steps, each one CUDA graph, in which utterances join and leave between blocks.

A plain loop asks the GPU after every frame whether to go on. Here a number of steps is one block, captured once per
(batch, text bucket) into a CUDA graph and replayed. The gates of a block travel to the host in one asynchronous copy,
and the host reads them while the GPU is busy with the next block, so the GPU never waits for the host. Up to two blocks
are decoded beyond an utterance's end, and thrown away.

A batch is a row of slots (`DecoderSession`). An utterance enters a free slot between two blocks and leaves it between
two others, while its neighbours go on (continuous batching). `BlockDecoder.decode` is the simple case: all utterances
begin together.

Works with any engine: it binds tensors and captures the bound runs. On the CPU the same blocks run directly.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
import torch
from torch import Tensor

from common.cuda import ShapeCache, download
from common.engine import Engine, MultiStep, Range
from common.random_streams import STEPS_PER_DRAW
from tacotron2.blocks import STAGING_BUFFERS, Block, LongBlock, SteppedBlock
from tacotron2.decoder import DecodedBatch, Utterance, check_decoded

TEXT_BUCKETS = (32, 64, 96, 128, 192, 256)  # text lengths that graphs are made for, then multiples of LONG_BUCKET
LONG_BUCKET = 64
STEPS_PER_BLOCK = 16
CPU_STEPS_PER_BLOCK = 4  # there is no launch to hide on a CPU, and steps beyond the end cost time
CACHED_BYTES = 512 << 20  # of blocks


def make_decoder(engine: Engine, cuda_graph: bool = True) -> "BlockDecoder":
    """The decoder loop for a `decoder_iter` engine: captured on a GPU, unless `cuda_graph` is false or it can't be.

    On a `MultiStep` engine each step of a captured block works in its own memory: nothing is copied between steps.
    """
    if engine.device.type != "cuda":
        return BlockDecoder(engine, steps=CPU_STEPS_PER_BLOCK)
    cuda_graph = cuda_graph and engine.capturable
    in_place = cuda_graph and isinstance(engine, MultiStep)
    return BlockDecoder(engine, runners=STEPS_PER_BLOCK if in_place else 2, cuda_graph=cuda_graph)


class BlockDecoder:
    """Decodes with blocks of steps on a `decoder_iter` engine, on PyTorch's current stream.

    Not thread-safe, and one session at a time: sessions share the memory of the blocks. The engine has to allow that
    its bound runs are captured once they have run outside of a capture, that they are replayed on another stream, and
    that several of them exist at a time.

    Args:
        engine: a `decoder_iter` engine.
        steps: frames of a block, unless the engine runs more at once: even, at most STEPS_PER_DRAW.
        runners: bound runs that take turns: 2 (one per direction), or any divisor of `steps`.
        cuda_graph: whether blocks become CUDA graphs; only on a GPU.
        max_bytes: bound on the memory of cached blocks, scratch memory of the engine excluded; the one that was used
            longest ago goes first. The block in use may exceed it alone.

    Raises:
        ValueError: a number above is not what it has to be.
    """

    def __init__(
        self,
        engine: Engine,
        steps: int = STEPS_PER_BLOCK,
        runners: int = 2,
        cuda_graph: bool = True,
        max_bytes: int = CACHED_BYTES,
    ) -> None:
        if not 2 <= steps <= STEPS_PER_DRAW or steps % 2:
            raise ValueError(f"steps is {steps}: it must be even and at most {STEPS_PER_DRAW}")
        if runners < 2 or steps % runners:
            raise ValueError(f"runners is {runners}: it must be at least 2 and divide the {steps} steps of a block")
        self.engine = engine
        self.steps = steps
        self.runners = runners
        self._cuda_graph = cuda_graph and engine.device.type == "cuda"
        self._ahead = 1 if engine.device.type == "cuda" else 0  # blocks started before the gates of one are read
        self._blocks: ShapeCache[tuple[int, int, bool], Block] = ShapeCache(max_bytes, lambda key: self._bytes(*key))

    def decode(
        self,
        memory: Tensor,
        processed_memory: Tensor,
        utterances: Sequence[Utterance],
        keep_alignments: bool = False,
        on_step: Callable[[int], None] | None = None,
    ) -> DecodedBatch:
        """Decodes a batch of utterances that all begin together.

        Where T is not a bucket's length, an engine works on padded text and may round differently.

        Args:
            memory, processed_memory: the encoder's outputs, (B, T, .), on the engine's device. What lies beyond an
                utterance's symbols is padding.
            utterances: one for each item of the batch, at their beginning.
            on_step: called after each block with the number of steps done, for progress.

        Raises:
            EngineFailure: the gate of an utterance is not a number.
        """
        session: DecoderSession[Utterance] = DecoderSession(self, keep_alignments)
        session.join(memory, processed_memory, utterances)
        blocks: list[StartedBlock[Utterance]] = []
        finished, longest = 0, max(utterance.cap for utterance in utterances)
        while not all(utterance.ended for utterance in utterances):
            more = not blocks or len(blocks) * blocks[0].steps < longest
            if more:
                blocks.append(session.start())
            # The host reads a block's gates while the GPU is busy with the next block.
            if not more or len(blocks) - finished > self._ahead:
                blocks[finished].finish()
                finished += 1
                if on_step is not None:
                    on_step(finished * blocks[0].steps)
        for block in blocks[finished:]:
            block.abandon()
        check_decoded(self.engine, utterances)
        kept = blocks[:finished]
        mels = torch.stack([block.frames for block in kept])  # (blocks, steps, B, n_mel_channels)
        weights = [block.alignments for block in kept if block.alignments is not None]
        alignments = torch.cat(weights)[:, :, : memory.size(1)].transpose(0, 1) if weights else None
        return DecodedBatch.of(mels.permute(2, 3, 0, 1).flatten(2), alignments, utterances)

    @property
    def cached(self) -> list[tuple[int, int, bool]]:
        """What blocks exist for: (batch, text bucket, alignments copied), the one used longest ago first."""
        return self._blocks.keys()

    def close(self) -> None:
        """Releases all blocks and their graphs; the engine stays open."""
        self._blocks.clear()

    def block(self, batch: int, text: int, keep_alignments: bool) -> Block:
        """The block for so many slots and symbols, from the cache or newly made."""
        key = (batch, text, keep_alignments and self.runners != self.steps)
        return self._blocks.get(key, lambda: self._make_block(*key))

    def _make_block(self, batch: int, text: int, keep_alignments: bool) -> Block:
        if many := self._steps_at_once(batch, text):
            assert isinstance(self.engine, MultiStep)
            return LongBlock(self.engine, self.engine, batch, text, many)
        return SteppedBlock(self.engine, batch, text, self.steps, self.runners, keep_alignments, self._cuda_graph)

    def _bytes(self, batch: int, text: int, keep_alignments: bool) -> int:
        if self._steps_at_once(batch, text):
            return LongBlock.bytes_for(self.engine, batch, text)
        return SteppedBlock.bytes_for(self.engine, batch, text, self.steps, self.runners)

    def _steps_at_once(self, batch: int, text: int) -> int:
        """The steps that the engine runs at once for so many slots and symbols; 0 where it runs step by step."""
        many = self.engine.steps_at_once(batch, text) if isinstance(self.engine, MultiStep) else 0
        return many if self.runners == self.steps else 0


def bucket_of(text: int, limits: Range | None) -> int:
    """The text length that `text` symbols are padded to, within the limits (inclusive) of the engines that see it."""
    bucket = next((size for size in TEXT_BUCKETS if size >= text), -(-text // LONG_BUCKET) * LONG_BUCKET)
    low, high = limits or (0, bucket)
    return max(text, low, min(bucket, high))


UtteranceType = TypeVar("UtteranceType", bound=Utterance)


class DecoderSession(Generic[UtteranceType]):
    """A batch of utterances. Each enters a slot between two blocks, and leaves it between two others.

    `start` starts a block and `StartedBlock.finish` reads its gates, in the same order; at most two may be under way.

    Args:
        decoder: what it runs on; its other sessions must have ended.
        keep_alignments: whether blocks keep the attention weights; a change takes effect when utterances join.
        slot_counts: the numbers of slots that there may be, ascending; where None, as many as are needed.
        smallest_text: text length that slots have room for from the beginning; one length is one graph.
    """

    def __init__(
        self,
        decoder: BlockDecoder,
        keep_alignments: bool = False,
        slot_counts: Sequence[int] | None = None,
        smallest_text: int = 0,
    ) -> None:
        self.slots: list[UtteranceType | None] = []
        self._decoder = decoder
        self.keep_alignments = keep_alignments
        self._slot_counts = slot_counts
        self._smallest_text = smallest_text
        self._block: Block | None = None
        device = decoder.engine.device
        self._stream = torch.cuda.current_stream(device) if device.type == "cuda" else None
        self._masks = _Masks(int(decoder.engine.contract.tensors["prenet_dropout"].shape[2]))
        self._started = 0  # blocks
        self._unfinished = 0

    @property
    def utterances(self) -> list[UtteranceType]:
        """Those that have a slot, in the order of their slots."""
        return [utterance for utterance in self.slots if utterance is not None]

    @property
    def text(self) -> int:
        """The text length that the slots have room for."""
        return 0 if self._block is None else self._block.slots.text

    def join(self, memory: Tensor, processed_memory: Tensor, utterances: Sequence[UtteranceType]) -> None:
        """Gives new utterances slots, from the next block on.

        Args:
            memory, processed_memory: the encoder's outputs of the new utterances, (N, T, .), on the engine's device.
        """
        text = max(memory.size(1), self._smallest_text)
        if self._stream is not None:
            text = bucket_of(text, self._decoder.engine.limits.get("text"))
        self._make_room(len(utterances), text)
        assert self._block is not None
        free = [slot for slot, utterance in enumerate(self.slots) if utterance is None]
        taken = free[: len(utterances)]
        for slot, utterance in zip(taken, utterances, strict=True):
            self.slots[slot] = utterance
        self._block.slots.fill(taken, memory, processed_memory, [utterance.symbols for utterance in utterances])
        for slot, utterance in zip(taken, utterances, strict=True):  # while a GPU fills the slots
            self._masks.begin(slot, utterance)

    def leave(self, utterances: Sequence[UtteranceType]) -> None:
        """Takes utterances out, ended or not; their slots are free from the next block on."""
        self.slots = [None if utterance in utterances else utterance for utterance in self.slots]

    def start(self) -> "StartedBlock[UtteranceType]":
        """Starts the next block of steps for all utterances that have a slot."""
        assert self._block is not None, "no utterance has joined"
        assert self._unfinished < STAGING_BUFFERS - 1, "finish a block before starting another"
        block, staging = self._block, self._started % STAGING_BUFFERS
        self._masks.draw(self.slots, block.slots.bits_arrays[staging])
        frames, alignments = block.advance(staging, self.keep_alignments)
        if alignments is not None:
            alignments = download(alignments)
        arrived = None
        if self._stream is not None:
            arrived = torch.cuda.Event()
            arrived.record(self._stream)
        self._started += 1
        self._unfinished += 1
        return StartedBlock(self, tuple(self.slots), frames, alignments, block.slots.gates_host[staging], arrived)

    def _finished(self) -> None:
        self._unfinished -= 1

    def _make_room(self, joining: int, text: int) -> None:
        """Moves to a block with room for all, if the present one has none (or, on a CPU, has idle slots)."""
        staying = [slot for slot, utterance in enumerate(self.slots) if utterance is not None]
        wanted = len(staying) + joining
        if self._slot_counts is not None:
            wanted = next(count for count in self._slot_counts if count >= wanted)
        if staying:
            text = max(text, self.text)
        block = self._decoder.block(wanted, text, self.keep_alignments)
        if block is self._block and staying:
            return
        if self._block is not None and staying:
            block.slots.copy_from(self._block.slots, staying)
        self._block = block
        self._masks.move(staying, wanted)
        self.slots = [self.slots[slot] for slot in staying] + [None] * (wanted - len(staying))

    def compact(self) -> None:
        """Moves to a block without idle slots, as far as `slot_counts` allows: fewer rows, less work."""
        if self._block is not None and self.utterances:
            self._make_room(0, self.text)


@dataclass
class StartedBlock(Generic[UtteranceType]):
    """A block of steps that is under way. Its frames may be used at once by what runs on the same stream.

    Attributes:
        slots: the utterance in each slot.
        frames: (steps, slots, n_mel_channels).
        alignments: (steps, slots, T), where they are kept; on the host, once the block is finished.
    """

    session: DecoderSession[UtteranceType]
    slots: tuple[UtteranceType | None, ...]
    frames: Tensor
    alignments: Tensor | None
    gates: Tensor  # (steps, slots, 1), on the host once they have arrived
    arrived: torch.cuda.Event | None  # when they have; None on a CPU

    @property
    def steps(self) -> int:
        return self.gates.size(0)

    def finish(self) -> None:
        """Waits for the block and gives every utterance its gates."""
        self._wait()
        gates, steps = self.gates.squeeze(2), self.steps
        for slot, largest in enumerate(gates.amax(0).tolist()):
            utterance = self.slots[slot]
            if utterance is not None and not utterance.goes_on(steps, largest):
                utterance.look(gates[:, slot].tolist())
        self.session._finished()

    def abandon(self) -> None:
        """Waits for the block; its gates are not read."""
        self._wait()
        self.session._finished()

    def _wait(self) -> None:
        if self.arrived is not None:
            self.arrived.synchronize()


class _Masks:
    """The dropout masks of the utterances in slots: drawn for many steps at a time, copied out for a block.

    One copy serves all slots. One copy per slot would release the GIL each time, and wait for other threads.
    """

    def __init__(self, prenet_dim: int) -> None:
        self._prenet_dim = prenet_dim
        self._drawn = np.empty((0, STEPS_PER_DRAW, 2, -(-prenet_dim // 8)), np.uint8)
        self._taken = np.empty(0, np.int64)  # steps of what is drawn

    def move(self, kept: Sequence[int], count: int) -> None:
        """Makes `count` slots, with the masks of slots that are kept in the first of them."""
        drawn, taken = np.empty((count, *self._drawn.shape[1:]), np.uint8), np.zeros(count, np.int64)
        drawn[: len(kept)], taken[: len(kept)] = self._drawn[kept], self._taken[kept]
        self._drawn, self._taken = drawn, taken

    def begin(self, slot: int, utterance: Utterance) -> None:
        """Draws a new utterance's first masks."""
        first = slot * STEPS_PER_BLOCK % STEPS_PER_DRAW  # or all would have to be drawn again at the same time
        self._drawn[slot, first:] = utterance.streams.dropout(STEPS_PER_DRAW - first, self._prenet_dim)
        self._taken[slot] = first

    def draw(self, slots: Sequence[Utterance | None], out: np.ndarray) -> None:
        """Writes every utterance's masks of the next block to `out`, uint8 [slots, steps, 2, prenet_dim / 8]."""
        steps = out.shape[1]
        last = STEPS_PER_DRAW - steps
        active = np.array([utterance is not None for utterance in slots])
        for slot in (active & (self._taken > last)).nonzero()[0]:
            utterance, drawn, taken = slots[slot], self._drawn[slot], self._taken[slot]
            assert utterance is not None
            drawn[: len(drawn) - taken] = drawn[taken:]
            drawn[len(drawn) - taken :] = utterance.streams.dropout(taken, self._prenet_dim)
            self._taken[slot] = 0
        first = int(self._taken[active].min(initial=last))
        if (self._taken[active] == first).all():
            np.copyto(out, self._drawn[:, first : first + steps])
        else:
            begin = np.minimum(self._taken, last)  # an idle slot's masks don't matter
            out[:] = self._drawn[np.arange(len(slots))[:, None], begin[:, None] + np.arange(steps)]
        self._taken[active] += steps
