"""The metadata of a model file, stored inside every ONNX file and beside every engine."""

import base64
import dataclasses
import json
import math
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

import numpy as np

from common.config import AudioConfig, Tacotron2Config, WaveGlowConfig

Part = Literal["encoder", "decoder_iter", "postnet", "waveglow"]
Precision = Literal["fp32", "fp16"]
ModelConfig = Tacotron2Config | WaveGlowConfig

PARTS: tuple[Part, ...] = ("encoder", "decoder_iter", "postnet", "waveglow")
METADATA_FORMAT = 3  # raised when the metadata or the tensors' contract changes
METADATA_KEY = "tacotron2_waveglow_tensorrt"
DEFAULT_SIGMA = 0.6  # the classic's; a checkpoint may carry its own
MAX_SIGMA = 10.0
MAX_GAIN = 100.0

Config = TypeVar("Config")


@dataclass(frozen=True)
class ModelMetadata:
    """The part and the model that a file holds, and the settings that running it needs beside its weights.

    Attributes:
        model: the configuration of the part's own model; Tacotron 2's gate_threshold and max_decoder_steps are the
            defaults of inference.
        checkpoint_sha256: of the checkpoint that the file was exported from; the parts of one model share it.
        sigma: WaveGlow's default standard deviation of the noise, 0 to MAX_SIGMA; None for Tacotron 2's parts.
        voice: the checkpoint's own description of its voice; "" where it has none.
        int8_lstms: the file stores the weights of the decoder's LSTMs in 8 bits.
        bias: WaveGlow's bias spectrum for the denoiser, filter_length // 2 + 1 float32 magnitudes measured in FP32;
            None for Tacotron 2's parts and where it was not measured.
        gain: multiplies the voice's audio; above 0 and up to MAX_GAIN.
        conditioning_rank: of WaveGlow's conditioning at the frames' rate; None where it is exact.
        conditioning_snr: how far the error of a lossy rank lies below the audio, in dB; None where nothing is lost.
        arpabet: whether Tacotron 2 was trained on ARPAbet; None where the checkpoint doesn't say.
    """

    part: Part
    precision: Precision
    model: ModelConfig
    audio: AudioConfig
    checkpoint_sha256: str
    sigma: float | None = None
    voice: str = ""
    int8_lstms: bool = False
    bias: tuple[float, ...] | None = field(default=None, repr=False)
    gain: float = 1.0
    conditioning_rank: int | None = None
    conditioning_snr: float | None = None
    arpabet: bool | None = None

    def to_json(self) -> str:
        fields = {**dataclasses.asdict(self), "bias": None if self.bias is None else _encoded(self.bias)}
        return json.dumps({"format": METADATA_FORMAT, **fields})

    @classmethod
    def from_json(cls, text: str) -> "ModelMetadata":
        """Raises ValueError, with the reason, if the text isn't metadata of this format."""
        fields = read_fields(text, cls, METADATA_FORMAT)
        model_class = WaveGlowConfig if fields["part"] == "waveglow" else Tacotron2Config
        try:
            fields["model"] = config_from(model_class, fields["model"])
            fields["audio"] = config_from(AudioConfig, fields["audio"])
            fields["bias"] = None if fields["bias"] is None else _decoded(fields["bias"])
            metadata = cls(**fields)
            metadata.check()
        except (AttributeError, TypeError) as error:
            raise ValueError(f"its metadata is damaged ({error})") from error
        return metadata

    def check(self) -> None:
        """Raises ValueError for values that this project never writes."""
        if self.part not in PARTS or self.precision not in ("fp32", "fp16"):
            raise ValueError(f"its metadata says {self.part} in {self.precision}, which is neither part nor precision")
        if self.part == "waveglow" or self.sigma is not None:
            check_number("sigma", self.sigma, 0, MAX_SIGMA)
        if check_number("gain", self.gain, 0, MAX_GAIN) == 0:
            raise ValueError("gain 0.0: must be above 0")
        bins = self.audio.filter_length // 2 + 1
        if self.bias is not None and (len(self.bias) != bins or not all(map(math.isfinite, self.bias))):
            raise ValueError(f"its denoiser's bias is not {bins} finite numbers")


def check_number(name: str, value: Any, low: float, high: float) -> float:
    """The value as a float. Raises ValueError unless it is a number from `low` to `high`, both included."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise ValueError(f"{name} {value}: must be a number from {low:g} to {high:g}")
    return float(value)


def read_fields(text: str, record_class: type, record_format: int) -> dict[str, Any]:
    """The fields of a dataclass that was written as JSON, with a "format" beside them.

    Raises:
        ValueError: the text is no JSON object, or of another format, or its keys are not the class's fields.
    """
    fields = json.loads(text)
    if not isinstance(fields, dict):
        raise ValueError("not a JSON object")
    found = fields.pop("format", None)
    if found != record_format:
        age = "an older" if isinstance(found, int) and found < record_format else "another"
        raise ValueError(f"written by {age} version of this project (format {found}; this one reads {record_format})")
    names = {field.name for field in dataclasses.fields(record_class)}
    if missing := sorted(names - fields.keys()):
        raise ValueError(f"lacks {', '.join(missing)}")
    if surplus := sorted(fields.keys() - names):
        raise ValueError(f"has unknown keys: {', '.join(surplus)}")
    return fields


def config_from(config_class: type[Config], values: dict[str, Any]) -> Config:
    """A config dataclass from a dictionary, by the names of its fields; other keys are ignored."""
    names = {field.name for field in dataclasses.fields(config_class)}  # type: ignore[arg-type]
    return config_class(**{name: value for name, value in values.items() if name in names})


def _encoded(numbers: tuple[float, ...]) -> str:
    return base64.b64encode(np.asarray(numbers, "<f4").tobytes()).decode()


def _decoded(text: str) -> tuple[float, ...]:
    return tuple(np.frombuffer(base64.b64decode(text, validate=True), "<f4").tolist())
