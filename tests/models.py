"""Tiny models of the real architectures, quick enough for every test that is not about the voice itself."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from common.checkpoint import LoadedModel
from common.config import Tacotron2Config, WaveGlowConfig
from common.engine import Engine
from common.metadata import ModelMetadata, Part, Precision
from common.phrases import Phrase
from pipeline.engine_set import EngineSet
from pipeline.pieces import PieceResult, prepare
from pipeline.settings import SpeakSettings, WorkSettings
from pipeline.synthesizer import Synthesizer
from tacotron2.model import Tacotron2
from tacotron2.parts import tacotron2_parts
from waveglow.model import WaveGlow
from waveglow.parts import waveglow_parts

MELS = 16  # channels: WaveGlow's upsampling, the most of its weights, grows with their square
TINY_TACOTRON2 = Tacotron2Config(
    n_mel_channels=MELS,
    symbols_embedding_dim=24,
    encoder_embedding_dim=32,
    decoder_rnn_dim=40,
    prenet_dim=16,
    attention_rnn_dim=48,
    attention_dim=20,
    attention_location_n_filters=6,
    attention_location_kernel_size=7,
    postnet_embedding_dim=28,
)
TINY_WAVEGLOW = WaveGlowConfig(n_mel_channels=MELS, n_flows=6, n_early_every=2, wn_layers=3, wn_channels=12)


def synthesizer_on(engines: Mapping[Part, Engine], **settings: Any) -> Synthesizer:
    """A synthesizer with settings of speaking and of work, by name."""
    work = {field.name for field in dataclasses.fields(WorkSettings)}
    chosen = WorkSettings(**{name: value for name, value in settings.items() if name in work})
    spoken = SpeakSettings(**{name: value for name, value in settings.items() if name not in work})
    return Synthesizer(EngineSet(engines, chosen), spoken)


def speak_phrases(synthesizer: Synthesizer, phrases: Sequence[Phrase]) -> Iterator[PieceResult]:
    """The results of the phrases' pieces, in order."""
    prepared = prepare(phrases, synthesizer.settings, synthesizer.engines.max_symbols)
    return synthesizer.speak([piece for phrase in prepared for piece in phrase.pieces])


def parts_of(loaded: LoadedModel, precision: Precision) -> dict[Part, tuple[nn.Module, ModelMetadata]]:
    """The parts of a loaded model of either kind."""
    if isinstance(loaded.model, Tacotron2):
        return tacotron2_parts(loaded, precision)
    return waveglow_parts(loaded, precision)


def tiny_tacotron2(config: Tacotron2Config = TINY_TACOTRON2, seed: int = 0) -> Tacotron2:
    """Random weights, with batch norm statistics that are not the identity."""
    torch.manual_seed(seed)
    model = Tacotron2(config)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm1d):
                module.running_mean.normal_(0, 0.3)
                module.running_var.uniform_(0.5, 2)
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(0, 0.3)
    return model.eval()


def tiny_waveglow(config: WaveGlowConfig = TINY_WAVEGLOW, seed: int = 0) -> WaveGlow:
    torch.manual_seed(seed)
    return WaveGlow(config).eval()


def nested_waveglow_config(config: WaveGlowConfig) -> dict:
    """A WaveGlow configuration as NVIDIA's checkpoints hold it."""
    flat = dataclasses.asdict(config)
    wn = {"n_layers": "wn_layers", "kernel_size": "wn_kernel_size", "n_channels": "wn_channels"}
    nested = {name: flat.pop(stored) for name, stored in wn.items()}
    return {**flat, "WN_config": nested}
