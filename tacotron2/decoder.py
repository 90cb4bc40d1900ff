"""The decoder loop: one `decoder_iter` step per mel frame until the stop gate fires.

This is the plain form, driven by the host: it runs on every engine and is the reference for faster ones.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Literal

import torch
from torch import Tensor

from common.config import Tacotron2Config
from common.contract import DECODER_STATE
from common.engine import Engine
from common.errors import UserError
from common.random_streams import PRENET_KEEP, RandomStreams

StopReason = Literal["gate", "cap"]

FRAMES_PER_SYMBOL, EXTRA_FRAMES = 10, 100  # no speech is slower: a decoder that goes on beyond this is lost
DROPOUT_BLOCK = 128  # steps for which masks are drawn and converted at a time


@dataclass
class DecoderState:
    """The tensors that one step hands to the next, under their input names; two of them are used in turn."""

    decoder_input: Tensor  # (B, n_mel_channels), the previous frame
    attention_hidden: Tensor  # (B, attention_rnn_dim)
    attention_cell: Tensor
    decoder_hidden: Tensor  # (B, decoder_rnn_dim)
    decoder_cell: Tensor
    attention_weights: Tensor  # (B, T)
    attention_weights_cum: Tensor
    attention_context: Tensor  # (B, encoder_embedding_dim)

    @classmethod
    def zeros(cls, engine: Engine, batch: int, text: int) -> "DecoderState":
        specs, sizes = engine.contract.tensors, {"batch": batch, "text": text}
        return cls(
            **{
                name: torch.zeros(specs[name].resolve(sizes), dtype=specs[name].dtype, device=engine.device)
                for name in DECODER_STATE
            }
        )

    def as_inputs(self) -> dict[str, Tensor]:
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def as_outputs(self) -> dict[str, Tensor]:
        return {DECODER_STATE[name]: tensor for name, tensor in self.as_inputs().items()}


@dataclass(frozen=True)
class StopRule:
    """When an utterance ends: its gate's probability passes the threshold, or its frames reach a cap."""

    gate_threshold: float = 0.5
    max_decoder_steps: int = 1664

    def cap(self, symbols: int) -> int:
        return min(self.max_decoder_steps, FRAMES_PER_SYMBOL * symbols + EXTRA_FRAMES)


@dataclass(frozen=True)
class DecodedBatch:
    """Frames of a batch; beyond an item's own `frames` the tensors hold nothing of meaning."""

    mels: Tensor  # (B, n_mel_channels, max frames), in the model's dtype
    frames: list[int]
    stop_reasons: list[StopReason]
    alignments: Tensor | None  # (B, max frames, T), where asked for


def decode(
    engine: Engine,
    memory: Tensor,
    processed_memory: Tensor,
    lengths: Sequence[int],
    streams: Sequence[RandomStreams],
    rule: StopRule,
    keep_alignments: bool = False,
    on_step: Callable[[int], None] | None = None,
) -> DecodedBatch:
    """Decodes a batch of utterances to mel frames.

    Args:
        engine: a `decoder_iter` engine.
        memory, processed_memory: the encoder's outputs, (B, T, .), on the engine's device.
        lengths: each item's number of symbols; the rest of T is padding.
        streams: each item's random numbers; its dropout stream is used up.
        rule: when to stop.
        on_step: called now and then with the number of steps done, for progress.

    Raises:
        UserError: the engine's gate is not a number (NaN), so the utterance would never end.
    """
    config = engine.metadata.model
    assert isinstance(config, Tacotron2Config)
    batch, text = memory.shape[:2]
    caps = [rule.cap(length) for length in lengths]
    steps = max(caps)
    device, dtype = engine.device, memory.dtype
    positions = torch.arange(text, device=device)
    mask = positions >= torch.tensor(lengths, device=device).unsqueeze(1)  # (B, T), true where padding
    dropout = torch.zeros(batch, 2, config.prenet_dim, dtype=dtype, device=device)
    gate = torch.zeros(batch, 1, dtype=dtype, device=device)
    frames = torch.zeros(steps, batch, config.n_mel_channels, dtype=dtype, device=device)
    alignments = torch.zeros(steps, batch, text, dtype=dtype, device=device) if keep_alignments else None

    states = (DecoderState.zeros(engine, batch, text), DecoderState.zeros(engine, batch, text))
    shared = {"memory": memory, "processed_memory": processed_memory, "mask": mask, "prenet_dropout": dropout}
    step_runs = [
        engine.bind({**source.as_inputs(), **shared, **target.as_outputs(), "gate_prediction": gate})
        for source, target in (states, states[::-1])
    ]
    gate_logit = logit(rule.gate_threshold)
    done = [0] * batch  # each item's number of frames, once known
    reasons: list[StopReason] = ["cap"] * batch
    for step in range(steps):
        if step % DROPOUT_BLOCK == 0:
            masks = dropout_masks(streams, min(DROPOUT_BLOCK, steps - step), config.prenet_dim, dtype).to(device)
        dropout.copy_(masks[step % DROPOUT_BLOCK])
        step_runs[step % 2]()
        target = states[1 - step % 2]
        frames[step] = target.decoder_input
        if alignments is not None:
            alignments[step] = target.attention_weights
        for item, value in enumerate(gate.flatten().tolist()):
            if done[item]:
                continue
            if value != value:
                raise UserError(f"{engine.name}: the stop gate is NaN at step {step + 1}; try FP32 or export again")
            if value > gate_logit:
                done[item], reasons[item] = step + 1, "gate"
            elif step + 1 == caps[item]:
                done[item] = caps[item]
        if all(done):
            break
        if on_step is not None and step % 16 == 15:
            on_step(step + 1)
    longest = max(done)
    return DecodedBatch(
        mels=frames[:longest].permute(1, 2, 0).contiguous(),
        frames=done,
        stop_reasons=reasons,
        alignments=None if alignments is None else alignments[:longest].transpose(0, 1).contiguous(),
    )


def dropout_masks(streams: Sequence[RandomStreams], steps: int, prenet_dim: int, dtype: torch.dtype) -> Tensor:
    """The batch's next dropout masks (steps, B, 2, prenet_dim), values 0 or 1 / keep probability, on the CPU."""
    bits = torch.stack([torch.from_numpy(stream.dropout(steps, prenet_dim)) for stream in streams], 1)
    return bits.to(dtype) / PRENET_KEEP


def logit(probability: float) -> float:
    """The gate value whose sigmoid is `probability`: comparing logits spares a sigmoid at every step."""
    return float(torch.logit(torch.tensor(probability, dtype=torch.float64)))
