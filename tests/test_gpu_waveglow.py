"""The fast WaveGlow engine computes what WaveGlow's part computes, and says where it can't run.

What is folded is checked in plain PyTorch on any machine, the kernels themselves by Triton's interpreter where Triton
is installed, and the engine on NVIDIA GPUs.
"""

import copy
import dataclasses
import importlib.util

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from common.checkpoint import LoadedModel
from common.config import AudioConfig, WaveGlowConfig
from common.engine import TorchEngine, infer
from common.errors import UserError
from common.metadata import ModelMetadata, Precision
from common.triton_engine import best_engine
from tests.models import TINY_TACOTRON2
from tests.scripts import run_interpreted
from waveglow.conditioning import upsampling_taps
from waveglow.gpu import engine as waveglow_engine
from waveglow.gpu.engine import FastWaveGlowEngine
from waveglow.gpu.folding import OUTPUTS, WIDTH, fold, width_of
from waveglow.gpu.network import Network
from waveglow.gpu.tuning import GENERAL, HOPPER, Tiles, Tuning
from waveglow.model import WaveGlow
from waveglow.parts import WaveGlowPart

TWO_KERNELS = dataclasses.replace(HOPPER, fused=None)
SMALL = WaveGlowConfig(n_flows=4, n_early_every=2, wn_layers=3, wn_channels=64)
FEW_MELS = dataclasses.replace(SMALL, n_mel_channels=20)


def random_part(config: WaveGlowConfig, seed: int = 0, rank: int | None = None) -> WaveGlowPart:
    """Random weights whose coupling matters: the outputs' convolutions aren't tiny. With a rank, the upsampling has it
    and is conditioned with it."""
    torch.manual_seed(seed)
    model = WaveGlow(config)
    for network in model.WN:
        torch.nn.init.normal_(network.end.weight, 0, 0.05)
    if rank is not None:
        taps = upsampling_taps(model.upsample, config.n_group).flatten(1)  # (positions, the rest)
        factors = torch.randn(len(taps), rank) @ torch.randn(rank, len(taps)) / len(taps)
        mels = config.n_mel_channels
        low = (factors @ taps).view(len(taps), -1, mels, config.n_group, mels).permute(4, 2, 1, 0, 3)
        model.upsample.weight = torch.nn.Parameter(low.reshape(model.upsample.weight.shape).contiguous())
    return WaveGlowPart(model, "exact" if rank is None else rank).eval().requires_grad_(False)


def metadata_of(config: WaveGlowConfig, precision: Precision = "fp16", rank: int | None = None) -> ModelMetadata:
    return ModelMetadata("waveglow", precision, config, AudioConfig(), "", 0.6, conditioning_rank=rank)


def random_inputs(config: WaveGlowConfig, batch: int, frames: int, device: str = "cpu") -> tuple[Tensor, Tensor]:
    mel = torch.randn(batch, config.n_mel_channels, frames, device=device)
    return mel, 0.7 * torch.randn(batch, config.n_group, frames * 256 // config.n_group, device=device)


def relative_error(actual: Tensor, expected: Tensor) -> float:
    return ((actual.double() - expected.double()).norm() / expected.double().norm()).item()


def run_folded(part: WaveGlowPart, mel: Tensor, z: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """What the kernels compute, in FP32, read off the folded tables of `dtype` with ordinary convolutions."""
    config = part.config
    width, group, positions = width_of(config), config.n_group, z.size(2)
    phases = positions // mel.size(2)
    mel_taps = torch.cat([F.pad(mel, (tap, 0))[:, :, : mel.size(2)] for tap in range(4)], 1)
    mel_taps = F.pad(mel_taps, (0, 0, 0, -mel_taps.size(1) % WIDTH))
    audio, early = z[:, : part.remaining], z[:, part.remaining :]
    ranks = 0 if part.rank is None else part.rank + 1
    for flow in fold(part, torch.device("cpu"), dtype, ranks):
        inputs = audio.new_zeros(audio.size(0), WIDTH, positions)
        inputs[:, : audio.size(1)], inputs[:, group] = audio, 1
        hidden = inputs
        outputs = flow.output_bias[:, None].clone()
        for i, layer in enumerate(flow.layers):
            steps = config.wn_kernel_size * (hidden.size(1) // WIDTH)
            taps, condition = layer.gate.float().view(-1, 2 * width, WIDTH).tensor_split([steps])
            weight = taps.unflatten(0, (config.wn_kernel_size, -1)).permute(2, 1, 3, 0).flatten(1, 2)
            padding = 2**i * (config.wn_kernel_size // 2)
            gate = F.conv1d(hidden, weight, layer.gate_bias, dilation=2**i, padding=padding)
            if flow.products is None:
                by_phase = condition.unflatten(0, (phases, -1)).transpose(1, 2).flatten(2)
                gate = gate + torch.einsum("pnk,bkf->bnfp", by_phase, mel_taps).flatten(2)
            else:
                products = torch.einsum("km,bkf->bfm", flow.products.float(), mel_taps)
                products = products.to(dtype).float().unflatten(2, (ranks, len(flow.layers), -1))[:, :, : part.rank, i]
                weights = part.flows[0].condition.weights.to(dtype).float()
                gate = gate + torch.einsum("rp,bfrn->bnfp", weights, products).flatten(2)
            a, b = (half.flatten(1, 2) for half in gate.unflatten(1, (-1, 2, WIDTH)).unbind(2))
            gated = torch.tanh(a) * (0.5 * torch.tanh(b) + 0.5)
            residual = layer.residual.float().view(-1, width + OUTPUTS, WIDTH).transpose(0, 1).flatten(1)
            both = torch.einsum("nk,bkg->bng", residual, torch.cat((gated, inputs), 1) if i == 0 else gated)
            update = both[:, :width] + layer.residual_bias[:, None]
            hidden = update if i == 0 else hidden + update
            outputs = outputs + both[:, width:]
        half = flow.channels // 2
        shift, log_scale = outputs[:, :half], outputs[:, half : 2 * half]
        coupled = torch.cat((audio[:, :half], (audio[:, half:] - shift) * torch.exp(-log_scale)), 1)
        audio = torch.einsum("bjg,ji->big", coupled, flow.mixer[: flow.channels, flow.early :])
        audio = torch.cat((early[:, : flow.early], audio[:, : flow.channels]), 1)
        early = early[:, flow.early :]
    return audio.transpose(1, 2).flatten(1)


@pytest.mark.numerical
@pytest.mark.parametrize(
    ("config", "rank"),
    [
        (SMALL, None),
        (SMALL, 4),
        (dataclasses.replace(FEW_MELS, wn_channels=128, wn_layers=2, n_flows=2), None),
        (dataclasses.replace(FEW_MELS, wn_kernel_size=5), None),
        (dataclasses.replace(FEW_MELS, wn_kernel_size=5), 3),
        (dataclasses.replace(FEW_MELS, n_group=4, n_early_size=2), None),
        (dataclasses.replace(FEW_MELS, n_group=4, n_early_size=2), 5),
        (dataclasses.replace(FEW_MELS, wn_layers=1), None),
        (dataclasses.replace(FEW_MELS, wn_channels=32), 4),
        (dataclasses.replace(FEW_MELS, wn_channels=96), None),
        (dataclasses.replace(FEW_MELS, wn_channels=96), 4),
        (dataclasses.replace(FEW_MELS, wn_channels=160), None),
    ],
    ids=str,
)
def test_the_folded_weights_compute_the_same_function(config: WaveGlowConfig, rank: int | None) -> None:
    part = random_part(config, rank=rank)
    mel, z = random_inputs(config, batch=2, frames=9)
    assert relative_error(run_folded(part, mel, z), part(mel, z)) < 1e-5


@pytest.mark.slow
def test_trained_weights_lose_no_more_by_folding_than_by_rounding_alone(demo_waveglow: LoadedModel) -> None:
    assert isinstance(demo_waveglow.model, WaveGlow)
    part = WaveGlowPart(demo_waveglow.model).eval().requires_grad_(False)
    torch.manual_seed(0)
    mel = torch.randn(1, 80, 30).cumsum(2) * 0.1 - 6  # slowly moving, as speech does
    z = 0.7 * torch.randn(1, 8, 30 * 32)
    exact = part(mel, z)
    rounded = copy.deepcopy(part).half().float()(mel, z)
    assert relative_error(run_folded(part, mel, z, torch.float16), exact) < 1.5 * relative_error(rounded, exact)


@pytest.mark.parametrize(
    ("metadata", "reason"),
    [
        (metadata_of(SMALL), "needs an NVIDIA GPU"),
        (metadata_of(SMALL, "fp32"), "FP16 only"),
        (metadata_of(dataclasses.replace(SMALL, n_group=12)), "groups of 12 samples"),
        (dataclasses.replace(metadata_of(SMALL), part="postnet", model=TINY_TACOTRON2), "not the postnet"),
    ],
)
def test_what_is_not_supported_is_said(metadata: ModelMetadata, reason: str) -> None:
    assert reason in str(FastWaveGlowEngine.obstacle(metadata, "cpu"))
    with pytest.raises(UserError, match=reason):
        FastWaveGlowEngine(random_part(SMALL), metadata, "cpu")


def test_without_a_gpu_the_best_engine_is_pytorch() -> None:
    engine = best_engine(FastWaveGlowEngine, random_part(SMALL), metadata_of(SMALL), "cpu")
    assert isinstance(engine, TorchEngine)
    assert infer(engine, mel=torch.zeros(1, 80, 2).half(), z=torch.zeros(1, 8, 64).half())["audio"].shape == (1, 512)


INTERPRETED = Tuning(Tiles(128, 128, 4, 2), Tiles(64, 64, 4, 2), False, False, persistent=True, approximate=False)


def interpret(descriptors: bool, channels: int = 64, rank: int | None = None) -> None:
    """Runs the kernels in Triton's interpreter, on memory full of NaN but for the zeros that they rely on."""
    config = WaveGlowConfig(n_group=16, n_flows=2, n_early_every=1, wn_layers=3, wn_channels=channels)
    part, frames = random_part(config, rank=rank), [3, 1, 5]
    inputs = [random_inputs(config, 1, count) for count in frames]
    network = Network(part, torch.device("cpu"), dataclasses.replace(INTERPRETED, descriptors=descriptors))
    geometry = network.geometry
    rows = geometry.rows_of(frames) + 2  # more than they take
    memory = torch.full((geometry.bytes_for(rows),), 255, dtype=torch.uint8)
    memory[: 2 * geometry.gap * WIDTH] = 0
    buffers = geometry.buffers(memory, rows, frames)
    assert buffers.table[geometry.gap :].isnan().all()
    mel, z = (torch.cat([pair[i][0].half() for pair in inputs], 1) for i in (0, 1))
    audio = torch.full((sum(frames) * 256,), float("nan"), dtype=torch.float16)
    for launch in network.launches(buffers, mel, z, audio):
        launch()
    assert relative_error(audio, torch.cat([part(*pair)[0] for pair in inputs])) < 2e-3


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
@pytest.mark.parametrize("case", ["False", "True", "True, 96, 3", "False, 32, 9"])
def test_the_kernels_compute_the_same_function_in_the_interpreter(case: str) -> None:
    run_interpreted(f"test_gpu_waveglow.interpret({case})")


@pytest.fixture(scope="module", params=[(64, None), (256, None), (96, 4), (256, 4)], ids=str)
def part(request: pytest.FixtureRequest) -> WaveGlowPart:
    channels, rank = request.param
    return random_part(WaveGlowConfig(wn_channels=channels), rank=rank)


@pytest.fixture(
    scope="module",
    params=[None, GENERAL, TWO_KERNELS],
    ids=["this GPU's tuning", "general tuning", "two kernels a layer"],
)
def engine(request: pytest.FixtureRequest, part: WaveGlowPart):
    if request.param is TWO_KERNELS and torch.cuda.get_device_capability()[0] != 9:
        pytest.skip("for Hopper alone")
    engine = FastWaveGlowEngine(part, metadata_of(part.config, rank=part.rank), "cuda", request.param)
    yield engine
    engine.close()


@pytest.fixture
def small_engine():
    engine = FastWaveGlowEngine(random_part(SMALL), metadata_of(SMALL))
    yield engine
    engine.close()


def half_inputs(config: WaveGlowConfig, batch: int, frames: int) -> dict[str, Tensor]:
    mel, z = random_inputs(config, batch, frames, "cuda")
    return {"mel": mel.half(), "z": z.half()}


@pytest.mark.cuda
@pytest.mark.parametrize(
    ("batch", "frames"), [(1, 1), (1, 37), (1, 57), (1, 600), (1, 777), (3, 57), (8, 100), (32, 75)]
)
def test_the_engine_computes_the_part(engine: FastWaveGlowEngine, part: WaveGlowPart, batch: int, frames: int) -> None:
    mel, z = random_inputs(part.config, batch, frames, "cuda")
    with torch.backends.cudnn.flags(allow_tf32=False), torch.inference_mode():
        exact = part.cuda()(mel, z)
    audio = infer(engine, mel=mel.half(), z=z.half())["audio"]
    assert exact.std() > 0.3
    assert audio.isfinite().all()
    assert relative_error(audio, exact) < 2e-3


@pytest.mark.cuda
@pytest.mark.parametrize(
    ("channels", "rank", "n_group"),
    [(32, 1, 8), (160, None, 8), (256, 9, 8), (224, 20, 8), (96, 12, 4), (64, 3, 16)],
)
@pytest.mark.parametrize("batch", [1, 16])
def test_other_ranks_and_widths_compute_the_part_too(channels: int, rank: int | None, n_group: int, batch: int) -> None:
    config = WaveGlowConfig(n_flows=4, wn_channels=channels, n_group=n_group)
    part = random_part(config, rank=rank)
    engine = FastWaveGlowEngine(part, metadata_of(config, rank=rank))
    mel, z = random_inputs(config, batch, 203, "cuda")
    with torch.backends.cudnn.flags(allow_tf32=False), torch.inference_mode():
        exact = part.cuda()(mel, z)
        half = part.half()(mel.half(), z.half())
    audio = infer(engine, mel=mel.half(), z=z.half())["audio"]
    engine.close()
    # Rounding grows with the size of a group, in PyTorch's FP16 as here; other sums round otherwise, not much worse.
    assert relative_error(audio, exact) < 2 * relative_error(half, exact)


@pytest.mark.cuda
def test_an_utterance_does_not_depend_on_its_batch(engine: FastWaveGlowEngine, part: WaveGlowPart) -> None:
    inputs = half_inputs(part.config, 5, 61)
    together = infer(engine, **inputs)["audio"]
    for i in range(5):
        alone = infer(engine, **{name: tensor[i : i + 1].contiguous() for name, tensor in inputs.items()})["audio"]
        # The library's product of a frame's mel is another kernel for more frames, and may round otherwise.
        assert relative_error(alone[0], together[i]) < 1e-3 if part.rank else torch.equal(alone[0], together[i])


@pytest.mark.cuda
@pytest.mark.parametrize("frames", [[61], [5, 300, 1, 61, 61, 128], list(range(20, 84))])
def test_utterances_of_different_lengths_in_one_run_are_what_they_are_alone(
    engine: FastWaveGlowEngine, part: WaveGlowPart, frames: list[int]
) -> None:
    for _ in range(3):  # launched, captured, replayed
        inputs = [half_inputs(part.config, 1, count) for count in frames]
        together = engine.run_packed([one["mel"][0] for one in inputs], [one["z"][0] for one in inputs])
        for one, audio in zip(inputs, together, strict=True):
            assert relative_error(audio, infer(engine, **one)["audio"][0]) < 1e-3  # see above


@pytest.mark.cuda
def test_graphs_replay_what_was_launched(small_engine: FastWaveGlowEngine) -> None:
    direct = FastWaveGlowEngine(random_part(SMALL), metadata_of(SMALL), graphs=False)
    inputs = half_inputs(SMALL, 2, 50)
    audio = torch.empty(2, 50 * 256, dtype=torch.float16, device="cuda")
    run = small_engine.bind({**inputs, "audio": audio})
    for _ in range(3):  # launched, captured, replayed
        for tensor in inputs.values():
            tensor.normal_()
        run()
        assert torch.equal(audio, infer(direct, **inputs)["audio"])


@pytest.mark.cuda
def test_a_run_can_be_captured_into_a_larger_graph(small_engine: FastWaveGlowEngine) -> None:
    inputs = half_inputs(SMALL, 1, 40)
    audio = torch.empty(1, 40 * 256, dtype=torch.float16, device="cuda")
    run = small_engine.bind({**inputs, "audio": audio})
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
        audio.mul_(2)
    inputs["z"].normal_()
    graph.replay()
    assert torch.equal(audio, 2 * infer(small_engine, **inputs)["audio"])


@pytest.mark.cuda
def test_nothing_of_one_run_reaches_the_next(small_engine: FastWaveGlowEngine) -> None:
    inputs = half_inputs(SMALL, 3, 70)
    expected = infer(small_engine, **inputs)["audio"]
    for batch, frames in ((3, 70), (1, 130), (5, 11)):
        broken = half_inputs(SMALL, batch, frames)
        broken["mel"].fill_(float("nan"))
        assert infer(small_engine, **broken)["audio"].isnan().any()
        assert torch.equal(infer(small_engine, **inputs)["audio"], expected)


@pytest.mark.cuda
def test_bound_runs_outlive_larger_shapes_and_a_full_cache(small_engine: FastWaveGlowEngine) -> None:
    inputs = half_inputs(SMALL, 1, 20)
    audio = torch.empty(1, 20 * 256, dtype=torch.float16, device="cuda")
    run = small_engine.bind({**inputs, "audio": audio})
    run()
    run()
    expected = audio.clone()
    infer(small_engine, **half_inputs(SMALL, 4, 30 + 10 * waveglow_engine.CACHED_SHAPES))
    for frames in range(30, 30 + 10 * waveglow_engine.CACHED_SHAPES, 10):
        for _ in range(2):
            infer(small_engine, **half_inputs(SMALL, 4, frames))
    assert len(small_engine._plans.keys()) == waveglow_engine.CACHED_SHAPES
    audio.zero_()
    run()
    assert torch.equal(audio, expected)
