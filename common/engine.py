"""Engines: each runs one part of the pipeline on named tensors.

Four kinds share the small interface below: PyTorch (`TorchEngine`, here), ONNX Runtime (`common.onnx_engine`), OpenVINO
(`common.openvino_engine`) and TensorRT (`trt.engine`). Tensors are torch tensors everywhere, on the engine's device,
and every kind but PyTorch reads and writes their memory in place.
"""

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from common.contract import Contract, TensorSpec, contract_of
from common.cuda import with_index
from common.errors import Closed, UserError
from common.metadata import ModelMetadata
from common.model_flags import SIZE_FLAGS

Range = tuple[int, int]


class Engine(Protocol):
    """Runs one part. `limits` gives the sizes it accepts by symbol ("batch", "text", "mel"); none means any."""

    name: str  # for messages: the file's path, or "PyTorch encoder"
    backend: str  # the runtime, with its precision where that isn't the model's: "onnxruntime", "openvino bf16"
    metadata: ModelMetadata
    contract: Contract
    device: torch.device
    limits: Mapping[str, Range]

    @property
    @abstractmethod
    def capturable(self) -> bool:
        """Whether bound runs may be captured in a CUDA graph, once they have run outside of a capture."""
        ...

    @abstractmethod
    def bind(self, tensors: Mapping[str, Tensor]) -> Callable[[], None]:
        """Ties every input and output to memory; returns a function that runs the part on it, any number of times.

        Args:
            tensors: all inputs and outputs by name, contiguous, with the contract's dtypes and agreeing shapes.

        Raises:
            UserError: a tensor is missing, unknown, of another dtype or shape, or beyond the engine's limits.
        """
        ...

    @abstractmethod
    def close(self) -> None:
        """Releases what the engine owns. A closed engine can't run, but may be closed again."""
        ...


# What some engines can do beside. A wrapper has the abilities that it defines itself; else the plain path is taken.


@runtime_checkable
class MultiStep(Protocol):
    """A `decoder_iter` engine that may run many steps at once. Its bound runs cost nothing but their tensors."""

    def steps_at_once(self, batch: int, text: int) -> int:
        """How many steps `run_steps` runs for so many slots and symbols; 0 where steps are better bound one by one."""
        ...

    def run_steps(self, tensors: Mapping[str, Tensor]) -> None:
        """Enqueues that many steps.

        Args:
            tensors: the first step's inputs, in which the state becomes the last step's; `prenet_dropout` as bits,
                uint8 (steps, 2, prenet_dim / 8), in memory of the host. Results with one more dimension, the steps,
                before theirs: `decoder_output`, `gate_prediction` (in memory of the host) and, if wanted,
                `out_attention_weights`.
        """
        ...


@runtime_checkable
class PackedVocoder(Protocol):
    """A `waveglow` engine that takes windows of different sizes in one run."""

    def run_packed(self, mels: Sequence[Tensor], noises: Sequence[Tensor]) -> list[Tensor]:
        """mels (n_mel_channels, M) and noises (n_group, M * hop_length / n_group) -> the audio (samples,) of each."""
        ...


@runtime_checkable
class SelfCapturing(Protocol):
    """An engine that captures a CUDA graph for each set of sizes."""

    @property
    def plain(self) -> Engine:
        """The engine without graphs, for sizes that won't come again."""
        ...


def infer(engine: Engine, **inputs: Tensor) -> dict[str, Tensor]:
    """Runs a part once on the given inputs and returns its outputs, newly allocated, by name."""
    sizes = sizes_of(engine, inputs)
    outputs = {
        spec.name: torch.empty(spec.resolve(sizes), dtype=spec.dtype, device=engine.device)
        for spec in engine.contract.outputs
    }
    engine.bind({**inputs, **outputs})()
    return outputs


def sizes_of(engine: Engine, tensors: Mapping[str, Tensor]) -> dict[str, int]:
    """Checks named tensors against the engine's contract and limits; returns the sizes of its symbols.

    Raises:
        UserError: says what was expected and what was found.
    """
    specs = engine.contract.tensors
    sizes: dict[str, int] = {}
    for name, tensor in tensors.items():
        spec = specs.get(name)
        if spec is None:
            raise UserError(f"{engine.name}: has no tensor {name}; it has {', '.join(specs)}")
        found = spec.sizes_in(tensor.shape)
        if tensor.dtype != spec.dtype or found is None:
            raise UserError(f"{engine.name}: expected {spec}, found {_spec_of(name, tensor)}")
        for symbol, size in found.items():
            if sizes.setdefault(symbol, size) != size:
                raise UserError(
                    f"{engine.name}: {_spec_of(name, tensor)} has {symbol} size {size}, but the tensors before it have "
                    f"{sizes[symbol]}"
                )
    for symbol, size in sizes.items():
        low, high = engine.limits.get(symbol, (0, size))
        if not low <= size <= high:
            raise UserError(
                f"{engine.name}: {symbol} size {size} is outside {low} to {high}, the range of its profile; build it "
                f"with a wider {SIZE_FLAGS[symbol]}"
            )
    return sizes


def _spec_of(name: str, tensor: Tensor) -> TensorSpec:
    return TensorSpec(name, tensor.dtype, tuple(tensor.shape))


def check_bound(engine: Engine, tensors: Mapping[str, Tensor]) -> dict[str, int]:
    """Checks the tensors that are bound to an engine of any kind; returns the sizes of its symbols.

    Raises:
        UserError: a tensor is missing, unknown, not contiguous, on another device, or as `sizes_of` says.
    """
    missing = engine.contract.tensors.keys() - tensors.keys()
    if missing:
        raise UserError(f"{engine.name}: no memory was given for {', '.join(sorted(missing))}")
    sizes = sizes_of(engine, tensors)
    device = with_index(engine.device)
    for name, tensor in tensors.items():
        if not tensor.is_contiguous() or tensor.device != device:
            raise UserError(f"{engine.name}: {name} must be contiguous and on {engine.device}")
    return sizes


def closed(engine: Engine) -> Closed:
    """The error for using an engine after its `close`."""
    return Closed(f"{engine.name}: the engine was closed; open it again")


class TorchEngine:
    """A part's PyTorch module (`tacotron2.parts`, `waveglow.parts`), on any device."""

    backend = "pytorch"
    capturable = True

    def __init__(self, module: nn.Module, metadata: ModelMetadata, device: torch.device | str = "cpu") -> None:
        self.name = f"PyTorch {metadata.part}"
        self.metadata = metadata
        self.contract = contract_of(metadata)
        self.device = with_index(device)
        self.limits: Mapping[str, Range] = {}
        self._module: nn.Module | None = module.eval().to(self.device)
        for layer in self._module.modules():
            if isinstance(layer, nn.RNNBase):
                layer.flatten_parameters()  # else cuDNN copies the weights into one block at every run

    @property
    def module(self) -> nn.Module:
        """The PyTorch module. Raises UserError once the engine is closed."""
        if self._module is None:
            raise closed(self)
        return self._module

    def bind(self, tensors: Mapping[str, Tensor]) -> Callable[[], None]:
        check_bound(self, tensors)
        inputs = [tensors[spec.name] for spec in self.contract.inputs]
        outputs = [tensors[spec.name] for spec in self.contract.outputs]

        @torch.inference_mode()
        def run() -> None:
            results = self.module(*inputs)
            for output, result in zip(outputs, (results,) if isinstance(results, Tensor) else results, strict=True):
                output.copy_(result)

        return run

    def close(self) -> None:
        self._module = None
