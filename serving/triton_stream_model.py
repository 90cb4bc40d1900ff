"""The model `tts_stream` of NVIDIA's Triton Inference Server: a voice that answers with chunks as they are made.

It is decoupled, owns the voice, and speaks all requests on one scheduler. `serving/make_triton_repository.py` copies
this file into a model repository as model.py, with the packages that it needs beside it.
"""

import json
import os
import sys
import threading
from pathlib import Path
from typing import Any

# The server's Python does not look at PYTHONPATH by itself.
sys.path[1:1] = [str(Path(__file__).resolve().parent / "code"), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]

import numpy as np
import torch
import triton_python_backend_utils as pb_utils  # what the server's Python backend gives its models

from common.errors import Busy, UserError
from common.metadata import PARTS
from pipeline import Audio, SpeakSettings, Voice
from pipeline.scheduler import CancelledError, Speech

OPTIONS = {"SEED": "seed", "SPEED": "speed", "SIGMA": "sigma", "OUTPUT_RATE": "sampling_rate"}  # tensor: setting


class TritonPythonModel:
    """TEXT in; AUDIO and SAMPLING_RATE out, a response for each chunk, the last one empty and final."""

    def initialize(self, args: dict[str, str]) -> None:
        folder = Path(args["model_repository"]) / args["model_version"] / "voice"
        parameters = json.loads(args["model_config"])["parameters"]
        self._max_characters = int(parameters["max_characters"]["string_value"])
        if args["model_instance_kind"] == "GPU":
            torch.cuda.set_device(int(args["model_instance_device_id"]))
        names = json.loads((folder / "voice.json").read_text(encoding="utf-8"))
        self._voice = Voice.from_files({part: folder / names[part] for part in PARTS})
        scheduler = self._voice.scheduler(max_waiting=int(parameters["max_waiting"]["string_value"]))
        scheduler.warm_up()
        for _ in self._voice.stream("Ready."):
            pass

    def execute(self, requests: list[Any]) -> None:
        for request in requests:
            sender = request.get_response_sender()
            try:
                speech = self._submit(request)
            except UserError as error:
                _refuse(sender, error)
                continue
            # A thread a request: it sleeps until there is a chunk, and one slow client holds nobody up.
            threading.Thread(target=_send, args=(speech, sender), name="send", daemon=True).start()

    def finalize(self) -> None:
        self._voice.close(drain=True)

    def _submit(self, request: Any) -> Speech:
        """Queues a request. Raises UserError for what can't be spoken."""
        text = _text(request)
        if len(text) > self._max_characters:
            raise UserError(f"TEXT has {len(text)} characters; at most {self._max_characters} are spoken at once")
        settings = {}
        for name, setting in OPTIONS.items():
            tensor = pb_utils.get_input_tensor_by_name(request, name)
            if tensor is not None:
                settings[setting] = tensor.as_numpy().flatten()[0].item()
        return self._voice.submit(text, SpeakSettings(**settings))


def _send(speech: Speech, sender: Any) -> None:
    """Sends a request's chunks as they come; gives the request up where the client has."""
    try:
        for chunk in speech:
            if sender.is_cancelled():
                speech.cancel()
                break
            sender.send(_response(chunk))
        sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
    except CancelledError:
        sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
    except UserError as error:
        _refuse(sender, error)


def _refuse(sender: Any, error: UserError) -> None:
    code = pb_utils.TritonError.UNAVAILABLE if isinstance(error, Busy) else pb_utils.TritonError.INVALID_ARG
    refusal = pb_utils.InferenceResponse(error=pb_utils.TritonError(str(error), code))
    sender.send(refusal, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)


def _text(request: Any) -> str:
    """The request's TEXT. Raises UserError if it isn't one UTF-8 string."""
    values = pb_utils.get_input_tensor_by_name(request, "TEXT").as_numpy().flatten()
    if values.size != 1:
        raise UserError(f"TEXT holds {values.size} strings; send one a request")
    try:
        return values[0].decode("utf-8") if isinstance(values[0], bytes) else str(values[0])
    except UnicodeDecodeError as error:
        raise UserError("TEXT is not UTF-8") from error


def _response(audio: Audio) -> Any:
    rate = np.array([audio.sampling_rate], np.int32)
    return pb_utils.InferenceResponse([pb_utils.Tensor("AUDIO", audio.samples), pb_utils.Tensor("SAMPLING_RATE", rate)])
