from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class PageEntry:
    index: int
    text: str
    audio: Path
    seconds: float
    stop_reason: str
    alignment: Path | None
    mel: Path | None
    notes: tuple[str, ...] = ()


def write_page(path, title, entries, details):
    raise NotImplementedError
