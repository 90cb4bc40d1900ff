"""Phrases to wav files: the work between a Voice and a folder. Prints nothing: progress goes to callbacks."""

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from common.errors import UserError
from common.files import locked_folder
from common.json_log import JsonLog
from common.phrases import Phrase
from common.wav import SampleFormat, WavWriter, wav_file
from pipeline.audio import Resampler
from pipeline.page import PageEntry
from pipeline.pieces import PreparedPhrase, describe
from pipeline.settings import SpeakSettings
from pipeline.synthesizer import STAGES, FailedPiece, SpokenPiece
from pipeline.voice import Voice

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
    """A phrase that has been saved. Seconds of audio, and of computing."""

    phrase: Phrase
    reading: str
    file: Path
    seconds: float
    taken: float
    cut: bool  # by the frame limit, before the text's end was recognised
    pieces: int
    pictures: tuple[Path, ...] = ()


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
    def __init__(
        self,
        voice: Voice,
        prepared: Sequence[PreparedPhrase],
        settings: SpeakSettings,
        output: OutputSettings,
        listener: Listener,
    ) -> None:
        self.voice = voice
        self.prepared = prepared
        self.settings = settings
        self.output = output
        self.listener = listener
        self.spoken: list[SpokenPhrase] = []
        self.failed: list[FailedPhrase] = []
        self._drawing = 0.0  # seconds spent on pictures, which are not part of speaking

    def speak(self) -> Summary:
        for note in reading_notes(self.voice, self.prepared):
            self.listener.on_note(note)
        pieces = [piece for phrase in self.prepared for piece in phrase.pieces]
        self.listener.on_start(sum(len(piece.encoded.ids) for piece in pieces))
        synthesizer = self.voice.synthesizer(
            self.settings, on_message=self.listener.on_message, on_progress=self.listener.on_progress
        )
        started = time.perf_counter()
        try:
            spoken = synthesizer.speak_pieces(pieces)
            for phrase in self.prepared:
                self._speak_phrase(phrase, spoken)
        except KeyboardInterrupt as interrupt:
            interrupt.args = (self._interruption(),)
            raise
        finally:
            synthesizer.close()
        latency = time.perf_counter() - started - self._drawing
        return Summary(self.spoken, self.failed, latency, dict(synthesizer.stages.seconds))

    def _interruption(self) -> str:
        return f"{len(self.spoken)} of {len(self.prepared)} phrases are done, and their files are whole"

    def _speak_phrase(self, phrase: PreparedPhrase, spoken: Iterator[SpokenPiece | FailedPiece]) -> None:
        outcome: SpokenPhrase | FailedPhrase
        try:
            if phrase.error is not None:
                raise phrase.error
            outcome = self._save(phrase, spoken)
        except UserError as error:
            problem = UserError(f"line {phrase.phrase.line}: {error}") if error is phrase.error else error
            if self.output.strict:
                raise problem from error
            outcome = FailedPhrase(phrase.phrase, problem)
            self.failed.append(outcome)
        else:
            self.spoken.append(outcome)
        self.listener.on_phrase(outcome)

    def _save(self, phrase: PreparedPhrase, spoken: Iterator[SpokenPiece | FailedPiece]) -> SpokenPhrase:
        """Takes a phrase's pieces as they come and writes its wav. Raises UserError if one of them failed."""
        path = self.output.file("audio", phrase.phrase.index, ".wav")
        rate = self.settings.sampling_rate or self.voice.sampling_rate
        error: UserError | None = None
        taken, cut = 0.0, False
        pictures: list[Path] = []
        with wav_file(path, rate, sample_format=self.output.sample_format) as wav:
            write = _resampled(wav, self.voice.sampling_rate, rate)
            for piece in phrase.pieces:
                one = next(spoken)
                if isinstance(one, FailedPiece):
                    error = error or one.error
                    continue
                write(self.voice.leveled(one).samples, piece.last)
                taken += one.seconds
                cut = cut or one.stop_reason == "cap"
                if self.settings.keep_pictures:
                    pictures += self._save_pictures(one)
            if error is not None:
                raise error
        return SpokenPhrase(
            phrase.phrase, phrase.reading, path, wav.seconds, taken, cut, len(phrase.pieces), tuple(pictures)
        )

    def _save_pictures(self, spoken: SpokenPiece) -> list[Path]:
        # On a machine's first run matplotlib makes a font cache, and tells of it in the middle of the progress bar.
        logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)
        from pipeline.plots import save_alignment, save_mel  # takes a while to load

        started = time.perf_counter()
        assert spoken.alignment is not None
        assert spoken.mel is not None
        piece = spoken.piece
        number = piece.phrase.index if piece.number == 0 else f"{piece.phrase.index}.{piece.number}"
        alignment, mel = (self.output.file(kind, number, ".png") for kind in ("alignment", "mel"))
        save_alignment(alignment, spoken.alignment, piece.encoded.text)
        save_mel(mel, spoken.mel, self.voice.engines.audio.hop_seconds)
        self._drawing += time.perf_counter() - started
        return [alignment, mel]


def _resampled(wav: WavWriter, from_rate: int, to_rate: int) -> Callable[[np.ndarray, bool], None]:
    """What appends samples to a wav file, at another rate if need be; told which are the last."""
    if from_rate == to_rate:
        return lambda samples, last: wav.append(samples)
    resampler = Resampler(from_rate, to_rate)
    return lambda samples, last: wav.append(resampler(samples, last))


def reading_notes(voice: Voice, prepared: Sequence[PreparedPhrase]) -> list[str]:
    """What the user should know of how phrases will be read: characters left out, ARPAbet that the voice can't say."""
    arpabet = voice.engines.engines["encoder"].metadata.arpabet
    notes = []
    for phrase in prepared:
        if phrase.dropped:
            listed = " ".join(f"{char!r}" for char in phrase.dropped)
            notes.append(f"{describe(phrase.pieces[0])}: left out {listed}, which can't be spoken")
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
        BrokenPipeError: nobody reads any more.
    """
    listener = listener or Listener()
    prepared = voice.prepare(phrases, settings)
    for note in reading_notes(voice, prepared):
        listener.on_note(note)
    failed = []
    for phrase in prepared:
        try:
            if phrase.error is not None:
                raise UserError(f"line {phrase.phrase.line}: {phrase.error}") from phrase.error
            speech = voice.scheduler().submit(phrase.pieces, settings)
            try:
                for chunk in speech:
                    out.write(chunk.pcm16())
                    out.flush()
            finally:
                speech.cancel()
        except UserError as error:
            failed.append(FailedPhrase(phrase.phrase, error))
            listener.on_phrase(failed[-1])
    return failed


def page_entries(summary: Summary) -> list[PageEntry]:
    """The phrases of a run as its page shows them."""
    return [_entry(spoken) for spoken in summary.spoken]


def _entry(spoken: SpokenPhrase) -> PageEntry:
    notes = []
    if spoken.pieces > 1:
        notes.append(f"Long text: spoken in {spoken.pieces} pieces and joined.")
    if spoken.cut:
        notes.append("The decoder reached its frame limit before the text's end was recognised.")
    alignment, mel = spoken.pictures[:2] if spoken.pictures else (None, None)
    return PageEntry(
        index=spoken.phrase.index,
        text=spoken.phrase.text,
        audio=spoken.file,
        seconds=spoken.seconds,
        stop_reason=STOP_WORDS["cap" if spoken.cut else "gate"],
        alignment=alignment,
        mel=mel,
        notes=tuple(notes),
    )


def details(voice: Voice, settings: SpeakSettings) -> dict[str, str]:
    """What was the same for all phrases of a run, for its page."""
    engines = voice.engines
    sigma = settings.sigma if settings.sigma is not None else engines.sigma
    return {
        "Voice": voice.name or "not named by its checkpoint",
        "Engines": ", ".join(engine.name for engine in engines.engines.values()),
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
