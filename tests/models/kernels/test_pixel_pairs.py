"""The first level in pairs of pixels against the network that it is a form of."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unet_jax import models
from unet_jax.models.blocks import ConvBlock, UpConv, max_pool
from unet_jax.models.kernels.pixel_pairs import (
    ImageConv,
    PairBlock,
    PairHead,
    SkipUpConv,
    UpKernel,
    max_pool_pairs,
    unpair,
)
from unet_jax.models.unet import UNet


def pair(x: np.ndarray) -> np.ndarray:
    """[N, H, W, C] -> [N, H, W / 2, 2C]."""
    n, h, w, c = x.shape
    return x.reshape(n, h, w // 2, 2 * c)


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def variables_of(module, *inputs, **options) -> dict:
    """Variables of a module, each drawn at random: initial ones hide mistakes."""
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), *inputs, **options))
    draw = lambda path, x: np.abs(normal(len(str(path)), *x.shape)) * 0.3 + 0.1  # noqa: E731
    return jax.tree_util.tree_map_with_path(draw, shapes)


def in_training(module, cotangent):
    """(variables, inputs) -> value, updates and the gradients for parameters and inputs."""

    def apply(params, statistics, *inputs):
        def run(*inputs):
            tree = {"params": params, "batch_stats": statistics}
            return module.apply(tree, *inputs, train=True, mutable=["batch_stats"])

        # One device: the mapped axis is only there for what BatchNorm asks of it.
        value, updates = jax.vmap(run, axis_name="batch")(*(x[None] for x in inputs))
        return jnp.sum(value[0] * cotangent), (value[0], updates)

    def both(variables, *inputs):
        places = (0, *range(2, 2 + len(inputs)))
        gradient = jax.value_and_grad(apply, places, has_aux=True)
        return gradient(variables["params"], variables.get("batch_stats", {}), *inputs)

    return jax.jit(both)


def assert_close(found, expected, tolerance=1e-4):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance * np.abs(b).max())


SIZES = st.integers(1, 3)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shape", "depth", "classes", "width"),
    [
        ((2, 3, 5, 2), 1, 2, 3),  # padded
        ((1, 2, 2, 1), 1, 1, 1),
        ((2, 8, 12, 3), 2, 3, 4),
    ],
)
def test_the_network_is_the_same_in_value_gradients_and_statistics(shape, depth, classes, width):
    plain = UNet(classes=classes, width=width, depth=depth)
    paired = plain.clone(pairs=True)
    x = normal(0, *shape)
    variables = variables_of(plain, x)
    assert jax.tree.map(jnp.shape, variables) == jax.tree.map(jnp.shape, variables_of(paired, x))
    cotangent = normal(1, *x.shape[:3], classes)
    found, expected = (in_training(m, cotangent)(variables, x) for m in (paired, plain))
    assert_close(found, expected, 1e-3)
    found, expected = (jax.jit(m.apply)(variables, x) for m in (paired, plain))
    assert_close(found, expected)


@pytest.mark.slow
def test_both_forms_start_from_the_same_weights():
    plain = UNet(classes=2, width=4, depth=1)
    found, expected = (models.init(m, 3, seed=5) for m in (plain.clone(pairs=True), plain))
    jax.tree.map(np.testing.assert_array_equal, found, expected)


@pytest.mark.slow
@settings(max_examples=2, deadline=None, derandomize=True)
@given(SIZES, SIZES, SIZES, SIZES, SIZES)
def test_a_block_of_pairs_is_the_block_of_the_image(n, h, w, channels, features):
    image = normal(0, n, h, 2 * w, channels)
    plain, paired = ConvBlock(features), PairBlock(features, ImageConv)
    variables = variables_of(plain, image, train=True)
    cotangent = normal(9, n, h, 2 * w, features)
    (_, (value, updates)), gradients = in_training(plain, cotangent)(variables, image)
    found = in_training(paired, pair(cotangent))(variables, image)
    (_, (own_value, own_updates)), own_gradients = found
    assert_close((unpair(own_value), own_updates, own_gradients), (value, updates, gradients), 1e-3)


class UpBlock(nn.Module):
    """What a `PairBlock` of `SkipUpConv` stands for, in pixels."""

    features: int
    middle: int

    @nn.compact
    def __call__(self, skip, coarse, train):
        x = UpConv(self.middle, name="upconv")(coarse)
        return ConvBlock(self.features, name="up")(jnp.concatenate([skip, x], -1), train)


class PairedUpBlock(nn.Module):
    features: int
    middle: int

    @nn.compact
    def __call__(self, skip, coarse, train):
        kernel, bias = UpKernel(self.middle, name="upconv")(coarse.shape[-1])
        block = PairBlock(self.features, SkipUpConv, name="up")
        return unpair(block(pair(skip), coarse, kernel, bias, train=train))


@pytest.mark.slow
@settings(max_examples=2, deadline=None, derandomize=True)
@given(SIZES, SIZES, SIZES, SIZES, SIZES, SIZES, SIZES)
def test_upsampling_and_the_convolution_after_it_are_one(n, h, w, skip, deep, middle, features):
    inputs = normal(0, n, 2 * h, 2 * w, skip), normal(1, n, h, w, deep)
    plain, paired = UpBlock(features, middle), PairedUpBlock(features, middle)
    variables = variables_of(plain, *inputs, train=True)
    assert jax.tree.map(jnp.shape, variables) == jax.tree.map(
        jnp.shape, variables_of(paired, *inputs, train=True)
    )
    cotangent = normal(9, n, 2 * h, 2 * w, features)
    found, expected = (
        in_training(module, cotangent)(variables, *inputs) for module in (paired, plain)
    )
    assert_close(found, expected, 5e-3)


@jax.jit
def both_pools(x, cotangent):
    """Values and gradients of pooling pairs, and of pooling pixels."""
    forms = (lambda x: max_pool_pairs(pair(x)), max_pool)
    pulled = [jax.vjp(form, x) for form in forms]
    return [(value, *pullback(cotangent)) for value, pullback in pulled]


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.booleans(), st.integers(0, 10**6))
def test_pooling_pairs_is_pooling(relu, seed):
    x = np.round(normal(seed, 2, 6, 8, 3))  # whole numbers tie often
    x = np.maximum(x, 0) if relu else x
    found, expected = both_pools(x, normal(seed + 1, 2, 3, 4, 3))
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_pair_is_two_neighbours_in_a_row():
    x = jnp.arange(8).reshape(1, 2, 4, 1)
    np.testing.assert_array_equal(pair(x)[0], [[[0, 1], [2, 3]], [[4, 5], [6, 7]]])
    np.testing.assert_array_equal(unpair(pair(x)), x)


def test_the_head_gives_each_pixel_its_own_logits():
    variables = {"params": {"kernel": jnp.array([[[[2.0], [3.0]]]]), "bias": jnp.array([10.0])}}
    x = jnp.array([[1.0, 0], [0, 1], [1, 1], [0, 0]]).reshape(1, 1, 4, 2)
    logits = PairHead(1).apply(variables, pair(x))
    np.testing.assert_array_equal(logits[0, 0, :, 0], [12, 13, 15, 10])


USUAL = {
    "name": "unet",
    "classes": 1,
    "width": 64,
    "depth": 2,
    "padding": "same",
    "norm": "batch",
    "upsample": "transpose",
    "dropout": 0.0,
    "dtype": "auto",
}


@pytest.mark.parametrize(
    ("platform", "fields", "pairs"),
    [
        ("tpu", {}, True),
        ("tpu", {"width": 8}, True),
        ("tpu", {"width": 65}, False),
        ("tpu", {"norm": "group"}, False),
        ("tpu", {"padding": "valid"}, False),
        ("tpu", {"upsample": "nearest"}, False),
        ("tpu", {"name": "unet2"}, False),
        ("gpu", {}, False),
        ("cpu", {}, False),
    ],
)
def test_the_usual_narrow_network_is_in_pairs_on_tpu_alone(platform, fields, pairs, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: platform)
    fields = USUAL | fields
    for built in (models.build(**fields), models.build(**fields, platform=platform)):
        assert built.pairs is pairs
        assert built.dtype == (jnp.float32 if platform == "cpu" else jnp.bfloat16)
    assert models.build(**fields, platform="cpu").pairs is False
