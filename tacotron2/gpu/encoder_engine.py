"""The encoder on an NVIDIA GPU in FP16, with both of its LSTMs as one kernel."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from common.config import Tacotron2Config
from common.engine import TorchEngine
from common.graph_engine import GraphEngine
from common.metadata import ModelMetadata
from common.triton_engine import Launch, TritonEngine
from tacotron2.parts import EncoderPart

MAX_STEPS = 32767  # the kernel numbers its steps in 16 bits, of which one is the sign


class FusedEncoderEngine(TritonEngine):
    """The `encoder` part with both LSTMs as one kernel, in CUDA graphs by size: an engine as in `common.engine`.

    The kernel's programs have to run all at once. A batch that has more of them runs on cuDNN, which is faster there.

    Args:
        module: the part, in FP16.
        metadata: its metadata.
    """

    def __init__(self, module: EncoderPart, metadata: ModelMetadata, device: torch.device | str = "cuda") -> None:
        super().__init__(metadata, device)
        self._graphs = GraphEngine(TorchEngine(FusedEncoder(module), metadata, self.device))

    @staticmethod
    def model_obstacle(metadata: ModelMetadata) -> str | None:
        config = metadata.model
        if not isinstance(config, Tacotron2Config) or metadata.part != "encoder":
            return f"it runs Tacotron 2's encoder only, not the {metadata.part}"
        size = config.encoder_embedding_dim // 2
        if size & (size - 1) or not 32 <= size <= 512:
            return f"LSTMs of {size} units; it takes powers of two from 32 to 512"
        return None

    def bind(self, tensors: Mapping[str, Tensor]) -> Callable[[], None]:
        return self._graphs.bind(tensors)

    def close(self) -> None:
        self._graphs.close()


class FusedEncoder(EncoderPart):
    """An `EncoderPart` whose LSTMs run as one kernel, where all of its programs fit on the GPU.

    Args:
        part: in FP16; its modules are shared.
        units: of an LSTM in one program.
    """

    recurrent: Tensor  # (2, programs, 4 * units, size): for both directions, the gates' rows of each program's units
    of_inputs: Tensor  # (2 * 4 * size, E)
    bias: Tensor  # (2 * 4 * size)

    def __init__(self, part: EncoderPart, units: int = 16) -> None:
        nn.Module.__init__(self)
        for name, module in part.named_children():
            setattr(self, name, module)
        size = part.forward_lstm.hidden_size
        self.units = min(units, size)
        # nn.LSTM's parameters: weights of the inputs, weights of the hidden state, a bias for each
        directions: list[list[Tensor]] = [list(lstm.parameters()) for lstm in (part.forward_lstm, part.backward_lstm)]
        order = torch.arange(4 * size).view(4, -1, self.units).transpose(0, 1).flatten()  # by program
        recurrent = torch.stack([direction[1][order] for direction in directions])
        self.register_buffer("recurrent", recurrent.view(2, -1, 4 * self.units, size))
        self.register_buffer("of_inputs", torch.cat([direction[0] for direction in directions]))
        self.register_buffer("bias", torch.cat([direction[2] + direction[3] for direction in directions]))

    def launch(self, x: Tensor, sequence_lengths: Tensor, out: Tensor) -> Launch:
        """The kernel on x (B, T, E); `out` (B, T, encoder_embedding_dim) is written where there is no padding."""
        from tacotron2.gpu.encoder_kernel import encoder_lstm_kernel

        batch, text, _ = x.shape
        _, programs, _, size = self.recurrent.shape
        inputs = nn.functional.linear(x, self.of_inputs, self.bias)  # (B, T, 2 * 4 * size)
        exchange = torch.zeros(batch, 2, 2, size, dtype=torch.int32, device=x.device)
        return Launch(
            encoder_lstm_kernel,
            (programs, 2, batch),
            (inputs, self.recurrent, sequence_lengths, exchange, out, text),
            {"HIDDEN": size, "UNITS": self.units, "num_warps": 8, "launch_cooperative_grid": True},
        )

    def both_directions(self, x: Tensor, mirrored: Tensor, sequence_lengths: Tensor) -> Tensor:
        programs = 2 * x.size(0) * self.recurrent.size(1)
        if programs > torch.cuda.get_device_properties(x.device).multi_processor_count or x.size(1) > MAX_STEPS:
            return super().both_directions(x, mirrored, sequence_lengths)
        out = x.new_zeros(x.size(0), x.size(1), 2 * self.recurrent.size(3))
        self.launch(x, sequence_lengths, out)()
        return out
