"""The model `tts` of NVIDIA's Triton Inference Server: a text's whole audio in one answer.

For clients and protocols that know no streams. It asks `tts_stream` and joins the chunks, so that both stand on one set
of engines, and needs nothing of this project: many instances of it are cheap. `serving/triton/repository.py`
copies this file into a model repository as model.py.
"""

import json
import os
import sys
import uuid
from collections.abc import Iterator
from typing import Any

# The server's Python does not look at it by itself.
sys.path[1:1] = [folder for folder in os.environ.get("PYTHONPATH", "").split(os.pathsep) if folder]

import numpy as np
import triton_python_backend_utils as pb_utils  # what the server's Python backend gives its models


class TritonPythonModel:
    """TEXT in; AUDIO and SAMPLING_RATE out."""

    def initialize(self, args: dict[str, str]) -> None:
        self._names = [entry["name"] for entry in json.loads(args["model_config"])["input"]]

    def execute(self, requests: list[Any]) -> list[Any]:
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        given = [pb_utils.get_input_tensor_by_name(request, name) for name in self._names]
        inputs = [tensor for tensor in given if tensor is not None]
        name = uuid.uuid4().hex
        chunks, rate = [np.empty(0, np.float32)], np.zeros(1, np.int32)
        for response in _stream(inputs, {"name": name}):
            if response.has_error():
                return _failed(response.error().message())
            tensors = {tensor.name(): tensor for tensor in response.output_tensors()}
            if tensors:  # the final response has none
                chunks.append(tensors["AUDIO"].as_numpy().copy())  # the server's memory is only lent
                rate = tensors["SAMPLING_RATE"].as_numpy().copy()
            if name and request.is_cancelled():
                list(_stream(inputs, {"cancel": name}))
                name = ""
        if not name:
            return _failed("CANCELLED the client has given the request up")
        return pb_utils.InferenceResponse(
            [pb_utils.Tensor("AUDIO", np.concatenate(chunks)), pb_utils.Tensor("SAMPLING_RATE", rate)]
        )


def _stream(inputs: list[Any], parameters: dict[str, str]) -> Iterator[Any]:
    """The responses of `tts_stream`."""
    request = pb_utils.InferenceRequest(
        model_name="tts_stream",
        inputs=inputs,
        requested_output_names=["AUDIO", "SAMPLING_RATE"],
        parameters=parameters,
    )
    return request.exec(decoupled=True)


def _failed(message: str) -> Any:
    """An error whose message begins with its code, as those of `tts_stream` do for this model."""
    code, _, reason = message.partition(" ")
    if not code.isupper():  # the server's own
        code, reason = "INTERNAL", message
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(reason, getattr(pb_utils.TritonError, code)))
