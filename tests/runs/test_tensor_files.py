"""Files of tensors: what people save around a state_dict."""

import collections

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.optim.swa_utils import AveragedModel

from unet_jax.runs.tensor_files import read_state_dict


def make_state() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).state_dict()


def wrap_parallel(state):
    return {f"module.{name}": x for name, x in state.items()} | {"mask_values": [0, 1]}


WRAPS = {
    "plain": lambda state: collections.OrderedDict(state),
    "state_dict": lambda state: {"state_dict": state, "epoch": 3},
    "model_state_dict": lambda state: {"model_state_dict": state, "optimizer": {"state_dict": {}}},
    "model": lambda state: {"model": wrap_parallel(state)},
    "parallel": wrap_parallel,
    "compiled": lambda state: {f"_orig_mod.{name}": x for name, x in state.items()},
    "parameters": lambda state: {
        name: nn.Parameter(x) if x.is_floating_point() else x for name, x in state.items()
    },
}


@pytest.mark.parametrize("old", [False, True], ids=["zip", "before zip"])
@pytest.mark.parametrize("wrapped", WRAPS)
def test_wrappers_and_prefixes_are_removed(wrapped, old, tmp_path):
    state, wrap = make_state(), WRAPS[wrapped]
    path = tmp_path / "weights.pth"
    torch.save(wrap(state), path, _use_new_zipfile_serialization=not old)
    found, left_out = read_state_dict(path)
    assert left_out == (["mask_values"] if wrapped in ("model", "parallel") else [])
    assert list(found) == list(state)
    for name, x in state.items():
        np.testing.assert_array_equal(found[name], x.detach().numpy(), strict=True)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_averages_of_swa_are_read(tmp_path, suffix):
    path, averaged = tmp_path / f"a{suffix}", AveragedModel(nn.Linear(2, 3)).state_dict()
    torch.save(averaged, path) if suffix == ".pth" else save_file(averaged, path)
    found, left_out = read_state_dict(path)
    assert {*found} == {"weight", "bias"} and left_out == []


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_half_precision_becomes_float32(tmp_path, dtype, suffix):
    state, path = {"a": torch.tensor([1.5, -2.0], dtype=dtype)}, tmp_path / f"a{suffix}"
    torch.save(state, path) if suffix == ".pth" else save_file(state, path)
    found, _ = read_state_dict(path)
    assert found["a"].dtype == np.float32
    np.testing.assert_array_equal(found["a"], [1.5, -2])
