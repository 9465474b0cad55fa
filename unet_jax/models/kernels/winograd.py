"""3x3 convolution by Winograd's minimal filtering algorithm, for CPU.

F(2x2, 3x3) of Lavin and Gray (2016, https://arxiv.org/abs/1509.09308) computes a tile of 2x2
results from its 4x4 input pixels with 16 products instead of 36: A'[(G k G') * (B' x B)]A, where *
is a matrix product over the channels for each of the 16 positions. The weight gradient applies the
transposed transforms in reverse order. A transform is a sum of few terms, so that in float32 the
results are about as exact as those of the plain convolution.

The functions are jitted so that they are traced and lowered once for each shape; each has hundreds
of operations.
"""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp

Grid = list[list[jax.Array]]  # arrays in rows and columns

IMAGE = ((1, 0, -1, 0), (0, 1, 1, 0), (0, -1, 1, 0), (0, 1, 0, -1))  # B'
KERNEL = ((1, 0, 0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0, 0, 1))  # G
RESULT = ((1, 1, 1, 0), (0, 1, -1, -1))  # A'


FEWEST = 32  # smallest number of input and of output channels
# Largest number of input and output values whose transforms, four times as many, fit into a cache.
CACHED = 2**21
LARGEST = 2**24  # largest number with many channels; the transforms take 256 MiB


def pays(
    image: Sequence[int], kernel: Sequence[int], margin: int, dtype: jax.typing.DTypeLike
) -> bool:
    """Returns whether Winograd's algorithm is faster than XLA's convolution, with gradients.

    The memory traffic of the transforms grows with the sum of input and output channels, the saved
    arithmetic with their product. The answer is always false for types other than float32, because
    the transforms would amplify their rounding errors, and for the symbolic sizes of an export.

    Args:
      image: shape of the input, (N, H, W, C).
      kernel: shape of the kernel, (3, 3, C, F).
      margin: zero padding on every side, pixels.
      dtype: type of the input.
    """
    channels, features = kernel[2:]
    if dtype != jnp.float32 or min(channels, features) < FEWEST:
        return False
    if not all(isinstance(size, int) for size in image):
        return False
    height, width = (size - 2 + 2 * margin for size in image[1:3])
    if height % 2 or width % 2:
        return False
    numbers = image[0] * height * width * (channels + features)
    many = channels * features >= 64 * (channels + features)
    return numbers <= (LARGEST if many else CACHED)


@partial(jax.jit, static_argnames="margin")
def convolve(x: jax.Array, kernel: jax.Array, margin: int) -> jax.Array:
    """Computes a 3x3 convolution.

    Args:
      x: float32 [N, H, W, C].
      kernel: float32 [3, 3, C, F].
      margin: zero padding on every side, pixels.

    Returns:
      [N, H', W', F]. H' = H - 2 + 2 margin and W' = W - 2 + 2 margin must be even.
    """
    return _results(_tiles(x, margin), _transform(KERNEL, _places(kernel)), x.shape[0], 0)


@partial(jax.jit, static_argnames="margin")
def input_gradient(gradient: jax.Array, kernel: jax.Array, margin: int) -> jax.Array:
    """Computes the gradient of `convolve` with respect to its input.

    Args:
      gradient: gradient with respect to the result, [N, H', W', F].
      kernel: [3, 3, C, F].
      margin: zero padding of `convolve`, pixels.

    Returns:
      [N, H, W, C].
    """
    # Each input pixel contributes to 3x3 output pixels, so the gradient is a convolution with the
    # flipped kernel.
    opposite = _transform(KERNEL, _places(kernel[::-1, ::-1]))
    return _results(_tiles(gradient, 2 - margin), opposite, gradient.shape[0], 1)


@partial(jax.jit, static_argnames="margin")
def weight_gradient(x: jax.Array, gradient: jax.Array, margin: int) -> jax.Array:
    """Computes the gradient of `convolve` with respect to its kernel.

    Args:
      x: input of `convolve`, [N, H, W, C].
      gradient: gradient with respect to the result, [N, H', W', F].
      margin: zero padding of `convolve`, pixels.

    Returns:
      [3, 3, C, F].
    """
    quarters = [[gradient[:, row::2, column::2] for column in (0, 1)] for row in (0, 1)]
    products = [
        [_sum_of_products(tile, part) for tile, part in zip(*rows, strict=True)]
        for rows in zip(_tiles(x, margin), _transform(_transposed(RESULT), quarters), strict=True)
    ]
    return jnp.stack([jnp.stack(row) for row in _transform(_transposed(KERNEL), products)])


def _tiles(x: jax.Array, margin: int) -> Grid:
    """Transforms the 4x4 tiles of an image, which are two pixels apart.

    Returns a 4x4 grid; an entry has one position of all tiles, [N, H'/2, W'/2, C].
    """
    x = jnp.pad(x, ((0, 0), (margin, margin), (margin, margin), (0, 0)))
    height, width = x.shape[1] - 3, x.shape[2] - 3
    return _transform(
        IMAGE, [[x[:, i : i + height : 2, j : j + width : 2] for j in range(4)] for i in range(4)]
    )


def _sum_of_products(tile: jax.Array, part: jax.Array) -> jax.Array:
    """Sums the products of two arrays over all pixels: [..., C] and [..., F] -> [C, F]."""
    tile, part = (x.reshape(-1, x.shape[-1]) for x in (tile, part))
    # A matrix product with fewer rows than columns is up to a third faster than its transpose.
    return (part.T @ tile).T if part.shape[1] < tile.shape[1] else tile.T @ part


def _places(kernel: jax.Array) -> Grid:
    return [[kernel[i, j] for j in range(3)] for i in range(3)]


def _results(tiles: Grid, kernels: Grid, n: int, summed: int) -> jax.Array:
    """Multiplies transformed tiles and kernels and transforms the products to an image.

    `summed` is the axis of the kernels (0 or 1) that is summed with the channels of the tiles.
    """
    products = [
        [jnp.tensordot(tile, kernel, ((3,), (summed,))) for tile, kernel in zip(*rows, strict=True)]
        for rows in zip(tiles, kernels, strict=True)
    ]
    rows = [jnp.stack(row, 3) for row in _transform(RESULT, products)]  # [N, H/2, W/2, 2, F]
    blocks = jnp.stack(rows, 2)  # [N, H/2, 2, W/2, 2, F]
    _, height, _, width, _, features = blocks.shape
    return blocks.reshape(n, 2 * height, 2 * width, features)


def _transform(matrix: Sequence[Sequence[float]], grid: Grid) -> Grid:
    """Returns matrix @ grid @ matrix', where the entries of the grid are arrays."""
    rows = [[_combine(factors, column) for column in zip(*grid, strict=True)] for factors in matrix]
    return [[_combine(factors, row) for factors in matrix] for row in rows]


def _combine(factors: Sequence[float], parts: Sequence[jax.Array]) -> jax.Array:
    terms = [part if f == 1 else f * part for f, part in zip(factors, parts, strict=True) if f]
    return sum(terms[1:], terms[0])


def _transposed(matrix: Sequence[Sequence[float]]) -> list[tuple[float, ...]]:
    return list(zip(*matrix, strict=True))
