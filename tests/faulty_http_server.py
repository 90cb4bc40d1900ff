"""The HTTP server on quick engines that fail when a test wants it: `-m tests.faulty_http_server FAULTS flags...`.

FAULTS is a file that the test writes and removes: {"part": ..., "fault": "error" | "nan" | "slow",
"after": runs of the part that still go well}. FRAMES in the environment is how long texts are whose requests don't say
it. Only the engines are doubles; the server is the real one.
"""

import argparse
import importlib
import json
import os
import socket
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from common.cli import run
from common.metadata import Part
from pipeline import Voice
from scripts.http_server import make_engines, make_parser, server_settings
from serving.http import app, engine_pool, websocket
from serving.http import server as http_server
from serving.http.log import log_to_stderr
from tests.engine_doubles import Watched, tiny_engines

FLOAT_INPUTS: dict[Part, str] = {"decoder_iter": "prenet_dropout", "postnet": "mel_outputs", "waveglow": "z"}
SLOW_SECONDS = 0.01  # a run
PATIENCE_SECONDS = 3.0  # with clients that send or read nothing, and with engines that are busy


class Faults:
    """What goes wrong, as the file says it at each run of an engine."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._said = ""
        self._runs = 0

    def before(self, part: Part) -> Callable[[Mapping[str, Tensor]], None]:
        def meet(tensors: Mapping[str, Tensor]) -> None:
            said = self._path.read_text() if self._path.exists() else ""
            if said != self._said:
                self._said, self._runs = said, 0
            if not said:
                return
            fault = json.loads(said)
            if fault["part"] != part:
                return
            self._runs += 1
            if self._runs > fault["after"]:
                strike(fault["fault"], tensors, part)

        return meet


def strike(fault: str, tensors: Mapping[str, Tensor], part: Part) -> None:
    if fault == "error":
        raise RuntimeError("no such kernel")
    if fault == "nan":
        tensors[FLOAT_INPUTS[part]].fill_(float("nan"))
    if fault == "slow":
        time.sleep(SLOW_SECONDS)


def load(path: Path) -> Voice:
    """A voice on quick engines, in whichever process speaks."""
    torch.set_num_threads(1)
    faults = Faults(path)
    # Untrained gates fire at once: here utterances end at their caps.
    quick = tiny_engines(decoder_no_early_stopping=True, max_decoder_steps=int(os.environ.get("FRAMES", "2000")))
    return Voice({part: Watched(engine, faults.before(part)) for part, engine in quick.items()})


def serve(args: argparse.Namespace) -> None:
    log_to_stderr()
    http_server.HEAD_SECONDS = http_server.STALLED_SECONDS = PATIENCE_SECONDS
    app.BODY_SECONDS = websocket.BUSY_SECONDS = PATIENCE_SECONDS
    engine_pool.WATCH_SECONDS, engine_pool.ANSWER_SECONDS = 0.5, PATIENCE_SECONDS
    # By its module's name: processes of engines can't import from the script that is run.
    engines = make_engines(args, partial(importlib.import_module("tests.faulty_http_server").load, Path(sys.argv[1])))
    settings = server_settings(args)
    with http_server.bind(args.host, args.port) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 16)  # a slow reader is noticed soon
        http_server.serve(engines, settings, listener, args.drain_seconds)


if __name__ == "__main__":
    run(serve, make_parser(), sys.argv[2:])
