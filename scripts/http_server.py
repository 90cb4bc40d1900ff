"""Speaks over HTTP: OpenAI's speech API, and a page to try it, on one voice."""

import argparse
import logging
import os
from collections.abc import Callable
from functools import partial

from common.cli import ArgumentParser, bounded_float, bounded_int, run
from common.cpu_backend import usable_cores
from common.errors import UserError
from pipeline import Voice
from serving.flags import add_voice_flags, open_voice, runs_on_gpu
from serving.http.engine_pool import Engine
from serving.http.log import log_to_stderr
from serving.http.messages import EngineSettings
from serving.http.server import bind, serve
from serving.http.service import ServerSettings

ENGINES_A_GPU = 2
API_KEY_VARIABLE = "SPEECH_API_KEY"

_log = logging.getLogger(__name__)


def make_parser() -> ArgumentParser:
    parser = ArgumentParser(prog="http_server.py", description=__doc__)
    server = parser.add_argument_group("server")
    server.add_argument("--host", default="127.0.0.1", help="address to listen at; 0.0.0.0 lets other machines in")
    server.add_argument("--port", type=bounded_int(0, 65535), default=8000, help="0 takes a free one")
    server.add_argument("--api-key", help=f"key that clients must send [${API_KEY_VARIABLE}, or none]")
    server.add_argument(
        "--voice-name",
        action="append",
        metavar="NAME",
        help="another name of the voice, beside `default` and OpenAI's; the first is listed first; may be repeated",
    )
    server.add_argument(
        "--allow-origin", action="append", default=[], metavar="URL", help="site that may use it (CORS); repeatable"
    )
    server.add_argument(
        "--engines",
        type=bounded_int(0, 256),
        help="speaking processes, each with the voice; 0: the server's own process speaks [2 on each GPU, 0 on a CPU]",
    )
    limits = parser.add_argument_group("limits")
    limits.add_argument(
        "--max-streams",
        type=bounded_int(1, 1024),
        help="pieces of text that an engine speaks at a time [32 on a GPU, 8 on a CPU]",
    )
    limits.add_argument(
        "--max-queue", type=bounded_int(1, 100_000), default=64, help="requests that may wait for an engine"
    )
    limits.add_argument("--max-characters", type=bounded_int(1, 1_000_000), default=4096, help="characters of a text")
    limits.add_argument(
        "--drain-seconds",
        type=bounded_float(0, 86400),
        default=60,
        help="time that requests under way have to end after SIGTERM",
    )
    add_voice_flags(parser)
    return parser


def main(args: argparse.Namespace) -> None:
    log_to_stderr()
    settings = server_settings(args)
    with bind(args.host, args.port) as listener:
        serve(make_engines(args, partial(open_voice, args, _log.info)), settings, listener, args.drain_seconds)


def make_engines(args: argparse.Namespace, load: Callable[[], Voice]) -> list[Engine]:
    """The engines that the flags ask for.

    Args:
        load: opens an engine's voice; can be pickled where engines are processes.

    Raises:
        UserError: the flags name no voice.
    """
    environments = _gpu_environments(args)
    count = len(environments) * ENGINES_A_GPU if args.engines is None else args.engines
    if not environments:
        cores = max(1, usable_cores() // max(1, count))
        environments = [{} if "OMP_NUM_THREADS" in os.environ else {"OMP_NUM_THREADS": str(cores)}]
    return [
        Engine(
            EngineSettings(f"engine {number}", load, args.max_streams),
            environments[number % len(environments)] if count else None,
            args.max_queue,
        )
        for number in range(max(1, count))
    ]


def _gpu_environments(args: argparse.Namespace) -> list[dict[str, str]]:
    """What lets a process see one GPU alone, for each that the voice may use; empty on a CPU."""
    if not runs_on_gpu(args):
        return []
    if ":" in (args.device or ""):  # the flag itself names one
        return [{}]
    import torch  # after `common.cli`, as all that takes seconds

    seen = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = [str(index) for index in range(torch.cuda.device_count())] if seen is None else seen.split(",")
    return [{"CUDA_VISIBLE_DEVICES": name} for name in names if name] or [{}]


def server_settings(args: argparse.Namespace) -> ServerSettings:
    """What the flags allow. Raises UserError."""
    api_key = os.environ.get(API_KEY_VARIABLE, "") if args.api_key is None else args.api_key
    if args.api_key == "":
        raise UserError("--api-key is empty: everybody could speak; give a key, or leave the flag out")
    if not all("!" <= character <= "~" for character in api_key):
        raise UserError("--api-key: clients send it in a header, so use letters, digits and signs of ASCII, no spaces")
    return ServerSettings(
        max_characters=args.max_characters,
        api_key=api_key,
        voices=tuple(dict.fromkeys((*(args.voice_name or []), *ServerSettings.voices))),
        origins=tuple(args.allow_origin),
        local_only=args.host == "localhost" or args.host.startswith("127.") or args.host == "::1",
    )


if __name__ == "__main__":
    run(main, make_parser())
