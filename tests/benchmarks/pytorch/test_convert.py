"""Tests of converting weights in both directions."""

import jax
import numpy as np
import pytest
import torch

from benchmarks.pytorch import matched
from unet_jax.core.errors import UserError
from unet_jax.interchange.torch_twin import convert
from unet_jax.models.torch_weights import to_variables, torch_name

# Weights of this network are drawn often, see `make_pair`.
SLOW_TO_DRAW = pytest.param("segnet", marks=pytest.mark.slow)


@pytest.mark.parametrize("name", ["unet", "unet group", "unet nearest", "unet2", SLOW_TO_DRAW])
def test_a_round_trip_preserves_every_bit(name):
    _, variables, reference = matched.make_pair(name, classes=3)
    state = convert.to_state_dict(variables, reference)
    reference.load_state_dict(state, strict=True)
    shapes = jax.eval_shape(lambda: variables)
    again = to_variables(reference.state_dict(), shapes)
    assert jax.tree.structure(again) == jax.tree.structure(variables)
    jax.tree.map(np.testing.assert_array_equal, again, variables)
    assert {leaf.dtype for leaf in jax.tree.leaves(again)} == {np.dtype("float32")}
    twice = convert.to_state_dict(again, reference)
    assert list(twice) == list(state) == list(reference.state_dict())
    assert all(torch.equal(twice[key], state[key]) for key in state)


def test_converted_weights_are_copies():
    _, variables, reference = matched.make_pair("unet", classes=3)
    before = jax.tree.map(np.copy, variables)
    state = convert.to_state_dict(variables, reference)
    again = to_variables(state, variables)
    for tensor in state.values():
        tensor.zero_()
    jax.tree.map(np.testing.assert_array_equal, variables, before)
    jax.tree.map(np.testing.assert_array_equal, again, before)


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("params/down_0/Conv_1/kernel", "down.0.convs.1.weight"),
        ("params/up_12/Norm_0/BatchNorm_0/scale", "up.12.norms.0.weight"),
        ("params/bottom/Norm_1/GroupNorm_0/bias", "bottom.norms.1.bias"),
        ("batch_stats/bottom/Norm_1/BatchNorm_0/mean", "bottom.norms.1.running_mean"),
        ("batch_stats/bottom/Norm_1/BatchNorm_0/var", "bottom.norms.1.running_var"),
        ("params/upconv_1/kernel", "upconv.1.weight"),
        ("params/up_0_2/Conv_1/kernel", "up.0.2.convs.1.weight"),
        ("params/down_1/block_2/Norm_0/BatchNorm_0/var", "down.1.block.2.norms.0.running_var"),
        ("params/attention_1/gate/bias", "attention.1.gate.bias"),
        ("params/aux_head_1/kernel", "aux_head.1.weight"),
        ("params/head/bias", "head.bias"),
    ],
)
def test_names(path, name):
    assert torch_name(tuple(path.split("/"))) == name


def test_all_misfits_are_reported_at_once():
    _, variables, reference = matched.make_pair("unet", classes=3)
    state = reference.state_dict()
    del state["head.bias"]
    state["tail.weight"] = torch.zeros(1)
    state["head.weight"] = torch.zeros(2, 4, 1, 1)
    state["bottom.norms.0.bias"] = state["bottom.norms.0.bias"].double()
    with pytest.raises(UserError, match="state_dict: 4 tensors do not fit: ") as error:
        to_variables(state, variables)
    line = str(error.value)
    assert "\n" not in line
    for part in (
        "head.bias is missing",
        "tail.weight is unknown",
        "head.weight is float32 [2, 4, 1, 1], expected float32 [3, 4, 1, 1]",
        "bottom.norms.0.bias is float64 [16], expected float32 [16]",
    ):
        assert part in line


def test_variables_of_another_network_are_refused():
    _, variables, _ = matched.make_pair("unet nearest", classes=3)
    _, _, reference = matched.make_pair("unet", classes=3)
    with pytest.raises(UserError, match=r"variables: \d+ .*upconv.0.weight is missing") as error:
        convert.to_state_dict(variables, reference)
    assert "bottom.convs.0.weight is float32 [8, 8, 3, 3], expected float32 [16, 8" in str(
        error.value
    )
