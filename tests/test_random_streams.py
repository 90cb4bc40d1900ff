"""Random numbers depend on the seed, the text and the position, and on nothing else."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from common.random_streams import Noise, RandomStreams


def test_the_same_seed_and_text_give_the_same_numbers() -> None:
    first, second = RandomStreams(7, "Hello."), RandomStreams(7, "Hello.")
    assert np.array_equal(first.dropout(50, 256), second.dropout(50, 256))
    assert np.array_equal(first.noise(320, 8), second.noise(320, 8))


def test_seeds_and_texts_have_streams_of_their_own() -> None:
    # 2^32 and its kin are two words of entropy: they must not run into the text's.
    keys = [(0, "a"), (1, "a"), (0, "b"), (0, ""), (2**32, "a"), (2**32 + 1, "a"), (2**63, "a")]
    noises = [RandomStreams(*key).noise(320, 8) for key in keys]
    for i, noise in enumerate(noises):
        for other in noises[:i]:
            assert abs(np.corrcoef(noise.ravel(), other.ravel())[0, 1]) < 0.1


def test_dropout_and_noise_are_independent() -> None:
    first, second = RandomStreams(0, "a"), RandomStreams(0, "a")
    first.dropout(300, 256)
    assert np.array_equal(first.noise(32, 8), second.noise(32, 8))


@pytest.mark.parametrize("prenet_dim", [256, 12, 16])
def test_numbers_do_not_depend_on_how_many_are_asked_for_at_once(prenet_dim: int) -> None:
    whole, parts = RandomStreams(0, "a"), RandomStreams(0, "a")
    counts = (32, 1, 63, 128, 200)
    masks = [parts.dropout(count, prenet_dim) for count in counts]
    assert np.array_equal(whole.dropout(sum(counts), prenet_dim), np.concatenate(masks))
    assert np.array_equal(whole.noise(640, 8), np.concatenate([parts.noise(160, 8), parts.noise(480, 8)]))


@pytest.mark.parametrize("likely", [100, 640, 1000])
def test_noise_drawn_ahead_is_the_same_noise(likely: int) -> None:
    with ThreadPoolExecutor() as pool:
        ahead, whole = Noise(RandomStreams(0, "a"), 8, pool), RandomStreams(0, "a").noise(1280, 8)
        for start in (0, 0, 320, 500):  # windows overlap
            ahead.draw_ahead(start + likely)
            assert np.array_equal(ahead.take(start, start + 640).numpy(), whole[start : start + 640])


def test_noise_is_standard_normal() -> None:
    noise = RandomStreams(0, "a").noise(20_000, 8)
    assert noise.dtype == np.float32
    assert abs(noise.mean()) < 0.01
    assert abs(noise.std() - 1) < 0.01
