"""The tensors of a batch of utterances in the decoder, and the code that runs a block of steps on them."""

import math
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from common.contract import DECODER_STATE
from common.cuda import capture, upload
from common.engine import Engine, MultiStep
from common.random_streams import PRENET_KEEP
from tacotron2.decoder import DecoderState, as_outputs, zero_state, zeros

SHARED_INPUTS = ("memory", "processed_memory", "mask")  # the same for all steps of a block
STAGING_BUFFERS = 3  # to and from the host: one being filled, one in use, one possibly still in flight


class SlotMemory:
    """What slots hold from one block to the next: the encoder's outputs and the decoder's state; and, for each of
    STAGING_BUFFERS, a block's dropout masks and gates on the host.

    Args:
        state: where a block finds the state, and leaves its last step's.
    """

    def __init__(self, engine: Engine, batch: int, text: int, steps: int, state: DecoderState) -> None:
        specs = engine.contract.tensors
        pinned = engine.device.type == "cuda"
        self.batch, self.text, self.steps, self.state = batch, text, steps, state
        bits = (STAGING_BUFFERS, batch, steps, *_packed_mask(engine))
        self.bits_host = torch.zeros(bits, dtype=torch.uint8, pin_memory=pinned)
        self.bits_arrays = self.bits_host.numpy()
        gates = (STAGING_BUFFERS, steps, batch, 1)
        self.gates_host = torch.zeros(gates, dtype=specs["gate_prediction"].dtype, pin_memory=pinned)
        self.shared_inputs = {name: zeros(engine, name, batch, text) for name in SHARED_INPUTS}
        self.memory, self.processed_memory, self.padding = self.shared_inputs.values()
        self.padding.fill_(True)  # true where padding
        self.padding[:, 0] = False  # an idle slot attends to its first symbol: no softmax over nothing
        self._positions = torch.arange(text, device=engine.device)

    def fill(self, slots: Sequence[int], memory: Tensor, processed_memory: Tensor, symbols: Sequence[int]) -> None:
        """Sets slots to the beginning of new utterances."""
        text = memory.size(1)
        ends, index = upload(np.array([symbols, slots]), memory.device)
        if len(slots) == self.batch:  # the same in fewer kernels, which matters to one utterance
            for own, given in ((self.memory, memory), (self.processed_memory, processed_memory)):
                own[:, :text] = given
                own[:, text:] = 0
            torch.ge(self._positions, ends.unsqueeze(1), out=self.padding)
            torch._foreach_zero_(list(self.state.values()))
            return
        for own, given in ((self.memory, memory), (self.processed_memory, processed_memory)):
            own.index_copy_(0, index, torch.nn.functional.pad(given, (0, 0, 0, self.text - text)))
        self.padding.index_copy_(0, index, self._positions >= ends.unsqueeze(1))
        for tensor in self.state.values():
            tensor.index_fill_(0, index, 0)

    def copy_from(self, old: "SlotMemory", slots: Sequence[int]) -> None:
        """Copies the utterances in `slots` of another memory to the first slots of this one."""
        index = upload(np.array(slots), self.memory.device)
        pairs = [(self.memory, old.memory), (self.processed_memory, old.processed_memory)]
        pairs += [(self.state[name], old.state[name]) for name in self.state]
        for own, given in pairs:
            rows = given.index_select(0, index)
            if rows.shape[1:] == own.shape[1:]:
                own[: len(slots)] = rows
            else:  # more text than before: (N, T) or (N, T, .)
                own[: len(slots)] = 0
                own[: len(slots), : rows.size(1)] = rows
        self.padding[: len(slots)] = True
        self.padding[: len(slots), : old.text] = old.padding.index_select(0, index)


class Block(Protocol):
    """Runs a number of steps for all slots."""

    slots: SlotMemory

    def advance(self, staging: int, keep_alignments: bool) -> tuple[Tensor, Tensor | None]:
        """Enqueues the steps on the masks in `slots.bits_arrays[staging]`; gates come to `slots.gates_host[staging]`.

        Returns:
            frames (steps, B, n_mel_channels) and, if asked for, alignments (steps, B, text), both to keep.
        """
        ...


class SteppedBlock:
    """A block of single steps, captured as one CUDA graph.

    Step s reads the state that step s - 1 wrote and the masks of s, and writes frame, gate and state of s. With a
    runner for every step they work in the block's memory at once; with fewer they take turns on memory of their own,
    and a step's masks, frame and gate are copied.

    Args:
        runners: bound runs that take turns, a divisor of `steps`.
        keep_alignments: whether runners that take turns copy their attention weights.
        cuda_graph: whether the block is captured.
    """

    def __init__(
        self, engine: Engine, batch: int, text: int, steps: int, runners: int, keep_alignments: bool, cuda_graph: bool
    ) -> None:
        self._keep_alignments = keep_alignments
        self._in_place = runners == steps
        self._states = [zero_state(engine, batch, text) for _ in range(runners)]
        self._allocate_steps(engine, batch, text, steps)
        if self._in_place:
            self._states = [
                {**state, "decoder_input": self._frames[step], "attention_weights": self._alignments[step]}
                for step, state in enumerate(self._states)
            ]
        self.slots = SlotMemory(engine, batch, text, steps, self._states[-1])
        self._bind(engine)
        self._replay: Callable[[], None] = capture(self._run, engine.device) if cuda_graph else self._run

    def _allocate_steps(self, engine: Engine, batch: int, text: int, steps: int) -> None:
        """The memory of all steps: frames and gates in one piece, which is copied at once; masks; alignments."""
        specs, device = engine.contract.tensors, engine.device
        self._split = steps, batch, int(specs["decoder_input"].shape[1])
        dtype = specs["gate_prediction"].dtype
        self._results = torch.zeros(math.prod(self._split) + steps * batch, dtype=dtype, device=device)
        self._frames, self._gates = self._split_results(self._results)
        layers, whole_bytes = _packed_mask(engine)
        self._bits = torch.zeros(batch, steps, layers, whole_bytes, dtype=torch.uint8, device=device)
        self._unpacked = torch.zeros(steps, batch, layers, whole_bytes, 8, dtype=dtype, device=device)
        values = int(specs["prenet_dropout"].shape[2])
        self._masks = self._unpacked.flatten(3)[:, :, :, :values]  # (steps, B, 2, prenet_dim)
        self._bit_values = 1 << torch.arange(7, -1, -1, dtype=torch.uint8, device=device)
        self._scales = (1 / PRENET_KEEP / self._bit_values).to(dtype)
        self._alignments = zeros(engine, "attention_weights", batch, text, steps)  # (steps, B, text)

    def _bind(self, engine: Engine) -> None:
        runners, (batch, text) = len(self._states), (self.slots.batch, self.slots.text)
        gates = [zeros(engine, "gate_prediction", batch, text) for _ in range(runners)]
        masks = [zeros(engine, "prenet_dropout", batch, text) for _ in range(runners)]
        if self._in_place:
            gates, masks = list(self._gates), list(self._masks)
        self._turns = list(zip(self._states, gates, masks, strict=True))
        self._runs = [
            engine.bind(
                {
                    **self._states[runner - 1],
                    **self.slots.shared_inputs,
                    "prenet_dropout": mask,
                    **as_outputs(state),
                    "gate_prediction": gate,
                }
            )
            for runner, (state, gate, mask) in enumerate(self._turns)
        ]

    @staticmethod
    def bytes_for(engine: Engine, batch: int, text: int, steps: int, runners: int) -> int:
        """The device memory that a block takes."""
        bits = steps * batch * math.prod(_packed_mask(engine))
        rows = _bytes(engine, batch, text, "decoder_input", "gate_prediction", "prenet_dropout", "attention_weights")
        turns = _bytes(engine, batch, text, *DECODER_STATE, "gate_prediction", "prenet_dropout")
        return _bytes(engine, batch, text, *SHARED_INPUTS) + bits + steps * rows + runners * turns

    def advance(self, staging: int, keep_alignments: bool) -> tuple[Tensor, Tensor | None]:
        self._bits.copy_(self.slots.bits_host[staging], non_blocking=True)
        self._replay()
        frames, gates = self._split_results(self._results.clone())  # the next block writes to the same memory
        self.slots.gates_host[staging].copy_(gates, non_blocking=True)
        return frames, self._alignments.clone() if keep_alignments else None

    def _split_results(self, results: Tensor) -> tuple[Tensor, Tensor]:
        steps, batch, mels = self._split
        frames = steps * batch * mels
        return results[:frames].view(steps, batch, mels), results[frames:].view(steps, batch, 1)

    def _run(self) -> None:
        """Enqueues all steps."""
        bits = torch.bitwise_and(self._bits.transpose(0, 1).unsqueeze(4), self._bit_values)
        torch.mul(bits, self._scales, out=self._unpacked)
        runners = len(self._runs)
        for step in range(self.slots.steps):
            if self._in_place:
                self._runs[step]()
                continue
            state, gate, mask = self._turns[step % runners]
            mask.copy_(self._masks[step])
            self._runs[step % runners]()
            self._frames[step].copy_(state["decoder_input"])
            self._gates[step].copy_(gate)
            if self._keep_alignments:
                self._alignments[step].copy_(state["attention_weights"])


class LongBlock:
    """A block of many steps that the engine runs at once, straight to where results are kept: nothing is copied."""

    def __init__(self, engine: Engine, many: MultiStep, batch: int, text: int, steps: int) -> None:
        self._engine = many
        self.slots = SlotMemory(engine, batch, text, steps, zero_state(engine, batch, text))
        self._tensors = {**self.slots.state, **self.slots.shared_inputs}

    @staticmethod
    def bytes_for(engine: Engine, batch: int, text: int) -> int:
        """The device memory that a block takes."""
        return _bytes(engine, batch, text, *SHARED_INPUTS, *DECODER_STATE)

    def advance(self, staging: int, keep_alignments: bool) -> tuple[Tensor, Tensor | None]:
        slots = self.slots
        last_frame, last_weights = slots.state["decoder_input"], slots.state["attention_weights"]
        frames = last_frame.new_empty(slots.steps, *last_frame.shape)
        tensors = {
            **self._tensors,
            "prenet_dropout": slots.bits_host[staging, 0],
            "decoder_output": frames,
            "gate_prediction": slots.gates_host[staging],
        }
        if not keep_alignments:
            self._engine.run_steps(tensors)
            return frames, None
        alignments = last_weights.new_empty(slots.steps, *last_weights.shape)
        self._engine.run_steps({**tensors, "out_attention_weights": alignments})
        return frames, alignments


def _packed_mask(engine: Engine) -> tuple[int, int]:
    """The size of a step's dropout masks as bits: layers, and the bytes of each."""
    layers, values = map(int, engine.contract.tensors["prenet_dropout"].shape[1:])
    return layers, -(-values // 8)


def _bytes(engine: Engine, batch: int, text: int, *names: str) -> int:
    specs, sizes = engine.contract.tensors, {"batch": batch, "text": text}
    return sum(math.prod(specs[name].resolve(sizes)) * specs[name].dtype.itemsize for name in names)
