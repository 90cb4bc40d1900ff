"""Many decoder steps of one utterance as one kernel, on a Hopper GPU: compiles and launches `decoder_kernel.cu`.

Seven kernels a step (`tacotron2.gpu.decoder_kernels`) read all weights from the L2 cache at every step. This one keeps
them on chip, spread over the multiprocessors, for all of its steps. It is CUDA C++, compiled by NVRTC through
cuda-bindings, because Triton can't keep weights there. Without cuda-bindings, or on another GPU, the seven kernels do
the work.
"""

import ctypes
import functools
import hashlib
import importlib.util
from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from common.config import Tacotron2Config
from common.cuda import on_device
from common.files import user_cache_folder, write_whole
from common.random_streams import PRENET_KEEP
from tacotron2.parts import DecoderIterPart, MergedLSTMCell

SOURCE = Path(__file__).with_name("decoder_kernel.cu")
# The source's constants of these names
BLOCKS, THREADS, WARPS, COPIES = 128, 256, 8, 4
MAX_TEXT = 256
MAX_STEPS = 32  # of a launch: with more, more run past an utterance's end; with fewer, weights are loaded more often
SHARED_BYTES = 195_440
SIZES = {
    "n_mel_channels": 80,
    "prenet_dim": 256,
    "encoder_embedding_dim": 512,
    "attention_rnn_dim": 1024,
    "decoder_rnn_dim": 1024,
    "attention_dim": 128,
    "attention_location_kernel_size": 31,
}
EXCHANGE_WORDS = COPIES * (2 * 256 + 512 + 2 * 1024 + 2 * (128 + MAX_TEXT)) + 1

_OPTIONS = [
    b"--gpu-architecture=sm_90",
    b"--std=c++17",
    b"--use_fast_math",
    b"-DSHARED_BYTES=%d" % SHARED_BYTES,
    b"-DPRENET_KEEP=%rf" % PRENET_KEEP,
]

# The fields of the kernel's arguments, in order; those of Launch are named as in `common.contract`.
_WEIGHTS = ("attention", "decoder", "attention_bias", "decoder_bias", "small", "small_bias", "location", "v", "prenet")
_TENSORS = (
    "attention_hidden",
    "attention_cell",
    "decoder_hidden",
    "decoder_cell",
    "attention_weights_cum",
    "attention_context",
    "decoder_input",
    "attention_weights",
    "memory",
    "processed_memory",
    "mask",
    "decoder_output",
    "gate_prediction",
    "out_attention_weights",
)


class _Weights(ctypes.Structure):
    _fields_ = [(name, ctypes.c_void_p) for name in _WEIGHTS]


class _Launch(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_void_p) for name in (*_TENSORS, "exchange")),
        ("text", ctypes.c_int),
        ("steps", ctypes.c_int),
        ("kept", ctypes.c_ubyte * (MAX_STEPS * 2 * SIZES["prenet_dim"] // 8)),
    ]


class PersistentDecoder:
    """A decoder's weights in the kernel's layout, and its launches. They must follow one another on one stream.

    Args:
        module: the part, in FP16, on the GPU.

    Raises:
        RuntimeError: the kernel can't be compiled or loaded here.
    """

    def __init__(self, module: DecoderIterPart) -> None:
        self._tensors = packed_weights(module)
        self._device = module.v.weight.device
        self._weights = _Weights(*(self._tensors[name].data_ptr() for name in _WEIGHTS))
        # Exchanged between blocks. The last word is the number of the next step; no step has the number 0.
        self._exchange = torch.zeros(EXCHANGE_WORDS, dtype=torch.int32, device=self._device)
        self._exchange[-1:] = 1
        with on_device(self._device):
            self._kernel = _kernel(self._device)

    @staticmethod
    def obstacle(config: Tacotron2Config, device: torch.device) -> str | None:
        """Why the kernel can't run this model on this device; None if it can."""
        for name, size in SIZES.items():
            if getattr(config, name) != size:
                return f"{name} is {getattr(config, name)} instead of {size}"
        if torch.cuda.get_device_capability(device) != (9, 0):
            return "the GPU's compute capability is not 9.0"
        properties = torch.cuda.get_device_properties(device)
        if properties.multi_processor_count < BLOCKS:
            return f"the GPU has {properties.multi_processor_count} multiprocessors; it takes {BLOCKS}"
        if importlib.util.find_spec("cuda") is None or importlib.util.find_spec("cuda.bindings") is None:
            return "cuda-bindings is not installed"
        return None

    def run(self, tensors: Mapping[str, Tensor]) -> None:
        """Enqueues as many steps as `gate_prediction` has rows, at most MAX_STEPS; see `common.engine.MultiStep`.

        Args:
            tensors: FP16, of a batch of one and at most MAX_TEXT symbols. The bits of `prenet_dropout` are packed as by
                `np.packbits`, 1 for each value that is kept, and read before this returns.
        """
        steps, text = tensors["gate_prediction"].size(0), tensors["mask"].size(1)
        assert steps <= MAX_STEPS
        assert text <= MAX_TEXT
        pointers = [tensors[name].data_ptr() if name in tensors else None for name in _TENSORS]
        launch = _Launch(*pointers, self._exchange.data_ptr(), text, steps)
        kept = tensors["prenet_dropout"]
        ctypes.memmove(launch.kept, kept.data_ptr(), kept.nbytes)
        with on_device(self._device):
            self._kernel(self._weights, launch)


def packed_weights(module: DecoderIterPart) -> dict[str, Tensor]:
    """The kernel's struct `Weights`, with the shapes given there."""
    first, second = (weight.detach().float() for weight in module.prenet.parameters())
    projection, bias = module.projection.weight.detach().float(), module.projection.bias.detach().float()
    mels, padding = first.size(1), BLOCKS - len(bias)
    # Rows of each block: two of the first prenet layer folded with the projection, and one of the projection itself
    folded, folded_bias = first @ projection[:mels], first @ bias[:mels]
    rows = torch.cat([folded.view(BLOCKS, 2, -1), F.pad(projection, (0, 0, 0, padding))[:, None]], 1)
    biases = torch.cat([folded_bias.view(BLOCKS, 2), F.pad(bias, (0, padding))[:, None]], 1)
    of_hidden, of_context = rows.split([SIZES["decoder_rnn_dim"], SIZES["encoder_embedding_dim"]], 2)
    by_thread = torch.cat([of_hidden.unflatten(2, (THREADS, -1)), of_context.unflatten(2, (THREADS, -1))], 3)
    small = [
        by_thread.transpose(1, 2).flatten(2),
        second.view(BLOCKS, 2, THREADS).transpose(1, 2),
        module.query_layer.weight.detach().float().view(BLOCKS, THREADS, -1),
    ]
    prenet, context, hidden = (SIZES[name] for name in ("prenet_dim", "encoder_embedding_dim", "attention_rnn_dim"))
    return {
        "attention": _tiles(module.attention_rnn, [prenet, context, hidden]),
        "decoder": _tiles(module.decoder_rnn, [hidden, context, hidden]),
        "attention_bias": _by_block(module.attention_rnn.gates.bias.detach().float()),
        "decoder_bias": _by_block(module.decoder_rnn.gates.bias.detach().float()),
        "small": torch.cat(small, 2).half().contiguous(),
        "small_bias": biases.contiguous(),
        "location": module.location.weight.detach().half().permute(1, 2, 0).contiguous(),
        "v": module.v.weight.detach().float().flatten(),
        "prenet": first.half().contiguous(),
    }


def _by_block(gates: Tensor) -> Tensor:
    """(4 * hidden, ...) -> (BLOCKS, 4 * units, ...): the gates' rows of each block's units."""
    return gates.unflatten(0, (4, BLOCKS, -1)).transpose(0, 1).flatten(1, 2).contiguous()


def _tiles(cell: MergedLSTMCell, widths: list[int]) -> Tensor:
    """An LSTM's weights as the operands A of `mma.m16n8k16` (PTX ISA), FP16 (BLOCKS, WARPS, tiles, 2, 32 lanes, 8).

    Args:
        widths: columns of each input. Each warp has a stretch of each input, and lane l the quarter l % 4 of it. The
            order of columns in a tile is free: only the vector's has to be the same.
    """
    tiles = []
    for columns in _by_block(cell.gates.weight.detach().half()).split(widths, 2):
        # (block, 16 rows, half of them, lane / 4, warp, lane % 4, tile, half of the columns, pair of columns)
        split = columns.unflatten(2, (WARPS, 4, -1, 2, 2)).unflatten(1, (2, 2, 8))
        tiles.append(split.permute(0, 4, 6, 1, 3, 5, 7, 2, 8))
    return torch.cat(tiles, 2).contiguous()


@functools.cache
def _kernel(device: torch.device) -> Callable[[_Weights, _Launch], None]:
    """A function that launches the kernel on the current stream of a device, which has to be the current one."""
    from cuda.bindings import driver

    function = _check(driver.cuModuleGetFunction(_check(driver.cuModuleLoadData(machine_code())), b"decode"))
    shared_memory = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
    _check(driver.cuFuncSetAttribute(function, shared_memory, SHARED_BYTES))

    def start(weights: _Weights, launch: _Launch) -> None:
        arguments = (ctypes.c_void_p * 2)(ctypes.addressof(weights), ctypes.addressof(launch))
        stream = torch.cuda.current_stream(device).cuda_stream
        # A cooperative launch runs all blocks at once, or fails.
        _check(
            driver.cuLaunchCooperativeKernel(
                function, BLOCKS, 1, 1, THREADS, 1, 1, SHARED_BYTES, stream, ctypes.addressof(arguments)
            )
        )

    return start


def machine_code() -> bytes:
    """The source as machine code of compute capability 9.0. Compiled once, then kept in the user's cache folder."""
    source = SOURCE.read_bytes()
    folder = user_cache_folder("nvrtc")
    key = hashlib.sha256(b"\n".join([source, *_OPTIONS, metadata.version("cuda-bindings").encode()])).hexdigest()
    file = folder / f"{key}.cubin" if folder is not None else None
    if file is not None and file.is_file():
        return file.read_bytes()
    code = compiled(source)
    if file is not None:
        with suppress(OSError):  # on a full disk it is compiled in every process
            write_whole(file, code)
    return code


def compiled(source: bytes) -> bytes:
    """Compiles the source with NVRTC; needs no GPU. Raises RuntimeError with the compiler's log."""
    from cuda.bindings import nvrtc

    program = _check(nvrtc.nvrtcCreateProgram(source, SOURCE.name.encode(), 0, [], []))
    try:
        (result,) = nvrtc.nvrtcCompileProgram(program, len(_OPTIONS), _OPTIONS)
        if int(result) != 0:
            log = b" " * _check(nvrtc.nvrtcGetProgramLogSize(program))
            nvrtc.nvrtcGetProgramLog(program, log)
            raise RuntimeError(f"{SOURCE.name} does not compile: {log.decode(errors='replace')}")
        code = b" " * _check(nvrtc.nvrtcGetCUBINSize(program))
        _check(nvrtc.nvrtcGetCUBIN(program, code))
        return code
    finally:
        nvrtc.nvrtcDestroyProgram(program)


def _check(results: tuple[Any, ...]) -> Any:
    """The result of a function of cuda-bindings without its status. Raises RuntimeError if the status is an error."""
    if int(results[0]) != 0:
        raise RuntimeError(f"{results[0].name} from CUDA")
    return results[1] if len(results) == 2 else None
