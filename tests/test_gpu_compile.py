"""All Triton kernels compile for every generation of GPU that they claim, without one: by Triton's own compiler.

What is compiled is what the engines would launch, with the sizes of the published checkpoints. Each kernel has to fit
into the shared memory of the smallest card of its generation, and must not spill its registers into memory.
"""

import functools
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from common.config import AudioConfig, Tacotron2Config, WaveGlowConfig
from common.contract import contract_of
from common.metadata import ModelMetadata
from common.triton_engine import Launch
from tacotron2.gpu.decoder_step import FusedStep
from tacotron2.gpu.decoder_step import tuning_for as decoder_tuning
from tacotron2.gpu.encoder_engine import FusedEncoder
from tacotron2.hopper import persistent_decoder
from tacotron2.model import Tacotron2
from tacotron2.parts import DecoderIterPart, EncoderPart
from waveglow.conditioning import Conditioning
from waveglow.gpu.network import Network
from waveglow.gpu.tuning import GENERAL, HOPPER, Tuning
from waveglow.gpu.tuning import tuning_for as waveglow_tuning
from waveglow.model import WaveGlow
from waveglow.parts import WaveGlowPart

triton = pytest.importorskip("triton", reason="Triton is not installed")

pytestmark = [pytest.mark.slow, pytest.mark.alone]

# Shared memory that one program may have, in bytes: CUDA C++ Programming Guide, "Technical specifications per compute
# capability".
SHARED_MEMORY = {(8, 0): 163 << 10, (8, 6): 99 << 10, (8, 9): 99 << 10, (9, 0): 227 << 10, (12, 0): 99 << 10}
# 100 stands for data-centre Blackwell (10.0), whose kernels are those of no other.
SHARED_MEMORY[10, 0] = 227 << 10
MAX_SPILLED_BYTES = 64  # of local memory a thread: a register or two kept aside is no harm

DECODER = ModelMetadata("decoder_iter", "fp16", Tacotron2Config(), AudioConfig(), "0" * 64, None, "")


@dataclass(frozen=True)
class Usage:
    kernel: str
    shared: int  # bytes a program
    registers: int  # of a thread
    local: int  # bytes a thread, spilled registers among them


class Target:
    """What Triton asks of a driver to compile and not launch."""

    def __init__(self, capability: tuple[int, int]) -> None:
        self._number = 10 * capability[0] + capability[1]

    def get_current_target(self) -> Any:
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", self._number, 32)

    def get_current_device(self) -> int:
        return self._number  # kernels are cached by device

    def get_current_stream(self, device: int) -> int:
        return 0


@pytest.fixture(params=sorted(SHARED_MEMORY), ids=lambda capability: "SM {}{}".format(*capability))
def capability(request: pytest.FixtureRequest) -> Iterator[tuple[int, int]]:
    driver = triton.runtime.driver
    active = driver._active
    driver.set_active(Target(request.param))
    yield request.param
    driver._active = active


def compiled(launches: list[Launch], folder: Path) -> Iterator[Usage]:
    seen = set()
    for launch in launches:
        kernel = launch.kernel.warmup(*launch.arguments, grid=launch.grid, **launch.constants)
        if kernel.hash in seen:
            continue
        seen.add(kernel.hash)
        registers, local = resources(kernel.asm["cubin"], folder)
        yield Usage(kernel.metadata.name, kernel.metadata.shared, registers, local)


def resources(cubin: bytes, folder: Path) -> tuple[int, int]:
    """Registers and bytes of local memory of a thread, read by the disassembler that comes with Triton."""
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    if not tool.is_file():
        pytest.skip("this Triton has no cuobjdump")
    file = folder / "kernel.cubin"
    file.write_bytes(cubin)
    text = subprocess.run([tool, "-res-usage", file], check=True, capture_output=True, text=True).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+) SHARED:\d+ LOCAL:(\d+)", text)
    assert found, text
    return int(found[1]), int(found[2]) + int(found[3])


def decoder_launches(capability: tuple[int, int], batch: int, text: int) -> list[Launch]:
    part = DecoderIterPart(Tacotron2(Tacotron2Config())).half().requires_grad_(False)
    contract = contract_of(DECODER)
    tensors = {
        spec.name: torch.zeros(spec.resolve({"batch": batch, "text": text}), dtype=spec.dtype)
        for spec in contract.tensors.values()
    }
    return FusedStep(part, DECODER).launches(tensors, decoder_tuning(capability, batch))


def encoder_launch() -> Launch:
    part = FusedEncoder(EncoderPart(Tacotron2(Tacotron2Config())).half().requires_grad_(False))
    x, lengths = torch.zeros(2, 128, 512, dtype=torch.float16), torch.zeros(2, dtype=torch.int32)
    return part.launch(x, lengths, torch.zeros_like(x))


def waveglow_launches(
    tuning: Tuning, batch: int, channels: int, conditioning: Conditioning, n_group: int = 8
) -> list[Launch]:
    # Few enough multiprocessors for a round of whole tiles, and one of halves
    network = folded(channels, conditioning, n_group).retuned(tuning, processors=31)
    geometry, frames = network.geometry, [64] * batch
    rows, total = geometry.rows_of(frames), sum(frames)
    memory = torch.zeros(geometry.bytes_for(rows), dtype=torch.uint8)
    shapes = (80, total), (n_group, total * 256 // n_group), (total * 256,)
    mel, z, audio = (torch.zeros(shape, dtype=torch.float16) for shape in shapes)
    steps = network.launches(geometry.buffers(memory, rows, frames), mel, z, audio)
    return [step for step in steps if isinstance(step, Launch)]


@functools.cache
def folded(channels: int, conditioning: Conditioning, n_group: int) -> Network:
    config = WaveGlowConfig(n_flows=3, n_early_every=2, wn_layers=3, wn_channels=channels, n_group=n_group)
    part = WaveGlowPart(WaveGlow(config), conditioning).requires_grad_(False)
    return Network(part, torch.device("cpu"), waveglow_tuning((9, 0)))


def check(usages: Iterator[Usage], capability: tuple[int, int]) -> None:
    for usage in usages:
        assert usage.shared <= SHARED_MEMORY[capability], usage
        assert usage.local <= MAX_SPILLED_BYTES, usage
        assert usage.registers <= 255, usage


def test_the_encoders_lstm_compiles(capability: tuple[int, int], tmp_path: Path) -> None:
    check(compiled([encoder_launch()], tmp_path), capability)


def test_the_decoder_step_compiles(capability: tuple[int, int], tmp_path: Path) -> None:
    tunings = {decoder_tuning(capability, batch): batch for batch in (1, 8, 32, 64, 128)}
    for batch in tunings.values():
        check(compiled(decoder_launches(capability, batch, 128), tmp_path), capability)


@pytest.mark.parametrize(("channels", "conditioning"), [(64, "exact"), (320, "exact"), (64, 4), (320, 4), (256, 32)])
def test_waveglow_compiles(
    capability: tuple[int, int], channels: int, conditioning: Conditioning, tmp_path: Path
) -> None:
    tuning = waveglow_tuning(capability)
    check(compiled(waveglow_launches(tuning, 2, channels, conditioning), tmp_path), capability)


@pytest.mark.parametrize("capability", [(9, 0)], ids=["SM 90"], indirect=True)
def test_the_audio_between_flows_stays_fp32_in_wide_groups_too(capability: tuple[int, int]) -> None:
    couplings = [one for one in waveglow_launches(GENERAL, 1, 64, 3, n_group=16) if one.kernel.__name__ == "couple"]
    assert len(couplings) == 4
    for one in couplings:
        kernel = one.kernel.warmup(*one.arguments, grid=one.grid, **one.constants)
        assert "tt.reduce" in kernel.asm["ttir"] or not one.constants["FLOW_CHANNELS"]
        assert "tt.dot" not in kernel.asm["ttir"]  # Triton may make one of a sum of products, and compute it in TF32


@pytest.mark.parametrize("capability", [(9, 0)], ids=["SM 90"], indirect=True)
@pytest.mark.parametrize(
    ("channels", "conditioning"), [(256, "exact"), (256, 4), (256, 8), (256, 16), (128, "exact"), (96, 4)]
)
def test_waveglows_layer_in_one_kernel_compiles(
    capability: tuple[int, int], channels: int, conditioning: Conditioning, tmp_path: Path
) -> None:
    launches = waveglow_launches(HOPPER, 2, channels, conditioning)
    assert {launch.constants["SPLIT"] for launch in launches if launch.kernel.__name__ == "layer"} == {1, 2}
    check(compiled(launches, tmp_path), capability)


def test_the_decoder_kernel_for_many_steps_compiles_and_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("cuda.bindings.nvrtc", reason="cuda-bindings is not installed")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    code = persistent_decoder.machine_code()
    registers, local = resources(code, tmp_path)
    usage = Usage("decode", persistent_decoder.SHARED_BYTES, registers, local)
    check(iter([usage]), (9, 0))
    assert usage.registers * persistent_decoder.THREADS <= 64 << 10  # of a multiprocessor
    monkeypatch.setattr(persistent_decoder, "compiled", lambda source: pytest.fail("compiled again"))
    assert persistent_decoder.machine_code() == code


def test_a_decoder_kernel_that_is_wrong_says_where() -> None:
    pytest.importorskip("cuda.bindings.nvrtc", reason="cuda-bindings is not installed")
    with pytest.raises(RuntimeError, match=r"decoder_kernel.cu\(1\): error"):
        persistent_decoder.compiled(b"int x = y;")
