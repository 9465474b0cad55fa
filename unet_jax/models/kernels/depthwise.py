"""Depthwise convolution, optimised for CPU.

On CPU, XLA computes it with scalar loops over each channel. Here it is a sum of shifted images, one
for each position of the kernel, which vectorises over the channels.
"""

from functools import partial

import jax
import jax.numpy as jnp

LAYOUT = ("NHWC", "HWIO", "NHWC")


def convolve(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """Convolves each channel by itself, with zero padding to the size of the input / stride.

    Values and gradients differ from `jax.lax.conv_general_dilated` with as many feature groups as
    channels by rounding only. With stride 2, the padding at the bottom and the right is a pixel
    larger than that at the top and the left, as TensorFlow's is for even sizes.

    Args:
      x: [N, H, W, C]; H and W are multiples of the stride.
      kernel: [k, k, 1, C], k odd.
      stride: 1 or 2.

    Returns:
      [N, H / stride, W / stride, C].
    """
    return _convolve(x, kernel, stride)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _convolve(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    on_cpu, elsewhere = partial(_shifted_sum, stride=stride), partial(_plain, stride=stride)
    return jax.lax.platform_dependent(x, kernel, cpu=on_cpu, default=elsewhere)


def _forward(x: jax.Array, kernel: jax.Array, stride: int) -> tuple[jax.Array, tuple]:
    return _convolve(x, kernel, stride), (x, kernel)


def _backward(stride: int, residuals: tuple, gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, kernel = residuals

    def plain(x: jax.Array, kernel: jax.Array, gradient: jax.Array) -> tuple:
        to_x = jax.linear_transpose(lambda x: _plain(x, kernel, stride), x)
        to_kernel = jax.linear_transpose(lambda kernel: _plain(x, kernel, stride), kernel)
        return *to_x(gradient), *to_kernel(gradient)

    def shifted(x: jax.Array, kernel: jax.Array, gradient: jax.Array) -> tuple:
        size = kernel.shape[0]
        return (
            _input_gradient(gradient, kernel, stride),
            _weight_gradient(x, gradient, size, stride).astype(kernel.dtype),
        )

    return jax.lax.platform_dependent(x, kernel, gradient, cpu=shifted, default=plain)


_convolve.defvjp(_forward, _backward)


def _margins(size: int, stride: int) -> tuple[int, int]:
    """Returns the padding before and after, pixels."""
    return (size - stride) // 2, (size - stride + 1) // 2


def _plain(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    padding = (_margins(kernel.shape[0], stride),) * 2
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        padding,
        dimension_numbers=LAYOUT,
        feature_group_count=x.shape[-1],
    )


def _pad(x: jax.Array, before: int, after: int) -> jax.Array:
    return jnp.pad(x, ((0, 0), (before, after), (before, after), (0, 0)))


def _shifted_sum(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    size, (height, width) = kernel.shape[0], x.shape[1:3]
    padded = _pad(x, *_margins(size, stride))
    total = jnp.zeros((), x.dtype)
    for i in range(size):
        for j in range(size):
            rows, columns = slice(i, i + height, stride), slice(j, j + width, stride)
            total += padded[:, rows, columns] * kernel[i, j, 0]
    return total


def _input_gradient(gradient: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """Computes the gradient of the input: for each of its phases the convolution of the taps.

    With stride 2, the even rows of the input and the odd ones (its phases) depend on different rows
    of the kernel; the same is true of the columns.
    """
    size, (height, width) = kernel.shape[0], gradient.shape[1:3]
    before, _ = _margins(size, stride)
    padded = _pad(gradient, size, size)

    def taps(phase: int) -> list[tuple[int, int]]:
        """Returns the rows of the kernel that reach a phase, and their offsets."""
        offsets = [(row, phase + before - row) for row in range(size)]
        return [(row, size + at // stride) for row, at in offsets if at % stride == 0]

    rows = []
    for row_phase in range(stride):
        columns = []
        for column_phase in range(stride):
            total = jnp.zeros((), gradient.dtype)
            for i, top in taps(row_phase):
                for j, left in taps(column_phase):
                    moved = padded[:, top : top + height, left : left + width]
                    total += moved * kernel[i, j, 0]
            columns.append(total)
        rows.append(jnp.stack(columns, 3))  # [N, H, W, stride, C]
    phases = jnp.stack(rows, 2)  # [N, H, stride, W, stride, C]
    return phases.reshape(-1, stride * height, stride * width, gradient.shape[-1])


def _weight_gradient(x: jax.Array, gradient: jax.Array, size: int, stride: int) -> jax.Array:
    """Computes the gradient of the kernel, [k, k, 1, C], row by row of the images.

    The sums over a row's pixels are postponed to the end, so that all sums vectorise over the row
    and the channels.
    """
    count, height, width, channels = gradient.shape
    padded = _pad(x, *_margins(size, stride))
    reach = (width - 1) * stride + 1  # pixels of a row that one column of the kernel sees

    def add_row(number: jax.Array, sums: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        image, row = number // height, number % height
        shape = (1, size, padded.shape[2], channels)
        seen = jax.lax.dynamic_slice(padded, (image, row * stride, 0, 0), shape)[0]
        at = jax.lax.dynamic_slice(gradient, (image, row, 0, 0), (1, 1, width, channels))[0, 0]
        return tuple(
            total + seen[:, column : column + reach : stride] * at  # [k, W, C]
            for column, total in enumerate(sums)
        )

    zeros = jnp.zeros((size, width, channels), jnp.float32)
    sums = jax.lax.fori_loop(0, count * height, add_row, (zeros,) * size)
    return jnp.stack([total.sum(1) for total in sums], 1)[:, :, None]
