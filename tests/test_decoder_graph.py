"""The decoder loop in blocks gives what the plain loop gives; here without a GPU, where blocks run directly."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from common.checkpoint import LoadedModel
from common.config import AudioConfig
from common.contract import DECODER_STATE
from common.engine import Engine, TorchEngine, infer
from common.errors import UserError
from common.random_streams import PRENET_KEEP, RandomStreams
from tacotron2.decoder import DecodedBatch, StopRule, Utterance
from tacotron2.decoder_graph import BlockDecoder, DecoderSession, bucket_of, make_decoder
from tests.engine_doubles import Watched
from tests.models import MELS, TINY_TACOTRON2, parts_of, tiny_tacotron2
from tests.plain_decoder import decode

NEVER = 1 - 1e-9  # a threshold that no gate of these models passes


@pytest.fixture(scope="module")
def engines() -> tuple[Engine, Engine]:
    model = tiny_tacotron2(seed=6)  # whose gates rise for some steps
    parts = parts_of(LoadedModel(model, AudioConfig(), "0" * 64, None, ""), "fp32")
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


def utterances_of(lengths: Sequence[int], rule: StopRule) -> list[Utterance]:
    return [Utterance(length, RandomStreams(7, str(item)), rule) for item, length in enumerate(lengths)]


def assert_same(found: DecodedBatch, expected: DecodedBatch) -> None:
    assert found.frames == expected.frames
    assert found.stop_reasons == expected.stop_reasons
    assert found.mels.shape == expected.mels.shape
    for item, frames in enumerate(expected.frames):
        torch.testing.assert_close(found.mels[item, :, :frames], expected.mels[item, :, :frames], rtol=0, atol=1e-5)
    assert (found.alignments is None) == (expected.alignments is None)
    if found.alignments is not None and expected.alignments is not None:
        assert found.alignments.shape == expected.alignments.shape
        for item, frames in enumerate(expected.frames):
            torch.testing.assert_close(found.alignments[item, :frames], expected.alignments[item, :frames])


@pytest.fixture(scope="module")
def thresholds(engines: tuple[Engine, Engine]) -> Callable[[Sequence[int], int], float]:
    """A gate threshold that untrained gates pass after some steps: half way between two far apart values of theirs,
    so that rounding, which differs between processors and forms of the loop, decides nothing."""

    def find(lengths: Sequence[int], text: int) -> float:
        seen: list[Tensor] = []
        watched = Watched(engines[1], after=lambda tensors: seen.append(tensors["gate_prediction"].clone()))
        decode(watched, *memory_of(engines[0], lengths, text), utterances_of(lengths, StopRule(NEVER, 40)))
        # (steps, B) running maxima: the gates that a threshold below them would stop at
        records = torch.stack(seen).squeeze(2).double().cummax(0).values
        levels = records.flatten().unique()
        lowest_end = records[-1].min()
        levels = levels[levels <= lowest_end]
        gaps = levels[1:] - levels[:-1]
        widest = int(gaps.argmax())
        assert gaps[widest] > 1e-3
        return float(torch.sigmoid((levels[widest] + levels[widest + 1]) / 2))

    return find


@pytest.mark.numerical
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
    expected = decode(engine, *memory, utterances_of(lengths, rule), keep_alignments=True)
    assert "gate" in expected.stop_reasons
    decoder = BlockDecoder(engine, steps, runners)
    for keep in (True, False):
        found = decoder.decode(*memory, utterances_of(lengths, rule), keep_alignments=keep)
        if keep:
            assert_same(found, expected)
        else:
            assert found.frames == expected.frames
            assert found.alignments is None


@pytest.mark.numerical
@pytest.mark.parametrize("steps", [16, 128])
@pytest.mark.parametrize("cap", [1, 15, 16, 17, 40, 127, 128, 129, 300])
def test_each_item_ends_at_its_own_cap(engines: tuple[Engine, Engine], cap: int, steps: int) -> None:
    encoder, engine = engines
    lengths = [2, 7, 31]
    memory = memory_of(encoder, lengths, 31)
    rule = StopRule(NEVER, cap)
    found = BlockDecoder(engine, steps).decode(*memory, utterances_of(lengths, rule))
    assert found.frames == [min(cap, 120), min(cap, 170), cap]
    assert found.stop_reasons == ["cap", "cap", "cap"]
    assert_same(found, decode(engine, *memory, utterances_of(lengths, rule)))


@pytest.mark.numerical
def test_a_gate_that_fires_at_once_gives_one_frame(engines: tuple[Engine, Engine]) -> None:
    lengths = [4, 6]
    found = BlockDecoder(engines[1]).decode(*memory_of(engines[0], lengths, 6), utterances_of(lengths, StopRule(0.0)))
    assert found.frames == [1, 1]
    assert found.stop_reasons == ["gate", "gate"]
    assert found.mels.shape == (2, MELS, 1)


def test_a_cpu_decodes_no_block_in_vain(engines: tuple[Engine, Engine]) -> None:
    encoder, engine = engines
    runs: list[object] = []
    decoder = BlockDecoder(Watched(engine, after=runs.append), steps=8)
    found = decoder.decode(*memory_of(encoder, [6], 6), utterances_of([6], StopRule(0.0)))
    assert found.frames == [1]
    assert len(runs) == 8


@pytest.mark.numerical
def test_masks_are_the_same_bits_where_steps_share_random_words() -> None:
    # 2 * 12 bits a step are no whole number of 32-bit words, so the length of a draw could change what follows.
    config = TINY_TACOTRON2.__class__(**{**TINY_TACOTRON2.__dict__, "prenet_dim": 12})
    parts = parts_of(LoadedModel(tiny_tacotron2(config), AudioConfig(), "0" * 64, None, ""), "fp32")
    encoder, engine = TorchEngine(*parts["encoder"]), TorchEngine(*parts["decoder_iter"])
    memory, rule = memory_of(encoder, [9], 9), StopRule(NEVER, 150)
    found = BlockDecoder(engine).decode(*memory, utterances_of([9], rule))
    assert_same(found, decode(engine, *memory, utterances_of([9], rule)))


@pytest.mark.numerical
def test_requests_of_changing_size_share_one_decoder(engines: tuple[Engine, Engine]) -> None:
    encoder, engine = engines
    watched = Watched(engine)
    decoder = BlockDecoder(watched, runners=2)
    rule = StopRule(NEVER, 50)
    for batch, text in ((8, 20), (4, 40), (8, 20), (8, 20)):
        lengths = [text - item for item in range(batch)]
        memory = memory_of(encoder, lengths, text)
        expected = decode(engine, *memory, utterances_of(lengths, rule), keep_alignments=True)
        found = decoder.decode(*memory, utterances_of(lengths, rule), keep_alignments=True)
        assert_same(found, expected)
    assert decoder.cached == [(4, 40, True), (8, 20, True)]
    assert watched.bindings == 2 * 2  # one per direction and shape


@pytest.mark.numerical
def test_blocks_give_way_when_memory_is_short(engines: tuple[Engine, Engine]) -> None:
    encoder, engine = engines
    decoder = BlockDecoder(engine, max_bytes=1)

    def request(batch: int) -> None:
        lengths = [10] * batch
        decoder.decode(*memory_of(encoder, lengths, 10), utterances_of(lengths, StopRule(NEVER, 3)))

    request(1)
    request(2)
    assert decoder.cached == [(2, 10, False)]  # what is in use may exceed the bound alone
    decoder.close()
    assert decoder.cached == []


@pytest.mark.parametrize("step", [1, 16, 17, 36])
def test_a_gate_that_is_nan_is_an_error(engines: tuple[Engine, Engine], step: int) -> None:
    encoder, engine = engines
    runs: list[int] = []

    def poison(tensors: Mapping[str, Tensor]) -> None:
        runs.append(1)
        if len(runs) == step:
            tensors["gate_prediction"][1] = float("nan")

    lengths = [3, 8]
    decoder = BlockDecoder(Watched(engine, after=poison))
    with pytest.raises(UserError, match=f"the stop gate is NaN at step {step}; try FP32"):
        decoder.decode(*memory_of(encoder, lengths, 8), utterances_of(lengths, StopRule(NEVER, 100)))


def test_nan_after_the_end_is_ignored(engines: tuple[Engine, Engine]) -> None:
    encoder, engine = engines
    runs: list[int] = []

    def poison(tensors: Mapping[str, Tensor]) -> None:
        runs.append(1)
        if len(runs) > 5:
            tensors["gate_prediction"].fill_(float("nan"))

    decoder = BlockDecoder(Watched(engine, after=poison))
    assert decoder.decode(*memory_of(encoder, [3], 3), utterances_of([3], StopRule(NEVER, 5))).frames == [5]


def test_progress_is_told_once_a_block(engines: tuple[Engine, Engine]) -> None:
    told: list[int] = []
    decoder = BlockDecoder(engines[1], steps=8)
    decoder.decode(*memory_of(engines[0], [5], 5), utterances_of([5], StopRule(NEVER, 30)), on_step=told.append)
    assert told == [8, 16, 24, 32]


@pytest.mark.parametrize(
    ("text", "bucket"), [(1, 32), (32, 32), (33, 64), (97, 128), (129, 192), (256, 256), (257, 320), (1000, 1024)]
)
def test_text_is_padded_to_buckets(text: int, bucket: int) -> None:
    assert bucket_of(text, None) == bucket


def test_buckets_keep_within_the_engines_limits() -> None:
    assert bucket_of(150, (4, 200)) == 192
    assert bucket_of(195, (4, 200)) == 200
    assert bucket_of(201, (4, 200)) == 201  # for the engine to refuse
    assert bucket_of(10, (48, 256)) == 48


@pytest.mark.parametrize(("steps", "runners"), [(0, 2), (1, 1), (15, 3), (16, 1), (16, 3), (16, 32)])
def test_impossible_block_sizes_are_refused(decoder_engine: Engine, steps: int, runners: int) -> None:
    with pytest.raises(ValueError, match=r"(steps|runners) is \d+: it must be"):
        BlockDecoder(decoder_engine, steps, runners)


def test_a_cpu_gets_short_blocks(decoder_engine: Engine) -> None:
    assert make_decoder(decoder_engine).steps < 16


class Speaker:
    """Keeps the frames of one utterance of a session."""

    def __init__(self, engines: tuple[Engine, Engine], length: int, name: str, cap: int) -> None:
        self.memory = memory_of(engines[0], [length], length)
        self.utterance = Utterance(length, RandomStreams(7, name), StopRule(NEVER, cap))
        expected = decode(engines[1], *self.memory, [Utterance(length, RandomStreams(7, name), StopRule(NEVER, cap))])
        self.expected = expected.mels[0]
        self.frames: list[Tensor] = []


def step(session: DecoderSession, speakers: Sequence[Speaker]) -> None:
    """One block; those who have ended leave."""
    block = session.start()
    block.finish()
    for speaker in speakers:
        if speaker.utterance in block.slots:
            speaker.frames.append(block.frames[:, block.slots.index(speaker.utterance)])
    session.leave([utterance for utterance in session.utterances if utterance.ended])


class ManyStepsAtOnce:
    """An engine that runs 24 steps of a single utterance at once; step by step underneath."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.runs = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.engine, name)

    def steps_at_once(self, batch: int, text: int) -> int:
        return 24 if batch == 1 else 0

    def run_steps(self, tensors: Mapping[str, Tensor]) -> None:
        self.runs += 1
        kept = torch.from_numpy(np.unpackbits(tensors["prenet_dropout"].numpy(), axis=2)) / PRENET_KEEP
        fixed = {name: tensors[name] for name in ("memory", "processed_memory", "mask")}
        for step, mask in enumerate(kept):
            state = {name: tensors[name] for name in DECODER_STATE}
            found = infer(self.engine, **state, **fixed, prenet_dropout=mask[None])
            for name, result in DECODER_STATE.items():
                tensors[name].copy_(found[result])
            for name in ("decoder_output", "gate_prediction", "out_attention_weights"):
                if name in tensors:
                    tensors[name][step] = found[name]


@pytest.mark.numerical
def test_many_steps_at_once_give_what_single_steps_give(engines: tuple[Engine, Engine]) -> None:
    engine, rule = ManyStepsAtOnce(engines[1]), StopRule(NEVER, 50)
    memory = memory_of(engines[0], [9], 9)
    expected = decode(engines[1], *memory, utterances_of([9], rule), keep_alignments=True)
    decoder = BlockDecoder(engine, steps=8, runners=8)
    assert_same(decoder.decode(*memory, utterances_of([9], rule), keep_alignments=True), expected)
    assert engine.runs == 3
    again = decoder.decode(*memory, utterances_of([9], rule))
    assert torch.equal(again.mels, expected.mels)
    assert again.alignments is None


@pytest.mark.parametrize("gates", [[-1.0] * 40, [-1.0] * 30 + [1.0] * 10, [1.0] * 40, [-1.0] * 17 + [math.nan] * 23])
@pytest.mark.parametrize("cap", [16, 32, 33, 100])
def test_gates_looked_at_together_end_an_utterance_where_single_ones_do(gates: list[float], cap: int) -> None:
    single, together = (Utterance(100, RandomStreams(0, "a"), StopRule(0.5, cap)) for _ in range(2))
    for gate in gates:
        single.look([gate])
    for first in range(0, len(gates), 8):
        part = gates[first : first + 8]
        if not together.goes_on(len(part), float(np.max(part))):
            together.look(part)
    assert (single.frames, single.stop_reason, single.error) == (together.frames, together.stop_reason, together.error)


@pytest.mark.numerical
@pytest.mark.parametrize("at_once", [False, True])
@pytest.mark.parametrize("runners", [2, 8])
@pytest.mark.parametrize("slot_counts", [None, (1, 2, 4), (4,)])
def test_joining_and_leaving_changes_nobodys_frames(
    engines: tuple[Engine, Engine], slot_counts: tuple[int, ...] | None, runners: int, at_once: bool
) -> None:
    # Lengths and ends of all kinds: a longer text joins later, slots are filled again, one is given up half-way.
    engine = ManyStepsAtOnce(engines[1]) if at_once else engines[1]
    speakers = [
        Speaker(engines, length, str(length), cap) for length, cap in ((5, 60), (12, 20), (30, 70), (3, 9), (8, 33))
    ]
    decoder = BlockDecoder(engine, steps=8, runners=runners)
    session = DecoderSession(decoder, slot_counts=slot_counts)
    given_up = Speaker(engines, 9, "given up", 80)
    arrivals = {0: [speakers[0], speakers[1]], 1: [given_up], 2: [speakers[2]], 4: [speakers[3]], 5: [speakers[4]]}
    for number in range(14):
        for speaker in arrivals.get(number, []):
            session.join(*speaker.memory, [speaker.utterance])
        if number == 3:
            session.leave([given_up.utterance])
        if number == 6:
            session.compact()
        if session.utterances:
            step(session, speakers)
    for speaker in speakers:
        found = torch.cat(speaker.frames)[: speaker.utterance.frames].T
        assert speaker.utterance.frames == speaker.expected.size(1)
        # Batches of other sizes round otherwise, and the decoder feeds its frames back.
        torch.testing.assert_close(found, speaker.expected, rtol=0, atol=1e-4)
    assert session.utterances == []
    assert given_up.utterance.frames is None
