"""Speaks over HTTP: OpenAI's speech API, and a page to try it, on one voice."""

import argparse
import asyncio
import logging
import os
import socket
import sys
from types import FrameType

import uvicorn

from common.cli import ArgumentParser, bounded_float, bounded_int, run
from common.errors import UserError
from pipeline import Voice
from pipeline.scheduler import SWITCH_INTERVAL
from serving.app import make_app
from serving.flags import add_voice_flags, open_voice
from serving.service import ServerSettings, SpeechService

API_KEY_VARIABLE = "SPEECH_API_KEY"
CLOSING_SECONDS = 2  # for connections that don't end by themselves, once every request has been answered

_log = logging.getLogger(__name__)


def make_parser() -> ArgumentParser:
    parser = ArgumentParser(prog="http_server.py", description=__doc__)
    server = parser.add_argument_group("server")
    server.add_argument("--host", default="127.0.0.1", help="address to listen at; 0.0.0.0 lets other machines in")
    server.add_argument("--port", type=bounded_int(0, 65535), default=8000, help="0 takes a free one")
    server.add_argument("--api-key", help=f"that clients must send [${API_KEY_VARIABLE}, or none]")
    server.add_argument(
        "--voice-name",
        action="append",
        metavar="NAME",
        help="that requests may ask for; may be repeated [default and alloy]",
    )
    limits = parser.add_argument_group("limits")
    limits.add_argument(
        "--max-streams", type=bounded_int(1, 1024), help="pieces of text spoken at a time [32 on a GPU, 8 on a CPU]"
    )
    limits.add_argument("--max-queue", type=bounded_int(1, 100_000), default=64, help="requests that may wait")
    limits.add_argument("--max-characters", type=bounded_int(1, 1_000_000), default=4096, help="of a request's text")
    limits.add_argument(
        "--drain-seconds",
        type=bounded_float(0, 86400),
        default=60,
        help="for requests under way to end after SIGTERM",
    )
    add_voice_flags(parser)
    return parser


def main(args: argparse.Namespace) -> None:
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.INFO)
    sys.setswitchinterval(SWITCH_INTERVAL)
    settings = server_settings(args)
    with listen(args.host, args.port) as listener, open_voice(args, _log.info) as voice:
        serve(voice, settings, listener, args.drain_seconds)


def server_settings(args: argparse.Namespace) -> ServerSettings:
    """What the flags allow."""
    return ServerSettings(
        max_streams=args.max_streams,
        max_queue=args.max_queue,
        max_characters=args.max_characters,
        api_key=os.environ.get(API_KEY_VARIABLE, "") if args.api_key is None else args.api_key,
        voices=tuple(args.voice_name or ServerSettings.voices),
    )


def listen(host: str, port: int) -> socket.socket:
    """A listening socket. Raises UserError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=1024)
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(f"can't listen at {host} port {port}: {reason}; give another --port or --host") from error


def serve(voice: Voice, settings: ServerSettings, listener: socket.socket, drain_seconds: float) -> None:
    """Serves until SIGTERM or Ctrl-C, and then until the requests under way have been answered.

    Args:
        listener: bound and listening; closed at the end.
        drain_seconds: most of them that requests under way get; then they are cut.

    Raises:
        UserError: the voice can't speak.
    """
    asyncio.run(_serve(voice, settings, listener, drain_seconds))


async def _serve(voice: Voice, settings: ServerSettings, listener: socket.socket, drain_seconds: float) -> None:
    service = SpeechService(voice, settings)
    await asyncio.to_thread(service.warm_up)
    config = uvicorn.Config(
        make_app(service),
        log_config=None,
        access_log=False,  # the service logs each request, with what it took
        timeout_graceful_shutdown=CLOSING_SECONDS,
        lifespan="off",
        server_header=False,
    )
    host, port = listener.getsockname()[:2]
    print(f"Listening at http://{f'[{host}]' if ':' in host else host}:{port}", flush=True)
    await DrainingServer(config, service, drain_seconds).serve([listener])


class DrainingServer(uvicorn.Server):
    """Ends by SIGTERM or Ctrl-C when the requests under way have been answered; by a second one at once.

    Until then it listens: new requests hear that the server is shutting down.
    """

    def __init__(self, config: uvicorn.Config, service: SpeechService, drain_seconds: float) -> None:
        super().__init__(config)
        self._service = service
        self._drain_seconds = drain_seconds
        self._loop = asyncio.get_running_loop()
        self._draining: asyncio.Task[None] | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._loop.call_soon_threadsafe(self._begin_drain)

    def _begin_drain(self) -> None:
        if self._draining is not None:
            self._service.cancel_all()
            return
        _log.info("shutting down: requests under way get up to %g s to end", self._drain_seconds)
        self._service.begin_drain()
        self._draining = asyncio.create_task(self._drain())

    async def _drain(self) -> None:
        try:
            await asyncio.wait_for(self._service.drained(), self._drain_seconds)
        except asyncio.TimeoutError:
            _log.warning("requests are cut that have not ended in %g s", self._drain_seconds)
            self._service.cancel_all()
        self.should_exit = True


if __name__ == "__main__":
    run(main, make_parser())
