"""Which script makes a model file and which flag names it: for parsers, and for advice in error messages."""

from common.metadata import Part

# The flags of trt/export_onnx2trt.py that set the sizes an engine takes, by symbol.
SIZE_FLAGS = {"batch": "-bs/--batch-size", "text": "--text-size", "mel": "--mel-size"}


def export_command(part: Part) -> str:
    return f"exports/export_{'waveglow' if part == 'waveglow' else 'tacotron2'}_onnx.py"


def part_flag(part: Part) -> str:
    return "--decoder" if part == "decoder_iter" else f"--{part}"
