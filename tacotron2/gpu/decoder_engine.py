"""The decoder step on an NVIDIA GPU in FP16: seven kernels that overlap, or on Hopper many steps as one kernel.

They compute the function of `tacotron2.parts.DecoderIterPart` with FP16 weights and tensors and FP32 sums between them.
`tacotron2.gpu.decoder_kernels` says why the seven may overlap; `tacotron2.hopper.persistent_decoder` has the one
kernel. Launched one by one the seven are no faster than PyTorch: they are for a CUDA graph (`tacotron2.decoder_graph`).
"""

import functools
import logging
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from common.config import Tacotron2Config
from common.cuda import on_device
from common.engine import TorchEngine, check_bound
from common.metadata import ModelMetadata
from common.triton_engine import TritonEngine
from tacotron2.gpu.decoder_step import FusedStep, Tuning, default_tuning
from tacotron2.hopper.persistent_decoder import MAX_STEPS, MAX_TEXT, PersistentDecoder
from tacotron2.parts import DecoderIterPart

LARGEST_BATCH = 128  # beyond it, and beyond LONGEST_TEXT, the plain module runs
LONGEST_TEXT = 1024

_log = logging.getLogger(__name__)


class FusedDecoderEngine(TritonEngine):
    """The `decoder_iter` part through fused kernels: an engine as in `common.engine`.

    A bound run may be captured into a CUDA graph once it has run outside of a capture. Beyond a batch of LARGEST_BATCH
    or LONGEST_TEXT symbols it runs the plain module. For a batch of one it may run many steps as one kernel.

    Args:
        module: the part, in FP16.
        metadata: its metadata.
        tuning: of the kernels; by default `default_tuning` for each batch size.
        persistent: whether many steps may run as one kernel.
    """

    def __init__(
        self,
        module: DecoderIterPart,
        metadata: ModelMetadata,
        device: torch.device | str = "cuda",
        tuning: Tuning | None = None,
        persistent: bool = True,
    ) -> None:
        super().__init__(metadata, device)
        self._plain = TorchEngine(module, metadata, self.device)
        self._step = FusedStep(module, metadata)
        self._module = module
        self._tuning = tuning
        self._may_persist = persistent

    @staticmethod
    def model_obstacle(metadata: ModelMetadata) -> str | None:
        config = metadata.model
        if not isinstance(config, Tacotron2Config) or metadata.part != "decoder_iter":
            return f"it runs Tacotron 2's decoder step only, not the {metadata.part}"
        for name in ("prenet_dim", "encoder_embedding_dim", "attention_rnn_dim", "decoder_rnn_dim", "attention_dim"):
            size = getattr(config, name)
            if size & (size - 1) or not 32 <= size <= 2048:
                return f"{name} is {size}; it takes powers of two from 32 to 2048"
        return None

    def bind(self, tensors: Mapping[str, Tensor]) -> Callable[[], None]:
        check_bound(self, tensors)
        batch, text = tensors["mask"].shape
        if batch > LARGEST_BATCH or text > LONGEST_TEXT:
            return self._plain.bind(tensors)
        launches = self._step.launches(tensors, self._tuning or default_tuning(self.device, batch))
        # Outside of a capture any kernel may precede a step: the first kernel waits until it is finished.
        first_alone = launches[0].alone()

        def run() -> None:
            with on_device(self.device):
                first = launches[0] if torch.cuda.is_current_stream_capturing() else first_alone
                for launch in (first, *launches[1:]):
                    launch()

        return run

    @functools.cached_property
    def _persistent(self) -> PersistentDecoder | None:
        assert isinstance(self.metadata.model, Tacotron2Config)
        reason = PersistentDecoder.obstacle(self.metadata.model, self.device)
        try:
            if reason is None:
                return PersistentDecoder(self._module)
        except (RuntimeError, ImportError) as error:
            reason = str(error)
        _log.info("%s: one kernel for many steps can't run here: %s", self.name, reason)
        return None

    def steps_at_once(self, batch: int, text: int) -> int:
        """The number of steps that `run_steps` best runs as one kernel for such a batch; 0 where it can't."""
        fits = batch == 1 and text <= MAX_TEXT and self._may_persist
        return MAX_STEPS if fits and self._persistent is not None else 0

    def run_steps(self, tensors: Mapping[str, Tensor]) -> None:
        """Enqueues many steps as one kernel; see `PersistentDecoder.run`."""
        assert self._persistent is not None
        self._persistent.run(tensors)

    def close(self) -> None:
        self._plain.close()
        for name in ("_step", "_module", "_persistent"):  # absent where the engine is closed already
            vars(self).pop(name, None)
