"""What a model file says about itself: stored inside every ONNX file and beside every engine."""

import dataclasses
import json
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from common.config import AudioConfig, Tacotron2Config, WaveGlowConfig

Part = Literal["encoder", "decoder_iter", "postnet", "waveglow"]
Precision = Literal["fp32", "fp16"]
ModelConfig = Tacotron2Config | WaveGlowConfig

PARTS: tuple[Part, ...] = ("encoder", "decoder_iter", "postnet", "waveglow")
FORMAT = 1  # of this metadata and of the tensors' contract; raised when either changes
METADATA_KEY = "tacotron2_waveglow_tensorrt"
DEFAULT_SIGMA = 0.6  # the classic's; a checkpoint may carry its own

Config = TypeVar("Config")


@dataclass(frozen=True)
class ModelMetadata:
    """Which part of which model a file holds.

    `model` is the part's own model's configuration; `sigma` the default standard deviation of WaveGlow's noise (None
    for Tacotron 2's parts); `checkpoint_sha256` the checkpoint the file was exported from, by which parts of one model
    are known to belong together.
    """

    part: Part
    precision: Precision
    model: ModelConfig
    audio: AudioConfig
    checkpoint_sha256: str
    sigma: float | None = None
    voice: str = ""
    int8_lstms: bool = False  # of the decoder: weights and their products in 8 bits

    def to_json(self) -> str:
        return json.dumps({"format": FORMAT, **dataclasses.asdict(self)})

    @classmethod
    def from_json(cls, text: str) -> "ModelMetadata":
        """Raises ValueError if the text isn't metadata of this format."""
        try:
            fields = json.loads(text)
            if fields.pop("format") != FORMAT:
                raise ValueError("written by another version of this project")
            model_class = WaveGlowConfig if fields["part"] == "waveglow" else Tacotron2Config
            fields["model"] = config_from(model_class, fields["model"])
            fields["audio"] = config_from(AudioConfig, fields["audio"])
            return cls(**fields)
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(f"incomplete metadata ({error})") from error


def config_from(config_class: type[Config], values: dict[str, Any]) -> Config:
    """A config dataclass from a dictionary, by the names of its fields; other keys are passed over."""
    names = {field.name for field in dataclasses.fields(config_class)}  # type: ignore[arg-type]
    return config_class(**{name: value for name, value in values.items() if name in names})
