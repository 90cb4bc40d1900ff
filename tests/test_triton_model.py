"""The model `tts_stream` with a double of the server's side, for what the real server can't be made to do."""

import importlib
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

from common.metadata import PARTS
from pipeline import Voice
from pipeline.stages import nan_error
from tests.engine_doubles import tiny_engines
from tests.http_servers import eventually


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> mock.MagicMock:
    """What the server gives its models, where a request is a dictionary of tensors."""
    backend = mock.MagicMock()
    backend.get_input_tensor_by_name = lambda request, name: request.tensors.get(name)
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", backend)
    monkeypatch.setattr(sys, "path", [*sys.path])
    return backend


@pytest.fixture
def model(backend: mock.MagicMock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator:
    sys.modules.pop("serving.triton.stream_model", None)
    module = importlib.import_module("serving.triton.stream_model")
    voice = Voice(tiny_engines(decoder_no_early_stopping=True))
    monkeypatch.setattr(Voice, "load", lambda paths: voice)
    folder = tmp_path / "1" / "voice"
    folder.mkdir(parents=True)
    (folder / "voice.json").write_text(json.dumps(dict.fromkeys(PARTS, "")))
    limits = {name: {"string_value": "4000"} for name in ("max_characters", "max_waiting")}
    model = module.TritonPythonModel()
    model.initialize(
        {
            "model_repository": str(tmp_path),
            "model_version": "1",
            "model_config": json.dumps({"parameters": limits}),
            "model_instance_kind": "CPU",
        }
    )
    model.voice = voice
    yield model
    model.finalize()


def request_of(name: str) -> mock.MagicMock:
    """A request for more audio than is made ahead of a slow client."""
    text = mock.MagicMock(as_numpy=lambda: np.array([b"Some words of a text. " * 40], np.object_))
    request = mock.MagicMock(tensors={"TEXT": text})
    request.parameters.return_value = json.dumps({"name": name})
    request.get_response_sender.return_value.is_cancelled.return_value = False
    return request


def test_a_request_whose_client_can_not_be_reached_leaves(model) -> None:
    request = request_of("")
    sender = request.get_response_sender.return_value
    sender.send.side_effect = RuntimeError("the connection is gone")
    model.execute([request])
    assert eventually(lambda: sender.send.called)
    assert eventually(lambda: model.voice.scheduler().status().active == 0)


def test_a_request_of_the_other_model_is_cancelled_by_a_file_whichever_instance_has_it(
    model, backend: mock.MagicMock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (tmp_path / "0a1b.cancelled").touch()
    for name in ("0a1b", "../0a1b", "2c3d"):  # the others' audio is made
        request = request_of(name)
        sender = request.get_response_sender.return_value
        sender.send.side_effect = None if name == "0a1b" else RuntimeError("that's enough")
        backend.InferenceResponse.reset_mock()
        model.execute([request])
        assert eventually(lambda sender=sender: sender.send.called)
        assert eventually(lambda: model.voice.scheduler().status().active == 0)
        assert backend.InferenceResponse.called == (name != "0a1b")


def test_the_log_alone_tells_where_the_models_are(
    model, backend: mock.MagicMock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    engines = model.voice.engines
    monkeypatch.setattr(engines.parts["waveglow"], "name", "/srv/my secrets/waveglow.onnx")
    monkeypatch.setattr(Voice, "submit", mock.Mock(side_effect=nan_error(engines, "waveglow", "line 1")))
    model.execute([request_of("")])
    (message, _), _ = backend.TritonError.call_args
    assert message.startswith("waveglow.onnx: NaN")
    assert "/srv/my secrets/waveglow.onnx: NaN" in caplog.text
