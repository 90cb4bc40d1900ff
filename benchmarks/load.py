"""Measures a voice under load, through the library, HTTP or Triton Inference Server: when the first and the last audio
come, and whether listeners are kept waiting.

  closed loop: --streams 32           so many listeners, each asking for the next text when the one before is done
  open loop:   --rate 100             so many requests a second at random moments, however long the answers take
"""

import argparse
import json
import platform
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from benchmarks.clients import Door, HttpDoor, LibraryDoor, TritonDoor
from common.cli import ArgumentParser, HelpFormatter, bounded_float, bounded_int, run
from common.errors import UserError
from common.files import written_whole
from common.phrases import read_phrases
from common.table import format_markdown
from pipeline.scheduler import SWITCH_INTERVAL
from serving.flags import add_voice_flags, open_voice

MOST_IN_FLIGHT = 1024  # requests of an open loop; more means that what is measured can't keep up
PERCENTILES = (50, 95, 99)
SHORT_PHRASES = (
    "Good morning.",
    "Your order is on its way.",
    "Turn left at the next light.",
    "The meeting begins at noon.",
    "Please say that again.",
    "It will rain in the afternoon.",
    "Thank you for calling.",
    "The train leaves from platform four.",
)


@dataclass(frozen=True)
class Load:
    """What is asked for.

    Attributes:
        streams: listeners of a closed loop; 0 in an open one.
        rate: requests a second of an open loop; 0 in a closed one.
        requests: at most.
        seconds: after which no further request is begun.
        seed: of the moments and of what is said.
    """

    streams: int = 0
    rate: float = 0.0
    requests: int = 1000
    seconds: float = 30.0
    seed: int = 0

    @property
    def name(self) -> str:
        return f"{self.streams} streams" if self.streams else f"{self.rate:g} requests/s"


@dataclass(frozen=True)
class Answer:
    """How a request went. Times are seconds from when it was due.

    Attributes:
        chunks: (when it came, seconds of audio) of each chunk.
        error: "" if all went well.
        due, ended: seconds from the test's beginning.
    """

    chunks: tuple[tuple[float, float], ...]
    error: str
    due: float
    ended: float

    @property
    def audio_seconds(self) -> float:
        return sum(seconds for _, seconds in self.chunks)

    @property
    def waits(self) -> list[float]:
        """Seconds of each silence that a listener hears who plays each chunk as early as he can."""
        waits = []
        heard_until = self.chunks[0][0] if self.chunks else 0.0
        for came, seconds in self.chunks:
            if came > heard_until:
                waits.append(came - heard_until)
            heard_until = max(heard_until, came) + seconds
        return waits


@dataclass(frozen=True)
class Result:
    """What a load test found. Latencies are percentiles in seconds, by "p50" and so on.

    Attributes:
        underruns: chunks that came later than the listener had played.
        longest_wait: of a listener within a speech, in seconds.
        errors: what went wrong, and how often.
        audio_per_second: seconds of audio made in a second, by all together.
    """

    load: Load
    door: str
    machine: str
    requests: int
    seconds: float
    first_chunk: dict[str, float]
    last_chunk: dict[str, float]
    audio_seconds: float
    audio_per_second: float
    requests_per_second: float
    underruns: int
    longest_wait: float
    errors: dict[str, int] = field(default_factory=dict)


def run_load(door: Door, texts: Sequence[str], load: Load, door_name: str = "", machine: str = "") -> Result:
    """Puts a load on a door, and waits for all answers."""
    chance = random.Random(load.seed)
    orders = [(chance.choice(texts), chance.randrange(1 << 31)) for _ in range(load.requests)]
    begun = time.perf_counter()
    answers = (_closed_loop if load.streams else _open_loop)(door, orders, load, begun)
    return summarise(answers, load, door_name, machine)


def _closed_loop(door: Door, orders: Sequence[tuple[str, int]], load: Load, begun: float) -> list[Answer]:
    lock, waiting, answers = threading.Lock(), iter(orders), []

    def listen() -> None:
        while True:
            with lock:
                order = next(waiting, None)
            now = time.perf_counter() - begun
            if order is None or now > load.seconds:
                return
            answer = ask(door, *order, due=now, begun=begun)
            with lock:
                answers.append(answer)

    with ThreadPoolExecutor(load.streams) as pool:
        for future in [pool.submit(listen) for _ in range(load.streams)]:
            future.result()
    return answers


def _open_loop(door: Door, orders: Sequence[tuple[str, int]], load: Load, begun: float) -> list[Answer]:
    chance = random.Random(load.seed + 1)
    futures: list[Future[Answer]] = []
    due = 0.0
    with ThreadPoolExecutor(MOST_IN_FLIGHT) as pool:
        for order in orders:
            due += chance.expovariate(load.rate)  # Poisson: independent of what has been answered
            if due > load.seconds:
                break
            time.sleep(max(0.0, begun + due - time.perf_counter()))
            futures.append(pool.submit(ask, door, *order, due, begun))
        return [future.result() for future in futures]


def ask(door: Door, text: str, seed: int, due: float, begun: float) -> Answer:
    """One request. Time counts from when it was due, also where this program was late itself."""
    chunks: list[tuple[float, float]] = []
    error = ""
    try:
        for seconds in door.speak(text, seed):
            chunks.append((time.perf_counter() - begun - due, seconds))
        if not chunks:
            error = "no audio"
    except Exception as failure:  # of whatever the door is made of; it is counted and told
        error = f"{type(failure).__name__}: {failure}"[:200]
    return Answer(tuple(chunks), error, due, time.perf_counter() - begun)


def summarise(answers: Sequence[Answer], load: Load, door: str = "", machine: str = "") -> Result:
    """The figures of a test. Latencies, underruns and audio are of the answers without error."""
    good = [answer for answer in answers if not answer.error]
    waits = [wait for answer in good for wait in answer.waits]
    seconds = max((answer.ended for answer in answers), default=0.0)
    audio = sum(answer.audio_seconds for answer in good)
    return Result(
        load=load,
        door=door,
        machine=machine,
        requests=len(answers),
        seconds=seconds,
        first_chunk=_percentiles([answer.chunks[0][0] for answer in good]),
        last_chunk=_percentiles([answer.chunks[-1][0] for answer in good]),
        audio_seconds=audio,
        audio_per_second=audio / seconds if seconds else 0.0,
        requests_per_second=len(good) / seconds if seconds else 0.0,
        underruns=len(waits),
        longest_wait=max(waits, default=0.0),
        errors=dict(Counter(answer.error for answer in answers if answer.error)),
    )


def _percentiles(values: Sequence[float]) -> dict[str, float]:
    if not values:
        return {}
    return {f"p{percent}": float(np.percentile(values, percent)) for percent in PERCENTILES}


def table(results: Sequence[Result]) -> str:
    """A Markdown table, a row a result; latencies in milliseconds."""
    headers = ["Load", "Requests", "First chunk p50 / p95 / p99 (ms)", "Last chunk p50 / p95 / p99 (ms)"]
    headers += ["Audio s per s", "Underruns", "Errors"]
    rows = [
        [
            result.load.name,
            str(result.requests),
            _milliseconds(result.first_chunk),
            _milliseconds(result.last_chunk),
            f"{result.audio_per_second:.1f}",
            str(result.underruns),
            str(sum(result.errors.values())),
        ]
        for result in results
    ]
    return format_markdown(headers, rows, align="lrrrrrr")


def _milliseconds(latencies: dict[str, float]) -> str:
    return " / ".join(f"{1000 * seconds:.1f}" for seconds in latencies.values()) or "-"


def save_plot(path: Path, results: Sequence[Result]) -> None:
    """Draws first-chunk latencies over the loads. Raises OSError."""
    from matplotlib.figure import Figure  # takes a while to load

    figure = Figure(figsize=(7, 3.5), layout="constrained")
    axes = figure.subplots()
    for percent in PERCENTILES:
        values = [1000 * result.first_chunk.get(f"p{percent}", float("nan")) for result in results]
        axes.plot(range(len(results)), values, marker="o", label=f"p{percent}")
    axes.set_xticks(range(len(results)), [result.load.name for result in results])
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
    parser.add_argument("--door", choices=("library", "http", "triton"), default="library", help="what is measured")
    parser.add_argument("--url", help="of the server [http://127.0.0.1:8000; 127.0.0.1:8001 for triton]")
    parser.add_argument("--api-key", default="", help="of the HTTP server")
    load = parser.add_argument_group("load")
    load.add_argument("--streams", type=bounded_int(1, 1024), nargs="+", default=[], help="closed loops [1]")
    load.add_argument("--rate", type=bounded_float(0.01, 10_000), nargs="+", default=[], help="open loops, requests/s")
    load.add_argument("--requests", type=bounded_int(1, 1_000_000), default=1000, help="of each loop, at most")
    load.add_argument("--seconds", type=bounded_float(0.1, 3600), default=30.0, help="of each loop, at most")
    load.add_argument("--warm-up", type=bounded_int(0, 10_000), default=8, help="requests before, not measured")
    load.add_argument("-i", "--input", type=Path, help="texts, one a line [eight short phrases]")
    load.add_argument("--seed", type=bounded_int(0, 2**31), default=0, help="of moments and texts")
    load.add_argument("--max-streams", type=bounded_int(1, 1024), help="of the library door: texts spoken at a time")
    results = parser.add_argument_group("results")
    results.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    results.add_argument("--plot", type=Path, metavar="FILE", help="draw first-audio latencies as a PNG")
    results.add_argument("--machine", default="", help="what the table says of the machine [its processor]")
    add_voice_flags(parser)
    return parser


def main(args: argparse.Namespace) -> None:
    texts = [phrase.text for phrase in read_phrases(args.input, [])] if args.input else SHORT_PHRASES
    bounds = {"requests": args.requests, "seconds": args.seconds, "seed": args.seed}
    loads = [Load(streams=streams, **bounds) for streams in args.streams or ([] if args.rate else [1])]
    loads += [Load(rate=rate, **bounds) for rate in args.rate]
    machine = args.machine or platform.processor() or platform.machine()
    sys.setswitchinterval(SWITCH_INTERVAL)
    door = open_door(args)
    try:
        warm_up(door, texts, args.warm_up, max(load.streams for load in loads) or 8)
        results = []
        for load in loads:
            results.append(run_load(door, texts, load, args.door, machine))
            print(f"{load.name}: done", file=sys.stderr)
    finally:
        door.close()
    print(f"Door: {args.door}; machine: {machine}\n\n{table(results)}")
    for result in results:
        for error, count in result.errors.items():
            print(f"{result.load.name}: {count} x {error}", file=sys.stderr)
    if args.json:
        with written_whole(args.json) as temporary:
            temporary.write_text(json.dumps([asdict(result) for result in results], indent=1) + "\n", encoding="utf-8")
    if args.plot:
        save_plot(args.plot, results)


def open_door(args: argparse.Namespace) -> Door:
    """The door that the flags name. Raises UserError."""
    if args.door == "library":
        # A closed loop's listeners are all accepted; an open one's wait as long as it takes, and that is measured.
        limits = {"max_slots": args.max_streams, "max_waiting": MOST_IN_FLIGHT}
        return LibraryDoor(open_voice(args, lambda message: print(message, file=sys.stderr)), **limits)
    if args.door == "triton":
        return TritonDoor(args.url or "127.0.0.1:8001")
    url = args.url or "http://127.0.0.1:8000"
    if not url.startswith(("http://", "https://")):
        raise UserError(f"--url {url}: must begin with http:// or https://")
    return HttpDoor(url, args.api_key)


def warm_up(door: Door, texts: Sequence[str], requests: int, streams: int) -> None:
    """Speaks before the clock runs. Raises UserError if nothing can be spoken."""
    if not requests:
        return
    result = run_load(door, texts, Load(streams=min(streams, requests), requests=requests, seconds=300))
    if len(result.errors) and sum(result.errors.values()) == result.requests:
        raise UserError(f"the door doesn't speak: {next(iter(result.errors))}")


if __name__ == "__main__":
    run(main, make_parser())
