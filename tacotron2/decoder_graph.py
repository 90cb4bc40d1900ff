"""The decoder loop without a host round trip per step: blocks of steps, each one CUDA graph.

The plain loop (`tacotron2.decoder.decode`) asks the GPU after every frame whether to go on. Here a number of
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
from tacotron2.decoder import DROPOUT_BLOCK, DecodedBatch, DecoderState, StopReason, StopRule, decode, logit

BUCKETS = (32, 64, 96, 128, 192, 256)  # text lengths that graphs are made for, then multiples of LONG_BUCKET
LONG_BUCKET = 64
STEPS = 16  # of a block
STAGES = 3  # of what goes to and from the host: one being prepared, one in use, one not yet known to be done with


class DecodeFunction(Protocol):
    """`tacotron2.decoder.decode` with its engine given: see there for arguments and errors."""

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
        self._copies = _Copies(engine.device)
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
        """See `tacotron2.decoder.decode`: same arguments, same result, same errors.

        `on_step` is called once a block. Where T is not a bucket's length, an engine may round differently than in the
        plain loop, because it works on the padded text.
        """
        engine, size = self.engine, self.steps
        batch, text = memory.shape[:2]
        caps = [rule.cap(length) for length in lengths]
        steps = max(caps)
        copied_alignments = keep_alignments and self.runners != size
        block = self._block(batch, bucket_of(text, engine), copied_alignments)
        blocks = -(-steps // size)
        results = block.new_results(blocks)
        alignments = None
        if keep_alignments:
            alignments = torch.empty(blocks * size, batch, text, dtype=memory.dtype, device=engine.device)
        block.begin(memory, processed_memory, lengths)
        masks = _MaskFeed(streams, steps, block, self._copies)
        tracker = _StopTracker(engine.name, caps, rule)
        arrivals: list[Callable[[], None]] = []
        for index in range(blocks + 1):  # the block `index` is started, then the one before it is looked at
            if index < blocks:
                masks.expand(index)
                block.replay()
                results[index] = block.results
                if alignments is not None:
                    alignments[index * size : (index + 1) * size] = block.alignments[:, :, :text]
                gates = block.gates_host[index % STAGES]
                arrivals.append(self._copies.fetch(gates, block.gates_in(results[index])))
                masks.prepare(index)
            if index > 0:
                arrivals[index - 1]()
                tracker.look(block.gates_host[(index - 1) % STAGES], (index - 1) * size)
                if tracker.all_done:
                    break
                if on_step is not None:
                    on_step(index * size)
        longest = max(tracker.frames)
        return DecodedBatch(
            mels=block.frames_in(results[: -(-longest // size)])[:, :, :longest],
            frames=tracker.frames,
            stop_reasons=tracker.reasons,
            alignments=None if alignments is None else alignments[:longest].transpose(0, 1),
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
        frames = steps * batch * specs["decoder_input"].resolve(sizes)[1]
        # What a block gives, in one piece of memory: its frames, then its gates.
        self.results = torch.zeros(frames + steps * batch, dtype=specs["decoder_input"].dtype, device=engine.device)
        self._results_split = frames
        self._steps, self._batch = steps, batch
        self.frames = self.results[:frames].view(steps, batch, -1)
        self.gates = self.gates_in(self.results)  # (steps, B, 1)
        self.masks = zeros("prenet_dropout", steps)  # (steps, B, 2, prenet_dim)
        self.alignments = zeros("attention_weights", steps)  # (steps, B, bucket)
        chunk = (batch, DROPOUT_BLOCK, *self.masks.shape[2:])
        self.bits = torch.zeros(STAGES, *chunk, dtype=torch.uint8, device=engine.device)
        self.bits_host = torch.zeros(self.bits.shape, dtype=torch.uint8, pin_memory=pinned)
        self.gates_host = torch.zeros(STAGES, *self.gates.shape, dtype=self.gates.dtype, pin_memory=pinned)
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

        bits = STAGES * DROPOUT_BLOCK * int(np.prod(specs["prenet_dropout"].resolve(sizes)))
        rows = size("decoder_input", "gate_prediction", "prenet_dropout", "attention_weights")
        turns = size(*DecoderState.__dataclass_fields__, "gate_prediction", "prenet_dropout")
        return owner.steps * rows + owner.runners * turns + bits + size("memory", "processed_memory", "mask")

    def new_results(self, blocks: int) -> Tensor:
        """Memory for the results of so many blocks."""
        return self.results.new_empty(blocks, len(self.results))

    def frames_in(self, results: Tensor) -> Tensor:
        """The frames (B, n_mel_channels, blocks * steps) of several blocks' results."""
        frames = results[:, : self._results_split].view(len(results), self._steps, self._batch, -1)
        return frames.permute(2, 3, 0, 1).flatten(2)

    def gates_in(self, results: Tensor) -> Tensor:
        """The gates (steps, B, 1) of one block's results."""
        return results[self._results_split :].view(self._steps, self._batch, 1)

    def begin(self, memory: Tensor, processed_memory: Tensor, lengths: Sequence[int]) -> None:
        """Sets the block to the beginning of a batch of utterances."""
        text = memory.size(1)
        for own, given in ((self.memory, memory), (self.processed_memory, processed_memory)):
            own[:, :text] = given
            if text < own.size(1):
                own[:, text:] = 0
        ends = torch.tensor(lengths, pin_memory=memory.device.type == "cuda").to(memory.device, non_blocking=True)
        torch.ge(self._positions, ends.unsqueeze(1), out=self.padding)
        torch._foreach_zero_(list(self._states[-1].as_inputs().values()))

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
    """Draws dropout masks ahead of their time, the very bits of the plain loop, and uploads them.

    They are drawn in chunks of DROPOUT_BLOCK steps, because each draw costs more than its bits. A chunk's items are
    spread over the blocks of the chunk before, so that the host is never late with the next block.
    """

    def __init__(self, streams: Sequence[RandomStreams], steps: int, block: _Block, copies: "_Copies") -> None:
        self._streams = streams
        self._steps = steps
        self._block = block
        self._copies = copies
        self._size = len(block.gates)
        self._blocks = DROPOUT_BLOCK // self._size  # of a chunk
        self._uploaded: Callable[[], None] = lambda: None
        self._draw(0, range(len(streams)))

    def expand(self, index: int) -> None:
        """Enqueues what turns the bits of block `index` into the masks that its steps read."""
        chunk, place = divmod(index, self._blocks)
        if place == 0:
            self._uploaded()
        bits = self._block.bits[chunk % STAGES, :, place * self._size : (place + 1) * self._size]
        torch.mul(bits.transpose(0, 1), 1 / PRENET_KEEP, out=self._block.masks)

    def prepare(self, index: int) -> None:
        """Does the share of the next chunk that falls to block `index`, which has been started."""
        chunk, place = divmod(index, self._blocks)
        items = len(self._streams)
        self._draw(chunk + 1, range(items * place // self._blocks, items * (place + 1) // self._blocks))

    def _draw(self, chunk: int, items: range) -> None:
        # The memory's last chunk but two is done with: a block later than its last has been looked at.
        steps = min(DROPOUT_BLOCK, self._steps - chunk * DROPOUT_BLOCK)
        if steps <= 0:
            return
        slot = chunk % STAGES
        host, device = self._block.bits_host[slot], self._block.bits[slot]
        for item in items:
            host[item].numpy()[:steps] = self._streams[item].dropout(steps, device.size(-1))
        if items:
            here = slice(items.start, items.stop)
            self._uploaded = self._copies.upload(device[here], host[here])


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


class _Copies:
    """Copies to and from the host beside the steps; on the CPU, plain copies.

    Each direction has a CUDA stream of its own: what is fetched comes when a block is finished, what is uploaded must
    not wait for that.
    """

    def __init__(self, device: torch.device) -> None:
        self._up, self._down = (torch.cuda.Stream(device) if device.type == "cuda" else None for _ in range(2))

    def upload(self, target: Tensor, source: Tensor) -> Callable[[], None]:
        """Starts a copy at once; returns what makes the current stream wait for it."""
        if self._up is None:
            target.copy_(source)
            return lambda: None
        with torch.cuda.stream(self._up):
            target.copy_(source, non_blocking=True)
            target.record_stream(self._up)
            done = self._up.record_event()
        return lambda: torch.cuda.current_stream().wait_event(done)

    def fetch(self, target: Tensor, source: Tensor) -> Callable[[], None]:
        """Starts a copy behind what the current stream does by now; returns what makes the host wait for it."""
        if self._down is None:
            target.copy_(source)
            return lambda: None
        self._down.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._down):
            target.copy_(source, non_blocking=True)
            source.record_stream(self._down)
            return self._down.record_event().synchronize


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
