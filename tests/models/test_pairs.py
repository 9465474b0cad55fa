"""The first level in pairs of pixels against the network that it is a form of."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unet_jax import models
from unet_jax.models import UNet
from unet_jax.models.layers import ConvBlock, UpConv, max_pool
from unet_jax.models.pairs import PairBlock, PairHead, PairUpConv, max_pool_pairs, unpair


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


@pytest.mark.parametrize(
    ("shape", "depth", "classes", "width"),
    [((1, 2, 2, 1), 1, 1, 1), ((2, 8, 12, 3), 2, 3, 4), ((3, 7, 9, 2), 2, 2, 3)],  # one is padded
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


def test_both_forms_start_from_the_same_weights():
    plain = UNet(classes=2, width=4, depth=2)
    found, expected = (models.init(m, 3, seed=5) for m in (plain.clone(pairs=True), plain))
    jax.tree.map(np.testing.assert_array_equal, found, expected)


@settings(max_examples=4, deadline=None, derandomize=True)
@given(SIZES, SIZES, SIZES, st.lists(SIZES, min_size=1, max_size=3), SIZES)
def test_a_block_of_pairs_is_the_block_of_the_arrays_together(n, h, w, channels, features):
    arrays = [normal(i, n, h, 2 * w, c) for i, c in enumerate(channels)]
    plain, paired = ConvBlock(features), PairBlock(features)
    together = np.concatenate(arrays, -1)
    variables = variables_of(plain, together, train=True)
    cotangent = normal(9, n, h, 2 * w, features)
    (_, (value, updates)), (params, gradient) = in_training(plain, cotangent)(variables, together)
    found = in_training(paired, pair(cotangent))(variables, *map(pair, arrays))
    (_, (own_value, own_updates)), (own_params, *own_gradients) = found
    joined = np.concatenate([unpair(g) for g in own_gradients], -1)
    assert_close(
        (unpair(own_value), own_updates, own_params, joined),
        (value, updates, params, gradient),
        1e-3,
    )


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


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (2, 2, 3, 4), (1, 3, 1, 2)])
def test_upsampling_to_pairs_is_upsampling(shape):
    x, cotangent = normal(0, *shape), normal(1, shape[0], 2 * shape[1], 2 * shape[2], 3)
    variables = variables_of(UpConv(3), x)
    assert jax.tree.map(jnp.shape, variables) == jax.tree.map(
        jnp.shape, variables_of(PairUpConv(3), x)
    )
    found, pullback = jax.vjp(lambda v, x: unpair(PairUpConv(3).apply(v, x)), variables, x)
    expected, expected_pullback = jax.vjp(UpConv(3).apply, variables, x)
    assert_close((found, pullback(cotangent)), (expected, expected_pullback(cotangent)))


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
