"""The classic's JSON log: one line an entry, in the format of NVIDIA's dllogger."""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any


class JsonLog:
    """Writes `DLLL {...}` lines to a file, replacing an old one. A context manager.

    Raises:
        OSError: the file can't be written.
    """

    def __init__(self, path: Path) -> None:
        self._file = open(path, "w", encoding="utf-8")  # noqa: SIM115  closed by __exit__
        self._started = datetime.now()

    def log(self, step: int | str | Sequence[int], data: Mapping[str, Any]) -> None:
        """Adds one entry and brings it to disk.

        Args:
            step: 0, "PARAMETER" or a list of counters.
            data: what was measured or set; what JSON has no type for, as a path, is written as text.
        """
        now = datetime.now()
        entry = {
            # dllogger writes all three times as text, the first and the last in seconds
            "timestamp": str(now.timestamp()),
            "datetime": str(now),
            "elapsedtime": str((now - self._started).total_seconds()),
            "type": "LOG",
            "step": step,
            "data": dict(data),
        }
        self._file.write(f"DLLL {json.dumps(entry, default=str)}\n")
        self._file.flush()

    def __enter__(self) -> "JsonLog":
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.close()
