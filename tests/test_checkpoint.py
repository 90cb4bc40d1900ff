"""Checkpoints of NVIDIA's layout load, whatever format they were saved in; anything else is refused in one line."""

import collections
import random
from pathlib import Path

import numpy as np
import pytest
import torch

from common.errors import UserError
from tacotron2.loading import load_tacotron2
from tests.models import TINY_TACOTRON2, TINY_WAVEGLOW, nested_waveglow_config, tiny_tacotron2, tiny_waveglow
from waveglow.loading import load_waveglow


def ngc_checkpoint(model: torch.nn.Module, config: dict, prefix: str = "module.") -> dict:
    """Everything that NVIDIA's training script saves: `{epoch, rng states, config, state_dict, optimizer, amp}`."""
    parameters = [torch.nn.Parameter(p.detach().clone()) for p in model.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=1e-3)
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    return {
        "epoch": 1501,
        "cuda_rng_state_all": [torch.get_rng_state()],
        "random_rng_states_all": [torch.get_rng_state(), random.getstate(), np.random.get_state()],
        "config": config,
        "state_dict": collections.OrderedDict((prefix + name, t) for name, t in model.state_dict().items()),
        "optimizer": optimizer.state_dict(),
        "amp": collections.OrderedDict(loss_scaler0={"loss_scale": 65536.0, "unskipped": 12}),
    }


@pytest.mark.parametrize("zip_format", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("prefix", ["module.", ""], ids=["DDP", "plain"])
def test_full_training_checkpoint_loads(tmp_path: Path, zip_format: bool, prefix: str) -> None:
    model = tiny_tacotron2()
    path = tmp_path / "nvidia_tacotron2pyt_fp16"
    torch.save(ngc_checkpoint(model, vars(TINY_TACOTRON2), prefix), path, _use_new_zipfile_serialization=zip_format)
    loaded = load_tacotron2(path)
    assert loaded.config == TINY_TACOTRON2
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.model.state_dict()[name], tensor), name


def test_waveglow_checkpoint_loads_with_its_nested_config(tmp_path: Path) -> None:
    path = tmp_path / "waveglow"
    torch.save(ngc_checkpoint(tiny_waveglow(), nested_waveglow_config(TINY_WAVEGLOW)), path)
    assert load_waveglow(path).config == TINY_WAVEGLOW


def test_weights_of_half_precision_become_fp32(tmp_path: Path) -> None:
    path = tmp_path / "half.pt"
    torch.save({"state_dict": tiny_waveglow().half().state_dict(), "config": vars(TINY_WAVEGLOW)}, path)
    assert {p.dtype for p in load_waveglow(path).model.parameters()} == {torch.float32}


def test_one_conditioning_layer_for_all_is_split(tmp_path: Path) -> None:
    model = tiny_waveglow()
    merged = {}
    for name, tensor in model.state_dict().items():
        flow, found, rest = name.partition(".cond_layers.")
        if not found:
            merged[name] = tensor
            continue
        kind = rest.split(".")[1]
        layers = [model.state_dict()[f"{flow}.cond_layers.{i}.{kind}"] for i in range(TINY_WAVEGLOW.wn_layers)]
        merged[f"{flow}.cond_layer.{kind}"] = torch.cat(layers)
    path = tmp_path / "merged.pt"
    torch.save({"state_dict": merged, "config": vars(TINY_WAVEGLOW)}, path)
    loaded = load_waveglow(path).model.state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in model.state_dict().items())


def test_missing_config_is_filled_by_flags(tmp_path: Path) -> None:
    path = tmp_path / "no_config.pt"
    torch.save({"state_dict": tiny_waveglow().state_dict()}, path)
    assert load_waveglow(path, vars(TINY_WAVEGLOW)).config == TINY_WAVEGLOW
    with pytest.raises(UserError, match="no config: give its dimensions"):
        load_waveglow(path)


def test_bare_state_dict_loads(tmp_path: Path) -> None:
    path = tmp_path / "bare.pt"
    torch.save(tiny_waveglow().state_dict(), path)
    assert load_waveglow(path, vars(TINY_WAVEGLOW)).config == TINY_WAVEGLOW


def test_a_flag_may_confirm_but_not_contradict(tiny_checkpoints: dict[str, Path]) -> None:
    load_waveglow(tiny_checkpoints["waveglow"], {"wn_channels": TINY_WAVEGLOW.wn_channels})
    with pytest.raises(UserError, match=r"wn_channels = 12, but --wn-channels says 256"):
        load_waveglow(tiny_checkpoints["waveglow"], {"wn_channels": 256})


class Malicious:
    def __reduce__(self):
        return (print, ("this must never be printed",))


@pytest.mark.parametrize("zip_format", [True, False], ids=["zip", "legacy"])
def test_code_in_a_checkpoint_is_refused_by_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], zip_format: bool
) -> None:
    path = tmp_path / "unsafe.pt"
    torch.save({"state_dict": {}, "extra": Malicious()}, path, _use_new_zipfile_serialization=zip_format)
    with pytest.raises(UserError, match=r"refused.*print"):
        load_tacotron2(path)
    assert "never" not in capsys.readouterr().out


def test_each_broken_checkpoint_gets_one_clear_line(tmp_path: Path, tiny_checkpoints: dict[str, Path]) -> None:
    whole = tiny_checkpoints["tacotron2"].read_bytes()
    cases = {
        "truncated": whole[: len(whole) // 2],
        "truncated early": whole[:100],
        "empty": b"",
        "text": b"hello\n" * 100,
        "garbage": bytes(range(256)) * 40,
    }
    for name, content in cases.items():
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(UserError, match="not a readable PyTorch checkpoint") as error:
            load_tacotron2(path)
        assert str(path) in str(error.value)
        assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="no such checkpoint"):
        load_tacotron2(tmp_path / "missing.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(UserError, match="holds a list"):
        load_tacotron2(tmp_path / "list.pt")
    torch.save({"epoch": 1}, tmp_path / "no_state.pt")
    with pytest.raises(UserError, match="no state_dict"):
        load_tacotron2(tmp_path / "no_state.pt")


def test_a_checkpoint_of_the_other_model_is_named(tiny_checkpoints: dict[str, Path]) -> None:
    with pytest.raises(UserError, match="this is a WaveGlow checkpoint, not Tacotron 2; give it with --waveglow"):
        load_tacotron2(tiny_checkpoints["waveglow"])
    with pytest.raises(UserError, match="this is a Tacotron 2 checkpoint, not WaveGlow; give it with --tacotron2"):
        load_waveglow(tiny_checkpoints["tacotron2"])


def test_other_dimensions_than_the_config_says_are_named(tmp_path: Path) -> None:
    path = tmp_path / "mismatch.pt"
    torch.save({"state_dict": tiny_waveglow().state_dict(), "config": {**vars(TINY_WAVEGLOW), "wn_channels": 16}}, path)
    with pytest.raises(UserError, match=r"WN\.0\.start.* is \[12.*but \[16"):
        load_waveglow(path)


def test_old_checkpoints_without_batch_counters_load(tmp_path: Path) -> None:
    state = {k: v for k, v in tiny_tacotron2().state_dict().items() if not k.endswith("num_batches_tracked")}
    path = tmp_path / "old.pt"
    torch.save({"state_dict": state, "config": vars(TINY_TACOTRON2)}, path)
    assert load_tacotron2(path).config == TINY_TACOTRON2
