"""The speech API's requests and errors, as OpenAI's API has them, with this project's settings beside."""

import difflib
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

from common.errors import Busy, Closed, InvalidInput, UserError
from pipeline.encoders import FORMATS, AudioFormat
from pipeline.settings import Setting, SpeakSettings, settings_at

MODEL = "tacotron2-waveglow"
# Clients are written for these names. There is one model, so they mean the same.
MODEL_ALIASES = ("tts-1", "tts-1-hd", "gpt-4o-mini-tts")

INVALID, SERVER_ERROR = "invalid_request_error", "server_error"  # OpenAI's types of errors
RETRY_AFTER = 1  # seconds


class ApiError(Exception):
    """A request that is answered with an error.

    Args:
        status: of HTTP.
        param: the field of the request that is to blame.
        code: for programs; OpenAI's where it has one.
        retry_after: seconds after which trying again makes sense.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = INVALID,
        param: str | None = None,
        code: str | None = None,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind
        self.param = param
        self.code = code
        self.retry_after = retry_after

    @property
    def body(self) -> dict[str, Any]:
        return {"error": {"message": str(self), "type": self.kind, "param": self.param, "code": self.code}}

    @property
    def headers(self) -> dict[str, str]:
        return {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}


class ErrorDetail(BaseModel):
    message: str
    type: Literal["invalid_request_error", "server_error"]
    param: str | None
    code: str | None


class ErrorBody(BaseModel):
    """The body of every answer with a status from 400 on."""

    error: ErrorDetail


class VoiceId(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    id: str


def _optional(description: str, **schema: Any) -> Any:
    """A field that need not be given; null means the same. `schema` says what JSON Schema can't see in its type."""
    return Field(None, description=description, json_schema_extra=schema)


def _setting(setting: Setting) -> tuple[Any, Any]:
    """The optional field of a setting. Its value is checked by `SpeakSettings`, whatever the interface."""
    schema: dict[str, Any] = {} if setting.default is None else {"default": setting.default}
    if setting.range is not None:
        schema |= {"minimum": setting.range[0], "maximum": setting.range[1]}
    if setting.choices:
        schema["enum"] = [*setting.choices, None]
    unset = f" [{setting.unset}]" if setting.unset else ""
    return setting.type | None, _optional(f"{setting.help}{unset}", **schema)


class _Request(BaseModel):
    """The body of `POST /v1/audio/speech`: OpenAI's fields, and the settings of speech."""

    model_config = ConfigDict(extra="forbid", strict=True)

    model: str = Field(description="one of /v1/models", json_schema_extra={"enum": [MODEL, *MODEL_ALIASES]})
    input: str = Field(description="the text to speak", json_schema_extra={"minLength": 1})
    voice: str | VoiceId = Field(description="one of /v1/audio/voices")
    response_format: str | None = _optional("of the audio", enum=[*FORMATS, None], default="mp3")
    stream_format: Literal["audio", "sse"] | None = _optional("plain bytes, or server-sent events", default="audio")
    instructions: str | None = _optional("accepted and not used: this model takes none")
    stream: bool | None = _optional("whether the audio is sent while it is made, or whole", default=True)
    alignment: bool | None = _optional("with stream_format sse: events that tell how the text was read", default=False)


_SETTINGS = {setting.name_at("http"): setting for setting in settings_at("http")}
SpeechRequest: type[_Request] = create_model(
    "SpeechRequest",
    __base__=_Request,
    __doc__=_Request.__doc__,
    **{name: _setting(setting) for name, setting in _SETTINGS.items()},  # type: ignore[call-overload]
)


@dataclass(frozen=True)
class SpeechOrder:
    """A request that has been checked: what to speak, how, and in which format."""

    text: str
    settings: SpeakSettings
    audio_format: AudioFormat
    events: bool  # server-sent events instead of plain bytes
    whole: bool  # one answer with true sizes instead of a stream


def read_order(body: bytes, voices: Collection[str], max_characters: int) -> SpeechOrder:
    """Checks the body of a request.

    Args:
        body: JSON in UTF-8.
        voices: the names that the voice answers to.
        max_characters: the longest text.

    Raises:
        ApiError: anything is wrong with it.
    """
    request = _parse(body)
    if request.model not in (MODEL, *MODEL_ALIASES):
        message = f"model {request.model!r} does not exist; this server has {MODEL!r}"
        raise ApiError(404, message, param="model", code="model_not_found")
    voice = request.voice if isinstance(request.voice, str) else request.voice.id
    _check_choice("voice", voice, voices)
    audio_format = FORMATS[_check_choice("response_format", request.response_format or "mp3", FORMATS)]
    if request.alignment and request.stream_format != "sse":
        raise ApiError(400, "alignment needs stream_format 'sse'", param="alignment")
    if request.stream is False and request.stream_format == "sse":
        raise ApiError(400, "stream false needs stream_format 'audio'", param="stream")
    if not request.input.strip():
        raise ApiError(400, "input is empty: give the text to speak", param="input", code="empty_input")
    if len(request.input) > max_characters:
        message = f"input has {len(request.input)} characters, and at most {max_characters} are spoken in one request"
        raise ApiError(413, message, param="input", code="string_above_max_length")
    try:
        given = request.model_dump(include={*_SETTINGS}, exclude_none=True)
        settings = SpeakSettings(
            **{_SETTINGS[name].name: value for name, value in given.items()}, keep_pictures=bool(request.alignment)
        )
        settings = replace(settings, sampling_rate=audio_format.sampling_rate(settings.sampling_rate))
    except UserError as error:
        raise api_error(error) from error
    events, whole = request.stream_format == "sse", request.stream is False
    return SpeechOrder(request.input, settings, audio_format, events, whole)


def api_error(error: UserError) -> ApiError:
    """An error of the library as an answer, by its kind."""
    message = str(error)
    if isinstance(error, InvalidInput):
        if error.setting is None:
            return ApiError(400, message, param="input")
        field = next((name for name, one in _SETTINGS.items() if one.name == error.setting), error.setting)
        return ApiError(400, message.replace(error.setting, field, 1), param=field, code="invalid_value")
    if isinstance(error, (Busy, Closed)):
        return unavailable(message, "queue_full" if isinstance(error, Busy) else "closed")
    return ApiError(500, message, kind=SERVER_ERROR, code="speech_failed")


def unavailable(message: str, code: str) -> ApiError:
    """A request that would be accepted at another time."""
    return ApiError(503, message, kind=SERVER_ERROR, code=code, retry_after=RETRY_AFTER)


def _parse(body: bytes) -> _Request:
    try:
        body.decode()
    except UnicodeDecodeError as error:
        raise ApiError(400, f"the body is not UTF-8: byte {error.start} can't be decoded") from error
    try:
        return SpeechRequest.model_validate_json(body)
    except ValidationError as error:
        raise _validation_error(error) from error


def _validation_error(error: ValidationError) -> ApiError:
    """pydantic's first finding in a sentence."""
    found = error.errors(include_url=False)
    first = found[0]
    if first["type"] == "json_invalid":
        return ApiError(400, f"the body is not JSON: {first['ctx']['error']}")
    place: Sequence[int | str] = first["loc"]
    if not place:
        return ApiError(400, "the body must be a JSON object")
    field = str(place[0])
    if first["type"] == "missing":
        return ApiError(400, f"{field} is missing", param=field, code="missing_required_parameter")
    if first["type"] == "extra_forbidden":
        near = difflib.get_close_matches(field, SpeechRequest.model_fields, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        return ApiError(400, f"unknown field {field!r}{hint}", param=field, code="unknown_parameter")
    # Of a field that may be one of several types: what came nearest.
    nearest = max((one for one in found if one["loc"][0] == field), key=lambda one: len(one["loc"]))
    return ApiError(400, f"{field}: {nearest['msg']}", param=field, code="invalid_type")


def _check_choice(field: str, value: str, choices: Collection[str]) -> str:
    if value not in choices:
        message = f"{field} {value!r} does not exist; choose one of {', '.join(choices)}"
        raise ApiError(400, message, param=field, code="invalid_value")
    return value
