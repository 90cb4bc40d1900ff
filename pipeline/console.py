"""Speaking in a terminal: progress, the closing table, and how a script ends. For scripts alone."""

import os
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TextIO

from tqdm import tqdm

from common.errors import UserError
from common.files import output_folder
from common.phrases import Phrase
from common.table import format_table, shorten
from pipeline.encoders import FORMATS, make_encoder
from pipeline.manifest import PhraseResult
from pipeline.page import details, write_page
from pipeline.settings import SpeakSettings, WorkSettings
from pipeline.speak import Listener, OutputSettings, Summary, prepared_groups, speak, stream
from pipeline.voice import Voice

EXIT_CUT = 3  # everything was spoken, but the frame limit cut a phrase
NAMED = 5  # failed phrases named in one message
LINE_EVERY = 30.0  # seconds between lines of progress where there is no terminal


@dataclass(frozen=True)
class Request:
    """What a script was asked to speak, checked before any model is loaded.

    Attributes:
        groups: phrases that are there together; standard input's come as its lines do.
        notes: what the user should know of the phrases.
        output: where to; if to standard output, all else goes to standard error.
        parameters: what the log says of the run's flags.
    """

    groups: Iterable[Sequence[Phrase]]
    notes: Sequence[str]
    settings: SpeakSettings
    work: WorkSettings
    output: OutputSettings
    parameters: Mapping[str, Any]

    @property
    def messages(self) -> TextIO:
        return sys.stderr if self.output.to_stdout else sys.stdout


def show_text(request: Request) -> None:
    """Prints how each line will be read, without any model; notes go to standard error.

    Raises:
        UserError: lines that can't be spoken, which it names; or no line has words.
    """
    lines, failed = 0, []
    for prepared in prepared_groups(None, request.groups, request.settings, request.work.max_symbols, _note):
        for phrase in prepared:
            lines += 1
            result = PhraseResult(phrase, error=phrase.named_error)
            if result.error is not None:
                failed.append(result)
            else:
                print(f"{result.phrase.line}: {result.spoken_text}")
    _raise_failed(failed, lines)


def speak_request(voice: Voice, request: Request) -> None:
    """Speaks a request with progress and reports it.

    Raises:
        UserError: the folder can't be written, or no phrase has words; or phrases that could not be spoken, named; the
            others are.
        SystemExit: EXIT_CUT, where phrases were cut by the frame limit.
    """
    for note in request.notes:
        print(f"Note: {note}", file=request.messages)
    output = request.output
    if output.to_stdout:
        _stream(voice, request)
        return
    output_folder(output.folder)
    with progress() as listener:
        summary = speak(voice, request.groups, request.settings, output, listener, request.parameters)
    print(summary_table(summary))
    if output.page:
        page = output.folder / "index.html"
        write_page(page, "Spoken phrases", summary.spoken, details(voice, request.settings))
        print(f"Page: {page}")
    _raise_failed(summary.failed, len(summary.results))
    _exit_if_cut(summary.spoken)


def _note(note: str) -> None:
    print(f"Note: {note}", file=sys.stderr)


def _exit_if_cut(results: Iterable[PhraseResult]) -> None:
    cut: dict[str, list[PhraseResult]] = {}
    for result in results:
        if result.cut:
            cut.setdefault(result.limit, []).append(result)
    for limit, of_limit in cut.items():
        named = f" ({limit})" if limit else ""
        print(f"Warning: cut by the frame limit{named}: {_lines(of_limit)}", file=sys.stderr)
    if cut:
        sys.exit(EXIT_CUT)


def _stream(voice: Voice, request: Request) -> None:
    encoder = make_encoder(FORMATS[request.output.format], request.settings.sampling_rate or voice.sampling_rate)
    listener = Listener(
        on_note=_note,
        on_phrase=lambda result: print(f"Not spoken: {result.error}", file=sys.stderr),
    )
    # A file of its own: Python flushes standard output when it ends, and its reader may be gone by then.
    with open(os.dup(sys.stdout.fileno()), "wb", buffering=0) as out:
        faulty = stream(voice, request.groups, request.settings, out, encoder, listener)
    _raise_failed([result for result in faulty if result.error is not None])
    _exit_if_cut(faulty)


def summary_table(summary: Summary) -> str:
    rows = [
        (
            str(result.phrase.line),
            shorten(result.phrase.text, 48),
            f"{result.seconds:.2f}",
            "earlier" if result.resumed else f"{result.taken:.2f}",
            result.stopped_by,
            str(result.file),
        )
        for result in summary.spoken
    ]
    audio = sum(result.seconds for result in summary.spoken if not result.resumed)
    rate = f": {audio / summary.latency:.2f} s of audio per second" if summary.latency else ""
    table = format_table(["Line", "Phrase", "Audio s", "Taken s", "Stopped by", "File"], rows, "rlrrll")
    return f"{table}\n{audio:.2f} s of audio in {summary.latency:.2f} s{rate}"


@contextmanager
def progress() -> Iterator[Listener]:
    """A listener that prints messages and notes, and shows a bar; a line now and then where there is no terminal."""
    with tqdm(total=0, leave=False, disable=None, bar_format="{l_bar}{bar}| {elapsed}<{remaining}") as bar:
        shown = _Progress(bar)
        yield Listener(
            on_message=tqdm.write,
            on_note=lambda note: tqdm.write(f"Note: {note}"),
            on_start=shown.start,
            on_progress=shown.advance,
            on_phrase=shown.phrase,
        )


class _Progress:
    """How far a run is: a bar, or where that is disabled a line on standard error every LINE_EVERY seconds."""

    def __init__(self, bar: tqdm) -> None:
        self._bar = bar
        self._phrases = 0
        self._done = 0  # phrases
        self._started = self._reported = time.monotonic()

    def start(self, phrases: int, symbols: int) -> None:
        self._bar.reset(symbols)
        self._phrases += phrases
        self._started = self._reported = time.monotonic()

    def phrase(self, result: PhraseResult) -> None:
        self._done += 1
        if result.error is not None:
            tqdm.write(f"Not spoken: {result.error}")

    def advance(self, symbols: float) -> None:
        self._bar.n = min(int(symbols), self._bar.total)
        self._bar.refresh()
        now = time.monotonic()
        if not self._bar.disable or now - self._reported < LINE_EVERY or not 0 < symbols < self._bar.total:
            return
        self._reported = now
        left = (now - self._started) * (self._bar.total - symbols) / symbols
        phrases = f"{self._done} of {self._phrases} phrases done, " if self._phrases > 1 else ""
        print(f"{phrases}{100 * symbols / self._bar.total:.0f} % of the text, about {left:.0f} s left", file=sys.stderr)


def _raise_failed(failed: Sequence[PhraseResult], phrases: int = 0) -> None:
    """Raises UserError, naming them, if phrases failed. `phrases` is the number of all, where that is known."""
    if not failed:
        return
    if len(failed) == 1:
        raise UserError(str(failed[0].error))
    share = f"{len(failed)} of {phrases}" if phrases else f"{len(failed)}"
    raise UserError(f"{share} phrases could not be spoken ({_lines(failed)}): {failed[0].error}")


def _lines(results: Sequence[PhraseResult]) -> str:
    numbers = ", ".join(str(result.phrase.line) for result in results[:NAMED])
    more = f" and {len(results) - NAMED} more" if len(results) > NAMED else ""
    return f"line{'s' if len(results) > 1 else ''} {numbers}{more}"
