"""Measures how fast corpora are spoken, writing included, beside what the same voice gives in batches without writing.

Runs without Ray, by the same workers in processes of their own. Lines are as long as LJSpeech's.
"""

import argparse
import hashlib
import json
import random
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from common.cli import ArgumentParser, bounded_int, run
from common.errors import UserError
from common.files import REPOSITORY, output_folder
from common.metadata import Precision
from common.phrases import Phrase, read_phrases
from common.table import format_table
from pipeline import SpeakSettings, WorkSettings
from pipeline.pieces import Piece
from pipeline.synthesizer import Synthesizer
from serving.corpora.corpus import Corpus
from serving.corpora.job import AUDIOS, FORMATS, Job, VoiceSource, claim
from serving.corpora.pool import ProcessPool, count_gpus
from serving.corpora.report import RunTotals
from serving.corpora.run import Driver
from tacotron2.loading import DEMO_TACOTRON2
from waveglow.loading import DEMO_WAVEGLOW

CHARACTERS = (25, 170, 110)  # of a line: least, most, commonest, as LJSpeech has them
EQUAL = 110  # characters of the texts of the batches without writing
ITERATIONS = 3


def make_parser() -> ArgumentParser:
    parser = ArgumentParser(prog="corpora.py", description=__doc__)
    parser.add_argument("--gpus", type=bounded_int(0, 64), nargs="+", default=[1], help="one run each; 0 is a CPU")
    parser.add_argument("--lines", type=bounded_int(1, 100_000), default=500, help="different texts; they are a shard")
    parser.add_argument("--repeats", type=bounded_int(1, 10_000), default=20, help="of them, each with another seed")
    parser.add_argument("--batch-sizes", type=bounded_int(1, 1024), nargs="+", default=[32, 64, 128])
    parser.add_argument("--format", choices=FORMATS, default="ljspeech")
    parser.add_argument("--audio", choices=AUDIOS, default="wav")
    parser.add_argument("--models", type=Path, metavar="FOLDER", help="four .engine or .onnx files [checkpoints]")
    parser.add_argument("--checkpoints", type=Path, nargs=2, default=(DEMO_TACOTRON2, DEMO_WAVEGLOW), metavar="FILE")
    parser.add_argument("--fp16", action="store_true", help="half precision")
    parser.add_argument("--max-decoder-steps", type=bounded_int(1, 100_000), help="frames of a piece [the voice's]")
    parser.add_argument("-o", "--output", type=Path, help="folder for the corpora, which are deleted [a temporary one]")
    return parser


def main(args: argparse.Namespace) -> None:
    if max(args.gpus) > count_gpus():
        raise UserError(f"--gpus {max(args.gpus)}: this machine has {count_gpus()}; ask for no more, or for 0")
    settings = SpeakSettings(max_decoder_steps=args.max_decoder_steps)
    texts = benchmark_texts(args.lines)
    best, batch = 0.0, args.batch_sizes[0]
    rows = []
    for size in args.batch_sizes:
        equal, mixed = batch_rates(_source(args, size), settings, texts)
        rows.append((str(size), f"{equal:,.1f}", f"{mixed:,.1f}"))
        best, batch = max((best, batch), (equal, size))
    print("In batches, nothing written: seconds of audio a second")
    print(format_table(["Batch", "Equal texts", "These lines"], rows, "rrr"))
    results, first = [], 0.0
    for gpus in args.gpus:
        made = corpus_run(args, _source(args, batch), settings, texts, gpus)
        first = first or made.rate
        share = f"{made.rate / best / max(gpus, 1):.1%}"
        shares = (f"{one:.1%}" for one in (made.busy, made.waiting, made.reading, made.writing))
        results.append((str(gpus), f"{made.rate:,.1f}", share, f"{made.rate / first:.2f}", *shares, made.digest[:16]))
    print(f"Corpora, writing included: {args.repeats} x {args.lines} lines, batch {batch}, {args.format}, {args.audio}")
    heads = ["GPUs", "Audio s per s", "Of equal texts", "Of the first row"]
    heads += ["Voice busy", "Waiting", "Reading", "Writing", "SHA-256 of the audio"]
    print(format_table(heads, results, "rrrrrrrrl"))
    print("Shares of a worker's time. On a GPU one shard is read and one is written while another is spoken.")


def benchmark_texts(count: int) -> list[str]:
    """Different texts of LJSpeech's lengths: stretches of the sentences in phrases/, the same ones each time."""
    paths = sorted((REPOSITORY / "phrases").glob("*.txt"))
    words = " ".join(phrase.text for path in paths for phrase in read_phrases(path, [])).split()
    chance = random.Random(0)
    texts: dict[str, None] = {}
    while len(texts) < count:
        length, start = chance.triangular(*CHARACTERS), chance.randrange(len(words))
        text = ""
        while len(text) < length:
            text, start = f"{text} {words[start % len(words)]}".strip(), start + 1
        texts[f"{text[0].upper()}{text[1:].rstrip('.,;:')}."] = None
    return list(texts)


def batch_rates(source: VoiceSource, settings: SpeakSettings, texts: Sequence[str]) -> tuple[float, float]:
    """Seconds of audio a second, from symbols to samples on the host: of batches of equal texts, and of these texts."""
    with source.open() as voice, voice.synthesizer(settings) as synthesizer:
        size = voice.engines.batch_size
        near = min(texts, key=lambda text: abs(len(text) - EQUAL))
        rates = []
        for chosen in ([near] * size, texts):
            phrases = [Phrase(index, text) for index, text in enumerate(chosen)]
            pieces = [piece for phrase in voice.prepare(phrases, settings) for piece in phrase.pieces]
            pieces.sort(key=lambda piece: len(piece.encoded.ids))
            rates.append(_rate(synthesizer, [replace(p, seed=n) for n, p in enumerate(pieces)], voice.sampling_rate))
    return rates[0], rates[1]


def _rate(synthesizer: Synthesizer, pieces: Sequence[Piece], sampling_rate: int) -> float:
    list(synthesizer.speak_pieces(pieces))  # warms up
    samples, started = 0, time.perf_counter()
    for _ in range(ITERATIONS):
        spoken = synthesizer.speak_pieces(pieces)
        samples += sum(len(piece.audio) for piece in spoken if piece.audio is not None)
    return samples / sampling_rate / (time.perf_counter() - started)


@dataclass(frozen=True)
class CorpusRun:
    """How fast a corpus was made, and for what share of the time a worker did what.

    Attributes:
        rate: seconds of audio a second.
        busy: speaking.
        waiting: until the shard before was written.
        reading: lines, beside the voice.
        writing: audio and records, beside the voice.
        digest: SHA-256 of the audio files.
    """

    rate: float
    busy: float
    waiting: float
    reading: float
    writing: float
    digest: str


def corpus_run(
    args: argparse.Namespace, source: VoiceSource, settings: SpeakSettings, texts: Sequence[str], gpus: int
) -> CorpusRun:
    """Makes a corpus, and one to warm up before it; both are deleted."""
    totals = RunTotals()
    pool = ProcessPool(source, max(1, gpus), on_gpus=gpus > 0)
    parent = output_folder(args.output) if args.output else None
    try:
        with tempfile.TemporaryDirectory(dir=parent) as folder:
            driver = Driver(pool, totals.add)
            identity = driver.open(pool.size)
            for name, repeats in (("warm-up", 2 * pool.size), ("corpus", args.repeats)):
                lines = Path(folder) / f"{name}.jsonl"
                lines.write_text("".join(_json_lines(texts, repeats)))
                job = Job(
                    folder=Path(folder) / name,
                    input_sha256="",
                    lines=repeats * len(texts),
                    settings=settings,
                    work=source.work,
                    shard_lines=len(texts),
                    format=args.format,
                    audio=args.audio,
                    sampling_rate=identity.sampling_rate,
                    identity=identity,
                )
                job.folder.mkdir()
                claim(job)
                corpus = Corpus(job, lines)
                totals.workers.clear()
                started = time.perf_counter()
                driver.speak(job, corpus.shards(0, corpus.missing(0)))
                taken = time.perf_counter() - started
            if not totals.audio_seconds:
                raise UserError(
                    f"all {args.repeats * len(texts)} lines failed, as cut ones do; raise --max-decoder-steps"
                )
            kinds = ("speaking", "waiting", "reading", "writing")
            seconds = (sum(getattr(worker, f"{kind}_seconds") for worker in totals.workers.values()) for kind in kinds)
            busy, waiting, reading, writing = (one / taken / pool.size for one in seconds)
            rate, digest = totals.audio_seconds / taken, _digest(job.folder)
            return CorpusRun(rate, busy, waiting, reading, writing, digest)
    finally:
        pool.close()


def _source(args: argparse.Namespace, batch_size: int) -> VoiceSource:
    work = WorkSettings(batch_size=batch_size)
    precision: Precision = "fp16" if args.fp16 else "fp32"
    device = "cuda" if max(args.gpus) > 0 else "cpu"
    tacotron2, waveglow = args.checkpoints
    return VoiceSource(args.models, tacotron2, waveglow, device, precision, None, work)


def _json_lines(texts: Sequence[str], repeats: int) -> Iterator[str]:
    for seed in range(repeats):
        for number, text in enumerate(texts):
            yield json.dumps({"id": f"{seed:05d}-{number:06d}", "text": text, "seed": seed}) + "\n"


def _digest(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.suffix in (".wav", ".flac", ".tar")):
        with open(path, "rb") as file:
            shutil.copyfileobj(file, _Sum(digest), 1 << 20)
    return digest.hexdigest()


class _Sum:
    def __init__(self, digest) -> None:
        self.write = digest.update


if __name__ == "__main__":
    run(main, make_parser())
