"""What all benchmarks share: the record of a result with its statistics, its file, the table, and the warm-up rule."""

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import Machine
from common.errors import UserError
from common.files import written_whole
from common.table import format_markdown

PERCENTILES = (50, 90, 95, 99, 100)


@dataclass(frozen=True)
class Result:
    """What a benchmark measured: a row of a table.

    Attributes:
        subject: what was measured, as the table names it.
        settings: what it was measured with, by name.
        values: what was found, by name: a value of each run or request. Times are in seconds.
        errors: what went wrong, and how often.
    """

    subject: str
    settings: Mapping[str, Any]
    values: Mapping[str, Sequence[float]]
    machine: Machine
    errors: Mapping[str, int] = field(default_factory=dict)

    def mean(self, name: str) -> float:
        return float(np.mean(self.values[name]))

    def std(self, name: str) -> float:
        return float(np.std(self.values[name]))

    def percentile(self, name: str, percent: float) -> float:
        """NaN where there is no value."""
        return float(np.percentile(self.values[name], percent)) if self.values[name] else float("nan")

    def rate(self, done: str, taken: str = "taken") -> float:
        """The sum of some values over the sum of the seconds that they took; 0 if they took none."""
        seconds = sum(self.values[taken])
        return sum(self.values[done]) / seconds if seconds else 0.0

    def statistics(self) -> dict[str, dict[str, float]]:
        """Mean, standard deviation and percentiles of all values that were found."""
        return {
            name: {"mean": self.mean(name), "std": self.std(name)}
            | {f"p{percent}": self.percentile(name, percent) for percent in PERCENTILES}
            for name, values in self.values.items()
            if values
        }


def timed_runs(count: int, on_gpu: bool) -> range:
    """The numbers of the runs of a benchmark; the negative ones warm up and don't count.

    On a GPU three do: the first runs eagerly, the second captures CUDA graphs, the third is the first to replay them.
    """
    return range(-3 if on_gpu else -1, count)


def table(results: Sequence[Result], columns: Mapping[str, Callable[[Result], str]]) -> str:
    """A Markdown table with a row for each result; `columns` by header."""
    rows = [[cell(result) for cell in columns.values()] for result in results]
    return format_markdown(list(columns), rows, "l" + "r" * (len(columns) - 1))


def write_results(path: Path, results: Result | Sequence[Result]) -> None:
    """Writes one result or several as JSON, with their statistics for whoever reads the file without this module."""
    several = [results] if isinstance(results, Result) else results
    entries = [{**dataclasses.asdict(result), "statistics": result.statistics()} for result in several]
    content = entries[0] if isinstance(results, Result) else entries
    with written_whole(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def read_result(path: Path) -> Result:
    """The one result of a file. Raises UserError if it holds none of this version."""
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        del fields["statistics"]
        return Result(**fields | {"machine": Machine(**fields["machine"])})
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"{path}: not a benchmark's result ({error}); move it out of the folder") from error
