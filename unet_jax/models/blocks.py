"""Layers that several segmentation networks use."""

import contextlib
import functools
import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from unet_jax.distributed import reductions
from unet_jax.models.kernels.convolution import convolve

NORMS = ("batch", "group", "none")


@jax.custom_vjp
def max_pool(x: jax.Array) -> jax.Array:
    """Applies 2x2 max-pooling with stride 2: [N, H, W, C] -> [N, H/2, W/2, C].

    Values (except for NaN) and gradients are equal to those of `nn.max_pool`: the first of several
    equal maxima, in row order, receives the whole gradient, as in PyTorch. The implementation
    compares the four strided slices, because XLA's scatter for the gradient of a window maximum is
    slow on CPU. For the gradient it keeps one byte for each maximum.

    Args:
      x: [N, H, W, C], H and W even.

    Returns:
      The maxima, [N, H/2, W/2, C].
    """
    return max_pool_with_indices(x)[0]


def max_pool_with_indices(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Applies `max_pool` and returns the positions of the maxima as well.

    Args:
      x: [N, H, W, C], H and W even.

    Returns:
      The maxima, and the position of each in its 2x2 window: 0 to 3, in row order, int8. Both are
      [N, H/2, W/2, C].
    """
    top_left, top_right, bottom_left, bottom_right = window_pixels(x)
    top_index, bottom_index = top_right > top_left, bottom_right > bottom_left
    top = jnp.where(top_index, top_right, top_left)
    bottom = jnp.where(bottom_index, bottom_right, bottom_left)
    lower = bottom > top
    index = jnp.where(lower, 2 + bottom_index.astype(jnp.int8), top_index.astype(jnp.int8))
    return jnp.where(lower, bottom, top), index


def window_pixels(x: jax.Array) -> list[jax.Array]:
    """Returns the four pixels of each 2x2 window, in row order.

    Args:
      x: [N, H, W, C], H and W even.

    Returns:
      Four arrays, each [N, H/2, W/2, C].
    """
    # With the symbolic sizes of an export, `x[:, ::2]` would be a gather.
    starts = [(0, row, column, 0) for row in (0, 1) for column in (0, 1)]
    return [jax.lax.slice(x, start, x.shape, (1, 2, 2, 1)) for start in starts]


def max_unpool(x: jax.Array, index: jax.Array) -> jax.Array:
    """Unpools values to the positions of the maxima, as PyTorch's `max_unpool2d`.

    The windows do not overlap, so no scatter is needed.

    Args:
      x: the values, [N, H, W, C].
      index: position of each value in its 2x2 window, from `max_pool_with_indices`.

    Returns:
      [N, 2H, 2W, C]; the other three pixels of each window are zero.
    """
    n, h, w, c = x.shape
    place = jnp.arange(4, dtype=index.dtype).reshape(2, 1, 2, 1)
    spread = (slice(None), slice(None), None, slice(None), None)
    blocks = jnp.where(index[spread] == place, x[spread], 0)  # [N, H, 2, W, 2, C]
    return blocks.reshape(n, 2 * h, 2 * w, c)


max_pool.defvjp(max_pool_with_indices, lambda index, gradient: (max_unpool(gradient, index),))


def pad_to_multiple(x: jax.Array, multiple: int) -> jax.Array:
    """Pads [N, H, W, C] with zeros at the bottom and the right, to multiples of `multiple`."""
    # In an export with symbolic sizes, JAX cannot infer enough about the size from
    # `-size % multiple`.
    edges = [(0, (size + multiple - 1) // multiple * multiple - size) for size in x.shape[1:3]]
    return jnp.pad(x, ((0, 0), *edges, (0, 0)))


def mirror(x: jax.Array, before: int, height: int, width: int) -> jax.Array:
    """Pads images by reflection at the edges, without repeating the edge pixels.

    An image that is smaller than its margin is reflected several times.

    Args:
      x: [N, H, W, C].
      before: padding at the top and at the left, pixels.
      height: height of the result; the rest of the padding is at the bottom.
      width: width of the result; the rest of the padding is at the right.

    Returns:
      [N, height, width, C].
    """

    # Rows and columns are gathered by index, because nested reflections are slow to compile.
    def numbers(count: int, length: int) -> jax.Array:
        places = jnp.mod(jnp.arange(count) - before, jnp.maximum(2 * (length - 1), 1))
        return jnp.minimum(places, 2 * (length - 1) - places)

    rows, columns = numbers(height, x.shape[1]), numbers(width, x.shape[2])
    return jnp.take(jnp.take(x, rows, axis=1), columns, axis=2)


def float32_logits(head: Callable[[jax.Array], jax.Array], x: jax.Array) -> jax.Array:
    """Computes the last layer in float32.

    In bfloat16, whose mantissa has 8 bits, probabilities would be coarser than the bins in which
    they are counted (`metrics.calibration.BINS`). GPU and TPU also round the factors of float32
    products to fewer bits by default, so this function requests the highest precision.

    Args:
      head: the last layer.
      x: its input [N, H, W, C], of any float type.

    Returns:
      The layer's output, float32.
    """
    with jax.default_matmul_precision("highest"):
        return head(x.astype(jnp.float32))


def crop_to(x: jax.Array, like: jax.Array) -> jax.Array:
    """Returns the centre of x [N, H, W, C] at the height and width of another array, `like`."""
    height, width = like.shape[1:3]
    top, left = (x.shape[1] - height) // 2, (x.shape[2] - width) // 2
    return x[:, top : top + height, left : left + width]


def resize_double(x: jax.Array, method: str) -> jax.Array:
    """Doubles height and width: [N, H, W, C] -> [N, 2H, 2W, C].

    Args:
      x: [N, H, W, C].
      method: `nearest` or `bilinear`, with half-pixel centres, or `bilinear_corners`, which aligns
        the centres of the corner pixels (PyTorch's `align_corners=True`).

    Returns:
      [N, 2H, 2W, C].
    """
    n, h, w, c = x.shape
    if method == "bilinear_corners":
        rows, columns = (_corner_weights(size, x.dtype) for size in (h, w))
        # Accelerators compute products with low precision by default; `jax.image.resize` does not.
        einsum = functools.partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)
        return einsum("qw,npwc->npqc", columns, einsum("ph,nhwc->npwc", rows, x))
    return jax.image.resize(x, (n, 2 * h, 2 * w, c), method)


def _corner_weights(size: Any, dtype: jnp.dtype) -> jax.Array:
    """Returns the matrix that doubles an axis bilinearly with aligned corners: [2 size, size]."""
    lib: Any = np if isinstance(size, int) else jnp  # jnp for the symbolic sizes of an export
    # Pixel i is at i (size - 1) / (2 size - 1), whose whole part and rest are computed exactly.
    steps, last = lib.arange(2 * size)[:, None] * (size - 1), 2 * size - 1
    before = steps // last
    share, pixels = (steps - before * last) / last, lib.arange(size)
    weights = lib.where(pixels == before, 1 - share, 0) + lib.where(pixels == before + 1, share, 0)
    return jnp.asarray(weights, dtype)


@jax.custom_vjp
def upconvolve(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Applies a transposed convolution whose strides are the size of its kernel.

    The windows do not overlap, so each pixel needs one matrix product, whose results form a block
    of the output. This form is used because XLA's weight gradient of the convolution is slow on
    CPU. On TPU the rearrangement into blocks is slow, so there only the gradient uses this form.

    Args:
      x: [N, H, W, C].
      kernel: [a, b, C, F], for strides a and b.

    Returns:
      [N, a H, b W, F].
    """
    return jax.lax.platform_dependent(x, kernel, tpu=_as_convolution, default=_as_blocks)


def _as_blocks(x: jax.Array, kernel: jax.Array) -> jax.Array:
    n, h, w, _ = x.shape
    rows, columns, _, features = kernel.shape
    # The kernel of a transposed convolution is flipped, as in `nn.ConvTranspose`.
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

    It has the parameters and the values of `nn.ConvTranspose(features, (2, 2), (2, 2))`.
    """

    features: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (2, 2, x.shape[-1], self.features)
        # Each output pixel depends on one input pixel, so the fan-in excludes the 2x2 positions.
        init = nn.initializers.lecun_normal(batch_axis=(0, 1))
        kernel = self.param("kernel", init, shape)
        bias = self.param("bias", nn.initializers.zeros_init(), (self.features,))
        x, kernel, bias = nn.dtypes.promote_dtype(x, kernel, bias, dtype=self.dtype)
        return upconvolve(x, kernel) + bias


class BatchNorm(nn.Module):
    """Batch normalisation over every axis but the last (Ioffe, Szegedy, 2015).

    Values, gradients and variables are equal to those of
    `nn.BatchNorm(not train, momentum=0.9, axis_name="batch")`. It is applied as one scale and one
    shift of each channel, because on CPU XLA would otherwise store the difference from the mean as
    a separate array. In training the statistics are those of the batch over all devices (see
    `reductions.mean`), and the running statistics are updated with momentum 0.9.

    Attributes:
      dtype: type of the result.
      pixels: number of neighbouring pixels of a row that are stored in the last axis, as channels
        (see `kernels.pixel_pairs`).
      outside: number of pixels in each row that are zeros outside the image; the statistics exclude
        them.
      epsilon: added to the variance.
    """

    dtype: jnp.dtype = jnp.float32
    pixels: int = 1
    outside: int = 0
    epsilon: float = 1e-5

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
        factor = scale * jax.lax.rsqrt(var + self.epsilon)
        factor, shift = (jnp.tile(a, self.pixels) for a in (factor, bias - mean * factor))
        return (x * factor + shift).astype(self.dtype)


def frozen_norms(modules: tuple[str, ...]) -> contextlib.AbstractContextManager:
    """Context manager in which `BatchNorm` layers use and keep their running statistics.

    They do so in training, too.

    Args:
      modules: beginnings of the names of the top-level modules whose layers these are; "" selects
        all modules.
    """

    def intercept(
        call: Callable, args: tuple, kwargs: dict[str, Any], context: nn.module.InterceptorContext
    ) -> Any:
        norm = context.module
        if isinstance(norm, BatchNorm) and norm.path[0].startswith(modules):
            return call(args[0], train=False)
        return call(*args, **kwargs)

    return nn.intercept_methods(intercept)


class Norm(nn.Module):
    """Batch or group normalisation, or the identity. Statistics and parameters are float32.

    Attributes:
      kind: one of `NORMS`.
      dtype: type of the result.
      pixels: see `BatchNorm`.
      outside: see `BatchNorm`.
    """

    kind: str
    dtype: jnp.dtype = jnp.float32
    pixels: int = 1
    outside: int = 0

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        if self.kind == "batch":
            return BatchNorm(self.dtype, self.pixels, self.outside)(x, train)
        if self.kind == "group":
            return nn.GroupNorm(math.gcd(32, x.shape[-1]), dtype=self.dtype)(x)
        return x


def convolution_of(module: nn.Module) -> Callable | None:
    """Returns `conv_general_dilated` for the 3x3 `nn.Conv` of a module.

    It is the library's (None) while the module is initialised: the initial parameters do not depend
    on it, and it is traced sooner.
    """
    return None if module.is_initializing() else convolve


class ConvBlock(nn.Module):
    """3x3 convolution, norm and ReLU, twice: [N, H, W, C] -> [N, H, W, features].

    A convolution before a norm has no bias: the norm would cancel it, and its gradient would be
    rounding noise. With `padding="valid"` each convolution removes one pixel on every side, so that
    the result is [N, H - 4, W - 4, features].

    Attributes:
      features: channels of the result.
      middle: channels of the first convolution; by default `features`.
      norm: one of `NORMS`.
      padding: `same` or `valid`.
      dtype: arithmetic of the layers.
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
                conv_general_dilated=convolution_of(self),
            )(x)
            x = nn.relu(Norm(self.norm, self.dtype)(x, train))
        return x
