"""The layers that segmentation networks share."""

import functools
import math
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from unet_jax.distributed import reductions
from unet_jax.models.kernels.convolution import convolve

NORMS = ("batch", "group", "none")


@jax.custom_vjp
def max_pool(x: jax.Array) -> jax.Array:
    """2x2 max-pooling with stride 2: [N, H, W, C] -> [N, H/2, W/2, C], H and W even.

    Equal to `nn.max_pool` in value (NaN aside) and in gradient: among equal maxima the first
    one, in row order, takes the whole gradient, as in PyTorch. Written as comparisons of the
    four strided slices, since XLA's scatter for the gradient of a window maximum is slow on CPU;
    of them a byte for each maximum is kept for the gradient.
    """
    return max_pool_with_indices(x)[0]


def max_pool_with_indices(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """`max_pool`, and which of its window each maximum is: int8 [N, H/2, W/2, C] of 0 ... 3.

    The window's pixels are counted in row order.
    """
    top_left, top_right = x[:, ::2, ::2], x[:, ::2, 1::2]
    bottom_left, bottom_right = x[:, 1::2, ::2], x[:, 1::2, 1::2]
    top_index, bottom_index = top_right > top_left, bottom_right > bottom_left
    top = jnp.where(top_index, top_right, top_left)
    bottom = jnp.where(bottom_index, bottom_right, bottom_left)
    lower = bottom > top
    index = jnp.where(lower, 2 + bottom_index.astype(jnp.int8), top_index.astype(jnp.int8))
    return jnp.where(lower, bottom, top), index


def max_unpool(x: jax.Array, index: jax.Array) -> jax.Array:
    """Undoes `max_pool_with_indices`: [N, H, W, C] -> [N, 2H, 2W, C].

    Each value goes to the place in its 2x2 window that `index` gives; the other three are zero,
    as in PyTorch's `max_unpool2d`. No scatter: the windows do not overlap.
    """
    n, h, w, c = x.shape
    place = jnp.arange(4, dtype=index.dtype).reshape(2, 1, 2, 1)
    spread = (slice(None), slice(None), None, slice(None), None)
    blocks = jnp.where(index[spread] == place, x[spread], 0)  # [N, H, 2, W, 2, C]
    return blocks.reshape(n, 2 * h, 2 * w, c)


max_pool.defvjp(max_pool_with_indices, lambda index, gradient: (max_unpool(gradient, index),))


def pad_to_multiple(x: jax.Array, multiple: int) -> jax.Array:
    """Zeros at the bottom and the right, up to multiples of `multiple` in height and width."""
    # `-size % multiple` says too little about a size that an export leaves open.
    edges = [(0, (size + multiple - 1) // multiple * multiple - size) for size in x.shape[1:3]]
    return jnp.pad(x, ((0, 0), *edges, (0, 0)))


def mirror(x: jax.Array, before: int, height: int, width: int) -> jax.Array:
    """Mirrors an image at its edges: [N, H, W, C] -> [N, height, width, C].

    `before` pixels are at the top and at the left, the rest at the bottom and the right. The
    edge itself is not repeated; an image smaller than its margin is mirrored again and again.
    """

    # Rows and columns are taken by number, since mirrors of mirrors occupy XLA's compiler.
    def numbers(count: int, length: int) -> jax.Array:
        places = jnp.mod(jnp.arange(count) - before, jnp.maximum(2 * (length - 1), 1))
        return jnp.minimum(places, 2 * (length - 1) - places)

    rows, columns = numbers(height, x.shape[1]), numbers(width, x.shape[2])
    return jnp.take(jnp.take(x, rows, axis=1), columns, axis=2)


def float32_logits(head: Callable[[jax.Array], jax.Array], x: jax.Array) -> jax.Array:
    """The last layer, computed in float32 whatever type x [N, H, W, C] has.

    In bfloat16, whose mantissa has 8 bits, probabilities would be coarser than the bins in which
    they are counted (`histograms.BINS`). GPU and TPU round the factors of float32 products to
    fewer bits too, unless they are told not to.
    """
    with jax.default_matmul_precision("highest"):
        return head(x.astype(jnp.float32))


def crop_to(x: jax.Array, like: jax.Array) -> jax.Array:
    """The middle of [N, H, W, C], of the height and the width of `like`."""
    height, width = like.shape[1:3]
    top, left = (x.shape[1] - height) // 2, (x.shape[2] - width) // 2
    return x[:, top : top + height, left : left + width]


def resize_double(x: jax.Array, method: str) -> jax.Array:
    """Doubles height and width: [N, H, W, C] -> [N, 2H, 2W, C].

    `nearest` and `bilinear` have half-pixel centres; `bilinear_corners` lays the corner pixels'
    centres onto each other, as PyTorch's `align_corners=True` does.
    """
    n, h, w, c = x.shape
    if method == "bilinear_corners":
        rows, columns = (_corner_weights(size, x.dtype) for size in (h, w))
        # As exact as `jax.image.resize` on accelerators too, whose products are coarse by default.
        einsum = functools.partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)
        return einsum("qw,npwc->npqc", columns, einsum("ph,nhwc->npwc", rows, x))
    return jax.image.resize(x, (n, 2 * h, 2 * w, c), method)


def _corner_weights(size: int, dtype: jnp.dtype) -> jax.Array:
    """[2 size, size]: how much of each pixel is in each of twice as many, end on end."""
    places = np.linspace(0, size - 1, 2 * size)
    distances = np.abs(places[:, None] - np.arange(size))
    return jnp.asarray(np.maximum(1 - distances, 0), dtype)


@jax.custom_vjp
def upconvolve(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Transposed convolution: [N, H, W, C] * [a, b, C, F] -> [N, a H, b W, F], of strides a, b.

    Its windows do not overlap, so it is one matrix product for each pixel, whose results are laid
    out as a block; on CPU XLA's weight gradient of the convolution is slow. On TPU it is the
    laying out that costs: there, only the gradient is taken of the matrix product.
    """
    return jax.lax.platform_dependent(x, kernel, tpu=_as_convolution, default=_as_blocks)


def _as_blocks(x: jax.Array, kernel: jax.Array) -> jax.Array:
    n, h, w, _ = x.shape
    rows, columns, _, features = kernel.shape
    # A transposed convolution lays its kernel down mirrored, as `nn.ConvTranspose` does.
    blocks = jnp.tensordot(x, kernel[::-1, ::-1], (3, 2)).swapaxes(2, 3)  # [N, H, a, W, b, F]
    return blocks.reshape(n, rows * h, columns * w, features)


def _as_convolution(x: jax.Array, kernel: jax.Array) -> jax.Array:
    layout = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_transpose(x, kernel, kernel.shape[:2], "VALID", dimension_numbers=layout)


upconvolve.defvjp(
    lambda x, kernel: (upconvolve(x, kernel), (x, kernel)),
    lambda inputs, gradient: jax.vjp(_as_blocks, *inputs)[1](gradient),
)


class UpConv(nn.Module):
    """2x2 transposed convolution with stride 2: [N, H, W, C] -> [N, 2H, 2W, features].

    Equal to `nn.ConvTranspose(features, (2, 2), (2, 2))`, with its parameters.
    """

    features: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (2, 2, x.shape[-1], self.features)
        # Each output pixel sees one input pixel, so the 2x2 positions are no part of the fan-in.
        init = nn.initializers.lecun_normal(batch_axis=(0, 1))
        kernel = self.param("kernel", init, shape)
        bias = self.param("bias", nn.initializers.zeros_init(), (self.features,))
        x, kernel, bias = nn.dtypes.promote_dtype(x, kernel, bias, dtype=self.dtype)
        return upconvolve(x, kernel) + bias


class BatchNorm(nn.Module):
    """Batch normalisation over every axis but the last (Ioffe, Szegedy, 2015).

    Equal to `nn.BatchNorm(not train, momentum=0.9, axis_name="batch")` in value, gradients and
    variables, but applied as one scale and one shift of each channel: on CPU XLA would keep the
    difference from the mean as an array of its own. While training, statistics are those of the
    batch over all devices (see `reductions.mean`), and the running ones move a tenth of the way to
    them.

    `pixels` of a row may stand side by side in the last axis (see pairs.py), and `outside` of each
    row be zeros that are none of the image's.
    """

    dtype: jnp.dtype = jnp.float32
    pixels: int = 1
    outside: int = 0

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        channels = (x.shape[-1] // self.pixels,)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, channels)
        running_var = self.variable("batch_stats", "var", jnp.ones, channels)
        scale = self.param("scale", nn.initializers.ones_init(), channels)
        bias = self.param("bias", nn.initializers.zeros_init(), channels)
        x = x.astype(jnp.float32)
        mean, var = running_mean.value, running_var.value
        if train:
            axes = tuple(range(x.ndim - 1))
            moments = jnp.stack([x.mean(axes), jnp.square(x).mean(axes)])
            if self.pixels > 1:
                width = self.pixels * x.shape[-2]
                moments = moments.reshape(2, self.pixels, -1).mean(1)
                moments *= width / (width - self.outside)
            moments = reductions.mean(moments)
            mean, var = moments[0], jnp.maximum(moments[1] - moments[0] ** 2, 0)
            if not self.is_initializing():
                running_mean.value = 0.9 * running_mean.value + 0.1 * mean
                running_var.value = 0.9 * running_var.value + 0.1 * var
        factor = scale * jax.lax.rsqrt(var + 1e-5)
        factor, shift = (jnp.tile(a, self.pixels) for a in (factor, bias - mean * factor))
        return (x * factor + shift).astype(self.dtype)


class Norm(nn.Module):
    """Batch or group normalisation, or nothing. Statistics and parameters are float32."""

    kind: str
    dtype: jnp.dtype = jnp.float32
    pixels: int = 1  # of BatchNorm, as `outside`
    outside: int = 0

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        if self.kind == "batch":
            return BatchNorm(self.dtype, self.pixels, self.outside)(x, train)
        if self.kind == "group":
            return nn.GroupNorm(math.gcd(32, x.shape[-1]), dtype=self.dtype)(x)
        return x


class ConvBlock(nn.Module):
    """Two times 3x3 convolution -> norm -> ReLU: [N, H, W, C] -> [N, H, W, features].

    The first convolution has `middle` channels (default: `features`). A convolution that a norm
    follows has no bias: the norm would take it out again, leaving only rounding noise in its
    gradient. With `padding="valid"` each convolution takes a pixel off every side, so that the
    result is [N, H - 4, W - 4, features].
    """

    features: int
    middle: int | None = None
    norm: str = "batch"
    padding: str = "same"
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        for features in (self.middle or self.features, self.features):
            x = nn.Conv(
                features,
                (3, 3),
                padding=1 if self.padding == "same" else 0,
                use_bias=self.norm == "none",
                kernel_init=nn.initializers.he_normal(),
                dtype=self.dtype,
                conv_general_dilated=convolve,
            )(x)
            x = nn.relu(Norm(self.norm, self.dtype)(x, train))
        return x
