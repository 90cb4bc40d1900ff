"""What a caller may choose: how a text is spoken, and how the work is cut. Typed and frozen; no command line here."""

from dataclasses import dataclass, field, fields
from numbers import Integral, Real
from typing import Any

from common.errors import InvalidInput
from tacotron2.text.lexicon import Lexicon
from tacotron2.text.normalizer import NORMALIZERS

MAX_SYMBOLS = 256  # of one piece: the classic's largest profile, and longer than attention was trained to hold
SAMPLING_RATES = (8000, 16000, 22050, 24000, 44100, 48000)  # Hz that speech may be resampled to

RANGES = {  # inclusive; None is allowed where it is the default
    "seed": (0, 2**63),
    "sigma": (0, 10),
    "speed": (0.5, 2.0),
    "denoise": (0, 1000),
    "sentence_silence": (0, 10),
    "gate_threshold": (1e-6, 1.0),  # 1 is never passed
    "max_decoder_steps": (1, 100_000),
    "batch_size": (1, 1024),
    "max_symbols": (16, 2048),
    "window": (96, 100_000),
}
WHOLE_NUMBERS = ("seed", "max_decoder_steps", "batch_size", "max_symbols", "window")


@dataclass(frozen=True)
class SpeakSettings:
    """How a text is spoken. None means the voice's own value.

    Attributes:
        seed: of all random numbers; the same seed and text give the same audio, but for rounding.
        sigma: standard deviation of WaveGlow's noise.
        speed: 0.5 (half as fast) to 2.0; the pitch stays.
        denoise: how much of WaveGlow's own hum is taken out; 0 is nothing, 0.01 the classic's strength.
        gate_threshold: probability of the stop gate above which an utterance ends.
        max_decoder_steps: most mel frames of a piece.
        final_period: whether text without end punctuation gets a period, after which voices stop more surely.
        text_normalizer: "english" reads numbers, dates, units and the like; "none" leaves the text to the classic's
            cleaners.
        lexicon: the user's own readings of words, applied after the normaliser.
        sampling_rate: in Hz, one of SAMPLING_RATES: the audio is resampled to it.
        keep_pictures: whether results carry their mel spectrogram and alignment.
        sentence_silence: seconds of silence after each sentence inside a phrase.
        ssml: whether the text is SSML.
        timestamps: whether results carry the times of their words.
    """

    seed: int = 0
    sigma: float | None = None
    speed: float = 1.0
    denoise: float = 0.0
    gate_threshold: float | None = None
    max_decoder_steps: int | None = None
    final_period: bool = True
    text_normalizer: str = "english"
    lexicon: Lexicon | None = field(default=None, compare=False)
    sampling_rate: int | None = None
    keep_pictures: bool = False
    sentence_silence: float = 0.0
    ssml: bool = False
    timestamps: bool = False

    def __post_init__(self) -> None:
        """Raises InvalidInput for a value of another type or outside of its range."""
        check_numbers(self)
        for name, choices in (("sampling_rate", (None, *SAMPLING_RATES)), ("text_normalizer", NORMALIZERS)):
            value = getattr(self, name)
            if value not in choices:
                listed = ", ".join(str(choice) for choice in choices if choice is not None)
                raise InvalidInput(f"{name} {value}: must be one of {listed}", name)
        if self.lexicon is not None and not isinstance(self.lexicon, Lexicon):
            kind = type(self.lexicon).__name__
            raise InvalidInput(f"lexicon: must be a Lexicon, as Lexicon.load(path) gives it, not a {kind}", "lexicon")


@dataclass(frozen=True)
class WorkSettings:
    """How the work is cut; it changes speed and memory, not what is said.

    Attributes:
        batch_size: pieces of text decoded together, at most.
        max_symbols: longest piece that a text is split into.
        window: mel frames vocoded at a time; None takes what suits the device.
        cuda_graph: whether the decoder loop is captured, where there is a GPU.
    """

    batch_size: int = 8
    max_symbols: int = MAX_SYMBOLS
    window: int | None = None
    cuda_graph: bool = True

    def __post_init__(self) -> None:
        """Raises InvalidInput for a value of another type or outside of its range."""
        check_numbers(self)


def check_numbers(settings: SpeakSettings | WorkSettings) -> None:
    """Makes the settings of RANGES an int or a float each.

    Raises:
        InvalidInput: one is no number, or is outside of its range (a NaN is inside of none).
    """
    for setting in fields(settings):
        name, value = setting.name, getattr(settings, setting.name)
        if name not in RANGES or (value is None and setting.default is None):
            continue
        whole = name in WHOLE_NUMBERS
        kind: Any = Integral if whole else Real
        if isinstance(value, bool) or not isinstance(value, kind):
            raise InvalidInput(f"{name} {value!r}: must be a {'whole ' if whole else ''}number", name)
        low, high = RANGES[name]
        if not low <= value <= high:
            raise InvalidInput(f"{name} {value}: must be between {low:g} and {high:g}", name)
        object.__setattr__(settings, name, int(value) if whole else float(value))
