"""Weight gradient of a 3x3 convolution by matrix products over blocks of rows, for CPU.

On CPU, XLA computes the weight gradient of large images with few channels as a convolution whose
window is the whole image, at a tenth of the speed of a matrix product. Written as one product, the
nine shifted copies of the image do not fit into the cache. Here the products are over blocks of
rows whose copies do.
"""

import jax
import jax.numpy as jnp

CACHED = 2**18  # most values of the shifted copies of a block: 1 MiB


def weight_gradient(x: jax.Array, gradient: jax.Array, margin: int) -> jax.Array:
    """Computes the gradient of the kernel of a 3x3 convolution with stride 1.

    Args:
      x: the input, [N, H, W, C].
      gradient: the gradient of the result, [N, H', W', F] with H' = H - 2 + 2 margin.
      margin: zero padding of the input on every side, pixels.

    Returns:
      [3, 3, C, F] in the input's type; the sums are float32.
    """
    count, height, width, features = gradient.shape
    channels = x.shape[-1]
    padded = jnp.pad(x, ((0, 0), (margin, margin), (margin, margin), (0, 0)))
    rows = _rows_of_a_block(height, 9 * width * channels)
    blocks = height // rows

    def add_block(number: jax.Array, total: jax.Array) -> jax.Array:
        image, top = number // blocks, number % blocks * rows
        here = jax.lax.dynamic_slice(gradient, (image, top, 0, 0), (1, rows, width, features))
        shape = (1, rows + 2, width + 2, channels)
        seen = jax.lax.dynamic_slice(padded, (image, top, 0, 0), shape)
        shifted = [seen[0, i : i + rows, j : j + width] for i in range(3) for j in range(3)]
        columns = jnp.concatenate(shifted, -1).reshape(rows * width, 9 * channels)
        here = here.reshape(rows * width, features)
        return total + jnp.matmul(columns.T, here, preferred_element_type=jnp.float32)

    start = jnp.zeros((9 * channels, features), jnp.float32)
    total = jax.lax.fori_loop(0, count * blocks, add_block, start)
    return total.reshape(3, 3, channels, features).astype(x.dtype)


def _rows_of_a_block(height: int, values_in_row: int) -> int:
    """Returns the largest divisor of the height whose block fits into the cache, at least 1."""
    most = max(CACHED // values_in_row, 1)
    return max(rows for rows in range(1, min(most, height) + 1) if height % rows == 0)
