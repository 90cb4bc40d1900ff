"""From a script's flags to wav files: what `trt/inference_trt.py` and `inference.py` share."""

import argparse
import logging
import math
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import groupby
from pathlib import Path

import numpy as np
from tqdm import tqdm

from common.cli import ArgumentParser
from common.engine import Engine
from common.errors import UserError
from common.files import output_folder
from common.json_log import JsonLog
from common.metadata import Part
from common.phrases import Phrase, read_phrases
from common.table import format_table, shorten
from common.wav import wav_file
from pipeline.flags import check_audio_flags
from pipeline.page import PageEntry, write_page
from pipeline.synthesizer import (
    MAX_SYMBOLS,
    STAGES,
    Piece,
    SpokenPiece,
    SynthesisOptions,
    Synthesizer,
    describe,
    prepare,
)
from tacotron2.decoder import StopRule
from waveglow.denoiser import DEFAULT_STRENGTH, Denoiser
from waveglow.vocoder import CONTEXT

NOTHING = np.empty(0, np.float32)
STOP_WORDS = {"gate": "end of speech", "cap": "frame limit"}


def add_speak_flags(parser: ArgumentParser) -> None:
    """Adds the flags of every script that speaks phrases."""
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("-i", "--input", help="text file with a phrase a line, or - for standard input")
    source.add_argument("--text", action="append", help="a phrase to speak; may be given several times")
    parser.add_argument("-o", "--output", type=Path, default=Path("output"), help="folder for the wav files")
    voice = parser.add_argument_group("voice")
    voice.add_argument("--seed", type=int, default=0, help="seed of the random numbers: the same one, the same audio")
    voice.add_argument("-s", "--sigma-infer", type=float, help="standard deviation of WaveGlow's noise [the model's]")
    voice.add_argument("--denoise", action="store_true", help="take WaveGlow's own hum out of the audio")
    voice.add_argument(
        "-d", "--denoising-strength", type=float, default=DEFAULT_STRENGTH, help="how much of the hum to take out"
    )
    voice.add_argument("--gate-threshold", type=float, default=StopRule.gate_threshold, help="ends a phrase (0 to 1)")
    voice.add_argument(
        "--max-decoder-steps", type=int, default=StopRule.max_decoder_steps, help="most mel frames of a piece"
    )
    voice.add_argument("--no-final-period", action="store_true", help="leave lines without end punctuation as they are")
    voice.add_argument("-sr", "--sampling-rate", type=int, help="in Hz; must agree with the model's [the model's]")
    voice.add_argument("--stft-hop-length", type=int, help="in samples; must agree with the model's [the model's]")
    work = parser.add_argument_group("work")
    work.add_argument("--batch-size", type=int, default=SynthesisOptions.batch_size, help="phrases decoded together")
    work.add_argument("--max-symbols", type=int, default=MAX_SYMBOLS, help="longer text is split and joined")
    work.add_argument(
        "--window", type=int, help="mel frames vocoded at a time: less takes less memory [what suits the device]"
    )
    work.add_argument("--no-cuda-graph", action="store_true", help="step the decoder from the host, on a GPU too")
    results = parser.add_argument_group("results")
    results.add_argument("--plots", action="store_true", help="save pictures of the alignment and the mel spectrogram")
    results.add_argument("--page", action="store_true", help="write index.html with players and pictures")
    results.add_argument("--log-file", default="nvlog.json", help="JSON log, in the output folder")


@dataclass(frozen=True)
class Request:
    """What the flags ask for, checked."""

    phrases: list[Phrase]
    notes: list[str]
    options: SynthesisOptions
    folder: Path
    name: str  # of the wav files, with {i} for the phrase's number


def read_request(args: argparse.Namespace, name: str) -> Request:
    """Checks the flags and reads the phrases, before any model is loaded. Raises UserError."""
    for flag, value, low, high in (
        ("--seed", args.seed, 0, 2**63),
        ("-s/--sigma-infer", args.sigma_infer, 0, 10),
        ("-d/--denoising-strength", args.denoising_strength, 0, 1000),
        ("--gate-threshold", args.gate_threshold, 1e-6, 1 - 1e-6),
        ("--max-decoder-steps", args.max_decoder_steps, 1, 100_000),
        ("--batch-size", args.batch_size, 1, 1024),
        ("--max-symbols", args.max_symbols, 16, 2048),
        ("--window", args.window, 4 * CONTEXT, 100_000),
    ):
        if value is not None and not low <= value <= high:  # a NaN is not between anything
            raise UserError(f"{flag} {value}: must be between {low:g} and {high:g}")
    notes: list[str] = []
    if args.text is not None:
        phrases = [Phrase(i, text.strip()) for i, text in enumerate(args.text)]
        empty = [phrase.index for phrase in phrases if not phrase.text]
        if empty:
            raise UserError(f"--text number {empty[0]} is empty; give it something to say")
    else:
        phrases = read_phrases(None if args.input == "-" else Path(args.input), notes)
    options = SynthesisOptions(
        seed=args.seed,
        sigma=args.sigma_infer,
        stop=StopRule(args.gate_threshold, args.max_decoder_steps),
        batch_size=args.batch_size,
        max_symbols=args.max_symbols,
        window=args.window,
        cuda_graph=not args.no_cuda_graph,
        final_period=not args.no_final_period,
        keep_pictures=args.plots or args.page,
    )
    return Request(phrases, notes, options, output_folder(args.output), name)


def speak(
    args: argparse.Namespace, request: Request, engines: Mapping[Part, Engine], denoiser: Denoiser | None = None
) -> None:
    """Speaks a request to wav files, with a progress bar, and reports: table, log, pictures and page as asked for."""
    check_audio_flags(args, engines["waveglow"].metadata.audio)
    synthesizer = Synthesizer(engines, request.options, denoiser)
    prepared = prepare(request.phrases, request.options, synthesizer.max_symbols)
    for note in request.notes + dropped_characters(prepared):
        print(f"Note: {note}")
    total = sum(len(piece.encoded.ids) for pieces in prepared for piece in pieces)
    started = time.perf_counter()
    entries: list[PageEntry] = []
    seconds: list[float] = []
    bar_format = "{l_bar}{bar}| {elapsed}<{remaining}"
    with ExitStack() as stack:
        log = stack.enter_context(JsonLog(request.folder / args.log_file))
        log.log("PARAMETER", {name: str(v) if isinstance(v, Path) else v for name, v in vars(args).items()})
        bar = stack.enter_context(tqdm(total=total, unit="symbol", disable=None, leave=False, bar_format=bar_format))
        synthesizer.on_message = tqdm.write
        synthesizer.on_progress = lambda symbols: _advance(bar, symbols)
        for index, spoken in groupby(synthesizer.speak_pieces(prepared), key=lambda s: s.piece.phrase.index):
            path = request.folder / f"audio_{request.name.format(i=index)}.wav"
            pieces: list[SpokenPiece] = []
            with wav_file(path, synthesizer.audio_config.sampling_rate) as wav:
                for piece in spoken:
                    wav.append(piece.audio)
                    if request.options.keep_pictures:
                        drawing = time.perf_counter()
                        _save_pictures(request, piece, synthesizer.audio_config.hop_seconds)
                        started += time.perf_counter() - drawing  # pictures are not part of speaking
                    pieces.append(replace(piece, audio=NOTHING, mel=None, alignment=None))  # a view would keep it all
            entries.append(_entry(request, path, pieces, wav.seconds))
            seconds.append(sum(piece.seconds for piece in pieces))
        latency = time.perf_counter() - started
        stages = dict.fromkeys(STAGES, 0.0) | synthesizer.stages.seconds
        log.log(
            0,
            {
                "tacotron2_encoder_latency": stages["encoder"],
                "tacotron2_decoder_latency": stages["decoder"],
                "tacotron2_postnet_latency": stages["postnet"],
                "waveglow_latency": stages["waveglow"],
                "denoiser": stages["denoiser"],
                "latency": latency,
            },
        )
    _report(request, entries, seconds, latency)
    if args.page:
        page = request.folder / "index.html"
        write_page(page, "Spoken phrases", entries, _details(synthesizer))
        print(f"Page: {page}")


def dropped_characters(prepared: Sequence[Sequence[Piece]]) -> list[str]:
    """Notes that name, phrase by phrase, the characters that can't be spoken and were left out."""
    notes = []
    for pieces in prepared:
        dropped = dict.fromkeys(char for piece in pieces for char in piece.encoded.dropped)
        if dropped:
            listed = " ".join(f"{char!r}" for char in dropped)
            notes.append(f"{describe(pieces[0])}: left out {listed}, which can't be spoken")
    return notes


def _advance(bar: tqdm, symbols: float) -> None:
    bar.n = min(math.floor(symbols), bar.total)
    bar.refresh()


def _save_pictures(request: Request, spoken: SpokenPiece, hop_seconds: float) -> None:
    # On a machine's first run matplotlib makes a font cache, and tells of it in the middle of the progress bar.
    logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)
    from pipeline.plots import save_alignment, save_mel  # takes a while to load

    assert spoken.alignment is not None
    assert spoken.mel is not None
    alignment, mel = _picture_paths(request, spoken.piece)
    save_alignment(alignment, spoken.alignment, spoken.piece.encoded.text)
    save_mel(mel, spoken.mel, hop_seconds)


def _picture_paths(request: Request, piece: Piece) -> tuple[Path, Path]:
    name = request.name.format(i=piece.phrase.index if piece.number == 0 else f"{piece.phrase.index}.{piece.number}")
    return request.folder / f"alignment_{name}.png", request.folder / f"mel_{name}.png"


def _entry(request: Request, path: Path, pieces: Sequence[SpokenPiece], seconds: float) -> PageEntry:
    cut = any(piece.stop_reason == "cap" for piece in pieces)
    notes = []
    if len(pieces) > 1:
        notes.append(f"Long text: spoken in {len(pieces)} pieces and joined.")
        if request.options.keep_pictures:
            notes.append("The pictures are of the first piece; those of the others lie beside them.")
    if cut:
        notes.append("The decoder reached its frame limit before the text's end was recognised.")
    first = pieces[0].piece
    alignment, mel = _picture_paths(request, first) if request.options.keep_pictures else (None, None)
    return PageEntry(
        index=first.phrase.index,
        text=first.phrase.text,
        audio=path,
        seconds=seconds,
        stop_reason=STOP_WORDS["cap" if cut else "gate"],
        alignment=alignment,
        mel=mel,
        notes=tuple(notes),
    )


def _report(request: Request, entries: Sequence[PageEntry], seconds: Sequence[float], latency: float) -> None:
    rows = [
        (
            str(entry.index),
            shorten(entry.text, 48),
            f"{entry.seconds:.2f}",
            f"{taken:.2f}",
            entry.stop_reason,
            str(entry.audio),
        )
        for entry, taken in zip(entries, seconds, strict=True)
    ]
    print(format_table(["", "Phrase", "Audio s", "Taken s", "Stopped by", "File"], rows, "rlrrll"))
    audio = sum(entry.seconds for entry in entries)
    print(f"{audio:.2f} s of audio in {latency:.2f} s: {audio / latency:.2f} s of audio per second")


def _details(synthesizer: Synthesizer) -> dict[str, str]:
    engines = synthesizer.engines
    return {
        "Voice": engines["encoder"].metadata.voice or "not named by its checkpoint",
        "Engines": ", ".join(engine.name for engine in engines.values()),
        "Precision": engines["encoder"].metadata.precision.upper(),
        "Sigma": f"{synthesizer.sigma:g}",
        "Seed": str(synthesizer.options.seed),
        "Denoiser": "off" if synthesizer.denoiser is None else "on",
        "Made": datetime.now().astimezone().isoformat(timespec="seconds"),
    }
