"""Phrases to audio files: the work between a Voice and a folder. Prints nothing: progress goes to callbacks."""

import logging
import select
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

from common.callbacks import ignore, own_errors
from common.errors import Closed, UserError, explained
from common.files import DISK_ERRORS, describe_os_error, locked_folder, write_whole
from common.json_log import JsonLog
from common.phrases import Phrase
from common.wav import SAMPLE_FORMATS
from pipeline.audio import Audio, Resampler
from pipeline.captions import captions
from pipeline.encoders import Encoder, audio_file
from pipeline.identity import identity_of
from pipeline.manifest import Manifest, PhraseResult, configuration_of
from pipeline.pieces import PieceResult, PreparedPhrase, describe, prepare
from pipeline.settings import SpeakSettings
from pipeline.stages import frame_limit
from pipeline.synthesizer import STAGES, Synthesizer
from pipeline.voice import Voice
from pipeline.words import Word, joined_words
from tacotron2.text.cleaners import other_scripts


@dataclass(frozen=True)
class OutputSettings:
    """Where and as what phrases are saved.

    Attributes:
        folder: exists, and can be written, once `speak` begins.
        file: of the only phrase; then the folder gets no log and no manifest.
        to_stdout: not in files: as one stream to standard output, by `stream`.
        suffix: of the file names: audio_{number}_{suffix}.wav.
        format: of SAMPLE_FORMATS (of wav files), or a name of `pipeline.encoders.FORMATS`.
        captions: format of the captions beside each audio file, of CAPTION_FORMATS; the settings' `timestamps` are on.
        page: write an index.html that shows everything; the settings' `keep_pictures` is on.
        log_file: name of the JSON log in the folder.
        strict: stop at the first phrase that can't be spoken.
        resume: leave out what an earlier run with the same settings finished.
    """

    folder: Path
    file: Path | None = None
    to_stdout: bool = False
    suffix: str = ""
    format: str = "float32"
    captions: str | None = None
    page: bool = False
    log_file: str = "nvlog.json"
    strict: bool = False
    resume: bool = False

    def __post_init__(self) -> None:
        """Raises UserError for a name that would leave the folder, or is none."""
        if self.suffix:
            check_plain_name("--suffix", self.suffix)
        check_plain_name("--log-file", self.log_file)

    @property
    def ending(self) -> str:
        """Of audio files."""
        return ".wav" if self.format in SAMPLE_FORMATS else f".{self.format}"

    def audio(self, phrase: Phrase) -> Path:
        """The path of a phrase's audio."""
        return self.file or self.beside("audio", phrase.index, self.ending)

    def beside(self, kind: str, number: int | str, ending: str) -> Path:
        """The path of a phrase's (or a piece's) file of a kind: "audio", "speech"."""
        return self.folder / f"{kind}_{number}_{self.suffix}{ending}"


def check_plain_name(flag: str, name: str) -> None:
    """Raises UserError for a name that would leave its folder, or is none."""
    if Path(name).name != name or name in (".", "..") or "\0" in name:
        raise UserError(f"{flag} {name}: must be a plain file name, without folders; it goes into the output folder")


@dataclass
class Summary:
    """What a run did, and the seconds that the stages of speaking took."""

    results: list[PhraseResult] = field(default_factory=list)
    stages: Mapping[str, float] = field(default_factory=dict)

    @property
    def latency(self) -> float:
        """Seconds of computing what the run has spoken; files and pictures are written beside it."""
        return sum(result.taken for result in self.results if not result.resumed)

    @property
    def spoken(self) -> list[PhraseResult]:
        return [result for result in self.results if result.error is None]

    @property
    def failed(self) -> list[PhraseResult]:
        return [result for result in self.results if result.error is not None]


@dataclass(frozen=True)
class Listener:
    """Callbacks for the progress of a run; each may be left out.

    Attributes:
        on_message: what is running, in the classic's words.
        on_note: what the user should know of a phrase.
        on_start: phrases have been read; gets their number and that of the symbols to speak for them.
        on_progress: gets how many of these symbols are spoken, fractions included.
        on_phrase: a phrase has been saved or has failed.
    """

    on_message: Callable[[str], object] = ignore
    on_note: Callable[[str], object] = ignore
    on_start: Callable[[int, int], object] = ignore
    on_progress: Callable[[float], object] = ignore
    on_phrase: Callable[[PhraseResult], object] = ignore


def speak(
    voice: Voice,
    groups: Iterable[Sequence[Phrase]],
    settings: SpeakSettings,
    output: OutputSettings,
    listener: Listener | None = None,
    parameters: Mapping[str, Any] | None = None,
) -> Summary:
    """Speaks phrases to audio files. A phrase that can't be spoken fails alone, unless `output.strict`.

    Args:
        groups: phrases that are there together: all of a file, or those of standard input that have come.
        parameters: what the log says of the run's settings.

    Raises:
        UserError: the folder is another run's, no phrase has words, or (strict) a phrase can't be spoken.
        Closed: the voice can't work any more.
        OSError: the disk is full or broken; then no phrase could be written.
        Exception: what a callback or iterating `groups` raises, as it is.
        KeyboardInterrupt: as it came, with how many phrases are done; finished files are whole.
    """
    run = _Run(voice, settings, output, listener or Listener())
    if output.file is not None:
        return run.speak(groups)
    with locked_folder(output.folder), JsonLog(output.folder / output.log_file) as log:
        log.log("PARAMETER", parameters or {})
        run.manifest = Manifest(output.folder)
        summary = run.speak(groups)
        log.log(0, _log_entry(summary))
    return summary


class _Run:
    """One run. Records phrases in a manifest, if it has one."""

    def __init__(self, voice: Voice, settings: SpeakSettings, output: OutputSettings, listener: Listener) -> None:
        self.voice = voice
        self.settings = settings
        self.output = output
        self.listener = listener
        self.manifest: Manifest | None = None
        # The lexicon is in the texts as they are read: a new word changes no other phrase.
        self.identity = identity_of(voice.engines, replace(settings, lexicon=None))
        self.summary = Summary()
        self._read = 0  # phrases

    def speak(self, groups: Iterable[Sequence[Phrase]]) -> Summary:
        callbacks = self.listener.on_message, self.listener.on_progress
        with own_errors(), Synthesizer(self.voice.engines, self.settings, *callbacks) as synthesizer:
            try:
                symbols, on_note = self.voice.engines.max_symbols, self.listener.on_note
                for prepared in prepared_groups(self.voice, groups, self.settings, symbols, on_note):
                    self._speak_group(prepared, synthesizer)
            except KeyboardInterrupt as interrupt:
                done = f"{len(self.summary.spoken)} of {self._read} phrases are done, and their files are whole"
                interrupt.args = (f"{done}{'; --resume goes on from there' if self.manifest else ''}",)
                raise
            self.summary.stages = dict(synthesizer.stages.seconds)
        return self.summary

    def _result(self, prepared: PreparedPhrase) -> PhraseResult:
        """A phrase to speak; filled in, if an earlier run has made it."""
        configuration = configuration_of(self.identity, self.output.format, prepared)
        result = PhraseResult(prepared, self.output.audio(prepared.phrase), configuration)
        if self.output.resume and self.manifest is not None:
            self.manifest.resume(result, self.settings.keep_pictures, self._captions(result))
        return result

    def _captions(self, result: PhraseResult) -> Path | None:
        return result.file.with_suffix(f".{self.output.captions}") if self.output.captions else None

    def _speak_group(self, prepared: Sequence[PreparedPhrase], synthesizer: Synthesizer) -> None:
        results = [self._result(phrase) for phrase in prepared]
        if not self._read:
            self._note_files(results)
        self._read += len(results)
        pieces = [piece for result in results if not result.resumed for piece in result.prepared.pieces]
        self.listener.on_start(len(results), sum(len(piece.encoded.ids) for piece in pieces))
        spoken = synthesizer.speak(pieces)
        for result in results:
            self._speak_phrase(result, spoken)

    def _note_files(self, results: Sequence[PhraseResult]) -> None:
        """Says what is in the folder already, and what becomes of it."""
        resumed = sum(result.resumed for result in results)
        replaced = sum(result.file.exists() for result in results)
        others = len({*self.output.folder.glob(f"audio_*{self.output.ending}")} - {result.file for result in results})
        if resumed:
            self.listener.on_note(f"{resumed} of {len(results)} phrases are there and stay")
        elif self.output.file is None and (replaced or others):
            beside = f"; {others} others stay beside them" if others else ""
            kind = self.output.ending.removeprefix(".")
            holds = f"{self.output.folder} holds {kind} files of an earlier run"
            self.listener.on_note(f"{holds}: {replaced} are replaced{beside}")

    def _speak_phrase(self, result: PhraseResult, spoken: Iterator[PieceResult]) -> None:
        """Saves a phrase's files, and takes its pieces from those that are spoken."""
        pieces = (next(spoken) for _ in result.prepared.pieces)
        try:
            if result.prepared.named_error is not None:
                raise result.prepared.named_error
            if not result.resumed:
                self._save(result, pieces)
        except Exception as error:
            result.error = _failure(error, result.phrase)
            if self.output.strict:
                raise result.error from error
            for _ in pieces:
                pass  # what is left of this phrase must not be taken for the next one's
        self.summary.results.append(result)
        self.listener.on_phrase(result)

    def _save(self, result: PhraseResult, pieces: Iterator[PieceResult]) -> None:
        """Writes a phrase's files as its pieces come. Raises the error of a piece that failed."""
        rate = self.settings.sampling_rate or self.voice.sampling_rate
        resample = Resampler(self.voice.sampling_rate, rate) if rate != self.voice.sampling_rate else None
        words: list[tuple[Sequence[Word], float]] = []
        with audio_file(result.file, rate, self.output.format) as file:
            for piece in pieces:
                samples = piece.samples
                file.append(resample(samples, piece.piece.last) if resample else samples)
                words.append((piece.words, len(samples) / self.voice.sampling_rate))
                result.taken += piece.seconds
                if piece.cut:
                    result.cut, result.limit = True, frame_limit(self.voice.engines, piece.piece, self.settings)
                if self.settings.keep_pictures:
                    result.pictures.append(self._save_picture(piece))
        if (path := self._captions(result)) is not None:
            content = captions(path.suffix[1:], result.phrase.text, joined_words(words))
            write_whole(path, content.encode("utf-8", "replace"))
            result.captions = path.name
        result.seconds = file.seconds
        result.size = result.file.stat().st_size
        if self.manifest is not None:
            self.manifest.add(result)

    def _save_picture(self, result: PieceResult) -> str:
        """Draws a piece. Returns the picture's name."""
        # On a machine's first run matplotlib makes a font cache, and logs it in the middle of the progress bar.
        logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)
        from pipeline.plots import save_speech  # takes a while to load

        assert result.alignment is not None
        assert result.mel is not None
        piece = result.piece
        number = piece.phrase.index if piece.number == 0 else f"{piece.phrase.index}.{piece.number}"
        path = self.output.beside("speech", number, ".png")
        samples = result.samples[: result.frames * self.voice.engines.audio.hop_length]  # without the pause
        audio = Audio(samples, self.voice.sampling_rate)
        save_speech(path, audio, result.mel, result.alignment, piece.encoded.text)
        return path.name


def _failure(error: Exception, phrase: Phrase) -> UserError:
    """Why a phrase could not be spoken or written, with its line. Raises what ends all phrases alike."""
    if isinstance(error, Closed) or (isinstance(error, OSError) and error.errno in DISK_ERRORS):
        raise error
    if isinstance(error, OSError):
        return UserError(f"line {phrase.line}: {describe_os_error(error)}")
    return error if isinstance(error, UserError) else explained(error, f"line {phrase.line}")


def prepared_groups(
    voice: Voice | None,
    groups: Iterable[Sequence[Phrase]],
    settings: SpeakSettings,
    max_symbols: int,
    on_note: Callable[[str], object],
) -> Iterator[list[PreparedPhrase]]:
    """Each group's phrases as they will be read. Those without words are skipped, which a note says.

    Without a voice there are no notes that depend on it.

    Raises:
        InvalidInput: at the end, if all phrases were skipped.
        Exception: what `on_note` or iterating `groups` raises, as it is.
    """
    found, skipped = False, None
    for phrases in groups:
        prepared = prepare(phrases, settings, max_symbols)
        for note in _reading_notes(voice, prepared):
            on_note(note)
        spoken = [phrase for phrase in prepared if not phrase.without_words]
        skipped = skipped or next((phrase.named_error for phrase in prepared if phrase.without_words), None)
        if spoken:
            found = True
            yield spoken
    if skipped and not found:
        raise skipped


def _reading_notes(voice: Voice | None, prepared: Sequence[PreparedPhrase]) -> list[str]:
    """What the user should know of phrases: skipped, characters left out or spelled, ARPAbet not learned."""
    arpabet = voice is None or voice.engines.parts["encoder"].metadata.arpabet
    notes = []
    for phrase in prepared:
        if phrase.without_words:
            notes.append(f"line {phrase.phrase.line} is without words: skipped")
        if phrase.dropped:
            listed = " ".join(f"{char!r}" for char in phrase.dropped)
            braces = "; braces hold ARPAbet, as in {HH AW1 S}" if {"{", "}"} & set(phrase.dropped) else ""
            notes.append(f"{describe(phrase.pieces[0])}: left out {listed}, which can't be spoken{braces}")
        if phrase.pieces and (scripts := other_scripts(phrase.reading)):
            listed = " and ".join(f"{count} {script}" for script, count in scripts.items())
            notes.append(f"{describe(phrase.pieces[0])}: {listed} letters are spelled in Latin: the voice is English")
        if not arpabet and any("{" in piece.encoded.text for piece in phrase.pieces):
            why = "was not trained on ARPAbet" if arpabet is False else "doesn't say that it was trained on ARPAbet"
            notes.append(f"{describe(phrase.pieces[0])}: the voice {why}; what stands in braces may be garbled")
    return notes


def stream(
    voice: Voice,
    groups: Iterable[Sequence[Phrase]],
    settings: SpeakSettings,
    out: BinaryIO,
    encoder: Encoder,
    listener: Listener | None = None,
) -> list[PhraseResult]:
    """Writes phrases as one stream of an encoder's format, as they are made, one after the other in order.

    Returns:
        the phrases that failed, or that the frame limit cut; what had been written of them stays.

    Raises:
        OSError: `out` can't be written; BrokenPipeError if nobody reads any more.
        InvalidInput: no phrase has words.
        Closed: the voice can't work any more.
    """
    listener = listener or Listener()
    faulty = []
    for prepared in prepared_groups(voice, groups, settings, voice.engines.max_symbols, listener.on_note):
        for phrase in prepared:
            try:
                if phrase.named_error is not None:
                    raise phrase.named_error
                speech = voice.scheduler().submit(phrase.pieces, settings)
                try:
                    for chunk in speech:
                        _write_all(out, encoder.encode(chunk.samples))
                finally:
                    speech.cancel()
                if cut := [result.piece for result in speech.results if result.cut]:
                    limit = frame_limit(voice.engines, cut[-1], settings)
                    faulty.append(PhraseResult(phrase, cut=True, limit=limit))
            except OSError:  # of the only output there is
                raise
            except Exception as error:
                faulty.append(PhraseResult(phrase, error=_failure(error, phrase.phrase)))
                listener.on_phrase(faulty[-1])
    _write_all(out, encoder.finish())
    return faulty


def _write_all(out: BinaryIO, content: bytes) -> None:
    """Writes to a file that may be unbuffered and non-blocking: then a write takes what there is room for."""
    left = memoryview(content)
    while left:
        written = out.write(left)
        if written is None:
            select.select([], [out], [])
        else:
            left = left[written:]
    out.flush()


def _log_entry(summary: Summary) -> dict[str, float]:
    stages = dict.fromkeys(STAGES, 0.0) | dict(summary.stages)
    return {
        "tacotron2_encoder_latency": stages["encoder"],
        "tacotron2_decoder_latency": stages["decoder"],
        "tacotron2_postnet_latency": stages["postnet"],
        "waveglow_latency": stages["waveglow"],
        "denoiser": stages["denoiser"],
        "latency": summary.latency,
    }
