"""The first level of a U-Net for TPU: two neighbours in a row as one pixel of twice the channels.

A TPU keeps channels in groups of 128. An array of 64 takes the memory and the traffic of 128, and
a convolution of it a quarter of the matrix unit; as pairs, [N, H, W / 2, 2C], it fills both. The
convolution of a pair sees the four columns c - 1 ... c + 2 of its two pixels c and c + 1, a third
more arithmetic than theirs, and they are two whole pairs if the pairs it reads begin a column
earlier or later than those it writes. So the pairs between a block's two convolutions are shifted:
W / 2 + 1 of them, which begin with the columns -1, 1, 3 ... W - 1; what is outside the image there
is kept zero, as a convolution's padding is. Modules have the parameters of those they stand for.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from unet_jax.models.blocks import Norm

LANES = 128  # channels that a TPU keeps together
LAYOUT = ("NHWC", "HWIO", "NHWC")


def unpair(x: jax.Array) -> jax.Array:
    """[N, H, W / 2, 2C] -> [N, H, W, C]."""
    n, h, w, c = x.shape
    return x.reshape(n, h, 2 * w, c // 2)


def inside(shifted: jax.Array) -> jax.Array:
    """Where shifted pairs are of the image: bool [W / 2 + 1, 2C]."""
    pairs, channels = shifted.shape[2:]
    place, channel = jnp.arange(pairs)[:, None], jnp.arange(channels)
    outside_left = (place == 0) & (channel < channels // 2)
    outside_right = (place == pairs - 1) & (channel >= channels // 2)
    return ~(outside_left | outside_right)


def pair_kernel(kernel: jax.Array) -> jax.Array:
    """[3, 3, C, F] -> [3, 4, C, 2F]: four columns, to the results of the middle two."""
    left, right = (
        jnp.pad(kernel, ((0, 0), columns, (0, 0), (0, 0))) for columns in ((0, 1), (1, 0))
    )
    return jnp.concatenate([left, right], axis=-1)


def composed_kernel(up: jax.Array, kernel: jax.Array) -> jax.Array:
    """A 2x2 transposed convolution, stride 2, and a 3x3 convolution after it, as one kernel.

    [2, 2, C, M] (as `UpConv` has it) and [3, 3, M, F] -> [4, 4, C, F]: what each coarse pixel,
    at row 2a and column 2b of the finer level, is to the results at 2a - 1 ... 2a + 2, last first.
    """
    up = up[::-1, ::-1]  # a transposed convolution lays its kernel down mirrored
    whole = jnp.zeros((4, 4, up.shape[2], kernel.shape[3]))
    for row, column in np.ndindex(2, 2):
        part = jnp.einsum("cm,yxmf->yxcf", up[row, column], kernel)
        whole += jnp.pad(part, ((1 - row, row), (1 - column, column), (0, 0), (0, 0)))
    return whole


class ImageConv(nn.Module):
    """3x3 convolution without bias: an image [N, H, W, C] -> shifted pairs.

    To pair an image's few channels first would cost memory traffic.
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
    """3x3 convolution without bias: shifted pairs [N, H, W / 2 + 1, 2C] -> pairs."""

    features: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (3, 3, x.shape[-1] // 2, self.features)
        kernel = self.param("kernel", nn.initializers.he_normal(), shape)
        x, kernel = nn.dtypes.promote_dtype(x, _of_pairs(kernel), dtype=self.dtype)
        return _convolve(x, kernel, 0)


class UpKernel(nn.Module):
    """The parameters of `UpConv`: kernel [2, 2, channels, features] and bias."""

    features: int

    @nn.compact
    def __call__(self, channels: int) -> tuple[jax.Array, jax.Array]:
        init = nn.initializers.lecun_normal(batch_axis=(0, 1))
        kernel = self.param("kernel", init, (2, 2, channels, self.features))
        return kernel, self.param("bias", nn.initializers.zeros_init(), (self.features,))


class SkipUpConv(nn.Module):
    """`UpConv`, the concatenation with its skip connection, and a 3x3 convolution without bias.

    Pairs of the skip connection [N, H, W / 2, 2C], the coarser level [N, H / 2, W / 2, D] and the
    `UpKernel` -> shifted pairs. The two convolutions of the coarser level are computed as one
    there, with 4/7 of their arithmetic in pairs.
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
        # The left pixel of a shifted pair is the second of its block, the right one the first.
        of_coarse = jnp.concatenate([whole[:, 1::2], whole[:, ::2]], axis=-1)  # [4, 2, D, 2F]
        of_bias = _of_pairs(jnp.einsum("m,yxmf->yxf", bias, of_up)[:, :, None]).sum(axis=2)
        skip, of_skip, coarse, of_coarse = nn.dtypes.promote_dtype(
            skip, _of_pairs(of_skip), coarse, of_coarse, dtype=self.dtype
        )
        x = _to_shifted(skip, of_skip, 1) + _to_shifted(coarse, of_coarse, 2)
        return _add_of_ones(x, of_bias)


def _of_pairs(kernel: jax.Array) -> jax.Array:
    """`pair_kernel` for pairs: [3, 3, C, F] -> [3, 2, 2C, 2F]."""
    return pair_kernel(kernel).reshape(3, 2, 2 * kernel.shape[2], 2 * kernel.shape[3])


def _convolve(
    x: jax.Array, kernel: jax.Array, columns: int, strides: tuple[int, int] = (1, 1)
) -> jax.Array:
    """With a row of zeros above and below, and so many columns at both sides."""
    padding = ((1, 1), (columns, columns))
    return jax.lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=LAYOUT)


def _add_of_ones(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Adds what a kernel [3, 2, F] for pairs gives where all are 1 to shifted pairs [N, H, W, F].

    Less at the border, where it sees less. Written as a value for all pixels and what the border
    lacks, so that the whole gradient is read for one sum, which XLA takes where it is computed.
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
    """Convolution of pairs or coarser pixels -> shifted pairs [N, H, W / 2 + 1, F].

    x [N, H / stride, W / 2, C] are every so many rows, the others are zero; the kernel is
    [2 + stride, 2, C, F].
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
    # JAX slides the gradient over x; it is a column wider, so XLA swaps the two and writes one
    # reversed. x slid over the gradient gives the same, reversed, if XLA does not undo that.
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
    """`ConvBlock` with BatchNorm -> pairs [N, H, W / 2, 2 features].

    `first` is the kind of its first convolution, whose inputs are the block's.
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
        both = jnp.kron(jnp.eye(2), kernel)  # each pixel's channels to its own results
        y = jax.lax.conv_general_dilated(x, both, (1, 1), "VALID", dimension_numbers=LAYOUT)
        return unpair(y + jnp.tile(bias, 2))


@jax.custom_vjp
def max_pool_pairs(x: jax.Array) -> jax.Array:
    """`max_pool` of pairs: [N, H, W / 2, 2C] -> [N, H / 2, W / 2, C].

    Rows before columns, so that most is done with pairs. Its gradient looks for the maxima again.
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
    # Of equal maxima the first in row order has the gradient: the right one, if it alone is above.
    second = (right > left) | ((right == left) & left_lower & ~right_lower)
    columns = jnp.concatenate([jnp.where(second, 0, gradient), jnp.where(second, gradient, 0)], -1)
    place = jnp.arange(2).reshape(2, 1, 1) == 1
    rows = jnp.where(lower[:, :, None] == place, columns[:, :, None], 0)
    # Without the barrier XLA writes what is broadcast to the rows, rather than this.
    return (jax.lax.optimization_barrier(rows).reshape(x.shape),)


max_pool_pairs.defvjp(lambda x: (max_pool_pairs(x), x), _max_pool_gradient)
