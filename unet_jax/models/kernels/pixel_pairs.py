"""The first level of a U-Net for TPU: pairs of neighbouring pixels are stored as one pixel.

A TPU stores channels in groups of 128. An array with 64 channels therefore takes the memory and the
memory traffic of 128, and its convolution uses a quarter of the matrix unit. Stored as pairs,
[N, H, W / 2, 2C], it uses both fully.

The convolution at a pair of columns c and c + 1 depends on the four columns c - 1 ... c + 2, which
takes a third more arithmetic than single pixels. The four columns are exactly two pairs if the
pairs of the input are shifted by one column against those of the output. The pairs between the two
convolutions of a block are therefore shifted: there are W / 2 + 1 of them, which begin with the
columns -1, 1, 3 ... W - 1. Their pixels outside the image are kept zero, as the padding of a
convolution is.

Each module has the parameters of the modules that it replaces.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from unet_jax.models.blocks import Norm

LANES = 128  # size of the groups in which a TPU stores channels
LAYOUT = ("NHWC", "HWIO", "NHWC")


def unpair(x: jax.Array) -> jax.Array:
    """Separates the pixels of pairs: [N, H, W / 2, 2C] -> [N, H, W, C]."""
    n, h, w, c = x.shape
    return x.reshape(n, h, 2 * w, c // 2)


def inside(shifted: jax.Array) -> jax.Array:
    """Masks the pixels of shifted pairs that are inside the image.

    Args:
      shifted: shifted pairs, [N, H, W / 2 + 1, 2C]; only the shape is used.

    Returns:
      bool [W / 2 + 1, 2C].
    """
    pairs, channels = shifted.shape[2:]
    place, channel = jnp.arange(pairs)[:, None], jnp.arange(channels)
    outside_left = (place == 0) & (channel < channels // 2)
    outside_right = (place == pairs - 1) & (channel >= channels // 2)
    return ~(outside_left | outside_right)


def pair_kernel(kernel: jax.Array) -> jax.Array:
    """Extends a kernel so that it computes two neighbouring results from four columns.

    Args:
      kernel: [3, 3, C, F].

    Returns:
      [3, 4, C, 2F]: F channels for each of the two middle columns.
    """
    left, right = (
        jnp.pad(kernel, ((0, 0), columns, (0, 0), (0, 0))) for columns in ((0, 1), (1, 0))
    )
    return jnp.concatenate([left, right], axis=-1)


def composed_kernel(up: jax.Array, kernel: jax.Array) -> jax.Array:
    """Composes a 2x2 transposed convolution with stride 2 and a 3x3 convolution after it.

    Args:
      up: kernel of the transposed convolution, [2, 2, C, M], as in `UpConv`.
      kernel: kernel of the convolution, [3, 3, M, F].

    Returns:
      [4, 4, C, F]. Entry [i, j] is the weight of the coarse pixel (a, b) in the result at row
      2a + 2 - i and column 2b + 2 - j of the finer level.
    """
    up = up[::-1, ::-1]  # the kernel of a transposed convolution is flipped
    whole = jnp.zeros((4, 4, up.shape[2], kernel.shape[3]))
    for row, column in np.ndindex(2, 2):
        part = jnp.einsum("cm,yxmf->yxcf", up[row, column], kernel)
        whole += jnp.pad(part, ((1 - row, row), (1 - column, column), (0, 0), (0, 0)))
    return whole


class ImageConv(nn.Module):
    """3x3 convolution without bias: image [N, H, W, C] -> shifted pairs.

    The result is [N, H, W / 2 + 1, 2 features]. The convolution reads single pixels, because
    pairing the few channels of an image first would cost memory traffic.
    """

    features: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, image: jax.Array) -> jax.Array:
        shape = (3, 3, image.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.he_normal(), shape)
        x, kernel = nn.dtypes.promote_dtype(image, pair_kernel(kernel), dtype=self.dtype)
        return _convolve(x, kernel, 2, strides=(1, 2))


class PairConv(nn.Module):
    """3x3 convolution without bias: shifted pairs -> pairs [N, H, W / 2, 2 features]."""

    features: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (3, 3, x.shape[-1] // 2, self.features)
        kernel = self.param("kernel", nn.initializers.he_normal(), shape)
        x, kernel = nn.dtypes.promote_dtype(x, _of_pairs(kernel), dtype=self.dtype)
        return _convolve(x, kernel, 0)


class UpKernel(nn.Module):
    """The parameters of `UpConv`: kernel [2, 2, channels, features] and bias [features]."""

    features: int

    @nn.compact
    def __call__(self, channels: int) -> tuple[jax.Array, jax.Array]:
        init = nn.initializers.lecun_normal(batch_axis=(0, 1))
        kernel = self.param("kernel", init, (2, 2, channels, self.features))
        return kernel, self.param("bias", nn.initializers.zeros_init(), (self.features,))


class SkipUpConv(nn.Module):
    """`UpConv`, concatenation with the skip connection, and a 3x3 convolution without bias.

    The inputs are the pairs of the skip connection, [N, H, W / 2, 2C], the coarser level,
    [N, H / 2, W / 2, D], and the parameters of `UpKernel`. The output is shifted pairs. The
    transposed convolution and the convolution after it are computed as one convolution of the
    coarser level (see `composed_kernel`), with 4/7 of the arithmetic that both take in pairs.
    """

    features: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self, skip: jax.Array, coarse: jax.Array, up: jax.Array, bias: jax.Array
    ) -> jax.Array:
        channels = skip.shape[-1] // 2
        shape = (3, 3, channels + up.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.he_normal(), shape)
        of_skip, of_up = jnp.split(kernel, [channels], axis=2)
        whole = composed_kernel(up, of_up)
        # The left pixel of a shifted pair is the second column of a 2x2 block of the transposed
        # convolution, and the right pixel is the first column of the next block.
        of_coarse = jnp.concatenate([whole[:, 1::2], whole[:, ::2]], axis=-1)  # [4, 2, D, 2F]
        of_bias = _of_pairs(jnp.einsum("m,yxmf->yxf", bias, of_up)[:, :, None]).sum(axis=2)
        skip, of_skip, coarse, of_coarse = nn.dtypes.promote_dtype(
            skip, _of_pairs(of_skip), coarse, of_coarse, dtype=self.dtype
        )
        x = _to_shifted(skip, of_skip, 1) + _to_shifted(coarse, of_coarse, 2)
        return _add_of_ones(x, of_bias)


def _of_pairs(kernel: jax.Array) -> jax.Array:
    """Converts a kernel [3, 3, C, F] to one that reads and writes pairs: [3, 2, 2C, 2F]."""
    return pair_kernel(kernel).reshape(3, 2, 2 * kernel.shape[2], 2 * kernel.shape[3])


def _convolve(
    x: jax.Array, kernel: jax.Array, columns: int, strides: tuple[int, int] = (1, 1)
) -> jax.Array:
    """Convolves, padding by one row of zeros at top and bottom, and by `columns` at each side."""
    padding = ((1, 1), (columns, columns))
    return jax.lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=LAYOUT)


def _add_of_ones(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Adds the convolution of an image of ones with a kernel [3, 2, F] to x [N, H, W, F].

    `x` is shifted pairs. The sum is one value for all pixels, plus corrections at the border, where
    the kernel covers zeros. In this form the gradient needs only one sum over all pixels, which XLA
    fuses with the computation of these pixels.
    """
    n, h, w, features = x.shape
    everywhere, top, bottom, left, right = (0, 0), (0, h - 1), (h - 1, 0), (0, w - 1), (w - 1, 0)
    for value, rows, columns in (
        (kernel.sum((0, 1)), everywhere, everywhere),
        (-kernel[0].sum(0), top, everywhere),
        (-kernel[2].sum(0), bottom, everywhere),
        (-kernel[:, 0].sum(0), everywhere, left),
        (-kernel[:, 1].sum(0), everywhere, right),
        (kernel[0, 0], top, left),
        (kernel[0, 1], top, right),
        (kernel[2, 0], bottom, left),
        (kernel[2, 1], bottom, right),
    ):
        part = jnp.broadcast_to(value, (n, h - sum(rows), w - sum(columns), features))
        x += jnp.pad(part.astype(x.dtype), ((0, 0), rows, columns, (0, 0)))
    return x


def _to_shifted_value(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """Convolves pairs (stride 1) or coarser pixels (stride 2) to shifted pairs.

    Args:
      x: [N, H / stride, W / 2, C]: every `stride`-th row; the rows between are zero.
      kernel: [2 + stride, 2, C, F].
      stride: distance of the rows.

    Returns:
      [N, H, W / 2 + 1, F].
    """
    padding, dilation = ((stride, stride), (1, 1)), (stride, 1)
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), padding, dilation, dimension_numbers=LAYOUT
    )


def _to_shifted_gradients(
    stride: int, inputs: tuple[jax.Array, jax.Array], gradient: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, kernel = inputs
    of_x = jax.linear_transpose(lambda x: _to_shifted_value(x, kernel, stride), x)(gradient)[0]
    # JAX computes the kernel's gradient as a convolution of x with `gradient`. The latter is one
    # column wider than x, so XLA swaps the two and writes a reversed copy of one. A convolution of
    # `gradient` with x gives the reversed result without this copy. The barrier keeps XLA from
    # converting it back.
    reverse = jax.lax.conv_general_dilated(
        gradient,
        x,
        (1, 1),
        ((1, 1), (0, 0)),
        rhs_dilation=(stride, 1),
        dimension_numbers=("CHWN", "IHWO", "HWCN"),
    )
    return of_x, jax.lax.optimization_barrier(reverse)[::-1, ::-1]


_to_shifted = jax.custom_vjp(_to_shifted_value, nondiff_argnums=(2,))
_to_shifted.defvjp(lambda *inputs: (_to_shifted_value(*inputs), inputs[:2]), _to_shifted_gradients)


class PairBlock(nn.Module):
    """`ConvBlock` with batch normalisation, whose output is pairs [N, H, W / 2, 2 features].

    Attributes:
      features: channels of both convolutions, per pixel.
      first: class of the first convolution, which receives the inputs of the block.
      dtype: arithmetic of the layers.
    """

    features: int
    first: type[ImageConv] | type[SkipUpConv]
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, *inputs: jax.Array, train: bool) -> jax.Array:
        x = self.first(self.features, self.dtype, name="Conv_0")(*inputs)
        there = inside(x)
        x = jnp.where(there, x, 0)
        x = Norm("batch", self.dtype, pixels=2, outside=2, name="Norm_0")(x, train)
        x = jnp.where(there, nn.relu(x), 0)
        x = PairConv(self.features, self.dtype, name="Conv_1")(x)
        return nn.relu(Norm("batch", self.dtype, pixels=2, name="Norm_1")(x, train))


class PairHead(nn.Module):
    """1x1 convolution with bias, float32: pairs [N, H, W / 2, 2C] -> [N, H, W, features]."""

    features: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (1, 1, x.shape[-1] // 2, self.features)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape)
        bias = self.param("bias", nn.initializers.zeros_init(), (self.features,))
        # The matrix is block-diagonal, so that the pixels of a pair do not mix.
        both = jnp.kron(jnp.eye(2), kernel)
        y = jax.lax.conv_general_dilated(x, both, (1, 1), "VALID", dimension_numbers=LAYOUT)
        return unpair(y + jnp.tile(bias, 2))


@jax.custom_vjp
def max_pool_pairs(x: jax.Array) -> jax.Array:
    """Applies `max_pool` to pairs: [N, H, W / 2, 2C] -> [N, H / 2, W / 2, C].

    It reduces rows before columns, so that most of the work is on pairs. The gradient recomputes
    the maxima instead of storing their positions.
    """
    top, bottom = _rows(x)
    left, right = jnp.split(jnp.maximum(top, bottom), 2, axis=-1)
    return jnp.maximum(left, right)


def _rows(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    n, h, w, c = x.shape
    rows = x.reshape(n, h // 2, 2, w, c)
    return rows[:, :, 0], rows[:, :, 1]


def _max_pool_gradient(x: jax.Array, gradient: jax.Array) -> tuple[jax.Array]:
    top, bottom = _rows(x)
    lower = bottom > top
    left, right = jnp.split(jnp.maximum(top, bottom), 2, axis=-1)
    left_lower, right_lower = jnp.split(lower, 2, axis=-1)
    # The first of several equal maxima, in row order, receives the gradient. If the maxima of the
    # two columns are equal, this is the right one only if it is in the upper row and the left one
    # in the lower row.
    second = (right > left) | ((right == left) & left_lower & ~right_lower)
    columns = jnp.concatenate([jnp.where(second, 0, gradient), jnp.where(second, gradient, 0)], -1)
    place = jnp.arange(2).reshape(2, 1, 1) == 1
    rows = jnp.where(lower[:, :, None] == place, columns[:, :, None], 0)
    # Without the barrier XLA would store the operands of the broadcast instead of the result.
    return (jax.lax.optimization_barrier(rows).reshape(x.shape),)


max_pool_pairs.defvjp(lambda x: (max_pool_pairs(x), x), _max_pool_gradient)
