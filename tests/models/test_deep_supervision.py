"""Networks with deep supervision: their logits in training, and that nothing else changes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from made_networks import images, make, shapes, variables_of

from unet_jax import models
from unet_jax.core.errors import UserError
from unet_jax.models.blocks import ConvBlock

SLOW = [
    pytest.param(name, marks=pytest.mark.slow)
    for name in ("unet2", "attention_unet", "residual_unet")
]


@pytest.mark.parametrize("name", ["unet", *SLOW])
def test_training_gives_the_logits_of_all_levels(name):
    model = make(name=name, depth=3, classes=2, deep_supervision=True, dtype="bfloat16")
    image = jax.ShapeDtypeStruct((2, 17, 9, 3), jnp.float32)
    train = functools.partial(model.apply, train=True)
    levels = jax.eval_shape(train, shapes(model), image)
    assert [level.shape for level in levels] == [(2, 17, 9, 2), (2, 9, 5, 2), (2, 5, 3, 2)]
    assert {level.dtype for level in levels} == {jnp.dtype("float32")}
    logits = jax.eval_shape(model.apply, shapes(model), image)
    assert logits.shape == (2, 17, 9, 2)


@pytest.mark.parametrize("upsample", ["transpose", pytest.param("nearest", marks=pytest.mark.slow)])
def test_a_level_s_logits_are_those_of_its_features(upsample):
    model = make(deep_supervision=True, upsample=upsample)
    variables, image = variables_of(model), images(0, 1, 8, 12, 3)
    (full, lower), state = jax.jit(
        functools.partial(model.apply, train=True, capture_intermediates=is_block, mutable=True)
    )(variables, image)
    (features,) = state["intermediates"]["up_1"]["__call__"]
    head = variables["params"]["aux_head_1"]
    expected = features @ head["kernel"][0, 0] + head["bias"]
    np.testing.assert_allclose(lower, expected, rtol=1e-4, atol=1e-5)
    params = {k: v for k, v in variables["params"].items() if k != "aux_head_1"}
    plain = jax.jit(make(upsample=upsample).apply)({"params": params}, image)
    np.testing.assert_allclose(full, plain, rtol=1e-4, atol=1e-5)


def is_block(module, _: str) -> bool:
    return isinstance(module, ConvBlock)


def test_evaluation_is_that_of_the_network_without_it():
    """Of the same logits, by the same program."""
    model, plain = make(norm="batch", deep_supervision=True), make(norm="batch")
    image = jax.ShapeDtypeStruct((1, 8, 8, 3), jnp.float32)
    programs = [
        jax.jit(network.apply).lower(shapes(network), image).compile().as_text()
        for network in (model, plain)
    ]
    # The auxiliary heads are no arguments of the compiled program, because it does not use them.
    counts = [program.count(" convolution(") + program.count(" dot(") for program in programs]
    assert counts[0] == counts[1] > 0
    flop = [models.forward_gflop(network, shapes(network), 8, 3) for network in (model, plain)]
    assert flop[0] == flop[1]


def test_the_padding_valid_is_refused():
    line = r"^model\.padding='valid' with model\.deep_supervision=True: .*choose model\.padding="
    with pytest.raises(UserError, match=line):
        make(padding="valid", deep_supervision=True)


@pytest.mark.parametrize("name", ["segnet", "unet_plus_plus"])
def test_a_network_without_it_refuses_it(name):
    line = rf"^model\.deep_supervision=True: {name} does not support it; choose False, or .*'unet'"
    with pytest.raises(UserError, match=line):
        make(name=name, deep_supervision=True)


@pytest.mark.slow
def test_pairs_of_pixels_give_the_same_logits_of_all_levels():
    fields = {"norm": "batch", "deep_supervision": True, "dtype": "float32"}
    paired, plain = make(**fields, platform="tpu"), make(**fields)
    assert paired.pairs and not plain.pairs
    assert shapes(paired) == shapes(plain)
    variables, image = variables_of(plain), images(0, 2, 16, 8, 3)
    found, expected = (
        jax.jit(functools.partial(model.apply, train=True, mutable=["batch_stats"]))(
            variables, image
        )[0]
        for model in (paired, plain)
    )
    assert len(found) == len(expected) == 2
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)
