"""The decoder loop in blocks gives what the plain loop gives; here without a GPU, where blocks run directly."""

from collections.abc import Callable, Mapping, Sequence

import pytest
import torch
from torch import Tensor

from common.checkpoint import LoadedModel
from common.config import AudioConfig
from common.engine import Engine, TorchEngine, infer
from common.errors import UserError
from common.random_streams import RandomStreams
from tacotron2.decoder import DecodedBatch, StopRule, decode
from tacotron2.decoder_graph import CapturedDecoder, PlainDecoder, bucket_of, make_decoder
from tests.models import TINY_TACOTRON2, parts_of, tiny_tacotron2

NEVER = 1 - 1e-9  # a threshold that no gate of these models passes


@pytest.fixture(scope="module")
def engines() -> tuple[Engine, Engine]:
    loaded = LoadedModel(tiny_tacotron2(), AudioConfig(), "0" * 64, None, "")
    parts = parts_of(loaded, "fp32")
    return TorchEngine(*parts["encoder"]), TorchEngine(*parts["decoder_iter"])


@pytest.fixture
def decoder_engine(engines: tuple[Engine, Engine]) -> Engine:
    return engines[1]


def memory_of(encoder: Engine, lengths: Sequence[int], text: int) -> tuple[Tensor, Tensor]:
    ids = torch.zeros(len(lengths), text, dtype=torch.int32)
    for item, length in enumerate(lengths):
        ids[item, :length] = torch.arange(length) * (item + 3) % 148
    outputs = infer(encoder, sequences=ids, sequence_lengths=torch.tensor(lengths, dtype=torch.int32))
    return outputs["memory"], outputs["processed_memory"]


def streams_for(lengths: Sequence[int]) -> list[RandomStreams]:
    return [RandomStreams(7, index) for index in range(len(lengths))]


def assert_same(found: DecodedBatch, expected: DecodedBatch) -> None:
    assert found.frames == expected.frames
    assert found.stop_reasons == expected.stop_reasons
    assert found.mels.shape == expected.mels.shape
    for item, frames in enumerate(expected.frames):
        torch.testing.assert_close(found.mels[item, :, :frames], expected.mels[item, :, :frames], rtol=0, atol=1e-6)
    assert (found.alignments is None) == (expected.alignments is None)
    if found.alignments is not None and expected.alignments is not None:
        assert found.alignments.shape == expected.alignments.shape
        for item, frames in enumerate(expected.frames):
            torch.testing.assert_close(found.alignments[item, :frames], expected.alignments[item, :frames])


@pytest.fixture(scope="module")
def thresholds(engines: tuple[Engine, Engine]) -> Callable[[Sequence[int], int], float]:
    """A gate threshold that an untrained gate passes after a few dozen steps: the highest of its first 40 values."""

    def find(lengths: Sequence[int], text: int) -> float:
        seen: list[Tensor] = []
        watched = Watched(engines[1], lambda tensors: seen.append(tensors["gate_prediction"].clone()))
        decode(watched, *memory_of(engines[0], lengths, text), lengths, streams_for(lengths), StopRule(NEVER, 40))
        return float(torch.sigmoid(torch.stack(seen).double().amax(0).min()) - 1e-9)

    return find


class Watched:
    """An engine that calls back after each run, with the tensors it ran on."""

    def __init__(self, engine: Engine, after: Callable[[Mapping[str, Tensor]], object]) -> None:
        self.name, self.metadata, self.contract = engine.name, engine.metadata, engine.contract
        self.device, self.limits = engine.device, engine.limits
        self.bindings = 0
        self._engine, self._after = engine, after

    def bind(self, tensors: Mapping[str, Tensor]) -> Callable[[], None]:
        self.bindings += 1
        run = self._engine.bind(tensors)

        def watched() -> None:
            run()
            self._after(tensors)

        return watched

    def close(self) -> None:
        self._engine.close()


@pytest.mark.parametrize(("steps", "runners"), [(2, 2), (16, 2), (16, 16), (32, 4)])
@pytest.mark.parametrize("lengths", [[9], [5, 12, 9], [32, 1]])
def test_blocks_give_what_single_steps_give(
    engines: tuple[Engine, Engine],
    thresholds: Callable[[Sequence[int], int], float],
    lengths: list[int],
    steps: int,
    runners: int,
) -> None:
    encoder, engine = engines
    text = max(lengths)
    memory = memory_of(encoder, lengths, text)
    rule = StopRule(thresholds(lengths, text))
    expected = decode(engine, *memory, lengths, streams_for(lengths), rule, keep_alignments=True)
    assert "gate" in expected.stop_reasons
    decoder = CapturedDecoder(engine, steps, runners)
    for keep in (True, False):
        found = decoder(*memory, lengths, streams_for(lengths), rule, keep_alignments=keep)
        if keep:
            assert_same(found, expected)
        else:
            assert found.frames == expected.frames
            assert found.alignments is None


@pytest.mark.parametrize("steps", [16, 128])
@pytest.mark.parametrize("cap", [1, 15, 16, 17, 40, 127, 128, 129, 300])
def test_each_item_ends_at_its_own_cap(engines: tuple[Engine, Engine], cap: int, steps: int) -> None:
    encoder, engine = engines
    lengths = [2, 7, 31]
    memory = memory_of(encoder, lengths, 31)
    rule = StopRule(NEVER, cap)
    found = CapturedDecoder(engine, steps)(*memory, lengths, streams_for(lengths), rule)
    assert found.frames == [min(cap, 120), min(cap, 170), cap]
    assert found.stop_reasons == ["cap", "cap", "cap"]
    assert_same(found, decode(engine, *memory, lengths, streams_for(lengths), rule))


def test_a_gate_that_fires_at_once_gives_one_frame(engines: tuple[Engine, Engine]) -> None:
    lengths = [4, 6]
    found = CapturedDecoder(engines[1])(
        *memory_of(engines[0], lengths, 6), lengths, streams_for(lengths), StopRule(0.0)
    )
    assert found.frames == [1, 1]
    assert found.stop_reasons == ["gate", "gate"]
    assert found.mels.shape == (2, 80, 1)


def test_at_most_two_blocks_are_decoded_in_vain(engines: tuple[Engine, Engine]) -> None:
    encoder, engine = engines
    runs: list[object] = []
    decoder = CapturedDecoder(Watched(engine, runs.append), steps=8)
    found = decoder(*memory_of(encoder, [6], 6), [6], streams_for([6]), StopRule(0.0))
    assert found.frames == [1]
    assert len(runs) == 2 * 8


def test_masks_are_the_same_bits_where_steps_share_random_words() -> None:
    # 2 * 12 bits a step are no whole number of 32-bit words, so the length of a draw changes what follows.
    config = TINY_TACOTRON2.__class__(**{**TINY_TACOTRON2.__dict__, "prenet_dim": 12})
    parts = parts_of(LoadedModel(tiny_tacotron2(config), AudioConfig(), "0" * 64, None, ""), "fp32")
    encoder, engine = TorchEngine(*parts["encoder"]), TorchEngine(*parts["decoder_iter"])
    memory, rule = memory_of(encoder, [9], 9), StopRule(NEVER, 150)
    found = CapturedDecoder(engine)(*memory, [9], streams_for([9]), rule)
    assert_same(found, decode(engine, *memory, [9], streams_for([9]), rule))


def test_requests_of_changing_size_share_one_decoder(engines: tuple[Engine, Engine]) -> None:
    encoder, engine = engines
    watched = Watched(engine, lambda tensors: None)
    decoder = CapturedDecoder(watched, runners=2)
    rule = StopRule(NEVER, 50)
    for batch, text in ((8, 20), (4, 40), (8, 31), (8, 20)):
        lengths = [text - item for item in range(batch)]
        memory = memory_of(encoder, lengths, text)
        expected = decode(engine, *memory, lengths, streams_for(lengths), rule, keep_alignments=True)
        found = decoder(*memory, lengths, streams_for(lengths), rule, keep_alignments=True)
        assert_same(found, expected)
    assert decoder.cached == [(4, 64, True), (8, 32, True)]
    assert watched.bindings == 2 * 2  # one per direction and shape


def test_the_shape_used_longest_ago_goes_when_memory_is_short(engines: tuple[Engine, Engine]) -> None:
    encoder, engine = engines
    decoder = CapturedDecoder(engine)

    def request(batch: int) -> None:
        lengths = [10] * batch
        decoder(*memory_of(encoder, lengths, 10), lengths, streams_for(lengths), StopRule(NEVER, 3))

    request(1)
    request(2)
    decoder.max_bytes = sum(block.bytes for block in decoder._blocks.values())
    request(1)
    assert decoder.cached == [(2, 32, False), (1, 32, False)]
    request(2)
    request(1)
    request(2)
    assert decoder.cached == [(1, 32, False), (2, 32, False)]
    request(3)  # as large as both together
    assert decoder.cached == [(3, 32, False)]
    decoder.max_bytes = 1
    request(1)
    assert decoder.cached == [(1, 32, False)]  # what is in use may exceed the bound alone
    decoder.close()
    assert decoder.cached == []


def test_the_memory_of_a_block_is_what_it_says(decoder_engine: Engine) -> None:
    decoder = CapturedDecoder(decoder_engine, steps=8, runners=2)
    block = decoder._block(3, 64, False)
    own = [block.results, block.masks, block.alignments, block.bits, block.memory]
    own += [block.processed_memory, block.padding]
    own += [tensor for state, gate, mask in block._copied for tensor in (*state.as_inputs().values(), gate, mask)]
    assert block.bytes == sum(tensor.numel() * tensor.element_size() for tensor in own)


@pytest.mark.parametrize("step", [1, 16, 17, 36])
def test_a_gate_that_is_nan_is_an_error(engines: tuple[Engine, Engine], step: int) -> None:
    encoder, engine = engines
    runs: list[int] = []

    def poison(tensors: Mapping[str, Tensor]) -> None:
        runs.append(1)
        if len(runs) == step:
            tensors["gate_prediction"][1] = float("nan")

    lengths = [3, 8]
    decoder = CapturedDecoder(Watched(engine, poison))
    with pytest.raises(UserError, match=f"the stop gate is NaN at step {step}; try FP32"):
        decoder(*memory_of(encoder, lengths, 8), lengths, streams_for(lengths), StopRule(NEVER, 100))


def test_nan_after_the_end_is_nobodys_business(engines: tuple[Engine, Engine]) -> None:
    encoder, engine = engines
    runs: list[int] = []

    def poison(tensors: Mapping[str, Tensor]) -> None:
        runs.append(1)
        if len(runs) > 5:
            tensors["gate_prediction"].fill_(float("nan"))

    decoder = CapturedDecoder(Watched(engine, poison))
    assert decoder(*memory_of(encoder, [3], 3), [3], streams_for([3]), StopRule(NEVER, 5)).frames == [5]


def test_progress_is_told_once_a_block(engines: tuple[Engine, Engine]) -> None:
    told: list[int] = []
    decoder = CapturedDecoder(engines[1], steps=8)
    decoder(*memory_of(engines[0], [5], 5), [5], streams_for([5]), StopRule(NEVER, 30), on_step=told.append)
    assert told == [8, 16, 24]


@pytest.mark.parametrize(
    ("text", "bucket"), [(1, 32), (32, 32), (33, 64), (97, 128), (129, 192), (256, 256), (257, 320), (1000, 1024)]
)
def test_text_is_padded_to_buckets(decoder_engine: Engine, text: int, bucket: int) -> None:
    assert bucket_of(text, decoder_engine) == bucket


def test_buckets_keep_within_the_engines_limits(decoder_engine: Engine) -> None:
    limited = Watched(decoder_engine, lambda tensors: None)
    limited.limits = {"text": (4, 200)}
    assert bucket_of(150, limited) == 192
    assert bucket_of(195, limited) == 200
    assert bucket_of(201, limited) == 201  # for the engine to refuse
    limited.limits = {"text": (48, 256)}
    assert bucket_of(10, limited) == 48


@pytest.mark.parametrize(("steps", "runners"), [(0, 2), (1, 1), (12, 2), (256, 2), (16, 1), (16, 3), (16, 32)])
def test_impossible_block_sizes_are_refused(decoder_engine: Engine, steps: int, runners: int) -> None:
    with pytest.raises(ValueError, match=r"(steps|runners) is \d+: it must be"):
        CapturedDecoder(decoder_engine, steps, runners)


def test_the_plain_loop_is_what_a_cpu_gets(engines: tuple[Engine, Engine]) -> None:
    encoder, engine = engines
    decoder = make_decoder(engine)
    assert isinstance(decoder, PlainDecoder)
    memory, rule = memory_of(encoder, [5], 5), StopRule(NEVER, 9)
    assert_same(decoder(*memory, [5], streams_for([5]), rule), decode(engine, *memory, [5], streams_for([5]), rule))
