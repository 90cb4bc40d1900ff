"""Exports checkpoints to the ONNX files of a voice, for the export scripts and `Voice.load`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from common.callbacks import ignore
from common.errors import UserError
from common.files import appearing_together, output_folder
from common.metadata import MAX_SIGMA, ModelMetadata, Part, Precision, check_number
from exports.conditioning import measured_snr
from exports.onnx_file import export_part
from tacotron2.loading import DEMO_TACOTRON2, load_tacotron2
from tacotron2.parts import tacotron2_parts
from waveglow.conditioning import Conditioning
from waveglow.denoiser import bias_of
from waveglow.loading import DEMO_WAVEGLOW, load_waveglow
from waveglow.parts import waveglow_parts

Parts = dict[Part, tuple[nn.Module, ModelMetadata]]


@dataclass(frozen=True)
class ExportedFile:
    """An ONNX file that has been written and proved.

    Attributes:
        size: in bytes.
        difference: the largest difference between ONNX Runtime and PyTorch, relative to the output's range.
    """

    path: Path
    metadata: ModelMetadata
    size: int
    difference: float

    def __str__(self) -> str:
        metadata = self.metadata
        rank, snr = metadata.conditioning_rank, metadata.conditioning_snr
        form = ", LSTMs in 8 bits" if metadata.int8_lstms else "" if rank is None else f", conditioning of rank {rank}"
        loss = "" if snr is None else f" (its error {snr:.1f} dB below the audio)"
        made = f"{metadata.precision}, {metadata.audio.sampling_rate} Hz{form}{loss}, {self.size / 1e6:.1f} MB"
        return f"{self.path.name}: {made}, within {self.difference:.1e} of PyTorch"


OnFile = Callable[[ExportedFile], object]


def export_voice(
    folder: Path,
    precision: Precision = "fp32",
    *,
    tacotron2: Path = DEMO_TACOTRON2,
    waveglow: Path = DEMO_WAVEGLOW,
    int8_decoder: bool = False,
    sigma: float | None = None,
    conditioning: Conditioning = "auto",
    on_file: OnFile = ignore,
) -> dict[Part, Path]:
    """Exports a voice's four ONNX files to `folder`: all of them appear, or none, even if the process is killed.

    Args:
        folder: made if it isn't there; files of the same names are replaced.
        precision: of weights and computation.
        tacotron2, waveglow: checkpoints [the demo voice's].
        int8_decoder: store the decoder's LSTMs in 8 bits; for FP32 files on CPUs.
        sigma: the noise's standard deviation that the WaveGlow file stores as its default [the checkpoint's, else 0.6].
        conditioning: of WaveGlow; the loss of a lossy rank is measured on Tacotron 2's mels, and stored.
        on_file: called with each file as soon as it is checked.

    Returns:
        the files by part.

    Raises:
        UserError: a checkpoint can't be used, a file does not compute what PyTorch computes, or `folder` can't be
            written.
    """
    # Both are loaded before the first is exported: an error in the second comes at once.
    parts = {
        **tacotron2_voice_parts(tacotron2, precision, int8_decoder=int8_decoder),
        **waveglow_voice_parts(waveglow, precision, None, sigma, conditioning, tacotron2),
    }
    return export_parts(parts, folder, on_file)


def tacotron2_voice_parts(
    checkpoint: Path,
    precision: Precision,
    flags: Mapping[str, Any] | None = None,
    int8_decoder: bool = False,
    symbols: Path | None = None,
) -> Parts:
    """Tacotron 2's three parts as they are exported. See `tacotron2.loading.load_tacotron2` for `flags` and `symbols`.

    Raises:
        UserError: the checkpoint can't be used, or 8 bits were asked for beside FP16.
    """
    if int8_decoder and precision != "fp32":
        raise UserError("--int8-decoder goes with FP32 files for CPUs; leave --fp16 out")
    parts = tacotron2_parts(load_tacotron2(checkpoint, flags, symbols), precision)
    module, metadata = parts["decoder_iter"]
    return {**parts, "decoder_iter": (module, replace(metadata, int8_lstms=int8_decoder))}


def waveglow_voice_parts(
    checkpoint: Path,
    precision: Precision,
    flags: Mapping[str, Any] | None = None,
    sigma: float | None = None,
    conditioning: Conditioning = "auto",
    measure_on: Path | None = None,
    force: bool = False,
) -> Parts:
    """WaveGlow as it is exported, with the denoiser's bias and the loss of a lossy conditioning.

    See `waveglow.loading.load_waveglow` for `flags`, and `exports.conditioning.measured_snr` for the last two.

    Raises:
        UserError: the checkpoint can't be used, too much would be lost, or sigma is out of range.
    """
    try:
        check_number("-s/--sigma-infer", 0.0 if sigma is None else sigma, 0, MAX_SIGMA)
    except ValueError as error:
        raise UserError(str(error)) from error
    loaded = load_waveglow(checkpoint, flags)
    module, metadata = waveglow_parts(loaded, precision, sigma, conditioning)["waveglow"]
    assert metadata.sigma is not None
    snr = None
    if isinstance(conditioning, int):
        snr = measured_snr(loaded, conditioning, metadata.sigma, measure_on, force)
    return {"waveglow": (module, replace(metadata, bias=bias_of(loaded), conditioning_snr=snr))}


def export_parts(parts: Parts, folder: Path, on_file: OnFile = ignore) -> dict[Part, Path]:
    """Exports parts to `folder` as `{part}.onnx`: all of the files appear, or none. Returns them by part."""
    with appearing_together(output_folder(folder)) as temporary:
        for part, (module, metadata) in parts.items():
            path = temporary / f"{part}.onnx"
            difference = export_part(module, metadata, path)
            on_file(ExportedFile(folder / path.name, metadata, path.stat().st_size, difference))
    return {part: folder / f"{part}.onnx" for part in parts}
