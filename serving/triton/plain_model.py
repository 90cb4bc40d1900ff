"""The model `tts` of NVIDIA's Triton Inference Server: a text's whole audio in one answer.

For clients and protocols without streams. It asks `tts_stream` and joins the chunks, so that both use the same engines,
and needs nothing of this project: many instances of it are cheap. `serving/triton/repository.py`
copies this file into a model repository as model.py.
"""

import json
import os
import sys
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# The server's Python ignores PYTHONPATH.
sys.path[1:1] = [folder for folder in os.environ.get("PYTHONPATH", "").split(os.pathsep) if folder]

import numpy as np
import triton_python_backend_utils as pb_utils  # what the server's Python backend gives its models


class TritonPythonModel:
    """TEXT in; AUDIO, SAMPLING_RATE and WORDS out."""

    def initialize(self, args: dict[str, str]) -> None:
        self._names = [entry["name"] for entry in json.loads(args["model_config"])["input"]]

    def execute(self, requests: list[Any]) -> list[Any]:
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        given = [pb_utils.get_input_tensor_by_name(request, name) for name in self._names]
        inputs = [tensor for tensor in given if tensor is not None]
        name = uuid.uuid4().hex
        mark = Path(tempfile.gettempdir(), f"{name}.cancelled")  # `tts_stream` watches it
        chunks, rate = [np.empty(0, np.float32)], np.zeros(1, np.int32)
        words: list[Any] = []
        cancelled = False
        try:
            for response in _stream(inputs, name):
                if response.has_error():
                    return _failed(response.error().message())
                tensors = {tensor.name(): tensor.as_numpy() for tensor in response.output_tensors()}
                if tensors:  # the final response has none
                    chunks.append(tensors["AUDIO"].copy())  # the server's memory is used again
                    rate = tensors["SAMPLING_RATE"].copy()
                    words += json.loads(tensors["WORDS"][0])
                if not cancelled and request.is_cancelled():
                    cancelled = True
                    mark.touch()
        finally:
            mark.unlink(missing_ok=True)
        if cancelled:
            return _failed("CANCELLED the client has cancelled the request")
        texts = np.array([json.dumps(words, ensure_ascii=False).encode()], np.object_)
        answer = {"AUDIO": np.concatenate(chunks), "SAMPLING_RATE": rate, "WORDS": texts}
        return pb_utils.InferenceResponse([pb_utils.Tensor(name, value) for name, value in answer.items()])


def _stream(inputs: list[Any], name: str) -> Iterator[Any]:
    """The responses of `tts_stream`."""
    request = pb_utils.InferenceRequest(
        model_name="tts_stream",
        inputs=inputs,
        requested_output_names=["AUDIO", "SAMPLING_RATE", "WORDS"],
        parameters={"name": name},
    )
    return request.exec(decoupled=True)


def _failed(message: str) -> Any:
    """An error. `message` begins with its code, as the errors of `tts_stream` do for this model."""
    code, _, reason = message.partition(" ")
    if not code.isupper():  # the server's own
        code, reason = "INTERNAL", message
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(reason, getattr(pb_utils.TritonError, code)))
