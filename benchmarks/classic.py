"""The baseline of all benchmarks: eager PyTorch as the classic demo runs it."""

from collections.abc import Sequence

import numpy as np
import torch

from benchmarks.offline import Speak, SpokenBatch
from common.checkpoint import LoadedModel
from common.contract import PRECISION_DTYPES
from common.metadata import DEFAULT_SIGMA, Precision
from common.timing import Stages
from pipeline.pieces import Piece
from pipeline.settings import SpeakSettings
from tacotron2.decoder import LONGEST_DECODING, StopRule
from tacotron2.model import Tacotron2
from waveglow.model import WaveGlow


def classic_speaker(
    tacotron2: LoadedModel[Tacotron2],
    waveglow: LoadedModel[WaveGlow],
    precision: Precision,
    device: torch.device,
    settings: SpeakSettings,
) -> Speak:
    """What speaks a batch of utterances of equal length the classic's way, from ids to audio on the host: a host check
    after every step, tensors that grow by concatenation. It owns the models from then on.

    Its random numbers are drawn on the device, as there, so they cost it as little as possible.
    """
    dtype = PRECISION_DTYPES[precision]
    speaker = tacotron2.model.to(device, dtype)
    vocoder = waveglow.model.prepare_for_inference().to(device, dtype)
    sigma = next(s for s in (settings.sigma, waveglow.sigma, DEFAULT_SIGMA) if s is not None)
    threshold, steps = settings.gate_threshold, settings.max_decoder_steps
    rule = StopRule(
        speaker.config.gate_threshold if threshold is None else threshold,
        min(speaker.config.max_decoder_steps, LONGEST_DECODING) if steps is None else steps,
    )
    groups, hop = vocoder.config.n_group, waveglow.audio.hop_length

    @torch.inference_mode()
    def speak(pieces: Sequence[Piece]) -> SpokenBatch:
        stages = Stages(device)
        ids = torch.from_numpy(np.stack([piece.encoded.ids for piece in pieces])).to(device)
        cap = rule.cap(ids.size(1))
        with stages("decoder"):
            # One draw for all steps stands for the classic's two dropouts a step.
            dropout = 2 * torch.randint(0, 2, (cap, len(pieces), 2, speaker.config.prenet_dim), device=device).to(dtype)
            spoken = speaker.infer(ids, dropout, cap, rule.gate_threshold)
        with stages("waveglow"):
            z = sigma * torch.randn(len(pieces), groups, spoken.mel.size(2) * hop // groups, device=device, dtype=dtype)
            audio = vocoder.infer(spoken.mel, z)
        lengths = spoken.lengths.tolist()
        samples = audio.float().cpu().numpy()
        audios = [row[: length * hop] for row, length in zip(samples, lengths, strict=True)]
        return SpokenBatch(audios, stages.seconds, float(np.mean(lengths)))

    return speak
