"""The model `tts_stream` of NVIDIA's Triton Inference Server: a voice that answers with chunks as they are made.

It is decoupled, owns the voice, and speaks all requests on one scheduler. `serving/triton/repository.py` copies
this file into a model repository as model.py, with the packages that it needs beside it.
"""

import json
import logging
import os
import queue
import signal
import sys
import tempfile
import threading
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

# The server's Python ignores PYTHONPATH.
_FOLDERS = [folder for folder in os.environ.get("PYTHONPATH", "").split(os.pathsep) if folder]
sys.path[1:1] = [str(Path(__file__).resolve().parent / "code"), *_FOLDERS]

import numpy as np
import torch
import triton_python_backend_utils as pb_utils  # what the server's Python backend gives its models

from common.errors import Busy, Closed, InvalidInput, explained
from common.metadata import PARTS
from pipeline import Audio, SpeakSettings, Voice
from pipeline.latency import prefer_latency
from pipeline.settings import settings_at
from pipeline.speech import CancelledError, Speech

WATCH_SECONDS = 0.1  # between checks whether a client has cancelled

_log = logging.getLogger(__name__)


class TritonPythonModel:
    """TEXT in; AUDIO, SAMPLING_RATE and WORDS out, a response for each chunk, the last one empty and final.

    A request of `tts` has a parameter `name`. Such a request is cancelled by a file of that name, since only its own
    instance could find it. Its errors begin with their code, which the server doesn't pass on between models.
    """

    def initialize(self, args: dict[str, str]) -> None:
        folder = Path(args["model_repository"]) / args["model_version"] / "voice"
        parameters = json.loads(args["model_config"])["parameters"]
        self._max_characters = int(parameters["max_characters"]["string_value"])
        if args["model_instance_kind"] == "GPU":
            torch.cuda.set_device(int(args["model_instance_device_id"]))
        names = json.loads((folder / "voice.json").read_text(encoding="utf-8"))
        self._voice = Voice.load({part: folder / names[part] for part in PARTS})
        max_waiting = int(parameters["max_waiting"]["string_value"])
        self._voice.scheduler(max_waiting=max_waiting, on_failed=self._end_server).warm_up()
        for _ in self._voice.stream("Ready."):
            pass
        prefer_latency()

    def execute(self, requests: list[Any]) -> None:
        for request in requests:
            sender = request.get_response_sender()
            name = str(json.loads(request.parameters() or "{}").get("name", ""))
            try:
                speech = self._submit(request)
            except Exception as error:
                _refuse(sender, error, name, self._voice)
                continue
            # A thread a request: it sleeps until there is a chunk, and a slow client delays no other.
            sending = (speech, sender, name, self._voice)
            threading.Thread(target=_send, args=sending, name="send", daemon=True).start()

    def finalize(self) -> None:
        has_failed = self._voice.scheduler().status().state == "failed"
        self._voice.close(drain=True)
        if has_failed:
            threading.Event().wait()  # until the server's own time limit for models: then its exit status is 1

    def _end_server(self, reason: str) -> None:
        """Lets the server end: it would stay ready with a voice that can't speak, and starts no model again."""
        _log.critical("the server is ended: %s", reason)
        os.kill(os.getppid(), signal.SIGTERM)

    def _submit(self, request: Any) -> Speech:
        """Queues a request. Raises UserError for what can't be spoken."""
        text = _text(request)
        if len(text) > self._max_characters:
            raise InvalidInput(f"TEXT has {len(text)} characters; at most {self._max_characters} are spoken at once")
        settings: dict[str, Any] = {}
        for setting in settings_at("triton"):
            name = setting.name_at("triton").upper()
            tensor = pb_utils.get_input_tensor_by_name(request, name)
            if tensor is not None:
                settings[setting.name] = _text_of(tensor) if setting.type is str else tensor.as_numpy().item()
        return self._voice.submit(text, SpeakSettings(**settings))


def _send(speech: Speech, sender: Any, name: str, voice: Voice) -> None:
    """Sends a request's chunks as they come. Cancels it where its client has, or where sending fails."""
    # As `tts` names it. Clients may send names, too: letters and digits can't lead out of the folder.
    mark = Path(tempfile.gettempdir(), f"{name}.cancelled") if name.isalnum() else None
    try:
        while (chunk := _next_chunk(speech, sender, mark)) is not None:
            sender.send(_response(chunk))
        sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
    except CancelledError:
        sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
    except Exception as error:
        with suppress(Exception):  # where sending has failed, so may this
            _refuse(sender, error, name, voice)
    finally:
        speech.cancel()


def _next_chunk(speech: Speech, sender: Any, mark: Path | None) -> Audio | None:
    while True:
        if sender.is_cancelled() or (mark is not None and mark.exists()):
            speech.cancel()
        try:
            return speech.next_chunk(WATCH_SECONDS)
        except queue.Empty:
            continue


def _refuse(sender: Any, error: Exception, name: str, voice: Voice) -> None:
    reason = explained(error, "a request")
    voice.engines.hide_folders(reason)
    code = "INTERNAL"
    if isinstance(reason, InvalidInput):
        code = "INVALID_ARG"
    elif isinstance(reason, (Busy, Closed)):
        code = "UNAVAILABLE"
    message = f"{code} {reason}" if name else str(reason)
    refusal = pb_utils.InferenceResponse(error=pb_utils.TritonError(message, getattr(pb_utils.TritonError, code)))
    sender.send(refusal, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)


def _text(request: Any) -> str:
    """The request's TEXT. Raises InvalidInput if it isn't one UTF-8 string."""
    tensor = pb_utils.get_input_tensor_by_name(request, "TEXT")
    if tensor is None:  # where inputs are optional, the server only counts them
        raise InvalidInput("TEXT is missing")
    return _text_of(tensor)


def _text_of(tensor: Any) -> str:
    """A tensor's string. Raises InvalidInput if it isn't one UTF-8 string."""
    values = tensor.as_numpy().flatten()
    if values.size != 1:
        raise InvalidInput(f"{tensor.name()} holds {values.size} strings; send one a request")
    try:
        return values[0].decode("utf-8") if isinstance(values[0], bytes) else str(values[0])
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{tensor.name()} is not UTF-8") from error


def _response(audio: Audio) -> Any:
    words = json.dumps([asdict(word) for word in audio.words], ensure_ascii=False).encode()
    tensors = {
        "AUDIO": audio.samples,
        "SAMPLING_RATE": np.array([audio.sampling_rate], np.int32),
        "WORDS": np.array([words], np.object_),
    }
    return pb_utils.InferenceResponse([pb_utils.Tensor(name, value) for name, value in tensors.items()])
