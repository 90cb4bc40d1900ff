"""The model `tts` of NVIDIA's Triton Inference Server: a text's whole audio in one answer.

For clients and protocols that know no streams. It asks `tts_stream` and joins the chunks, so that both stand on one set
of engines, and needs nothing of this project: many instances of it are cheap. `serving/make_triton_repository.py`
copies this file into a model repository as model.py.
"""

import json
import os
import sys
from typing import Any

sys.path[1:1] = os.environ.get("PYTHONPATH", "").split(os.pathsep)  # the server's Python does not look at it by itself

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
        streamed = pb_utils.InferenceRequest(
            model_name="tts_stream",
            inputs=[tensor for tensor in given if tensor is not None],
            requested_output_names=["AUDIO", "SAMPLING_RATE"],
        )
        chunks, rate = [], None
        for response in streamed.exec(decoupled=True):
            if response.has_error():
                return pb_utils.InferenceResponse(error=response.error())
            tensors = {tensor.name(): tensor for tensor in response.output_tensors()}
            if tensors:  # the final response has none
                chunks.append(tensors["AUDIO"].as_numpy().copy())  # the server's memory is only lent
                rate = tensors["SAMPLING_RATE"].as_numpy().copy()
        return pb_utils.InferenceResponse(
            [pb_utils.Tensor("AUDIO", np.concatenate(chunks)), pb_utils.Tensor("SAMPLING_RATE", rate)]
        )
