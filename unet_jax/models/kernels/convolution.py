"""3x3 convolution, optimised for CPU.

On CPU, XLA uses its fast library only for convolutions with more than 16 input or output channels;
in a weight gradient, the images of the batch take the role of the input channels. Other
convolutions run at a third (forward) to a tenth (weight gradient) of the speed. Three methods help:

- With few channels, two neighbouring pixels of a row are computed as one pixel of twice the
  channels, from their common 3x4 neighbourhood. This needs a third more arithmetic, but the fast
  library applies.
- With many channels, Winograd's algorithm needs 4/9 of the arithmetic and is up to twice as fast.
- Other weight gradients are matrix products over blocks of rows (`row_blocks`).
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from unet_jax.models.kernels import row_blocks, winograd

FEW = 16  # largest number of channels for which XLA does not use its fast library on CPU
MANY = 64  # fewest channels for which Winograd's weight gradient is the fastest
LAYOUT = ("NHWC", "HWIO", "NHWC")
Operation = Callable[..., jax.Array]  # (array, array, margin) -> array


def convolve(
    x: jax.Array, kernel: jax.Array, strides: Sequence[int], padding: Any, **options: Any
) -> jax.Array:
    """Computes a 3x3 convolution; replaces `jax.lax.conv_general_dilated` in `nn.Conv`.

    Values and gradients differ from it by rounding only. Except on CPU, it is that function. On CPU
    it uses Winograd's algorithm if `winograd.pays` returns true. Otherwise the convolution and the
    gradient of its input use pairs of pixels if their result has 9 to 16 channels, their input has
    at most 16 and their width is even. With fewer channels a pair would still have too few for the
    fast library.

    Args:
      x: [N, H, W, C].
      kernel: [3, 3, C, F].
      strides: must be 1.
      padding: ((p, p), (p, p)), where p is 0 or 1.
      **options: further arguments of `jax.lax.conv_general_dilated`.

    Returns:
      [N, H - 2 + 2 p, W - 2 + 2 p, F].
    """
    if not all(isinstance(size, int) for size in x.shape):  # the symbolic sizes of an export
        return jax.lax.conv_general_dilated(x, kernel, strides, padding, **options)
    return _convolve(x, kernel, padding[0][0])


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _convolve(x: jax.Array, kernel: jax.Array, margin: int) -> jax.Array:
    return _per_platform(_cpu_forward(x, kernel, margin), _plain, x, kernel, margin)


def _forward(x: jax.Array, kernel: jax.Array, margin: int) -> tuple[jax.Array, tuple]:
    return _convolve(x, kernel, margin), (x, kernel)


def _backward(margin: int, residuals: tuple, gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, kernel = residuals

    def plain_to_x(gradient: jax.Array, kernel: jax.Array, margin: int) -> jax.Array:
        return jax.linear_transpose(lambda x: _plain(x, kernel, margin), x)(gradient)[0]

    def plain_to_kernel(x: jax.Array, gradient: jax.Array, margin: int) -> jax.Array:
        return jax.linear_transpose(lambda k: _plain(x, k, margin), kernel)(gradient)[0]

    cpu_to_x, cpu_to_kernel = _cpu_to_x, row_blocks.weight_gradient
    if winograd.pays(x.shape, kernel.shape, margin, x.dtype):
        cpu_to_x = winograd.input_gradient
        if min(kernel.shape[2:]) >= MANY:
            cpu_to_kernel = winograd.weight_gradient
    return (
        _per_platform(cpu_to_x, plain_to_x, gradient, kernel, margin),
        _per_platform(cpu_to_kernel, plain_to_kernel, x, gradient, margin),
    )


_convolve.defvjp(_forward, _backward)


def _cpu_forward(x: jax.Array, kernel: jax.Array, margin: int) -> Operation:
    """Chooses the forward convolution on CPU."""
    if winograd.pays(x.shape, kernel.shape, margin, x.dtype):
        return winograd.convolve
    return _pairs if _suits_pairs(x, kernel, margin) else _plain


def _cpu_to_x(gradient: jax.Array, kernel: jax.Array, margin: int) -> jax.Array:
    # Each input pixel contributes to 3x3 output pixels, so the gradient is a convolution with the
    # flipped kernel.
    opposite = kernel[::-1, ::-1].swapaxes(2, 3)
    suits = _suits_pairs(gradient, opposite, 2 - margin)
    return (_pairs if suits else _plain)(gradient, opposite, 2 - margin)


def _suits_pairs(x: jax.Array, kernel: jax.Array, margin: int) -> bool:
    channels, features = kernel.shape[2:]
    even = (x.shape[2] + 2 * margin) % 2 == 0
    return even and channels <= FEW and FEW // 2 < features <= FEW


def _per_platform(
    cpu: Operation, default: Operation, a: jax.Array, b: jax.Array, margin: int
) -> jax.Array:
    if cpu is default:
        return default(a, b, margin)
    on_cpu, elsewhere = partial(cpu, margin=margin), partial(default, margin=margin)
    return jax.lax.platform_dependent(a, b, cpu=on_cpu, default=elsewhere)


def _plain(x: jax.Array, kernel: jax.Array, margin: int) -> jax.Array:
    padding = ((margin, margin),) * 2
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), padding, dimension_numbers=LAYOUT)


def _pairs(x: jax.Array, kernel: jax.Array, margin: int) -> jax.Array:
    """Computes both pixels of each pair at once, by a convolution with stride 2 along the rows."""
    left, right = (
        jnp.pad(kernel, ((0, 0), columns, (0, 0), (0, 0))) for columns in ((0, 1), (1, 0))
    )
    both = jnp.concatenate([left, right], axis=-1)  # [3, 4, C, 2F]
    padding = ((margin, margin),) * 2
    y = jax.lax.conv_general_dilated(x, both, (1, 2), padding, dimension_numbers=LAYOUT)
    return y.reshape(*y.shape[:2], 2 * y.shape[2], kernel.shape[-1])
