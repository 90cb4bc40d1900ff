"""A voice for tests of corpora, quick enough for hundreds of lines, workers in this process, and what they make."""

import dataclasses
import hashlib
import itertools
import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from common.config import WaveGlowConfig
from exports.voice import export_voice
from pipeline import SpeakSettings, Voice, WorkSettings, stages
from pipeline.engine_set import EngineSet
from serving.corpora import worker
from serving.corpora.corpus import Corpus
from serving.corpora.job import Identity, Job, VoiceSource
from serving.corpora.layout import Layout, Shard
from serving.corpora.lines import survey
from serving.corpora.pool import Pool, PoolWorker
from serving.corpora.process import WorkerStopped
from serving.corpora.run import speak_shards, start_workers
from serving.corpora.shard import ShardReading, ShardReport, read_shard, write_shard
from serving.corpora.worker import Worker
from tests.models import TINY_TACOTRON2, nested_waveglow_config, tiny_tacotron2, tiny_waveglow

SHARD = 8
WORK = WorkSettings(batch_size=4, max_symbols=128)
MOST_STEPS = 7  # with so many frames at most, some lines of the voice below come to their end and some are cut


def export_quick_voice(folder: Path) -> Path:
    """ONNX files of models with few mel channels. Their dropout decides after which of 3 to 15 frames they stop."""
    config = dataclasses.replace(TINY_TACOTRON2, n_mel_channels=8)
    tacotron2 = tiny_tacotron2(config)
    gate = tacotron2.decoder.gate_layer.linear_layer
    with torch.no_grad():
        gate.weight.mul_(1000)
        gate.bias.fill_(-20)
        for layer in tacotron2.decoder.prenet.layers:
            layer.linear_layer.weight.mul_(10)
    waveglow = WaveGlowConfig(n_mel_channels=8, n_flows=2, n_early_every=2, wn_layers=1, wn_channels=4)
    checkpoints = {"tacotron2": folder / "tacotron2.pt", "waveglow": folder / "waveglow.pt"}
    torch.save({"state_dict": tacotron2.state_dict(), "config": vars(config)}, checkpoints["tacotron2"])
    nested = nested_waveglow_config(waveglow)
    torch.save({"state_dict": tiny_waveglow(waveglow).state_dict(), "config": nested}, checkpoints["waveglow"])
    export_voice(folder, "fp32", **checkpoints)
    return folder


def write_lines(path: Path, count: int) -> Path:
    """A text file of different lines, of several lengths, which no locale but one of UTF-8 can read by itself."""
    with open(path, "w", encoding="utf-8") as file:
        for i in range(count):
            more = ", which is a long one, or so it says" * (i % 3)
            file.write(f"Letter {i * 7919} of the caf\u00e9 was printed on page {i}{more}.\n")
    return path


def tree(folder: Path) -> dict[str, str]:
    """All files of a corpus with the sums of their bytes, but for the report, which describes the run."""
    files = (path for path in folder.rglob("*") if path.is_file())
    sums = {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    return {name: digest for name, digest in sums.items() if not name.startswith("report/")}


class QuickSource(VoiceSource):
    """A voice on ONNX Runtime, which prepares itself quicker for texts of new lengths than OpenVINO does."""

    def open(self) -> Voice:
        return Voice.load(self.folder, work=self.work, threads=self.threads, cpu_backend="onnxruntime")


# The number of the shard that a stage is of; None is any.
STAGES = {"opening": None, "reading": 1, "speaking": None, "writing": 3, "recording": 5, "recorded": 6}


@dataclasses.dataclass(frozen=True)
class FaultySource(VoiceSource):
    """A voice that ends its worker, or a process beside it, once at each of some stages, and lets it wait at one.

    Attributes:
        stages: of STAGES.
        marks: a folder that remembers what has happened, by empty files.
        hold_at: shards from this number on wait, before they are written, for the file "go on" in `marks`.
    """

    stages: tuple[str, ...] = ()
    marks: Path = Path()
    hold_at: int = 1_000_000

    def open(self) -> Voice:
        self.end_at("opening")
        voice = super().open()
        encode, calls = stages.encode, itertools.count()

        def encode_until_the_end(engines: EngineSet, texts: Any) -> Any:
            if next(calls) == 2:
                self.end_at("speaking")
            return encode(engines, texts)

        stages.encode = encode_until_the_end
        worker.read_shard = self.read
        worker.write_shard = self.write
        return voice

    def end_at(self, stage: str, shard: Shard | None = None) -> None:
        """Ends this process, as memory that runs out does, unless it or another one has ended here before."""
        if stage in self.stages and (shard is None or shard.number == STAGES[stage]):
            with suppress(FileExistsError):
                (self.marks / stage).touch(exist_ok=False)
                os.kill(os.getpid(), signal.SIGKILL)

    def read(self, settings: SpeakSettings, identity: Identity, shard: Shard) -> ShardReading:
        self.end_at("reading", shard)
        return read_shard(settings, identity, shard)

    def write(self, report: ShardReport, job: Job, shard: Shard, *spoken: Any) -> ShardReport:
        if shard.number >= self.hold_at:
            (self.marks / f"waits {os.getpid()}").touch()
            while not (self.marks / "go on").exists():
                time.sleep(0.02)
        write_audio, record = Layout.write_audio, Layout.record

        def write_audio_until_the_end(layout: Layout, path: str, audio: bytes) -> None:
            write_audio(layout, path, audio)
            self.end_at("writing", shard)

        def record_until_the_end(layout: Layout, name: str) -> Path:
            self.end_at("recording", shard)
            return record(layout, name)

        with (
            mock.patch.object(Layout, "write_audio", write_audio_until_the_end),
            mock.patch.object(Layout, "record", record_until_the_end),
        ):
            written = write_shard(report, job, shard, *spoken)
        self.end_at("recorded", shard)
        return written


class LocalPool:
    """A worker in this process.

    Args:
        before: called with each shard before it is spoken; what it raises is what the worker gives.
    """

    size, on_gpus = 1, False

    def __init__(self, before: Callable[[Shard], None] = lambda shard: None) -> None:
        self._before = before
        self._lock = threading.Lock()
        self._closed = False

    def start(self, source: VoiceSource) -> PoolWorker:
        self._worker = Worker(source)
        return self._call

    def _call(self, method: str, *arguments: Any) -> Any:
        with self._lock:
            if self._closed:
                raise WorkerStopped
            if method == "speak":
                self._before(arguments[1])
            return getattr(self._worker, method)(*arguments)

    def close(self) -> None:
        self._closed = True
        with self._lock:
            self._worker.close()


def make(
    source: VoiceSource,
    lines: Path,
    folder: Path,
    pool: Pool | None = None,
    retry: bool = False,
    settings: SpeakSettings | None = None,
    on_report: Callable[[Any], None] = lambda report: None,
    **options: Any,
) -> Corpus:
    """Makes a corpus, or what is missing of it, and its manifest."""
    found = survey(lines)
    folder.mkdir(exist_ok=True)
    chosen = {"format": "ljspeech", "audio": "wav", "shard_lines": SHARD, "sampling_rate": 22050, **options}
    speak = settings or SpeakSettings(max_decoder_steps=MOST_STEPS)
    with closing(pool or LocalPool()) as pool:
        workers, identity = start_workers(pool, source, -(-found.lines // SHARD))
        job = Job(folder, found.sha256, found.lines, speak, WORK, identity=identity, **chosen)
        corpus = Corpus(job, lines)
        number = corpus.next_round() if retry else 0
        for report in speak_shards(workers, job, corpus.shards(number, corpus.missing(number))):
            on_report(report)
    corpus.finish()
    return corpus
