"""3x3 convolution of few channels, for CPU.

XLA on CPU hands a convolution to its fast library only where it has more than 16 channels in or
out; of a weight gradient it is the images of the batch that count as channels in. The others run
at a third of the speed (forward) to a tenth (weight gradient). Here two neighbours in a row are
computed as one pixel of twice the channels, from the 3x4 pixels that they see: a third more
arithmetic, for the fast library.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

FEW = 16  # channels that are too few for XLA's fast library on CPU
LAYOUT = ("NHWC", "HWIO", "NHWC")


def convolve(
    x: jax.Array, kernel: jax.Array, strides: Sequence[int], padding: Any, **options: Any
) -> jax.Array:
    """`jax.lax.conv_general_dilated` as `nn.Conv` calls it, for 3x3 kernels and stride 1.

    [N, H, W, C] * [3, 3, C, F]; `padding`, 0 or 1, is ((p, p), (p, p)). Equal to it in value and
    gradients but for rounding, and no other than it except on CPU for 9 to 16 channels F and an
    even width of the result: with fewer channels even two pixels have too few.
    """
    margin = padding[0][0]
    if not FEW // 2 < kernel.shape[-1] <= FEW or (x.shape[2] + 2 * margin) % 2:
        return jax.lax.conv_general_dilated(x, kernel, strides, padding, **options)
    return _convolve(x, kernel, margin)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _convolve(x: jax.Array, kernel: jax.Array, margin: int) -> jax.Array:
    if kernel.shape[2] > FEW:
        return _plain(x, kernel, margin)
    pairs, plain = partial(_pairs, margin=margin), partial(_plain, margin=margin)
    return jax.lax.platform_dependent(x, kernel, cpu=pairs, default=plain)


def _forward(x: jax.Array, kernel: jax.Array, margin: int) -> tuple[jax.Array, tuple]:
    return _convolve(x, kernel, margin), (x, kernel)


def _backward(margin: int, residuals: tuple, gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, kernel = residuals
    # Each input pixel was seen by 3x3 output pixels, in the opposite order.
    opposite = kernel[::-1, ::-1].swapaxes(2, 3)
    to_x = (_convolve if x.shape[-1] <= FEW else _plain)(gradient, opposite, 2 - margin)

    def to_kernel(convolution: Any, x: jax.Array, gradient: jax.Array) -> jax.Array:
        (result,) = jax.linear_transpose(lambda k: convolution(x, k, margin), kernel)(gradient)
        return result

    pairs, plain = partial(to_kernel, _pairs), partial(to_kernel, _plain)
    return to_x, jax.lax.platform_dependent(x, gradient, cpu=pairs, default=plain)


_convolve.defvjp(_forward, _backward)


def _plain(x: jax.Array, kernel: jax.Array, margin: int) -> jax.Array:
    padding = ((margin, margin),) * 2
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), padding, dimension_numbers=LAYOUT)


def _pairs(x: jax.Array, kernel: jax.Array, margin: int) -> jax.Array:
    """The convolution with stride 2 along rows, for both pixels of each pair at once."""
    left, right = (
        jnp.pad(kernel, ((0, 0), columns, (0, 0), (0, 0))) for columns in ((0, 1), (1, 0))
    )
    both = jnp.concatenate([left, right], axis=-1)  # [3, 4, C, 2F]
    padding = ((margin, margin),) * 2
    y = jax.lax.conv_general_dilated(x, both, (1, 2), padding, dimension_numbers=LAYOUT)
    return y.reshape(*y.shape[:2], 2 * y.shape[2], kernel.shape[-1])
