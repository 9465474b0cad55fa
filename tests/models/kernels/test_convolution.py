"""The 3x3 convolution of few channels against the library's."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unet_jax.models.kernels.convolution import convolve

LAYOUT = ("NHWC", "HWIO", "NHWC")


def library(x, kernel, strides, padding):
    return jax.lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=LAYOUT)


def ours(x, kernel, strides, padding):
    return convolve(x, kernel, strides, padding, dimension_numbers=LAYOUT)


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def value_and_gradients(convolution, margin, x, kernel, seed):
    padding = ((margin, margin), (margin, margin))

    def both(x, kernel):
        value, pullback = jax.vjp(lambda x, k: convolution(x, k, (1, 1), padding), x, kernel)
        return value, *pullback(jnp.asarray(normal(seed, *value.shape), value.dtype))

    return jax.jit(both)(x, kernel)


@pytest.mark.parametrize("margin", [0, 1])
@pytest.mark.parametrize(
    ("size", "channels", "features"),
    [
        ((5, 6), 1, 16),
        ((4, 8), 16, 16),
        ((3, 4), 20, 9),  # more channels in than are few
        ((6, 10), 3, 13),
        ((7, 5), 70, 3),
        ((4, 5), 4, 16),  # no pairs
        ((4, 6), 4, 8),  # too few for pairs
        ((4, 6), 16, 17),  # enough without
    ],
)
def test_convolve_is_the_library_s_in_value_and_gradients(size, channels, features, margin):
    x, kernel = normal(0, 2, *size, channels), normal(1, 3, 3, channels, features)
    results = (value_and_gradients(f, margin, x, kernel, 2) for f in (ours, library))
    for found, expected in zip(*results, strict=True):
        assert found.dtype == expected.dtype
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("channels", [16, 32])
def test_convolve_computes_in_the_dtype_of_its_arguments(channels):
    x, kernel = jnp.ones((1, 4, 4, channels)), jnp.ones((3, 3, channels, 16))
    x, kernel = x.astype(jnp.bfloat16), kernel.astype(jnp.bfloat16)
    results = (value_and_gradients(f, 1, x, kernel, 2) for f in (ours, library))
    for found, expected in zip(*results, strict=True):
        assert found.dtype == expected.dtype == jnp.bfloat16
        np.testing.assert_allclose(
            found.astype(np.float32), expected.astype(np.float32), rtol=0.02, atol=0.2
        )


@pytest.mark.parametrize(
    ("platform", "channels", "pairs"),
    [("cpu", 16, True), ("cpu", 32, False), ("tpu", 16, False), ("cuda", 16, False)],
)
def test_only_cpu_computes_pairs(platform, channels, pairs):
    def gradients(x, kernel):
        return jax.grad(lambda *inputs: ours(*inputs, (1, 1), ((1, 1), (1, 1))).sum(), (0, 1))(
            x, kernel
        )

    shapes = (
        jax.ShapeDtypeStruct((2, 8, 8, channels), jnp.float32),
        jax.ShapeDtypeStruct((3, 3, channels, 16), jnp.float32),
    )
    text = jax.jit(gradients).trace(*shapes).lower(lowering_platforms=(platform,)).as_text()
    assert "stablehlo.convolution" in text
    assert ("3x4x" in text) is pairs


def test_a_convolution_layer_takes_it():
    x = normal(0, 2, 4, 6, 5)
    layers = [
        nn.Conv(16, (3, 3), padding=1, use_bias=False, **options)
        for options in ({"conv_general_dilated": convolve}, {})
    ]
    variables = layers[1].init(jax.random.key(0), x)
    found, expected = (jax.jit(layer.apply)(variables, x) for layer in layers)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("channels", "pairs"), [(1, True), (16, True), (17, False), (32, False)])
def test_the_forward_pass_takes_pairs_only_of_few_channels(channels, pairs):
    x, kernel = jnp.zeros((1, 4, 4, channels)), jnp.zeros((3, 3, channels, 16))
    text = jax.jit(ours, static_argnums=(2, 3)).lower(x, kernel, (1, 1), ((1, 1),) * 2).as_text()
    assert ("3x4x" in text) is pairs
