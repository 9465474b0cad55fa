"""The layers against the library's own operations and against hand-worked numbers."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unet_jax.models import blocks
from unet_jax.models.blocks import (
    BatchNorm,
    ConvBlock,
    Norm,
    UpConv,
    crop_to,
    max_pool,
    max_pool_with_indices,
    max_unpool,
    mirror,
    pad_to_multiple,
    resize_double,
    upconvolve,
)


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def value_and_pullback(function, cotangent, *inputs) -> tuple:
    """The function's value, and the gradients that `cotangent` gives its inputs."""

    def both(*inputs):
        value, pullback = jax.vjp(function, *inputs)
        return value, pullback(cotangent)

    return jax.jit(both)(*inputs)


@settings(max_examples=5, deadline=None, derandomize=True)
@given(
    n=st.integers(1, 2),
    h=st.integers(1, 4),
    w=st.integers(1, 4),
    c=st.integers(1, 3),
    relu=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_max_pool_is_the_library_s_in_value_and_gradient(n, h, w, c, relu, seed):
    # Whole numbers tie often, and zeros after a ReLU most of all.
    x = np.round(normal(seed, n, 2 * h, 2 * w, c))
    x = np.maximum(x, 0) if relu else x
    cotangent = normal(seed + 1, n, h, w, c)
    ours = value_and_pullback(max_pool, cotangent, x)
    library = value_and_pullback(lambda x: nn.max_pool(x, (2, 2), (2, 2)), cotangent, x)
    np.testing.assert_array_equal(ours[0], library[0])
    np.testing.assert_array_equal(ours[1][0], library[1][0])


@pytest.mark.parametrize(
    ("window", "winner"),
    [
        ([[0, 0], [0, 0]], (0, 0)),
        ([[0, 5], [5, 5]], (0, 1)),
        ([[0, 1], [5, 5]], (1, 0)),
        ([[1, 0], [1, 0]], (0, 0)),
        ([[0, 3], [0, 3]], (0, 1)),
        ([[-4, -3], [-2, -1]], (1, 1)),
    ],
)
def test_the_first_of_equal_maxima_takes_the_gradient(window, winner):
    x = jnp.asarray(window, jnp.float32).reshape(1, 2, 2, 1)
    value, (gradient,) = value_and_pullback(max_pool, jnp.ones((1, 1, 1, 1)), x)
    expected = np.zeros((2, 2))
    expected[winner] = 1
    assert value.item() == np.max(window)
    np.testing.assert_array_equal(gradient[0, :, :, 0], expected)


def windows(x: np.ndarray) -> np.ndarray:
    """[N, 2H, 2W, C] -> [N, H, W, C, 4], each 2x2 window in row order."""
    n, h, w, c = x.shape
    return (
        x.reshape(n, h // 2, 2, w // 2, 2, c)
        .transpose(0, 1, 3, 5, 2, 4)
        .reshape(n, h // 2, w // 2, c, 4)
    )


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("shape", [(1, 2, 2, 1), (2, 4, 6, 3), (1, 8, 2, 5)])
def test_max_pool_s_indices_are_those_of_the_first_maxima(shape, relu):
    x = np.round(normal(0, *shape))  # whole numbers tie often
    x = np.maximum(x, 0) if relu else x
    pooled, index = jax.jit(max_pool_with_indices)(x)
    assert index.dtype == jnp.int8
    np.testing.assert_array_equal(index, np.argmax(windows(x), axis=-1))
    np.testing.assert_array_equal(pooled, np.max(windows(x), axis=-1))


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (2, 2, 3, 3), (1, 4, 1, 5)])
def test_max_unpool_puts_each_value_in_its_place_and_zeros_elsewhere(shape):
    n, h, w, c = shape
    x, cotangent = normal(0, *shape), normal(1, n, 2 * h, 2 * w, c)
    index = np.random.default_rng(2).integers(0, 4, shape).astype(np.int8)
    expected, gradient = np.zeros_like(cotangent), np.zeros_like(x)
    for place in np.ndindex(shape):
        i, row, column, channel = place
        to = i, 2 * row + index[place] // 2, 2 * column + index[place] % 2, channel
        expected[to] = x[place]
        gradient[place] = cotangent[to]
    out, (pulled,) = value_and_pullback(lambda x: max_unpool(x, index), cotangent, x)
    np.testing.assert_array_equal(out, expected)
    np.testing.assert_array_equal(pulled, gradient)


def test_pooling_takes_back_what_unpooling_spread():
    x = np.abs(normal(0, 2, 6, 4, 3)).astype(jnp.bfloat16)
    pooled, index = max_pool_with_indices(jnp.asarray(x))
    spread = max_unpool(pooled, index)
    assert pooled.dtype == spread.dtype == jnp.bfloat16
    np.testing.assert_array_equal(max_pool(spread), pooled)
    kept = np.asarray(spread) != 0
    assert kept.sum() == pooled.size
    np.testing.assert_array_equal(np.asarray(spread)[kept], x[kept])


@pytest.mark.parametrize(("size", "padded"), [((1, 1), (4, 4)), ((4, 8), (4, 8)), ((5, 7), (8, 8))])
def test_padding_to_a_multiple_adds_zeros_at_the_bottom_and_the_right(size, padded):
    x = normal(0, 2, *size, 3)
    expected = np.zeros((2, *padded, 3), np.float32)
    expected[:, : size[0], : size[1]] = x
    np.testing.assert_array_equal(pad_to_multiple(jnp.asarray(x), 4), expected)


@pytest.mark.parametrize("size", [(1, 1), (1, 3), (2, 5), (7, 20), (30, 21)])
def test_mirror_repeats_where_the_image_is_smaller_than_the_margin(size):
    x = normal(0, 2, *size, 3)
    expected = np.pad(x, ((0, 0), (9, 31 - size[0]), (9, 27 - size[1]), (0, 0)), "reflect")
    mirrored = jax.jit(lambda x: mirror(x, 9, 40, 36))(x)
    np.testing.assert_array_equal(mirrored, expected)


def test_mirror_by_hand():
    x = jnp.arange(3.0).reshape(1, 1, 3, 1)
    row = mirror(x, 4, 5, 11)[0, :, :, 0]
    np.testing.assert_array_equal(row, np.tile([0, 1, 2, 1, 0, 1, 2, 1, 0, 1, 2], (5, 1)))


def test_crop_to_keeps_the_middle():
    x = normal(0, 2, 9, 8, 3)
    np.testing.assert_array_equal(crop_to(x, np.zeros((2, 5, 2, 1))), x[:, 2:7, 3:5])
    np.testing.assert_array_equal(crop_to(x, x), x)


@pytest.mark.parametrize(
    ("shape", "features"), [((1, 1, 1, 1), 1), ((2, 3, 5, 4), 3), ((1, 4, 2, 3), 6)]
)
def test_up_conv_is_the_library_s_in_value_and_gradients(shape, features):
    params = {"kernel": normal(0, 2, 2, shape[-1], features), "bias": normal(1, features)}
    x = normal(2, *shape)
    cotangent = normal(3, shape[0], 2 * shape[1], 2 * shape[2], features)
    results = []
    for layer in (UpConv(features), nn.ConvTranspose(features, (2, 2), (2, 2))):
        initial = jax.eval_shape(layer.init, jax.random.key(0), x)["params"]
        assert jax.tree.map(jnp.shape, initial) == jax.tree.map(jnp.shape, params)

        def apply(params, x, layer=layer):
            return layer.apply({"params": params}, x)

        results.append(value_and_pullback(apply, cotangent, params, x))
    jax.tree.map(
        lambda ours, library: np.testing.assert_allclose(ours, library, rtol=1e-5, atol=1e-5),
        *results,
    )


@pytest.mark.parametrize("block", [(2, 2), (2, 1), (1, 3)])
def test_both_forms_of_an_upsampling_convolution_are_equal(block):
    x, kernel = normal(0, 2, 3, 4, 5), normal(1, *block, 5, 2)
    forms = (upconvolve, blocks._as_blocks, blocks._as_convolution)
    found, *rest = (jax.jit(form)(x, kernel) for form in forms)
    assert found.shape == (2, 3 * block[0], 4 * block[1], 2)
    for other in rest:
        np.testing.assert_allclose(found, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("platform", "form"), [("cpu", 0), ("cuda", 0), ("tpu", 1)])
def test_only_a_tpu_upsamples_with_a_convolution(platform, form):
    x, kernel = jnp.zeros((1, 2, 2, 3)), jnp.zeros((2, 2, 3, 1))

    def convolutions(function):
        lowered = jax.jit(function).trace(x, kernel).lower(lowering_platforms=(platform,))
        return lowered.as_text().count("stablehlo.convolution")

    assert convolutions(upconvolve) == form
    gradients = jax.grad(lambda *inputs: upconvolve(*inputs).sum(), (0, 1))
    assert convolutions(gradients) == 0  # on all they are the matrix product's


def test_up_conv_starts_with_the_variance_of_one_over_its_input_channels():
    variables = UpConv(64).init(jax.random.key(0), jnp.zeros((1, 1, 1, 64)))
    assert np.std(variables["params"]["kernel"]) == pytest.approx(1 / 8, rel=0.05)
    np.testing.assert_array_equal(variables["params"]["bias"], 0)


def test_up_conv_computes_in_its_dtype_and_keeps_float32_parameters():
    x = normal(0, 1, 2, 2, 3)
    layer = UpConv(4, jnp.bfloat16)
    out, variables = jax.eval_shape(layer.init_with_output, jax.random.key(0), x)
    assert out.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}


@pytest.mark.parametrize("method", ["nearest", "bilinear"])
@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (2, 3, 5, 2), (1, 4, 1, 3)])
def test_resize_double_is_the_library_s_in_value_and_gradient(method, shape):
    n, h, w, c = shape
    x, cotangent = normal(0, *shape), normal(1, n, 2 * h, 2 * w, c)
    ours = value_and_pullback(lambda x: resize_double(x, method), cotangent, x)
    library = value_and_pullback(
        lambda x: jax.image.resize(x, (n, 2 * h, 2 * w, c), method), cotangent, x
    )
    np.testing.assert_allclose(ours[0], library[0], rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(ours[1][0], library[1][0], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("method", "row"),
    [
        ("nearest", [0, 0, 4, 4, 8, 8]),
        ("bilinear", [0, 1, 3, 5, 7, 8]),
        ("bilinear_corners", [0, 1.6, 3.2, 4.8, 6.4, 8]),
    ],
)
def test_resize_double_by_hand(method, row):
    x = jnp.array([[0.0, 4.0, 8.0], [0.0, 4.0, 8.0]])
    for image, expected in ((x, np.tile(row, (4, 1))), (x.T, np.tile(row, (4, 1)).T)):
        doubled = resize_double(image[None, :, :, None], method)
        np.testing.assert_allclose(doubled[0, :, :, 0], expected, atol=1e-6)


def test_batch_norm_trains_with_the_statistics_of_the_whole_mapped_batch():
    x = 3 * normal(0, 2, 3, 4, 4, 5) + np.arange(2).reshape(2, 1, 1, 1, 1)  # two devices
    norm = Norm("batch")
    variables = norm.init(jax.random.key(0), x[0], train=False)

    def apply(x):
        return norm.apply(variables, x, train=True, mutable=["batch_stats"])

    out, updated = jax.vmap(apply, axis_name="batch")(x)
    mean, variance = x.mean((0, 1, 2, 3)), x.var((0, 1, 2, 3))
    np.testing.assert_allclose(out, (x - mean) / np.sqrt(variance + 1e-5), rtol=1e-3, atol=1e-4)
    (stats,) = updated["batch_stats"].values()
    for device in range(2):
        np.testing.assert_allclose(stats["mean"][device], 0.1 * mean, rtol=1e-4)
        np.testing.assert_allclose(stats["var"][device], 0.9 + 0.1 * variance, rtol=1e-4)


@pytest.mark.parametrize("train", [False, True])
def test_batch_norm_is_the_library_s_in_value_gradients_and_statistics(train):
    x = 3 * normal(0, 2, 3, 4, 4, 5) + np.arange(2).reshape(2, 1, 1, 1, 1)  # two devices
    cotangent = normal(1, *x.shape)
    results = []
    library = nn.BatchNorm(not train, momentum=0.9, axis_name="batch")
    for apply, norm in (
        (lambda v, x: BatchNorm().apply(v, x, train, mutable=["batch_stats"]), BatchNorm()),
        (lambda v, x: library.apply(v, x, mutable=["batch_stats"]), library),
    ):
        arguments = (x[0], train) if norm is not library else (x[0],)
        initial = norm.init(jax.random.key(0), *arguments)
        made = jax.tree.map(lambda leaf: np.abs(normal(2, *leaf.shape)) + leaf, initial)

        def everything(x, cotangent, apply=apply, made=made):
            def value(params, x):
                return apply({**made, "params": params}, x)

            out, pullback, updated = jax.vjp(value, made["params"], x, has_aux=True)
            return out, pullback(cotangent), updated

        mapped = jax.jit(jax.vmap(everything, axis_name="batch"))
        results.append((initial, *mapped(x, cotangent)))
    jax.tree.map(
        lambda ours, library: np.testing.assert_allclose(ours, library, rtol=1e-4, atol=1e-5),
        *results,
    )


def test_batch_norm_evaluates_with_its_running_statistics():
    x = normal(0, 2, 3, 3, 2)
    norm = Norm("batch")
    variables = norm.init(jax.random.key(0), x, train=False)
    (name,) = variables["batch_stats"]
    mean, var = np.array([1, -2], np.float32), np.array([4, 0.25], np.float32)
    stats = {"batch_stats": {name: {"mean": mean, "var": var}}}
    out = np.asarray(norm.apply({**variables, **stats}, x, train=False))
    np.testing.assert_allclose(out, (x - mean) / np.sqrt(var + 1e-5), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("channels", "groups", "train"), [(1, 1, True), (6, 2, False), (48, 16, True), (64, 32, False)]
)
def test_group_norm_by_hand(channels, groups, train):
    x = 2 * normal(0, 2, 3, 4, channels) + 1
    out, variables = Norm("group").init_with_output(jax.random.key(0), x, train)
    grouped = x.reshape(2, 12, groups, -1)
    mean, var = (f(grouped, axis=(1, 3), keepdims=True) for f in (np.mean, np.var))
    expected = ((grouped - mean) / np.sqrt(var + 1e-6)).reshape(x.shape)
    np.testing.assert_allclose(out, expected, rtol=1e-3, atol=1e-4)
    assert set(variables) == {"params"}


def test_norm_none_does_nothing():
    x = normal(0, 1, 2, 2, 3)
    out, variables = Norm("none").init_with_output(jax.random.key(0), x, train=True)
    np.testing.assert_array_equal(out, x)
    assert not jax.tree.leaves(variables)


@pytest.mark.parametrize("kind", ["batch", "group"])
def test_a_bfloat16_norm_keeps_float32_statistics_and_parameters(kind):
    norm = Norm(kind, jnp.bfloat16)
    x = jnp.zeros((1, 2, 2, 4), jnp.bfloat16)

    def apply(x):
        variables = norm.init(jax.random.key(0), x, train=False)
        return *norm.apply(variables, x, train=True, mutable=["batch_stats"]), variables

    out, updated, variables = jax.eval_shape(jax.vmap(apply, axis_name="batch"), x[None])
    assert out.dtype == jnp.bfloat16
    dtypes = {leaf.dtype for leaf in jax.tree.leaves((variables, updated))}
    assert dtypes == {jnp.dtype("float32")}


@pytest.mark.parametrize(("norm", "has_bias"), [("batch", False), ("group", False), ("none", True)])
def test_a_block_s_convolutions_have_a_bias_only_without_norm(norm, has_bias):
    block = ConvBlock(4, norm=norm)
    x = jnp.zeros((1, 4, 4, 3))
    params = jax.eval_shape(lambda: block.init(jax.random.key(0), x, False))["params"]
    convolutions = {name: set(layer) for name, layer in params.items() if "kernel" in layer}
    assert len(convolutions) == 2
    expected = {"kernel", "bias"} if has_bias else {"kernel"}
    assert all(leaves == expected for leaves in convolutions.values())


@pytest.mark.parametrize(
    ("middle", "kernels"),
    [(None, [(3, 3, 3, 4), (3, 3, 4, 4)]), (7, [(3, 3, 3, 7), (3, 3, 7, 4)])],
)
def test_a_block_keeps_the_size_and_has_its_middle_channels(middle, kernels):
    block = ConvBlock(4, middle)
    x = jnp.zeros((2, 5, 3, 3))
    out, variables = jax.eval_shape(lambda: block.init_with_output(jax.random.key(0), x, False))
    assert out.shape == (2, 5, 3, 4)
    shapes = [layer["kernel"].shape for layer in variables["params"].values() if "kernel" in layer]
    assert sorted(shapes) == sorted(kernels)


@pytest.mark.parametrize("padding", ["same", "valid"])
def test_a_block_convolves_and_rectifies_twice(padding):
    block = ConvBlock(3, norm="none", padding=padding)
    x = normal(0, 2, 6, 7, 2)
    variables = jax.eval_shape(lambda: block.init(jax.random.key(0), x, False))
    variables = jax.tree.map(lambda leaf: normal(leaf.size, *leaf.shape), variables)
    expected = jnp.asarray(x)
    assert set(variables["params"]) == {"Conv_0", "Conv_1"}
    for name in ("Conv_0", "Conv_1"):
        conv = variables["params"][name]
        expected = jax.lax.conv_general_dilated(
            expected,
            conv["kernel"],
            (1, 1),
            padding.upper(),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        expected = jnp.maximum(expected + conv["bias"], 0)
    out = np.asarray(block.apply(variables, x, False))
    assert out.shape == ((2, 6, 7, 3) if padding == "same" else (2, 2, 3, 3))
    np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-5)
    assert np.min(expected) == 0 < np.max(expected)
