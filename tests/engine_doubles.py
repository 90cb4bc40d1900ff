"""Engines for tests of what stands on engines: quick ones, and ones that do what the test wants."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from common.checkpoint import LoadedModel
from common.config import AudioConfig
from common.engine import Engine, infer
from common.metadata import Part
from pipeline.torch_engines import torch_engines
from tests.models import TINY_TACOTRON2, TINY_WAVEGLOW, tiny_tacotron2, tiny_waveglow


def tiny_engines(**changes: Any) -> dict[Part, Engine]:
    """Untrained models of few mel channels: quick, and as hard to join as trained ones.

    Args:
        changes: of Tacotron 2's configuration.
    """
    tacotron2 = tiny_tacotron2(dataclasses.replace(TINY_TACOTRON2, n_mel_channels=8, **changes))
    waveglow = tiny_waveglow(dataclasses.replace(TINY_WAVEGLOW, n_mel_channels=8))
    return torch_engines(
        LoadedModel(tacotron2, AudioConfig(), "0" * 64, None, ""),
        LoadedModel(waveglow, AudioConfig(), "1" * 64, 0.6, ""),
        "fp32",
    )


def run_each(engine: Engine, mels: Sequence[Tensor], noises: Sequence[Tensor]) -> list[Tensor]:
    """What `common.engine.PackedVocoder.run_packed` gives, by an engine that takes windows of one size."""
    pairs = zip(mels, noises, strict=True)
    return [infer(engine, mel=mel[None].contiguous(), z=z[None].contiguous())["audio"][0] for mel, z in pairs]


class Watched:
    """An engine that calls back before and after each run, with the tensors it runs on, and counts its bindings."""

    def __init__(
        self,
        engine: Engine,
        before: Callable[[Mapping[str, Tensor]], object] = lambda tensors: None,
        after: Callable[[Mapping[str, Tensor]], object] = lambda tensors: None,
    ) -> None:
        self.name, self.metadata, self.contract = engine.name, engine.metadata, engine.contract
        self.device, self.limits, self.backend = engine.device, engine.limits, engine.backend
        self.capturable, self.bindings = engine.capturable, 0
        self._engine, self._before, self._after = engine, before, after

    def bind(self, tensors: Mapping[str, Tensor]) -> Callable[[], None]:
        self.bindings += 1
        run = self._engine.bind(tensors)

        def watched() -> None:
            self._before(tensors)
            run()
            self._after(tensors)

        return watched

    def close(self) -> None:
        self._engine.close()
