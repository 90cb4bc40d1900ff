"""CUDA graphs and the cache of shapes: what engines rely on, without a GPU where that is possible."""

import gc
import logging
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from common import cuda
from common.config import AudioConfig
from common.cuda import ShapeCache, capture, on_device, with_index
from common.engine import TorchEngine, infer
from common.graph_engine import GraphEngine, GraphRun
from common.metadata import ModelMetadata
from tests.models import TINY_TACOTRON2


def test_the_shape_used_longest_ago_gives_way() -> None:
    cache = ShapeCache[str, str](2)
    assert [cache.get(key, key.upper) for key in ("a", "b", "a", "c")] == ["A", "B", "A", "C"]
    assert cache.keys() == ["a", "c"]


def test_a_shape_that_is_there_is_not_made_again() -> None:
    cache = ShapeCache[str, object](2)
    assert cache.get("a", object) is cache.get("a", object)


def test_room_is_made_by_size_and_before_the_new_value() -> None:
    sizes = {"a": 60, "b": 30, "c": 50, "larger than all": 1000}
    cache = ShapeCache[str, int](100, sizes.__getitem__)
    cache.get("a", lambda: 1)
    cache.get("b", lambda: 2)
    cache.get("c", lambda: len(cache.keys()))
    assert cache.keys() == ["b", "c"]
    assert cache.get("c", lambda: -1) == 1  # `b` alone was there when it was made
    cache.get("larger than all", lambda: 4)
    assert cache.keys() == ["larger than all"]


def test_a_shape_that_could_not_be_made_is_tried_again() -> None:
    cache = ShapeCache[str, int](2)

    def fail() -> int:
        raise torch.OutOfMemoryError("no memory")

    with pytest.raises(torch.OutOfMemoryError):
        cache.get("a", fail)
    assert cache.get("a", lambda: 1) == 1


def test_on_the_cpu_a_run_is_its_own_graph() -> None:
    def run() -> None:
        raise AssertionError("not called")

    assert capture(run, torch.device("cpu")) is run
    with on_device(torch.device("cpu")):
        assert with_index("cpu") == torch.device("cpu")


def test_a_gpu_that_the_kernels_never_ran_on_is_said_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    found = {"name": "NVIDIA L40S", "capability": (8, 9)}
    monkeypatch.setattr(cuda, "_warned_of", set())
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: found["name"])
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: found["capability"])
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            cuda.say_if_unmeasured(torch.device("cuda", 0))
        assert len(caplog.records) == 1
        assert "NVIDIA L40S (compute capability 8.9)" in caplog.text
        caplog.clear()
        found.update(name="NVIDIA H200", capability=(9, 0))
        cuda.say_if_unmeasured(torch.device("cuda", 0))
    assert not caplog.records


# On a GPU


def doubling(x: Tensor) -> Callable[[], None]:
    def run() -> None:
        x.mul_(2)

    return run


@pytest.mark.cuda
def test_a_failed_capture_leaves_no_trace() -> None:
    device, x = with_index("cuda"), torch.ones(4, device="cuda")
    before = torch.cuda.current_stream()

    def broken() -> None:
        x.mul_(2)
        raise torch.OutOfMemoryError("no memory")

    def waiting() -> None:
        x.mul_(2)
        x.sum().item()  # waits for the GPU, which invalidates the capture

    for run, message in ((broken, "no memory"), (waiting, "captur")):
        with pytest.raises(RuntimeError, match=message):
            capture(run, device, warm_up=False)
        assert torch.cuda.current_stream() == before
        assert not torch.cuda.is_current_stream_capturing()
    x.fill_(1)
    replay = capture(doubling(x), device, warm_up=False)
    replay()
    replay()
    assert x.tolist() == [4] * 4


@pytest.mark.cuda
def test_garbage_is_left_alone_during_a_capture() -> None:
    class Cycle:
        def __init__(self, graph: Callable[[], None]) -> None:
            self.graph, self.itself = graph, self

    device, x = with_index("cuda"), torch.ones(4, device="cuda")

    def run() -> None:
        x.mul_(2)
        kept = [[] for _ in range(2 * gc.get_threshold()[0])]  # would start the collector
        assert len(kept) > 1000

    gc.collect()
    gc.disable()  # so that the first graph isn't collected too early
    Cycle(capture(doubling(x), device))
    gc.enable()
    capture(run, device, warm_up=False)()
    assert gc.isenabled()


@pytest.mark.cuda
def test_a_run_whose_first_capture_fails_is_captured_the_next_time() -> None:
    x, failures = torch.ones(4, device="cuda"), iter([False, True, False])

    def run() -> None:
        x.mul_(2)
        if next(failures):
            raise torch.OutOfMemoryError("no memory")

    run_or_replay = GraphRun(run, with_index("cuda"), warm_up=False)
    run_or_replay()
    with pytest.raises(torch.OutOfMemoryError):
        run_or_replay()
    for _ in range(3):  # captured and replayed, then replayed only
        run_or_replay()
    assert x.tolist() == [16] * 4


@pytest.mark.cuda
def test_a_captured_engine_gives_what_the_engine_gives() -> None:
    class Postnet(nn.Module):
        def forward(self, mel: Tensor) -> Tensor:
            return mel.flip(2) * 2

    metadata = ModelMetadata("postnet", "fp16", TINY_TACOTRON2, AudioConfig(), "0" * 64, None, "")
    engine = GraphEngine(TorchEngine(Postnet(), metadata, "cuda"))
    for _ in range(4):
        for frames in (5, 9):
            mel = torch.randn(1, TINY_TACOTRON2.n_mel_channels, frames, device="cuda").half()
            assert torch.equal(infer(engine, mel_outputs=mel)["mel_outputs_postnet"], mel.flip(2) * 2)
    engine.close()


@pytest.mark.cuda
def test_graphs_work_on_a_gpu_that_is_not_the_current_one() -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    x = torch.ones(4, device="cuda:1")
    replay = capture(doubling(x), torch.device("cuda", 1))
    replay()
    torch.cuda.synchronize(1)
    assert torch.cuda.current_device() == 0
    assert x.tolist() == [4] * 4
