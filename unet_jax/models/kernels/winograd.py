"""3x3 convolution by Winograd's minimal filtering, for CPU.

F(2x2, 3x3) of Lavin and Gray (2016, https://arxiv.org/abs/1509.09308): a tile of 2x2 results comes
of the 4x4 pixels that it sees by 16 products instead of 36, A'[(G k G') * (B' x B)]A, where * is a
matrix product over channels for each of the 16 places. The weight gradient is the same the other
way round. Transforms are sums of few terms, in float32 about as exact as the plain convolution.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

Grid = list[list[jax.Array]]  # arrays in rows and columns

IMAGE = ((1, 0, -1, 0), (0, 1, 1, 0), (0, -1, 1, 0), (0, 1, 0, -1))  # B'
KERNEL = ((1, 0, 0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0, 0, 1))  # G
RESULT = ((1, 1, 1, 0), (0, 1, -1, -1))  # A'


FEWEST = 32  # channels
CACHED = 2**21  # numbers in and out whose transforms, of four times the size, stay near a core
LARGEST = 2**24  # the same, whose transforms are 256 MiB


def pays(
    image: Sequence[int], kernel: Sequence[int], margin: int, dtype: jax.typing.DTypeLike
) -> bool:
    """Whether a convolution of these shapes, and its gradients, are faster so than plain.

    Transforms cost memory traffic for each channel in and out, and save arithmetic for each pair of
    them. Never of other types than float32, whose rounding the transforms would magnify, nor of
    sizes that an export leaves open.
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


def convolve(x: jax.Array, kernel: jax.Array, margin: int) -> jax.Array:
    """[N, H, W, C] * [3, 3, C, F] -> [N, H', W', F], H' = H - 2 + 2 margin and W' even."""
    return _results(_tiles(x, margin), _transform(KERNEL, _places(kernel)), x.shape[0], 0)


def input_gradient(gradient: jax.Array, kernel: jax.Array, margin: int) -> jax.Array:
    """Of `convolve`, for the gradient of its result: [N, H', W', F] -> [N, H, W, C]."""
    # Each input pixel was seen by 3x3 output pixels, in the opposite order.
    opposite = _transform(KERNEL, _places(kernel[::-1, ::-1]))
    return _results(_tiles(gradient, 2 - margin), opposite, gradient.shape[0], 1)


def weight_gradient(x: jax.Array, gradient: jax.Array, margin: int) -> jax.Array:
    """Of `convolve`, for the gradient of its result: [3, 3, C, F]."""
    quarters = [[gradient[:, row::2, column::2] for column in (0, 1)] for row in (0, 1)]
    products = [
        [_sum_of_products(tile, part) for tile, part in zip(*rows, strict=True)]
        for rows in zip(_tiles(x, margin), _transform(_transposed(RESULT), quarters), strict=True)
    ]
    return jnp.stack([jnp.stack(row) for row in _transform(_transposed(KERNEL), products)])


def _tiles(x: jax.Array, margin: int) -> Grid:
    """Transformed 4x4 tiles, two pixels apart: each place of all of them, [N, H'/2, W'/2, C]."""
    x = jnp.pad(x, ((0, 0), (margin, margin), (margin, margin), (0, 0)))
    height, width = x.shape[1] - 3, x.shape[2] - 3
    return _transform(
        IMAGE, [[x[:, i : i + height : 2, j : j + width : 2] for j in range(4)] for i in range(4)]
    )


def _sum_of_products(tile: jax.Array, part: jax.Array) -> jax.Array:
    """Over all pixels: [..., C] and [..., F] -> [C, F]."""
    tile, part = (x.reshape(-1, x.shape[-1]) for x in (tile, part))
    # A product of fewer rows than columns is up to a third faster than the other way round.
    return (part.T @ tile).T if part.shape[1] < tile.shape[1] else tile.T @ part


def _places(kernel: jax.Array) -> Grid:
    return [[kernel[i, j] for j in range(3)] for i in range(3)]


def _results(tiles: Grid, kernels: Grid, n: int, summed: int) -> jax.Array:
    """The products over channels, those of the kernel's axis `summed`, as an image."""
    products = [
        [jnp.tensordot(tile, kernel, ((3,), (summed,))) for tile, kernel in zip(*rows, strict=True)]
        for rows in zip(tiles, kernels, strict=True)
    ]
    rows = [jnp.stack(row, 3) for row in _transform(RESULT, products)]  # [N, H/2, W/2, 2, F]
    blocks = jnp.stack(rows, 2)  # [N, H/2, 2, W/2, 2, F]
    _, height, _, width, _, features = blocks.shape
    return blocks.reshape(n, 2 * height, 2 * width, features)


def _transform(matrix: Sequence[Sequence[float]], grid: Grid) -> Grid:
    """matrix @ grid @ matrix'."""
    rows = [[_combine(factors, column) for column in zip(*grid, strict=True)] for factors in matrix]
    return [[_combine(factors, row) for factors in matrix] for row in rows]


def _combine(factors: Sequence[float], parts: Sequence[jax.Array]) -> jax.Array:
    terms = [part if f == 1 else f * part for f, part in zip(factors, parts, strict=True) if f]
    return sum(terms[1:], terms[0])


def _transposed(matrix: Sequence[Sequence[float]]) -> list[tuple[float, ...]]:
    return list(zip(*matrix, strict=True))
