"""An utterance in the decoder: its state between steps, its stop rule, and the frames that were decoded."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from common.contract import DECODER_STATE
from common.engine import Engine
from common.errors import EngineFailure
from common.random_streams import RandomStreams

StopReason = Literal["gate", "cap"]

FRAMES_PER_SYMBOL, EXTRA_FRAMES = 10, 100  # no speech is slower: a decoder that goes on beyond this is lost
LONGEST_DECODING = 1664  # frames: the largest mel of the classic's profile


# What one step hands to the next, by the names of the inputs: frame, LSTM states and context (B, .), weights (B, T).
DecoderState = dict[str, Tensor]


def zero_state(engine: Engine, batch: int, text: int) -> DecoderState:
    """The state before the first step."""
    return {name: zeros(engine, name, batch, text) for name in DECODER_STATE}


def as_outputs(state: DecoderState) -> dict[str, Tensor]:
    """The same tensors by the names of the outputs."""
    return {DECODER_STATE[name]: tensor for name, tensor in state.items()}


def zeros(engine: Engine, name: str, batch: int, text: int, *leading: int) -> Tensor:
    """Memory for one of a `decoder_iter` engine's tensors, with more dimensions before its own if wanted."""
    spec = engine.contract.tensors[name]
    return torch.zeros(*leading, *spec.resolve({"batch": batch, "text": text}), dtype=spec.dtype, device=engine.device)


@dataclass(frozen=True)
class StopRule:
    """When an utterance ends: its gate's probability passes the threshold, or its frames reach a cap."""

    gate_threshold: float = 0.5
    max_decoder_steps: int = LONGEST_DECODING

    def cap(self, symbols: int) -> int:
        return min(self.max_decoder_steps, FRAMES_PER_SYMBOL * symbols + EXTRA_FRAMES)


class Utterance:
    """One utterance in the decoder: its random numbers, how far it is, and its end once that is known.

    Args:
        symbols: of its text.
        streams: its random numbers; the dropout stream is used up.
        rule: when it ends.
    """

    def __init__(self, symbols: int, streams: RandomStreams, rule: StopRule) -> None:
        self.symbols = symbols
        self.streams = streams
        self.cap = rule.cap(symbols)
        self.frames: int | None = None  # the number of mel frames, once known
        self.stop_reason: StopReason | None = None
        self.error: str | None = None  # why it can't be decoded
        self._known = 0  # steps with known gates
        self._gate_logit = logit(rule.gate_threshold)

    @property
    def ended(self) -> bool:
        return self.frames is not None or self.error is not None

    def goes_on(self, steps: int, largest_gate: float) -> bool:
        """Takes the gates of so many steps at once, if nothing ends among them; else they are left to `look`.

        Args:
            largest_gate: of them; NaN if one is.
        """
        if self.ended or self._known + steps >= self.cap or not largest_gate <= self._gate_logit:
            return False
        self._known += steps
        return True

    def look(self, gates: Sequence[float]) -> None:
        """Takes the gates of the next steps, in order: the one stop rule of the project.

        A gate that is not a number (NaN), which would never end the utterance, is its `error`. What follows the end is
        ignored.
        """
        for gate in gates:
            if self.ended:
                return
            self._known += 1
            if gate != gate:
                self.error = f"the stop gate is NaN at step {self._known}; try FP32 or export again"
            elif gate > self._gate_logit:
                self.frames, self.stop_reason = self._known, "gate"
            elif self._known == self.cap:
                self.frames, self.stop_reason = self._known, "cap"


@dataclass(frozen=True)
class DecodedBatch:
    """Frames of a batch; beyond an item's own `frames` the tensors hold nothing of meaning."""

    mels: Tensor  # (B, n_mel_channels, max frames), in the model's dtype
    frames: list[int]
    stop_reasons: list[StopReason]
    alignments: Tensor | None  # (B, max frames, T) on the host, where asked for

    @classmethod
    def of(cls, mels: Tensor, alignments: Tensor | None, utterances: Sequence[Utterance]) -> "DecodedBatch":
        """From tensors that reach at least to the last end of utterances that have all ended."""
        frames = [utterance.frames for utterance in utterances if utterance.frames is not None]
        reasons = [utterance.stop_reason for utterance in utterances if utterance.stop_reason is not None]
        longest = max(frames)
        kept = None if alignments is None else alignments[:, :longest]
        return cls(mels[:, :, :longest], frames, reasons, kept)


def check_decoded(engine: Engine, utterances: Sequence[Utterance]) -> None:
    """Raises EngineFailure with the error of an utterance that has one."""
    for utterance in utterances:
        if utterance.error is not None:
            raise EngineFailure(f"{engine.name}: {utterance.error}")


def logit(probability: float) -> float:
    """The gate's value for a probability: to compare logits spares a sigmoid at every step."""
    if probability <= 0.0 or probability >= 1.0:
        return math.copysign(math.inf, probability - 0.5)
    return math.log(probability / (1.0 - probability))
