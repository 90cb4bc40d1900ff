"""The classic's JSON log: one line an entry, in the format of NVIDIA's dllogger."""

import json
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any


class JsonLog:
    """Writes `DLLL {...}` lines to a file, replacing an old one. A context manager."""

    def __init__(self, path: Path) -> None:
        self._file = open(path, "w", encoding="utf-8")  # noqa: SIM115  closed by __exit__
        self._started = time.time()

    def log(self, step: int | str | Sequence[int], data: Mapping[str, Any]) -> None:
        """Adds one entry: `step` is 0, "PARAMETER" or a list of counters, `data` what was measured or set."""
        now = time.time()
        entry = {
            "timestamp": str(now * 1000),  # milliseconds, as text, as dllogger writes it
            "datetime": str(datetime.fromtimestamp(now)),
            "elapsedtime": str(now - self._started),
            "type": "LOG",
            "step": step,
            "data": dict(data),
        }
        self._file.write(f"DLLL {json.dumps(entry)}\n")
        self._file.flush()

    def __enter__(self) -> "JsonLog":
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.close()
