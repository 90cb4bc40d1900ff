"""Checkpoints load in every wrapping and format; code and anything else is refused in one line."""

import argparse
import builtins
import collections
import datetime
import functools
import io
import operator
import os
import pickle
import random
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from common.checkpoint import State
from common.config import AudioConfig, WaveGlowConfig
from common.errors import UserError
from tacotron2.loading import load_tacotron2
from tacotron2.text.symbols import SYMBOLS
from tests.models import MELS, TINY_TACOTRON2, TINY_WAVEGLOW, nested_waveglow_config, tiny_tacotron2, tiny_waveglow
from waveglow.loading import load_waveglow

MODELS: list[tuple[str, Callable[[], torch.nn.Module], Callable[..., Any], Any]] = [
    ("tacotron2.pt", tiny_tacotron2, load_tacotron2, TINY_TACOTRON2),
    ("waveglow.pt", tiny_waveglow, load_waveglow, TINY_WAVEGLOW),
]
FORMATS = pytest.mark.parametrize("zip_format", [True, False], ids=["zip", "legacy"])


def assert_same_weights(path: Path, model: torch.nn.Module, load: Callable[..., Any] = load_waveglow) -> None:
    found = load(path).model.state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in model.state_dict().items())


def assert_same_audio(path: Path) -> None:
    mel, z = torch.randn(1, MELS, 3), torch.randn(1, 8, 96)
    torch.testing.assert_close(load_waveglow(path).model.infer(mel, z), tiny_waveglow().infer(mel, z))


def ngc_checkpoint(model: torch.nn.Module, config: dict) -> dict:
    """Everything that NVIDIA's training script saves: `{epoch, rng states, config, state_dict, optimizer, amp}`."""
    # As Adam's `state_dict()`; to import an optimizer takes seconds.
    moments = {
        index: {"step": torch.tensor(1.0), "exp_avg": tensor.detach(), "exp_avg_sq": tensor.detach() ** 2}
        for index, tensor in enumerate(model.parameters())
    }
    return {
        "epoch": 1501,
        "cuda_rng_state_all": [torch.get_rng_state()],
        "random_rng_states_all": [torch.get_rng_state(), random.getstate(), np.random.get_state()],
        "config": config,
        "state_dict": collections.OrderedDict((f"module.{name}", t) for name, t in model.state_dict().items()),
        "optimizer": {"state": moments, "param_groups": [{"lr": 1e-3, "betas": (0.9, 0.999), "params": [*moments]}]},
        "amp": collections.OrderedDict(loss_scaler0={"loss_scale": 65536.0, "unskipped": 12}),
    }


@FORMATS
def test_full_training_checkpoints_load(zip_format: bool, tmp_path: Path) -> None:
    configs = vars(TINY_TACOTRON2), nested_waveglow_config(TINY_WAVEGLOW)
    for (name, model, load, config), stored in zip(MODELS, configs, strict=True):
        whole = ngc_checkpoint(model(), stored)
        torch.save(whole, tmp_path / name, _use_new_zipfile_serialization=zip_format)
        assert load(tmp_path / name).config == config
        assert_same_weights(tmp_path / name, model(), load)


@pytest.mark.parametrize(
    "prefix", ["_orig_mod.", "module._orig_mod.", "_orig_mod.module.", "model.", "ema.module.", "model._orig_mod."]
)
def test_what_wrappers_add_to_names_is_taken_off(prefix: str, tmp_path: Path) -> None:
    for file, model, load, _ in MODELS:
        state = {prefix + name: tensor for name, tensor in model().state_dict().items()}
        torch.save({"model": state, "step": 7}, tmp_path / file)
        assert_same_weights(tmp_path / file, model(), load)


def test_averaged_weights_are_taken_before_those_that_they_average(tmp_path: Path) -> None:
    states = {"ema": tiny_waveglow(seed=1).state_dict(), "model": tiny_waveglow().state_dict()}
    torch.save({f"{key}.{name}": t for key, state in states.items() for name, t in state.items()}, tmp_path / "both.pt")
    assert_same_weights(tmp_path / "both.pt", tiny_waveglow(seed=1))


def fused(state: State) -> State:
    """One conditioning layer for all layers of a flow."""
    kept = {name: tensor for name, tensor in state.items() if ".cond_layers." not in name}
    for flow in range(TINY_WAVEGLOW.n_flows):
        for kind in ("weight_g", "weight_v", "weight", "bias"):
            names = [f"WN.{flow}.cond_layers.{layer}.{kind}" for layer in range(TINY_WAVEGLOW.wn_layers)]
            if names[0] in state:
                kept[f"WN.{flow}.cond_layer.{kind}"] = torch.cat([state[name] for name in names])
    return kept


def parametrized(state: State) -> State:
    """Weight norms as `torch.nn.utils.parametrizations.weight_norm` keeps them."""
    names = {"weight_g": "parametrizations.weight.original0", "weight_v": "parametrizations.weight.original1"}
    return {".".join(names.get(part, part) for part in name.split(".")): tensor for name, tensor in state.items()}


def folded(state: State) -> State:
    """Weight norms removed."""
    kept = {name: tensor for name, tensor in state.items() if not name.endswith(("weight_g", "weight_v"))}
    for name, direction in state.items():
        if name.endswith("weight_v"):
            magnitude = state[name[:-1] + "g"]
            kept[name[:-2]] = direction * magnitude / direction.norm(dim=(1, 2), keepdim=True)
    return kept


def apart(state: State) -> State:
    """Residual and skip layers apart, as NVIDIA's first releases have them."""
    kept: State = {}
    for name, tensor in state.items():
        flow, found, rest = name.partition(".res_skip_layers.")
        if not found:
            kept[name] = tensor
        elif rest.startswith(f"{TINY_WAVEGLOW.wn_layers - 1}."):
            kept[f"{flow}.skip_layers.{rest}"] = tensor
        else:
            kept[f"{flow}.res_layers.{rest}"], kept[f"{flow}.skip_layers.{rest}"] = tensor.chunk(2)
    return kept


def of_nemo(state: State) -> State:
    """NeMo's names, with what it keeps beside the weights."""
    kept = {f"waveglow.{name.replace('WN.', 'wavenet.')}": tensor for name, tensor in fused(state).items()}
    kept["audio_to_melspec_precessor.featurizer.window"] = torch.ones(1024)
    kept["waveglow.convinv.0.inv_conv.weight"] = state["convinv.0.conv.weight"]
    return kept


LAYOUTS: dict[str, Callable[[State], State]] = {
    "fused conditioning": fused,
    "parametrized": parametrized,
    "folded": folded,
    "folded and fused": lambda state: fused(folded(state)),
    "residual and skip apart": apart,
    "apart, parametrized, fused": lambda state: parametrized(fused(apart(state))),
    "apart and folded": lambda state: folded(apart(state)),
    "NeMo": of_nemo,
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_every_layout_of_waveglows_weights_is_the_same_model(layout: Callable[[State], State], tmp_path: Path) -> None:
    torch.save({"state_dict": layout(tiny_waveglow().state_dict())}, tmp_path / "other.pt")
    assert_same_audio(tmp_path / "other.pt")


def test_a_row_of_zeros_stays_one_where_the_weight_norm_was_removed(tmp_path: Path) -> None:
    state = folded(tiny_waveglow().state_dict())
    state["WN.0.in_layers.0.weight"][3] = 0
    torch.save(state, tmp_path / "pruned.pt")
    weight = load_waveglow(tmp_path / "pruned.pt").model.WN[0].in_layers[0].weight
    torch.testing.assert_close(weight, state["WN.0.in_layers.0.weight"])


@pytest.mark.parametrize("whole", [True, False], ids=["state_dict", "bare, as SpeechBrain's"])
def test_without_a_config_the_weights_show_the_dimensions(whole: bool, tmp_path: Path) -> None:
    for name, model, load, config in MODELS:
        torch.save({"state_dict": model().state_dict()} if whole else model().state_dict(), tmp_path / name)
        assert load(tmp_path / name).config == config


def test_a_flag_may_confirm_but_not_contradict(tiny_checkpoints: dict[str, Path]) -> None:
    load_waveglow(tiny_checkpoints["waveglow"], {"wn_channels": TINY_WAVEGLOW.wn_channels})
    with pytest.raises(UserError, match=r"wn_channels = 12, but --wn-channels says 256"):
        load_waveglow(tiny_checkpoints["waveglow"], {"wn_channels": 256})


@FORMATS
def test_what_trainers_keep_beside_the_weights_is_passed_over(zip_format: bool, tmp_path: Path) -> None:
    extras = {
        "learning_rate": np.float64(1e-3),
        "generator": np.random.get_state(),
        "args": argparse.Namespace(epochs=3, out=Path("runs"), seen={1, 2}),
        "losses": collections.defaultdict(list, train=[1.0]),
        "date": datetime.datetime(2024, 2, 3, tzinfo=datetime.timezone.utc),
        "folder": Path("runs/1"),
        "device": (torch.device("cpu"), torch.float16),
    }
    for name, model, load, config in MODELS:
        whole = {"state_dict": model().state_dict(), **extras}
        torch.save(whole, tmp_path / name, _use_new_zipfile_serialization=zip_format)
        assert load(tmp_path / name).config == config


# Pickled modules, as NVIDIA/waveglow publishes them.

GLOW = """
import torch
from torch.nn.utils import weight_norm

class Invertible1x1Conv(torch.nn.Module):
    def __init__(self, conv):
        super().__init__()
        self.conv = torch.nn.Conv1d(*conv["weight"].shape[:2], 1, bias=False)

class WN(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.n_layers, self.seen = 3, set()

class WaveGlow(torch.nn.Module):
    pass
"""


@pytest.fixture
def glow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Any]]:
    """Makes a module of pickled classes. Their source lies in a file, as it did where the checkpoint was made."""
    monkeypatch.syspath_prepend(tmp_path / "source")
    (tmp_path / "source").mkdir()

    def make(name: str) -> Any:
        (tmp_path / f"source/{name}.py").write_text(GLOW)
        return __import__(name)

    yield make
    for name in ("glow", "glow_old"):
        sys.modules.pop(name, None)


def pickled_waveglow(classes: Any) -> torch.nn.Module:
    """The tiny WaveGlow as an object of other classes, with PyTorch's own weight norms."""

    def rebuilt(module: torch.nn.Module) -> torch.nn.Module:
        if hasattr(module, "folded"):  # a convolution with a weight norm
            plain = module.folded()
            conv = torch.nn.Conv1d(plain.in_channels, plain.out_channels, plain.kernel_size)
            conv.load_state_dict(plain.state_dict())
            return torch.nn.utils.weight_norm(conv)
        kind = getattr(classes, type(module).__name__, None)
        if kind is None and not isinstance(module, torch.nn.ModuleList):
            return module
        copy = torch.nn.ModuleList() if kind is None else kind.__new__(kind)
        if kind is not None:
            torch.nn.Module.__init__(copy)
        for name, child in module.named_children():
            copy.add_module(name, rebuilt(child))
        return copy

    return rebuilt(tiny_waveglow())


@FORMATS
@pytest.mark.filterwarnings("ignore")  # PyTorch's of its older weight norm
def test_pickled_modules_are_read_as_weights_without_their_code(
    zip_format: bool, glow: Callable[[str], Any], tmp_path: Path
) -> None:
    whole = {"model": pickled_waveglow(glow("glow")), "iteration": 580000, "learning_rate": 1e-4}
    torch.save(whole, tmp_path / "waveglow_256channels.pt", _use_new_zipfile_serialization=zip_format)
    torch.save(whole["model"], tmp_path / "alone.pt", _use_new_zipfile_serialization=zip_format)
    del sys.modules["glow"]
    (tmp_path / "source/glow.py").write_text("raise SystemExit('the code of a checkpoint was run')")
    for name in ("waveglow_256channels.pt", "alone.pt"):
        assert_same_audio(tmp_path / name)
    assert "glow" not in sys.modules


def test_waveglow_of_the_first_release_is_named(glow: Callable[[str], Any], tmp_path: Path) -> None:
    torch.save({"model": glow("glow_old").WaveGlow()}, tmp_path / "waveglow_old.pt")
    with pytest.raises(UserError, match=r"swaps the halves of its channels .*; take a later one"):
        load_waveglow(tmp_path / "waveglow_old.pt")


# Code


class Calls:
    """Asks the unpickler to call a function."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


class Attributes:
    """Asks the unpickler to set attributes of a function of PyTorch's that it may use."""

    def __reduce__(self) -> Any:
        return (torch._utils._rebuild_tensor_v2, (), {"__defaults__": (1,)})


def attacks(trace: Path) -> dict[str, Callable[[], Any]]:
    """What would leave a trace if it were run."""
    code = f"open({str(trace)!r}, 'w')"
    return {
        "os.system": lambda: Calls(os.system, f"touch {trace}"),
        "eval": lambda: Calls(builtins.eval, code),
        "exec": lambda: Calls(builtins.exec, code),
        "open": lambda: Calls(open, str(trace), "w"),
        "attrgetter": lambda: Calls(operator.attrgetter, "system"),
        "partial": lambda: Calls(functools.partial, os.system, f"touch {trace}"),
        "nested pickle": lambda: Calls(pickle.loads, pickle.dumps(Calls(builtins.eval, code))),
        "call of a call": lambda: Calls(map, Calls(functools.partial, os.system), [f"touch {trace}"]),
        "inside an inert object": lambda: argparse.Namespace(x=Calls(builtins.eval, code)),
        "inside a defaultdict": lambda: collections.defaultdict(list, x=[Calls(os.system, f"touch {trace}")]),
        "torch.load": lambda: Calls(torch.load, str(trace)),
        "another module": lambda: Calls(os.mkdir, str(trace)),
    }


@FORMATS
@pytest.mark.parametrize("attack", attacks(Path("trace")).keys())
def test_code_in_a_checkpoint_is_refused_by_name(attack: str, zip_format: bool, tmp_path: Path) -> None:
    path, trace = tmp_path / "unsafe.pt", tmp_path / "trace"
    content = {"state_dict": {"WN.0.start.bias": torch.zeros(1)}, "extra": attacks(trace)[attack]()}
    torch.save(content, path, _use_new_zipfile_serialization=zip_format)
    with pytest.raises(
        UserError, match=r"unsafe\.pt: refused: it asks to run code when loaded \([\w.]+\); use"
    ) as error:
        load_waveglow(path)
    assert "\n" not in str(error.value)
    assert not trace.exists()


@FORMATS
@pytest.mark.filterwarnings("ignore")
def test_a_pickled_module_may_hold_no_code_either(zip_format: bool, glow: Callable[[str], Any], tmp_path: Path) -> None:
    model = pickled_waveglow(glow("glow"))
    model.hook = Calls(os.system, f"touch {tmp_path / 'trace'}")
    torch.save({"model": model}, tmp_path / "unsafe.pt", _use_new_zipfile_serialization=zip_format)
    with pytest.raises(UserError, match="refused: it asks to run code"):
        load_waveglow(tmp_path / "unsafe.pt")
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize("name", ["glow os.system", "torch.nn.modules.module torch.hub.load", "numpy load"])
def test_a_name_that_only_begins_like_a_harmless_one_runs_nothing(name: str, tmp_path: Path) -> None:
    """A stand-in is made from the name alone: nothing is looked up in a module, however the name goes on."""
    trace = tmp_path / "trace"
    call = f"c{name.replace(' ', chr(10))}\n(X{{}}tR"
    argument = f"touch {trace}".encode()
    program = call.encode().replace(b"X{}", b"X" + len(argument).to_bytes(4, "little") + argument)
    with zipfile.ZipFile(tmp_path / "crafted.pt", "w") as archive:
        archive.writestr("x/data.pkl", b"\x80\x02}X\x01\x00\x00\x00x" + program + b"s.")
        archive.writestr("x/version", b"3\n")
    with pytest.raises(UserError):
        load_waveglow(tmp_path / "crafted.pt")
    assert not trace.exists()


@FORMATS
def test_functions_of_pytorch_keep_their_attributes(zip_format: bool, tmp_path: Path) -> None:
    before = torch._utils._rebuild_tensor_v2.__defaults__
    content = {"state_dict": tiny_waveglow().state_dict(), "extra": Attributes()}
    torch.save(content, tmp_path / "unsafe.pt", _use_new_zipfile_serialization=zip_format)
    with pytest.raises(UserError):
        load_waveglow(tmp_path / "unsafe.pt")
    assert torch._utils._rebuild_tensor_v2.__defaults__ == before


# Other files


def test_safetensors_are_read(tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors.torch", reason="needs safetensors")
    for name, model, load, config in MODELS:
        path = (tmp_path / name).with_suffix(".safetensors")
        state = {key: tensor.contiguous() for key, tensor in model().half().state_dict().items()}
        safetensors.save_file(state, path, {"sampling_rate": "16000"})
        loaded = load(path)
        assert (loaded.config, loaded.audio.sampling_rate) == (config, 16000)
        assert_same_weights(path, model().half().float(), load)
        path.write_bytes(path.read_bytes()[:-9])
        with pytest.raises(UserError, match="not a readable PyTorch checkpoint"):
            load(path)


NEMO_CONFIG = """\
sigma: 1.0
train_ds: {dataset: {manifest_filepath: ???}}
preprocessor:
  _target_: nemo.collections.asr.parts.preprocessing.features.FilterbankFeatures
  n_fft: 1024
  n_window_size: 1024
  n_window_stride: 256
  sample_rate: 16000
  highfreq: 7600
"""


def nemo_archive(path: Path, weights: bytes, mode: Any) -> Path:
    with tarfile.open(path, mode, **({"compresslevel": 1} if mode == "w:gz" else {})) as archive:
        for name, content in (("./model_config.yaml", NEMO_CONFIG.encode()), ("./model_weights.ckpt", weights)):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


@pytest.mark.parametrize(("mode", "zip_format"), [("w", True), ("w", False), ("w:gz", True)])
def test_nemos_archives_are_read(mode: str, zip_format: bool, tmp_path: Path) -> None:
    weights = io.BytesIO()
    torch.save(of_nemo(tiny_waveglow().state_dict()), weights, _use_new_zipfile_serialization=zip_format)
    path = nemo_archive(tmp_path / "WaveGlow-22050Hz.nemo", weights.getvalue(), mode)
    assert load_waveglow(path).audio == AudioConfig(sampling_rate=16000, mel_fmax=7600.0)
    assert_same_audio(path)


def test_code_in_nemos_archives_is_refused(tmp_path: Path) -> None:
    weights = saved({"x": Calls(os.system, f"touch {tmp_path / 'trace'}")})
    with pytest.raises(UserError, match=r"x\.nemo: refused: it asks to run code"):
        load_waveglow(nemo_archive(tmp_path / "x.nemo", weights, "w"))
    assert not (tmp_path / "trace").exists()


def test_archives_and_programs_say_what_they_are(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "ngc.zip", "w") as archive:
        archive.writestr("nvidia_waveglow256pyt_fp16.pt", b"weights")
    torch.jit.save(torch.jit.script(torch.nn.ReLU()), tmp_path / "program.pt")
    with tarfile.open(tmp_path / "logs.tar", "w") as tar:
        tar.add(tmp_path / "ngc.zip", "ngc.zip")
    for name, words in {
        "ngc.zip": "an archive of nvidia_waveglow256pyt_fp16.pt; unpack it",
        "program.pt": "a TorchScript program, not weights",
        "logs.tar": "an archive without model_weights.ckpt",
    }.items():
        with pytest.raises(UserError, match=words):
            load_waveglow(tmp_path / name)


# What the file doesn't say, or says wrongly


@pytest.mark.parametrize(
    "said",
    [
        {"sampling_rate": 16000},
        {"sampling_rate": 16000.0},
        {"sampling_rate": "16000"},
        {"config": {"sampling_rate": 16000}},
        {"config": {"data": {"sample_rate": 16000}}},
        {"args": argparse.Namespace(sampling_rate=16000)},
    ],
    ids=str,
)
def test_the_sampling_rate_is_read_wherever_it_is_said(said: dict[str, Any], tmp_path: Path) -> None:
    torch.save({"state_dict": tiny_waveglow().state_dict(), **said}, tmp_path / "x.pt")
    audio = load_waveglow(tmp_path / "x.pt").audio
    assert audio == AudioConfig(sampling_rate=16000)
    assert type(audio.sampling_rate) is int
    assert load_waveglow(tmp_path / "x.pt", {"sampling_rate": 16000}).audio == audio
    with pytest.raises(UserError, match="has sampling_rate = 16000, but --sampling-rate says 8000; leave the flag"):
        load_waveglow(tmp_path / "x.pt", {"sampling_rate": 8000})


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"sampling_rate": 0}, "sampling_rate is 0: it must be at least 1"),
        ({"sampling_rate": float("nan")}, "sampling_rate is nan: it must be a whole number"),
        ({"sampling_rate": "high"}, "sampling_rate is 'high': it must be a whole number"),
        ({"sampling_rate": 22050, "config": {"sampling_rate": 16000}}, "22050 in one place and 16000 in another"),
        ({"config": [1, 2]}, "its config, .* is no dictionary"),
        ({"config": {"WN_config": 3}}, "its config, .* is no dictionary"),
        ({"config": {"n_flows": 10**9}}, "its config has n_flows = 1000000000, but its weights have 6"),
        ({"config": {"n_flows": 10**400}}, "n_flows is 10+: it must be a whole number"),
        ({"config": {"n_flows": None}}, "n_flows is None: it must be a whole number"),
        ({"config": {"n_flows": 2.5}}, r"n_flows is 2\.5: it must be a whole number"),
        ({"config": {"n_early_every": 0}}, "its config has n_early_every = 0, but its weights have 2"),
        ({"config": {"n_mel_channels": True}}, "n_mel_channels is True: it must be a whole number"),
        ({"gain": 0}, r"x\.pt: gain 0.0: must be above 0"),
        ({"gain": -1}, "gain -1: must be a number from 0 to 100"),
        ({"sigma": float("nan")}, "sigma nan: must be a number from 0 to 10"),
        ({"hop_length": 200}, "its hop_length is 200, but WaveGlow makes 256 samples of a mel frame"),
    ],
    ids=str,
)
def test_settings_that_no_voice_can_have_are_one_line(said: dict[str, Any], words: str, tmp_path: Path) -> None:
    torch.save({"state_dict": tiny_waveglow().state_dict(), **said}, tmp_path / "x.pt")
    with pytest.raises(UserError, match=words) as error:
        load_waveglow(tmp_path / "x.pt")
    assert str(tmp_path / "x.pt") in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("setting", "value"), [("gate_threshold", 1.5), ("max_decoder_steps", 0)])
def test_choices_of_a_run_that_no_run_can_have_are_one_line(setting: str, value: float, tmp_path: Path) -> None:
    torch.save({"state_dict": tiny_tacotron2().state_dict(), "config": {setting: value}}, tmp_path / "x.pt")
    with pytest.raises(UserError, match=rf"x\.pt: {setting} is {value}: it must be "):
        load_tacotron2(tmp_path / "x.pt")


def test_numbers_are_read_from_text_and_groups_must_divide_a_frame(tmp_path: Path) -> None:
    config = {**vars(TINY_WAVEGLOW), "n_flows": str(TINY_WAVEGLOW.n_flows)}
    torch.save({"state_dict": tiny_waveglow().state_dict(), "config": config}, tmp_path / "text.pt")
    assert load_waveglow(tmp_path / "text.pt").config == TINY_WAVEGLOW
    odd = WaveGlowConfig(n_flows=2, n_group=20, wn_layers=1, wn_channels=4)
    torch.save(tiny_waveglow(odd).state_dict(), tmp_path / "odd.pt")
    with pytest.raises(UserError, match="n_group is 20: it must divide the 256 samples of a mel frame"):
        load_waveglow(tmp_path / "odd.pt")
    torch.save({"state_dict": tiny_waveglow(odd).state_dict(), "config": {"n_early_every": 0}}, tmp_path / "odd.pt")
    with pytest.raises(UserError, match="n_early_every is 0: it must be at least 1"):
        load_waveglow(tmp_path / "odd.pt")


# Symbols


@pytest.fixture
def reordered(tmp_path: Path) -> tuple[Path, list[str]]:
    """A checkpoint of NVIDIA's symbols backwards, without some capitals and brackets, and of others."""
    own = ["@@@", *(symbol for symbol in reversed(SYMBOLS) if symbol not in "()ABC"), "é", "ß", "…"]
    state = tiny_tacotron2().state_dict()
    state["embedding.weight"] = torch.arange(len(own), dtype=torch.float32)[:, None].expand(-1, 24).clone()
    torch.save(state, tmp_path / "own.pt")
    return tmp_path / "own.pt", own


def test_a_checkpoint_of_other_symbols_needs_their_list(reordered: tuple[Path, list[str]], tmp_path: Path) -> None:
    path, own = reordered
    with pytest.raises(UserError, match=rf"knows {len(own)} symbols, but .* NVIDIA's 148; .* --symbols FILE"):
        load_tacotron2(path)
    symbols = tmp_path / "symbols.txt"
    symbols.write_text("\n".join(own) + "\n", encoding="utf-8")
    loaded = load_tacotron2(path, symbols=symbols)
    assert loaded.config.n_symbols == 148
    read = {symbol: own[int(row[0])] for symbol, row in zip(SYMBOLS, loaded.model.embedding.weight, strict=True)}
    assert {symbol: seen for symbol, seen in read.items() if symbol != seen} == {
        **{"(": " ", ")": " "},
        **{"A": "a", "B": "b", "C": "c"},
    }
    other = tmp_path / "other.txt"
    other.write_text("\n".join(["@@", *own[1:]]), encoding="utf-8")
    assert load_tacotron2(path, symbols=other).sha256 != loaded.sha256


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"a\nb\n", r"symbols\.txt: 2 symbols, but .*own\.pt knows \d+"),
        (b"\xff", "can't be read as a list of symbols"),
        (b"\n".join(b"x%d" % i for i in range(147)), "lacks 'a', 'b', .*, without which no English can be read"),
    ],
)
def test_lists_of_symbols_that_do_not_fit_are_one_line(
    content: bytes, words: str, reordered: tuple[Path, list[str]], tmp_path: Path
) -> None:
    (tmp_path / "symbols.txt").write_bytes(content)
    with pytest.raises(UserError, match=words):
        load_tacotron2(reordered[0], symbols=tmp_path / "symbols.txt")


# What is broken


def saved(content: Any) -> bytes:
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


NO_CHECKPOINT = "not a readable PyTorch checkpoint"
BROKEN: dict[str, tuple[bytes, str]] = {
    "truncated": (saved(tiny_waveglow().state_dict())[:10_000], NO_CHECKPOINT),
    "truncated early": (saved(tiny_waveglow().state_dict())[:100], NO_CHECKPOINT),
    "empty": (b"", NO_CHECKPOINT),
    "text": (b"hello\n" * 100, NO_CHECKPOINT),
    "garbage": (bytes(range(256)) * 40, NO_CHECKPOINT),
    "a list": (saved([1, 2]), "holds a list"),
    "no weights": (saved({"epoch": 1}), "no state_dict"),
    "Git LFS": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "a Git LFS pointer"),
    "HTML": (b"<!DOCTYPE html><html></html>", "a web page"),
    "ONNX": (b"\x08\x08\x12\x07pytorch", "an ONNX file"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_each_broken_checkpoint_gets_one_clear_line(kind: str, tmp_path: Path) -> None:
    content, words = BROKEN[kind]
    path = tmp_path / "x.pt"
    with pytest.raises(UserError, match="no such checkpoint"):
        load_waveglow(path)
    path.write_bytes(content)
    with pytest.raises(UserError, match=words) as error:
        load_waveglow(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_checkpoint_of_the_other_model_is_named(tiny_checkpoints: dict[str, Path]) -> None:
    with pytest.raises(UserError, match="this is a WaveGlow checkpoint, not Tacotron 2; give it as waveglow"):
        load_tacotron2(tiny_checkpoints["waveglow"])
    with pytest.raises(UserError, match="this is a Tacotron 2 checkpoint, not WaveGlow; give it as tacotron2"):
        load_waveglow(tiny_checkpoints["tacotron2"])


def test_old_checkpoints_without_batch_counters_load(tmp_path: Path) -> None:
    state = {k: v for k, v in tiny_tacotron2().state_dict().items() if not k.endswith("num_batches_tracked")}
    path = tmp_path / "old.pt"
    torch.save({"state_dict": state, "config": vars(TINY_TACOTRON2)}, path)
    assert load_tacotron2(path).config == TINY_TACOTRON2
