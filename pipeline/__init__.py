"""Text in, audio out. Begin with `Voice`."""

from common.errors import Busy, Closed, EngineFailure, InvalidInput, UserError
from pipeline.audio import Audio
from pipeline.settings import SpeakSettings, WorkSettings
from pipeline.voice import Voice

__all__ = [
    "Audio",
    "Busy",
    "Closed",
    "EngineFailure",
    "InvalidInput",
    "SpeakSettings",
    "UserError",
    "Voice",
    "WorkSettings",
]
