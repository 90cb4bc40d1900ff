"""Every random number of the pipeline: one seed a run, one independent stream for each piece of each phrase.

The numbers depend on (seed, phrase, piece) and on their position in the utterance alone, so a phrase sounds the same
alone, in any batch, in any order, and on every backend.
"""

from concurrent.futures import Executor

import numpy as np

PRENET_KEEP = 0.5  # Tacotron 2's prenet dropout stays on at inference: its variety is what the decoder learnt with


class RandomStreams:
    """The random numbers of one piece of one phrase, by NumPy's Philox generator (the same on every platform)."""

    def __init__(self, seed: int, phrase: int, piece: int = 0) -> None:
        dropout, noise = np.random.SeedSequence((seed, phrase, piece)).spawn(2)
        self._dropout = np.random.Generator(np.random.Philox(dropout))
        self._noise = np.random.Generator(np.random.Philox(noise))

    def dropout(self, steps: int, prenet_dim: int) -> np.ndarray:
        """The prenet's masks for the next `steps` decoder steps: uint8 [steps, 2, prenet_dim], 1 where kept."""
        bits = np.frombuffer(self._dropout.bytes(steps * 2 * prenet_dim // 8), np.uint8)
        return np.unpackbits(bits).reshape(steps, 2, prenet_dim)

    def noise(self, positions: int, channels: int) -> np.ndarray:
        """Standard normal noise for the next `positions` of WaveGlow's time axis: float32 [positions, channels]."""
        return self._noise.standard_normal((positions, channels), np.float32)


class NoiseAhead:
    """A stream's noise, of which a likely amount is drawn by another thread before it is known how much is needed."""

    def __init__(self, stream: RandomStreams, channels: int, likely: int, pool: Executor | None) -> None:
        self._stream = stream
        self._channels = channels
        self._drawn = pool.submit(stream.noise, likely, channels) if pool is not None else None

    def take(self, positions: int) -> np.ndarray:
        """The stream's first `positions` of noise: float32 [positions, channels]. To be called once."""
        if self._drawn is None:
            return self._stream.noise(positions, self._channels)
        drawn = self._drawn.result()
        if len(drawn) >= positions:
            return drawn[:positions]
        return np.concatenate([drawn, self._stream.noise(positions - len(drawn), self._channels)])
