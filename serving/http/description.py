"""The API as OpenAPI describes it, for programs that make clients and test servers."""

from http import HTTPStatus
from typing import Any

from pydantic import BaseModel

from common.files import project_version
from pipeline.encoders import FORMATS
from serving.http.api import SPOKEN_QUERY, ErrorBody, SpeechRequest

SPEECH_PATH, CAPTIONS_PATH, SPEAK_PATH = "/v1/audio/speech", "/dev/captioned_speech", "/v1/speak"
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
    request = schemas[SpeechRequest.__name__]
    components: dict[str, Any] = {"schemas": schemas}
    locked: dict[str, Any] = {}
    if needs_key:
        components["securitySchemes"] = {"HTTPBearer": {"type": "http", "scheme": "bearer"}}
        locked["security"] = [{"HTTPBearer": []}]

    def listing(description: str, *errors: int, content: dict[str, Any] = _OBJECT) -> dict[str, Any]:
        return {"get": _answers(description, content, 401, 403, *errors) | locked}

    health = _answers("it can speak", _OBJECT)
    health["responses"]["503"] = {"description": "it can't", "content": _OBJECT}
    paths = {
        **{path: {"post": operation | locked} for path, operation in _speaking(request).items()},
        **dict.fromkeys(MODEL_PATHS, listing("the models")),
        **dict.fromkeys(VOICE_PATHS, listing("the voices, the formats and the longest text")),
        "/v1/models/{name}": listing("the model", 404) | {"parameters": [_parameter("name", "path")]},
        "/metrics": listing("Prometheus' text format", content={"text/plain": {}}),
        **{path: {"get": health} for path in ("/health", "/health/ready", "/health/live")},
    }
    info = {"title": "Speech", "version": project_version()}
    return {"openapi": "3.1.0", "info": info, "paths": paths, "components": components}


def _speaking(request: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The operations that speak, by path; `request` is the schema of OpenAI's request."""
    audio = {known.media_type.partition(";")[0]: _AUDIO for known in FORMATS.values()}
    events = {"text/event-stream": {"schema": {"type": "string"}}}

    def operation(description: str, content: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
        described = _answers(description, content, 400, 401, 403, 404, 408, 413, 415, 500, 503)
        rate = {"description": "of the audio, in Hz", "schema": {"type": "integer"}}
        described["responses"]["200"]["headers"] = {"X-Sample-Rate": rate}
        return described | {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}

    fields: dict[str, Any] = request["properties"]
    # Whatever its model and voice are, they mean the ones that are here.
    captioned = {**request, "properties": fields | {"model": {}, "voice": {}}, "required": ["input"]}
    text = {"type": "object", "properties": {"text": fields["input"]}, "required": ["text"]}
    spoken = operation("the samples as they are made", {"audio/pcm": _AUDIO}, text)
    spoken["description"] = "Deepgram's. The same address takes text while it is written, as a WebSocket."
    spoken["parameters"] = [_parameter(name, "query", fields.get(name)) for name in SPOKEN_QUERY]
    return {
        SPEECH_PATH: operation("the audio as it is made", audio | events | _OBJECT, _reference(SpeechRequest)),
        CAPTIONS_PATH: operation("the audio and its words, as Kokoro-FastAPI has them", _OBJECT, captioned),
        SPEAK_PATH: spoken,
    }


def _reference(model: type[BaseModel]) -> dict[str, Any]:
    return {"$ref": _SCHEMA.format(model=model.__name__)}


def _parameter(name: str, place: str, schema: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"name": name, "in": place, "required": place == "path", "schema": schema or {"type": "string"}}


def _answers(description: str, content: dict[str, Any], *errors: int) -> dict[str, Any]:
    """An operation's answers: with status 200, and errors by their statuses."""
    body = {"application/json": {"schema": _reference(ErrorBody)}}
    responses: dict[str, Any] = {"200": {"description": description, "content": content}}
    responses |= {str(status): {"description": HTTPStatus(status).phrase, "content": body} for status in errors}
    return {"responses": responses}
