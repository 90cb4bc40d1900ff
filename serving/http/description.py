"""The API as OpenAPI describes it, for programs that make clients and test servers."""

from http import HTTPStatus
from typing import Any

from common.files import project_version
from pipeline.encoders import FORMATS
from serving.http.api import ErrorBody, SpeechRequest

SPEECH_PATH = "/v1/audio/speech"
MODEL_PATHS = ("/v1/models", "/v1/audio/models")
VOICE_PATHS = ("/v1/voices", "/v1/audio/voices")
_SCHEMA = "#/components/schemas/{model}"
_OBJECT: dict[str, Any] = {"application/json": {"schema": {"type": "object"}}}
_AUDIO = {"schema": {"type": "string", "format": "binary"}}


def describe(needs_key: bool) -> dict[str, Any]:
    """The description, as JSON has it."""
    schemas: dict[str, Any] = {}
    for model in (SpeechRequest, ErrorBody):
        schema = model.model_json_schema(ref_template=_SCHEMA)
        schemas |= schema.pop("$defs") | {model.__name__: schema}
    components: dict[str, Any] = {"schemas": schemas}
    locked: dict[str, Any] = {}
    if needs_key:
        components["securitySchemes"] = {"HTTPBearer": {"type": "http", "scheme": "bearer"}}
        locked["security"] = [{"HTTPBearer": []}]

    def listing(description: str, *errors: int, content: dict[str, Any] = _OBJECT) -> dict[str, Any]:
        return {"get": _answers(description, content, 401, 403, *errors) | locked}

    health = _answers("it can speak", _OBJECT)
    health["responses"]["503"] = {"description": "it can't", "content": _OBJECT}
    name = {"name": "name", "in": "path", "required": True, "schema": {"type": "string"}}
    paths = {
        SPEECH_PATH: {"post": _speech() | locked},
        **dict.fromkeys(MODEL_PATHS, listing("the models")),
        **dict.fromkeys(VOICE_PATHS, listing("the voices, the formats and the longest text")),
        "/v1/models/{name}": listing("the model", 404) | {"parameters": [name]},
        "/metrics": listing("Prometheus' text format", content={"text/plain": {}}),
        **{path: {"get": health} for path in ("/health", "/health/ready", "/health/live")},
    }
    info = {"title": "Speech", "version": project_version()}
    return {"openapi": "3.1.0", "info": info, "paths": paths, "components": components}


def _speech() -> dict[str, Any]:
    content = {known.media_type.partition(";")[0]: _AUDIO for known in FORMATS.values()}
    content |= {"text/event-stream": {"schema": {"type": "string"}}, **_OBJECT}  # an object with timestamps
    described = _answers("the audio as it is made", content, 400, 401, 403, 404, 408, 413, 415, 500, 503)
    rate = {"description": "of the audio, in Hz", "schema": {"type": "integer"}}
    described["responses"]["200"]["headers"] = {"X-Sample-Rate": rate}
    schema = {"$ref": _SCHEMA.format(model=SpeechRequest.__name__)}
    return described | {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def _answers(description: str, content: dict[str, Any], *errors: int) -> dict[str, Any]:
    """An operation's answers: with status 200, and errors by their statuses."""
    body = {"application/json": {"schema": {"$ref": _SCHEMA.format(model=ErrorBody.__name__)}}}
    responses: dict[str, Any] = {"200": {"description": description, "content": content}}
    responses |= {str(status): {"description": HTTPStatus(status).phrase, "content": body} for status in errors}
    return {"responses": responses}
