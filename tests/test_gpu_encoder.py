"""The encoder's bidirectional LSTM as one kernel gives what PyTorch's two give; on GPUs, the engine the whole part."""

import copy
import dataclasses
import importlib.util

import pytest
import torch
from torch import Tensor

from common.config import AudioConfig, Tacotron2Config
from common.engine import TorchEngine, infer
from common.errors import UserError
from common.metadata import ModelMetadata
from common.triton_engine import best_engine
from tacotron2.gpu.encoder_engine import FusedEncoder, FusedEncoderEngine
from tacotron2.model import Tacotron2
from tacotron2.parts import EncoderPart
from tests.models import TINY_TACOTRON2
from tests.scripts import run_interpreted


def metadata_of(config: Tacotron2Config) -> ModelMetadata:
    return ModelMetadata("encoder", "fp16", config, AudioConfig(), "0" * 64, None, "")


def random_part(config: Tacotron2Config) -> EncoderPart:
    """Random weights, somewhat larger than at initialisation, so that the LSTMs' states move."""
    torch.manual_seed(0)
    part = EncoderPart(Tacotron2(config)).eval().requires_grad_(False)
    for lstm in (part.forward_lstm, part.backward_lstm):
        for parameter in lstm.parameters():
            parameter.mul_(2)
    return part


def random_ids(lengths: list[int]) -> dict[str, Tensor]:
    ids = torch.randint(1, 148, (len(lengths), max(lengths)), dtype=torch.int32)
    for row, length in zip(ids, lengths, strict=True):
        row[length:] = 0
    return {"sequences": ids, "sequence_lengths": torch.tensor(lengths, dtype=torch.int32)}


def relative_error(found: Tensor, expected: Tensor) -> float:
    return float((found.double() - expected.double()).norm() / expected.double().norm())


def interpret() -> None:
    """The kernel in Triton's interpreter, which runs one program after another: one program for each direction."""
    part, lengths = random_part(Tacotron2Config(encoder_embedding_dim=64, symbols_embedding_dim=64)), [9, 5, 1]
    position, ends = torch.arange(9), torch.tensor(lengths, dtype=torch.int32)
    valid = position < ends[:, None]
    x = torch.randn(3, 9, 64) * valid.unsqueeze(2)
    mirrored = torch.where(valid, ends[:, None] - 1 - position, position)
    out = torch.zeros(3, 9, 64, dtype=torch.float16)
    launch = FusedEncoder(copy.deepcopy(part).half(), units=32).launch(x.half(), ends, out)
    constants = {name: launch.constants[name] for name in ("HIDDEN", "UNITS")}
    dataclasses.replace(launch, constants=constants)()
    assert relative_error(out, part.both_directions(x, mirrored, ends) * valid.unsqueeze(2)) < 2e-3


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
def test_the_kernel_computes_both_lstms_in_the_interpreter() -> None:
    run_interpreted("test_gpu_encoder.interpret()")


def test_what_is_not_supported_is_said_and_runs_on_pytorch() -> None:
    metadata, part = metadata_of(TINY_TACOTRON2), random_part(TINY_TACOTRON2)
    with pytest.raises(UserError, match="LSTMs of 16 units; it takes powers of two from 32"):
        FusedEncoderEngine(part, metadata, "cpu")
    assert isinstance(best_engine(FusedEncoderEngine, part, metadata, "cpu"), TorchEngine)


@pytest.mark.cuda
@pytest.mark.parametrize("lengths", [[1], [128], [128, 40, 1], [256], list(range(20, 84, 2))])
def test_the_engine_computes_what_the_part_computes(lengths: list[int]) -> None:
    config = Tacotron2Config()
    part = random_part(config)
    engine = FusedEncoderEngine(copy.deepcopy(part).half(), metadata_of(config))
    exact = part.double().cuda()
    for _ in range(4):  # run, captured, replayed: on new inputs each time
        inputs = {name: tensor.cuda() for name, tensor in random_ids(lengths).items()}
        found, expected = infer(engine, **inputs), exact(*inputs.values())
        for name, value in zip(("memory", "processed_memory"), expected, strict=False):
            assert relative_error(found[name], value) < 5e-3
        for item, length in enumerate(lengths):
            assert not found["memory"][item, length:].any()


@pytest.mark.cuda
def test_an_utterance_has_the_same_memory_alone_and_in_a_batch() -> None:
    config = Tacotron2Config()
    engine = FusedEncoderEngine(random_part(config).half(), metadata_of(config))
    inputs = {name: tensor.cuda() for name, tensor in random_ids([60, 41, 7]).items()}
    together = infer(engine, **inputs)["memory"]
    for item in range(3):
        alone = infer(engine, **{name: tensor[item : item + 1] for name, tensor in inputs.items()})["memory"]
        assert relative_error(alone[0], together[item]) < 2e-3
