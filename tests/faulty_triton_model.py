"""Stands for model.py of `tts_stream` in a repository whose engines fail when a test wants them to.

The model itself lies beside it as served_model.py, and FAULTS in the environment names the file of
`faulty_http_server.Faults`.
"""

import dataclasses
import os
import sys
from pathlib import Path

sys.path[1:1] = [str(Path(__file__).resolve().parent)]

import served_model  # finds the packages beside it

sys.path.append(os.environ["REPOSITORY"])

from pipeline import Voice
from pipeline.engine_set import EngineSet
from tests.engine_doubles import Watched
from tests.faulty_http_server import Faults


class FaultyVoice(Voice):
    def __init__(self, engines: EngineSet) -> None:
        faults = Faults(Path(os.environ["FAULTS"]))
        engines.parts.update({part: Watched(one, faults.before(part)) for part, one in engines.parts.items()})
        # Untrained gates fire at once: here utterances end at their caps.
        engines.tacotron2_config = dataclasses.replace(engines.tacotron2_config, decoder_no_early_stopping=True)
        super().__init__(engines)


served_model.Voice = FaultyVoice
TritonPythonModel = served_model.TritonPythonModel
