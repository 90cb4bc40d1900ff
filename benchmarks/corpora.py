"""Measures how fast corpora are spoken, writing included, beside what the same voice gives in batches without writing.

Runs without Ray, by the same workers in processes of their own. Lines are as long as LJSpeech's.
"""

import argparse
import hashlib
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from benchmarks.machine import Machine
from benchmarks.result import Result, table, timed_runs
from benchmarks.texts import sentences
from common.cli import ArgumentParser, bounded_int, run
from common.errors import UserError
from common.files import output_folder
from common.metadata import Precision
from common.phrases import Phrase
from pipeline import SpeakSettings, WorkSettings
from pipeline.pieces import prepare
from pipeline.synthesizer import Synthesizer
from serving.corpora.corpus import Corpus
from serving.corpora.job import AUDIOS, FORMATS, Job, VoiceSource
from serving.corpora.pool import ProcessPool, count_gpus
from serving.corpora.run import speak_shards, start_workers
from serving.flags import add_source_flags, checkpoints_of

CHARACTERS = (25, 170, 110)  # of a line: least, most, usual, as LJSpeech has them; the last is that of equal texts
WORK = ("speaking", "waiting", "reading", "writing")  # what a worker's time goes to
ITERATIONS = 3


def make_parser() -> ArgumentParser:
    parser = ArgumentParser(prog="corpora.py", description=__doc__)
    parser.add_argument("--gpus", type=bounded_int(0, 64), nargs="+", default=[1], help="one run each; 0 is a CPU")
    parser.add_argument("--lines", type=bounded_int(1, 100_000), default=500, help="different texts; they are a shard")
    parser.add_argument("--repeats", type=bounded_int(1, 10_000), default=20, help="of them, each with another seed")
    parser.add_argument("--batch-sizes", type=bounded_int(1, 1024), nargs="+", default=[32, 64, 128])
    parser.add_argument("--format", choices=FORMATS, default="ljspeech")
    parser.add_argument("--audio", choices=AUDIOS, default="wav")
    add_source_flags(parser)
    parser.add_argument("--max-decoder-steps", type=bounded_int(1, 100_000), help="frames of a piece [the voice's]")
    parser.add_argument("-o", "--output", type=Path, help="folder for the corpora, which are deleted [a temporary one]")
    return parser


def main(args: argparse.Namespace) -> None:
    if max(args.gpus) > count_gpus():
        raise UserError(f"--gpus {max(args.gpus)}: this machine has {count_gpus()}; ask for no more, or for 0")
    settings = SpeakSettings(max_decoder_steps=args.max_decoder_steps)
    texts = sentences(args.lines, *CHARACTERS)
    batches = [batch_result(_source(args, size), settings, texts) for size in args.batch_sizes]
    best = max(batches, key=lambda result: result.rate("equal_audio", "equal_taken"))
    columns: dict[str, Callable[[Result], str]] = {
        "Batch": lambda result: result.subject,
        "Equal texts": lambda result: f"{result.rate('equal_audio', 'equal_taken'):,.1f}",
        "These lines": lambda result: f"{result.rate('audio'):,.1f}",
    }
    print(f"In batches, nothing written: seconds of audio a second\n{table(batches, columns)}\n")
    made = [corpus_result(args, _source(args, int(best.subject)), settings, texts, gpus) for gpus in args.gpus]

    def share_of_best(result: Result) -> str:
        share = result.rate("audio") / best.rate("equal_audio", "equal_taken") / result.settings["workers"]
        return f"{share:.1%}"

    columns = {
        "GPUs": lambda result: result.subject,
        "Audio s per s": lambda result: f"{result.rate('audio'):,.1f}",
        "Of equal texts": share_of_best,
        "Of the first row": lambda result: f"{result.rate('audio') / made[0].rate('audio'):.2f}",
        **{f"{kind.capitalize()}": partial(_share_of_time, kind) for kind in WORK},
        "SHA-256 of the audio": lambda result: result.settings["digest"][:16],
    }
    lines = f"{args.repeats} x {args.lines} lines, batch {best.subject}"
    print(f"Corpora, writing included: {lines}, {args.format}, {args.audio}\n{table(made, columns)}")
    print("Shares of a worker's time. On a GPU one shard is read and one is written while another is spoken.")


def batch_result(source: VoiceSource, settings: SpeakSettings, texts: Sequence[str]) -> Result:
    """Batches of equal texts, and of these texts, from symbols to samples on the host."""
    values: dict[str, list[float]] = {}
    with source.open() as voice, Synthesizer(voice.engines, settings) as synthesizer:
        near = min(texts, key=lambda text: abs(len(text) - CHARACTERS[-1]))
        for name, chosen in (("equal_", [near] * voice.engines.batch_size), ("", texts)):
            phrases = [Phrase(index, text) for index, text in enumerate(chosen)]
            prepared = prepare(phrases, settings, voice.engines.max_symbols)
            pieces = [piece for phrase in prepared for piece in phrase.pieces]
            pieces.sort(key=lambda piece: len(piece.encoded.ids))
            pieces = [replace(piece, seed=index) for index, piece in enumerate(pieces)]
            audio, taken = values.setdefault(f"{name}audio", []), values.setdefault(f"{name}taken", [])
            for iteration in timed_runs(ITERATIONS, source.device != "cpu"):
                started = time.perf_counter()
                spoken = [one.audio for one in synthesizer.speak(pieces) if one.audio is not None]
                if iteration >= 0:
                    taken.append(time.perf_counter() - started)
                    audio.append(sum(map(len, spoken)) / voice.sampling_rate)
        return Result(str(source.work.batch_size), {}, values, Machine.this(voice.engines.device))


def corpus_result(
    args: argparse.Namespace, source: VoiceSource, settings: SpeakSettings, texts: Sequence[str], gpus: int
) -> Result:
    """Makes a corpus, and one to warm up before it; both are deleted. Raises UserError where all lines fail."""
    pool = ProcessPool(max(1, gpus), on_gpus=gpus > 0)
    parent = output_folder(args.output) if args.output else None
    try:
        with tempfile.TemporaryDirectory(dir=parent) as folder:
            workers, identity = start_workers(pool, source, pool.size)
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
                corpus = Corpus(job, lines)
                started = time.perf_counter()
                reports = list(speak_shards(workers, job, corpus.shards(0, corpus.missing(0))))
                taken = time.perf_counter() - started
            values = {kind: [getattr(one, f"{kind}_seconds") for one in reports] for kind in ("audio", *WORK)}
            if not sum(values["audio"]):
                raise UserError(f"all {job.lines} lines failed, as cut ones do; raise --max-decoder-steps")
            values |= {"taken": [taken]}
            facts = {"workers": pool.size, "digest": _digest(job.folder)}
            return Result(str(gpus), facts, values, Machine.this(torch.device("cuda" if gpus else "cpu")))
    finally:
        pool.close()


def _share_of_time(kind: str, result: Result) -> str:
    return f"{result.rate(kind) / result.settings['workers']:.1%}"


def _source(args: argparse.Namespace, batch_size: int) -> VoiceSource:
    work = WorkSettings(batch_size=batch_size)
    precision: Precision = "fp16" if args.fp16 else "fp32"
    device = "cuda" if max(args.gpus) > 0 else "cpu"
    return VoiceSource(args.models, *checkpoints_of(args), device, precision, None, work)


def _json_lines(texts: Sequence[str], repeats: int) -> Iterator[str]:
    for seed in range(repeats):
        for number, text in enumerate(texts):
            yield json.dumps({"id": f"{seed:05d}-{number:06d}", "text": text, "seed": seed}) + "\n"


def _digest(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.suffix in (".wav", ".flac", ".tar")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


if __name__ == "__main__":
    run(main, make_parser())
