"""One HTML page of a run; `page.html` beside this is its template."""

import os
import struct
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from urllib.parse import quote

from common.files import written_whole
from pipeline.manifest import PhraseResult
from pipeline.settings import SpeakSettings
from pipeline.stages import sigma
from pipeline.voice import Voice

TEMPLATE = Path(__file__).with_suffix(".html")
LONG_TEXT = 600  # characters; a longer text is folded behind its beginning
PRELOADED = 50  # players that show their length before they are played
JUMP = 50  # phrases between two links at the top of a long page


def write_page(path: Path, title: str, results: Sequence[PhraseResult], details: Mapping[str, str]) -> None:
    """Writes the page of a run; its links are relative, so that the folder can be moved or served as it is.

    Args:
        path: of the HTML file; complete once it is there.
        title: heading and title of the page.
        results: the phrases that were spoken, in the order in which they are shown.
        details: what was the same for all of them: name and value.

    Raises:
        OSError: the file can't be written, or a picture not read.
    """
    from jinja2 import Environment  # takes a while to load

    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True)
    environment.filters["duration"] = _duration
    parts = environment.from_string(TEMPLATE.read_text(encoding="utf-8")).generate(
        title=title,
        results=results,
        details=details,
        long_text=LONG_TEXT,
        preloaded=PRELOADED,
        jump=JUMP,
        link=lambda target: _link(path.parent, target),
        size=_size,
    )
    # A command line's bytes need not be text: what UTF-8 can't hold becomes a question mark.
    with written_whole(path) as temporary, open(temporary, "w", encoding="utf-8", errors="replace") as file:
        file.writelines(parts)


def details(voice: Voice, settings: SpeakSettings) -> dict[str, str]:
    """What was the same for all phrases of a run."""
    engines = voice.engines
    return {
        "Voice": voice.name or "not named by its checkpoint",
        "Engines": ", ".join(Path(engine.name).name for engine in engines.parts.values()),
        "Precision": engines.precision.upper(),
        "Sigma": f"{sigma(engines, settings):g}",
        "Seed": str(settings.seed),
        "Speed": f"{settings.speed:g}",
        "Denoiser": f"{settings.denoise:g}" if settings.denoise else "off",
        "Made": datetime.now().astimezone().isoformat(timespec="seconds"),
    }


def _size(picture: Path) -> dict[str, int]:
    # Known sizes keep the page from jumping about while pictures arrive.
    with open(picture, "rb") as file:
        header = file.read(24)
    if header[:8] != b"\x89PNG\r\n\x1a\n" or len(header) < 24:
        return {}
    width, height = struct.unpack(">II", header[16:])
    return {"width": width, "height": height}


def _link(folder: Path, target: Path) -> str:
    # From the name's bytes, since file names need not be text; a colon is quoted too, or it would end a scheme.
    return quote(os.fsencode(os.path.relpath(target, folder)))


def _duration(seconds: float) -> str:
    if round(seconds, 2) < 60:
        return f"{seconds:.2f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s"
