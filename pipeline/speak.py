"""Phrases to wav files: the work between a Voice and a folder. Prints nothing: progress goes to callbacks."""

import logging
import select
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from common.errors import Closed, UserError, explained
from common.files import DISK_ERRORS, describe_os_error, locked_folder
from common.json_log import JsonLog
from common.phrases import Phrase
from common.wav import SampleFormat, WavWriter, wav_file
from pipeline.audio import Audio, Resampler
from pipeline.manifest import Manifest, PhraseRecord, PieceRecord, configuration_of
from pipeline.page import PageEntry
from pipeline.pieces import PieceResult, PreparedPhrase, describe
from pipeline.settings import SpeakSettings
from pipeline.synthesizer import STAGES
from pipeline.voice import Voice
from tacotron2.text.cleaners import other_scripts

STOP_WORDS = {"gate": "end of speech", "cap": "frame limit"}


@dataclass(frozen=True)
class OutputSettings:
    """Where and as what phrases are saved.

    Attributes:
        folder: exists, and can be written.
        suffix: of the file names: audio_{number}_{suffix}.wav.
        sample_format: of the wav files.
        plots: save a picture of each piece.
        page: save pictures and an index.html that shows everything.
        log_file: name of the JSON log in the folder.
        strict: stop at the first phrase that can't be spoken.
        resume: leave out what an earlier run with the same settings finished.
    """

    folder: Path
    suffix: str = ""
    sample_format: SampleFormat = "float32"
    plots: bool = False
    page: bool = False
    log_file: str = "nvlog.json"
    strict: bool = False
    resume: bool = False

    def __post_init__(self) -> None:
        """Raises UserError for a name that would leave the folder, or is none."""
        if self.suffix:
            check_plain_name("--suffix", self.suffix)
        check_plain_name("--log-file", self.log_file)

    def file(self, kind: str, number: int | str, ending: str) -> Path:
        """The path of a phrase's (or a piece's) file of a kind: "audio", "speech"."""
        return self.folder / f"{kind}_{number}_{self.suffix}{ending}"


def check_plain_name(flag: str, name: str) -> None:
    """Raises UserError for a name that would leave its folder, or is none."""
    if Path(name).name != name or name in (".", "..") or "\0" in name:
        raise UserError(f"{flag} {name}: must be a plain file name, without folders; it goes into the output folder")


@dataclass(frozen=True)
class SpokenPhrase:
    """A phrase whose wav is there.

    Attributes:
        resumed: whether an earlier run had made it.
    """

    phrase: Phrase
    file: Path
    record: PhraseRecord
    resumed: bool = False

    @property
    def seconds(self) -> float:
        """Of audio."""
        return self.record.seconds

    @property
    def taken(self) -> float:
        """Seconds of computing."""
        return sum(piece.taken for piece in self.record.pieces)

    @property
    def cut(self) -> bool:
        """By the frame limit, before the text's end was recognised."""
        return self.record.cut


@dataclass(frozen=True)
class FailedPhrase:
    """A phrase that could not be spoken, and why."""

    phrase: Phrase
    error: UserError


@dataclass(frozen=True)
class Summary:
    """What a run did. `latency` and `stages` are seconds of speaking, pictures and waiting apart."""

    spoken: Sequence[SpokenPhrase]
    failed: Sequence[FailedPhrase]
    latency: float
    stages: Mapping[str, float]


@dataclass(frozen=True)
class Listener:
    """Whom a run tells of its progress; all of it may be left out.

    Attributes:
        on_message: what is running, in the classic's words.
        on_note: what the user should know of a phrase.
        on_start: told the number of symbols to speak.
        on_progress: told the number of symbols whose speech is done, fractions included.
        on_phrase: told of each phrase that is saved or failed.
    """

    on_message: Callable[[str], None] = lambda message: None
    on_note: Callable[[str], None] = lambda note: None
    on_start: Callable[[int], None] = lambda symbols: None
    on_progress: Callable[[float], None] = lambda symbols: None
    on_phrase: Callable[[SpokenPhrase | FailedPhrase], None] = lambda phrase: None


def speak(
    voice: Voice,
    phrases: Sequence[Phrase],
    settings: SpeakSettings,
    output: OutputSettings,
    listener: Listener | None = None,
    parameters: Mapping[str, Any] | None = None,
) -> Summary:
    """Speaks phrases to wav files. A phrase that can't be spoken fails alone, unless `output.strict`.

    Args:
        parameters: what the log says of the run's settings.

    Raises:
        UserError: the folder is another run's, or (strict) a phrase can't be spoken.
        Closed: the voice can't work any more.
        OSError: the disk is full or broken; then no phrase could be written.
        KeyboardInterrupt: as it came, saying how many phrases are done; finished files are whole.
    """
    listener = listener or Listener()
    with locked_folder(output.folder):
        run = _Run(voice, voice.prepare(phrases, settings), settings, output, listener)
        with JsonLog(output.folder / output.log_file) as log:
            log.log("PARAMETER", parameters or {})
            summary = run.speak()
            log.log(0, _log_entry(summary))
    return summary


class _Run:
    """One run into a folder."""

    def __init__(
        self,
        voice: Voice,
        prepared: Sequence[PreparedPhrase],
        settings: SpeakSettings,
        output: OutputSettings,
        listener: Listener,
    ) -> None:
        self.voice = voice
        self.settings = settings
        self.output = output
        self.listener = listener
        self.manifest = Manifest(output.folder)
        # The lexicon is in the texts as they are read: a new word changes no other phrase.
        self.identity = voice.identity(replace(settings, lexicon=None))
        self.jobs = [self._job(phrase) for phrase in prepared]
        self.spoken: list[SpokenPhrase] = []
        self.failed: list[FailedPhrase] = []
        self._drawing = 0.0  # seconds spent on pictures, which are not part of speaking

    def speak(self) -> Summary:
        for note in (*self._notes_on_files(), *reading_notes(self.voice, [job.phrase for job in self.jobs])):
            self.listener.on_note(note)
        pieces = [piece for job in self.jobs if job.whole is None for piece in job.phrase.pieces]
        self.listener.on_start(sum(len(piece.encoded.ids) for piece in pieces))
        synthesizer = self.voice.synthesizer(
            self.settings, on_message=self.listener.on_message, on_progress=self.listener.on_progress
        )
        started = time.perf_counter()
        try:
            spoken = synthesizer.speak_pieces(pieces)
            for job in self.jobs:
                self._speak_phrase(job, spoken)
        except KeyboardInterrupt as interrupt:
            done = f"{len(self.spoken)} of {len(self.jobs)} phrases are done"
            interrupt.args = (f"{done}, and their files are whole; --resume goes on from there",)
            raise
        finally:
            synthesizer.close()
        latency = time.perf_counter() - started - self._drawing
        return Summary(self.spoken, self.failed, latency, dict(synthesizer.stages.seconds))

    def _job(self, phrase: PreparedPhrase) -> "_Job":
        """What is to be done for a phrase, by what is there of it."""
        path = self.output.file("audio", phrase.phrase.index, ".wav")
        configuration = configuration_of(self.identity, self.output.sample_format, phrase)
        whole = None
        if self.output.resume:
            whole = self.manifest.whole(path.name, configuration, self.settings.keep_pictures)
        return _Job(phrase, path, configuration, whole)

    def _notes_on_files(self) -> list[str]:
        """What is in the folder already, and what becomes of it."""
        whole = sum(job.whole is not None for job in self.jobs)
        if whole:
            return [f"{whole} of {len(self.jobs)} phrases are there and stay"]
        replaced = sum(job.path.exists() for job in self.jobs)
        others = len({*self.output.folder.glob("audio_*.wav")} - {job.path for job in self.jobs})
        if not replaced and not others:
            return []
        beside = f"; {others} others stay beside them" if others else ""
        return [f"{self.output.folder} holds wav files of an earlier run: {replaced} are replaced{beside}"]

    def _speak_phrase(self, job: "_Job", spoken: Iterator[PieceResult]) -> None:
        phrase = job.phrase.phrase
        pieces = (next(spoken) for _ in job.phrase.pieces)
        outcome: SpokenPhrase | FailedPhrase
        try:
            if job.phrase.named_error is not None:
                raise job.phrase.named_error
            if job.whole is not None:
                outcome = SpokenPhrase(phrase, job.path, job.whole, resumed=True)
            else:
                outcome = SpokenPhrase(phrase, job.path, self._save(job, pieces))
            self.spoken.append(outcome)
        except Exception as error:
            failure = _failure(error, job.phrase)
            if self.output.strict:
                raise failure from error
            outcome = FailedPhrase(phrase, failure)
            self.failed.append(outcome)
            if job.whole is None:
                deque(pieces, maxlen=0)  # what is left of this phrase must not be taken for the next one's
        self.listener.on_phrase(outcome)

    def _save(self, job: "_Job", spoken: Iterator[PieceResult]) -> PhraseRecord:
        """Writes a phrase's wav from its pieces, as they come. Raises the error of a piece that failed."""
        rate = self.settings.sampling_rate or self.voice.sampling_rate
        pieces: list[PieceRecord] = []
        with wav_file(job.path, rate, sample_format=self.output.sample_format) as wav:
            write = _resampled(wav, self.voice.sampling_rate, rate)
            for one in spoken:
                audio = self.voice.leveled(one)
                pieces.append(self._record(one, audio))
                write(audio.samples, one.piece.last)
        record = PhraseRecord(
            file=job.path.name,
            configuration=job.configuration,
            size=job.path.stat().st_size,
            text=job.phrase.phrase.text,
            reading=job.phrase.reading,
            seconds=wav.seconds,
            pieces=tuple(pieces),
        )
        self.manifest.add(record)
        return record

    def _record(self, spoken: PieceResult, audio: Audio) -> PieceRecord:
        picture = self._save_picture(spoken, audio).name if self.settings.keep_pictures else None
        piece = spoken.piece
        assert spoken.stop_reason is not None
        return PieceRecord(piece.number, piece.encoded.text, spoken.stop_reason, spoken.seconds, picture)

    def _save_picture(self, spoken: PieceResult, audio: Audio) -> Path:
        # On a machine's first run matplotlib makes a font cache, and tells of it in the middle of the progress bar.
        logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)
        from pipeline.plots import save_speech  # takes a while to load

        started = time.perf_counter()
        assert spoken.alignment is not None
        assert spoken.mel is not None
        piece = spoken.piece
        number = piece.phrase.index if piece.number == 0 else f"{piece.phrase.index}.{piece.number}"
        path = self.output.file("speech", number, ".png")
        save_speech(path, audio, spoken.mel, spoken.alignment, piece.encoded.text)
        self._drawing += time.perf_counter() - started
        return path


@dataclass(frozen=True)
class _Job:
    """A phrase to save. `whole` is the record of its wav, if that is there."""

    phrase: PreparedPhrase
    path: Path
    configuration: str
    whole: PhraseRecord | None


def _failure(error: Exception, phrase: PreparedPhrase) -> UserError:
    """Why a phrase could not be spoken or written, naming its line. Raises what ends all phrases alike."""
    if isinstance(error, Closed) or (isinstance(error, OSError) and error.errno in DISK_ERRORS):
        raise error
    if isinstance(error, OSError):
        return UserError(f"line {phrase.phrase.line}: {describe_os_error(error)}")
    return error if isinstance(error, UserError) else explained(error, f"line {phrase.phrase.line}")


def _resampled(wav: WavWriter, from_rate: int, to_rate: int) -> Callable[[np.ndarray, bool], None]:
    """What appends samples to a wav file, at another rate if need be; told which are the last."""
    if from_rate == to_rate:
        return lambda samples, last: wav.append(samples)
    resampler = Resampler(from_rate, to_rate)
    return lambda samples, last: wav.append(resampler(samples, last))


def reading_notes(voice: Voice, prepared: Sequence[PreparedPhrase]) -> list[str]:
    """What the user should know of how phrases will be read: characters left out or spelled, ARPAbet not learned."""
    arpabet = voice.engines.parts["encoder"].metadata.arpabet
    notes = []
    for phrase in prepared:
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


def stream_pcm(
    voice: Voice, phrases: Sequence[Phrase], settings: SpeakSettings, out: BinaryIO, listener: Listener | None = None
) -> Sequence[FailedPhrase]:
    """Writes phrases as 16-bit little-endian mono PCM, as it is made, one after the other in order.

    Returns:
        the phrases that failed; what had been written of them stays.

    Raises:
        OSError: `out` can't be written; BrokenPipeError if nobody reads any more.
        Closed: the voice can't work any more.
    """
    listener = listener or Listener()
    prepared = voice.prepare(phrases, settings)
    for note in reading_notes(voice, prepared):
        listener.on_note(note)
    failed = []
    for phrase in prepared:
        try:
            if phrase.named_error is not None:
                raise phrase.named_error
            speech = voice.scheduler().submit(phrase.pieces, settings)
            try:
                for chunk in speech:
                    _write_all(out, chunk.pcm16())
            finally:
                speech.cancel()
        except OSError:  # of the only output there is
            raise
        except Exception as error:
            failed.append(FailedPhrase(phrase.phrase, _failure(error, phrase)))
            listener.on_phrase(failed[-1])
    return failed


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


def page_entries(summary: Summary) -> list[PageEntry]:
    """The phrases of a run as its page shows them."""
    return [_entry(spoken) for spoken in summary.spoken]


def _entry(spoken: SpokenPhrase) -> PageEntry:
    record = spoken.record
    notes = []
    if len(record.pieces) > 1:
        notes.append(f"Long text: spoken in {len(record.pieces)} pieces and joined.")
    if spoken.cut:
        notes.append("The decoder reached its frame limit before the text's end was recognised.")
    folder = spoken.file.parent
    return PageEntry(
        line=spoken.phrase.line,
        text=record.text,
        reading=" ".join(piece.text for piece in record.pieces),
        audio=spoken.file,
        seconds=spoken.seconds,
        stop_reason=STOP_WORDS["cap" if spoken.cut else "gate"],
        pictures=tuple(folder / piece.picture for piece in record.pieces if piece.picture is not None),
        notes=tuple(notes),
    )


def details(voice: Voice, settings: SpeakSettings) -> dict[str, str]:
    """What was the same for all phrases of a run, for its page."""
    engines = voice.engines
    sigma = settings.sigma if settings.sigma is not None else engines.sigma
    return {
        "Voice": voice.name or "not named by its checkpoint",
        "Engines": ", ".join(engine.name for engine in engines.parts.values()),
        "Precision": engines.precision.upper(),
        "Sigma": f"{sigma:g}",
        "Seed": str(settings.seed),
        "Speed": f"{settings.speed:g}",
        "Denoiser": f"{settings.denoise:g}" if settings.denoise else "off",
        "Made": datetime.now().astimezone().isoformat(timespec="seconds"),
    }


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
