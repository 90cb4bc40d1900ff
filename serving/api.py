"""The speech API's requests and errors, as OpenAI's API has them, with this project's settings beside."""

import difflib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from common.errors import UserError
from pipeline.settings import SpeakSettings
from serving.encoders import FORMATS, AudioFormat
from tacotron2.text.normalizer import NORMALIZERS

MODEL = "tacotron2-waveglow"
# Clients are written for these names. There is one model, so they mean the same.
MODEL_ALIASES = ("tts-1", "tts-1-hd", "gpt-4o-mini-tts")

INVALID, SERVER_ERROR = "invalid_request_error", "server_error"  # OpenAI's types of errors
_OUR_NAMES = {"sampling_rate": "sample_rate"}  # fields that the API calls otherwise than SpeakSettings does


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


class VoiceId(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    id: str


class SpeechRequest(BaseModel):
    """The body of `POST /v1/audio/speech`. The first group is OpenAI's, the second one ours."""

    model_config = ConfigDict(extra="forbid", strict=True)

    model: str = Field(description="one of /v1/models")
    input: str = Field(description="the text to speak")
    voice: str | VoiceId = Field(description="one of /v1/audio/voices")
    response_format: str = Field("mp3", description="one of " + ", ".join(FORMATS))
    speed: float = Field(1.0, description="0.5 to 2.0; the pitch stays")
    stream_format: Literal["audio", "sse"] = Field("audio", description="plain bytes, or server-sent events")
    instructions: str | None = Field(None, description="accepted and not used: this model takes none")

    seed: int = Field(0, description="the same seed and text give the same audio")
    sample_rate: int | None = Field(None, description="in Hz [the voice's own]")
    sigma: float | None = Field(None, description="standard deviation of WaveGlow's noise [the voice's own]")
    denoise: float = Field(0.0, description="strength of the denoiser; 0.01 is the classic's")
    gate_threshold: float | None = Field(None, description="probability above which an utterance ends")
    max_decoder_steps: int | None = Field(None, description="most mel frames of a piece of text")
    final_period: bool = Field(True, description="add a period where a text has no end punctuation")
    text_normalizer: str = Field("english", description="one of " + ", ".join(NORMALIZERS))
    alignment: bool = Field(False, description="with stream_format sse: events that tell how the text was read")


@dataclass(frozen=True)
class SpeechOrder:
    """A request that has been checked: what to speak, how, and in which format."""

    text: str
    settings: SpeakSettings
    audio_format: AudioFormat
    events: bool  # server-sent events instead of plain bytes


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
    _check_choice("response_format", request.response_format, FORMATS)
    _check_choice("text_normalizer", request.text_normalizer, NORMALIZERS)
    if request.alignment and request.stream_format != "sse":
        raise ApiError(400, "alignment needs stream_format 'sse'", param="alignment")
    if not request.input.strip():
        raise ApiError(400, "input is empty: give the text to speak", param="input", code="empty_input")
    if len(request.input) > max_characters:
        message = f"input has {len(request.input)} characters, and at most {max_characters} are spoken in one request"
        raise ApiError(413, message, param="input", code="string_above_max_length")
    audio_format = FORMATS[request.response_format]
    try:
        settings = SpeakSettings(
            seed=request.seed,
            sigma=request.sigma,
            speed=request.speed,
            denoise=request.denoise,
            gate_threshold=request.gate_threshold,
            max_decoder_steps=request.max_decoder_steps,
            final_period=request.final_period,
            text_normalizer=request.text_normalizer,
            sampling_rate=audio_format.sampling_rate(request.sample_rate),
            keep_pictures=request.alignment,
        )
    except UserError as error:
        raise setting_error(error) from error
    return SpeechOrder(request.input, settings, audio_format, request.stream_format == "sse")


def setting_error(error: UserError) -> ApiError:
    """An error that names a setting first, as those of `SpeakSettings` do, as an answer that names its field."""
    name, _, rest = str(error).partition(" ")
    field = _OUR_NAMES.get(name, name)
    if field not in SpeechRequest.model_fields:
        return ApiError(400, str(error), param="input")
    return ApiError(400, f"{field} {rest}", param=field, code="invalid_value")


def _parse(body: bytes) -> SpeechRequest:
    try:
        body.decode()
    except UnicodeDecodeError as error:
        raise ApiError(400, f"the body is not UTF-8: byte {error.start} can't be decoded") from error
    try:
        return SpeechRequest.model_validate_json(body)
    except ValidationError as error:
        raise _validation_error(error.errors(include_url=False)[0]) from error


def _validation_error(first: Mapping[str, Any]) -> ApiError:
    """pydantic's first finding in a sentence."""
    if first["type"] == "json_invalid":
        return ApiError(400, f"the body is not JSON: {first['ctx']['error']}")
    if not first["loc"]:
        return ApiError(400, "the body must be a JSON object")
    field = str(first["loc"][0])
    if first["type"] == "missing":
        return ApiError(400, f"{field} is missing", param=field, code="missing_required_parameter")
    if first["type"] == "extra_forbidden":
        near = difflib.get_close_matches(field, SpeechRequest.model_fields, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        return ApiError(400, f"unknown field {field!r}{hint}", param=field, code="unknown_parameter")
    return ApiError(400, f"{field}: {first['msg']}", param=field, code="invalid_type")


def _check_choice(field: str, value: str, choices: Collection[str]) -> None:
    if value not in choices:
        message = f"{field} {value!r} does not exist; choose one of {', '.join(choices)}"
        raise ApiError(400, message, param=field, code="invalid_value")
