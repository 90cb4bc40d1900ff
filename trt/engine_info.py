"""Shows TensorRT engines: names, types and ranges of their tensors, layers and memory."""

import argparse
import json
from contextlib import closing
from pathlib import Path
from typing import Any

from common.cli import ArgumentParser, run
from common.contract import contract_of
from common.errors import UserError
from trt.engine import TensorRTEngine, gpu_for, tensorrt_of
from trt.record import EngineRecord, profile_shapes, read_plan, read_record

MB = 1e6


def make_parser() -> ArgumentParser:
    parser = ArgumentParser(prog="engine_info.py", description=__doc__)
    parser.add_argument("engine", type=Path, nargs="+", help=".engine or .plan files")
    parser.add_argument("--layers", action="store_true", help="list every layer")
    return parser


def main(args: argparse.Namespace) -> None:
    for number, path in enumerate(args.engine):
        record = read_record(path)
        lines = [str(path), *describe_record(record), *describe_tensors(record)]
        try:
            tensorrt_of(str(path), record)
            gpu_for(str(path), record)
        except UserError as error:
            read_plan(path, record)
            lines.append(f"  The file is whole. Its layers and memory can't be read here: {error}")
        else:
            # Opening it also proves file and record to be right.
            with closing(TensorRTEngine(path, record.metadata.part)) as engine:
                lines += describe_engine(engine, args.layers)
        print("\n" * bool(number) + "\n".join(lines))


def describe_record(record: EngineRecord) -> list[str]:
    metadata = record.metadata
    voice = f", {metadata.voice}" if metadata.voice else ""
    workspace = "no limit" if record.workspace_mib is None else f"at most {record.workspace_mib} MiB"
    level = "TensorRT's default" if record.optimization_level is None else str(record.optimization_level)
    versions = "this version and later ones" if record.version_compatible else "this version alone"
    gpus = "any GPU of its compute capability" if record.same_compute_capability else "the GPUs that it was built for"
    return [
        f"  Part         {metadata.part}, {metadata.precision.upper()}{voice}",
        f"  Built by     {record.built_by}",
        f"  Built with   workspace {workspace}, optimization level {level}",
        f"  Runs on      {versions}; {gpus}",
        f"  Plan         {record.plan_bytes / MB:.1f} MB, sha256 {record.plan_sha256}",
        f"  ONNX file    sha256 {record.onnx_sha256}",
        f"  Profile      {'; '.join(f'{symbol} {sizes}' for symbol, sizes in record.profile.items())} (min,opt,max)",
    ]


def describe_tensors(record: EngineRecord) -> list[str]:
    contract = contract_of(record.metadata)
    width = max(map(len, contract.tensors))
    lines = []
    for title, specs in (("Inputs", contract.inputs), ("Outputs", contract.outputs)):
        lines.append(f"  {title}")
        for spec in specs:
            low, best, high = map(list, profile_shapes(record, spec))
            dtype = str(spec.dtype).removeprefix("torch.")
            lines.append(f"    {spec.name:{width}}  {dtype:7}  {low} to {high}, best {best}")
    return lines


def describe_engine(engine: TensorRTEngine, layers: bool) -> list[str]:
    """Facts that only TensorRT knows, on the GPU that the engine is for."""
    cuda_engine = engine.cuda_engine
    lines = [
        f"  GPU          {engine.gpu.name}",
        f"  Scratch      {_scratch_bytes(cuda_engine) / MB:.1f} MB for the largest shapes",
        f"  Layers       {cuda_engine.num_layers}{'' if layers else ' (--layers lists them)'}",
    ]
    api = tensorrt_of(engine.name, engine.record).api
    if layers and not hasattr(api, "EngineInspector"):
        lines.append("    the lean runtime can't list them")
    elif layers:
        form = api.LayerInformationFormat.JSON
        with engine.gpu.current():
            inspector = cuda_engine.create_engine_inspector()
            described = [inspector.get_layer_information(i, form) for i in range(cuda_engine.num_layers)]
        lines += [f"    {i:4} {_layer_name(text)}" for i, text in enumerate(described)]
    return lines


def _scratch_bytes(engine: Any) -> int:
    """Scratch memory that suffices at every size of the engine's profile."""
    newer: int | None = getattr(engine, "device_memory_size_v2", None)  # TensorRT 10.0 has the older name alone
    return engine.device_memory_size if newer is None else newer


def _layer_name(information: str) -> str:
    # A bare JSON string where the engine keeps layer names only (the default), an object where it keeps more.
    try:
        parsed = json.loads(information)
    except ValueError:
        return information.strip()
    return str(parsed.get("Name", parsed)) if isinstance(parsed, dict) else str(parsed)


if __name__ == "__main__":
    run(main, make_parser())
