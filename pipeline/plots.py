"""Pictures of a spoken phrase: how the decoder read the text, and the spectrogram that it drew.

Kept apart because matplotlib takes a while to load: import this module only where pictures are wanted.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from common.files import written_whole

DPI = 100
MAX_COLUMNS, MAX_ROWS = 4000, 2000  # of the data drawn; anything longer is pooled to fit
MIN_WIDTH, MAX_WIDTH = 7.0, 20.0  # inches
MIN_HEIGHT, MAX_HEIGHT = 3.2, 5.0  # inches
FRAMES_PER_INCH = 60.0
# Around the plot, in inches: room for tick labels and axis titles, and the colour bar at the right.
LEFT, RIGHT, BOTTOM, TOP = 1.0, 1.15, 0.6, 0.45
BAR_GAP, BAR_WIDTH = 0.15, 0.15
LINE = 0.125  # inches, the least distance of two tick labels above one another


def save_alignment(path: Path, alignment: np.ndarray, text: str) -> None:
    """Draws the attention: decoder frames from left to right, the text from bottom to top.

    The text stands at its axis letter by letter if it fits, else as many of its words as fit, each where it begins;
    symbol numbers where its characters are not the symbols one to one, as with ARPAbet.

    Args:
        path: of the PNG file; complete once it is there.
        alignment: float32 [frames, symbols], 0 to 1.
        text: what the symbols say.

    Raises:
        OSError: the file can't be written.
    """
    frames, symbols = alignment.shape
    picture = _Picture(_width(frames), np.clip(symbols * LINE, MIN_HEIGHT, MAX_HEIGHT))
    image = _pooled(_pooled(alignment.T, MAX_COLUMNS, axis=1, mean=False), MAX_ROWS, axis=0, mean=False)
    picture.draw(image, (0, frames, -0.5, symbols - 0.5), "Attention weight", limits=(0.0, 1.0))
    axes = picture.axes
    axes.set_title("Alignment: where in the text each frame was read", loc="left", fontsize=11)
    axes.set_xlabel("Decoder frame")
    _label_symbols(axes, text, symbols, room=picture.height)
    picture.save(path)


def save_mel(path: Path, mel: np.ndarray, hop_seconds: float) -> None:
    """Draws the mel spectrogram over time.

    Args:
        path: of the PNG file; complete once it is there.
        mel: float32 [n_mels, frames], natural logarithm of the amplitude.
        hop_seconds: time from one frame to the next.

    Raises:
        OSError: the file can't be written.
    """
    bands, frames = mel.shape
    picture = _Picture(_width(frames), MIN_HEIGHT)
    extent = (0, frames * hop_seconds, -0.5, bands - 0.5)
    picture.draw(_pooled(mel, MAX_COLUMNS, axis=1, mean=True), extent, "Log amplitude (ln)")
    picture.axes.set_title("Mel spectrogram", loc="left", fontsize=11)
    picture.axes.set_xlabel("Time (s)")
    picture.axes.set_ylabel("Mel band")
    picture.save(path)


class _Picture:
    """A figure with one plot of the given size in inches, and room around it."""

    def __init__(self, width: float, height: float) -> None:
        self.width, self.height = width, height
        self._whole = (LEFT + width + RIGHT, BOTTOM + height + TOP)
        self._figure = Figure(figsize=self._whole, dpi=DPI)  # drawn by Agg, with no window and no global state
        self.axes = self._figure.add_axes(self._place(0, width))

    def draw(
        self,
        image: np.ndarray,
        extent: tuple[float, float, float, float],
        meaning: str,
        limits: tuple[float, float] | None = None,
    ) -> None:
        low, high = limits or (None, None)
        drawn = self.axes.imshow(
            image, origin="lower", aspect="auto", extent=extent, cmap="viridis", vmin=low, vmax=high
        )
        bar = self._figure.add_axes(self._place(self.width + BAR_GAP, BAR_WIDTH))
        self._figure.colorbar(drawn, cax=bar, label=meaning)

    def save(self, path: Path) -> None:
        with written_whole(path) as temporary:
            self._figure.savefig(temporary, format="png", dpi=DPI)

    def _place(self, left: float, width: float) -> tuple[float, float, float, float]:
        whole_width, whole_height = self._whole
        return (LEFT + left) / whole_width, BOTTOM / whole_height, width / whole_width, self.height / whole_height


def _width(frames: int) -> float:
    return float(np.clip(frames / FRAMES_PER_INCH, MIN_WIDTH, MAX_WIDTH))


def _label_symbols(axes: Axes, text: str, symbols: int, room: float) -> None:
    if len(text) != symbols:
        axes.set_ylabel("Symbol number")
        return
    apart = LINE * symbols / room  # symbols
    if apart <= 1:
        places, labels, title = list(range(symbols)), ["\u2423" if char == " " else char for char in text], "Symbol"
    else:
        places = _spread([i for i, char in enumerate(text) if char != " " and (i == 0 or text[i - 1] == " ")], apart)
        labels, title = [_short(text[i:].split(" ", 1)[0]) for i in places], "Word, at its first symbol"
    # A dollar sign is a character here, not the beginning of a formula.
    axes.set_yticks(places, labels, fontsize=7, parse_math=False)
    axes.set_ylabel(title)


def _spread(places: Sequence[int], apart: float) -> list[int]:
    kept: list[int] = []
    for place in places:
        if not kept or place - kept[-1] >= apart:
            kept.append(place)
    return kept


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
