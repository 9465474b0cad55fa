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

from unet_jax.models.layers import Norm, upconvolve

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


class PairConv(nn.Module):
    """3x3 convolution of the channels of all `arrays` together, padded with zeros, without bias.

    Pairs [N, H, W / 2, 2C] of each -> shifted pairs [N, H, W / 2 + 1, 2 features]; or, without
    `shift`, the other way. With `of_pixels`, an image [N, H, W, C] -> shifted pairs.
    """

    features: int
    shift: bool
    dtype: jnp.dtype = jnp.float32
    of_pixels: bool = False

    @nn.compact
    def __call__(self, *arrays: jax.Array) -> jax.Array:
        pixels = 1 if self.of_pixels else 2  # in an element of the arrays' rows
        channels = [x.shape[-1] // pixels for x in arrays]
        shape = (3, 3, sum(channels), self.features)
        both = pair_kernel(self.param("kernel", nn.initializers.he_normal(), shape))
        ends = [sum(channels[:i]) for i in range(1, len(channels))]
        parts = jnp.split(both, ends, axis=2)  # each array has all its pixels' channels
        parts = [part.reshape(3, 4 // pixels, -1, 2 * self.features) for part in parts]
        x, kernel = jnp.concatenate(arrays, axis=-1), jnp.concatenate(parts, axis=2)
        x, kernel = nn.dtypes.promote_dtype(x, kernel, dtype=self.dtype)
        strides, edge = (1, 2 // pixels), int(self.shift) * 2 // pixels
        padding = ((1, 1), (edge, edge))
        return jax.lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=LAYOUT)


class PairBlock(nn.Module):
    """`ConvBlock` with BatchNorm: pairs [N, H, W / 2, 2C] of each array -> 2 features each.

    With `of_pixels`, an image [N, H, W, C] -> pairs of features: to pair its few channels first
    would cost memory traffic.
    """

    features: int
    dtype: jnp.dtype = jnp.float32
    of_pixels: bool = False

    @nn.compact
    def __call__(self, *arrays: jax.Array, train: bool) -> jax.Array:
        x = PairConv(self.features, True, self.dtype, self.of_pixels, name="Conv_0")(*arrays)
        there = inside(x)
        x = jnp.where(there, x, 0)
        x = Norm("batch", self.dtype, pixels=2, outside=2, name="Norm_0")(x, train)
        x = jnp.where(there, nn.relu(x), 0)
        x = PairConv(self.features, False, self.dtype, name="Conv_1")(x)
        return nn.relu(Norm("batch", self.dtype, pixels=2, name="Norm_1")(x, train))


class PairUpConv(nn.Module):
    """`UpConv` to pairs: [N, H, W, C] -> [N, 2H, W, 2 features]."""

    features: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (2, 2, x.shape[-1], self.features)
        init = nn.initializers.lecun_normal(batch_axis=(0, 1))
        kernel = self.param("kernel", init, shape)
        bias = self.param("bias", nn.initializers.zeros_init(), (self.features,))
        # The two columns of a block are a pair.
        columns = kernel[:, ::-1].swapaxes(1, 2).reshape(2, 1, shape[2], 2 * self.features)
        x, columns, bias = nn.dtypes.promote_dtype(x, columns, bias, dtype=self.dtype)
        return upconvolve(x, columns) + jnp.tile(bias, 2)


class PairHead(nn.Module):
    """1x1 convolution with bias: pairs [N, H, W / 2, 2C] -> [N, H, W, features]."""

    features: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (1, 1, x.shape[-1] // 2, self.features)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape)
        bias = self.param("bias", nn.initializers.zeros_init(), (self.features,))
        both = jnp.kron(jnp.eye(2), kernel)  # each pixel's channels to its own results
        x, both, bias = nn.dtypes.promote_dtype(x, both, bias, dtype=self.dtype)
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
    return (jnp.where(lower[:, :, None] == place, columns[:, :, None], 0).reshape(x.shape),)


max_pool_pairs.defvjp(lambda x: (max_pool_pairs(x), x), _max_pool_gradient)
