"""The decoder loop without a host round trip per step: blocks of steps, each one CUDA graph.

The plain loop (`tacotron2.decoder_loop.decode`) asks the GPU after every frame whether to go on. Here a number of
steps is one block, captured once per (batch, text bucket) into a CUDA graph and replayed. The gates of a block travel
to the host in one asynchronous copy, and the host reads them while the GPU is busy with the next block, so the GPU
never waits for the host. What is decoded beyond the last utterance's end, two blocks at most, is thrown away.

Nothing here knows which engine it captures: it binds it, and what it bound it runs. On the CPU the same blocks run
directly, one after another.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from common.engine import Engine
from common.errors import UserError
from common.random_streams import PRENET_KEEP, RandomStreams
from tacotron2.decoder_loop import DROPOUT_BLOCK, DecodedBatch, DecoderState, StopReason, StopRule, decode, logit

BUCKETS = (32, 64, 96, 128, 192, 256)  # text lengths that graphs are made for, then multiples of LONG_BUCKET
LONG_BUCKET = 64
STEPS = 16  # of a block
STAGES = 3  # host buffers for masks: one being written, one for each block that may not have been copied yet


class DecodeFunction(Protocol):
    """`tacotron2.decoder_loop.decode` with its engine given: see there for arguments and errors."""

    def __call__(
        self,
        memory: Tensor,
        processed_memory: Tensor,
        lengths: Sequence[int],
        streams: Sequence[RandomStreams],
        rule: StopRule,
        keep_alignments: bool = False,
        on_step: Callable[[int], None] | None = None,
    ) -> DecodedBatch: ...


class PlainDecoder:
    """The plain loop as a `DecodeFunction`."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def __call__(
        self,
        memory: Tensor,
        processed_memory: Tensor,
        lengths: Sequence[int],
        streams: Sequence[RandomStreams],
        rule: StopRule,
        keep_alignments: bool = False,
        on_step: Callable[[int], None] | None = None,
    ) -> DecodedBatch:
        return decode(self.engine, memory, processed_memory, lengths, streams, rule, keep_alignments, on_step)


def make_decoder(engine: Engine, cuda_graph: bool = True) -> DecodeFunction:
    """The decoder loop for a `decoder_iter` engine: captured on a GPU, unless `cuda_graph` is false, else plain.

    An engine whose bound runs cost nothing but their tensors says so by an attribute `free_bindings` that is true:
    each step of a block then works in its own memory and nothing is copied between steps.
    """
    if engine.device.type != "cuda" or not cuda_graph:
        return PlainDecoder(engine)
    return CapturedDecoder(engine, runners=STEPS if getattr(engine, "free_bindings", False) else 2)


class CapturedDecoder:
    """Decodes with captured blocks of steps. One request at a time, on PyTorch's current stream.

    The engine has to allow that its bound runs are captured once they have run outside of a capture, that they are
    replayed on another stream, and that several of them exist at a time.

    Args:
        engine: a `decoder_iter` engine.
        steps: frames of a block: even, and a divisor of 128.
        runners: bound runs that take turns: 2 (one per direction), or any divisor of `steps`.
        max_bytes: bound on the memory of cached blocks, scratch memory of the engine excluded; the one that was used
            longest ago goes first. The block in use may exceed it alone.

    Raises:
        ValueError: a number above is not what it has to be.
    """

    def __init__(self, engine: Engine, steps: int = STEPS, runners: int = 2, max_bytes: int = 512 << 20) -> None:
        if steps < 2 or DROPOUT_BLOCK % steps:
            raise ValueError(f"steps is {steps}: it must be even and divide {DROPOUT_BLOCK}")
        if runners < 2 or steps % runners:
            raise ValueError(f"runners is {runners}: it must be at least 2 and divide the {steps} steps of a block")
        self.engine = engine
        self.steps = steps
        self.runners = runners
        self.max_bytes = max_bytes
        self._blocks: OrderedDict[tuple[int, int, bool], _Block] = OrderedDict()
        # All graphs share one pool: they are replayed one after another, and nothing in it outlives a replay.
        self._pool = torch.cuda.graph_pool_handle() if engine.device.type == "cuda" else None

    def __call__(
        self,
        memory: Tensor,
        processed_memory: Tensor,
        lengths: Sequence[int],
        streams: Sequence[RandomStreams],
        rule: StopRule,
        keep_alignments: bool = False,
        on_step: Callable[[int], None] | None = None,
    ) -> DecodedBatch:
        """See `tacotron2.decoder_loop.decode`: same arguments, same result, same errors.

        `on_step` is called once a block. Where T is not a bucket's length, an engine may round differently than in the
        plain loop, because it works on the padded text.
        """
        engine, size = self.engine, self.steps
        batch, text = memory.shape[:2]
        caps = [rule.cap(length) for length in lengths]
        steps = max(caps)
        copied_alignments = keep_alignments and self.runners != size
        block = self._block(batch, bucket_of(text, engine), copied_alignments)
        block.begin(memory, processed_memory, lengths)
        masks = _MaskFeed(streams, steps, block)
        tracker = _StopTracker(engine.name, caps, rule)
        whole = -(-steps // size) * size
        frames = torch.empty(whole, *block.frames.shape[1:], dtype=memory.dtype, device=engine.device)
        alignments = None
        if keep_alignments:
            alignments = torch.empty(whole, batch, text, dtype=memory.dtype, device=engine.device)

        blocks = whole // size
        arrivals: list[Callable[[], None]] = []
        masks.draw(0)
        for index in range(blocks + 1):  # the block `index` is started, then the one before it is looked at
            if index < blocks:
                masks.send(index)
                block.replay()
                part = slice(index * size, (index + 1) * size)
                frames[part] = block.frames
                if alignments is not None:
                    alignments[part] = block.alignments[:, :, :text]
                block.gates_host[index % 2].copy_(block.gates, non_blocking=True)
                arrivals.append(_arrival(engine.device))
            if index + 1 < blocks:
                masks.draw(index + 1)
            if index > 0:
                arrivals[index - 1]()
                tracker.look(block.gates_host[(index - 1) % 2], (index - 1) * size)
                if tracker.all_done:
                    break
                if on_step is not None:
                    on_step(index * size)
        longest = max(tracker.frames)
        return DecodedBatch(
            mels=frames[:longest].permute(1, 2, 0).contiguous(),
            frames=tracker.frames,
            stop_reasons=tracker.reasons,
            alignments=None if alignments is None else alignments[:longest].transpose(0, 1).contiguous(),
        )

    @property
    def cached(self) -> list[tuple[int, int, bool]]:
        """What blocks exist for: (batch, text bucket, alignments copied), the one used longest ago first."""
        return list(self._blocks)

    def close(self) -> None:
        """Gives back all blocks and their graphs; the engine stays open."""
        self._blocks.clear()

    def _block(self, batch: int, bucket: int, keep_alignments: bool) -> "_Block":
        key = (batch, bucket, keep_alignments)
        block = self._blocks.pop(key, None)
        if block is None:
            needed = _Block.bytes_for(self, *key)
            while self._blocks and needed + sum(block.bytes for block in self._blocks.values()) > self.max_bytes:
                self._blocks.popitem(last=False)
            block = _Block(self, *key)
        self._blocks[key] = block
        return block


def bucket_of(text: int, engine: Engine) -> int:
    """The text length that `text` symbols are padded to, within the engine's limits."""
    bucket = next((size for size in BUCKETS if size >= text), -(-text // LONG_BUCKET) * LONG_BUCKET)
    low, high = engine.limits.get("text", (0, bucket))
    return max(text, low, min(bucket, high))


class _Block:
    """The memory of one (batch, text bucket), what is bound to it, and the graph that runs all its steps.

    Step s reads the state that step s - 1 wrote and the masks of s, and writes frame, gate and state of s. With a
    runner for every step they work in the block's memory at once; with fewer they take turns on memory of their own,
    and a step's masks, frame and gate are copied.
    """

    def __init__(self, owner: CapturedDecoder, batch: int, bucket: int, keep_alignments: bool) -> None:
        engine, steps, runners = owner.engine, owner.steps, owner.runners
        specs, sizes = engine.contract.tensors, {"batch": batch, "text": bucket}

        def zeros(name: str, *leading: int) -> Tensor:
            spec = specs[name]
            return torch.zeros(*leading, *spec.resolve(sizes), dtype=spec.dtype, device=engine.device)

        pinned = engine.device.type == "cuda"
        self.bytes = self.bytes_for(owner, batch, bucket, keep_alignments)
        self.frames = zeros("decoder_input", steps)  # (steps, B, n_mel_channels)
        self.gates = zeros("gate_prediction", steps)  # (steps, B, 1)
        self.masks = zeros("prenet_dropout", steps)  # (steps, B, 2, prenet_dim)
        self.alignments = zeros("attention_weights", steps)  # (steps, B, bucket)
        self.bits = torch.zeros_like(self.masks, dtype=torch.uint8)
        # The host reads one copy of the gates while the next is on its way.
        self.gates_host = torch.zeros(2, *self.gates.shape, dtype=self.gates.dtype, pin_memory=pinned)
        self.bits_host = torch.zeros(STAGES, *self.bits.shape, dtype=torch.uint8, pin_memory=pinned)
        self.memory, self.processed_memory = zeros("memory"), zeros("processed_memory")
        self.padding = zeros("mask")  # true where padding
        self._positions = torch.arange(bucket, device=engine.device)

        self._states = [DecoderState.zeros(engine, batch, bucket) for _ in range(runners)]
        gates = [zeros("gate_prediction") for _ in range(runners)]
        masks = [zeros("prenet_dropout") for _ in range(runners)]
        self._in_place = runners == steps
        if self._in_place:
            gates, masks = list(self.gates), list(self.masks)
            self._states = [
                replace(state, decoder_input=self.frames[step], attention_weights=self.alignments[step])
                for step, state in enumerate(self._states)
            ]
        self._keep_alignments = keep_alignments
        self._copied = list(zip(self._states, gates, masks, strict=True))
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
            for runner, (state, gate, mask) in enumerate(self._copied)
        ]
        self.replay = _capture(engine.device, self._run, owner._pool)

    @staticmethod
    def bytes_for(owner: CapturedDecoder, batch: int, bucket: int, keep_alignments: bool) -> int:
        """The device memory that a block takes."""
        specs, sizes = owner.engine.contract.tensors, {"batch": batch, "text": bucket}

        def size(*names: str) -> int:
            return sum(int(np.prod(specs[name].resolve(sizes))) * specs[name].dtype.itemsize for name in names)

        masks = int(np.prod(specs["prenet_dropout"].resolve(sizes)))
        rows = size("decoder_input", "gate_prediction", "prenet_dropout", "attention_weights") + masks
        turns = size(*DecoderState.__dataclass_fields__, "gate_prediction", "prenet_dropout")
        return owner.steps * rows + owner.runners * turns + size("memory", "processed_memory", "mask")

    def begin(self, memory: Tensor, processed_memory: Tensor, lengths: Sequence[int]) -> None:
        """Sets the block to the beginning of a batch of utterances."""
        text = memory.size(1)
        for own, given in ((self.memory, memory), (self.processed_memory, processed_memory)):
            own[:, :text] = given
            own[:, text:] = 0
        torch.ge(self._positions, torch.tensor(lengths, device=memory.device).unsqueeze(1), out=self.padding)
        for tensor in self._states[-1].as_inputs().values():
            tensor.zero_()

    def _run(self) -> None:
        runners = len(self._runs)
        for step in range(len(self.gates)):
            state, gate, mask = self._copied[step % runners]
            if self._in_place:
                self._runs[step]()
                continue
            mask.copy_(self.masks[step])
            self._runs[step % runners]()
            self.frames[step].copy_(state.decoder_input)
            self.gates[step].copy_(gate)
            if self._keep_alignments:
                self.alignments[step].copy_(state.attention_weights)


class _MaskFeed:
    """Draws the dropout masks of a block ahead of its time, the very bits of the plain loop, and uploads them."""

    def __init__(self, streams: Sequence[RandomStreams], steps: int, block: _Block) -> None:
        self._streams = streams
        self._steps = steps
        self._block = block
        self._size, _, _, self._prenet_dim = block.bits.shape
        # A stream gives whole 32-bit words: where a step's masks are a number of them, draws may be of any length.
        self._drawn_at_once = self._size if self._prenet_dim % 16 == 0 else DROPOUT_BLOCK
        self._drawn: list[np.ndarray] = []

    def draw(self, index: int) -> None:
        """Draws the masks of block `index` on the host; after `send(index - 1)`."""
        first = index * self._size
        offset = first % self._drawn_at_once
        if offset == 0:
            steps = min(self._drawn_at_once, self._steps - first)
            self._drawn = [stream.dropout(steps, self._prenet_dim) for stream in self._streams]
        stage = self._block.bits_host[index % STAGES].numpy()
        for item, drawn in enumerate(self._drawn):
            part = drawn[offset : offset + self._size]
            stage[: len(part), item] = part

    def send(self, index: int) -> None:
        """Enqueues what brings the masks of block `index` to where its steps read them."""
        self._block.bits.copy_(self._block.bits_host[index % STAGES], non_blocking=True)
        torch.mul(self._block.bits, 1 / PRENET_KEEP, out=self._block.masks)


class _StopTracker:
    """Each utterance's end, found from the gates in the order of the steps."""

    def __init__(self, engine_name: str, caps: Sequence[int], rule: StopRule) -> None:
        self.frames = [0] * len(caps)  # once known
        self.reasons: list[StopReason] = ["cap"] * len(caps)
        self._engine_name = engine_name
        self._caps = caps
        self._logit = logit(rule.gate_threshold)

    @property
    def all_done(self) -> bool:
        return all(self.frames)

    def look(self, gates: Tensor, first_step: int) -> None:
        """Takes the gates (steps, B, 1) of the steps from `first_step` on. Raises UserError for NaN."""
        for step, values in enumerate(gates.squeeze(2).tolist(), first_step):
            for item, value in enumerate(values):
                if self.frames[item]:
                    continue
                if value != value:
                    raise UserError(
                        f"{self._engine_name}: the stop gate is NaN at step {step + 1}; try FP32 or export again"
                    )
                if value > self._logit:
                    self.frames[item], self.reasons[item] = step + 1, "gate"
                elif step + 1 == self._caps[item]:
                    self.frames[item] = step + 1
            if self.all_done:
                return


def _arrival(device: torch.device) -> Callable[[], None]:
    # What waits until everything enqueued so far is done.
    if device.type != "cuda":
        return lambda: None
    event = torch.cuda.Event()
    event.record()
    return event.synchronize


def _capture(device: torch.device, run: Callable[[], None], pool: Any) -> Callable[[], None]:
    # `run` as a CUDA graph; on the CPU, `run` itself.
    if device.type != "cuda":
        return run
    with torch.cuda.device(device):
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            run()  # engines compile and allocate in their first run, which no capture allows
        stream.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=pool, stream=stream, capture_error_mode="thread_local"):
            run()
        torch.cuda.current_stream().wait_stream(stream)
    return graph.replay
