"""Measures voices under load, through the library, HTTP or Triton Inference Server: when the first and the last audio
come, and whether listeners are kept waiting.

  closed loop: --streams 32           so many listeners, each asking for the next text when the one before is done
  open loop:   --rate 100             so many requests a second at random moments, however long the answers take

Clients are measured one after another with the same loads: --client library http --processes 1 4.
"""

import argparse
import multiprocessing
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from threading import BrokenBarrierError

from benchmarks.clients import Client, HttpClient, LibraryClient, TritonClient
from benchmarks.machine import Machine
from benchmarks.result import Result, table, write_results
from benchmarks.texts import SHORT_PHRASES, sentences
from common.cli import ArgumentParser, HelpFormatter, bounded_float, bounded_int, run
from common.errors import UserError
from common.files import written_whole
from common.phrases import read_phrases
from pipeline.latency import prefer_latency
from serving.flags import add_voice_flags, open_voice

MOST_IN_FLIGHT = 1024  # requests of an open loop; more means that what is measured can't keep up
SHOWN = (50, 95, 99)  # percentiles of the table
SENTENCES = 32  # different ones, where their length is chosen


@dataclass(frozen=True)
class Load:
    """What is asked for.

    Attributes:
        streams: listeners of a closed loop; 0 in an open one.
        rate: requests a second of an open loop; 0 in a closed one.
        requests: at most.
        seconds: after which no further request is begun.
        seed: of the moments and of the texts.
    """

    streams: int = 0
    rate: float = 0.0
    requests: int = 1000
    seconds: float = 30.0
    seed: int = 0

    @property
    def name(self) -> str:
        return f"{self.streams} streams" if self.streams else f"{self.rate:g} requests/s"

    def share(self, index: int, count: int) -> "Load":
        """What one of `count` processes asks for; all of them together ask for this."""
        streams, requests = ((total + index) // count for total in (self.streams, self.requests))
        return replace(self, streams=streams, rate=self.rate / count, requests=requests, seed=self.seed * count + index)


@dataclass(frozen=True)
class Answer:
    """How a request went. Times are seconds from when it was due.

    Attributes:
        chunks: (when it came, seconds of audio) of each chunk.
        error: "" if all went well.
        ended: seconds from the test's beginning.
    """

    chunks: tuple[tuple[float, float], ...]
    error: str
    ended: float

    @property
    def waits(self) -> list[float]:
        """Seconds of each silence within the audio, where each chunk is played as early as possible."""
        waits = []
        heard_until = self.chunks[0][0] if self.chunks else 0.0
        for came, seconds in self.chunks:
            if came > heard_until:
                waits.append(came - heard_until)
            heard_until = max(heard_until, came) + seconds
        return waits


RunLoad = Callable[[Sequence[str], Load], list[Answer]]


def run_load(client: Client, texts: Sequence[str], load: Load) -> list[Answer]:
    """Puts a load on a client, and waits for all answers."""
    chance = random.Random(load.seed)
    requests = [(chance.choice(texts), chance.randrange(1 << 31)) for _ in range(load.requests)]
    if not load.streams and not load.rate:
        return []
    return (_closed_loop if load.streams else _open_loop)(client, requests, load, time.perf_counter())


def _closed_loop(client: Client, requests: Sequence[tuple[str, int]], load: Load, begun: float) -> list[Answer]:
    lock, waiting, answers = threading.Lock(), iter(requests), []

    def listen() -> None:
        while True:
            with lock:
                request = next(waiting, None)
            now = time.perf_counter() - begun
            if request is None or now > load.seconds:
                return
            answer = _ask(client, *request, due=now, begun=begun)
            with lock:
                answers.append(answer)

    with ThreadPoolExecutor(load.streams) as pool:
        for future in [pool.submit(listen) for _ in range(load.streams)]:
            future.result()
    return answers


def _open_loop(client: Client, requests: Sequence[tuple[str, int]], load: Load, begun: float) -> list[Answer]:
    chance = random.Random(load.seed + 1)
    futures: list[Future[Answer]] = []
    due = 0.0
    with ThreadPoolExecutor(MOST_IN_FLIGHT) as pool:
        for request in requests:
            due += chance.expovariate(load.rate)  # Poisson: independent of what has been answered
            if due > load.seconds:
                break
            time.sleep(max(0.0, begun + due - time.perf_counter()))
            futures.append(pool.submit(_ask, client, *request, due, begun))
        return [future.result() for future in futures]


def _ask(client: Client, text: str, seed: int, due: float, begun: float) -> Answer:
    """One request. Time counts from when it was due, also where this program was late itself."""
    chunks: list[tuple[float, float]] = []
    error = ""
    try:
        for seconds in client.speak(text, seed):
            chunks.append((time.perf_counter() - begun - due, seconds))
        if not chunks:
            error = "no audio"
    except Exception as failure:  # of whatever the client is made of; it is counted and reported
        error = f"{type(failure).__name__}: {failure}"[:200]
    return Answer(tuple(chunks), error, time.perf_counter() - begun)


@contextmanager
def opened(open_client: Callable[[], Client], processes: int) -> Iterator[RunLoad]:
    """What puts loads on a client; with several processes, on one client in each, which begin a load together."""
    if processes == 1:
        client = open_client()
        try:
            yield partial(run_load, client)
        finally:
            client.close()
        return
    context = multiprocessing.get_context("spawn")
    begin = (open_client, context.Barrier(processes))
    with ProcessPoolExecutor(processes, context, _begin_process, begin) as pool:

        def run_shares(texts: Sequence[str], load: Load) -> list[Answer]:
            shares = [load.share(index, processes) for index in range(processes)]
            futures = [pool.submit(_run_share, texts, share) for share in shares]
            # A process that fails stops the others at the barrier: its error is the one to show.
            errors = [error for future in futures if (error := future.exception()) is not None]
            for error in sorted(errors, key=lambda error: isinstance(error, BrokenBarrierError)):
                raise error
            return [answer for future in futures for answer in future.result()]

        yield run_shares


class _Process:
    """What a process of the load test keeps between its loads."""

    open_client: Callable[[], Client]
    barrier: threading.Barrier
    client: Client | None = None


def _begin_process(open_client: Callable[[], Client], barrier: threading.Barrier) -> None:
    _Process.open_client, _Process.barrier = open_client, barrier


def _run_share(texts: Sequence[str], load: Load) -> list[Answer]:
    try:
        client = _Process.client = _Process.client or _Process.open_client()
    except BaseException:
        _Process.barrier.abort()
        raise
    _Process.barrier.wait()
    return run_load(client, texts, load)


def summarise(answers: Sequence[Answer], load: Load, client: str = "", machine: Machine | None = None) -> Result:
    """The figures of a load. Latencies, waits and audio are of the answers without error."""
    good = [answer for answer in answers if not answer.error]
    values = {
        "first_chunk": [answer.chunks[0][0] for answer in good],
        "last_chunk": [answer.chunks[-1][0] for answer in good],
        "audio": [sum(seconds for _, seconds in answer.chunks) for answer in good],
        "waits": [wait for answer in good for wait in answer.waits],
        "taken": [max((answer.ended for answer in answers), default=0.0)],
    }
    errors = dict(Counter(answer.error for answer in answers if answer.error))
    settings = {"client": client, **asdict(load)}
    return Result(load.name, settings, values, machine or Machine.this(), errors)


def load_table(results: Sequence[Result]) -> str:
    """A Markdown table, a row a result; latencies in milliseconds."""

    def milliseconds(name: str, result: Result) -> str:
        if not result.values[name]:
            return "-"
        return " / ".join(f"{1000 * result.percentile(name, percent):.1f}" for percent in SHOWN)

    columns: dict[str, Callable[[Result], str]] = {
        "Load": lambda result: result.subject,
        "Client": lambda result: result.settings["client"],
        "Requests": lambda result: str(len(result.values["audio"]) + sum(result.errors.values())),
        "First chunk p50 / p95 / p99 (ms)": partial(milliseconds, "first_chunk"),
        "Last chunk p50 / p95 / p99 (ms)": partial(milliseconds, "last_chunk"),
        "Audio s per s": lambda result: f"{result.rate('audio'):.1f}",
        "Underruns": lambda result: str(len(result.values["waits"])),
        "Errors": lambda result: str(sum(result.errors.values())),
    }
    return table(results, columns)


def save_plot(path: Path, results: Sequence[Result]) -> None:
    """Draws first-chunk latencies over the loads. Raises OSError."""
    from matplotlib.figure import Figure  # takes a while to load

    figure = Figure(figsize=(7, 3.5), layout="constrained")
    axes = figure.subplots()
    for percent in SHOWN:
        values = [1000 * result.percentile("first_chunk", percent) for result in results]
        axes.plot(range(len(results)), values, marker="o", label=f"p{percent}")
    labels = [f"{result.subject}\n{result.settings['client']}" for result in results]
    axes.set_xticks(range(len(results)), labels, fontsize=7)
    axes.set_ylabel("First audio (ms)")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend()
    with written_whole(path) as temporary:
        figure.savefig(temporary, format="png", dpi=100)


class _Formatter(HelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Keeps the description's lines."""


def make_parser() -> ArgumentParser:
    parser = ArgumentParser(prog="load.py", description=__doc__, formatter_class=_Formatter)
    kinds = ("library", "http", "triton")
    parser.add_argument("--client", nargs="+", choices=kinds, default=["library"], help="what is measured")
    parser.add_argument("--url", help="of the server [http://127.0.0.1:8000; 127.0.0.1:8001 for triton]")
    parser.add_argument("--api-key", default="", help="of the HTTP server")
    parser.add_argument(
        "--processes",
        type=bounded_int(1, 64),
        nargs="+",
        default=[1],
        help="processes with a voice of their own that share a load, of the library; the most of these ask a server",
    )
    load = parser.add_argument_group("load")
    load.add_argument("--streams", type=bounded_int(1, 1024), nargs="+", default=[], help="closed loops [1]")
    load.add_argument("--rate", type=bounded_float(0.01, 10_000), nargs="+", default=[], help="open loops, requests/s")
    load.add_argument("--requests", type=bounded_int(1, 1_000_000), default=1000, help="of each loop, at most")
    load.add_argument("--seconds", type=bounded_float(0.1, 3600), default=30.0, help="of each loop, at most")
    load.add_argument("--warm-up", type=bounded_int(0, 10_000), default=8, help="requests before, not measured")
    texts = load.add_mutually_exclusive_group()
    texts.add_argument("-i", "--input", type=Path, help="texts, one a line [eight short phrases]")
    texts.add_argument("--characters", type=bounded_int(20, 1000), help="sentences of about this length")
    load.add_argument("--seed", type=bounded_int(0, 2**31), default=0, help="of moments and texts")
    load.add_argument("--max-streams", type=bounded_int(1, 1024), help="of the library: texts spoken at a time")
    results = parser.add_argument_group("results")
    results.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    results.add_argument("--plot", type=Path, metavar="FILE", help="draw first-audio latencies as a PNG")
    results.add_argument("--machine", help="what is printed of the machine [its processor]")
    add_voice_flags(parser)
    return parser


def main(args: argparse.Namespace) -> None:
    bounds = {"requests": args.requests, "seconds": args.seconds, "seed": args.seed}
    loads = [Load(streams=streams, **bounds) for streams in args.streams or ([] if args.rate else [1])]
    loads += [Load(rate=rate, **bounds) for rate in args.rate]
    texts, machine, results = read_texts(args), Machine.this(), []
    for kind in args.client:
        for processes in args.processes if kind == "library" else [max(args.processes)]:
            name = f"{processes} x {kind}" if processes > 1 and kind == "library" else kind
            with opened(partial(open_client, args, kind), processes) as ask:
                streams = max(load.streams for load in loads) or 8 * processes
                warm_up(ask, texts, args.warm_up * processes, max(streams, processes))
                for load in loads:
                    results.append(summarise(ask(texts, load), load, name, machine))
                    print(f"{name}, {load.name}: done", file=sys.stderr)
    print(f"Machine: {args.machine or machine.device}\n\n{load_table(results)}")
    for result in results:
        for error, count in result.errors.items():
            print(f"{result.settings['client']}, {result.subject}: {count} x {error}", file=sys.stderr)
    if args.json:
        write_results(args.json, results)
    if args.plot:
        save_plot(args.plot, results)


def read_texts(args: argparse.Namespace) -> Sequence[str]:
    """What is spoken, by the flags. Raises UserError."""
    if args.input:
        return [phrase.text for phrase in read_phrases(args.input, [])]
    if args.characters:
        return sentences(SENTENCES, round(0.9 * args.characters), round(1.1 * args.characters), args.characters)
    return SHORT_PHRASES


def open_client(args: argparse.Namespace, kind: str) -> Client:
    """The client that the flags describe. Raises UserError."""
    if kind == "triton":
        return TritonClient(args.url or "127.0.0.1:8001")
    if kind == "http":
        return HttpClient(args.url or "http://127.0.0.1:8000", args.api_key)
    # A closed loop's listeners are all accepted; an open one's wait as long as it takes, and that is measured.
    limits = {"max_slots": args.max_streams, "max_waiting": MOST_IN_FLIGHT}
    client = LibraryClient(open_voice(args, lambda message: print(message, file=sys.stderr)), **limits)
    prefer_latency()
    return client


def warm_up(ask: RunLoad, texts: Sequence[str], requests: int, streams: int) -> None:
    """Speaks before the clock runs. Raises UserError if nothing can be spoken."""
    if not requests:
        return
    answers = ask(texts, Load(streams=min(streams, requests), requests=requests, seconds=300))
    if answers and all(answer.error for answer in answers):
        raise UserError(f"the client doesn't speak: {answers[0].error}")


if __name__ == "__main__":
    run(main, make_parser())
