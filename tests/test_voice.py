"""`Voice`, as another program uses it."""

import base64
import dataclasses
import io
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from scipy.io import wavfile

from common.cli import ArgumentParser
from common.errors import InvalidInput, UserError
from common.files import REPOSITORY, sha256_of
from common.metadata import PARTS, Precision
from pipeline import Audio, SpeakSettings, Voice, WorkSettings
from pipeline.console import EXIT_CUT
from pipeline.encoders import LOSSY_PEAK
from pipeline.engine_set import EngineSet
from pipeline.identity import identity_of
from pipeline.scheduler import Scheduler
from serving.flags import add_voice_flags, open_voice
from tacotron2.text.lexicon import Lexicon
from tacotron2.text.symbols import SYMBOLS
from tests.engine_doubles import tiny_engines
from tests.scripts import run_script

SHORT = {"max_decoder_steps": 90, "gate_threshold": 1.0}
SILENCE = Audio(np.zeros(3, np.float32), 22050)
BARE = {"PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"}  # the environment of a process


@pytest.fixture(scope="module")
def voice(tiny_folder: Path) -> Iterator[Voice]:
    with Voice.load(tiny_folder, cpu_backend="onnxruntime") as voice:
        yield voice


def test_a_text_becomes_audio_that_knows_its_rate(voice: Voice, tmp_path: Path) -> None:
    audio = voice.speak("Hello there.", **SHORT)
    assert audio.sampling_rate == voice.sampling_rate == 22050
    assert audio.samples.dtype == np.float32
    assert audio.samples.shape == (90 * 256,)
    assert audio.seconds == pytest.approx(90 * 256 / 22050)
    assert np.abs(audio.samples).max() <= 1
    assert audio.save(tmp_path / "hello.wav") == tmp_path / "hello.wav"
    rate, samples = wavfile.read(tmp_path / "hello.wav")
    assert (rate, samples.dtype, len(samples)) == (22050, np.float32, 90 * 256)


def test_a_stream_gives_what_speaking_gives(voice: Voice) -> None:
    text = "Hello there. This is another sentence."
    chunks = list(voice.stream(text, **SHORT))
    assert len(chunks) > 1
    whole, joined = voice.speak(text, **SHORT), Audio.join(chunks)
    assert joined.samples.shape == whole.samples.shape
    assert np.abs(joined.samples - whole.samples).max() < 1e-4


@pytest.mark.parametrize(("threshold", "cut"), [(1e-6, False), (1 - 1e-6, True)])
def test_audio_says_whether_the_limit_of_frames_cut_it(voice: Voice, threshold: float, cut: bool) -> None:
    settings = SHORT | {"gate_threshold": threshold}
    assert voice.speak("Hello there.", sampling_rate=16000, **settings).cut == cut
    assert Audio.join(voice.stream("Hello there. And on.", **settings)).cut == cut


def test_speaking_tells_its_progress(voice: Voice) -> None:
    news: list[tuple[float, int]] = []
    voice.speak("Hello there.", on_progress=lambda done, total: news.append((done, total)), **SHORT)
    done, totals = zip(*news, strict=True)
    assert list(done) == sorted(done)
    assert set(totals) == {len("Hello there.")}
    assert done[-1] == totals[0]


def test_a_lexicon_may_be_the_path_of_its_file(voice: Voice, tmp_path: Path) -> None:
    path = tmp_path / "words.tsv"
    path.write_text("Hi\thello\n")
    expected = voice.speak("Hi.", lexicon=Lexicon({"Hi": "hello"}), **SHORT)
    assert voice.speak("Hi.", lexicon=path, **SHORT) == voice.speak("Hi.", lexicon=str(path), **SHORT) == expected
    with pytest.raises(UserError, match="cannot read the lexicon"):
        voice.speak("Hi.", lexicon=tmp_path / "none.tsv")


def test_many_texts_come_in_order_and_one_that_fails_is_an_error_in_its_turn(voice: Voice) -> None:
    found = list(voice.speak_many(["One.", "...", "Three."], **SHORT))
    assert [index for index, _ in found] == [0, 1, 2]
    assert isinstance(found[1][1], UserError)
    for index, text in ((0, "One."), (2, "Three.")):
        audio = found[index][1]
        assert isinstance(audio, Audio)
        assert np.abs(audio.samples - voice.speak(text, **SHORT).samples).max() < 1e-4


def test_texts_are_read_as_they_are_spoken(voice: Voice) -> None:
    texts = iter(["One."] * 1000)
    next(voice.speak_many(texts, **SHORT))
    assert len(list(texts)) > 500


def test_what_can_not_be_spoken_or_set_is_one_line(voice: Voice) -> None:
    for text, settings, message in (
        ("...", {}, "nothing to speak"),
        ("Hi.", {"speed": 3}, "speed 3: must be between 0.5 and 2"),
        ("Hi.", {"sigma": float("nan")}, "sigma nan"),
        ("Hi.", {"speed": "2"}, "speed: must be a number, not str"),
        ("Hi.", {"seed": True}, "seed: must be a whole number, not bool"),
        ("Hi.", {"final_period": "no"}, "final_period: must be True or False, not str"),
        ("Hi.", {"text_normalizer": 1}, "text_normalizer: must be a str, not int"),
        ("Hi.", {"seed": 1.5}, "seed 1.5: must be a whole number"),
        ("Hi.", {"seed": None}, "seed: must be a whole number, not None"),
        ("Hi.", {"sentence_silence": -1}, "sentence_silence -1: must be between 0 and 10"),
        ("Hi.", {"text_normalizer": "klingon"}, "klingon"),
        ("Hi.", {"sampling_rate": 12345}, "16000"),
        ("Hi.", {"lexicon": {"Hi": "hello"}}, "lexicon: must be a Lexicon or the path of its file, not dict"),
        (None, {}, "the text to speak must be a str, not NoneType"),
        (b"Hi.", {}, "not bytes"),
        (5, {}, "not int"),
    ):
        for speak in (voice.speak, lambda *text, **given: list(voice.stream(*text, **given))):
            with pytest.raises(InvalidInput, match=re.escape(message)) as error:
                speak(text, **settings)
            assert "\n" not in str(error.value)
            assert error.value.setting == next(iter(settings), None)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda voice: list(voice.speak_many("Hello.")), "texts: must be several of str, not one str"),
        (lambda voice: voice.speak("Hello.", on_progress=5), "on_progress: must be a function, or None"),
        (lambda voice: list(voice.speak_many(3)), "texts: must be several of str, not one int"),
        (lambda voice: list(voice.speak_many(["Hello."], {"seed": 1})), "settings: must be SpeakSettings, not dict"),
        (lambda voice: voice.submit("Hello.", {"seed": 1}), "settings: must be SpeakSettings, not dict"),
        (lambda voice: voice.speak("Hello.", 3), "settings: must be SpeakSettings, not int"),
        (lambda voice: Voice.load(3), "models: must be str or Path, not int"),
        (lambda voice: Voice.load(precision=16), "precision 16: must be fp32 or fp16"),
        (lambda voice: Voice.load({"encoder": "a"}), "paths: decoder_iter, postnet, waveglow missing"),
        (lambda voice: Voice.load(dict.fromkeys(PARTS, 3)), "encoder: must be str or Path, not int"),
        (lambda voice: Voice(tiny_engines(), {"window": 96}), "work: must be WorkSettings, not dict"),
        (lambda voice: Voice(3), "engines: must be Mapping, not int"),
        (
            lambda voice: Voice.load(dict.fromkeys(PARTS, "a"), batch=3),
            "batch: there is no such setting; .*, device, .*",
        ),
        (lambda voice: voice.speak("Hello.", foo=1), "foo: there is no such setting; there are seed, .*, timestamps"),
        (lambda voice: voice.speak("Hello.", SpeakSettings(), foo=1), "foo: there is no such setting; .*"),
        (lambda voice: voice.speak("Hello.", seed=2**70), f"seed {2**70}: must be between 0 and {2**63 - 1}"),
        (lambda voice: Scheduler(voice.engines, max_slots=0), "max_slots 0: must be a whole number from 1"),
        (lambda voice: Scheduler(voice.engines, max_waiting="x"), "max_waiting 'x': must be a whole number from 1"),
        (lambda voice: SILENCE.save(3), "target: must be str or Path, not int"),
        (lambda voice: SILENCE.save(""), "target '': is a folder; name a file"),
        (lambda voice: SILENCE.resampled("x"), "sampling_rate 'x': must be a whole number from 1"),
        (lambda voice: Audio([0.0], 22050), "samples: must be ndarray, not list"),
        (lambda voice: Audio(np.zeros(3), 22050), "samples: must be float32 of one dimension, not float64 of .*"),
        (lambda voice: Audio(np.zeros((1, 3), np.float32), 1), r"samples: .*, not float32 of shape \(1, 3\)"),
        (lambda voice: Audio(SILENCE.samples, 0), "sampling_rate 0: must be a whole number from 1"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_argument_of_another_type_is_named(voice: Voice, call: Callable[[Voice], object], message: str) -> None:
    with pytest.raises(InvalidInput, match=f"^{message}$"):
        call(voice)


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ({"tacotron2": None}, "tacotron2: must be str or Path, not NoneType"),
        ({"device": "tpu"}, "device tpu: give cpu, cuda or cuda:N"),
        ({"device": 0}, "device: must be str or device, not int"),
        ({"precision": "fp8"}, "precision 'fp8': must be fp32 or fp16"),
        ({"conditioning": 0}, "conditioning '0': give auto, exact, or a rank from 1"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_wrong_argument_of_checkpoints_is_named(
    tiny_checkpoints: dict[str, Path], argument: dict, message: str
) -> None:
    with pytest.raises(InvalidInput, match=f"^{message}$"):
        Voice.from_checkpoints(**{**tiny_checkpoints, **argument})


def test_numbers_of_numpy_are_numbers(voice: Voice) -> None:
    plain = voice.speak("Hi.", seed=3, speed=1.5, final_period=False, **SHORT)
    given = {"seed": np.int64(3), "speed": np.float32(1.5), "final_period": np.bool_(False)}
    assert voice.speak(np.str_("Hi."), **given, **SHORT) == plain


def test_audio_is_an_array_that_knows_when_it_is_equal(voice: Voice) -> None:
    audio = Audio(np.array([0.5, -0.5, 0.25], np.float32), 22050)
    assert len(audio) == 3
    assert np.asarray(audio).tolist() == [0.5, -0.5, 0.25]
    assert audio == Audio(audio.samples.copy(), 22050)
    assert audio != Audio(audio.samples, 16000)
    assert audio != Audio(audio.samples[:2], 22050)
    assert repr(audio) == "<Audio of 0.00 s, 22050 Hz>"
    assert "22050 Hz" in repr(voice)


def test_audio_plays_in_a_notebook() -> None:
    audio = Audio(np.array([0.5, -0.5, 0.25], np.float32), 22050)
    (data,) = re.findall(r'<audio controls src="data:audio/wav;base64,([^"]+)">', audio._repr_html_())
    rate, samples = wavfile.read(io.BytesIO(base64.b64decode(data)))
    assert (rate, samples.tolist()) == (22050, [16384, -16384, 8192])
    assert Audio(audio.samples[:0], 22050)._repr_html_() == "<Audio of 0.00 s, 22050 Hz>"


@pytest.mark.parametrize(
    ("suffix", "rate"), [("wav", 22050), ("flac", 22050), ("mp3", 22050), ("aac", 22050), ("opus", 24000)]
)
def test_audio_is_saved_in_the_format_of_its_name(tmp_path: Path, suffix: str, rate: int) -> None:
    av = pytest.importorskip("av")
    tone = (np.sin(0.125 * np.arange(22050)) * np.hanning(22050) / 4).astype(np.float32)
    path = Audio(tone, 22050).save(tmp_path / f"tone.{suffix}")
    with av.open(path) as file:
        (stream,) = file.streams.audio
        samples = np.concatenate([frame.to_ndarray()[0] for frame in file.decode(stream)])
        assert stream.sample_rate == rate or suffix == "opus"  # which is always decoded at 48 kHz
        seconds = len(samples) / stream.sample_rate
    assert seconds == pytest.approx(1, abs=0.1)  # lossy encoders pad
    scale = 1 if samples.dtype.kind == "f" else np.iinfo(samples.dtype).max
    full = 1 if suffix in ("wav", "flac") else LOSSY_PEAK
    assert os.listdir(tmp_path) == [path.name]
    assert np.abs(samples).max() / scale == pytest.approx(full, rel=0.1)  # the codecs' own error
    buffer = io.BytesIO()
    assert Audio(tone, 22050).save(buffer, format=suffix) is buffer
    if suffix in ("wav", "flac"):
        assert buffer.getvalue() == path.read_bytes()


def test_what_can_not_be_saved_is_one_line(tmp_path: Path) -> None:
    audio = Audio(np.array([0.5, -0.5, 0.25], np.float32), 22050)
    for name, options, setting in (
        ("a.doc", {}, "format"),
        ("a.wav", {"format": "m4a"}, "format"),
        ("a.wav", {"sample_format": "int24"}, "sample_format"),
    ):
        with pytest.raises(InvalidInput) as error:
            audio.save(tmp_path / name, **options)
        assert error.value.setting == setting
        assert "\n" not in str(error.value)
    for samples in ([], [float("nan")]):
        with pytest.raises(UserError, match="no file was written"):
            Audio(np.array(samples, np.float32), 22050).save(tmp_path / "a.mp3")
    with pytest.raises(UserError, match="NaN or infinite"):
        Audio(np.array([float("nan")], np.float32), 22050).pcm16()
    assert list(tmp_path.iterdir()) == []


def test_speed_and_rate_change_the_length_as_they_say(voice: Voice) -> None:
    plain = voice.speak("Hello.", **SHORT).seconds
    faster = SpeakSettings(**SHORT, speed=1.25)
    assert voice.speak("Hello.", faster).seconds == pytest.approx(plain / 1.25, rel=0.02)
    resampled = voice.speak("Hello.", faster, speed=1.0, sampling_rate=48000)
    assert resampled.sampling_rate == 48000
    assert resampled.seconds == pytest.approx(plain, rel=1e-3)


def test_threads_take_turns(voice: Voice) -> None:
    texts = [f"Number {word}." for word in ("one", "two", "three", "four")]
    expected = [voice.speak(text, **SHORT).samples for text in texts]
    found: dict[int, np.ndarray] = {}
    threads = [
        threading.Thread(target=lambda i=i, text=text: found.update({i: voice.speak(text, **SHORT).samples}))
        for i, text in enumerate(texts)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)
    for index, samples in enumerate(expected):
        assert np.abs(found[index] - samples).max() < 1e-4


def test_a_closed_voice_says_so_and_may_be_closed_again(tiny_folder: Path) -> None:
    voice = Voice.load(tiny_folder)
    voice.close()
    voice.close()
    for use in (lambda: voice.speak("Hello."), lambda: next(voice.stream("Hello."))):
        with pytest.raises(UserError, match="closed"):
            use()


@pytest.mark.parametrize(
    "change",
    [{"sigma": 0.5}, {"gain": 2.0}, {"bias": (0.0,) * 513}, {"checkpoint_sha256": "2" * 64}, {"precision": "fp16"}],
    ids=lambda change: next(iter(change)),
)
def test_an_identity_tells_voices_apart_that_sound_different(change: dict) -> None:
    engines = tiny_engines()
    before = identity_of(EngineSet(engines), SpeakSettings())
    assert json.loads(json.dumps(before)) == before
    for part, engine in engines.items():
        if part == "waveglow" or "precision" in change:
            engine.metadata = dataclasses.replace(engine.metadata, **change)
    assert identity_of(EngineSet(engines), SpeakSettings()) != before


def test_an_identity_holds_what_is_in_force(voice: Voice) -> None:
    def identity(**settings: object) -> dict:
        return identity_of(voice.engines, SpeakSettings(**settings))

    plain = identity()
    values = plain["settings"]
    assert identity(sigma=values["sigma"], gate_threshold=values["gate_threshold"], sampling_rate=22050) == plain
    assert identity(keep_pictures=True) == plain
    others = [{"seed": 1}, {"sigma": 0.1}, {"gate_threshold": 0.9}, {"max_decoder_steps": 9}, {"denoise": 0.1}]
    others += [{"lexicon": Lexicon({"a": "b"})}, {"lexicon": Lexicon({"a": "c"})}, {"text_normalizer": "none"}]
    assert len({json.dumps(identity(**one)) for one in ({}, *others)}) == len(others) + 1


def test_a_folder_without_models_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no model files; export or build them there"):
        Voice.load(tmp_path)


def test_loading_says_which_files_it_takes(tiny_folder: Path) -> None:
    messages: list[str] = []
    Voice.load(tiny_folder, on_message=messages.append).close()
    assert messages == ["Models: " + ", ".join(str(tiny_folder / f"{part}.onnx") for part in PARTS)]


@pytest.mark.parametrize(
    ("precision", "error"), [("fp16", "is fp32, not fp16"), ("fp8", "precision 'fp8': must be fp32 or fp16")]
)
def test_a_precision_that_the_files_have_not_is_refused(tiny_folder: Path, precision: Precision, error: str) -> None:
    with pytest.raises(UserError, match=error):
        Voice.load(tiny_folder, precision=precision)


def test_an_installation_without_the_demo_voice_says_so_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("pipeline.model_files.DEMO_FOLDER", tmp_path / "site-packages" / "output")
    monkeypatch.setattr("pipeline.model_files.DEMO_TACOTRON2", tmp_path / "site-packages" / "tacotron2_demo.pt")
    with pytest.raises(UserError, match="the demo voice isn't installed; name a folder of model files, or install the"):
        Voice.load()
    assert list(tmp_path.iterdir()) == []


def test_engines_that_do_not_belong_together_are_refused(tiny_folders: dict[Precision, Path]) -> None:
    paths = {part: tiny_folders["fp32"] / f"{part}.onnx" for part in PARTS}
    with pytest.raises(UserError, match="one precision"):
        Voice.load({**paths, "postnet": tiny_folders["fp16"] / "postnet.onnx"})


def test_checkpoints_speak_as_their_exported_files_do(voice: Voice, tiny_checkpoints: dict[str, Path]) -> None:
    with Voice.from_checkpoints(**tiny_checkpoints, work=WorkSettings(batch_size=2)) as plain:
        for settings in (SHORT, {**SHORT, "denoise": 0.1}):
            expected, found = (one.speak("Hello there.", **settings).samples for one in (voice, plain))
            assert np.abs(found - expected).max() < 1e-3 * np.abs(expected).max()


def test_the_rate_of_checkpoints_that_do_not_say_it_can_be_given(
    tiny_checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    with Voice.from_checkpoints(**tiny_checkpoints, sampling_rate=16000) as voice:
        assert voice.speak("Hello there.", **SHORT).sampling_rate == 16000
    (tmp_path / "symbols.txt").write_text("a\nb\n")
    with pytest.raises(UserError, match=r"symbols\.txt: 2 symbols, but .* knows 148"):
        Voice.from_checkpoints(**tiny_checkpoints, symbols=tmp_path / "symbols.txt")


def test_servers_take_the_rate_and_the_symbols_of_checkpoints(
    tiny_checkpoints: dict[str, Path], tiny_folder: Path, tmp_path: Path
) -> None:
    def opened(*flags: str) -> Voice:
        parser = ArgumentParser()
        add_voice_flags(parser)
        return open_voice(parser.parse_args(flags))

    symbols = tmp_path / "symbols.txt"
    symbols.write_text("\n".join(SYMBOLS) + "\n", encoding="utf-8")
    files = map(str, tiny_checkpoints.values())
    with opened("--checkpoints", *files, "--sampling-rate", "16000", "--symbols", str(symbols)) as voice:
        assert voice.sampling_rate == 16000
        assert voice.engines.parts["encoder"].metadata.checkpoint_sha256 != sha256_of(tiny_checkpoints["tacotron2"])
    with pytest.raises(UserError, match="--sampling-rate is for --checkpoints"):
        opened("--models", str(tiny_folder), "--sampling-rate", "16000")


def test_a_missing_gpu_is_named(tiny_checkpoints: dict[str, Path]) -> None:
    with pytest.raises(UserError, match="FP16 needs an NVIDIA GPU"):
        Voice.from_checkpoints(**tiny_checkpoints, precision="fp16")


@pytest.mark.slow
def test_the_readmes_program_runs_from_another_folder(tmp_path: Path, tiny_folder: Path) -> None:
    readme = (REPOSITORY / "README.md").read_text()
    program = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)[0]
    assert len(program.splitlines()) <= 12
    (tmp_path / "output").symlink_to(tiny_folder)
    path = tmp_path / "program.py"
    path.write_text(program)
    result = run_script(str(path), cwd=tmp_path, env={**BARE, "PYTHONPATH": str(REPOSITORY)})
    assert result.returncode == 0, result.stderr
    rate, samples = wavfile.read(tmp_path / "hello.wav")
    assert rate == 22050
    assert len(samples) >= 256
    assert re.search(r"^\d+\.\d\d s at 22050 Hz\n(\d+\.\d\d s more: \d+ samples\n)+$", result.stdout)


@pytest.mark.slow
def test_an_installed_project_speaks_with_its_voice_and_writes_nothing_beside_itself(
    tmp_path: Path, tiny_checkpoints: dict[str, Path]
) -> None:
    """Built from a copy with a tiny demo voice, so that it takes seconds."""
    clone, site, home, out = (tmp_path / name for name in ("clone", "site", "home", "out"))
    tracked = subprocess.run(["git", "ls-files"], cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    for name in filter(lambda name: not name.endswith(".pt"), tracked.splitlines()):
        (clone / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(REPOSITORY / name, clone / name)
    for model, path in tiny_checkpoints.items():
        shutil.copy(path, clone / "checkpoints" / f"{model}_demo.pt")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "--target", site, clone], check=True, timeout=300)
    installed = {path for path in site.rglob("*") if "__pycache__" not in path.parts}
    flags = ("Hello.", "-o", out, "--max-decoder-steps", "16")
    environment = {**BARE, "PYTHONPATH": str(site), "HOME": str(home)}
    result = run_script(str(site / "bin" / "speak"), *flags, cwd=tmp_path, env=environment)
    assert result.returncode in (0, EXIT_CUT), result.stderr
    assert f"Exporting the demo voice to {home}/.cache/" in result.stdout
    assert len(list(out.glob("*.wav"))) == 1
    assert {path for path in site.rglob("*") if "__pycache__" not in path.parts} == installed
