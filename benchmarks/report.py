"""Prints the results that benchmarks of whole texts left in a folder as one Markdown table."""

import argparse
from pathlib import Path

from benchmarks.classic_report import read_results, results_table
from common.cli import ArgumentParser, run
from common.errors import UserError


def make_parser() -> ArgumentParser:
    parser = ArgumentParser(prog="report.py", description=__doc__)
    parser.add_argument("folder", type=Path, help="folder that benchmarks were given as --output")
    return parser


def main(args: argparse.Namespace) -> None:
    results = read_results(args.folder)
    if not results:
        raise UserError(f"{args.folder}: holds no results; run a benchmark with -o {args.folder} first")
    print(results_table(results))
    print(
        "\nLatency: from symbol ids on the host to float audio on the host, device synchronised; warm-ups apart."
        "\nThroughput: mean of (audio samples of the batch / latency). Avg RTF: seconds of audio per second."
    )


if __name__ == "__main__":
    run(main, make_parser())
