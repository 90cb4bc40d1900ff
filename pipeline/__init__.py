"""Text in, audio out. Begin with `Voice`."""

from pipeline.audio import Audio
from pipeline.settings import SpeakSettings, WorkSettings
from pipeline.voice import Voice

__all__ = ["Audio", "SpeakSettings", "Voice", "WorkSettings"]
