"""A picture of a spoken piece: waveform with its words, mel spectrogram and alignment, on one time axis in seconds.

matplotlib takes a while to load: import this module only where pictures are wanted.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

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
    picture = _Picture(audio.seconds, (WAVE_HEIGHT, MEL_HEIGHT, height))
    wave, spectrogram, attention = picture.axes
    _draw_wave(wave, audio, words)
    bands = (-0.5, len(mel) - 0.5)
    drawn = picture.image(spectrogram, _pooled(mel, MAX_COLUMNS, axis=1, mean=True), bands)
    picture.colour_bar(1, drawn, "Log amplitude (ln)")
    spectrogram.set_title("Mel spectrogram", loc="left", fontsize=10)
    spectrogram.set_ylabel("Mel band")
    weights = _pooled(_pooled(alignment.T, MAX_COLUMNS, axis=1, mean=False), MAX_ROWS, axis=0, mean=False)
    drawn = picture.image(attention, weights, (-0.5, symbols - 0.5), limits=(0.0, 1.0))
    picture.colour_bar(2, drawn, "Attention weight")
    attention.set_title("Alignment: which part of the text was read when", loc="left", fontsize=10)
    attention.set_xlabel("Time (s)")
    _label_words(attention, words, apart=LINE * symbols / height)
    picture.save(path)


class _Picture:
    """Plots above one another that share the time axis, with room around them. Sizes in inches."""

    def __init__(self, seconds: float, heights: Sequence[float]) -> None:
        self._seconds = seconds
        self._width = float(np.clip(seconds * INCHES_PER_SECOND, MIN_WIDTH, MAX_WIDTH))
        self._heights = heights
        gaps = BETWEEN * (len(heights) - 1)
        self._whole = (LEFT + self._width + RIGHT, BOTTOM + sum(heights) + gaps + TOP)
        self._figure = Figure(figsize=self._whole, dpi=DPI)  # drawn by Agg, with no window and no global state
        self.axes = [self._figure.add_axes(self._place(row, 0, self._width)) for row in range(len(heights))]
        for axes in self.axes:
            axes.set_xlim(0, seconds)
        for axes in self.axes[:-1]:
            axes.tick_params(labelbottom=False)

    def image(
        self, axes: Axes, image: np.ndarray, rows: tuple[float, float], limits: tuple[float, float] | None = None
    ) -> AxesImage:
        low, high = limits or (None, None)
        extent = (0, self._seconds, *rows)
        return axes.imshow(image, origin="lower", aspect="auto", extent=extent, cmap="viridis", vmin=low, vmax=high)

    def colour_bar(self, row: int, drawn: AxesImage, meaning: str) -> None:
        bar = self._figure.add_axes(self._place(row, self._width + BAR_GAP, BAR_WIDTH))
        self._figure.colorbar(drawn, cax=bar, label=meaning)

    def save(self, path: Path) -> None:
        with written_whole(path) as temporary:
            self._figure.savefig(temporary, format="png", dpi=DPI)

    def _place(self, row: int, left: float, width: float) -> tuple[float, float, float, float]:
        whole_width, whole_height = self._whole
        above = sum(self._heights[: row + 1]) + BETWEEN * row + TOP
        return (
            (LEFT + left) / whole_width,
            (whole_height - above) / whole_height,
            width / whole_width,
            self._heights[row] / whole_height,
        )


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
