"""One HTML page of a run: for each phrase its text and how it was read, a player and its pictures.

No scripts, no network.
"""

import os
import struct
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from html import escape
from pathlib import Path
from urllib.parse import quote

from common.files import written_whole
from pipeline.manifest import PhraseResult
from pipeline.settings import SpeakSettings
from pipeline.voice import Voice

LONG_TEXT = 600  # characters; a longer text is folded behind its beginning
PRELOADED = 50  # players that show their length before they are played
JUMP = 50  # phrases between two links at the top of a long page

STYLE = """
:root {
  color-scheme: light dark;
  --page: #f6f7f9; --card: #ffffff; --ink: #1b1f24; --soft: #525a64; --line: #cfd5dc;
  --link: #0b57a4; --note: #fff3d6; --note-ink: #5c3c00; --note-line: #b7791f;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #14171b; --card: #1e2228; --ink: #e8eaed; --soft: #aeb6c0; --line: #3b424b;
    --link: #8ec5ff; --note: #3a2f14; --note-ink: #ffdf9e; --note-line: #d9a441;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--page); color: var(--ink);
  font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "DejaVu Sans", sans-serif;
}
header, main { max-width: 90rem; margin: 0 auto; padding: 0 clamp(1rem, 4vw, 2rem); }
header { padding-top: 1.5rem; }
main { padding-bottom: 4rem; }
h1, h2, h3 { line-height: 1.25; margin: 0; }
h1 { font-size: clamp(1.6rem, 5vw, 2.1rem); }
h2 { font-size: 1.3rem; margin: 2.25rem 0 .75rem; }
h3 { font-size: 1rem; color: var(--soft); }
p { margin: .5rem 0; }
a { color: var(--link); text-underline-offset: .15em; }
a:focus-visible, summary:focus-visible, audio:focus-visible {
  outline: 3px solid var(--link); outline-offset: 3px; border-radius: 2px;
}
.skip { position: absolute; left: -100vw; padding: .75rem 1rem; background: var(--card); z-index: 1; }
.skip:focus { left: 1rem; top: 1rem; }
.unseen { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); white-space: nowrap; }
.soft, dt, figcaption { color: var(--soft); }
dl { display: flex; flex-wrap: wrap; gap: .5rem 2rem; margin: .75rem 0; }
dl div { min-width: 0; }
dt { font-size: .875rem; }
dd { margin: 0; overflow-wrap: anywhere; }
nav ul { display: flex; flex-wrap: wrap; gap: .25rem 1.25rem; padding: 0; list-style: none; }
nav a { display: inline-block; padding: .25rem 0; }
ol { list-style: none; margin: 0; padding: 0; }
article {
  background: var(--card); border: 1px solid var(--line); border-radius: .6rem;
  padding: clamp(1rem, 3vw, 1.5rem); margin-bottom: 1.25rem;
  content-visibility: auto; contain-intrinsic-size: auto 34rem;
}
.text { font-size: 1.15rem; overflow-wrap: anywhere; }
audio { display: block; width: 100%; max-width: 36rem; margin: .75rem 0; }
summary { cursor: pointer; color: var(--link); padding: .25rem 0; }
.notes { margin: .75rem 0; padding: .5rem 1rem .5rem 2rem; background: var(--note); color: var(--note-ink);
  border-left: 4px solid var(--note-line); border-radius: .25rem; }
.pictures { margin-top: 1rem; }
figure { margin: 0 0 1.25rem; }
.wide { overflow-x: auto; border: 1px solid var(--line); border-radius: .25rem; background: #ffffff; }
.wide:focus-visible { outline: 3px solid var(--link); outline-offset: 3px; }
img { display: block; max-width: none; height: auto; background: #ffffff; }
figcaption { font-size: .875rem; margin-top: .35rem; }
@media print { audio, nav, .skip { display: none; } article { break-inside: avoid; content-visibility: visible; } }
"""


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
    # A command line's bytes need not be text: what UTF-8 can't hold becomes a question mark.
    with written_whole(path) as temporary, open(temporary, "w", encoding="utf-8", errors="replace") as file:
        for section in _page(path.parent, title, results, details):
            file.write(section)


def details(voice: Voice, settings: SpeakSettings) -> dict[str, str]:
    """What was the same for all phrases of a run."""
    engines = voice.engines
    sigma = settings.sigma if settings.sigma is not None else engines.sigma
    return {
        "Voice": voice.name or "not named by its checkpoint",
        "Engines": ", ".join(Path(engine.name).name for engine in engines.parts.values()),
        "Precision": engines.precision.upper(),
        "Sigma": f"{sigma:g}",
        "Seed": str(settings.seed),
        "Speed": f"{settings.speed:g}",
        "Denoiser": f"{settings.denoise:g}" if settings.denoise else "off",
        "Made": datetime.now().astimezone().isoformat(timespec="seconds"),
    }


def _page(folder: Path, title: str, results: Sequence[PhraseResult], details: Mapping[str, str]) -> Iterator[str]:
    count = "1 phrase" if len(results) == 1 else f"{len(results)} phrases"
    yield f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>{escape(title)}</title>
<style>{STYLE}</style>
</head>
<body>
<a class="skip" href="#phrases">Skip to the phrases</a>
<header>
<h1>{escape(title)}</h1>
<p class="soft">{count}, {_duration(sum(result.seconds for result in results))} of audio</p>
</header>
<main>
<section aria-labelledby="details">
<h2 id="details">How they were made</h2>
{_definitions(details)}
</section>
"""
    if any(result.pictures for result in results):
        yield """<section aria-labelledby="reading">
<h2 id="reading">Reading the pictures</h2>
<p>All plots of a picture share the time axis. Under the waveform stands each word where it is heard. The mel
spectrogram is what the decoder drew and the vocoder turned into sound. The alignment shows which part of the text was
read when: an unbroken line from the bottom left to the top right means that everything was read once and in order; a
gap is something left out, a flat line something held or stuck.</p>
</section>
"""
    yield '<section aria-labelledby="phrases">\n<h2 id="phrases" tabindex="-1">Phrases</h2>\n'
    if len(results) > JUMP:
        lines = [result.phrase.line for result in results[::JUMP]]
        links = "".join(f'<li><a href="#phrase-{line}">Phrase {line}</a></li>\n' for line in lines)
        yield f'<nav aria-label="Jump to a phrase">\n<ul>\n{links}</ul>\n</nav>\n'
    yield "<ol>\n"
    for number, result in enumerate(results):
        # Durations of the first players are read from the files; of a thousand that would take a while.
        preload = "metadata" if number < PRELOADED else "none"
        yield f"<li>\n{_article(folder, result, preload)}</li>\n"
    yield "</ol>\n</section>\n</main>\n</body>\n</html>\n"


def _article(folder: Path, result: PhraseResult, preload: str) -> str:
    line = result.phrase.line
    audio = _link(folder, result.file)
    facts = {"Length": _duration(result.seconds), "Stopped by": result.stopped_by}
    download = f'<a href="{audio}" download>{escape(result.file.name)}</a>'
    return f"""<article id="phrase-{line}" aria-labelledby="phrase-{line}-title">
<h3 id="phrase-{line}-title">Phrase {line}</h3>
{_text(result.phrase.text)}
{_reading(result)}
<audio controls preload="{preload}" src="{audio}" aria-label="Audio of phrase {line}"></audio>
{_definitions(facts, Download=download)}
{_notes(result)}{_pictures(folder, result)}</article>
"""


def _text(text: str) -> str:
    if len(text) <= LONG_TEXT:
        return f'<p class="text" dir="auto">{escape(text)}</p>'
    beginning = text[:LONG_TEXT].rsplit(None, 1)[0]
    return f"""<p class="text" dir="auto">{escape(beginning)} \u2026</p>
<details>
<summary>Whole text, {len(text):,} characters</summary>
<p dir="auto">{escape(text)}</p>
</details>"""


def _reading(result: PhraseResult) -> str:
    """How the text was read, where that isn't the text itself."""
    reading = result.spoken_text
    if reading.casefold() == " ".join(result.phrase.text.split()).casefold():
        return ""
    return f"""<details class="reading"{" open" if len(reading) <= LONG_TEXT else ""}>
<summary>Read as</summary>
<p dir="auto">{escape(reading)}</p>
</details>"""


def _notes(result: PhraseResult) -> str:
    notes = []
    if len(result.prepared.pieces) > 1:
        notes.append(f"Long text: spoken in {len(result.prepared.pieces)} pieces and joined.")
    if result.cut:
        notes.append("The decoder reached its frame limit before the text's end was recognised.")
    items = "".join(f"<li>{note}</li>\n" for note in notes)
    return f'<ul class="notes" aria-label="Notes">\n{items}</ul>\n' if notes else ""


def _pictures(folder: Path, result: PhraseResult) -> str:
    figures = []
    for number, name in enumerate(result.pictures, start=1):
        picture = result.file.with_name(name)
        link = _link(folder, picture)
        piece = f", piece {number} of {len(result.pictures)}" if len(result.pictures) > 1 else ""
        which = f"phrase {result.phrase.line}{piece}"
        figures.append(f"""<figure>
<div class="wide" tabindex="0" role="region" aria-label="Picture of {which}">
<img src="{link}" alt="Speech of {which}. Waveform with its words, mel spectrogram and alignment over
time." loading="lazy" decoding="async"{_size(picture)}>
</div>
<figcaption>Waveform, mel spectrogram, alignment{piece}:
<a href="{link}" download>{escape(name)}</a></figcaption>
</figure>
""")
    return f'<div class="pictures">\n{"".join(figures)}</div>\n' if figures else ""


def _size(picture: Path) -> str:
    # Known sizes keep the page from jumping about while pictures arrive.
    with open(picture, "rb") as file:
        header = file.read(24)
    if header[:8] != b"\x89PNG\r\n\x1a\n" or len(header) < 24:
        return ""
    width, height = struct.unpack(">II", header[16:])
    return f' width="{width}" height="{height}"'


def _definitions(texts: Mapping[str, str], **markup: str) -> str:
    items = {escape(name): escape(text) for name, text in texts.items()} | markup
    lines = "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>\n" for name, value in items.items())
    return f"<dl>\n{lines}</dl>"


def _link(folder: Path, target: Path) -> str:
    # From the name's bytes, since file names need not be text; a colon is quoted too, or it would end a scheme.
    return escape(quote(os.fsencode(os.path.relpath(target, folder))))


def _duration(seconds: float) -> str:
    if round(seconds, 2) < 60:
        return f"{seconds:.2f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s"
