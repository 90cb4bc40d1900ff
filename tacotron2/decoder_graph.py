"""The decoder loop in blocks of steps, each one CUDA graph, in which utterances join and leave between blocks.

The plain loop (`tacotron2.decoder.decode`) asks the GPU after every frame whether to go on. Here a number of steps is
one block, captured once per (batch, text bucket) into a CUDA graph and replayed. The gates of a block travel to the
host in one asynchronous copy, and the host reads them while the GPU is busy with the next block, so the GPU never waits
for the host. What is decoded beyond an utterance's end, two blocks at most, is thrown away.

A batch is a row of slots (`DecoderSession`): an utterance takes a free one at a block's border and gives it back at
another, whatever its neighbours do (continuous batching). `BlockDecoder.decode` is the simple case where all begin
together.

Works with any engine: it binds tensors and captures the bound runs. On the CPU the same blocks run directly.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from common.cuda import ShapeCache, capture, upload
from common.engine import Engine, Range
from common.random_streams import PRENET_KEEP, STEPS_PER_DRAW
from tacotron2.decoder import DecodedBatch, DecoderState, Utterance, check_decoded

TEXT_BUCKETS = (32, 64, 96, 128, 192, 256)  # text lengths that graphs are made for, then multiples of LONG_BUCKET
LONG_BUCKET = 64
STEPS_PER_BLOCK = 16
CPU_STEPS_PER_BLOCK = 4  # there is no launch to hide on a CPU, and steps beyond the end cost time
STAGING_BUFFERS = 3  # to and from the host: one being filled, one in use, one possibly still in flight
CACHED_BYTES = 512 << 20  # of blocks


def make_decoder(engine: Engine, cuda_graph: bool = True) -> "BlockDecoder":
    """The decoder loop for a `decoder_iter` engine: captured on a GPU, unless `cuda_graph` is false.

    An engine whose bound runs cost nothing but their tensors says so by an attribute `free_bindings` that is true:
    each step of a block then works in its own memory and nothing is copied between steps. Such an engine may also run
    many steps at once: a method `steps_at_once(batch, text)` says how many (0: none), `run_steps` enqueues them (see
    `tacotron2.gpu.decoder_engine`). One whose runs can't be captured says so by a false attribute `capturable`.
    """
    if engine.device.type != "cuda":
        return BlockDecoder(engine, steps=CPU_STEPS_PER_BLOCK)
    cuda_graph = cuda_graph and getattr(engine, "capturable", True)
    in_place = cuda_graph and getattr(engine, "free_bindings", False)
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
        self._ahead = 1 if engine.device.type == "cuda" else 0  # blocks started before the last one is looked at
        self._blocks: ShapeCache[tuple[int, int, bool], _Block] = ShapeCache(
            max_bytes, lambda key: _Block.bytes_for(self, *key)
        )

    def decode(
        self,
        memory: Tensor,
        processed_memory: Tensor,
        utterances: Sequence[Utterance],
        keep_alignments: bool = False,
        on_step: Callable[[int], None] | None = None,
    ) -> DecodedBatch:
        """Decodes a batch whose utterances all begin together.

        Same arguments, result and errors as `tacotron2.decoder.decode`. `on_step` is called once a block. Where T is
        not a bucket's length, an engine may round differently than in the plain loop, because it works on the padded
        text.
        """
        session = DecoderSession(self, keep_alignments)
        session.join(memory, processed_memory, utterances)
        blocks: list[StartedBlock] = []
        looked_at, longest = 0, max(utterance.cap for utterance in utterances)
        while not all(utterance.ended for utterance in utterances):
            more = not blocks or len(blocks) * blocks[0].steps < longest
            if more:
                blocks.append(session.start())
            # The host looks at a block while the GPU is busy with the next one.
            if not more or len(blocks) - looked_at > self._ahead:
                blocks[looked_at].finish()
                looked_at += 1
                if on_step is not None:
                    on_step(looked_at * blocks[0].steps)
        for block in blocks[looked_at:]:
            block.abandon()
        check_decoded(self.engine, utterances)
        kept = blocks[:looked_at]
        mels = torch.stack([block.frames for block in kept])  # (blocks, steps, B, n_mel_channels)
        alignments = None
        if keep_alignments:
            alignments = torch.cat([block.alignments for block in kept])[:, :, : memory.size(1)].transpose(0, 1)
        return DecodedBatch.of(mels.permute(2, 3, 0, 1).flatten(2), alignments, utterances)

    @property
    def cached(self) -> list[tuple[int, int, bool]]:
        """What blocks exist for: (batch, text bucket, alignments copied), the one used longest ago first."""
        return self._blocks.keys()

    def close(self) -> None:
        """Gives back all blocks and their graphs; the engine stays open."""
        self._blocks.clear()

    def block(self, batch: int, text: int, keep_alignments: bool) -> "_Block":
        """The block for so many slots and symbols, from the cache or newly made."""
        key = (batch, text, keep_alignments and self.runners != self.steps)

        def make() -> _Block:
            if self.steps_at_once(batch, text):
                return _LongBlock(self, *key)
            block = _Block(self, *key)
            if self._cuda_graph:
                block.replay = capture(block.run, self.engine.device)
            return block

        return self._blocks.get(key, make)

    def steps_at_once(self, batch: int, text: int) -> int:
        """The steps that the engine runs at once for so many slots and symbols; 0 where it runs step by step."""
        at_once = getattr(self.engine, "steps_at_once", None)
        return at_once(batch, text) if at_once is not None and self.runners == self.steps else 0


def bucket_of(text: int, limits: Range | None) -> int:
    """The text length that `text` symbols are padded to, within the limits (inclusive) of the engines that see it."""
    bucket = next((size for size in TEXT_BUCKETS if size >= text), -(-text // LONG_BUCKET) * LONG_BUCKET)
    low, high = limits or (0, bucket)
    return max(text, low, min(bucket, high))


class DecoderSession:
    """A batch of utterances of which each takes a slot at one block's border and gives it back at another.

    Blocks are started with `start` and looked at with `StartedBlock.finish`, in order; at most two may be under way.

    Args:
        decoder: what it runs on; its other sessions must have ended.
        keep_alignments: whether blocks keep the attention weights; may be changed before anybody joins.
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
        self.slots: list[Utterance | None] = []
        self._decoder = decoder
        self.keep_alignments = keep_alignments
        self._slot_counts = slot_counts
        self._smallest_text = smallest_text
        self._block: _Block | None = None
        device = decoder.engine.device
        self._stream = torch.cuda.current_stream(device) if device.type == "cuda" else None
        self._masks = _Masks(int(decoder.engine.contract.tensors["prenet_dropout"].shape[2]))
        self._started = 0  # blocks
        self._unfinished = 0

    @property
    def utterances(self) -> list[Utterance]:
        """Those that have a slot, in the order of their slots."""
        return [utterance for utterance in self.slots if utterance is not None]

    @property
    def text(self) -> int:
        """The text length that the slots have room for."""
        return 0 if self._block is None else self._block.text

    def join(self, memory: Tensor, processed_memory: Tensor, utterances: Sequence[Utterance]) -> None:
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
        self._block.fill(taken, memory, processed_memory, [utterance.symbols for utterance in utterances])

    def leave(self, utterances: Sequence[Utterance]) -> None:
        """Takes utterances out, ended or not; their slots are free from the next block on."""
        leaving = set(map(id, utterances))
        self.slots = [None if id(utterance) in leaving else utterance for utterance in self.slots]

    def start(self) -> "StartedBlock":
        """Starts the next block of steps for all who have a slot."""
        assert self._block is not None, "nobody has joined"
        assert self._unfinished < STAGING_BUFFERS - 1, "finish a block before starting another"
        block, slot = self._block, self._started % STAGING_BUFFERS
        self._masks.draw(self.slots, block.bits_arrays[slot])
        frames, alignments = block.advance(slot, self.keep_alignments)
        arrived = None
        if self._stream is not None:
            arrived = torch.cuda.Event()
            arrived.record(self._stream)
        self._started += 1
        self._unfinished += 1
        return StartedBlock(self, tuple(self.slots), frames, alignments, block.gates_host[slot], arrived)

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
            block.take_over(self._block, staying)
        self._block = block
        self.slots = [self.slots[slot] for slot in staying] + [None] * (wanted - len(staying))

    def compact(self) -> None:
        """Moves to a block without idle slots, as far as `slot_counts` allows: fewer rows, less work."""
        if self._block is not None and self.utterances:
            self._make_room(0, self.text)


@dataclass
class StartedBlock:
    """A block of steps that is under way. Its frames may be used at once by what runs on the same stream.

    Attributes:
        slots: who had which slot.
        frames: (steps, slots, n_mel_channels).
        alignments: (steps, slots, T), where they are kept.
    """

    session: DecoderSession
    slots: tuple[Utterance | None, ...]
    frames: Tensor
    alignments: Any
    gates: Tensor  # (steps, slots, 1), on the host once they have arrived
    arrived: torch.cuda.Event | None  # when they have; None on a CPU

    @property
    def steps(self) -> int:
        return self.gates.size(0)

    def finish(self) -> None:
        """Waits for the block and lets every utterance look at its gates."""
        self._wait()
        gates, steps = self.gates.squeeze(2), self.steps
        for slot, largest in enumerate(gates.amax(0).tolist()):
            utterance = self.slots[slot]
            if utterance is not None and not utterance.goes_on(steps, largest):
                utterance.look(gates[:, slot].tolist())
        self.session._finished()

    def abandon(self) -> None:
        """Waits for the block without looking at it: nobody wants it any more."""
        self._wait()
        self.session._finished()

    def _wait(self) -> None:
        if self.arrived is not None:
            self.arrived.synchronize()


class _Masks:
    """The dropout masks of the utterances in slots: drawn for many steps at a time, handed out for a block.

    They are handed out by one copy for all slots: with one for each, the thread would let go of Python's lock as often,
    and wait for other threads each time.
    """

    def __init__(self, prenet_dim: int) -> None:
        self._prenet_dim = prenet_dim
        self._owners: list[Utterance | None] = []
        self._drawn = np.empty((0, STEPS_PER_DRAW, 2, -(-prenet_dim // 8)), np.uint8)
        self._taken = np.empty(0, np.int64)  # steps of what is drawn

    def draw(self, slots: Sequence[Utterance | None], out: np.ndarray) -> None:
        """Writes every utterance's masks of the next block to `out`, uint8 [slots, steps, 2, prenet_dim / 8]."""
        if self._owners != list(slots):
            self._follow(slots)
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

    def _follow(self, slots: Sequence[Utterance | None]) -> None:
        """Takes note of who has which slot now."""
        before = {id(owner): slot for slot, owner in enumerate(self._owners) if owner is not None}
        origins = [before.get(id(utterance), -1) for utterance in slots]
        if len(slots) != len(self._owners) or any(origin not in (-1, slot) for slot, origin in enumerate(origins)):
            moved = np.array(origins) >= 0
            drawn = np.empty((len(slots), *self._drawn.shape[1:]), np.uint8)
            drawn[moved] = self._drawn[np.array(origins)[moved]]
            taken = np.zeros(len(slots), np.int64)
            taken[moved] = self._taken[np.array(origins)[moved]]
            self._drawn, self._taken = drawn, taken
        for slot, (utterance, origin) in enumerate(zip(slots, origins, strict=True)):
            if utterance is not None and origin < 0:
                first = slot * STEPS_PER_BLOCK % STEPS_PER_DRAW  # or all would have to be drawn again at the same time
                self._drawn[slot, first:] = utterance.streams.dropout(STEPS_PER_DRAW - first, self._prenet_dim)
                self._taken[slot] = first
        self._owners = list(slots)


class _Block:
    """The memory of one (slots, text length), what is bound to it, and what runs all its steps.

    Step s reads the state that step s - 1 wrote and the masks of s, and writes frame, gate and state of s. With a
    runner for every step they work in the block's memory at once; with fewer they take turns on memory of their own,
    and a step's masks, frame and gate are copied.
    """

    def __init__(self, owner: BlockDecoder, batch: int, text: int, keep_alignments: bool) -> None:
        self.batch, self.text = batch, text
        self.steps = owner.steps_at_once(batch, text) or owner.steps
        self._owner = owner
        self._keep_alignments = keep_alignments
        self._in_place = owner.runners == owner.steps
        self._allocate()
        self._bind()
        self.replay: Callable[[], None] = self.run

    def _allocate(self) -> None:
        engine, steps = self._owner.engine, self.steps
        specs = engine.contract.tensors
        pinned = engine.device.type == "cuda"
        layers, values = map(int, specs["prenet_dropout"].shape[1:])
        bits = self.batch, steps, layers, -(-values // 8)
        self.bits_host = torch.zeros(STAGING_BUFFERS, *bits, dtype=torch.uint8, pin_memory=pinned)
        self.bits_arrays = self.bits_host.numpy()
        gates = (STAGING_BUFFERS, steps, self.batch, 1)
        self.gates_host = torch.zeros(gates, dtype=specs["gate_prediction"].dtype, pin_memory=pinned)
        self.memory, self.processed_memory = self._zeros("memory"), self._zeros("processed_memory")
        self.padding = self._zeros("mask").fill_(True)  # true where padding
        self.padding[:, 0] = False  # an idle slot attends to its first symbol: no softmax over nothing
        self._positions = torch.arange(self.text, device=engine.device)

    def _bind(self) -> None:
        engine, runners = self._owner.engine, self._owner.runners
        self._mels = int(engine.contract.tensors["decoder_input"].shape[1])
        frames = self.steps * self.batch * self._mels
        # What a block gives, in one piece of memory: its frames, then its gates.
        self.results = torch.zeros(frames + self.steps * self.batch, dtype=self.gates_host.dtype, device=engine.device)
        self.frames, self.gates = self._split_results(self.results)
        self.bits = torch.zeros(self.bits_host.shape[1:], dtype=torch.uint8, device=engine.device)
        _, _, layers, whole_bytes = self.bits.shape
        unpacked = self.steps, self.batch, layers, whole_bytes, 8
        self.unpacked = torch.zeros(unpacked, dtype=self.gates_host.dtype, device=engine.device)
        values = engine.contract.tensors["prenet_dropout"].shape[2]
        self.masks = self.unpacked.flatten(3)[:, :, :, :values]  # (steps, B, 2, prenet_dim)
        self._places = 1 << torch.arange(7, -1, -1, dtype=torch.uint8, device=engine.device)  # of a byte's bits
        self._of_place = (1 / PRENET_KEEP / self._places).to(self.unpacked.dtype)
        self.alignments = self._zeros("attention_weights", self.steps)  # (steps, B, text)
        self._states = [DecoderState.zeros(engine, self.batch, self.text) for _ in range(runners)]
        gates = [self._zeros("gate_prediction") for _ in range(runners)]
        masks = [self._zeros("prenet_dropout") for _ in range(runners)]
        if self._in_place:
            gates, masks = list(self.gates), list(self.masks)
            self._states = [
                replace(state, decoder_input=self.frames[step], attention_weights=self.alignments[step])
                for step, state in enumerate(self._states)
            ]
        self._turns = list(zip(self._states, gates, masks, strict=True))
        shared = {"memory": self.memory, "processed_memory": self.processed_memory, "mask": self.padding}
        self._runs = [
            engine.bind(
                {
                    **self._states[runner - 1].as_inputs(),
                    **shared,
                    "prenet_dropout": mask,
                    **state.as_outputs(),
                    "gate_prediction": gate,
                }
            )
            for runner, (state, gate, mask) in enumerate(self._turns)
        ]

    @staticmethod
    def bytes_for(owner: BlockDecoder, batch: int, text: int, keep_alignments: bool) -> int:
        """The device memory that a block takes."""
        specs, sizes = owner.engine.contract.tensors, {"batch": batch, "text": text}

        def size(*names: str) -> int:
            return sum(int(np.prod(specs[name].resolve(sizes))) * specs[name].dtype.itemsize for name in names)

        shared = size("memory", "processed_memory", "mask")
        if owner.steps_at_once(batch, text):
            return shared + size(*DecoderState.__dataclass_fields__)
        steps = owner.steps
        bits = steps * int(np.prod(specs["prenet_dropout"].resolve(sizes))) // 8
        rows = size("decoder_input", "gate_prediction", "prenet_dropout", "attention_weights")
        turns = size(*DecoderState.__dataclass_fields__, "gate_prediction", "prenet_dropout")
        return shared + bits + steps * rows + owner.runners * turns

    def advance(self, staging: int, keep_alignments: bool) -> tuple[Tensor, Tensor | None]:
        """Enqueues all steps on the masks in `bits_arrays[staging]`; their gates come to `gates_host[staging]`.

        Returns:
            frames (steps, B, n_mel_channels) and, if asked for, alignments (steps, B, text), both to keep.
        """
        self.bits.copy_(self.bits_host[staging], non_blocking=True)
        self.replay()
        frames, gates = self._split_results(self.results.clone())  # the next block writes to the same memory
        self.gates_host[staging].copy_(gates, non_blocking=True)
        return frames, self.alignments.clone() if keep_alignments else None

    def fill(self, slots: Sequence[int], memory: Tensor, processed_memory: Tensor, symbols: Sequence[int]) -> None:
        """Sets slots to the beginning of new utterances."""
        device, text = memory.device, memory.size(1)
        ends = upload(np.array(symbols), device)
        if len(slots) == self.batch:  # the same in fewer kernels, which matters to one utterance
            for own, given in ((self.memory, memory), (self.processed_memory, processed_memory)):
                own[:, :text] = given
                own[:, text:] = 0
            torch.ge(self._positions, ends.unsqueeze(1), out=self.padding)
            torch._foreach_zero_(list(self._states[-1].as_inputs().values()))
            return
        index = upload(np.array(slots), device)
        for own, given in ((self.memory, memory), (self.processed_memory, processed_memory)):
            own.index_copy_(0, index, torch.nn.functional.pad(given, (0, 0, 0, self.text - text)))
        self.padding.index_copy_(0, index, self._positions >= ends.unsqueeze(1))
        for tensor in self._states[-1].as_inputs().values():
            tensor.index_fill_(0, index, 0)

    def take_over(self, old: "_Block", slots: Sequence[int]) -> None:
        """Takes the utterances in `slots` of another block, wherever they are, into its own first slots."""
        index = upload(np.array(slots), self.memory.device)
        pairs = [(self.memory, old.memory), (self.processed_memory, old.processed_memory)]
        ours, theirs = self._states[-1].as_inputs(), old._states[-1].as_inputs()
        pairs += [(ours[name], theirs[name]) for name in ours]
        for own, given in pairs:
            rows = given.index_select(0, index)
            if rows.shape[1:] == own.shape[1:]:
                own[: len(slots)] = rows
            else:  # more text than before: (N, T) or (N, T, .)
                own[: len(slots)] = 0
                own[: len(slots), : rows.size(1)] = rows
        self.padding[: len(slots)] = True
        self.padding[: len(slots), : old.text] = old.padding.index_select(0, index)

    def _zeros(self, name: str, *leading: int) -> Tensor:
        engine = self._owner.engine
        spec = engine.contract.tensors[name]
        shape = spec.resolve({"batch": self.batch, "text": self.text})
        return torch.zeros(*leading, *shape, dtype=spec.dtype, device=engine.device)

    def _split_results(self, results: Tensor) -> tuple[Tensor, Tensor]:
        steps, frames = self.steps, self.steps * self.batch * self._mels
        return results[:frames].view(steps, self.batch, self._mels), results[frames:].view(steps, self.batch, 1)

    def run(self) -> None:
        """Enqueues all steps of the block."""
        bits = torch.bitwise_and(self.bits.transpose(0, 1).unsqueeze(4), self._places)
        torch.mul(bits, self._of_place, out=self.unpacked)
        runners = len(self._runs)
        for step in range(self.steps):
            if self._in_place:
                self._runs[step]()
                continue
            state, gate, mask = self._turns[step % runners]
            mask.copy_(self.masks[step])
            self._runs[step % runners]()
            self.frames[step].copy_(state.decoder_input)
            self.gates[step].copy_(gate)
            if self._keep_alignments:
                self.alignments[step].copy_(state.attention_weights)


class _LongBlock(_Block):
    """A block of many steps that the engine runs at once, straight to where results are kept: nothing is copied."""

    def _bind(self) -> None:
        self._states = [DecoderState.zeros(self._owner.engine, self.batch, self.text)]
        self._tensors = {
            **self._states[0].as_inputs(),
            "memory": self.memory,
            "processed_memory": self.processed_memory,
            "mask": self.padding,
        }

    def advance(self, staging: int, keep_alignments: bool) -> tuple[Tensor, Tensor | None]:
        frames = self._empty("decoder_input")
        alignments = self._empty("attention_weights") if keep_alignments else None
        results = {"decoder_output": frames, "gate_prediction": self.gates_host[staging]}
        results["prenet_dropout"] = self.bits_host[staging, 0]
        if alignments is not None:
            results["out_attention_weights"] = alignments
        self._owner.engine.run_steps({**self._tensors, **results})  # type: ignore[attr-defined]
        return frames, alignments

    def _empty(self, name: str) -> Tensor:
        state = getattr(self._states[0], name)
        return state.new_empty(self.steps, *state.shape)
