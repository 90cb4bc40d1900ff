"""The flags that scripts share, and the typed settings that they become: argparse ends here.

A checkpoint carries its own dimensions; a flag of `add_model_flags` is needed only where it carries none, and must
agree where it does.
"""

import argparse
import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypedDict, get_args

from common.cli import bounded_float, bounded_int, settings_from
from common.config import AudioConfig, Tacotron2Config, WaveGlowConfig
from common.cpu_backend import CpuBackend, CpuPrecision
from common.engine import Engine
from common.errors import UserError
from common.files import output_folder
from common.metadata import PARTS, Part
from common.model_flags import part_flag
from common.onnx_engine import GpuProvider
from common.phrases import Phrase, read_phrases
from common.wav import SAMPLE_FORMATS
from pipeline.benchmark import WARMUPS, Benchmark
from pipeline.console import ReportSettings, Request
from pipeline.settings import RANGES, SAMPLING_RATES, WHOLE_NUMBERS, SpeakSettings, WorkSettings
from pipeline.speak import OutputSettings
from tacotron2.loading import DEMO_TACOTRON2
from tacotron2.text.lexicon import Lexicon
from tacotron2.text.normalizer import NORMALIZERS
from waveglow.conditioning import Conditioning, parse_conditioning
from waveglow.denoiser import DEFAULT_STRENGTH
from waveglow.loading import DEMO_WAVEGLOW

STDOUT = Path("-")  # as an output folder: audio to standard output
# Flags that stand among those of speaking: not repeated as a model's dimensions.
SPEAKING_DIMENSIONS = ("max_decoder_steps", "gate_threshold")
_WAVEGLOW_FLAGS = {
    "n_flows": "--flows",
    "n_group": "--groups",
    "n_early_every": "--early-every",
    "n_early_size": "--early-size",
}


class _Type(TypedDict):
    type: Any
    default: Any


def add_speak_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of every script that speaks phrases."""
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("-i", "--input", help="text file with a phrase a line, or - for standard input")
    source.add_argument("--text", action="append", help="a phrase to speak; may be given several times")
    parser.add_argument(
        "-o", "--output", type=Path, default=Path("output"), help="folder for the wav files, or - (see --stream)"
    )
    parser.add_argument(
        "--stream",
        action="store_true",
        help="16-bit PCM to standard output as it is made, line after line; everything else goes to standard error",
    )
    parser.add_argument("--show-text", action="store_true", help="print how each line will be read, and speak nothing")
    _add_voice_flags(parser.add_argument_group("voice"))
    work = parser.add_argument_group("work")
    work.add_argument("--batch-size", **_work("batch_size"), help="phrases decoded together")
    work.add_argument("--max-symbols", **_work("max_symbols"), help="longer text is split and joined")
    work.add_argument(
        "--window",
        **_work("window"),
        help="mel frames vocoded at a time: less takes less memory [what suits the device]",
    )
    work.add_argument("--no-cuda-graph", action="store_true", help="step the decoder from the host, on a GPU too")
    work.add_argument("--strict", action="store_true", help="stop at the first line that can't be spoken")
    work.add_argument(
        "--resume", action="store_true", help="leave out what an earlier run with the same settings finished"
    )
    results = parser.add_argument_group("results")
    results.add_argument(
        "--format", choices=SAMPLE_FORMATS, default=SAMPLE_FORMATS[0], help="of the wav files' samples"
    )
    results.add_argument(
        "--plots", action="store_true", help="save pictures of waveform, mel spectrogram and alignment"
    )
    results.add_argument("--page", action="store_true", help="write index.html with players and pictures")
    results.add_argument("--log-file", default=OutputSettings.log_file, help="JSON log, in the output folder")


def _add_voice_flags(voice: argparse._ArgumentGroup) -> None:
    voice.add_argument("--seed", **_speak("seed"), help="of the random numbers: the same one, the same audio [0]")
    voice.add_argument(
        "-s",
        "--sigma-infer",
        dest="sigma",
        **_speak("sigma"),
        help="standard deviation of WaveGlow's noise [the model's]",
    )
    voice.add_argument("--speed", **_speak("speed"), help="0.5 is half as fast, 2 twice as fast; the pitch stays")
    _add_denoiser_flags(voice)
    voice.add_argument("--gate-threshold", **_speak("gate_threshold"), help="ends a phrase (0 to 1) [the model's]")
    voice.add_argument(
        "--max-decoder-steps", **_speak("max_decoder_steps"), help="most mel frames of a piece [the model's]"
    )
    voice.add_argument("--no-final-period", action="store_true", help="leave lines without end punctuation as they are")
    voice.add_argument(
        "--text-normalizer",
        choices=NORMALIZERS,
        default=SpeakSettings.text_normalizer,
        help="what reads numbers, dates, units and the like as words; none leaves them to the classic's cleaners",
    )
    voice.add_argument(
        "--lexicon", type=Path, help="file of words and how to say them: word, tab, respelling or {ARPAbet}"
    )
    voice.add_argument(
        "--sample-rate", type=int, choices=SAMPLING_RATES, help="resample the audio, in Hz [the model's]"
    )
    _add_audio_flags(voice)


def _add_denoiser_flags(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--denoise", action="store_true", help="take WaveGlow's own hum out of the audio")
    group.add_argument(
        "-d",
        "--denoising-strength",
        type=bounded_float(*RANGES["denoise"]),
        help=f"how much of the hum to take out; turns --denoise on [{DEFAULT_STRENGTH}]",
    )


def _add_audio_flags(group: argparse._ArgumentGroup) -> None:
    names = {"-sr": "in Hz", "--stft-hop-length": "in samples"}
    for flag, unit in names.items():
        long = ("--sampling-rate",) if flag == "-sr" else ()
        dest = "model_sampling_rate" if flag == "-sr" else "model_hop_length"
        group.add_argument(flag, *long, dest=dest, type=int, help=f"{unit}; must agree with the model's [the model's]")


def add_benchmark_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags that every benchmark has, under the classic's names."""
    parser.add_argument("--num-iters", type=int, default=10, help=f"timed iterations; {WARMUPS} warm-ups come before")
    parser.add_argument("-il", "--input-length", type=int, default=64, help="symbols of each utterance")
    parser.add_argument("-bs", "--batch-size", type=int, default=1, help="utterances at once")
    parser.add_argument("--batches", type=int, default=1, help="batches in a row, to report a batch's share of")
    parser.add_argument("--frames", type=int, help="fixed number of mel frames [the stop gate decides]")
    parser.add_argument("--stream", action="store_true", help="speak as streams, and tell the time to first audio too")
    parser.add_argument("-o", "--output", type=Path, default=Path("results"), help="folder for logs and results")
    parser.add_argument("--log-file", default="nvlog.json", help="JSON log, in the output folder")
    parser.add_argument("--csv", help="CSV file with one row, in the output folder")
    voice = parser.add_argument_group("voice")
    voice.add_argument(
        "-s",
        "--sigma-infer",
        dest="sigma",
        **_speak("sigma"),
        help="standard deviation of WaveGlow's noise [the model's]",
    )
    _add_denoiser_flags(voice)
    _add_audio_flags(voice)


def add_engine_flags(parser: argparse.ArgumentParser, note: str | None = None, required: bool = False) -> None:
    """Adds the four model files, and what every script that runs them takes."""
    group = parser.add_argument_group("models", note)
    for part in PARTS:
        group.add_argument(
            part_flag(part), type=Path, dest=part, required=required, help=f"{part} .engine, .plan or .onnx file"
        )
    group.add_argument("--waveglow-ckpt", default="", help="classic flag: anything given turns the denoiser on")
    group.add_argument("--fp16", action="store_true", help="the models are in half precision")
    group.add_argument("--threads", type=bounded_int(1, 256), help="on a CPU, of .onnx files [OMP_NUM_THREADS, or all]")
    group.add_argument(
        "--cpu-backend",
        choices=get_args(CpuBackend),
        default="auto",
        help="what runs .onnx files on a CPU; auto takes what is faster on this processor",
    )
    group.add_argument(
        "--cpu-precision",
        choices=get_args(CpuPrecision),
        default="fp32",
        help="what .onnx files are computed in on a CPU; bf16 needs AMX and OpenVINO",
    )
    group.add_argument("--device", default="cpu", help="what runs .onnx files: cpu, cuda or cuda:N")
    group.add_argument(
        "--gpu-provider",
        choices=get_args(GpuProvider),
        default="cuda",
        help="what ONNX Runtime runs .onnx files with on --device cuda",
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
    phrases = read_texts(args, notes)
    output = output_settings(args, suffix)
    return Request(phrases, notes, speak_settings(args), work_settings(args), output, parameters(args))


def read_texts(args: argparse.Namespace, notes: list[str]) -> list[Phrase]:
    """The phrases of --text or of -i. Raises UserError."""
    if args.text is None:
        return read_phrases(None if args.input == "-" else Path(args.input), notes)
    phrases = [Phrase(index, text.strip()) for index, text in enumerate(args.text)]
    for phrase in phrases:
        if not phrase.text:
            raise UserError(f"--text number {phrase.line} is empty; give it something to say")
    return phrases


def _meaning(dimension: str) -> str:
    trained = "_dropout" in dimension or dimension == "mask_padding"
    return f"{dimension}: of training alone, and checked against the checkpoint" if trained else dimension


def speak_settings(args: argparse.Namespace) -> SpeakSettings:
    """How to speak, by the flags of `add_speak_flags`. Raises UserError for a lexicon that can't be read."""
    return settings_from(
        args,
        SpeakSettings,
        denoise=denoise_strength(args),
        final_period=not args.no_final_period,
        lexicon=None if args.lexicon is None else Lexicon.load(args.lexicon),
        sampling_rate=args.sample_rate,
        keep_pictures=args.plots or args.page,
    )


def work_settings(args: argparse.Namespace) -> WorkSettings:
    return settings_from(args, WorkSettings, cuda_graph=not args.no_cuda_graph)


def output_settings(args: argparse.Namespace, suffix: str) -> OutputSettings | None:
    """Where and as what to save, by the flags of `add_speak_flags`; None for audio to standard output.

    Raises:
        UserError: the folder can't be written, or flags exclude each other.
    """
    if args.stream or args.output == STDOUT:
        for flag in ("plots", "page", "resume"):
            if getattr(args, flag):
                raise UserError(f"--{flag} goes with files, not with audio to standard output; leave it out")
        return None
    return settings_from(
        args,
        OutputSettings,
        folder=args.output if args.show_text else output_folder(args.output),
        suffix=suffix,
        sample_format=args.format,
    )


def benchmark_settings(args: argparse.Namespace, frames: int | None = None) -> Benchmark:
    """What to measure, by the flags of `add_benchmark_flags`; `frames` where no flag gives them.

    Raises:
        UserError: sizes that make no sense.
    """
    if args.stream and args.batches > 1:
        raise UserError("--batches and --stream don't go together: streams begin at the same time; leave one out")
    return Benchmark(
        batch=args.batch_size,
        length=args.input_length,
        iterations=args.num_iters,
        frames=args.frames or frames,
        sigma=args.sigma,
        denoise=denoise_strength(args),
        batches=args.batches,
    )


def report_settings(args: argparse.Namespace, folder: Path) -> ReportSettings:
    """Where a benchmark's results go. Raises UserError for names that would leave the folder."""
    return ReportSettings(folder, args.log_file, args.csv, parameters(args))


def denoise_strength(args: argparse.Namespace) -> float:
    """The denoiser's strength, 0 if no flag turns it on."""
    if args.denoising_strength is not None:
        return args.denoising_strength
    return DEFAULT_STRENGTH if args.denoise or getattr(args, "waveglow_ckpt", "") else 0.0


def model_paths(args: argparse.Namespace) -> dict[Part, Path] | None:
    """The four files that the flags name; None if they name none. Raises UserError if they name some."""
    given: dict[Part, Path] = {part: getattr(args, part) for part in PARTS if getattr(args, part) is not None}
    missing = [part_flag(part) for part in PARTS if part not in given]
    if given and missing:
        raise UserError(f"{', '.join(missing)} missing; give all four models or none")
    return given or None


def runtime_choice(args: argparse.Namespace) -> dict[str, Any]:
    """What the flags of `add_engine_flags` say of how to run `.onnx` files, as the arguments of `open_engines`."""
    names = ("threads", "cpu_backend", "cpu_precision", "device", "gpu_provider")
    return {name: getattr(args, name) for name in names}


def given_flags(
    args: argparse.Namespace, *configs: type[Tacotron2Config | WaveGlowConfig | AudioConfig]
) -> dict[str, Any]:
    """The values of configurations that were given on the command line."""
    names = {field.name for config in configs for field in dataclasses.fields(config)}
    return {name: value for name, value in vars(args).items() if name in names and value is not None}


def parameters(args: argparse.Namespace) -> dict[str, Any]:
    """All flags as a log takes them."""
    return {name: str(value) if isinstance(value, Path) else value for name, value in vars(args).items()}


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


def _speak(setting: str) -> _Type:
    """The argparse type and default of a number among SpeakSettings."""
    return _number(setting, getattr(SpeakSettings, setting))


def _work(setting: str) -> _Type:
    return _number(setting, getattr(WorkSettings, setting))


def _number(setting: str, default: Any) -> _Type:
    low, high = RANGES[setting]
    whole = setting in WHOLE_NUMBERS
    return {"type": bounded_int(int(low), int(high)) if whole else bounded_float(low, high), "default": default}
