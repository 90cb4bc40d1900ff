"""Starts NVIDIA's Triton Inference Server on a model repository: the binary of the package nvidia-pytriton."""

import argparse
import os
from pathlib import Path

from common.cli import ArgumentParser, bounded_int, run
from common.errors import UserError
from serving.triton.server import server_command

PORTS = {"http": 8000, "grpc": 8001, "metrics": 8002}


def make_parser() -> ArgumentParser:
    parser = ArgumentParser(prog="triton_server.py", description=__doc__)
    parser.add_argument("repository", type=Path, help="folder that scripts/make_triton_repository.py wrote")
    parser.add_argument("--server", type=Path, required=True, help="folder that nvidia-pytriton and numpy<2 are in")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    for name, port in PORTS.items():
        parser.add_argument(f"--{name}-port", type=bounded_int(1, 65535), default=port, help=f"port for {name}")
    return parser


def main(args: argparse.Namespace) -> None:
    if not (args.repository / "tts_stream" / "config.pbtxt").is_file():
        raise UserError(f"{args.repository}: no model repository; write one with scripts/make_triton_repository.py -o")
    ports = {name: getattr(args, f"{name}_port") for name in PORTS}
    command, environment = server_command(args.server, args.repository, args.host, ports)
    os.execve(command[0], command, environment)


if __name__ == "__main__":
    run(main, make_parser())
