"""On an NVIDIA GPU: captured blocks of steps against the plain loop, and the fused step against PyTorch in FP32."""

import copy
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from common.config import AudioConfig, Tacotron2Config
from common.contract import DECODER_STATE, contract_of
from common.engine import Engine, TorchEngine
from common.errors import UserError
from common.metadata import ModelMetadata
from common.random_streams import PRENET_KEEP, RandomStreams
from common.triton_engine import best_engine
from tacotron2.decoder import DecodedBatch, StopRule, Utterance
from tacotron2.decoder_graph import BlockDecoder, DecoderSession, make_decoder
from tacotron2.gpu.decoder_engine import FusedDecoderEngine
from tacotron2.gpu.decoder_step import FusedStep, Tuning, default_tuning, tuning_for
from tacotron2.hopper.persistent_decoder import MAX_STEPS, PersistentDecoder, packed_weights
from tacotron2.model import Tacotron2
from tacotron2.parts import DecoderIterPart
from tests.models import TINY_TACOTRON2
from tests.plain_decoder import decode
from tests.scripts import run_interpreted

CONFIG = Tacotron2Config()  # the published checkpoints' size
METADATA = ModelMetadata("decoder_iter", "fp16", CONFIG, AudioConfig(), "0" * 64, None, "")
NEVER = 1 - 1e-9  # a gate threshold that these models never pass

SMALL = Tacotron2Config(
    prenet_dim=32, encoder_embedding_dim=64, attention_rnn_dim=64, decoder_rnn_dim=64, attention_dim=32
)


@pytest.fixture(scope="module")
def part() -> DecoderIterPart:
    """Random weights, somewhat larger than at initialisation, so that states move and attention is not flat."""
    torch.manual_seed(0)
    part = DecoderIterPart(Tacotron2(CONFIG)).eval().requires_grad_(False)
    for parameter in part.parameters():
        parameter.mul_(1.5)
    return part.half().cuda()


@pytest.fixture(scope="module")
def plain(part: DecoderIterPart) -> TorchEngine:
    return TorchEngine(part, METADATA, "cuda")


@pytest.fixture(scope="module")
def fused(part: DecoderIterPart) -> FusedDecoderEngine:
    return FusedDecoderEngine(part, METADATA, persistent=False)


@pytest.fixture(scope="module")
def persistent(part: DecoderIterPart) -> FusedDecoderEngine:
    reason = PersistentDecoder.obstacle(CONFIG, torch.device("cuda"))
    if reason is not None:
        pytest.skip(reason)
    engine = FusedDecoderEngine(part, METADATA)
    assert engine.steps_at_once(1, 128) == MAX_STEPS
    return engine


@pytest.fixture(params=["plain", "fused"])
def engine(request: pytest.FixtureRequest) -> Engine:
    return request.getfixturevalue(request.param)


def step_tensors(batch: int, text: int, metadata: ModelMetadata = METADATA, device: str = "cuda") -> dict[str, Tensor]:
    """Random inputs of a step in which every item has another length, and outputs full of NaN."""
    contract, sizes = contract_of(metadata), {"batch": batch, "text": text}
    inputs = {spec.name: torch.randn(spec.resolve(sizes), device=device).half() for spec in contract.inputs}
    inputs["mask"] = torch.arange(text, device=device) >= torch.randint(1, text + 1, (batch, 1), device=device)
    inputs["attention_weights"] = torch.softmax(4 * inputs["attention_weights"].float(), 1).half()
    inputs["attention_weights_cum"] = (3 * torch.rand(batch, text, device=device)).half()
    inputs["prenet_dropout"] = 2 * torch.randint(0, 2, inputs["prenet_dropout"].shape, device=device).half()
    outputs = {
        spec.name: torch.full(spec.resolve(sizes), torch.nan, dtype=spec.dtype, device=device)
        for spec in contract.outputs
    }
    return {**inputs, **outputs}


def assert_computed(tensors: dict[str, Tensor], part: DecoderIterPart, metadata: ModelMetadata = METADATA) -> None:
    """The outputs are what the part gives in FP64."""
    contract, exact = contract_of(metadata), copy.deepcopy(part).double()
    inputs = [tensors[spec.name] for spec in contract.inputs]
    expected = exact(*(tensor if tensor.dtype == torch.bool else tensor.double() for tensor in inputs))
    for spec, value in zip(contract.outputs, expected, strict=True):
        error = relative_error(tensors[spec.name], value)
        assert error < (3e-2 if spec.name == "gate_prediction" else 2e-3), f"{spec.name}: {error:.1e}"


def interpret(batch: int, items: int) -> None:
    """The kernels, so many items of the batch in a program, in Triton's interpreter, on the CPU."""
    torch.manual_seed(batch)
    metadata = replace(METADATA, model=SMALL)
    part = DecoderIterPart(Tacotron2(SMALL)).eval().requires_grad_(False)
    for parameter in part.parameters():
        parameter.mul_(1.5)
    tensors = step_tensors(batch, 11, metadata, "cpu")
    tuning = replace(tuning_for((8, 0), batch), items=items)
    for launch in FusedStep(part.half(), metadata).launches(tensors, tuning):
        launch()
    assert_computed(tensors, part, metadata)


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
@pytest.mark.parametrize(("batch", "items"), [(1, 1), (3, 1), (18, 16)])
def test_the_kernels_compute_what_the_module_computes_in_the_interpreter(batch: int, items: int) -> None:
    run_interpreted(f"test_gpu_decoder.interpret({batch}, {items})")


def request(lengths: Sequence[int], text: int, rule: StopRule) -> tuple[Tensor, Tensor, list[Utterance]]:
    """The arguments of `decode`, with random memory that is zero in the padding, as an encoder's."""
    random = torch.Generator().manual_seed(sum(lengths))
    memory, processed = (
        torch.randn(len(lengths), text, size, generator=random)
        for size in (CONFIG.encoder_embedding_dim, CONFIG.attention_dim)
    )
    for item, length in enumerate(lengths):
        memory[item, length:] = processed[item, length:] = 0
    spoken = [Utterance(length, RandomStreams(3, str(item)), rule) for item, length in enumerate(lengths)]
    return memory.half().cuda(), processed.half().cuda(), spoken


def relative_error(found: Tensor, expected: Tensor) -> float:
    return float((found.double() - expected.double()).norm() / expected.double().norm())


def assert_identical(found: DecodedBatch, expected: DecodedBatch) -> None:
    assert (found.frames, found.stop_reasons) == (expected.frames, expected.stop_reasons)
    for item, frames in enumerate(expected.frames):
        assert torch.equal(found.mels[item, :, :frames], expected.mels[item, :, :frames])
        if found.alignments is not None and expected.alignments is not None:
            assert torch.equal(found.alignments[item, :frames], expected.alignments[item, :frames])


@pytest.fixture(scope="module")
def threshold(plain: TorchEngine) -> Callable[[Engine, Sequence[int], int], float]:
    """A gate threshold that each item passes for the first time somewhere in its first 60 frames."""

    def find(engine: Engine, lengths: Sequence[int], text: int) -> float:
        seen: list[Tensor] = []
        bind = engine.bind

        class Watched:
            name, metadata, contract = engine.name, engine.metadata, engine.contract
            device, limits = engine.device, engine.limits

            def bind(self, tensors: Mapping[str, Tensor]) -> Callable[[], None]:
                run = bind(tensors)

                def watched() -> None:
                    run()
                    seen.append(tensors["gate_prediction"].clone())

                return watched

            def close(self) -> None:
                raise NotImplementedError

        decode(Watched(), *request(lengths, text, StopRule(NEVER, 60)))
        return float(torch.sigmoid(torch.stack(seen).double().amax(0).min()) - 1e-6)

    return find


# The fused step


@pytest.mark.cuda
@pytest.mark.parametrize("text", [1, 31, 128, 200, 1024])
@pytest.mark.parametrize("batch", [1, 2, 3, 8, 17, 64, 128])
def test_the_fused_step_computes_what_the_module_computes(part: DecoderIterPart, batch: int, text: int) -> None:
    torch.manual_seed(1000 * batch + text)
    # As the engine chooses for this GPU and this batch, and as it would on a GPU without overlapping kernels.
    for tuning in (None, Tuning(overlap=False, units=4, warps=2)):
        tensors = step_tensors(batch, text)
        FusedDecoderEngine(part, METADATA, tuning=tuning).bind(tensors)()
        assert_computed(tensors, part)


@pytest.mark.cuda
@pytest.mark.parametrize("batch", [1, 3, 32, 64])
def test_overlapping_kernels_give_the_same_bits(part: DecoderIterPart, batch: int) -> None:
    if torch.cuda.get_device_capability() < (9, 0):
        pytest.skip("kernels overlap on compute capability 9.0 and above")
    lengths = [128 - item for item in range(batch)]
    chosen = default_tuning(torch.device("cuda"), batch)
    results = [
        BlockDecoder(engine, steps=32, runners=runners).decode(
            *request(lengths, 128, StopRule(NEVER, 320)), keep_alignments=True
        )
        for tuning, runners in ((replace(chosen, overlap=False), 2), (chosen, 2), (chosen, 32))
        for engine in [FusedDecoderEngine(part, METADATA, tuning=tuning, persistent=False)]
    ]
    assert_identical(results[1], results[0])
    assert_identical(results[2], results[0])


@pytest.mark.cuda
def test_beyond_its_largest_sizes_the_plain_module_runs(part: DecoderIterPart, plain: TorchEngine) -> None:
    fused = FusedDecoderEngine(part, METADATA)
    for batch, text in ((129, 32), (1, 1030)):
        tensors = step_tensors(batch, text)
        again = {name: tensor.clone() for name, tensor in tensors.items()}
        fused.bind(tensors)()
        plain.bind(again)()
        assert torch.equal(tensors["decoder_output"], again["decoder_output"])


@pytest.mark.cuda
def test_what_it_does_not_support_is_refused_and_runs_on_pytorch() -> None:
    small = ModelMetadata("decoder_iter", "fp16", TINY_TACOTRON2, AudioConfig(), "0" * 64, None, "")
    part = DecoderIterPart(Tacotron2(TINY_TACOTRON2)).half()
    assert FusedDecoderEngine.obstacle(METADATA, "cuda") is None
    assert "needs an NVIDIA GPU" in str(FusedDecoderEngine.obstacle(METADATA, "cpu"))
    with pytest.raises(UserError, match=r"prenet_dim is 16; it takes powers of two.*use the PyTorch engine"):
        FusedDecoderEngine(part, small)
    assert isinstance(best_engine(FusedDecoderEngine, part, small, "cuda"), TorchEngine)


# Many steps as one kernel


def test_the_kernels_weights_are_the_modules() -> None:
    torch.manual_seed(0)
    part = DecoderIterPart(Tacotron2(CONFIG)).half().requires_grad_(False)
    packed = packed_weights(part)
    # Operand A of mma.m16n8k16 (PTX ISA): of each lane's four registers of two numbers, the row and the column.
    block, warp, tile, half, lane, register, number = np.ix_(*map(range, (128, 8, 20, 2, 32, 4, 2)))
    row = 16 * half + lane // 4 + 8 * (register % 2)  # of a block's 32: eight units of each gate
    row = row // 8 * 1024 + 8 * block + row % 8
    for name, cell, widths in (
        ("attention", part.attention_rnn, (256, 512, 1024)),
        ("decoder", part.decoder_rnn, (1024, 512, 1024)),
    ):
        first_tile = first_column = 0
        for width in widths:
            tiles = packed[name][:, :, first_tile : first_tile + width // 128]
            j = tile[:, :, : width // 128]
            # A warp has an eighth of the columns, a lane a quarter of those, a tile four of them in a lane.
            column = first_column + width // 8 * warp + width // 32 * (lane % 4) + 4 * j + 2 * (register // 2) + number
            assert torch.equal(tiles.reshape(128, 8, -1, 2, 32, 4, 2), cell.gates.weight[row, column])
            first_tile, first_column = first_tile + width // 128, first_column + width
        assert first_tile == packed[name].size(2)
    # The small layers: what all threads' shares of a vector's products sum up to.
    hidden, context, prenet = (torch.randn(size) for size in (1024, 512, 256))
    small = packed["small"].float()  # (block, thread, 24)
    shares = torch.cat([hidden.view(256, 4), context.view(256, 2)], 1)
    rows = (small[:, :, :18].unflatten(2, (3, 6)) * shares[:, None]).sum((1, 3)) + packed["small_bias"]
    frame = part.projection.float()(torch.cat([hidden, context]))
    first, second = (weight.float() for weight in part.prenet.parameters())
    torch.testing.assert_close(rows[:, :2].flatten(), first @ frame[:80], rtol=0, atol=2e-3)
    torch.testing.assert_close(rows[:81, 2], frame, rtol=0, atol=2e-3)
    of_prenet = (small[:, :, 18:20] * prenet[:, None]).sum(1)
    torch.testing.assert_close(of_prenet.flatten(), second @ prenet, rtol=0, atol=1e-4)
    query = (small[:, :, 20:] * hidden.view(256, 4)).sum((1, 2))
    torch.testing.assert_close(query, part.query_layer.weight.float() @ hidden, rtol=0, atol=1e-4)


@pytest.mark.cuda
@pytest.mark.parametrize("text", [1, 32, 101, 128, 192, 256])
def test_many_steps_at_once_are_what_the_module_gives(
    part: DecoderIterPart, persistent: FusedDecoderEngine, text: int
) -> None:
    torch.manual_seed(text)
    contract, steps = contract_of(METADATA), MAX_STEPS
    tensors = step_tensors(1, text)
    sizes = {"decoder_output": CONFIG.n_mel_channels, "gate_prediction": 1, "out_attention_weights": text}
    for name, size in sizes.items():
        tensors[name] = torch.full((steps, 1, size), torch.nan, device="cuda").half()
    random = np.random.default_rng(text)
    exact = copy.deepcopy(part).double()
    state = {name: tensors[name].double() for name in DECODER_STATE}
    fixed = [tensors["memory"].double(), tensors["processed_memory"].double(), tensors["mask"]]
    for _ in range(3):  # launches that go on where the last one ended
        masks = random.integers(0, 2, (steps, 2, CONFIG.prenet_dim), np.uint8)
        tensors["prenet_dropout"] = torch.from_numpy(np.packbits(masks, axis=2))
        persistent.run_steps(tensors)
        expected: dict[str, list[Tensor]] = {name: [] for name in sizes}
        for mask in torch.from_numpy(masks).cuda().double() / PRENET_KEEP:
            outputs = exact(*state.values(), *fixed, mask[None])
            values = dict(zip((spec.name for spec in contract.outputs), outputs, strict=True))
            state = {name: values[result] for name, result in DECODER_STATE.items()}
            for name in sizes:
                expected[name].append(values[name])
        for name, steps_values in expected.items():
            error = relative_error(tensors[name], torch.stack(steps_values))
            assert error < (3e-2 if name == "gate_prediction" else 2e-3), f"{name}: {error:.1e}"
        for name, value in state.items():
            assert relative_error(tensors[name], value) < 2e-3, name


@pytest.mark.cuda
def test_an_utterance_alone_and_beside_another_that_comes_and_goes(
    plain: TorchEngine, persistent: FusedDecoderEngine
) -> None:
    # Blocks of many steps at once, then of two slots and as many steps as usual, then of one slot again.
    rule = StopRule(NEVER, 200)
    memory, processed_memory, (first, second) = request([128, 60], 128, rule)
    expected = decode(plain, *request([128, 60], 128, rule))
    decoder = make_decoder(persistent)
    session = DecoderSession(decoder)
    frames: list[Tensor] = []

    def advance(blocks: int) -> None:
        for _ in range(blocks):
            block = session.start()
            frames.append(block.frames[:, session.slots.index(first)])
            block.finish()

    session.join(memory[:1], processed_memory[:1], [first])
    advance(2)
    session.join(memory[1:], processed_memory[1:], [second])
    advance(3)
    session.leave([second])
    session.compact()
    advance(3)
    assert [key[:2] for key in decoder.cached] == [(2, 128), (1, 128)]
    assert [len(part) for part in frames] == [MAX_STEPS] * 2 + [decoder.steps] * 3 + [MAX_STEPS] * 3
    found = torch.cat(frames)[:200].t()
    assert relative_error(found, expected.mels[0]) < 5e-2


@pytest.mark.cuda
def test_many_steps_at_once_say_the_same_each_time_and_without_graphs(persistent: FusedDecoderEngine) -> None:
    rule = StopRule(NEVER, 100)
    expected = make_decoder(persistent).decode(*request([128], 128, rule), keep_alignments=True)
    decoder = BlockDecoder(persistent, runners=16, cuda_graph=False)
    for _ in range(3):
        assert_identical(decoder.decode(*request([128], 128, rule), keep_alignments=True), expected)


@pytest.mark.cuda
def test_many_steps_at_once_with_a_nan_gate(persistent: FusedDecoderEngine) -> None:
    decoder, rule = make_decoder(persistent), StopRule(NEVER, 40)
    memory, processed_memory, spoken = request([32], 32, rule)
    expected = decoder.decode(*request([32], 32, rule))
    with pytest.raises(UserError, match="the stop gate is NaN at step 1;"):
        decoder.decode(torch.full_like(memory, torch.nan), processed_memory, spoken)
    assert_identical(decoder.decode(*request([32], 32, rule)), expected)


@pytest.mark.cuda
def test_many_steps_at_once_and_the_plain_loop_agree_over_an_utterance(
    plain: TorchEngine, persistent: FusedDecoderEngine
) -> None:
    rule = StopRule(NEVER, 200)
    expected = decode(plain, *request([128], 128, rule))
    found = make_decoder(persistent).decode(*request([128], 128, rule))
    assert relative_error(found.mels, expected.mels) < 5e-2


# The captured loop


@pytest.mark.cuda
@pytest.mark.parametrize("lengths", [[64], [40, 64, 17], [64, 63, 60, 33, 20, 9, 2, 1]])
def test_captured_and_plain_loop_are_identical(
    engine: Engine, threshold: Callable[[Engine, Sequence[int], int], float], lengths: list[int]
) -> None:
    rule = StopRule(threshold(engine, lengths, 64))
    expected = decode(engine, *request(lengths, 64, rule), keep_alignments=True)
    assert "gate" in expected.stop_reasons
    for runners in (2, 16):
        found = BlockDecoder(engine, runners=runners).decode(*request(lengths, 64, rule), keep_alignments=True)
        assert_identical(found, expected)


@pytest.mark.cuda
def test_text_between_buckets_is_padded_and_stays_the_same_within_rounding(engine: Engine) -> None:
    lengths, rule = [50, 41], StopRule(NEVER, 40)
    expected = decode(engine, *request(lengths, 50, rule), keep_alignments=True)
    found = make_decoder(engine).decode(*request(lengths, 50, rule), keep_alignments=True)
    assert found.frames == expected.frames == [40, 40]
    assert found.alignments is not None
    assert found.alignments.shape == (2, 40, 50)
    assert relative_error(found.mels, expected.mels) < 2e-2


@pytest.mark.cuda
def test_requests_of_changing_size_after_one_another(engine: Engine) -> None:
    decoder = make_decoder(engine)
    for batch, text in ((8, 128), (4, 64), (8, 128), (1, 256), (8, 64)):
        lengths = [text - 3 * item for item in range(batch)]
        rule = StopRule(NEVER, 70)
        found = decoder.decode(*request(lengths, text, rule))
        assert_identical(found, decode(engine, *request(lengths, text, rule)))
    assert [key[:2] for key in decoder.cached] == [(4, 64), (8, 128), (1, 256), (8, 64)]


@pytest.mark.cuda
@pytest.mark.parametrize("cap", [1, 16, 33])
def test_caps_end_each_item(engine: Engine, cap: int) -> None:
    rule = StopRule(NEVER, cap)
    found = BlockDecoder(engine).decode(*request([32, 5], 32, rule))
    assert found.frames == [cap, cap]
    assert_identical(found, decode(engine, *request([32, 5], 32, rule)))


@pytest.mark.cuda
def test_a_nan_gate_is_an_error_and_the_next_request_is_not_harmed(engine: Engine) -> None:
    decoder, rule = make_decoder(engine), StopRule(NEVER, 40)
    memory, processed_memory, spoken = request([32], 32, rule)
    with pytest.raises(UserError, match="the stop gate is NaN at step 1;"):
        decoder.decode(torch.full_like(memory, torch.nan), processed_memory, spoken)
    assert_identical(decoder.decode(*request([32], 32, rule)), decode(engine, *request([32], 32, rule)))


@pytest.mark.cuda
def test_memory_stays_bounded_over_many_shapes(fused: FusedDecoderEngine) -> None:
    decoder = BlockDecoder(fused, runners=16, max_bytes=8 << 20)
    peaks = []
    for _ in range(2):
        for batch in range(1, 13):
            decoder.decode(*request([128] * batch, 128, StopRule(NEVER, 20)))
        torch.cuda.synchronize()
        peaks.append(torch.cuda.memory_allocated())
    assert peaks[1] <= peaks[0] + (8 << 20)
    assert len(decoder.cached) < 12


@pytest.mark.cuda
def test_fused_and_plain_engine_agree_over_an_utterance(plain: TorchEngine, fused: FusedDecoderEngine) -> None:
    lengths, rule = [128, 100], StopRule(NEVER, 200)
    expected = decode(plain, *request(lengths, 128, rule))
    found = make_decoder(fused).decode(*request(lengths, 128, rule))
    assert relative_error(found.mels, expected.mels) < 5e-2


@pytest.mark.cuda
def test_without_graphs_the_same_blocks_run(plain: TorchEngine) -> None:
    lengths, rule = [32, 20], StopRule(NEVER, 40)
    found = make_decoder(plain, cuda_graph=False).decode(*request(lengths, 32, rule))
    assert_identical(found, decode(plain, *request(lengths, 32, rule)))
