"""Everything beside the text that decides the bytes of speech, as a dictionary for JSON."""

import dataclasses
import hashlib
from typing import Any

from common.metadata import ModelMetadata
from pipeline.engine_set import EngineSet
from pipeline.settings import SpeakSettings
from pipeline.stages import sigma, stop_rule

BESIDE_AUDIO = ("keep_pictures", "timestamps")  # settings that decide only what comes with the audio


def identity_of(engines: EngineSet, settings: SpeakSettings) -> dict[str, Any]:
    """What decides the bytes of speech beside its text: the models, what runs them, how they speak.

    Equal identities give equal audio, but for the rounding of batches of other sizes.
    """
    rule = stop_rule(engines, settings, settings.speed)
    names = [one.name for one in dataclasses.fields(settings) if one.name not in BESIDE_AUDIO]
    return {
        "models": {part: _metadata_of(engine.metadata) for part, engine in engines.parts.items()},
        "backends": {part: engine.backend for part, engine in engines.parts.items()},
        "device": engines.device.type,
        "max_symbols": engines.max_symbols,
        "settings": {name: getattr(settings, name) for name in names}
        | {
            "sigma": sigma(engines, settings),
            "gate_threshold": rule.gate_threshold,
            "max_decoder_steps": rule.max_decoder_steps,
            "sampling_rate": settings.sampling_rate or engines.audio.sampling_rate,
            "lexicon": None if settings.lexicon is None else settings.lexicon.sha256(),
        },
    }


def _metadata_of(metadata: ModelMetadata) -> dict[str, Any]:
    """All that a model file says of itself but how it describes its voice; the denoiser's bias as a hash."""
    fields = dataclasses.asdict(metadata)
    del fields["voice"], fields["arpabet"]
    bias = metadata.bias
    return fields | {"bias": None if bias is None else hashlib.sha256(repr(bias).encode()).hexdigest()}
