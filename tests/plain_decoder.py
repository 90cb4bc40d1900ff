"""The decoder loop in its plainest form, on any engine: the reference for `tacotron2.decoder_graph`."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from common.config import Tacotron2Config
from common.engine import Engine
from common.random_streams import PRENET_KEEP
from tacotron2.decoder import DecodedBatch, Utterance, as_outputs, check_decoded, zero_state, zeros


def decode(
    engine: Engine,
    memory: Tensor,
    processed_memory: Tensor,
    utterances: Sequence[Utterance],
    keep_alignments: bool = False,
) -> DecodedBatch:
    """Decodes a batch of utterances to mel frames, one step a frame; see `BlockDecoder.decode`."""
    config = engine.metadata.model
    assert isinstance(config, Tacotron2Config)
    batch, text = memory.shape[:2]
    device = engine.device
    symbols = torch.tensor([utterance.symbols for utterance in utterances], device=device)
    mask = torch.arange(text, device=device) >= symbols.unsqueeze(1)  # (B, T), true where padding
    dropout, gate = (zeros(engine, name, batch, text) for name in ("prenet_dropout", "gate_prediction"))
    states = (zero_state(engine, batch, text), zero_state(engine, batch, text))
    shared = {"memory": memory, "processed_memory": processed_memory, "mask": mask, "prenet_dropout": dropout}
    runs = [
        engine.bind({**source, **shared, **as_outputs(target), "gate_prediction": gate})
        for source, target in (states, states[::-1])
    ]
    frames, alignments = [], []
    for step in range(max(utterance.cap for utterance in utterances)):
        dropout.copy_(dropout_masks(utterances, 1, config.prenet_dim, dropout.dtype)[0])
        runs[step % 2]()
        target = states[1 - step % 2]
        frames.append(target["decoder_input"].clone())
        if keep_alignments:
            alignments.append(target["attention_weights"].to("cpu", copy=True))
        for utterance, value in zip(utterances, gate.flatten().tolist(), strict=True):
            utterance.look([value])
        if all(utterance.ended for utterance in utterances):
            break
    check_decoded(engine, utterances)
    return DecodedBatch.of(torch.stack(frames, 2), torch.stack(alignments, 1) if alignments else None, utterances)


def dropout_masks(utterances: Sequence[Utterance], steps: int, prenet_dim: int, dtype: torch.dtype) -> Tensor:
    """The batch's next dropout masks (steps, B, 2, prenet_dim), values 0 or 1 / keep probability, on the CPU."""
    bits = np.stack([one.streams.dropout(steps, prenet_dim) for one in utterances], 1)
    return torch.from_numpy(np.unpackbits(bits, axis=-1, count=prenet_dim)).to(dtype) / PRENET_KEEP
