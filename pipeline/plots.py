"""A picture of a spoken piece: waveform with its words, mel spectrogram and alignment, on one time axis in seconds.

matplotlib takes a while to load: import this module only where pictures are wanted.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from common.files import written_whole
from pipeline.audio import Audio
from pipeline.words import Word, spoken_words

DPI = 100
MAX_COLUMNS, MAX_ROWS = 4000, 2000  # of the data drawn; longer data is pooled to fit
INCHES_PER_SECOND = 1.6  # leaves room to read the words under the waveform
MIN_WIDTH, MAX_WIDTH = 7.0, 40.0  # of the plots, in inches
WAVE_HEIGHT, MEL_HEIGHT = 1.5, 2.0  # inches
MIN_ALIGNMENT_HEIGHT, MAX_ALIGNMENT_HEIGHT = 2.4, 5.0  # inches
# Around the plots, in inches: room for tick labels and titles, and the colour bars at the right.
LEFT, RIGHT, BOTTOM, TOP, BETWEEN = 1.0, 1.15, 0.6, 0.35, 0.35
BAR_GAP, BAR_WIDTH = 0.15, 0.15
LINE = 0.125  # inches, the least distance of two tick labels above one another
IMAGE: dict[str, Any] = {"origin": "lower", "aspect": "auto", "cmap": "viridis"}
WORD_ROWS = 3  # under the waveform; words take turns on them, and neighbours don't overlap


def save_speech(path: Path, audio: Audio, mel: np.ndarray, alignment: np.ndarray, text: str) -> None:
    """Draws a piece of speech.

    Args:
        path: of the PNG file; complete once it is there.
        audio: what was spoken.
        mel: float32 [n_mels, frames], natural logarithm of the amplitude; as long as the audio.
        alignment: attention weights, float32 [frames as decoded, symbols], 0 to 1; as long as the audio.
        text: what the symbols say.

    Raises:
        OSError: the file can't be written.
    """
    symbols = alignment.shape[1]
    words = spoken_words(text, alignment, audio.seconds)
    height = float(np.clip(symbols * LINE, MIN_ALIGNMENT_HEIGHT, MAX_ALIGNMENT_HEIGHT))
    figure, ((wave, beside_wave), (spectrogram, mel_bar), (attention, attention_bar)) = _plots(audio.seconds, height)
    beside_wave.remove()
    _draw_wave(wave, audio, words)

    extent = (0, audio.seconds, -0.5, len(mel) - 0.5)
    drawn = spectrogram.imshow(_pooled(mel, MAX_COLUMNS, axis=1, mean=True), extent=extent, **IMAGE)
    figure.colorbar(drawn, cax=mel_bar, label="Log amplitude (ln)")
    spectrogram.set_title("Mel spectrogram", loc="left", fontsize=10)
    spectrogram.set_ylabel("Mel band")

    weights = _pooled(_pooled(alignment.T, MAX_COLUMNS, axis=1, mean=False), MAX_ROWS, axis=0, mean=False)
    extent = (0, audio.seconds, -0.5, symbols - 0.5)
    drawn = attention.imshow(weights, extent=extent, vmin=0, vmax=1, **IMAGE)
    figure.colorbar(drawn, cax=attention_bar, label="Attention weight")
    attention.set_title("Alignment: which part of the text was read when", loc="left", fontsize=10)
    attention.set_xlabel("Time (s)")
    _label_words(attention, words, apart=LINE * symbols / height)
    with written_whole(path) as temporary:
        figure.savefig(temporary, format="png", dpi=DPI)


def _plots(seconds: float, alignment_height: float) -> tuple[Figure, np.ndarray]:
    """Plots above one another on one time axis, each beside a narrow one for its colour bar: Axes [3, 2]."""
    width = float(np.clip(seconds * INCHES_PER_SECOND, MIN_WIDTH, MAX_WIDTH))
    widths, heights = (width, BAR_WIDTH), (WAVE_HEIGHT, MEL_HEIGHT, alignment_height)
    whole_width, whole_height = LEFT + width + RIGHT, BOTTOM + sum(heights) + 2 * BETWEEN + TOP
    figure = Figure(figsize=(whole_width, whole_height), dpi=DPI)  # drawn by Agg, with no window and no global state
    plots = figure.subplots(3, 2, sharex="col", width_ratios=widths, height_ratios=heights)
    figure.subplots_adjust(
        left=LEFT / whole_width,
        right=(LEFT + width + BAR_GAP + BAR_WIDTH) / whole_width,
        bottom=BOTTOM / whole_height,
        top=1 - TOP / whole_height,
        wspace=len(widths) * BAR_GAP / sum(widths),  # in mean widths and heights
        hspace=len(heights) * BETWEEN / sum(heights),
    )
    plots[0, 0].set_xlim(0, seconds)
    return figure, plots


def _draw_wave(axes: Axes, audio: Audio, words: Sequence[Word]) -> None:
    """The waveform's outline, and under it each word where it is heard."""
    columns = min(MAX_COLUMNS, len(audio.samples))
    edges = np.arange(columns) * len(audio.samples) // columns
    times = edges / audio.sampling_rate
    peak = max(float(np.abs(audio.samples).max()), 1e-9)
    low, high = (reduce.reduceat(audio.samples, edges) / peak for reduce in (np.minimum, np.maximum))
    axes.fill_between(times, low, high, linewidth=0.3, color="#0b57a4")
    axes.set_ylim(-2.5, 1.1)
    axes.set_yticks([])
    axes.set_title("Waveform and words", loc="left", fontsize=10)
    for number, word in enumerate(words):
        row = -1.2 - 0.45 * (number % WORD_ROWS)
        axes.axvline(word.start, ymin=0, ymax=(1 + 2.5) / 3.6, color="#9aa3ad", linewidth=0.5)
        # A dollar sign is a character here, not the beginning of a formula.
        axes.text(word.start, row, f" {word.text}", fontsize=8, va="center", clip_on=True, parse_math=False)


def _label_words(axes: Axes, words: Sequence[Word], apart: float) -> None:
    """As many words as fit, each at its first symbol; `apart` symbols are a line's height."""
    kept: list[Word] = []
    for word in words:
        if not kept or word.span[0] - kept[-1].span[0] >= apart:
            kept.append(word)
    axes.set_yticks([word.span[0] for word in kept], [_short(word.text) for word in kept], fontsize=8, parse_math=False)


def _short(word: str, letters: int = 12) -> str:
    return word if len(word) <= letters else word[: letters - 1] + "\u2026"


def _pooled(image: np.ndarray, most: int, axis: int, mean: bool) -> np.ndarray:
    """The image with at most `most` entries along an axis: means of neighbours, or their maxima, which keep peaks."""
    length = image.shape[axis]
    if length <= most:
        return image
    edges = np.arange(most) * length // most
    if not mean:
        return np.maximum.reduceat(image, edges, axis=axis)
    sizes = np.diff(np.append(edges, length))
    shape = [1, 1]
    shape[axis] = most
    return np.add.reduceat(image, edges, axis=axis) / sizes.reshape(shape)
