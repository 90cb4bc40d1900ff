"""A whole voice as ONNX files: what the demo and other programs call."""

import shutil
import tempfile
from pathlib import Path

from common.metadata import Precision


def export_demo_voice(folder: Path, precision: Precision) -> None:
    """Exports the repository's demo voice: all of its files appear in `folder`, or none."""
    from exports import export_tacotron2_onnx, export_waveglow_onnx

    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".exporting.", dir=folder) as temporary:
        flags = ["-o", temporary, *(["--fp16"] if precision == "fp16" else [])]
        for script in (export_tacotron2_onnx, export_waveglow_onnx):
            script.main(script.make_parser().parse_args(flags))
        for file in sorted(Path(temporary).iterdir()):
            shutil.move(file, folder / file.name)
