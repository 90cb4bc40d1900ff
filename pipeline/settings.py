"""Every setting of speech, declared once: name, type, default, range, meaning, and where it may be given.

Command lines, the HTTP schema, Triton's inputs and all their checks are made from these declarations (`settings_at`).
"""

import dataclasses
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from numbers import Integral, Real
from pathlib import Path
from types import NoneType
from typing import Any, Literal, TypedDict, TypeVar, get_args, get_origin, get_type_hints

import numpy as np
from typing_extensions import Self

from common.cpu_backend import MOST_THREADS, CpuBackend, CpuPrecision
from common.errors import InvalidInput, check_type
from common.metadata import MAX_SIGMA
from common.onnx_engine import GpuProvider
from tacotron2.decoder import EXTRA_FRAMES, FRAMES_PER_SYMBOL
from tacotron2.text.lexicon import Lexicon
from tacotron2.text.normalizer import NORMALIZERS
from waveglow.denoiser import DEFAULT_STRENGTH

MAX_SYMBOLS = 256  # of one piece: the classic's largest profile, and longer than attention was trained to hold
SAMPLING_RATES = (8000, 16000, 22050, 24000, 44100, 48000)  # Hz that speech may be resampled to

Interface = Literal["command line", "corpus", "http", "triton"]
EVERYWHERE: tuple[Interface, ...] = get_args(Interface)
COMMAND_LINES: tuple[Interface, ...] = ("command line", "corpus")
Method = TypeVar("Method", bound=Callable[..., Any])
_KINDS: dict[type, tuple[Any, str]] = {
    int: (Integral, "a whole number"),
    float: (Real, "a number"),
    bool: ((bool, np.bool_), "True or False"),
    str: (str, "a str"),
}


@dataclass(frozen=True, kw_only=True)
class Setting:
    """The declaration of a setting.

    Attributes:
        help: what it means; units are in it.
        interfaces: where it may be given, beside Python.
        range: its least and its largest value.
        choices: its values, where they can be listed.
        unset: what None means, in words.
        off: what its flag says that turns it off, where it is on by default.
        bare: what its flag means without a value.
        flags: its spellings on command lines [--name, or --no-name to turn it off].
        aliases: its name at an interface, where that isn't its own.
        name, type, default: as the dataclass has them; the type is int, float, bool, str or Lexicon.
    """

    help: str
    interfaces: Sequence[Interface] = ()
    range: tuple[float, float] | None = None
    choices: tuple[Any, ...] = ()
    unset: str = ""
    off: str = ""
    bare: Any = None
    flags: tuple[str, ...] = ()
    aliases: tuple[tuple[Interface, str], ...] = ()
    name: str = ""
    type: type = str
    default: Any = None

    def name_at(self, interface: Interface) -> str:
        return dict(self.aliases).get(interface, self.name)

    def checked(self, value: Any) -> Any:
        """The value as its own type. Raises InvalidInput for another type and for what is out of range."""
        if value is None and self.default is None:
            return None
        if self.type is Lexicon:
            return self._lexicon(value)
        kind, article = _KINDS[self.type]
        is_number = self.type in (int, float)
        if not isinstance(value, kind) or (is_number and isinstance(value, bool)):
            if is_number and isinstance(value, Real) and not isinstance(value, bool):
                raise InvalidInput(f"{self.name} {value}: must be {article}", self.name)
            found = "None" if value is None else type(value).__name__
            raise InvalidInput(f"{self.name}: must be {article}, not {found}", self.name)
        if self.range is not None and not self.range[0] <= value <= self.range[1]:  # a NaN is between nothing
            low, high = self.range
            shown = str if self.type is int else "{:g}".format  # which rounds
            raise InvalidInput(f"{self.name} {value}: must be between {shown(low)} and {shown(high)}", self.name)
        if self.choices and value not in self.choices:
            raise InvalidInput(f"{self.name} {value}: must be one of {', '.join(map(str, self.choices))}", self.name)
        return self.type(value)

    def _lexicon(self, value: Any) -> Lexicon:
        if isinstance(value, (str, Path)):
            return Lexicon.load(value)
        if not isinstance(value, Lexicon):
            found = type(value).__name__
            raise InvalidInput(f"{self.name}: must be a Lexicon or the path of its file, not {found}", self.name)
        return value


def _setting(default: Any, help: str, interfaces: Sequence[Interface] = (), **more: Any) -> Any:
    """A field of a dataclass that is a setting. `more` as for `Setting`."""
    return field(default=default, metadata={"setting": Setting(help=help, interfaces=interfaces, **more)})


@dataclass(frozen=True)
class _Checked:
    """A dataclass of settings. Its values are checked and made their own types."""

    def __post_init__(self) -> None:
        """Raises InvalidInput for a value of another type or out of range, and UserError for a bad lexicon file."""
        for setting in settings_of(type(self)).values():  # type: ignore[arg-type]  # a class can be hashed
            object.__setattr__(self, setting.name, setting.checked(getattr(self, setting.name)))

    @classmethod
    def given(cls, settings: Self | None, argument: str = "settings", **options: Any) -> Self:
        """An argument's settings, or the default ones for None, with those changed that are given by name.

        Raises InvalidInput for an argument of another type and for an unknown name, and otherwise as the class does.
        """
        known = settings_of(cls)  # type: ignore[arg-type]  # a class can be hashed
        if unknown := [name for name in options if name not in known]:
            raise InvalidInput(f"{unknown[0]}: there is no such setting; there are {', '.join(known)}", unknown[0])
        if settings is None:
            return cls(**options)
        check_type(argument, settings, cls)
        return dataclasses.replace(settings, **options) if options else settings


@dataclass(frozen=True)
class SpeakSettings(_Checked):
    """How a text is spoken. None means the voice's own value."""

    seed: int = _setting(0, "the same seed and text give the same audio", EVERYWHERE, range=(0, 2**63 - 1))
    sigma: float | None = _setting(
        None,
        "standard deviation of WaveGlow's noise",
        EVERYWHERE,
        range=(0, MAX_SIGMA),
        unset="the voice's",
        flags=("-s", "--sigma", "--sigma-infer"),
    )
    speed: float = _setting(1.0, "0.5 is half as fast, 2 twice as fast; the pitch stays", EVERYWHERE, range=(0.5, 2.0))
    denoise: float = _setting(
        0.0,
        f"how much of WaveGlow's own hum is taken out; {DEFAULT_STRENGTH} is the classic's strength",
        EVERYWHERE,
        range=(0, 1000),
        bare=DEFAULT_STRENGTH,
        flags=("-d", "--denoise", "--denoising-strength"),
    )
    gate_threshold: float | None = _setting(
        None,
        "probability of the stop gate above which an utterance ends; 1 is never passed",
        EVERYWHERE,
        range=(1e-6, 1.0),
        unset="the voice's",
    )
    max_decoder_steps: int | None = _setting(
        None,
        f"most mel frames of a piece of text; never more than {FRAMES_PER_SYMBOL} a symbol and {EXTRA_FRAMES}",
        EVERYWHERE,
        range=(1, 100_000),
        unset="the voice's",
    )
    final_period: bool = _setting(
        True,
        "text without end punctuation gets a period, at which voices stop more surely",
        EVERYWHERE,
        off="leave text without end punctuation as it is",
    )
    text_normalizer: str = _setting(
        "english",
        "what reads numbers, dates, units and the like as words; none leaves them to the classic's cleaners",
        EVERYWHERE,
        choices=NORMALIZERS,
    )
    lexicon: Lexicon | None = _setting(
        None, "file of words and how to say them: word, tab, respelling or {ARPAbet}", COMMAND_LINES
    )
    sampling_rate: int | None = _setting(
        None,
        "in Hz, what the audio is resampled to",
        EVERYWHERE,
        choices=SAMPLING_RATES,
        unset="the voice's",
        flags=("--sample-rate",),
        aliases=(("http", "sample_rate"), ("triton", "output_rate")),
    )
    keep_pictures: bool = _setting(False, "whether results carry their mel spectrogram and alignment")
    sentence_silence: float = _setting(
        0.0,
        "seconds of silence after each sentence inside a text; each is then spoken by itself",
        EVERYWHERE,
        range=(0, 10),
    )
    ssml: bool = _setting(False, "the text is SSML", EVERYWHERE)
    timestamps: bool = _setting(False, "results carry the times of their words", ("corpus", "http", "triton"))


class SpeakOptions(TypedDict, total=False):
    """`SpeakSettings` as keyword arguments, for type checkers. A test holds them equal."""

    seed: int
    sigma: float | None
    speed: float
    denoise: float
    gate_threshold: float | None
    max_decoder_steps: int | None
    final_period: bool
    text_normalizer: str
    lexicon: Lexicon | str | Path | None
    sampling_rate: int | None
    keep_pictures: bool
    sentence_silence: float
    ssml: bool
    timestamps: bool


@dataclass(frozen=True)
class WorkSettings(_Checked):
    """How the work is cut; it changes speed and memory, not what is spoken."""

    batch_size: int = _setting(8, "pieces of text decoded together, at most", COMMAND_LINES, range=(1, 1024))
    max_symbols: int = _setting(
        MAX_SYMBOLS, "longest piece of text; longer text is split and joined", COMMAND_LINES, range=(16, 2048)
    )
    window: int | None = _setting(
        None,
        "mel frames vocoded at a time: less takes less memory",
        COMMAND_LINES,
        range=(96, 100_000),
        unset="what suits the device",
    )
    cuda_graph: bool = _setting(
        True,
        "whether the decoder loop is captured on a GPU",
        COMMAND_LINES,
        off="step the decoder from the host, on a GPU too",
    )


@dataclass(frozen=True)
class RuntimeSettings(_Checked):
    """What runs model files. All but `device` is for `.onnx` files alone."""

    threads: int | None = _setting(
        None, "CPU threads, for .onnx files", COMMAND_LINES, range=(1, MOST_THREADS), unset="OMP_NUM_THREADS, or all"
    )
    cpu_backend: CpuBackend = _setting(
        "auto",
        "what runs .onnx files on a CPU; auto takes what is faster on this processor",
        ("command line",),
        choices=get_args(CpuBackend),
    )
    cpu_precision: CpuPrecision = _setting(
        "fp32",
        "what .onnx files are computed in on a CPU; bf16 needs AMX and OpenVINO",
        ("command line",),
        choices=get_args(CpuPrecision),
    )
    device: str = _setting("cpu", "what runs .onnx files: cpu, cuda or cuda:N", ("command line",))
    gpu_provider: GpuProvider = _setting(
        "cuda",
        "what ONNX Runtime runs .onnx files with on --device cuda",
        ("command line",),
        choices=get_args(GpuProvider),
    )


class RuntimeOptions(TypedDict, total=False):
    """`RuntimeSettings` as keyword arguments, for type checkers. A test holds them equal."""

    threads: int | None
    cpu_backend: CpuBackend
    cpu_precision: CpuPrecision
    device: str
    gpu_provider: GpuProvider


@cache
def settings_of(kind: type) -> dict[str, Setting]:
    """The settings that a dataclass declares, by name."""
    hints = get_type_hints(kind)
    return {
        one.name: dataclasses.replace(
            one.metadata["setting"], name=one.name, type=_type_of(hints[one.name]), default=one.default
        )
        for one in dataclasses.fields(kind)
    }


def written_out(kind: type, options: type) -> Callable[[Method], Method]:
    """Shows `**options` of a method as the settings that they are, one by one, in `help()` and notebooks.

    Args:
        kind: the dataclass of the settings.
        options: the TypedDict of their types.
    """
    hints = get_type_hints(options)

    def show(method: Method) -> Method:
        signature = inspect.signature(method)
        own = [one for one in signature.parameters.values() if one.kind is not one.VAR_KEYWORD]
        shown = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=setting.default, annotation=hints[name])
            for name, setting in settings_of(kind).items()
        ]
        method.__signature__ = signature.replace(parameters=[*own, *shown])  # type: ignore[attr-defined]
        return method

    return show


def _type_of(hint: Any) -> type:
    """The type of a setting's values: float for `float | None`, str for a Literal."""
    if get_origin(hint) is Literal:
        return str
    return next((part for part in get_args(hint) if part is not NoneType), hint)


def settings_at(interface: Interface, kind: type = SpeakSettings) -> list[Setting]:
    """The settings that are offered at an interface, in the order of their declaration."""
    return [setting for setting in settings_of(kind).values() if interface in setting.interfaces]
