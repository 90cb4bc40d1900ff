"""Builds a TensorRT engine from an ONNX file, and writes its record beside it."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx
from google.protobuf.message import DecodeError

from common.callbacks import ignore
from common.contract import contract_of
from common.errors import UserError
from common.files import sha256_of, write_whole, written_whole
from common.metadata import ModelMetadata, Part
from common.model_flags import SIZE_FLAGS, part_flag
from common.onnx_file import check_onnx_path, read_metadata, unreadable
from trt import bindings, timing_cache
from trt.bindings import TensorRT, dotted, one_line, tensor_spec
from trt.progress import monitored
from trt.record import EngineRecord, SizeRange, profile_shapes, read_plan, read_record, record_path
from waveglow.windows import GRAIN, grains_within

if TYPE_CHECKING:
    import tensorrt

MIB = 1 << 20
DEFAULT_BATCH = SizeRange(1, 1, 1)
DEFAULT_TEXT = SizeRange(4, 128, 256)  # symbols
DEFAULT_MEL = SizeRange(32, 768, 1664)  # frames


@dataclass(frozen=True)
class BuildOptions:
    """Options of a build. None leaves a choice to TensorRT."""

    batch: SizeRange = DEFAULT_BATCH
    text: SizeRange = DEFAULT_TEXT
    mel: SizeRange = DEFAULT_MEL
    workspace_mib: int | None = None
    optimization_level: int | None = None  # 0 to 5
    compute_capabilities: tuple[int, ...] = ()  # TensorRT-RTX alone: the GPUs to build for, 75 for 7.5
    timing_cache: Path | None = None
    version_compatible: bool = False  # TensorRT alone: for later versions and the lean runtime too
    same_compute_capability: bool = False  # TensorRT alone: for other GPUs of the same compute capability too

    def check(self) -> None:
        """Raises UserError for values that no engine can be built with."""
        for symbol, flag in SIZE_FLAGS.items():
            sizes: SizeRange = getattr(self, symbol)
            if not 1 <= sizes.min <= sizes.opt <= sizes.max:
                raise UserError(f"{flag} {sizes}: must be min,opt,max with 1 <= min <= opt <= max")
        if self.workspace_mib is not None and self.workspace_mib < 1:
            raise UserError(f"--workspace {self.workspace_mib}: must be at least 1 MiB")
        if self.optimization_level is not None and not 0 <= self.optimization_level <= 5:
            raise UserError(f"--optimization-level {self.optimization_level}: must be between 0 and 5")
        if self.compute_capabilities and (self.version_compatible or self.same_compute_capability):
            raise UserError(
                "--version-compatible and --same-compute-capability are TensorRT's; leave --compute-capability out"
            )


@dataclass(frozen=True)
class Built:
    """An engine file.

    Attributes:
        seconds: of its build; None if it was up to date.
    """

    path: Path
    record: EngineRecord
    seconds: float | None


def build_engine(
    onnx_path: Path,
    part: Part,
    folder: Path,
    options: BuildOptions | None = None,
    force: bool = False,
    on_progress: Callable[[float], object] = ignore,
) -> Built:
    """Builds `{part}_{precision}.engine` and its record in `folder`, or finds that they are up to date.

    The network is strongly typed: its precision is that of the ONNX file. Both files appear whole or not at all.

    Args:
        force: build even if the engine there comes from the same ONNX file, TensorRT, GPU and options.
        on_progress: called with the fraction done, 0 to 1.

    Raises:
        UserError: the ONNX file is not this part of this project, TensorRT is missing or can't build it (in its own
            words), or no GPU is there to build for.
        KeyboardInterrupt: Ctrl-C, raised once TensorRT has stopped.
    """
    options = options or BuildOptions()
    options.check()
    if part == "waveglow" and grains_within(options.mel.min, options.mel.max) is None:
        raise UserError(f"--mel-size {options.mel}: must hold a multiple of {GRAIN}, in which WaveGlow is run")
    metadata = buildable_metadata(onnx_path, part)
    trt = load_builder(options)
    gpu_name, capabilities = _target(trt, options)
    record = EngineRecord(
        metadata=metadata,
        flavour=trt.flavour,
        version=trt.version,
        gpu=gpu_name,
        compute_capabilities=capabilities,
        profile={symbol: getattr(options, symbol) for symbol in contract_of(metadata).symbols},
        workspace_mib=options.workspace_mib,
        optimization_level=options.optimization_level,
        version_compatible=options.version_compatible,
        same_compute_capability=options.same_compute_capability,
        onnx_sha256=sha256_of(onnx_path),
        plan_sha256="",
        plan_bytes=0,
    )
    path = folder / f"{part}_{metadata.precision}.engine"
    existing = None if force else up_to_date(path, record)
    if existing is not None:
        return Built(path, existing, None)
    # TensorRT-RTX has no timing cache: it measures nothing during a build.
    cache = options.timing_cache if trt.flavour == "tensorrt" else None
    if cache is not None:
        timing_cache.prove_writable(cache)
    started = time.perf_counter()
    plan, config = _build(trt, onnx_path, record, cache, on_progress)
    record = _write(path, plan, record)
    seconds = time.perf_counter() - started
    if cache is not None:  # last: the engine took minutes
        timing_cache.save(config, cache)
    return Built(path, record, seconds)


def load_builder(options: BuildOptions) -> TensorRT:
    """The TensorRT that builds what the options ask for. Raises UserError if it isn't installed."""
    if options.compute_capabilities:
        return bindings.load("tensorrt_rtx")
    if options.version_compatible or options.same_compute_capability:
        return bindings.load("tensorrt")
    return bindings.load()


def read_onnx_metadata(path: Path, part: Part) -> ModelMetadata:
    """The metadata of an ONNX file. Raises UserError unless this project exported it, for this part."""
    check_onnx_path(path, part)
    try:
        model = onnx.load(path, load_external_data=False)
    except (DecodeError, ValueError) as error:
        raise unreadable(path) from error
    return read_metadata(path, part, {entry.key: entry.value for entry in model.metadata_props})


def buildable_metadata(path: Path, part: Part, fp16: bool = False) -> ModelMetadata:
    """As `read_onnx_metadata`. Raises UserError for a file that TensorRT can't read, too, or in FP32 if `fp16`."""
    metadata = read_onnx_metadata(path, part)
    if metadata.int8_lstms:
        raise UserError(
            f"{path}: TensorRT can't read its 8-bit weights, which are for CPUs; export it again with --fp16, or "
            "without --int8-decoder"
        )
    if fp16 and metadata.precision != "fp16":
        raise UserError(
            f"{path} is {metadata.precision}, but --fp16 was given; export it with --fp16, or leave --fp16 out to "
            f"build {part_flag(part)} in FP32"
        )
    return metadata


def up_to_date(path: Path, wanted: EngineRecord) -> EngineRecord | None:
    """The record of the engine at `path` if the file is whole and matches the wanted build, else None."""
    try:
        record = read_record(path)
        if record == wanted:
            read_plan(path, record)
            return record
    except UserError:
        pass
    return None


def _target(trt: TensorRT, options: BuildOptions) -> tuple[str, tuple[int, ...]]:
    """The name of the building GPU ("" without one), and the compute capabilities to build for."""
    known: list[int] | None = None
    if trt.flavour == "tensorrt_rtx":
        names = [name.removeprefix("SM") for name in trt.api.ComputeCapability.__members__ if name.startswith("SM")]
        known = sorted(int(name) for name in names)
    name, capabilities = "", tuple(sorted(set(options.compute_capabilities)))
    if not capabilities:
        try:
            gpu = bindings.find_gpu()
        except UserError as error:
            advice = f"name the GPUs to build for: --compute-capability with any of {' '.join(map(str, known or []))}"
            if known is None:
                advice = (
                    "TensorRT builds an engine only on the GPU that it is for (TensorRT-RTX needs none: see "
                    "--compute-capability)"
                )
            raise UserError(f"{error}; {advice}") from None
        bindings.check_supported(trt, gpu)
        name, capabilities = gpu.name, (gpu.compute_capability,)
    if known is not None and (unknown := sorted(set(capabilities) - set(known))):
        raise UserError(
            f"{trt.product} {trt.version} does not build for compute capability {dotted(unknown[0])}; it knows "
            f"{', '.join(map(dotted, known))}. Use TensorRT on such a GPU"
        )
    return name, capabilities


def _build(
    trt: TensorRT, onnx_path: Path, record: EngineRecord, cache: Path | None, on_progress: Callable[[float], object]
) -> tuple[tensorrt.IHostMemory, tensorrt.IBuilderConfig]:
    """The plan and its configuration, which holds the builder's measurements."""
    trt.errors.clear()
    builder: tensorrt.Builder = trt.api.Builder(trt.logger)
    # In TensorRT 11 this flag does nothing: all networks are strongly typed.
    network = builder.create_network(1 << int(trt.api.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser: tensorrt.OnnxParser = trt.api.OnnxParser(network, trt.logger)
    if not parser.parse(onnx_path.read_bytes()):
        reasons = one_line("; ".join(_reason(parser.get_error(i)) for i in range(parser.num_errors)))
        raise UserError(f"{onnx_path}: {trt.product} could not parse it: {reasons or trt.errors}")
    check_network(str(onnx_path), network, record.metadata)
    config = builder.create_builder_config()
    _configure(trt, config, record)
    if config.add_optimization_profile(make_profile(builder, record)) != 0:
        sizes = ", ".join(f"{symbol} {sizes}" for symbol, sizes in record.profile.items())
        raise UserError(f"{onnx_path}: {trt.product} refused the profile {sizes}; choose other sizes")
    if cache is not None:
        timing_cache.load(trt, config, cache)
    with monitored(trt, config, on_progress):
        plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise UserError(f"{onnx_path}: {trt.product} could not build it: {trt.errors}{_advice(record)}")
    return plan, config


def _reason(error: tensorrt.ParserError) -> str:
    # The description alone may be no more than a failed assertion: the node helps the user.
    node = f"{error.node_name()} ({error.node_operator()}): " if error.node() >= 0 else ""
    return f"{node}{error.desc()}"


def check_network(where: str, network: tensorrt.INetworkDefinition, metadata: ModelMetadata) -> None:
    """Raises UserError unless the parsed network has the inputs and outputs of its part."""
    inputs, outputs = (
        [tensor_spec(t.name, t.dtype, t.shape) for t in map(get, range(count))]
        for get, count in ((network.get_input, network.num_inputs), (network.get_output, network.num_outputs))
    )
    contract_of(metadata).check(where, inputs, outputs)


def _configure(trt: TensorRT, config: tensorrt.IBuilderConfig, record: EngineRecord) -> None:
    # One stream: contexts are captured into CUDA graphs, and their scratch memory is shared.
    config.max_aux_streams = 0
    # TF32 keeps 10 of FP32's 23 bits. FP32 engines must not use it unasked: FP16 is there for speed.
    config.clear_flag(trt.api.BuilderFlag.TF32)
    if record.optimization_level is not None:
        config.builder_optimization_level = record.optimization_level
    if record.workspace_mib is not None:
        config.set_memory_pool_limit(trt.api.MemoryPoolType.WORKSPACE, record.workspace_mib * MIB)
    if record.version_compatible:
        config.set_flag(trt.api.BuilderFlag.VERSION_COMPATIBLE)
        # Else the plan carries a runtime, which is code; the program that opens the plan has its own.
        config.set_flag(trt.api.BuilderFlag.EXCLUDE_LEAN_RUNTIME)
    if record.same_compute_capability:
        level = getattr(trt.api.HardwareCompatibilityLevel, "SAME_COMPUTE_CAPABILITY", None)
        if level is None:
            raise UserError(f"{trt.product} {trt.version} has no --same-compute-capability; install a later one")
        config.hardware_compatibility_level = level
    if trt.flavour == "tensorrt_rtx":
        rtx: Any = config  # with members that TensorRT alone lacks
        # A run that may allocate can't be captured into a CUDA graph.
        rtx.set_flag(trt.api.BuilderFlag.REQUIRE_USER_ALLOCATION)
        rtx.num_compute_capabilities = len(record.compute_capabilities)
        for index, capability in enumerate(record.compute_capabilities):
            if not rtx.set_compute_capability(getattr(trt.api.ComputeCapability, f"SM{capability}"), index):
                raise UserError(f"{trt.product} refused compute capability {dotted(capability)}: {trt.errors}")


def make_profile(builder: tensorrt.Builder, record: EngineRecord) -> tensorrt.IOptimizationProfile:
    """The record's sizes as a TensorRT profile: the smallest, best and largest shape of every input."""
    profile = builder.create_optimization_profile()
    for spec in contract_of(record.metadata).inputs:
        shapes: list[Any] = profile_shapes(record, spec)  # tuples, which become TensorRT's Dims by themselves
        profile.set_shape(spec.name, *shapes)
    return profile


def _advice(record: EngineRecord) -> str:
    if record.flavour == "tensorrt_rtx" and record.metadata.precision == "fp32" and 75 in record.compute_capabilities:
        return (
            ". TensorRT-RTX has no FP32 matrix products for compute capability 7.5 (T4, RTX 20): export the ONNX file "
            "with --fp16, leave 75 out, or use TensorRT on such a GPU"
        )
    return ""


def _write(path: Path, plan: tensorrt.IHostMemory, record: EngineRecord) -> EngineRecord:
    content = memoryview(plan)  # type: ignore[arg-type]
    record = replace(record, plan_sha256=hashlib.sha256(content).hexdigest(), plan_bytes=content.nbytes)
    with written_whole(path) as engine_file:
        engine_file.write_bytes(content)
        write_whole(record_path(path), record.to_json().encode())  # first: an engine without its record is unusable
    return record
