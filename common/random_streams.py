"""Every random number of the pipeline: two independent streams for each piece of text that is spoken.

The numbers depend on the seed, on the piece's text and on their position in the utterance alone. So a phrase sounds
the same alone, in any file at any line, in any batch, streamed or not, and on every backend.
"""

import hashlib
from concurrent.futures import Executor, Future

import numpy as np
import torch
from torch import Tensor

PRENET_KEEP = 0.5  # Tacotron 2's prenet dropout stays on at inference: its variety is what the decoder learnt with
STEPS_PER_DRAW = 128  # decoder steps whose masks are drawn at once: each draw costs more than its bits


class RandomStreams:
    """The random numbers of one piece of text, by NumPy's Philox generator (the same on every platform).

    Numbers come in order: how many are taken at a time changes nothing. Not thread-safe, but dropout and noise are
    independent of each other and may be drawn by two threads.

    Args:
        seed: 0 or more, of any size.
        text: the piece as it is spoken.
    """

    def __init__(self, seed: int, text: str) -> None:
        # Philox is a keyed counter: any two keys give independent streams, and a hash gives each stream its own.
        digest = hashlib.sha256(f"{seed}\n{text}".encode("utf-8", "surrogatepass")).digest()
        keys = np.frombuffer(digest, "<u8").astype(np.uint64)
        self._dropout = np.random.Philox(key=keys[:2])
        self._noise = np.random.Generator(np.random.Philox(key=keys[2:]))
        self._masks = np.empty((0, 2, 0), np.uint8)  # drawn and not yet taken

    def dropout(self, steps: int, prenet_dim: int) -> np.ndarray:
        """The prenet's masks for the next `steps` decoder steps, a bit for each value that is 1 where it is kept.

        Returns:
            uint8 [steps, 2, prenet_dim / 8, rounded up], as `np.packbits` packs the last axis.
        """
        while len(self._masks) < steps:
            drawn = self._dropout.random_raw(STEPS_PER_DRAW * 2 * prenet_dim // 64).astype("<u8").view(np.uint8)
            if prenet_dim % 8:  # then masks don't begin with a byte
                drawn = np.packbits(np.unpackbits(drawn).reshape(-1, prenet_dim), axis=1)
            drawn = drawn.reshape(STEPS_PER_DRAW, 2, -1)
            self._masks = np.concatenate((self._masks, drawn)) if len(self._masks) else drawn
        taken, self._masks = self._masks[:steps], self._masks[steps:]
        return taken

    def noise(self, positions: int, channels: int, out: np.ndarray | None = None) -> np.ndarray:
        """Standard normal noise for the next `positions` of WaveGlow's time axis: float32 [positions, channels].

        Args:
            out: where it is written to, if it is to be nowhere else.
        """
        return self._noise.standard_normal((positions, channels), np.float32, out)


class Noise:
    """A stream's noise, for windows that move on through an utterance and may overlap.

    Args:
        pool: where noise is drawn ahead; None draws it when it is taken.
        sigma: its standard deviation.
        pinned: whether it is drawn to memory that a GPU copies from while the host goes on.
    """

    def __init__(
        self,
        stream: RandomStreams,
        channels: int,
        pool: Executor | None = None,
        sigma: float = 1.0,
        pinned: bool = False,
    ) -> None:
        self._stream = stream
        self._channels = channels
        self._pool = pool
        self._sigma = sigma
        self._pinned = pinned
        self._ahead: Future[Tensor] | None = None
        self._kept = torch.empty(0, channels)
        self._start = 0  # the position that `_kept` begins at

    def draw_ahead(self, stop: int) -> None:
        """Has the noise as far as position `stop` drawn in the pool, if there is one and nothing is drawn already."""
        missing = stop - self._start - len(self._kept)
        if self._pool is not None and self._ahead is None and missing > 0:
            self._ahead = self._pool.submit(self._draw, missing)

    def take(self, start: int, stop: int) -> Tensor:
        """Noise of positions from `start`, which never goes back, to `stop`: float32 (stop - start, channels)."""
        drawn = [self._kept[start - self._start :]]
        if self._ahead is not None:
            drawn.append(self._ahead.result())
            self._ahead = None
        missing = stop - start - sum(map(len, drawn))
        if missing > 0:
            drawn.append(self._draw(missing))
        drawn = [some for some in drawn if len(some)]
        self._kept, self._start = drawn[0] if len(drawn) == 1 else torch.cat(drawn), start
        return self._kept[: stop - start]

    def _draw(self, positions: int) -> Tensor:
        noise = torch.empty(positions, self._channels, pin_memory=self._pinned)
        self._stream.noise(positions, self._channels, noise.numpy())
        return noise.mul_(self._sigma)
