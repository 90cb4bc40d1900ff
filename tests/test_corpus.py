"""A corpus: the layouts that consumers read, the same bytes whatever happens on the way, and lines that fail."""

import csv
import errno
import itertools
import json
import os
import random
import re
import tarfile
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest

from common.errors import UserError
from common.files import locked_folder, sha256_of
from common.phrases import Phrase
from exports.voice import export_voice
from pipeline import SpeakSettings, stages
from pipeline.engine_set import EngineSet
from pipeline.pieces import prepare
from scripts.corpus import main, make_parser
from serving.corpora.corpus import Corpus
from serving.corpora.estimate import estimate
from serving.corpora.job import FORMATS, Job, VoiceSource, identity_of
from serving.corpora.layout import Layout, Shard
from serving.corpora.lines import Line, survey
from serving.corpora.pool import PoolWorker
from serving.corpora.process import WorkerDied
from serving.corpora.report import CorpusTotals
from serving.corpora.run import speak_shards, start_workers
from serving.corpora.shard import ShardReport
from serving.corpora.worker import Worker
from tacotron2.text import TextFrontEnd
from tests.corpora import MOST_STEPS, WORK, LocalPool, QuickSource, export_quick_voice, make, tree, write_lines


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> VoiceSource:
    return QuickSource(export_quick_voice(tmp_path_factory.mktemp("voice")), threads=1, work=WORK)


def checkpoints_of(source: VoiceSource) -> dict[str, Path]:
    assert source.folder is not None
    return {name: source.folder / f"{name}.pt" for name in ("tacotron2", "waveglow")}


def read_entries(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def lines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_lines(tmp_path_factory.mktemp("lines") / "lines.txt", 40)


@pytest.fixture(scope="module")
def plain(source: VoiceSource, lines: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The corpus of an undisturbed run."""
    folder = tmp_path_factory.mktemp("plain")
    make(source, lines, folder)
    return folder


def test_the_manifest_has_every_line_that_was_spoken_and_retry_every_other(
    source: VoiceSource, plain: Path, lines: Path
) -> None:
    spoken, others = read_entries(plain / "manifest.jsonl"), read_entries(plain / "retry.jsonl")
    assert spoken
    assert others  # cut: this voice doesn't always stop
    assert sorted(entry["line"] for entry in (*spoken, *others)) == list(range(1, 41))
    first, text = spoken[0], lines.read_text(encoding="utf-8").splitlines()
    assert first["text"] == text[first["line"] - 1]
    assert first["stop_reason"] == "gate"
    assert first["frames"] * 256 / 22050 == pytest.approx(first["seconds"], abs=1e-6)
    assert first["seed"] == 0
    assert first["models"] == {name: sha256_of(path) for name, path in checkpoints_of(source).items()}
    assert {"project", "torch", "onnxruntime"} <= set(first["versions"])
    assert first["configuration"] == json.loads((plain / "corpus.json").read_text(encoding="utf-8"))["hash"]
    assert all("cut by the limit of frames" in entry["reason"] for entry in others)
    assert not any((plain / "wavs" / f"{entry['id']}.wav").exists() for entry in others)


def test_lhotse_reads_the_ljspeech_layout(plain: Path) -> None:
    lhotse = pytest.importorskip("lhotse.recipes.ljspeech")
    read = lhotse.prepare_ljspeech(plain)
    entries = read_entries(plain / "manifest.jsonl")
    assert [one.id for one in read["recordings"]] == [entry["id"] for entry in entries]
    assert [one.duration for one in read["recordings"]] == pytest.approx([e["seconds"] for e in entries], abs=1e-6)
    assert [one.custom["normalized_text"] for one in read["supervisions"]] == [entry["reading"] for entry in entries]
    assert next(iter(read["recordings"])).load_audio().shape == (1, entries[0]["frames"] * 256)


def test_csv_and_soundfile_read_the_ljspeech_layout_whatever_the_text(source: VoiceSource, tmp_path: Path) -> None:
    soundfile = pytest.importorskip("soundfile")
    texts = ['"Quoted, he said', "A bar | in the text.", "Two\nlines", "A long one, " * 1700]
    rows = [{"id": f"../{n}", "text": text, "seed": n} for n, text in enumerate(texts)]
    (tmp_path / "in.jsonl").write_text("\n".join(map(json.dumps, rows)))
    make(source, tmp_path / "in.jsonl", tmp_path / "out", settings=SpeakSettings(max_decoder_steps=200))
    with open(tmp_path / "out" / "metadata.csv", newline="", encoding="utf-8") as file:
        read = list(csv.reader(file, delimiter="|", quoting=csv.QUOTE_NONE))
    assert [len(columns) for columns in read] == [3, 3, 3, 3]
    assert [columns[1] for columns in read[:3]] == ['"Quoted, he said', "A bar in the text.", "Two lines"]
    entries = read_entries(tmp_path / "out" / "manifest.jsonl")
    assert [entry["text"] for entry in entries] == [text.strip() for text in texts]
    assert [entry["source_id"] for entry in entries] == ["../0", "../1", "../2", "../3"]
    assert entries[3]["pieces"] > 100
    for (name, _, _), entry in zip(read, entries, strict=True):
        samples, rate = soundfile.read(tmp_path / "out" / "wavs" / f"{name}.wav", dtype="int16")
        assert (rate, len(samples)) == (22050, entry["frames"] * 256)
    assert {path.parent for path in tmp_path.rglob("*.wav")} == {tmp_path / "out" / "wavs"}


def test_nemo_manifests_name_flac_files_beside_them(
    source: VoiceSource, lines: Path, plain: Path, tmp_path: Path
) -> None:
    soundfile = pytest.importorskip("soundfile")
    make(source, lines, tmp_path, format="nemo", audio="flac")
    read = read_entries(tmp_path / "nemo_manifest.jsonl")
    wavs = read_entries(plain / "manifest.jsonl")
    assert [entry["text"] for entry in read] == [entry["reading"] for entry in wavs]
    for entry, wav in zip(read, wavs, strict=True):
        flac, rate = soundfile.read(tmp_path / entry["audio_filepath"], dtype="int16")
        assert entry["duration"] == pytest.approx(len(flac) / rate, abs=1e-6)
        assert np.array_equal(flac, soundfile.read(plain / wav["audio"], dtype="int16")[0])


def test_webdataset_reads_the_tars(source: VoiceSource, lines: Path, plain: Path, tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    make(source, lines, tmp_path, format="webdataset", audio="wav")
    tars = sorted(str(path) for path in (tmp_path / "shards").glob("*.tar"))
    read = list(webdataset.WebDataset(tars, shardshuffle=False))
    wavs = read_entries(plain / "manifest.jsonl")
    assert [sample["__key__"] for sample in read] == [entry["id"] for entry in wavs]
    assert [sample["wav"] for sample in read] == [(plain / entry["audio"]).read_bytes() for entry in wavs]
    described = json.loads(read[0]["json"])
    assert described["sampling_rate"] == 22050
    assert described["reading"] == wavs[0]["reading"]


def test_another_sampling_rate_changes_the_files_and_nothing_else(
    source: VoiceSource, lines: Path, plain: Path, tmp_path: Path
) -> None:
    soundfile = pytest.importorskip("soundfile")
    make(source, lines, tmp_path, sampling_rate=16000)
    for entry, wav in zip(*(read_entries(f / "manifest.jsonl") for f in (tmp_path, plain)), strict=True):
        assert entry["frames"] == wav["frames"]
        assert soundfile.info(tmp_path / entry["audio"]).samplerate == 16000
        assert entry["seconds"] == pytest.approx(wav["seconds"], abs=1 / 16000)


@pytest.mark.parametrize("format_name", ["ljspeech", "webdataset"])
def test_a_run_that_ended_anywhere_is_finished_by_the_next_to_the_same_bytes(
    source: VoiceSource, lines: Path, tmp_path: Path, format_name: str
) -> None:
    make(source, lines, tmp_path / "whole", format=format_name)
    broken = tmp_path / "broken"
    with pytest.raises(KeyboardInterrupt):
        make(source, lines, broken, format=format_name, on_report=_interrupt_at(2))
    assert not (broken / "manifest.jsonl").exists()
    done: list[int] = []
    # What a crash of the machine may leave: a record of a file that is cut, and a half-written file.
    record = next(iter(sorted((broken / "parts").iterdir())))
    files = json.loads(record.read_text(encoding="utf-8").splitlines()[0])["files"]
    (broken / next(iter(files))).write_bytes(b"cut")
    (broken / "parts" / ".00-0000004.jsonl.0123abcd.part").write_text("half")
    make(source, lines, broken, format=format_name, on_report=lambda report: done.append(report.lines))
    assert 0 < sum(done) < 40
    make(source, lines, broken, format=format_name, on_report=lambda report: pytest.fail("a shard was spoken again"))
    assert tree(broken) == tree(tmp_path / "whole")


def _interrupt_at(shards: int) -> Callable[[Any], None]:
    seen: list[Any] = []

    def on_report(report: Any) -> None:
        seen.append(report)
        if len(seen) == shards:
            raise KeyboardInterrupt

    return on_report


def test_another_configuration_in_the_same_folder_is_refused(source: VoiceSource, lines: Path, plain: Path) -> None:
    with pytest.raises(UserError, match=r"another configuration \(settings.seed was 0, is 1\); use the same"):
        make(source, lines, plain, settings=SpeakSettings(seed=1, max_decoder_steps=MOST_STEPS))
    with pytest.raises(UserError, match="shard_lines was 8, is 9"):
        make(source, lines, plain, shard_lines=9)


def test_another_voice_of_the_same_checkpoints_is_refused(
    source: VoiceSource, lines: Path, plain: Path, tmp_path: Path
) -> None:
    export_voice(tmp_path, "fp32", **checkpoints_of(source), sigma=0.9)
    with pytest.raises(UserError, match=r"identity.voice.models.waveglow.sigma was 0.6, is 0.9"):
        make(replace(source, folder=tmp_path), lines, plain)


def test_a_folder_that_holds_something_else_is_refused(source: VoiceSource, lines: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.doc").touch()
    with pytest.raises(UserError, match=r"holds thesis.doc and is no corpus"):
        make(source, lines, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.doc"]


def test_a_full_disk_ends_the_run_and_nothing_is_lost(
    source: VoiceSource, lines: Path, plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[str] = []
    write_audio = Layout.write_audio

    def fill(layout: Layout, path: str, audio: bytes) -> None:
        if len(written) > 11:
            raise OSError(errno.ENOSPC, "No space left on device", path)
        written.append(path)
        write_audio(layout, path, audio)

    with monkeypatch.context() as patched:
        patched.setattr(Layout, "write_audio", fill)
        with pytest.raises(OSError, match="No space left"):
            make(source, lines, tmp_path)
    make(source, lines, tmp_path)
    assert tree(tmp_path) == tree(plain)


def test_a_shard_that_ends_every_worker_fails_alone_and_its_lines_can_be_tried_again(
    source: VoiceSource, lines: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    poison = 20  # the line that ends every worker, whatever is beside it

    def die(shard: Shard) -> None:
        if any(line.number == poison for line in shard.lines):
            raise WorkerDied("killed")

    enough = SpeakSettings(max_decoder_steps=200)
    make(source, lines, tmp_path, LocalPool(die), settings=enough)
    assert "Shard 00-0000002 (line 17 and following) ended its worker 3 times" in caplog.text
    failed = read_entries(tmp_path / "retry.jsonl")
    assert [entry["line"] for entry in failed] == list(range(17, 25))
    assert {entry["reason"] for entry in failed} == {"its shard ended its worker 3 times"}
    assert len(read_entries(tmp_path / "manifest.jsonl")) == 32
    make(source, lines, tmp_path, LocalPool(die), retry=True, settings=enough)
    (still,) = read_entries(tmp_path / "retry.jsonl")
    assert (still["line"], still["reason"]) == (poison, "its shard ended its worker 3 times")
    assert len(read_entries(tmp_path / "manifest.jsonl")) == 39


class MortalPool:
    """Workers that report a shard when they have spoken the next one, and die at random, or of a poisonous shard."""

    size, on_gpus = 3, False

    def __init__(self, seed: int, poisonous: set[int]) -> None:
        self._chance = random.Random(seed)
        self._poisonous = poisonous
        self._spoken: list[ShardReport] = []

    def start(self, source: VoiceSource) -> PoolWorker:
        return MortalPool(self._chance.randrange(1000), self._poisonous).call

    def call(self, method: str, *arguments: Any) -> Any:
        if method == "open":
            return None
        _, shard, following = arguments
        before, self._spoken = self._spoken, []
        if method == "give_up":
            return [*before, ShardReport(shard.name, "gave up", 0)]
        if shard.number in self._poisonous or self._chance.random() < 0.1:
            raise WorkerDied("killed")
        now = [ShardReport(shard.name, "", 0)]
        if following is None:
            return before + now
        self._spoken = now
        return before


@pytest.mark.parametrize("seed", range(10))
def test_every_shard_is_reported_once_whenever_workers_die(seed: int) -> None:
    shards = (Shard(0, number, (Line(number + 1, "a", "A."),)) for number in range(20))
    workers, _ = start_workers(MortalPool(seed, {0, 7, 19}), VoiceSource(None), 3)
    reports = list(speak_shards(workers, None, shards))  # type: ignore[arg-type]
    assert sorted(report.shard for report in reports) == [f"00-{number:07d}" for number in range(20)]
    assert {f"00-{number:07d}" for number in (0, 7, 19)} <= {one.shard for one in reports if one.worker == "gave up"}


def test_a_voice_that_no_worker_can_open_ends_the_run_and_no_shard_is_blamed(
    source: VoiceSource, lines: Path, tmp_path: Path
) -> None:
    def die(worker: Worker) -> None:
        raise WorkerDied("killed")

    with (
        mock.patch.object(Worker, "open", die),
        pytest.raises(UserError, match=r"no worker could be started \(killed\)"),
    ):
        make(source, lines, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("call", [1, 5])
def test_an_engine_that_fails_once_leaves_no_trace(
    source: VoiceSource, lines: Path, plain: Path, tmp_path: Path, call: int
) -> None:
    calls = itertools.count(1)

    def encode(engines: EngineSet, ids: Any) -> Any:
        if next(calls) == call:
            raise RuntimeError("boom")
        return whole(engines, ids)

    whole = stages.encode
    with mock.patch.object(stages, "encode", encode):
        make(source, lines, tmp_path)
    assert tree(tmp_path) == tree(plain)


@pytest.mark.parametrize("stage", ["prepare", "speak", "write"])
def test_whatever_fails_in_a_line_fails_alone(
    source: VoiceSource, lines: Path, plain: Path, tmp_path: Path, stage: str, caplog: pytest.LogCaptureFixture
) -> None:
    (victim, *others) = read_entries(plain / "manifest.jsonl")

    def fail_at(part: Callable[..., Any], is_victim: Callable[..., bool]) -> Callable[..., Any]:
        def maybe(*arguments: Any, **options: Any) -> Any:
            if is_victim(*arguments):
                raise KeyError("boom")
            return part(*arguments, **options)

        return maybe

    ids = prepare([Phrase(0, victim["text"])], SpeakSettings(), 128)[0].pieces[0].encoded.ids
    owner, name, is_victim = {
        "prepare": (TextFrontEnd, "read", lambda front_end, text: text == victim["text"]),
        "speak": (stages, "encode", lambda engines, batch: any(np.array_equal(one, ids) for one in batch)),
        "write": (Layout, "audio_path", lambda layout, shard, line: line.id == victim["id"]),
    }[stage]
    with mock.patch.object(owner, name, fail_at(getattr(owner, name), is_victim)):
        make(source, lines, tmp_path)
    failed = {entry["line"]: entry["reason"] for entry in read_entries(tmp_path / "retry.jsonl")}
    assert failed.keys() == {victim["line"], *(entry["line"] for entry in read_entries(plain / "retry.jsonl"))}
    assert "KeyError; see the log" in failed[victim["line"]]
    assert "boom" in caplog.text
    assert [entry["line"] for entry in read_entries(tmp_path / "manifest.jsonl")] == [one["line"] for one in others]


def test_a_record_is_written_when_all_files_that_it_names_are_on_the_disk(
    source: VoiceSource, lines: Path, tmp_path: Path
) -> None:
    done: list[str] = []

    def note(handle: int) -> None:
        done.append(os.readlink(f"/proc/self/fd/{handle}"))

    with mock.patch("os.fsync", note):
        make(source, lines, tmp_path, shard_lines=40)
    *before, record, folder = done
    (entry,) = (tmp_path / "parts").iterdir()
    files = json.loads(entry.read_text(encoding="utf-8").splitlines()[0])["files"]
    assert {str(tmp_path / name) for name in files} | {str(tmp_path / "wavs")} == set(before)
    assert entry.name in record  # under its temporary name
    assert folder == str(tmp_path / "parts")


def test_shards_of_long_lines_have_fewer_of_them(source: VoiceSource, tmp_path: Path) -> None:
    with open(tmp_path / "in.txt", "w", encoding="utf-8") as file:
        for number in range(6):
            file.write(f"Number {number}" + ", and on" * (15_000 if number == 2 else 5_000) + ".\n")
    found = survey(tmp_path / "in.txt")
    with source.open() as voice:
        identity = identity_of(voice)
    (tmp_path / "out").mkdir()
    job = Job(tmp_path / "out", found.sha256, 6, SpeakSettings(), WORK, 8, "ljspeech", "wav", 22050, identity)
    corpus = Corpus(job, tmp_path / "in.txt")
    assert list(corpus.sizes(0)) == [2, 1, 2, 1]
    assert [len(shard.lines) for shard in corpus.shards(0, {0, 1, 3})] == [2, 1, 1]


def test_lines_that_cannot_be_spoken_are_kept_with_their_reason_and_no_seed_is_tried_on_them(
    source: VoiceSource, tmp_path: Path
) -> None:
    (tmp_path / "in.csv").write_text("id,text\na,Good.\nb,...\nc,\nd,\u2603\ne,Caf\u00e9.\n", encoding="utf-8")
    make(source, tmp_path / "in.csv", tmp_path / "out", settings=SpeakSettings(max_decoder_steps=200))
    assert [entry["id"] for entry in read_entries(tmp_path / "out" / "manifest.jsonl")] == ["a", "e"]
    others = read_entries(tmp_path / "out" / "retry.jsonl")
    assert [(entry["id"], entry["line"]) for entry in others] == [("b", 3), ("c", 4), ("d", 5)]
    assert all(entry["reason"] and "\n" not in entry["reason"] for entry in others)
    with pytest.raises(UserError, match="nothing to try again; other texts are needed for 3 lines: change them"):
        make(source, tmp_path / "in.csv", tmp_path / "out", settings=SpeakSettings(max_decoder_steps=200), retry=True)
    for retry in (False, True):
        cut = SpeakSettings(max_decoder_steps=1)
        make(source, tmp_path / "in.csv", tmp_path / "cut", settings=cut, retry=retry)
    others = read_entries(tmp_path / "cut" / "retry.jsonl")
    assert [(entry["id"], entry["round"]) for entry in others] == [("a", 1), ("b", 0), ("c", 0), ("d", 0), ("e", 1)]
    assert [entry["id"] for entry in others if entry.get("text_at_fault")] == ["b", "c", "d"]


def test_retry_speaks_what_failed_with_other_seeds_and_leaves_the_rest_alone(
    source: VoiceSource, lines: Path, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"settings": SpeakSettings(max_decoder_steps=4), "shard_lines": 4}
    make(source, lines, tmp_path, **options)
    before = read_entries(tmp_path / "retry.jsonl")
    kept = read_entries(tmp_path / "manifest.jsonl")
    with pytest.raises(KeyboardInterrupt):
        make(source, lines, tmp_path, retry=True, on_report=_interrupt_at(1), **options)
    make(source, lines, tmp_path, retry=True, **options)
    after, spoken = read_entries(tmp_path / "retry.jsonl"), read_entries(tmp_path / "manifest.jsonl")
    assert len(after) < len(before)
    assert len(after) + len(spoken) == 40
    assert [entry["line"] for entry in spoken] == sorted(entry["line"] for entry in spoken)
    assert all(entry in spoken for entry in kept)
    new = [entry for entry in spoken if entry not in kept]
    assert all(entry["round"] == 1 and entry["seed"] != 0 for entry in new)
    assert all((tmp_path / entry["audio"]).exists() for entry in spoken)
    again = tmp_path / "again"
    make(source, lines, again, **options)
    make(source, lines, again, retry=True, **options)
    assert {n: d for n, d in tree(tmp_path).items() if not n.startswith("again/")} == tree(again)


def test_retry_waits_for_the_corpus_and_ends_when_nothing_is_left(source: VoiceSource, tmp_path: Path) -> None:
    path = write_lines(tmp_path / "in.txt", 24)
    enough = SpeakSettings(max_decoder_steps=200)
    with pytest.raises(KeyboardInterrupt):
        make(source, path, tmp_path / "out", settings=enough, on_report=_interrupt_at(1))
    with pytest.raises(UserError, match="finish it without --retry first"):
        make(source, path, tmp_path / "out", settings=enough, retry=True)
    make(source, path, tmp_path / "out", settings=enough)
    with pytest.raises(UserError, match="every line has its audio"):
        make(source, path, tmp_path / "out", settings=enough, retry=True)


def test_a_line_speaks_with_its_own_seed_and_speed_whatever_its_neighbours(source: VoiceSource, tmp_path: Path) -> None:
    rows = [{"text": "The same text.", "seed": n % 3, "speed": (1.0, 0.5)[n % 2]} for n in range(12)]
    (tmp_path / "in.jsonl").write_text("\n".join(map(json.dumps, rows)))
    make(source, tmp_path / "in.jsonl", tmp_path / "out", settings=SpeakSettings(max_decoder_steps=200))
    entries = read_entries(tmp_path / "out" / "manifest.jsonl")
    assert [(entry["seed"], entry["speed"]) for entry in entries] == [(row["seed"], row["speed"]) for row in rows]
    with source.open() as voice:
        for entry in entries[:6]:
            settings = {"max_decoder_steps": 200, "seed": entry["seed"], "speed": entry["speed"]}
            alone = voice.speak("The same text.", **settings)
            data = (tmp_path / "out" / entry["audio"]).read_bytes()[44:]
            written = np.frombuffer(data, "<i2") / 32767
            # Other batches round otherwise, and integers have 16 bits.
            assert len(written) == len(alone.samples)
            assert np.abs(written - alone.samples).max() < 1e-3 * max(1.0, float(np.abs(alone.samples).max()))


@pytest.mark.parametrize("format_name", FORMATS)
def test_ssml_is_spoken_and_word_times_stand_beside_it(source: VoiceSource, tmp_path: Path, format_name: str) -> None:
    ssml = '<speak>It rose<break time="300ms"/> <prosody rate="fast">by 20%</prosody> today.</speak>'
    rows = [{"text": ssml, "speed": 0.8}, {"text": "<speak>Not <b>closed.</speak>"}]
    (tmp_path / "in.jsonl").write_text("\n".join(map(json.dumps, rows)))
    settings = SpeakSettings(max_decoder_steps=200, ssml=True, timestamps=True)
    make(source, tmp_path / "in.jsonl", tmp_path / "out", settings=settings, format=format_name)
    (entry,) = read_entries(tmp_path / "out" / "manifest.jsonl")
    with source.open() as voice:
        alone = voice.speak(ssml, speed=0.8, max_decoder_steps=200, ssml=True, timestamps=True)
    assert [word["text"] for word in entry["words"]] == ["It", "rose", "by", "20%", "today."]
    for found, word in zip(entry["words"], alone.words, strict=True):
        assert (found["text"], found["span"]) == (word.text, list(word.span))
        assert (found["start"], found["end"]) == pytest.approx((word.start, word.end), abs=1e-3)
    assert entry["seconds"] == pytest.approx(alone.seconds, abs=1e-6)
    (failed,) = read_entries(tmp_path / "out" / "retry.jsonl")
    assert "SSML" in failed["reason"]
    if format_name == "nemo":
        assert [one["words"] for one in read_entries(tmp_path / "out" / "nemo_manifest.jsonl")] == [entry["words"]]
    if format_name == "webdataset":
        with tarfile.open(tmp_path / "out" / entry["audio"]) as tar:
            (member,) = (one for one in tar.getmembers() if one.name.endswith(".json"))
            assert json.load(tar.extractfile(member))["words"] == entry["words"]  # type: ignore[arg-type]
    off = replace(settings, timestamps=False)
    with pytest.raises(UserError, match=r"settings.timestamps was True, is False"):
        make(source, tmp_path / "in.jsonl", tmp_path / "out", settings=off, format=format_name)


def test_the_report_counts_hours_reasons_and_names_outliers(plain: Path, tmp_path: Path) -> None:
    totals = CorpusTotals()
    entries = read_entries(plain / "manifest.jsonl")
    for entry in (*entries, *read_entries(plain / "retry.jsonl")):
        totals.add(entry)
    totals.add({**entries[0], "id": "strange", "frames": 100_000, "line": 99})
    for number in (1, 2):
        totals.add({"line": number, "reason": f'speaking line {number} ("No. {number}") failed: KeyError; see the log'})
    assert totals.lines == len(entries) + 1
    assert totals.hours == pytest.approx(sum(entry["seconds"] for entry in (*entries, entries[0])) / 3600, rel=1e-4)
    assert totals.outliers()[0][1] == "strange"
    text = totals.save(tmp_path, []).read_text()
    assert "strange" in text
    assert "cut by the limit of frames" in text
    assert "| 2 | speaking a line failed: KeyError; see the log" in re.sub(" +", " ", text)
    assert (tmp_path / "report" / "frames_per_symbol.png").stat().st_size > 1000


def test_an_estimate_scales_a_sample_up_and_counts_no_line_that_is_cut(
    source: VoiceSource, lines: Path, plain: Path
) -> None:
    whole, cut, all_cut = (SpeakSettings(max_decoder_steps=steps) for steps in (200, MOST_STEPS, 1))
    with source.open() as voice:
        seen = estimate(lines, survey(lines), voice, whole, sample=10)
        of_all = estimate(lines, survey(lines), voice, cut, sample=40)
        with pytest.raises(
            UserError, match=r"none of 10 lines .* \(cut by the limit of frames\); .* --max-decoder-steps"
        ):
            estimate(lines, survey(lines), voice, all_cut, sample=10)
    assert not seen.reasons
    # Every line of this voice has 3 to 15 frames.
    assert 40 * 3 * 256 / 22050 <= seen.hours * 3600 <= 40 * 2 * 15 * 256 / 22050
    assert seen.working_hours(2) == pytest.approx(seen.hours / seen.rate / 2)
    spoken = read_entries(plain / "manifest.jsonl")
    assert of_all.reasons == {"cut by the limit of frames": 40 - len(spoken)}
    assert of_all.hours * 3600 == pytest.approx(sum(entry["seconds"] for entry in spoken), rel=1e-3)


def test_a_dry_run_says_how_much_and_how_long_and_writes_nothing(
    source: VoiceSource, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in.txt").write_text("Hello there.\n\U0001f600\n", encoding="utf-8")
    flags = ["-i", tmp_path / "in.txt", "-o", tmp_path / "new", "--models", source.folder, "--workers", 1]
    main(make_parser().parse_args(list(map(str, [*flags, "--threads", 1, "--max-decoder-steps", 200, "--dry-run"]))))
    printed = capsys.readouterr().out
    expected = ("2 lines, 13 characters", "hours of audio", "on 1 worker like", "1 of these would have no audio")
    assert all(words in printed for words in (*expected, "  1: nothing to speak\n"))
    assert not (tmp_path / "new").exists()


@pytest.mark.slow  # a worker in a process of its own
@pytest.mark.parametrize(("steps", "spoken", "status"), [(2000, 6, None), (1, 0, 4)])
def test_flags_make_a_corpus(
    source: VoiceSource, tmp_path: Path, capsys: pytest.CaptureFixture[str], steps: int, spoken: int, status: int | None
) -> None:
    path = write_lines(tmp_path / "lines.txt", 6)
    words = ["-i", path, "-o", tmp_path / "corpus", "--models", source.folder, "--no-ray", "--workers", 1]
    args = make_parser().parse_args(
        list(map(str, [*words, "--threads", 1, "--timestamps", "--max-decoder-steps", steps]))
    )
    with nullcontext() if status is None else pytest.raises(SystemExit, match=f"^{status}$"):
        main(args)
    assert f"{spoken} lines, " in capsys.readouterr().out
    entries = read_entries(tmp_path / "corpus" / "manifest.jsonl")
    assert [len(entry["words"]) for entry in entries] == [len(entry["text"].split()) for entry in entries]
    assert (len(entries), len(read_entries(tmp_path / "corpus" / "retry.jsonl"))) == (spoken, 6 - spoken)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--gpus", "1", "--workers", "1"], "--workers are for CPUs"),
        (["--address", "127.0.0.1:1", "--no-ray"], "leave --no-ray out"),
        (["--models", ".", "--checkpoints"], "--models or --checkpoints"),
        (["--checkpoints", "one.pt"], "takes two files"),
        (["--no-ray", "--gpus", "99"], "--gpus 99: this machine has"),
    ],
)
def test_flags_that_contradict_one_another_are_refused(
    lines: Path, tmp_path: Path, more: list[str], words: str
) -> None:
    with pytest.raises(UserError, match=words):
        main(make_parser().parse_args(["-i", str(lines), "-o", str(tmp_path / "new"), *more]))


def test_a_folder_has_one_run_at_a_time(lines: Path, tmp_path: Path) -> None:
    with locked_folder(tmp_path), pytest.raises(UserError, match="another run is writing here"):
        main(make_parser().parse_args(["-i", str(lines), "-o", str(tmp_path), "--no-ray"]))
