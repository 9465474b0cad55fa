"""The depthwise convolution for CPU has the values and gradients of the library's."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unet_jax.models.kernels.depthwise import convolve


def library(x, kernel, stride):
    options = {"dimension_numbers": ("NHWC", "HWIO", "NHWC"), "feature_group_count": x.shape[-1]}
    return jax.lax.conv_general_dilated(x, kernel, (stride, stride), "SAME", **options)


@pytest.mark.parametrize("shape", [(2, 3, 5, 3), (1, 1, 1, 2)])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [3, 5])
def test_values_and_gradients_are_the_library_s(size, stride, shape):
    count, rows, columns, channels = shape
    rng = np.random.default_rng(0)
    x = rng.normal(size=(count, rows * stride, columns * stride, channels)).astype(np.float32)
    kernel = rng.normal(size=(size, size, 1, channels)).astype(np.float32)
    slope = rng.normal(size=shape).astype(np.float32)

    @functools.partial(jax.jit, static_argnums=0)
    def with_gradients(layer, x, kernel, slope):
        y, transposed = jax.vjp(functools.partial(layer, stride=stride), x, kernel)
        return y, *transposed(slope)

    found, expected = (with_gradients(layer, x, kernel, slope) for layer in (convolve, library))
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("stride", [1, 2])
def test_bfloat16_stays_bfloat16(stride):
    x, kernel = jnp.ones((1, 4, 4, 2), jnp.bfloat16), jnp.ones((3, 3, 1, 2), jnp.bfloat16)
    found, ours = jax.vjp(functools.partial(convolve, stride=stride), x, kernel)
    assert found.dtype == jnp.bfloat16
    assert [slope.dtype for slope in ours(found)] == [jnp.bfloat16, jnp.bfloat16]
