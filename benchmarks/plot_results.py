"""Draws the results that benchmarks left in a folder: time by stage, and latency against text length and batch size."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.result import Result, read_results
from common.cli import ArgumentParser, run
from common.errors import UserError
from common.files import output_folder, written_whole
from pipeline.synthesizer import STAGES

WIDTH, HEIGHT, DPI = 8.0, 3.6, 110


def make_parser() -> ArgumentParser:
    parser = ArgumentParser(prog="plot_results.py", description=__doc__)
    parser.add_argument("folder", type=Path, help="folder that benchmarks were given as --output")
    parser.add_argument("-o", "--output", type=Path, default=Path("results"), help="folder for the pictures")
    return parser


def main(args: argparse.Namespace) -> None:
    results = read_results(args.folder)
    if not results:
        raise UserError(f"{args.folder}: holds no results; run a benchmark with -o {args.folder} first")
    folder = output_folder(args.output)
    figures = {
        "stages": stages_figure(results),
        "text_length": sweep_figure(results, "input_length", "batch_size", "symbols of text"),
        "batch_size": sweep_figure(results, "batch_size", "input_length", "utterances in a batch"),
    }
    for name, figure in figures.items():
        path = folder / f"{name}.png"
        if figure is None:
            continue
        with written_whole(path) as temporary:
            figure.savefig(temporary, format="png", dpi=DPI)
        print(path)


def stages_figure(results: Sequence[Result]) -> Figure:
    """A bar for each result, cut by stage; what is left is the host."""
    figure = Figure(figsize=(WIDTH, 1.4 + 0.45 * len(results)), layout="constrained")
    axes = figure.subplots()
    labels = [f"{r.framework}\nbatch {r.batch_size}, {r.input_length} symbols" for r in results]
    left = [0.0] * len(results)
    for stage in (*STAGES, "host"):
        if stage == "host":
            widths = [max(0.0, r.latency_mean - sum(r.stages.values())) for r in results]
        else:
            widths = [r.stages[stage] for r in results]
        if any(widths):
            # Shares, not seconds: frameworks of very different speed stand beside one another.
            shares = [100 * width / r.latency_mean for width, r in zip(widths, results, strict=True)]
            axes.barh(labels, shares, left=left, label=stage)
            left = [a + b for a, b in zip(left, shares, strict=True)]
    for row, result in enumerate(results):
        axes.text(101, row, f"{1000 * result.latency_mean:.1f} ms", va="center", fontsize=8)
    axes.set_xlim(0, 115)
    axes.set_xlabel(f"share of the latency (%), {results[0].device}, {results[0].precision}")
    axes.tick_params(axis="y", labelsize=7)
    axes.invert_yaxis()
    figure.legend(loc="outside upper center", ncols=len(STAGES) + 1, fontsize=8)
    return figure


def sweep_figure(results: Sequence[Result], varied: str, fixed: str, label: str) -> Figure | None:
    """Latency and seconds of audio a second against one size, the other at its most frequent value."""
    values = [getattr(r, fixed) for r in results]
    common = max(set(values), key=values.count)
    lines: dict[str, list[Result]] = {}
    for result in results:
        if getattr(result, fixed) == common:
            lines.setdefault(result.framework, []).append(result)
    lines = {name: line for name, line in lines.items() if len({getattr(r, varied) for r in line}) > 1}
    if not lines:
        return None
    figure = Figure(figsize=(WIDTH, HEIGHT), layout="constrained")
    latency, rate = figure.subplots(1, 2)
    for name, unordered in lines.items():
        line = sorted(unordered, key=lambda r: getattr(r, varied))
        sizes = [getattr(r, varied) for r in line]
        latency.plot(sizes, [1000 * r.latency_mean for r in line], marker="o", label=name)
        rate.plot(sizes, [r.audio_per_second for r in line], marker="o", label=name)
    _label(latency, label, "latency (ms)")
    _label(rate, label, "seconds of audio a second")
    latency.legend(fontsize=8)
    figure.suptitle(f"{results[0].device}, {results[0].precision}, {fixed.replace('_', ' ')} {common}", fontsize=9)
    return figure


def _label(axes: Axes, x: str, y: str) -> None:
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)


if __name__ == "__main__":
    run(main, make_parser())
