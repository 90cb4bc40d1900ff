"""Random numbers depend on the seed, the phrase and the position, and on nothing else."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from common.random_streams import NoiseAhead, RandomStreams


def test_the_same_seed_gives_the_same_numbers() -> None:
    first, second = RandomStreams(7, 3, 1), RandomStreams(7, 3, 1)
    assert np.array_equal(first.dropout(50, 256), second.dropout(50, 256))
    assert np.array_equal(first.noise(320, 8), second.noise(320, 8))


def test_seeds_phrases_and_pieces_have_streams_of_their_own() -> None:
    keys = [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0)]
    noises = [RandomStreams(*key).noise(320, 8) for key in keys]
    for i, noise in enumerate(noises):
        for other in noises[:i]:
            assert abs(np.corrcoef(noise.ravel(), other.ravel())[0, 1]) < 0.1


def test_numbers_do_not_depend_on_how_many_are_asked_for_at_once() -> None:
    whole, parts = RandomStreams(0, 0), RandomStreams(0, 0)
    assert np.array_equal(whole.dropout(96, 256), np.concatenate([parts.dropout(32, 256), parts.dropout(64, 256)]))
    assert np.array_equal(whole.noise(640, 8), np.concatenate([parts.noise(160, 8), parts.noise(480, 8)]))


@pytest.mark.parametrize("likely", [100, 640, 1000])
def test_noise_drawn_ahead_is_the_same_noise(likely: int) -> None:
    with ThreadPoolExecutor() as pool:
        ahead = NoiseAhead(RandomStreams(0, 0), 8, likely, pool)
        assert np.array_equal(ahead.take(640), RandomStreams(0, 0).noise(640, 8))


def test_noise_is_standard_normal() -> None:
    noise = RandomStreams(0, 0).noise(20_000, 8)
    assert noise.dtype == np.float32
    assert abs(noise.mean()) < 0.01
    assert abs(noise.std() - 1) < 0.01
