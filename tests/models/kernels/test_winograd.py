"""Winograd's convolution against the library's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import export

from unet_jax.models.kernels import winograd
from unet_jax.models.kernels.convolution import LAYOUT, convolve

PLAIN = {"dimension_numbers": LAYOUT}


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def library(x, kernel, margin):
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), ((margin, margin),) * 2, **PLAIN)


def all_passes(x, kernel, gradient, margin):
    """Value, input gradient and weight gradient: the library's, and ours."""
    value, pullback = jax.vjp(lambda x, k: library(x, k, margin), x, kernel)
    return (value, *pullback(gradient)), (
        winograd.convolve(x, kernel, margin),
        winograd.input_gradient(gradient, kernel, margin),
        winograd.weight_gradient(x, gradient, margin),
    )


@settings(max_examples=4, deadline=None, derandomize=True)
@given(
    n=st.integers(1, 3),
    half=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    channels=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    margin=st.integers(0, 1),
)
def test_value_and_gradients_are_the_library_s(n, half, channels, margin):
    height, width = (2 * size for size in half)
    x = normal(0, n, height + 2 - 2 * margin, width + 2 - 2 * margin, channels[0])
    kernel, gradient = normal(1, 3, 3, *channels), normal(2, n, height, width, channels[1])
    passes = jax.jit(all_passes, static_argnums=3)(x, kernel, gradient, margin)
    for expected, found in zip(*passes, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-4)


def test_sums_of_many_channels_are_as_exact_as_the_plain_ones():
    x, kernel = normal(0, 1, 8, 8, 512), normal(1, 3, 3, 512, 32)
    exact = sum(
        np.pad(x.astype(np.float64), ((0, 0), (1, 1), (1, 1), (0, 0)))[:, i : i + 8, j : j + 8]
        @ kernel[i, j].astype(np.float64)
        for i in range(3)
        for j in range(3)
    )
    plain, ours = (np.abs(f(x, kernel, 1) - exact).max() for f in (library, winograd.convolve))
    assert ours < 4 * plain


def test_it_pays_for_many_channels_and_sizes_that_stay_in_memory():
    def pays(n, size, channels, features, margin=1, dtype=jnp.float32):
        image, kernel = (n, *size, channels), (3, 3, channels, features)
        return winograd.pays(image, kernel, margin, dtype)

    assert pays(1, (64, 64), 256, 256)
    assert pays(1, (64, 64), 64, 64)
    assert pays(2, (18, 18), 32, 32, margin=0)
    assert not pays(1, (64, 64), 31, 256)
    assert not pays(1, (64, 64), 256, 31)
    assert not pays(1, (63, 64), 256, 256)
    assert not pays(1, (64, 63), 256, 256)
    assert not pays(1, (64, 64), 256, 256, dtype=jnp.bfloat16)
    # With few channels transforms must stay in the cache, with many in memory.
    assert pays(1, (128, 128), 64, 64) and not pays(1, (128, 130), 64, 64)
    assert pays(1, (256, 256), 128, 128) and not pays(1, (256, 258), 128, 128)


@pytest.mark.parametrize(
    ("platform", "image", "products", "convolutions"),
    [
        ("cpu", (2, 8, 8, 64), 3 * 16, 0),
        ("cpu", (2, 8, 8, 32), 2 * 16 + 1, 0),  # the weight gradient by blocks of rows
        ("cpu", (2, 8, 9, 32), 1, 2),
        ("tpu", (2, 8, 8, 64), 0, 3),
        ("cuda", (2, 8, 8, 64), 0, 3),
    ],
)
def test_only_cpu_takes_it(platform, image, products, convolutions):
    def gradients(x, kernel):
        def loss(x, kernel):
            return convolve(x, kernel, (1, 1), ((1, 1), (1, 1)), **PLAIN).sum()

        return jax.value_and_grad(loss, (0, 1))(x, kernel)

    channels = image[-1]
    shapes = (
        jax.ShapeDtypeStruct(image, jnp.float32),
        jax.ShapeDtypeStruct((3, 3, channels, channels), jnp.float32),
    )
    text = jax.jit(gradients).trace(*shapes).lower(lowering_platforms=(platform,)).as_text()
    assert text.count("stablehlo.dot_general") == products
    assert text.count("stablehlo.convolution") == convolutions


def test_sizes_that_an_export_leaves_open_are_computed_plain():
    n, half = export.symbolic_shape("n, h")
    x = jax.ShapeDtypeStruct((n, 2 * half, 2 * half, 32), jnp.float32)
    kernel = jnp.ones((3, 3, 32, 32))

    def layer(x):
        return convolve(x, kernel, (1, 1), ((1, 1), (1, 1)), **PLAIN)

    assert "stablehlo.convolution" in export.export(jax.jit(layer))(x).mlir_module()
