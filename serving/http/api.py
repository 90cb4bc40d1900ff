"""The speech API's requests and errors: OpenAI's, with this project's settings added."""

import difflib
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model
from pydantic_core import from_json

from common.errors import Busy, Closed, InvalidInput, UserError
from pipeline.encoders import FORMATS, AudioFormat
from pipeline.settings import Setting, SpeakSettings, settings_at

MODEL = "tacotron2-waveglow"
# Clients are written for these names. There is one model and one voice, so they mean the same.
MODELS = (MODEL, "tts-1", "tts-1-hd", "gpt-4o-mini-tts")
OPENAI_VOICES = (
    *("alloy", "ash", "ballad", "cedar", "coral", "echo", "fable"),
    *("marin", "nova", "onyx", "sage", "shimmer", "verse"),
)
_MODEL_DATE = re.compile(r"-\d{4}(-\d{2}-\d{2})?")  # OpenAI's: tts-1-1106, gpt-4o-mini-tts-2025-12-15
MOST_CHARACTERS = 400  # of an error's message: a client's own words may stand in it
PCM_RATE = 24_000  # Hz, by OpenAI's contract: raw samples can't say their rate, and its clients take this one


class ApiError(Exception):
    """A request that is answered with an error.

    Args:
        status: of HTTP.
        param: the field of the request that is to blame.
        code: for programs; OpenAI's where it has one.

    Attributes:
        retry_after: seconds after which trying again makes sense, where the status is 503.
    """

    retry_after = 1

    def __init__(self, status: int, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(_without_middle(message))
        self.status, self.param, self.code = status, param and _without_middle(param), code

    @property
    def body(self) -> dict[str, Any]:
        kind = "invalid_request_error" if self.status < 500 else "server_error"  # OpenAI's types
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}

    @property
    def headers(self) -> dict[str, str]:
        return {"Retry-After": str(self.retry_after)} if self.status == 503 else {}


def _without_middle(text: str) -> str:
    """At most MOST_CHARACTERS, and three dots: an error begins with what is wrong and ends with what to do."""
    half = MOST_CHARACTERS // 2
    return text if len(text) <= MOST_CHARACTERS else f"{text[:half]}...{text[-half:]}"


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


def _unused(reason: str) -> Any:
    return _optional(f"accepted and not used: {reason}")


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

    model: str = Field(description="one of /v1/models", json_schema_extra={"enum": [*MODELS]})
    input: str = Field(description="the text to speak", json_schema_extra={"minLength": 1})
    voice: str | VoiceId = Field(description="one of /v1/audio/voices")
    response_format: str | None = _optional("of the audio", enum=[*FORMATS, None], default="mp3")
    stream_format: Literal["audio", "sse"] | None = _optional("plain bytes, or server-sent events", default="audio")
    stream: bool | None = _optional("whether the audio is sent while it is made, or whole", default=True)
    alignment: bool | None = _optional("with stream_format sse: events that tell how the text was read", default=False)
    volume_multiplier: float | None = Field(None, ge=0, le=4, description="a gain; loud samples are bent, not cut")
    # What clients of OpenAI, Kokoro-FastAPI and others send.
    instructions: str | None = _unused("this model takes none")
    language: str | None = _unused("the voice speaks English")
    lang_code: str | None = _unused("the voice speaks English")
    user: str | None = _unused("nothing is kept about users")
    normalization_options: dict[str, Any] | None = _unused("see text_normalizer")
    download_format: str | None = _unused("the answer is the file")
    return_download_link: bool | None = _unused("the answer is the file")


_SETTINGS = {setting.name_at("http"): setting for setting in settings_at("http")}
SpeechRequest: type[_Request] = create_model(
    "SpeechRequest",
    __base__=_Request,
    __doc__=_Request.__doc__,
    **{name: _setting(setting) for name, setting in _SETTINGS.items()},  # type: ignore[call-overload]
)

# Deepgram's requests
_NOT_SPOKEN = ("ssml", "timestamps")  # a tag may be cut in two; messages carry samples alone
SPOKEN_QUERY = ("encoding", "container", "model", *(name for name in _SETTINGS if name not in _NOT_SPOKEN))
_DEEPGRAM_FIELDS = ("encoding", "container", "model", "mip_opt_out", "tag")
_DEEPGRAM_VOICE = re.compile(r"aura(-\d)?-[a-z]+-[a-z]{2}")
_NO_TEXT = {"model": MODEL, "input": "", "voice": ""}

Shape = Literal["audio", "events", "words", "captions"]


@dataclass(frozen=True)
class SpeechOrder:
    """A request that has been checked: what to speak, how, and in which format.

    Attributes:
        shape: of the answer: plain bytes; server-sent events; JSON of the audio and its words; or the same as
            Kokoro-FastAPI has it.
        whole: one answer with true sizes instead of a stream.
        gain: of the samples.
    """

    text: str
    settings: SpeakSettings
    audio_format: AudioFormat
    shape: Shape = "audio"
    whole: bool = False
    gain: float = 1.0


def read_order(
    body: bytes, voices: Collection[str], max_characters: int, defaults: Mapping[str, Any] | None = None
) -> SpeechOrder:
    """Checks the body of a request.

    Args:
        body: JSON in UTF-8.
        voices: the names that the voice answers to.
        max_characters: the longest text.
        defaults: of Kokoro-FastAPI's captions, which are asked for instead of plain audio: fields and their values.

    Raises:
        ApiError: anything is wrong with it.
    """
    fields = {**_fields(body), **(defaults or {})}
    request = _validated(lambda: SpeechRequest.model_validate(fields))
    check_model(request.model)
    voice = request.voice if isinstance(request.voice, str) else request.voice.id
    _check_choice("voice", voice, voices)
    check_text(request.input, max_characters)
    audio_format = FORMATS[_check_choice("response_format", request.response_format or "mp3", FORMATS)]
    settings = _settings(request, audio_format)
    shape: Shape = "events" if request.stream_format == "sse" else "audio"
    if defaults is not None:
        shape, settings = "captions", replace(settings, timestamps=True)
    elif settings.timestamps and shape == "audio":
        shape = "words"
    if request.alignment and shape != "events":
        raise ApiError(400, "alignment needs stream_format 'sse'", param="alignment")
    if request.stream is False and shape == "events":
        raise ApiError(400, "stream false needs stream_format 'audio'", param="stream")
    gain = 1.0 if request.volume_multiplier is None else request.volume_multiplier
    whole = request.stream is False or shape == "words"
    return SpeechOrder(request.input, settings, audio_format, shape, whole, gain)


def read_query(query: Mapping[str, str], voices: Collection[str]) -> SpeechOrder:
    """Checks what a WebSocket's address asks for. There is no text yet.

    Args:
        query: Deepgram's parameters, and settings of speech; values as written.

    Raises:
        ApiError: anything is wrong with it.
    """
    for name, only in (("encoding", "linear16"), ("container", "none")):
        _check_choice(name, query.get(name, only), [only])
    model = query.get("model", MODEL)
    if model not in voices and not _DEEPGRAM_VOICE.fullmatch(model):
        check_model(model)
    fields = {name: value for name, value in query.items() if name not in _DEEPGRAM_FIELDS}
    request = _validated(lambda: SpeechRequest.model_validate_strings({**fields, **_NO_TEXT}))
    for name in fields.keys() - _SETTINGS.keys():
        raise ApiError(400, f"{name} is not for this address", param=name, code="unknown_parameter")
    settings = _settings(request, FORMATS["pcm"])
    for setting in _NOT_SPOKEN:
        if getattr(settings, setting):
            raise ApiError(400, f"{setting} is not for this address", param=setting)
    return SpeechOrder("", settings, FORMATS["pcm"])


def read_spoken(body: bytes, query: Mapping[str, str], voices: Collection[str], max_characters: int) -> SpeechOrder:
    """Checks Deepgram's request for a whole text: `{"text": ...}`, and how it is spoken in the address.

    Raises:
        ApiError: anything is wrong with it.
    """
    order = read_query(query, voices)
    text = _fields(body).get("text")
    if not isinstance(text, str):
        raise ApiError(400, 'the body must be JSON: {"text": "..."}', param="text")
    check_text(text, max_characters, "text")
    return replace(order, text=text)


def check_text(text: str, max_characters: int, field: str = "input") -> None:
    """Raises ApiError for a text that is empty or too long."""
    if not text.strip():
        raise ApiError(400, f"{field} is empty: give the text to speak", param=field, code="empty_input")
    if len(text) > max_characters:
        message = f"{field} has {len(text)} characters, and at most {max_characters} are spoken in one request"
        raise ApiError(413, message, param=field, code="string_above_max_length")


def check_model(name: str) -> None:
    """Raises ApiError for a model that isn't answered for."""
    if not any(name == one or (name.startswith(one) and _MODEL_DATE.fullmatch(name[len(one) :])) for one in MODELS):
        message = f"model {name!r} does not exist; this server has {MODEL!r}"
        raise ApiError(404, message, param="model", code="model_not_found")


def _settings(request: _Request, audio_format: AudioFormat) -> SpeakSettings:
    fields = request.model_dump(include={*_SETTINGS}, exclude_none=True)
    given = {_SETTINGS[name].name: value for name, value in fields.items()}
    default = PCM_RATE if audio_format.name == "pcm" else None
    try:
        given["sampling_rate"] = audio_format.sampling_rate(given.get("sampling_rate", default))
        return SpeakSettings(**given, keep_pictures=bool(request.alignment))
    except UserError as error:
        raise api_error(error) from error


def api_error(error: UserError) -> ApiError:
    """An error of the library as an answer, by its kind."""
    message = str(error)
    if isinstance(error, InvalidInput):
        if error.setting is None:
            return ApiError(400, message, param="input")
        field = next((name for name, one in _SETTINGS.items() if one.name == error.setting), error.setting)
        return ApiError(400, message.replace(error.setting, field, 1), param=field, code="invalid_value")
    if isinstance(error, (Busy, Closed)):
        return ApiError(503, message, code="queue_full" if isinstance(error, Busy) else "closed")
    return ApiError(500, message, code="speech_failed")


def read_json(text: str) -> Any:
    """A client's JSON. Raises ValueError."""
    try:
        return from_json(text)
    except ValueError as error:
        wrong = "holds half of a surrogate pair, which is no character" if "hex escape" in str(error) else "is not JSON"
        raise ValueError(f"{wrong}: {error}") from error


def _fields(body: bytes) -> dict[str, Any]:
    try:
        fields = read_json(body.decode())
    except UnicodeDecodeError as error:
        raise ApiError(400, f"the body is not UTF-8: byte {error.start} can't be decoded") from error
    except ValueError as error:
        raise ApiError(400, f"the body {error}") from error
    if not isinstance(fields, dict):
        raise ApiError(400, "the body must be a JSON object")
    return fields


def _validated(validate: Callable[[], _Request]) -> _Request:
    try:
        return validate()
    except ValidationError as error:
        raise _validation_error(error) from error


def _validation_error(error: ValidationError) -> ApiError:
    """pydantic's first finding in a sentence."""
    found = error.errors(include_url=False)
    first = found[0]
    field = str(first["loc"][0])
    if first["type"] == "missing":
        return ApiError(400, f"{field} is missing", param=field, code="missing_required_parameter")
    if first["type"] == "extra_forbidden":
        near = difflib.get_close_matches(field, SpeechRequest.model_fields, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        return ApiError(400, f"unknown field {field!r}{hint}", param=field, code="unknown_parameter")
    # Of a field that may be one of several types: what came nearest.
    nearest = max((one for one in found if one["loc"][0] == field), key=lambda one: len(one["loc"]))
    name = ".".join([field, *map(str, nearest["loc"][2:])])  # what is second names a type
    return ApiError(400, f"{name}: {nearest['msg']}", param=field, code="invalid_type")


def _check_choice(field: str, value: str, choices: Collection[str]) -> str:
    if value not in choices:
        message = f"{field} {value!r} does not exist; choose one of {', '.join(choices)}"
        raise ApiError(400, message, param=field, code="invalid_value")
    return value
