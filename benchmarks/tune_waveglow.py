"""Tries ways to cut WaveGlow's matrix kernels on the GPU at hand: checks each and prints how fast it is.

The weights are random, of the published checkpoint's size unless --wn-channels says otherwise. What comes out best is
entered by hand into `waveglow.gpu.tuning`.
"""

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from benchmarks.machine import Machine
from benchmarks.result import Result, table, timed_runs
from common.cli import ArgumentParser, bounded_int, run
from common.config import WaveGlowConfig
from common.cuda import capture, triton_obstacle, with_index
from common.errors import UserError
from waveglow.conditioning import Conditioning, parse_conditioning
from waveglow.gpu.network import Network
from waveglow.gpu.tuning import Tiles, Tuning, default_tuning
from waveglow.model import WaveGlow
from waveglow.parts import WaveGlowPart

TILES = [
    Tiles(rows, columns, warps, stages)
    for rows, columns, warps in ((128, 128, 4), (128, 128, 8), (128, 256, 8), (256, 128, 8), (64, 128, 4))
    for stages in (2, 3, 4)
]
MAX_DIFFERENCE = 1e-3  # relative, between two ways to cut: sums differ in their order at most


def tunings(base: Tuning) -> Iterator[tuple[str, Tuning]]:
    """What is tried, the default first; each kernel alone, and both in one."""
    yield "default", base
    base = replace(base, fused=None)
    for tiles in TILES:
        for persistent in (False, True):
            yield f"gate {tiles}, persistent: {persistent}", replace(base, gate=tiles, persistent=persistent)
    for tiles in TILES:
        yield f"residual {tiles}", replace(base, residual=tiles)
    if base.descriptors:
        for stages in (3, 4):
            tiles = Tiles(128, 256, 8, stages)
            yield f"both in one {tiles}", replace(base, fused=tiles)


def timed(work: Callable[[], None], repeats: int = 10) -> list[float]:
    """The seconds that runs of `work` take on the GPU."""
    times = []
    for run_number in timed_runs(repeats, on_gpu=True):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        work()
        end.record()
        end.synchronize()
        if run_number >= 0:
            times.append(start.elapsed_time(end) / 1000)
    return times


def run_once(network: Network, frames: Sequence[int], mel: Tensor, z: Tensor) -> tuple[Tensor, list[float]]:
    """The audio (samples,) that a network gives of utterances of these lengths, and the seconds of its runs as one CUDA
    graph.

    mel (n_mel_channels, frames of all), z (n_group, positions of all).
    """
    rows = network.geometry.rows_of(frames)
    memory = torch.zeros(network.geometry.bytes_for(rows), dtype=torch.uint8, device=mel.device)
    audio = torch.full((z.numel(),), torch.nan, dtype=torch.float16, device=mel.device)
    launches = network.launches(network.geometry.buffers(memory, rows, frames), mel, z, audio)

    def work() -> None:
        for launch in launches:
            launch()

    return audio, timed(capture(work, mel.device))


def tune(channels: int, conditioning: Conditioning, batch: int, frames: int) -> list[Result]:
    """The seconds of each way to cut, and the relative difference of its audio from the default's. Raises UserError."""
    device = with_index("cuda")
    reason = triton_obstacle(device)
    if reason is not None:
        raise UserError(f"these kernels can't run here: {reason}")
    torch.manual_seed(0)
    part = WaveGlowPart(WaveGlow(WaveGlowConfig(wn_channels=channels)), conditioning).eval().requires_grad_(False)
    base = default_tuning(device)
    network = Network(part, device, base)
    groups, positions = network.config.n_group, network.positions
    mel = torch.randn(network.config.n_mel_channels, batch * frames, device=device).half()
    z = (0.6 * torch.randn(groups, batch * frames * positions, device=device)).half()
    results: list[Result] = []
    expected: Tensor | None = None
    machine = Machine.this(device)
    for name, tuning in tunings(base):
        values: dict[str, list[float]] = {}
        errors: dict[str, int] = {}
        try:
            audio, values["taken"] = run_once(network.retuned(tuning), [frames] * batch, mel, z)
        except Exception as error:  # too much shared memory, say: Triton has no one kind of error for it
            errors[str(error).splitlines()[0][:60]] = 1
        else:
            expected = audio if expected is None else expected
            values["difference"] = [float((audio.double() - expected.double()).norm() / expected.double().norm())]
        results.append(Result(name, {"batch_size": batch}, values, machine, errors))
    return results


def _milliseconds(result: Result) -> str:
    if result.errors:
        return "-"
    return f"{1000 * result.percentile('taken', 50) / result.settings['batch_size']:.3f}"


def _difference(result: Result) -> str:
    if result.errors:
        return next(iter(result.errors))
    difference = result.values["difference"][0]
    return f"{difference:.0e}" if difference < MAX_DIFFERENCE else f"WRONG by {difference:.0e}"


def make_parser() -> ArgumentParser:
    parser = ArgumentParser(prog="tune_waveglow.py", description=__doc__)
    parser.add_argument("--wn-channels", type=bounded_int(2, 1024), default=256, help="channels of WaveGlow's networks")
    parser.add_argument(
        "--conditioning", type=parse_conditioning, default="exact", help="exact, or a rank of WaveGlow's conditioning"
    )
    parser.add_argument("-bs", "--batch-size", type=bounded_int(1, 1024), default=16, help="utterances at a time")
    parser.add_argument("--frames", type=bounded_int(1, 2000), default=600, help="mel frames of an utterance")
    return parser


def main(args: argparse.Namespace) -> None:
    results = tune(args.wn_channels, args.conditioning, args.batch_size, args.frames)
    print(results[0].machine.device)
    columns = {"Tiles": lambda result: result.subject, "ms an utterance": _milliseconds, "Difference": _difference}
    print(table(results, columns))


if __name__ == "__main__":
    run(main, make_parser())
