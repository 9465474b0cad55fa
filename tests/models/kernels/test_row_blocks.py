"""The weight gradient by blocks of rows, for blocks of any number of rows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unet_jax.models.kernels import row_blocks


@pytest.mark.parametrize("cached", [1, 300, 2**18])  # one row, some and all
@pytest.mark.parametrize("height", [1, 6, 7])
@pytest.mark.parametrize("margin", [0, 1])
def test_it_is_the_convolution_s(margin, height, cached, monkeypatch):
    monkeypatch.setattr(row_blocks, "CACHED", cached)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, height + 2 - 2 * margin, 5 + 2 - 2 * margin, 3)).astype(np.float32)
    gradient = rng.normal(size=(2, height, 5, 4)).astype(np.float32)

    def convolution(kernel):
        padding, layout = ((margin, margin),) * 2, ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(x, kernel, (1, 1), padding, dimension_numbers=layout)

    (expected,) = jax.linear_transpose(convolution, jnp.zeros((3, 3, 3, 4)))(gradient)
    found = row_blocks.weight_gradient(x, gradient, margin)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("height", "values", "rows"),
    [(256, 256 * 9 * 16, 4), (256, 10**9, 1), (7, 1, 7), (6, 2**16, 3)],
)
def test_a_block_is_the_largest_that_fits_and_divides_the_height(height, values, rows):
    assert row_blocks._rows_of_a_block(height, values) == rows
