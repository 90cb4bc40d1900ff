"""A voice for tests of corpora, quick enough for hundreds of lines, a crew of threads, and what they make together."""

import dataclasses
import hashlib
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from common.config import WaveGlowConfig
from exports.voice import export_voice
from pipeline import SpeakSettings, WorkSettings
from serving.corpora.corpus import Corpus
from serving.corpora.crew import Crew
from serving.corpora.job import Identity, Job, VoiceSource
from serving.corpora.layout import Shard
from serving.corpora.lines import survey
from serving.corpora.run import make_corpus
from serving.corpora.worker import ShardReport, Worker
from tests.models import TINY_TACOTRON2, nested_waveglow_config, tiny_tacotron2, tiny_waveglow

SHARD = 8
WORK = WorkSettings(batch_size=4, max_symbols=128)
MOST_STEPS = 7  # with so many frames at most, some lines of the voice below come to their end and some are cut


def export_quick_voice(folder: Path) -> Path:
    """ONNX files of models with few mel channels, whose dropout decides after which of 3 to 15 frames they stop."""
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
    """A text file of different lines, of several lengths."""
    with open(path, "w", encoding="utf-8") as file:
        for i in range(count):
            more = ", which is a long one, or so it says" * (i % 3)
            file.write(f"Letter {i * 7919} was printed on page {i}{more}.\n")
    return path


def tree(folder: Path) -> dict[str, str]:
    """All files of a corpus with the sums of their bytes, but for the report, which tells of the run."""
    files = (path for path in folder.rglob("*") if path.is_file())
    sums = {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    return {name: digest for name, digest in sums.items() if not name.startswith("report/")}


class ThreadCrew:
    """Workers in threads of this process.

    Args:
        before: called with each shard before it is spoken; what it raises is what the worker gives.
    """

    on_gpus = False

    def __init__(
        self, source: VoiceSource, size: int = 1, before: Callable[[Shard], None] = lambda shard: None
    ) -> None:
        self.size = size
        self._source = source
        self._before = before
        self.members: list[ThreadMember] = []

    def hire(self) -> "ThreadMember":
        member = ThreadMember(self._source, self._before)
        self.members.append(member)
        return member

    def close(self) -> None:
        for member in self.members:
            member.dismiss()


class ThreadMember:
    def __init__(self, source: VoiceSource, before: Callable[[Shard], None]) -> None:
        self._pool = ThreadPoolExecutor(3)
        self._before = before
        self.opened: Future[Identity] = self._pool.submit(self._open, source)

    def begin(self, job: Job) -> "Future[None]":
        return self._pool.submit(self._worker.begin, job)

    def do(self, shard: Shard) -> "Future[ShardReport]":
        return self._pool.submit(self._do, shard)

    def dismiss(self) -> None:
        self._pool.shutdown(cancel_futures=True)
        if hasattr(self, "_worker"):  # else its voice could not be opened
            self._worker.close()

    def _open(self, source: VoiceSource) -> Identity:
        self._worker = Worker(source)
        return self._worker.identity

    def _do(self, shard: Shard) -> ShardReport:
        self._before(shard)
        return self._worker.do(shard)


def make(
    source: VoiceSource,
    lines: Path,
    folder: Path,
    crew: Crew | None = None,
    retry: bool = False,
    settings: SpeakSettings | None = None,
    on_report: Callable[[Any], None] = lambda report: None,
    **options: Any,
) -> Corpus:
    """Makes a corpus, or what is missing of it, and its manifest."""
    found = survey(lines)
    folder.mkdir(exist_ok=True)
    chosen = {"format": "ljspeech", "audio": "wav", "shard_lines": SHARD, "sampling_rate": 22050, **options}

    def job_of(identity: Identity) -> Job:
        speak = settings or SpeakSettings(max_decoder_steps=MOST_STEPS)
        return Job(folder, found.sha256, found.lines, speak, WORK, identity=identity, **chosen)

    crew = crew or ThreadCrew(source)
    try:
        shards = -(-found.lines // SHARD)
        corpus = make_corpus(lines, job_of, shards, crew, retry=retry, on_report=on_report)
    finally:
        crew.close()
    corpus.finish()
    return corpus
