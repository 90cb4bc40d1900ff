"""Speaks a file of up to millions of lines to a corpus that training tools read, on all GPUs of a machine or cluster.

Start it again after whatever has stopped it: it does what is missing, and the corpus is the same byte for byte.
"""

import argparse
import importlib.util
import logging
import shutil
import sys
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from tqdm import tqdm

from common.cli import ArgumentParser, bounded_int, run, settings_from
from common.cpu_backend import usable_cores
from common.errors import UserError
from common.files import locked_folder, output_folder
from common.metadata import Precision
from common.table import counted
from pipeline import SpeakSettings, WorkSettings
from pipeline.flags import add_setting_flags, speak_settings
from pipeline.model_files import DEMO_FOLDER, demo_files
from pipeline.settings import RuntimeSettings, settings_at, settings_of
from serving.corpora.corpus import SHARD_CHARACTERS, Corpus, need_other_texts
from serving.corpora.estimate import estimate
from serving.corpora.job import AUDIOS, FORMATS, Job, VoiceSource
from serving.corpora.lines import Survey, survey
from serving.corpora.pool import Pool, ProcessPool, count_gpus
from serving.corpora.ray_pool import RayPool
from serving.corpora.report import CorpusTotals, run_table
from serving.corpora.run import speak_shards, start_workers
from serving.corpora.shard import ShardReport
from serving.flags import add_source_flags, checkpoints_of

GPU_BATCH, CPU_BATCH = 64, 8
BATCHES_A_SHARD = {True: 8, False: 4}  # on GPUs, on CPUs: when a worker dies, one or two shards are done again
EXIT_SOME_FAILED, EXIT_ALL_FAILED = 3, 4  # the corpus is finished; some lines, or all, are without audio
BAR_FORMAT = "{l_bar}{bar}| {n_fmt}/{total_fmt} lines [{elapsed}<{remaining}{postfix}]"
CPU_THREADS = 2  # of a worker: two workers of two cores make more than one of four


def make_parser() -> ArgumentParser:
    parser = ArgumentParser(prog="corpus.py", description=__doc__)
    parser.add_argument("-i", "--input", type=Path, required=True, help="lines: .txt, .jsonl or .csv")
    parser.add_argument("-o", "--output", type=Path, required=True, help="the corpus's folder; shared, on a cluster")
    parser.add_argument("--dry-run", action="store_true", help="estimate hours of audio and of work; write nothing")
    parser.add_argument("--retry", action="store_true", help="try the lines of retry.jsonl again, with other seeds")

    corpus = parser.add_argument_group("corpus")
    corpus.add_argument("--format", choices=FORMATS, default="ljspeech", help="layout of the corpus")
    corpus.add_argument("--audio", choices=AUDIOS, default="wav", help="16-bit audio files")
    add_setting_flags(corpus, settings_at("corpus"))

    workers = parser.add_argument_group("workers")
    workers.add_argument("--gpus", type=bounded_int(0, 4096), help="one worker on each; 0 uses CPUs [all there are]")
    workers.add_argument("--workers", type=bounded_int(1, 4096), help="workers on CPUs [as many as have room]")
    add_setting_flags(workers, [replace(settings_of(RuntimeSettings)["threads"], default=CPU_THREADS, unset="")])
    workers.add_argument("--address", help="address of a Ray cluster, host:port or auto [a Ray on this machine]")
    workers.add_argument("--no-ray", action="store_true", help="workers in processes of this machine")

    voice = parser.add_argument_group("voice")
    add_source_flags(voice)
    voice.add_argument("--shard-lines", type=bounded_int(1, 100_000), help="most lines a shard has [8 or 4 batches]")
    batch, *others = settings_at("corpus", WorkSettings)
    add_setting_flags(voice, [replace(batch, default=None, unset=f"GPU: {GPU_BATCH}; CPU: {CPU_BATCH}"), *others])
    return parser


def main(args: argparse.Namespace) -> None:
    _check(args)
    settings = speak_settings(args, sampling_rate=None)  # a corpus is resampled as its files are written
    found = survey(args.input)
    for note in found.notes:
        print(f"Note: {note}")
    if args.dry_run:
        _dry_run(args, found, settings)
        return
    folder = output_folder(args.output).resolve()
    reports: list[ShardReport] = []
    with locked_folder(folder), closing(_pool(args)) as pool:
        source = _source(args, pool.on_gpus)
        shard_lines = args.shard_lines or BATCHES_A_SHARD[pool.on_gpus] * source.work.batch_size
        shards = max(-(-found.lines // shard_lines), found.characters // SHARD_CHARACTERS)
        with tqdm(unit="line", disable=None, bar_format=BAR_FORMAT, smoothing=0.05) as bar:
            workers, identity = start_workers(pool, source, shards)
            job = Job(
                folder=folder,
                input_sha256=found.sha256,
                lines=found.lines,
                settings=settings,
                work=_work(args, identity.device == "cuda"),
                shard_lines=shard_lines,
                format=args.format,
                audio=args.audio,
                sampling_rate=args.sampling_rate or identity.sampling_rate,
                identity=identity,
            )
            corpus = Corpus(job, args.input)
            number = corpus.next_round() if args.retry else 0
            sizes, missing = corpus.sizes(number), corpus.missing(number)
            bar.total = sum(sizes)
            bar.initial = bar.n = sum(size for shard, size in enumerate(sizes) if shard not in missing)
            bar.refresh()
            audio_seconds = 0.0
            for report in speak_shards(workers, job, corpus.shards(number, missing)):
                reports.append(report)
                audio_seconds += report.audio_seconds
                rate = audio_seconds / max(bar.format_dict["elapsed"], 1e-9)
                bar.set_postfix_str(f"{audio_seconds / 3600:.2f} h, {rate:.1f} s/s", refresh=False)
                bar.update(report.lines)
        made = _finish(corpus, reports)
    if made.reasons:
        sys.exit(EXIT_SOME_FAILED if made.lines else EXIT_ALL_FAILED)


def _check(args: argparse.Namespace) -> None:
    """Raises UserError for flags that don't go together and for missing packages."""
    for name, needed in (("soundfile", args.audio == "flac"), ("soxr", args.sampling_rate is not None)):
        if needed and importlib.util.find_spec(name) is None:
            raise UserError(f"this needs {name}: bash scripts/run_corpus.sh installs it, or pip install {name}")
    if args.models and args.checkpoints is not None:
        raise UserError("give --models or --checkpoints, not both")
    checkpoints_of(args)
    if args.address and args.no_ray:
        raise UserError("--address is a Ray cluster's: leave --no-ray out")
    if args.gpus and args.workers:
        raise UserError("--workers are for CPUs, and with --gpus each GPU has one: leave one of the flags out")


def _work(args: argparse.Namespace, on_gpus: bool) -> WorkSettings:
    return settings_from(args, WorkSettings, batch_size=args.batch_size or (GPU_BATCH if on_gpus else CPU_BATCH))


def _source(args: argparse.Namespace, on_gpus: bool) -> VoiceSource:
    """Where workers find the voice, in absolute paths: they run in other folders. Exports the demo voice if need be."""
    work, threads = _work(args, on_gpus), None if on_gpus else args.threads
    precision: Precision | None = "fp16" if args.fp16 else None
    if args.checkpoints is not None or (on_gpus and args.models is None):
        tacotron2, waveglow = (path.resolve() for path in checkpoints_of(args))
        device = "cuda" if on_gpus else "cpu"
        return VoiceSource(None, tacotron2, waveglow, device, precision or "fp32", threads, work)
    if args.models is None:
        demo_files(precision, print)
    folder = (args.models or DEMO_FOLDER).resolve()
    return VoiceSource(folder, precision=precision, threads=threads, work=work)


def _pool(args: argparse.Namespace) -> Pool:
    if not args.no_ray:
        on_gpus = None if args.gpus is None and args.workers is None else bool(args.gpus)
        return RayPool(args.gpus or args.workers, on_gpus, args.threads, args.address)
    gpus = _gpus(args)
    if gpus > count_gpus():
        raise UserError(f"--gpus {gpus}: this machine has {count_gpus()}; ask for no more")
    return ProcessPool(gpus or _cpu_workers(args), gpus > 0)


def _gpus(args: argparse.Namespace) -> int:
    """How many to use without Ray; 0 works on CPUs."""
    return args.gpus if args.gpus is not None else 0 if args.workers else count_gpus()


def _cpu_workers(args: argparse.Namespace) -> int:
    return args.workers or max(1, usable_cores() // args.threads)


def _finish(corpus: Corpus, reports: Sequence[ShardReport]) -> CorpusTotals:
    """Writes the files about the whole corpus, and prints what it is."""
    made = corpus.finish()
    path = made.save(corpus.job.folder, reports)
    if reports:
        print(run_table(reports))
    print(f"{counted(made.lines, 'line')}, {made.hours:,.3f} hours of audio in {corpus.job.folder}")
    if made.reasons:
        unspoken = made.reasons.total()
        print(f"Without audio, in retry.jsonl: {counted(unspoken, 'line')}")
        _print_reasons(made.reasons)
        if unspoken > made.texts_at_fault:
            print(f"--retry tries {counted(unspoken - made.texts_at_fault, 'line')} again, with other seeds")
        if made.texts_at_fault:
            print(need_other_texts(made.texts_at_fault))
    if outliers := made.outliers():
        lines = counted(len(outliers), "line")
        print(f"Worth listening to: {lines} with far more or fewer frames a symbol than the rest (see the report)")
    print(f"Report: {path}")
    return made


def _dry_run(args: argparse.Namespace, found: Survey, settings: SpeakSettings) -> None:
    gpus = _gpus(args)
    workers = gpus or _cpu_workers(args)
    with _source(args, gpus > 0).open() as voice:
        seen = estimate(args.input, found, voice, settings, _work(args, gpus > 0).batch_size)
        rate = args.sampling_rate or voice.sampling_rate
    free = shutil.disk_usage(next(path for path in (args.output, *args.output.absolute().parents) if path.exists()))
    size = seen.gigabytes(rate, args.audio == "flac")
    lines, characters = counted(found.lines, "line"), counted(found.characters, "character")
    print(f"{lines}, {characters}: about {seen.hours:,.2f} hours of audio")
    print(f"{size:,.1f} GB on disk ({free.free / 1e9:,.1f} GB are free)")
    machines = counted(workers, "GPU" if gpus else "worker")
    print(f"about {_duration(seen.working_hours(workers))} on {machines} like this machine's:")
    print(f"one makes {seen.rate:.1f} s of audio a second (measured on {seen.sample_lines} of the lines)")
    if seen.reasons:
        print(f"{seen.reasons.total()} of these would have no audio:")
        _print_reasons(seen.reasons)


def _print_reasons(reasons: Counter[str]) -> None:
    for reason, count in reasons.most_common(3):
        print(f"  {count:,}: {reason}")


def _duration(hours: float) -> str:
    minutes = round(hours * 60)
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes else "a minute"


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    run(main, make_parser())
