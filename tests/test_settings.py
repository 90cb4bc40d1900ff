"""The table of settings, and the interfaces that are made from it."""

import argparse
import inspect
from typing import get_type_hints

import pytest

from pipeline import SpeakSettings, Voice, WorkSettings
from pipeline.flags import (
    add_engine_flags,
    add_speak_flags,
    denoise_strength,
    output_settings,
    read_texts,
    speak_settings,
)
from pipeline.settings import (
    Interface,
    RuntimeOptions,
    RuntimeSettings,
    SpeakOptions,
    settings_at,
    settings_of,
)
from scripts import corpus
from serving.http.api import SpeechRequest
from serving.triton.repository import INPUTS
from tacotron2.text.lexicon import Lexicon
from trt.inference_trt import make_parser

OPENAIS = {"model", "input", "voice", "response_format", "stream_format", "instructions"}
OF_ANSWERS = {"stream", "alignment", "volume_multiplier"}
OF_OTHER_SERVERS = {
    *("language", "lang_code", "user", "normalization_options", "download_format", "return_download_link"),
}


def speak_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser()
    add_speak_flags(parser)
    add_engine_flags(parser)
    return parser


def names_at(interface: Interface) -> set[str]:
    return {setting.name_at(interface) for setting in settings_at(interface)}


def test_every_interface_offers_what_the_table_says() -> None:
    for interface, parser in (("command line", speak_parser()), ("corpus", corpus.make_parser())):
        offered = {action.dest for action in parser._actions}
        assert offered & settings_of(SpeakSettings).keys() == names_at(interface)
        assert offered & settings_of(WorkSettings).keys() == settings_of(WorkSettings).keys()
    assert SpeechRequest.model_fields.keys() == OPENAIS | OF_ANSWERS | OF_OTHER_SERVERS | names_at("http")
    assert {one.name for one in INPUTS} == {"TEXT"} | {name.upper() for name in names_at("triton")}
    types = {one.name: one.data_type for one in INPUTS}
    assert (types["SEED"], types["OUTPUT_RATE"], types["SPEED"]) == ("TYPE_INT64", "TYPE_INT32", "TYPE_FP32")
    assert (types["FINAL_PERIOD"], types["TEXT_NORMALIZER"]) == ("TYPE_BOOL", "TYPE_STRING")


@pytest.mark.parametrize(("asked", "made"), [("", "pcm"), ("pcm", "pcm"), ("wav", "wav"), ("pcm16", "wav")])
def test_pcm16_is_a_wav_to_standard_output_too(asked: str, made: str) -> None:
    args = speak_parser().parse_args(["--text", "Hi.", "-o", "-", *(["--format", asked] if asked else [])])
    assert output_settings(args, "trt").format == made


@pytest.mark.parametrize("interface", ["http", "triton"])
def test_what_only_files_hold_is_offered_to_no_network(interface: Interface) -> None:
    assert not names_at(interface) & {"lexicon", "keep_pictures"}


@pytest.mark.parametrize(
    ("kind", "options", "methods"),
    [
        (SpeakSettings, SpeakOptions, (Voice.speak, Voice.speak_many, Voice.stream, Voice.submit)),
        (RuntimeSettings, RuntimeOptions, (Voice.load,)),
    ],
)
def test_methods_show_each_setting_with_its_type_and_default(kind: type, options: type, methods: tuple) -> None:
    declared, typed = get_type_hints(kind), get_type_hints(options)
    assert list(typed) == list(declared)
    assert {name for name in typed if typed[name] != declared[name]} <= {"lexicon"}  # which may be a path, too
    for method in methods:
        parameters = inspect.signature(method).parameters
        assert "<function" not in str(inspect.signature(method))  # which says nothing of a default
        for name, setting in settings_of(kind).items():
            assert (parameters[name].annotation, parameters[name].default) == (typed[name], setting.default)


@pytest.mark.parametrize(
    ("words", "strength"),
    [
        ("", 0.0),
        ("--denoise", 0.01),
        ("--denoise 0.1", 0.1),
        ("-d 0.05", 0.05),
        ("-d 0.05 --denoise", 0.05),
        ("--denoise --denoising-strength 0.05", 0.05),
        ("--waveglow-ckpt any.pt", 0.01),
        ("--waveglow-ckpt any.pt -d 0", 0.0),
    ],
)
def test_the_denoisers_flags_mean_what_they_always_have(words: str, strength: float) -> None:
    args = speak_parser().parse_args(["--text", "Hi.", *words.split()])
    assert denoise_strength(args) == speak_settings(args).denoise == strength


def test_the_spellings_of_all_scripts_are_taken_by_each(tmp_path) -> None:
    lexicon = tmp_path / "words.tsv"
    lexicon.write_text("Hi\thello\n")
    words = "--sample-rate 16000 --no-final-period --no-cuda-graph --gate-threshold 1 --text-normalizer none --seed 3"
    expected = SpeakSettings(
        seed=3,
        sigma=0.5,
        denoise=0.01,
        gate_threshold=1.0,
        final_period=False,
        text_normalizer="none",
        lexicon=Lexicon({"Hi": "hello"}),
        sampling_rate=16000,
    )
    for sigma in ("-s", "--sigma", "--sigma-infer"):
        flags = [*words.split(), "--lexicon", str(lexicon), sigma, "0.5", "--denoise", "0.01"]
        for parser, source in ((speak_parser(), ["--text", "Hi."]), (corpus.make_parser(), ["-i", "a", "-o", "b"])):
            args = parser.parse_args([*source, *flags])
            assert speak_settings(args) == expected
            assert args.cuda_graph is False


def test_the_console_command_takes_its_text_without_a_flag() -> None:
    parser = make_parser("speak")
    for words, texts in (
        (["Hello there.", "--denoise"], ["Hello there."]),
        (["--text", "A.", "--text", "B."], ["A.", "B."]),
    ):
        (phrases,) = read_texts(parser.parse_args(words), [])
        assert [phrase.text for phrase in phrases] == texts
    with pytest.raises(SystemExit):
        parser.parse_args(["Hello.", "--text", "Hello."])
