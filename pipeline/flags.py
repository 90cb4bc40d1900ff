"""The flags that scripts share, and the typed settings that they become: argparse ends here.

A checkpoint carries its own dimensions; a flag of `add_model_flags` is needed only where it carries none, and must
agree where it does.
"""

import argparse
import dataclasses
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch

from common.cli import bounded_float, bounded_int, given_flags, is_open, settings_from
from common.config import AudioConfig
from common.engine import Engine
from common.errors import UserError
from common.files import output_folder
from common.metadata import PARTS, Part
from common.model_flags import part_flag
from common.phrases import Phrase, live_phrases, read_phrases
from common.wav import SAMPLE_FORMATS
from pipeline.captions import CAPTION_FORMATS
from pipeline.console import Request
from pipeline.encoders import FORMATS, available_formats
from pipeline.settings import (
    RuntimeOptions,
    RuntimeSettings,
    Setting,
    SpeakSettings,
    WorkSettings,
    settings_at,
    settings_of,
)
from pipeline.speak import OutputSettings
from tacotron2.loading import DEMO_TACOTRON2
from tacotron2.text.lexicon import Lexicon
from waveglow.conditioning import Conditioning, parse_conditioning
from waveglow.denoiser import DEFAULT_STRENGTH
from waveglow.loading import DEMO_WAVEGLOW

STDOUT = Path("-")  # as an output: audio to standard output
WAV_FORMATS = ("wav", *SAMPLE_FORMATS)
# Flags that stand among those of speaking: not repeated as a model's dimensions.
SPEAKING_DIMENSIONS = ("max_decoder_steps", "gate_threshold")
_WAVEGLOW_FLAGS = {
    "n_flows": "--flows",
    "n_group": "--groups",
    "n_early_every": "--early-every",
    "n_early_size": "--early-size",
}
_BOUNDED: dict[type, Callable[..., Callable[[str], float]]] = {int: bounded_int, float: bounded_float}


def add_speak_flags(parser: argparse.ArgumentParser, text_without_flag: bool = False) -> None:
    """Adds the flags of every script that speaks phrases; with `text_without_flag` a phrase needs no --text."""
    source = parser.add_mutually_exclusive_group(required=True)
    if text_without_flag:
        source.add_argument("words", nargs="?", metavar="TEXT", help="a phrase to speak")
    source.add_argument(
        "-i", "--input", help="text file with a phrase a line, or - for standard input, spoken as its lines come"
    )
    source.add_argument("--text", action="append", help="a phrase to speak; may be given several times")
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        default=Path("output"),
        help="folder for the audio files, which are scaled to full scale; or a file for one phrase, as hello.mp3; or - "
        "(see --stream)",
    )
    parser.add_argument(
        "--stream",
        action="store_true",
        help="audio to standard output as it is made, line after line; everything else goes to standard error",
    )
    parser.add_argument("--show-text", action="store_true", help="print how each line will be read, and speak nothing")
    voice = parser.add_argument_group("voice")
    add_setting_flags(voice, settings_at("command line"))
    _add_audio_flags(voice)
    work = parser.add_argument_group("work")
    add_setting_flags(work, settings_at("command line", WorkSettings))
    work.add_argument("--strict", action="store_true", help="stop at the first line that can't be spoken")
    work.add_argument(
        "--resume", action="store_true", help="leave out what an earlier run with the same settings finished"
    )
    results = parser.add_argument_group("results")
    results.add_argument(
        "--format",
        choices=dict.fromkeys((*WAV_FORMATS, *FORMATS)),
        help="of the audio; wav is float32 in files and 16 bits to standard output, pcm16 a wav of 16 bits anywhere "
        "[what -o's name says; float32 in folders, pcm to standard output]",
    )
    results.add_argument("--captions", choices=CAPTION_FORMATS, help="save when each word is heard beside the audio")
    results.add_argument(
        "--plots", action="store_true", help="save pictures of waveform, mel spectrogram and alignment"
    )
    results.add_argument("--page", action="store_true", help="write index.html with players and pictures")
    results.add_argument("--log-file", default=OutputSettings.log_file, help="JSON log, in the output folder")


def add_setting_flags(group: argparse._ActionsContainer, settings: Iterable[Setting]) -> None:
    """Adds the flags of settings. `settings_from` makes their dataclass of the values."""
    for setting in settings:
        name = f"--{'no-' if setting.off else ''}{setting.name.replace('_', '-')}"
        options: dict[str, Any] = {"dest": setting.name, "default": setting.default, "help": _help_of(setting)}
        if setting.type is bool:
            options["action"] = "store_false" if setting.off else "store_true"
        elif setting.bare is not None:
            options |= {"action": _WithOrWithoutValue, "nargs": "?", "const": setting.bare, "default": None}
        if setting.choices:
            options |= {"choices": setting.choices, "type": setting.type}
        elif setting.type in _BOUNDED and setting.range is not None:
            options["type"] = _BOUNDED[setting.type](*setting.range)
        elif setting.type is Lexicon:
            options["type"] = Path
        group.add_argument(*(setting.flags or (name,)), **options)


def _help_of(setting: Setting) -> str:
    if setting.off:
        return setting.off
    if setting.bare is not None:
        return f"{setting.help} [{setting.default:g}; without a value {setting.bare:g}]"
    return f"{setting.help} [{setting.unset}]" if setting.unset else setting.help


class _WithOrWithoutValue(argparse.Action):
    """A flag that may come without a value, which then doesn't change what an earlier one gave."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option: str | None = None
    ) -> None:
        if values is not self.const or getattr(namespace, self.dest) is None:
            setattr(namespace, self.dest, values)


def _add_audio_flags(group: argparse._ArgumentGroup) -> None:
    agrees = "must agree with the model's [the model's]"
    group.add_argument("-sr", "--sampling-rate", dest="model_sampling_rate", type=int, help=f"in Hz; {agrees}")
    group.add_argument("--stft-hop-length", dest="model_hop_length", type=int, help=f"in samples; {agrees}")


def add_benchmark_voice_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of speaking that benchmarks have, under the classic's names."""
    voice = parser.add_argument_group("voice")
    add_setting_flags(voice, (settings_of(SpeakSettings)[name] for name in ("sigma", "denoise")))
    _add_audio_flags(voice)


def add_engine_flags(parser: argparse.ArgumentParser, note: str | None = None, required: bool = False) -> None:
    """Adds the four model files, and what every script that runs them takes."""
    group = parser.add_argument_group("models", note)
    add_part_flags(group, required)
    group.add_argument("--waveglow-ckpt", default="", help="classic flag: anything given turns the denoiser on")
    group.add_argument("--fp16", action="store_true", help="the models are in half precision")
    add_setting_flags(group, settings_at("command line", RuntimeSettings))


def add_part_flags(group: argparse._ActionsContainer, required: bool = False) -> None:
    """Adds the four model files, as `model_paths` reads them."""
    for part in PARTS:
        group.add_argument(
            part_flag(part), type=Path, dest=part, required=required, help=f"{part} .engine, .plan or .onnx file"
        )


def add_checkpoint_flags(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """Adds the two checkpoints and where they run. Returns the group, for a script's own."""
    group = parser.add_argument_group("models")
    group.add_argument("--tacotron2", type=Path, default=DEMO_TACOTRON2, help="Tacotron 2 checkpoint")
    group.add_argument("--waveglow", type=Path, default=DEMO_WAVEGLOW, help="WaveGlow checkpoint")
    add_conditioning_flag(group)
    where = group.add_mutually_exclusive_group()
    where.add_argument("--fp16", action="store_true", help="half precision, on a GPU")
    where.add_argument("--cpu", action="store_true", help="run on the CPU even where there is a GPU")
    return group


def add_symbols_flag(parser: argparse._ActionsContainer) -> None:
    """Adds --symbols: what `load_tacotron2` takes."""
    parser.add_argument(
        "--symbols", type=Path, metavar="FILE", help="the checkpoint's own symbols, one a line [NVIDIA's 148]"
    )


def device_of(args: argparse.Namespace) -> torch.device:
    """Where checkpoints run, by the flags of `add_checkpoint_flags`. Raises UserError for FP16 without a GPU."""
    device = torch.device("cuda" if torch.cuda.is_available() and not args.cpu else "cpu")
    if args.fp16 and device.type == "cpu":
        raise UserError("--fp16 needs an NVIDIA GPU, and PyTorch finds none; leave it out to run in FP32 on the CPU")
    return device


def add_conditioning_flag(parser: argparse._ActionsContainer) -> None:
    """Adds --conditioning: how the mel reaches WaveGlow's layers."""

    def parse(text: str) -> Conditioning:
        try:
            return parse_conditioning(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    parser.add_argument(
        "--conditioning",
        type=parse,
        default="auto",
        metavar="{auto,exact,RANK}",
        help="of WaveGlow: at the frames' rate where that loses nothing (auto), at the positions' rate (exact), or at "
        "the frames' rate with this rank, which may lose something [auto]",
    )


def add_model_flags(parser: argparse.ArgumentParser, *configs: type, leave_out: tuple[str, ...] = ()) -> None:
    """Adds a flag for every dimension of the given config classes (one flag where they share a name)."""
    group = parser.add_argument_group("model dimensions (needed only where the checkpoint carries no config)")
    defaults = {field.name: field.default for config in configs for field in dataclasses.fields(config)}
    for name, default in defaults.items():
        if name in leave_out:
            continue
        flag = _WAVEGLOW_FLAGS.get(name, "--" + name.replace("_", "-"))
        options: dict[str, Any] = {"dest": name, "default": None, "help": f"{_meaning(name)} [{default}]"}
        if isinstance(default, bool):
            group.add_argument(flag, action="store_true", **options)
        else:
            group.add_argument(flag, type=type(default), metavar="N", **options)


def read_request(args: argparse.Namespace, suffix: str) -> Request:
    """What the flags of `add_speak_flags` ask for, before any model is loaded.

    Raises:
        UserError: there is nothing to speak, or a flag can't be obeyed.
    """
    notes: list[str] = []
    groups = read_texts(args, notes)
    output = output_settings(args, suffix)
    if output.file is not None:
        groups = [[phrase for phrases in groups for phrase in phrases]]
        if (count := len(groups[0])) > 1:
            raise UserError(f"-o {output.file} is a file, and there are {count} phrases: give a folder for them")
    settings = speak_settings(args, keep_pictures=args.plots or args.page, timestamps=args.captions is not None)
    if (audio_format := FORMATS.get(output.format)) is not None:
        settings = dataclasses.replace(settings, sampling_rate=audio_format.sampling_rate(settings.sampling_rate))
    return Request(groups, notes, settings, settings_from(args, WorkSettings), output, vars(args))


def read_texts(args: argparse.Namespace, notes: list[str]) -> Iterable[Sequence[Phrase]]:
    """The phrases of the command line or of -i, in groups that are there together. Raises UserError."""
    words = getattr(args, "words", None)
    texts = args.text if words is None else [words]
    if texts is None:
        return live_phrases() if args.input == "-" else [read_phrases(Path(args.input), notes)]
    phrases = [Phrase(index, text.strip()) for index, text in enumerate(texts)]
    for phrase in phrases:
        if not phrase.text:
            raise UserError(f"--text number {phrase.line} is empty; give it something to say")
    return [phrases]


def _meaning(dimension: str) -> str:
    trained = "_dropout" in dimension or dimension == "mask_padding"
    return f"{dimension}: of training alone, and checked against the checkpoint" if trained else dimension


def speak_settings(args: argparse.Namespace, **others: Any) -> SpeakSettings:
    """How to speak, by the flags of SpeakSettings; `others` go before flags. Raises UserError."""
    return settings_from(args, SpeakSettings, **{"denoise": denoise_strength(args)} | others)


def output_settings(args: argparse.Namespace, suffix: str) -> OutputSettings:
    """Where and as what to save, by the flags of `add_speak_flags`.

    Raises:
        UserError: the folder can't be written, or flags exclude each other.
    """
    output, asked = args.output, args.format
    to_stdout = args.stream or output == STDOUT
    if not to_stdout and output.exists() and not (output.is_file() or output.is_dir()):
        raise UserError(f"-o {output} is neither a file nor a folder; write audio into it with -o - > {output}")
    ending = "" if to_stdout or output.is_dir() else output.suffix.lower()[1:]
    by_name = FORMATS.get(ending)
    if by_name is None and ending[:1].isalpha():  # a folder's name may end with a number
        raise UserError(
            f"-o {output}: there is no format {ending}, only {', '.join(FORMATS)}; if it is a folder, make it first"
        )
    if to_stdout or by_name is not None:
        goes = "audio to standard output" if to_stdout else f"the one file {output}"
        for flag in ("plots", "page", "resume", *(["captions"] if to_stdout else [])):
            if getattr(args, flag):
                raise UserError(f"--{flag} goes with a folder of files, not with {goes}; leave it out")
    if to_stdout:
        if not is_open(sys.stdout):
            raise UserError("standard output is closed: there is nowhere for the audio to go")
        if asked == "float32":
            raise UserError("--format float32 is for files; leave it out, or take wav or pcm for standard output")
        name = _made_here({None: "pcm", "pcm16": "wav"}.get(asked, asked))
        return OutputSettings(output, to_stdout=True, format=name)
    if by_name and asked and asked != by_name.name and not {asked, by_name.name} <= {*WAV_FORMATS}:
        raise UserError(f"--format {asked}: {output} names another format; leave one of them out")
    name = _made_here(asked or (by_name.name if by_name else "wav"))
    folder = output if by_name is None else output.parent
    if folder.exists() and not args.show_text:  # else it is made once the voice is open
        output_folder(folder)
    return settings_from(
        args,
        OutputSettings,
        folder=folder,
        file=None if by_name is None else output,
        suffix=suffix,
        format="float32" if name == "wav" else name,
    )


def _made_here(name: str) -> str:
    if name not in (*SAMPLE_FORMATS, *available_formats()):
        raise UserError(f"{name} needs PyAV: pip install av; wav needs nothing")
    return name


def denoise_strength(args: argparse.Namespace) -> float:
    """The denoiser's strength, 0 if no flag turns it on."""
    if args.denoise is not None:
        return args.denoise
    return DEFAULT_STRENGTH if getattr(args, "waveglow_ckpt", "") else 0.0


def model_paths(args: argparse.Namespace) -> dict[Part, Path] | None:
    """The four files that the flags name; None if they name none. Raises UserError if they name some."""
    given: dict[Part, Path] = {part: getattr(args, part) for part in PARTS if getattr(args, part) is not None}
    missing = [part_flag(part) for part in PARTS if part not in given]
    if given and missing:
        raise UserError(f"{', '.join(missing)} missing; give all four model files, or none")
    return given or None


def runtime_choice(args: argparse.Namespace) -> RuntimeOptions:
    """What the flags of `add_engine_flags` say of how to run model files."""
    return cast(RuntimeOptions, given_flags(args, RuntimeSettings))


def check_audio_flags(args: argparse.Namespace, audio: AudioConfig) -> None:
    """Raises UserError if -sr or --stft-hop-length contradict the model."""
    for flag, given, actual, advice in (
        ("-sr", args.model_sampling_rate, audio.sampling_rate, "; --sample-rate resamples"),
        ("--stft-hop-length", args.model_hop_length, audio.hop_length, ""),
    ):
        if given is not None and given != actual:
            raise UserError(f"{flag} {given}: the model's is {actual}; leave the flag out{advice}")


def check_precision(args: argparse.Namespace, engines: Mapping[Part, Engine]) -> None:
    """Raises UserError if --fp16 was given and a model isn't."""
    for engine in engines.values():
        precision = engine.metadata.precision
        if args.fp16 and precision != "fp16":
            raise UserError(f"{engine.name} is {precision}, but --fp16 was given; export it with --fp16")
