"""An engine on ONNX Runtime: a `.onnx` file behind the interface of `common.engine`, on a CPU or a GPU."""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from common.contract import NUMPY_DTYPES, Dim, TensorSpec, contract_of, dtype_named
from common.cpu_backend import has_int8_kernel, return_large_buffers, thread_count
from common.engine import Range, check_bound, closed
from common.errors import UserError
from common.files import user_cache_folder
from common.metadata import Part
from common.onnx_file import check_onnx_path, read_metadata, unreadable

_log = logging.getLogger(__name__)

GpuProvider = Literal["cuda", "tensorrt"]

_PROVIDERS: dict[GpuProvider, str] = {"cuda": "CUDAExecutionProvider", "tensorrt": "TensorrtExecutionProvider"}


class OnnxEngine:
    """An ONNX file of this project on ONNX Runtime: on its CPU provider, or on a GPU on its CUDA or TensorRT provider.

    Tensors are read and written in place, in host or in device memory. On a GPU the session works on a CUDA stream of
    its own, which a bound run orders with PyTorch's current stream; it returns before the GPU is done. On a GPU, and
    on processors for which ONNX Runtime has no kernel for 8-bit weights, such weights become FP32.

    Args:
        path: the `.onnx` file.
        part: the part it has to hold.
        threads: CPU threads; None takes every core that this process may use.
        device: "cpu", "cuda" or "cuda:N".
        gpu_provider: the provider on a GPU. TensorRT's builds an engine for each new shape, and keeps it in the user's
            cache folder.

    Raises:
        UserError: the file is missing, damaged, not this project's, of another part, or its tensors are not those of
            its part; or the installed ONNX Runtime can't use the device.
    """

    capturable = False  # in a CUDA graph: the session allocates and may wait for the host

    def __init__(
        self,
        path: Path,
        part: Part,
        threads: int | None = None,
        device: torch.device | str = "cpu",
        gpu_provider: GpuProvider = "cuda",
    ) -> None:
        import onnxruntime as ort  # imported late: runs on PyTorch or TensorRT alone don't need it

        check_onnx_path(path, part)
        options = ort.SessionOptions()
        options.intra_op_num_threads = thread_count(threads)
        options.log_severity_level = 3
        self.device = checked_device(device)
        self.backend = f"onnxruntime {gpu_provider if self.device.type == 'cuda' else 'cpu'}"
        self._stream: torch.cuda.Stream | None = None
        run_options: dict[str, str] = {}
        providers: list[Any] = ["CPUExecutionProvider"]
        if self.device.type == "cuda":
            self._stream = torch.cuda.Stream(self.device)
            providers = gpu_providers(ort, gpu_provider, self.device.index, self._stream.cuda_stream)
            # Streams order the work: the host need not wait at the end of each run.
            run_options["disable_synchronize_execution_providers"] = "1"
        else:
            return_large_buffers()
            if part != "decoder_iter":
                # Shapes change with every phrase, and the arena would keep memory for each.
                run_options["memory.enable_memory_arena_shrinkage"] = "cpu:0"
        # Version 1.32 throws and catches an exception in each run that has options: a decoder step on a CPU has none.
        self._run_options: ort.RunOptions | None = None
        if run_options:
            self._run_options = ort.RunOptions()
            for name, value in run_options.items():
                self._run_options.add_run_config_entry(name, value)

        def opened(model: str | bytes) -> ort.InferenceSession:
            return ort.InferenceSession(model, options, providers=providers)

        try:
            session = opened(str(path))
        except Exception as error:  # onnxruntime's exceptions share no base class of their own
            raise unreadable(path) from error
        if self._stream is not None and session.get_providers()[0] != _PROVIDERS[gpu_provider]:
            # ONNX Runtime falls back to the CPU where it can't load a library of the provider.
            raise UserError(
                f"{path}: ONNX Runtime could not load its {gpu_provider} provider; install the versions of CUDA's and "
                "cuDNN's libraries that it needs, or use device cpu"
            )
        self.name = str(path)
        self.metadata = read_metadata(path, part, session.get_modelmeta().custom_metadata_map)
        if self.metadata.int8_lstms and (self._stream is not None or not has_int8_kernel()):
            from common.int8_weights import with_fp32_weights  # loads onnx, which other runs don't need

            _log.warning("%s: no kernel for its 8-bit weights on this device; they are computed with in FP32", path)
            session = opened(with_fp32_weights(path))
        self._session: ort.InferenceSession | None = session
        self.contract = contract_of(self.metadata)
        self.limits: Mapping[str, Range] = {}
        self.contract.check(self.name, map(_ort_spec, session.get_inputs()), map(_ort_spec, session.get_outputs()))

    def bind(self, tensors: Mapping[str, Tensor]) -> Callable[[], None]:
        check_bound(self, tensors)
        if self._session is None:
            raise closed(self)
        binding = self._session.io_binding()
        device = self.device.type, self.device.index or 0
        for specs, bind in ((self.contract.inputs, binding.bind_input), (self.contract.outputs, binding.bind_output)):
            for spec in specs:
                tensor = tensors[spec.name]
                bind(spec.name, *device, NUMPY_DTYPES[tensor.dtype], tuple(tensor.shape), tensor.data_ptr())
        run, run_options, stream = self._session.run_with_iobinding, self._run_options, self._stream
        kept_alive = dict(tensors)

        def run_bound(_kept_alive: Any = kept_alive) -> None:
            run(binding, run_options)

        def run_in_order(_kept_alive: Any = kept_alive) -> None:
            assert stream is not None
            current = torch.cuda.current_stream(stream.device)
            stream.wait_stream(current)
            run(binding, run_options)
            current.wait_stream(stream)

        return run_bound if stream is None else run_in_order

    def close(self) -> None:
        self._session = None


def gpu_providers(ort: Any, provider: GpuProvider, device_id: int, stream: int) -> list[Any]:
    """ONNX Runtime's providers for a GPU, in their order, with options: device, CUDA stream, TensorRT's cache.

    Args:
        ort: the module `onnxruntime`.
        stream: the handle of the CUDA stream to work on; not the default stream's 0, which stands for none.

    Raises:
        UserError: the installed package was built without the provider.
    """
    wanted = _PROVIDERS[provider]
    if wanted not in ort.get_available_providers():
        raise UserError(
            f"device cuda: the installed ONNX Runtime has no {wanted}; install onnxruntime-gpu in place of "
            "onnxruntime, or use device cpu"
        )
    ort.preload_dlls()  # CUDA and cuDNN as PyTorch's packages bring them
    options = {"device_id": str(device_id), "user_compute_stream": str(stream)}
    cuda = (_PROVIDERS["cuda"], options)
    if provider == "cuda":
        return [cuda, "CPUExecutionProvider"]
    cache = user_cache_folder("onnxruntime-tensorrt")
    kept = {} if cache is None else {"trt_engine_cache_enable": "1", "trt_engine_cache_path": str(cache)}
    return [(wanted, options | kept), cuda, "CPUExecutionProvider"]


def checked_device(device: torch.device | str) -> torch.device:
    """The device with its number. Raises UserError unless it is the CPU or an existing GPU."""
    try:
        checked = torch.device(device)
    except RuntimeError:
        checked = torch.device("meta")
    if checked.type == "cpu":
        return checked
    if checked.type != "cuda":
        raise UserError(f"device {device}: give cpu, cuda or cuda:N")
    if not torch.cuda.is_available():
        raise UserError(f"device {device}: PyTorch finds no NVIDIA GPU; use device cpu")
    if checked.index is None:
        return torch.device("cuda", torch.cuda.current_device())
    if checked.index >= torch.cuda.device_count():
        raise UserError(f"device {device}: there are {torch.cuda.device_count()} GPUs, counted from 0")
    return checked


def _ort_spec(tensor: Any) -> TensorSpec:
    dims: tuple[Dim, ...] = tuple(dim if isinstance(dim, int) else str(dim) for dim in tensor.shape)
    return TensorSpec(tensor.name, dtype_named(tensor.type), dims)
