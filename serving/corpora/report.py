"""The report of a run: how long it took and what the corpus holds, for the terminal and the corpus's folder report/."""

import heapq
import re
import statistics
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from common.files import written_whole
from common.table import format_markdown, shorten
from serving.corpora.shard import ShardReport

REPORT = "report"  # folder
_SHOWN = 20  # outliers
_OUTLYING = 4.0  # robust standard deviations of the logarithm; a line farther off is worth listening to
_BINS = 60


def run_table(reports: Sequence[ShardReport]) -> str:
    """Markdown: a row a worker. Its rate is seconds of audio a second, from its first line to its last."""
    headers = ("Worker", "Lines", "Hours of audio", "Audio s per s", "Voice busy")
    rows = []
    for name in sorted({report.worker for report in reports}):
        own = [report for report in reports if report.worker == name]
        audio = sum(report.audio_seconds for report in own)
        taken = max(max(report.ended for report in own) - min(report.began for report in own), 1e-9)
        busy = min(sum(report.speaking_seconds for report in own) / taken, 1)
        lines = sum(report.lines for report in own)
        rows.append((name, f"{lines:,}", f"{audio / 3600:.3f}", f"{audio / taken:,.1f}", f"{busy:.0%}"))
    return format_markdown(headers, rows, "lrrrr")


class CorpusTotals:
    """Sums over all lines of a corpus. It takes 8 bytes of memory a line."""

    def __init__(self) -> None:
        self.reasons: Counter[str] = Counter()
        self.texts_at_fault = 0  # lines that need another text
        self._seconds = array("f")
        self._ratios = array("f")  # frames a symbol, at speed 1
        self._lowest: list[tuple[Any, ...]] = []  # heaps of (order, line, frames a symbol, id, audio, text)
        self._highest: list[tuple[Any, ...]] = []

    def add(self, entry: Mapping[str, Any]) -> None:
        """Adds a line: an entry of the manifest or of retry.jsonl."""
        if "reason" in entry:
            self.reasons[kind_of(entry["reason"])] += 1
            self.texts_at_fault += entry.get("text_at_fault", False)
            return
        ratio = entry["frames"] * entry["speed"] / entry["symbols"]
        self._seconds.append(entry["seconds"])
        self._ratios.append(ratio)
        for heap, order in ((self._lowest, -ratio), (self._highest, ratio)):
            keep = heapq.heappush if len(heap) < _SHOWN else heapq.heappushpop
            keep(heap, (order, entry["line"], ratio, entry["id"], entry["audio"], entry["reading"]))

    @property
    def lines(self) -> int:
        """Lines that have audio."""
        return len(self._seconds)

    @property
    def hours(self) -> float:
        return float(np.frombuffer(self._seconds, np.float32).sum(dtype=np.float64)) / 3600 if self._seconds else 0.0

    def outliers(self) -> list[tuple[Any, ...]]:
        """(frames a symbol, id, audio, text) of the lines far from the rest, the farthest first."""
        if len(self._ratios) < 2:
            return []
        logs = np.log(np.frombuffer(self._ratios, np.float32))
        middle = float(np.median(logs))
        spread = 1.4826 * float(np.median(np.abs(logs - middle))) or 1e-6
        found = {entry[2:] for entry in (*self._lowest, *self._highest)}
        far = [(abs(np.log(what[0]) - middle) / spread, what) for what in found]
        return [what for distance, what in sorted(far, reverse=True) if distance > _OUTLYING][:_SHOWN]

    def save(self, folder: Path, run: Sequence[ShardReport]) -> Path:
        """Writes report.md and its pictures into the corpus's folder. Raises OSError.

        Args:
            run: reports of the shards that this run recorded.
        """
        report = folder / REPORT
        report.mkdir(exist_ok=True)
        if self.lines:
            _histogram(report / "seconds.png", np.frombuffer(self._seconds, np.float32), "Seconds of a line")
            _histogram(report / "frames_per_symbol.png", np.frombuffer(self._ratios, np.float32), "Frames a symbol")
        path = report / "report.md"
        with written_whole(path) as temporary:
            temporary.write_text("\n".join(self._paragraphs(run)) + "\n", encoding="utf-8")
        return path

    def _paragraphs(self, run: Sequence[ShardReport]) -> Iterator[str]:
        yield f"# Corpus\n\n{self.lines:,} lines have audio: {self.hours:,.2f} hours."
        if self.lines:
            median = statistics.median(self._seconds)
            yield f"A line takes {median:.1f} s (median), {max(self._seconds):.1f} s at most.\n"
            yield "![Seconds of a line](seconds.png)\n![Frames a symbol](frames_per_symbol.png)"
        if self.reasons:
            yield f"\n## Lines without audio: {self.reasons.total():,} (retry.jsonl)\n"
            rows = [(f"{count:,}", reason) for reason, count in self.reasons.most_common(_SHOWN)]
            yield format_markdown(("Lines", "Reason"), rows, "rl")
        if outliers := self.outliers():
            yield "\n## Worth listening to: far more or fewer frames a symbol than the rest\n"
            listed = [(f"{ratio:.2f}", name, audio, shorten(text, 80)) for ratio, name, audio, text in outliers]
            yield format_markdown(("Frames a symbol", "Id", "Audio", "Text"), listed, "rlll")
        if run:
            yield f"\n## The last run\n\n{run_table(run)}"


def kind_of(reason: str) -> str:
    """A reason without its line's number and text, so that lines that fail alike are counted together."""
    for kind in ("cut by the limit of frames", "nothing to speak"):
        if kind in reason:
            return kind
    return shorten(re.sub(r'line \d+ \(".*?"\)', "a line", reason).split(" (")[0], 70)


def _histogram(path: Path, values: np.ndarray, title: str) -> None:
    from matplotlib.figure import Figure  # takes a while to load

    figure = Figure(figsize=(7, 3), dpi=100, layout="constrained")
    axes = figure.add_subplot()
    axes.hist(values, bins=_BINS, color="#31688e")
    axes.set_xlabel(title)
    axes.set_ylabel("Lines")
    axes.set_yscale("log")  # so that one outlier is visible beside a million others
    with written_whole(path) as temporary:
        figure.savefig(temporary, format="png")
