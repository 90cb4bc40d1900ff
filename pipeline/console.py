"""What speaking looks like in a terminal: progress, the closing table, and how a script ends. For scripts alone."""

import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO, TextIO

from tqdm import tqdm

from common.errors import UserError
from common.phrases import Phrase
from common.table import format_table, shorten
from pipeline.page import write_page
from pipeline.pieces import prepare
from pipeline.settings import SpeakSettings, WorkSettings
from pipeline.speak import (
    STOP_WORDS,
    FailedPhrase,
    Listener,
    OutputSettings,
    SpokenPhrase,
    Summary,
    details,
    page_entries,
    speak,
    stream_pcm,
)
from pipeline.voice import Voice

EXIT_CUT = 3  # everything was spoken, but the frame limit cut a phrase
NAMED = 5  # failed phrases named in one message
LINE_EVERY = 30.0  # seconds between lines of progress where there is no terminal


@dataclass(frozen=True)
class Request:
    """What a script was asked to speak, checked before any model is loaded.

    Attributes:
        notes: what the user should know of the phrases.
        output: None streams PCM to standard output; everything else then goes to standard error.
        parameters: what the log says of the run's flags.
    """

    phrases: Sequence[Phrase]
    notes: Sequence[str]
    settings: SpeakSettings
    work: WorkSettings
    output: OutputSettings | None
    parameters: Mapping[str, Any]

    @property
    def messages(self) -> TextIO:
        return sys.stdout if self.output is not None else sys.stderr


def show_text(request: Request) -> None:
    """Prints how each line will be read, without any model.

    Raises:
        UserError: lines that can't be spoken, which it names.
    """
    failed = []
    for phrase in prepare(request.phrases, request.settings, request.work.max_symbols):
        if phrase.named_error is not None:
            failed.append(FailedPhrase(phrase.phrase, phrase.named_error))
        else:
            print(f"{phrase.phrase.line}: {' '.join(piece.encoded.text for piece in phrase.pieces)}")
    _raise_failed(failed, len(request.phrases))


def speak_request(voice: Voice, request: Request) -> None:
    """Speaks a request with progress and reports it.

    Raises:
        UserError: phrases that could not be spoken, named; the others are.
        SystemExit: EXIT_CUT, where phrases were cut by the frame limit.
    """
    for note in request.notes:
        print(f"Note: {note}", file=request.messages)
    if request.output is None:
        _stream(voice, request)
        return
    with progress() as listener:
        summary = speak(voice, request.phrases, request.settings, request.output, listener, request.parameters)
    print(summary_table(summary))
    if request.output.page:
        page = request.output.folder / "index.html"
        write_page(page, "Spoken phrases", page_entries(summary), details(voice, request.settings))
        print(f"Page: {page}")
    _raise_failed(summary.failed, len(request.phrases))
    cut = [spoken.phrase for spoken in summary.spoken if spoken.cut]
    if cut:
        print(f"Warning: cut by the frame limit: {_lines(cut)}", file=sys.stderr)
        sys.exit(EXIT_CUT)


def _stream(voice: Voice, request: Request) -> None:
    listener = Listener(on_note=lambda note: print(f"Note: {note}", file=sys.stderr))
    with _raw_stdout() as out:
        try:
            failed = stream_pcm(voice, request.phrases, request.settings, out, listener)
        except BrokenPipeError:  # whoever listens has heard enough
            return
    _raise_failed(failed, len(request.phrases))


@contextmanager
def _raw_stdout() -> Iterator[BinaryIO]:
    """Standard output for bytes, whose end is told (see `common.cli.run`, where it is not)."""
    with open(os.dup(sys.stdout.fileno()), "wb", buffering=0) as out:
        yield out


def summary_table(summary: Summary) -> str:
    rows = [
        (
            str(spoken.phrase.line),
            shorten(spoken.phrase.text, 48),
            f"{spoken.seconds:.2f}",
            f"{spoken.taken:.2f}",
            STOP_WORDS["cap" if spoken.cut else "gate"],
            str(spoken.file),
        )
        for spoken in summary.spoken
    ]
    audio = sum(spoken.seconds for spoken in summary.spoken if not spoken.resumed)
    rate = f": {audio / summary.latency:.2f} s of audio per second" if summary.latency else ""
    table = format_table(["Line", "Phrase", "Audio s", "Taken s", "Stopped by", "File"], rows, "rlrrll")
    return f"{table}\n{audio:.2f} s of audio in {summary.latency:.2f} s{rate}"


@contextmanager
def progress() -> Iterator[Listener]:
    """A listener that prints messages and notes, and shows a bar; a line now and then where there is no terminal."""
    if sys.stderr.isatty():
        with tqdm(total=0, leave=False, bar_format="{l_bar}{bar}| {elapsed}<{remaining}") as bar:
            yield Listener(
                on_message=tqdm.write,
                on_note=lambda note: tqdm.write(f"Note: {note}"),
                on_start=bar.reset,
                on_progress=lambda symbols: _advance(bar, symbols),
                on_phrase=lambda phrase: _tell_failure(phrase, tqdm.write),
            )
        return
    lines = _Lines()
    yield Listener(
        on_message=print,
        on_note=lambda note: print(f"Note: {note}"),
        on_start=lines.start,
        on_progress=lines.progress,
        on_phrase=lines.phrase,
    )


def _advance(bar: tqdm, symbols: float) -> None:
    bar.n = min(int(symbols), bar.total)
    bar.refresh()


def _tell_failure(phrase: SpokenPhrase | FailedPhrase, write: Callable[[str], object]) -> None:
    if isinstance(phrase, FailedPhrase):
        write(f"Not spoken: {phrase.error}")


class _Lines:
    """A line of progress on standard error every LINE_EVERY seconds."""

    def __init__(self) -> None:
        self._total = 0
        self._phrases = 0
        self._started = self._told = time.monotonic()

    def start(self, symbols: int) -> None:
        self._total = symbols
        self._started = self._told = time.monotonic()

    def phrase(self, phrase: SpokenPhrase | FailedPhrase) -> None:
        self._phrases += 1
        _tell_failure(phrase, print)

    def progress(self, symbols: float) -> None:
        now = time.monotonic()
        if now - self._told < LINE_EVERY or not 0 < symbols < self._total:
            return
        self._told = now
        left = (now - self._started) * (self._total - symbols) / symbols
        share = 100 * symbols / self._total
        print(f"{self._phrases} phrases done, {share:.0f} % of the text, about {left:.0f} s left", file=sys.stderr)


def _raise_failed(failed: Sequence[FailedPhrase], phrases: int) -> None:
    """Raises UserError, naming them, if phrases failed."""
    if not failed:
        return
    if len(failed) == 1:
        raise UserError(str(failed[0].error))
    named = _lines([one.phrase for one in failed])
    raise UserError(f"{len(failed)} of {phrases} phrases could not be spoken ({named}): {failed[0].error}")


def _lines(phrases: Sequence[Phrase]) -> str:
    numbers = ", ".join(str(phrase.line) for phrase in phrases[:NAMED])
    more = f" and {len(phrases) - NAMED} more" if len(phrases) > NAMED else ""
    return f"line{'s' if len(phrases) > 1 else ''} {numbers}{more}"
