"""A client of NVIDIA's Triton Inference Server: audio streamed over gRPC, or whole over HTTP."""

import json
import queue
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

import numpy as np

from common.errors import UserError
from pipeline.audio import Audio
from pipeline.words import Word
from serving.triton.repository import INPUTS


def speak(url: str, text: str, **options: float | str | bool) -> Audio:
    """A text's whole audio, from the model `tts` over HTTP.

    Args:
        options: the models' further inputs, in lower case: seed, speed, output_rate, ...

    Raises:
        UserError: the server refused, with its reason, or can't be reached.
    """
    import tritonclient.http as client

    try:
        with client.InferenceServerClient(url, network_timeout=600.0) as server:
            result = server.infer("tts", _inputs(client, text, options))
    except (client.InferenceServerException, OSError) as error:
        raise UserError(f"{url}: {error}") from error
    return _audio(result)


def stream(url: str, text: str, **options: float | str | bool) -> Iterator[Audio]:
    """A text's audio as it is made, from the model `tts_stream` over gRPC; see `speak`. Closing it cancels."""
    import tritonclient.grpc as client

    answers: queue.SimpleQueue[tuple[Any, Any]] = queue.SimpleQueue()
    server = client.InferenceServerClient(url)
    server.start_stream(lambda result, error: answers.put((result, error)))
    finished = False
    try:
        with suppress(client.InferenceServerException):  # a broken connection: its reason comes as an answer
            server.async_stream_infer("tts_stream", _inputs(client, text, options), enable_empty_final_response=True)
        while not finished:
            result, error = answers.get()
            if error is not None:
                finished = True
                raise UserError(f"{url}: {error.message()}")
            final = result.get_response().parameters.get("triton_final_response")
            finished = final is not None and final.bool_param
            if result.as_numpy("AUDIO") is not None:
                yield _audio(result)
    finally:
        server.stop_stream(cancel_requests=not finished)
        server.close()


def _audio(result: Any) -> Audio:
    words = json.loads(result.as_numpy("WORDS")[0])
    words = tuple(Word(one["text"], one["start"], one["end"], tuple(one["span"])) for one in words)
    return Audio(result.as_numpy("AUDIO"), int(result.as_numpy("SAMPLING_RATE")[0]), words)


def _inputs(client: Any, text: str, options: Mapping[str, Any]) -> list[Any]:
    """The tensors of a request, for either protocol's client. Raises UserError for an option that isn't there."""
    from tritonclient.utils import triton_to_np_dtype

    types = {field.name: field.data_type.removeprefix("TYPE_").replace("STRING", "BYTES") for field in INPUTS}
    inputs = []
    for name, value in {"TEXT": text, **{name.upper(): value for name, value in options.items()}}.items():
        if name not in types:
            raise UserError(f"the model has no input {name}; it has {', '.join(types)}")
        tensor = client.InferInput(name, [1], types[name])
        dtype = triton_to_np_dtype(types[name])
        tensor.set_data_from_numpy(np.array([value.encode() if isinstance(value, str) else value], dtype))
        inputs.append(tensor)
    return inputs
