"""Speaking scripts, in this process with tiny models: what they write, say and end with."""

import dataclasses
import io
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from scipy.io import wavfile
from torch import Tensor

from common.cli import EXIT_NO_READER
from common.errors import UserError
from common.files import REPOSITORY, locked_folder
from common.metadata import PARTS
from common.phrases import Phrase
from pipeline import SpeakSettings, Voice, WorkSettings
from pipeline.console import EXIT_CUT, progress
from pipeline.encoders import FORMATS, make_encoder
from pipeline.manifest import PhraseResult
from pipeline.speak import Listener, OutputSettings, Summary, speak, stream
from tests.engine_doubles import Watched
from tests.scripts import assert_one_line_error, leftovers, model_flags, run_here

TRT = "trt/inference_trt.py"
# Untrained gates say nothing: every piece is as long as this.
SHORT = ("--max-decoder-steps", "40", "--gate-threshold", "1", "--cpu-backend", "onnxruntime")
SETTINGS = {"max_decoder_steps": 40, "gate_threshold": 1.0}
NO_SOUND = "\ua66e"  # a letter that the voice has no sound for
LONG = "One sentence is here. Another sentence follows it. And this is the last of them."


@pytest.fixture(scope="module")
def voice(tiny_folder: Path) -> Iterator[Voice]:
    paths = {part: tiny_folder / f"{part}.onnx" for part in PARTS}
    with Voice.load(paths, work=WorkSettings(max_symbols=24, batch_size=1), cpu_backend="onnxruntime") as voice:
        yield voice


def phrases(*texts: str) -> list[Phrase]:
    return [Phrase(index, text) for index, text in enumerate(texts)]


def speak_texts(
    voice: Voice, folder: Path, *texts: str, listener: Listener | None = None, resume: bool = False, **settings: float
) -> Summary:
    output = OutputSettings(folder, suffix="trt", resume=resume)
    return speak(voice, [phrases(*texts)], SpeakSettings(**{**SETTINGS, **settings}), output, listener)


def table_lines(out: str) -> list[str]:
    return [line for line in out.splitlines() if "audio_" in line]


def test_a_bad_line_fails_alone_and_is_named_as_editors_count(tmp_path: Path, tiny_folder: Path) -> None:
    lines = tmp_path / "lines.txt"
    lines.write_text(f"Hello.\n\n{NO_SOUND}\n{NO_SOUND}\nGood bye.\n...\n?!\n\U0001f600\n", encoding="utf-8")
    result = run_here(TRT, "-i", lines, "-o", tmp_path / "out", *SHORT, *model_flags(tiny_folder))
    assert result.returncode == 1
    error = result.stderr.splitlines()[-1]
    assert "2 of 4 phrases could not be spoken (lines 3, 4)" in error
    skipped = [f"Note: {lines} line 6", "Note: line 7", "Note: line 8"]
    assert all(f"{line} is without words: skipped\n" in result.stdout for line in skipped)
    assert sorted(path.name for path in (tmp_path / "out").glob("*.wav")) == ["audio_0_trt.wav", "audio_4_trt.wav"]
    strict = run_here(TRT, "-i", lines, "-o", tmp_path / "strict", "--strict", *SHORT, *model_flags(tiny_folder))
    assert_one_line_error(strict, "line 3")
    assert leftovers(tmp_path / "strict") == ["audio_0_trt.wav"]


def test_a_phrase_cut_by_the_frame_limit_is_a_status_and_the_log_has_the_stages(
    tmp_path: Path, tiny_folder: Path
) -> None:
    result = run_here(TRT, "--text", "Hello.", "-o", tmp_path, *SHORT, *model_flags(tiny_folder))
    assert result.returncode == EXIT_CUT == 3
    assert result.stderr == "Warning: cut by the frame limit (max_decoder_steps 40): line 1\n"
    assert "frame limit" in table_lines(result.stdout)[0]
    entries = [json.loads(line.removeprefix("DLLL ")) for line in (tmp_path / "nvlog.json").read_text().splitlines()]
    assert [entry["step"] for entry in entries] == ["PARAMETER", 0]
    data = entries[1]["data"]
    stages = ("tacotron2_encoder_latency", "tacotron2_decoder_latency", "tacotron2_postnet_latency", "waveglow_latency")
    assert all(data[stage] > 0 for stage in stages)
    assert sum(data[stage] for stage in stages) <= data["latency"]


def test_the_voices_stop_is_no_cut(tmp_path: Path, tiny_folder: Path) -> None:
    # Untrained gates are near one half: this threshold is passed at once.
    eager = ("--gate-threshold", "0.00001", "--cpu-backend", "onnxruntime")
    result = run_here(TRT, "--text", "Hello.", "-o", tmp_path, *eager, *model_flags(tiny_folder))
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.parametrize(
    ("settings", "limit"),
    [({"max_decoder_steps": 800}, "10 frames a symbol and 100"), ({"max_decoder_steps": None}, "the voice's 60")],
)
def test_the_limit_that_cut_a_phrase_is_named(
    tmp_path: Path, voice: Voice, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], limit: str
) -> None:
    config = dataclasses.replace(voice.engines.tacotron2_config, max_decoder_steps=60)
    monkeypatch.setattr(voice.engines, "tacotron2_config", config)
    (result,) = speak_texts(voice, tmp_path, "A.", **settings).spoken
    assert (result.cut, result.limit) == (True, limit)


def test_wavs_have_the_format_and_the_rate_that_were_asked_for(tmp_path: Path, tiny_folder: Path) -> None:
    flags = ("--format", "pcm16", "--sample-rate", "16000", *SHORT)
    run_here(TRT, "--text", "Hello.", "-o", tmp_path, *flags, *model_flags(tiny_folder))
    rate, samples = wavfile.read(tmp_path / "audio_0_trt.wav")
    assert rate == 16000
    assert samples.dtype == np.int16
    assert len(samples) == pytest.approx(40 * 256 * 16000 / 22050, abs=2)


def test_text_is_shown_as_it_will_be_read_and_nothing_is_spoken(tmp_path: Path) -> None:
    lexicon = tmp_path / "words.txt"
    lexicon.write_text("Nguyen\twin\n")
    texts = ("--text", "Dr. Nguyen paid $5.", "--text", NO_SOUND, "--text", "Hi")
    shown = run_here(TRT, *texts, "--show-text", "--lexicon", lexicon, "-o", tmp_path / "out")
    assert shown.stdout.splitlines() == ["1: doctor win paid five dollars.", "3: hi."]
    assert_one_line_error(shown, "line 2", "nothing to speak")
    assert not (tmp_path / "out").exists()
    for wordless in ("...", "\U0001f600"):
        skipped = run_here(TRT, "--text", "Hi.", "--text", wordless, "--show-text")
        assert (skipped.stdout, skipped.stderr) == ("1: hi.\n", "Note: line 2 is without words: skipped\n")
        assert skipped.returncode == 0
    noted = run_here(TRT, "--text", "{foo} \u041f\u0440\u0438\u0432\u0435\u0442", "--show-text")
    assert noted.stdout == "1: foo privet.\n"
    braces, letters = noted.stderr.splitlines()
    assert "left out '{' '}'" in braces
    assert "6 Cyrillic letters are spelled in Latin" in letters
    plain = run_here(TRT, "--text", "Room 5b", "--show-text", "--text-normalizer", "none", "--no-final-period")
    assert plain.stdout == "1: room fiveb\n"


def test_resume_leaves_what_is_whole_and_speaks_the_rest(
    tmp_path: Path, voice: Voice, monkeypatch: pytest.MonkeyPatch
) -> None:
    def resumed(*texts: str, **settings: float) -> list[bool]:
        return [result.resumed for result in speak_texts(voice, tmp_path, *texts, resume=True, **settings).spoken]

    assert resumed("Hello.", "Good bye.") == [False, False]
    written = (tmp_path / "audio_0_trt.wav").stat().st_mtime_ns
    (tmp_path / "audio_1_trt.wav").write_bytes(b"RIFF")  # not whole
    assert resumed("Hello.", "Good bye.", "More.") == [True, False, False]
    with open(tmp_path / "manifest.jsonl", "a", encoding="utf-8") as manifest:
        manifest.write('{"file": "audio_3')  # of a run that was killed
    assert resumed("Hello.", "Good bye.", "More.", "And more.") == [True, True, True, False]
    assert resumed("Hello.", "Good bye.", "More.", "And more.") == [True] * 4
    assert (tmp_path / "audio_0_trt.wav").stat().st_mtime_ns == written
    assert resumed("Hello.", seed=1) == [False]
    assert resumed("Hello.", speed=1.1) == [False]
    assert resumed("Hello.", speed=1.1) == [True]
    monkeypatch.setattr(voice.engines, "sigma", 0.1)  # as of a voice that was exported again
    assert resumed("Hello.", speed=1.1) == [False]
    assert resumed("Other.") == [False]
    assert not speak_texts(voice, tmp_path, "Other.").spoken[0].resumed


def test_a_run_that_is_interrupted_keeps_its_whole_phrases_and_goes_on_from_there(tmp_path: Path, voice: Voice) -> None:
    vocoded: list[str] = []

    def interrupt(message: str) -> None:
        vocoded.append(message)
        if vocoded.count("Running WaveGlow") == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt, match=r"1 of 2 phrases are done, and their files are whole; --resume"):
        speak_texts(voice, tmp_path, "Hello.", LONG, listener=Listener(on_message=interrupt))
    assert leftovers(tmp_path) == ["audio_0_trt.wav"]
    summary = speak_texts(voice, tmp_path, "Hello.", LONG, resume=True)
    assert [result.resumed for result in summary.spoken] == [True, False]


def test_two_runs_do_not_share_a_folder(tmp_path: Path, voice: Voice) -> None:
    with locked_folder(tmp_path), pytest.raises(UserError, match="another run is writing here"):
        speak_texts(voice, tmp_path, "Hello.")


def test_a_run_says_what_was_there(tmp_path: Path, voice: Voice) -> None:
    notes: list[str] = []
    speak_texts(voice, tmp_path, "One.", "Two.", "Three.", listener=Listener(on_note=notes.append))
    assert notes == []
    speak_texts(voice, tmp_path, "Hello.", listener=Listener(on_note=notes.append))
    assert notes == [f"{tmp_path} holds wav files of an earlier run: 1 are replaced; 2 others stay beside them"]


@pytest.mark.parametrize(
    ("texts", "line"), [(("Hello.", "Good bye."), r"\d of 2 phrases done, "), ((LONG,), "")], ids=["two", "one"]
)
def test_without_a_terminal_a_line_of_progress_comes_now_and_then(
    tmp_path: Path,
    voice: Voice,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    texts: Sequence[str],
    line: str,
) -> None:
    monkeypatch.setattr("pipeline.console.LINE_EVERY", 0.0)
    with progress() as listener:
        speak_texts(voice, tmp_path, *texts, listener=listener)
    printed = capsys.readouterr().err.splitlines()
    assert printed
    assert all(re.fullmatch(line + r"\d+ % of the text, about \d+ s left", one) for one in printed)


def test_what_is_left_out_spelled_or_not_learned_is_named_once_a_phrase(tmp_path: Path, voice: Voice) -> None:
    notes: list[str] = []
    texts = ("Fine.", "Hi {name}, 日本語.", "I say {HH AW1}.")
    speak_texts(voice, tmp_path, *texts, listener=Listener(on_note=notes.append))
    beginning = 'line 2 ("hi name, ri ben yu ."): '
    unsure = "the voice doesn't say that it was trained on ARPAbet; what stands in braces may be garbled"
    assert notes == [
        beginning + "left out '{' '}', which can't be spoken; braces hold ARPAbet, as in {HH AW1 S}",
        beginning + "3 Chinese letters are spelled in Latin: the voice is English",
        f'line 3 ("i say {{HH AW1}}."): {unsure}',
    ]


def test_an_engine_that_fails_on_one_phrase_fails_it_alone(
    tmp_path: Path, voice: Voice, monkeypatch: pytest.MonkeyPatch
) -> None:
    def choosy(tensors: Mapping[str, Tensor]) -> None:
        if (tensors["sequence_lengths"] == len("fails here.")).any():
            raise UserError("the encoder has had enough")

    monkeypatch.setitem(voice.engines.parts, "encoder", Watched(voice.engines.parts["encoder"], choosy))
    done: list[PhraseResult] = []
    texts = ("Hello.", "Fails here.", f"Fails here. {LONG}", "Good bye.")
    summary = speak_texts(voice, tmp_path, *texts, listener=Listener(on_phrase=done.append))
    assert [result.phrase.line for result in summary.spoken] == [1, 4]
    assert [result.phrase.line for result in summary.failed] == [2, 3]
    assert [result.phrase.line for result in done] == [1, 2, 3, 4]
    assert sorted(path.name for path in tmp_path.glob("*.wav")) == ["audio_0_trt.wav", "audio_3_trt.wav"]


def test_silence_follows_each_sentence_inside_a_phrase(voice: Voice) -> None:
    text, settings = "One is here. Two is there. Three.", {**SETTINGS, "sentence_silence": 0.25}
    whole = voice.speak(text, **settings).samples
    spoken, silence = 40 * 256, round(0.25 * 22050)
    assert len(whole) == 3 * spoken + 2 * silence
    for start in (spoken, 2 * spoken + silence):
        assert not whole[start : start + silence].any()
        assert whole[start - 1]
    streamed = np.concatenate([chunk.samples for chunk in voice.stream(text, **settings)])
    assert np.abs(streamed - whole).max() < 1e-3


def test_phrases_that_come_later_are_spoken_when_they_come(tmp_path: Path, voice: Voice) -> None:
    def groups() -> Iterator[list[Phrase]]:
        yield [Phrase(0, "Hello.")]
        assert (tmp_path / "audio_0_.wav").is_file()
        yield [Phrase(1, "", UserError("line 2 is not UTF-8")), Phrase(2, "Good bye.")]
        assert (tmp_path / "audio_2_.wav").is_file()

    summary = speak(voice, groups(), SpeakSettings(**SETTINGS), OutputSettings(tmp_path))
    assert [result.phrase.line for result in summary.spoken] == [1, 3]
    assert [str(result.error) for result in summary.failed] == ["line 2 is not UTF-8"]


@pytest.mark.parametrize(("name", "rate"), [("hello.wav", 22050), ("hello.opus", 48000)])
def test_one_phrase_goes_into_one_file_of_the_format_of_its_name(
    tmp_path: Path, tiny_folder: Path, name: str, rate: int
) -> None:
    file = tmp_path / "made" / name
    result = run_here(TRT, "--text", "Hello.", "-o", file, *SHORT, *model_flags(tiny_folder))
    assert result.returncode == EXIT_CUT, result.stderr
    assert os.listdir(file.parent) == [name]
    with av.open(str(file)) as container:
        # By its header; a codec's frames are longer.
        assert container.duration / 1e6 == pytest.approx(40 * 256 / 22050, abs=0.06)
        (track,) = container.streams
        assert (track.rate, track.channels) == (rate, 1)


def test_a_folder_gets_files_of_the_format_and_captions(tmp_path: Path, tiny_folder: Path) -> None:
    text = "Dr. Li paid 20%. Then she left."
    flags = ("--format", "mp3", *SHORT, *model_flags(tiny_folder))
    run_here(TRT, "--text", text, "--captions", "json", "-o", tmp_path, *flags)
    assert sorted(os.listdir(tmp_path)) == ["audio_0_trt.json", "audio_0_trt.mp3", "manifest.jsonl", "nvlog.json"]
    captions = json.loads((tmp_path / "audio_0_trt.json").read_text())
    assert captions["text"] == text
    spans = [text[slice(*word["span"])] for word in captions["words"]]
    assert spans == [word["text"] for word in captions["words"]] == text.split()[: len(spans)]
    other = ("--seed", "1")
    for resumed, also in (
        (True, ("--captions", "json")),
        (True, ()),
        (False, ("--captions", "srt")),
        (False, other),  # the captions beside it are of another audio now
        (False, ("--captions", "srt", *other)),
        (True, ("--captions", "srt", *other)),
    ):
        again = run_here(TRT, "--text", text, "-o", tmp_path, "--resume", *also, *flags)
        assert ("1 of 1 phrases are there and stay" in again.stdout) == resumed, also
        assert (" earlier " in table_lines(again.stdout)[0]) == resumed, also


@pytest.mark.slow
def test_the_page_shows_every_piece(tmp_path: Path, tiny_folder: Path) -> None:
    flags = ("--page", "--max-symbols", "24", *SHORT)
    result = run_here(TRT, "--text", LONG, "--text", "It costs $5.", "-o", tmp_path, *flags, *model_flags(tiny_folder))
    assert f"Page: {tmp_path / 'index.html'}" in result.stdout
    page = (tmp_path / "index.html").read_text()
    pictures = sorted(path.name for path in tmp_path.glob("speech_*.png"))
    assert len(pictures) >= 5
    for name in (*pictures, "audio_0_trt.wav", "audio_1_trt.wav"):
        assert f'src="{name}"' in page
    assert "it costs five dollars." in page


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--log-file", "../../x"), ("--log-file ../../x", "plain file name")),
        (("--stream", "--page"), ("--page", "standard output")),
        (("-o", "-", "--resume"), ("--resume", "standard output")),
        (("--sample-rate", "12345"), ("--sample-rate", "16000")),
        (("--lexicon", "no.txt"), ("no.txt", "lexicon")),
        (("-o", "a.mp3", "--page"), ("--page", "one file a.mp3")),
        (("-o", "a.mp3", "--text", "More."), ("a.mp3", "2 phrases", "give a folder")),
        (("-o", "a.mp3", "--format", "flac"), ("--format flac", "a.mp3")),
        (("-o", "a.opus", "--sample-rate", "44100"), ("44100", "opus takes")),
        (("-o", "-", "--format", "float32"), ("--format float32", "standard output")),
        (("-o", "a.ogg"), ("a.ogg", "no format ogg", "only wav, pcm, flac")),
        (("-o", "/dev/full"), ("/dev/full is neither a file nor a folder", "-o - > /dev/full")),
    ],
    ids=" ".join,
)
def test_flags_that_can_not_be_obeyed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: tuple[str, ...], words: tuple[str, ...]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert_one_line_error(run_here(TRT, "--text", "Hello.", *flags), *words)
    assert "a.ogg" not in os.listdir()


def checkpoint_flags(folder: Path, checkpoints: dict[str, Path]) -> list[object]:
    models = [word for name, path in checkpoints.items() for word in (f"--{name}", path)]
    return ["--text", "Hi.", "-o", folder, "--max-decoder-steps", "40", "--cpu", *models]


def test_the_baselines_suffix_is_a_part_of_a_name(tmp_path: Path, tiny_checkpoints: dict[str, Path]) -> None:
    flags = checkpoint_flags(tmp_path, tiny_checkpoints)
    named = ("--gate-threshold", "1", "--suffix", "a}{0")
    warmed = run_here("inference.py", *flags, *named, "--include-warmup", "-d", "0.02")
    assert warmed.returncode == EXIT_CUT, warmed.stderr
    assert (tmp_path / "audio_0_a}{0.wav").is_file()
    assert_one_line_error(run_here("inference.py", *flags, "--suffix", "a/b"), "--suffix a/b", "plain file name")


def test_flags_reach_the_stop_rule_through_the_checkpoint(tmp_path: Path, tiny_checkpoints: dict[str, Path]) -> None:
    flags = checkpoint_flags(tmp_path, tiny_checkpoints)
    plain = run_here("inference.py", *flags)  # untrained gates fire within a few frames
    assert plain.returncode == 0, plain.stderr
    stubborn = run_here("inference.py", *flags, "--decoder-no-early-stopping")
    assert stubborn.returncode == EXIT_CUT, stubborn.stderr
    contradicting = run_here("inference.py", *flags, "--p-attention-dropout", "0.4")
    assert_one_line_error(contradicting, "--p-attention-dropout", "leave the flag out")


@pytest.mark.slow
def test_a_strength_turns_the_denoiser_on(tmp_path: Path, tiny_folder: Path) -> None:
    def spoken(*flags: str) -> bytes:
        run_here(TRT, "--text", "Hello.", "-o", tmp_path, *SHORT, *flags, *model_flags(tiny_folder))
        return (tmp_path / "audio_0_trt.wav").read_bytes()

    plain, denoised = spoken(), spoken("-d", "0.5")
    assert plain != denoised
    assert spoken("--denoise", "-d", "0.5") == denoised
    assert spoken("--denoise") == spoken("--waveglow-ckpt", "anything") == spoken("-d", "0.01") != plain


def program(tiny_folder: Path, *flags: str) -> list[str]:
    return [sys.executable, str(REPOSITORY / TRT), *SHORT, *model_flags(tiny_folder), *flags]


PCM = 2 * 40 * 256  # bytes of a phrase of 40 frames, two a sample


@pytest.mark.slow
def test_audio_streams_to_standard_output_and_all_else_does_not(tmp_path: Path, tiny_folder: Path) -> None:
    texts = ("--text", "Hello.", "--text", NO_SOUND, "--text", "?!", "--text", "Good bye, and so on.")
    command = program(tiny_folder, *texts, "-o", "-")
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, timeout=300, check=False)
    assert result.returncode == 1
    assert b"Not spoken: line 2" in result.stderr
    assert b"Note: line 3 is without words: skipped" in result.stderr
    assert len(result.stdout) == 2 * PCM
    assert os.listdir(tmp_path) == []
    closed = ["bash", "-c", f"{' '.join(program(tiny_folder))} --text Hello. -o - >&-"]
    result = subprocess.run(closed, cwd=tmp_path, capture_output=True, timeout=300, check=False)
    assert result.returncode == 1
    assert b"standard output is closed" in result.stderr


@pytest.mark.slow
def test_a_listener_that_leaves_ends_the_stream_quietly(tmp_path: Path, tiny_folder: Path) -> None:
    words = " ".join(program(tiny_folder))
    texts = " ".join(["--text 'Hello there.'"] * 50)
    command = f"set -o pipefail; {words} {texts} --stream | head -c 1000 | wc -c"
    result = subprocess.run(
        ["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False
    )
    assert (result.stdout.strip(), result.stderr, result.returncode) == ("1000", "", EXIT_NO_READER)


@pytest.mark.slow
@pytest.mark.parametrize("ending", ["end of input", "Ctrl-C", "no listener"])
def test_lines_of_standard_input_are_heard_as_they_come(tiny_folder: Path, ending: str) -> None:
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(program(tiny_folder, "-i", "-", "-o", "-"), bufsize=0, **pipes) as process:
        assert process.stdin
        assert process.stdout
        assert process.stderr
        try:
            for line in (b"Hello.\n", b"\xff\nGood bye.\n"):
                process.stdin.write(line)
                heard = 0
                while heard < PCM:  # before standard input ends
                    chunk = process.stdout.read(PCM - heard)
                    assert chunk, process.stderr.read()
                    heard += len(chunk)
            if ending == "end of input":
                process.stdin.close()
            elif ending == "Ctrl-C":
                process.send_signal(signal.SIGINT)
            else:
                process.stdout.close()
                process.stdin.write(b"Nobody hears this.\n")
            printed, status = process.stderr.read().decode(), process.wait(60)
        finally:
            process.kill()
    assert printed.startswith("Not spoken: standard input line 2 is not UTF-8")
    assert "Traceback" not in printed
    assert status == {"end of input": 1, "Ctrl-C": 130, "no listener": EXIT_NO_READER}[ending]


def test_streamed_lines_are_the_lines_spoken_alone(voice: Voice) -> None:
    out, encoder = io.BytesIO(), make_encoder(FORMATS["pcm"], voice.sampling_rate)
    faulty = stream(voice, [phrases("Hello."), phrases(LONG)], SpeakSettings(**SETTINGS), out, encoder)
    assert [result.cut for result in faulty] == [True, True]  # by the frame limit, which is what ends them here
    assert {result.limit for result in faulty} == {"max_decoder_steps 40"}
    assert not any(result.error for result in faulty)
    samples = np.frombuffer(out.getvalue(), "<i2") / 32767
    alone = np.concatenate([voice.speak(text, **SETTINGS).samples for text in ("Hello.", LONG)])
    assert np.abs(samples - alone).max() < 1e-3
