"""3x3 convolution, optimised for CPU.

On CPU, XLA uses its fast library only for convolutions with more than 16 input or output channels;
in a weight gradient, the images of the batch take the role of the input channels. Other
convolutions run at a third (forward) to a tenth (weight gradient) of the speed. Two methods help:

- With few channels, two neighbouring pixels of a row are computed as one pixel of twice the
  channels, from their common 3x4 neighbourhood. This needs a third more arithmetic, but the fast
  library applies.
- With many channels, Winograd's algorithm needs 4/9 of the arithmetic and is up to twice as fast.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from unet_jax.models.kernels import winograd

FEW = 16  # largest number of channels for which XLA does not use its fast library on CPU
LAYOUT = ("NHWC", "HWIO", "NHWC")
Operation = Callable[..., jax.Array]  # (array, array, margin) -> array


def convolve(
    x: jax.Array, kernel: jax.Array, strides: Sequence[int], padding: Any, **options: Any
) -> jax.Array:
    """Computes a 3x3 convolution; replaces `jax.lax.conv_general_dilated` in `nn.Conv`.

    Values and gradients differ from it by rounding only. Except on CPU, it is that function. On CPU
    it uses Winograd's algorithm if `winograd.pays` returns true, and otherwise pairs of pixels if
    F is 9 to 16 and the result has an even width. With fewer channels a pair would still have too
    few for the fast library.

    Args:
      x: [N, H, W, C].
      kernel: [3, 3, C, F].
      strides: must be 1.
      padding: ((p, p), (p, p)), where p is 0 or 1.
      **options: further arguments of `jax.lax.conv_general_dilated`.

    Returns:
      [N, H - 2 + 2 p, W - 2 + 2 p, F].
    """
    margin = padding[0][0]
    if _cpu_forward(x, kernel, margin) is None:
        return jax.lax.conv_general_dilated(x, kernel, strides, padding, **options)
    return _convolve(x, kernel, margin)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _convolve(x: jax.Array, kernel: jax.Array, margin: int) -> jax.Array:
    return _per_platform(_cpu_forward(x, kernel, margin), _plain, x, kernel, margin)


def _forward(x: jax.Array, kernel: jax.Array, margin: int) -> tuple[jax.Array, tuple]:
    return _convolve(x, kernel, margin), (x, kernel)


def _backward(margin: int, residuals: tuple, gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, kernel = residuals

    def plain_to_x(gradient: jax.Array, kernel: jax.Array, margin: int) -> jax.Array:
        return jax.linear_transpose(lambda x: _plain(x, kernel, margin), x)(gradient)[0]

    def to_kernel(
        convolution: Operation, x: jax.Array, gradient: jax.Array, margin: int
    ) -> jax.Array:
        return jax.linear_transpose(lambda k: convolution(x, k, margin), kernel)(gradient)[0]

    if winograd.pays(x.shape, kernel.shape, margin, x.dtype):
        cpu_to_x, cpu_to_kernel = winograd.input_gradient, winograd.weight_gradient
    else:
        cpu_to_x, cpu_to_kernel = _pairs_to_x, partial(to_kernel, _pairs)
    return (
        _per_platform(cpu_to_x, plain_to_x, gradient, kernel, margin),
        _per_platform(cpu_to_kernel, partial(to_kernel, _plain), x, gradient, margin),
    )


_convolve.defvjp(_forward, _backward)


def _cpu_forward(x: jax.Array, kernel: jax.Array, margin: int) -> Operation | None:
    """Chooses the forward convolution on CPU.

    None means XLA's convolution, also for the gradients. `_plain` means XLA's convolution with an
    optimised weight gradient.
    """
    if winograd.pays(x.shape, kernel.shape, margin, x.dtype):
        return winograd.convolve
    if FEW // 2 < kernel.shape[3] <= FEW and (x.shape[2] + 2 * margin) % 2 == 0:
        return _pairs if kernel.shape[2] <= FEW else _plain
    return None


def _per_platform(
    cpu: Operation | None, default: Operation, a: jax.Array, b: jax.Array, margin: int
) -> jax.Array:
    if cpu is None or cpu is default:
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


def _pairs_to_x(gradient: jax.Array, kernel: jax.Array, margin: int) -> jax.Array:
    # Each input pixel contributes to 3x3 output pixels, so the gradient is a convolution with the
    # flipped kernel.
    opposite = kernel[::-1, ::-1].swapaxes(2, 3)
    few = kernel.shape[2] <= FEW
    return (_pairs if few else _plain)(gradient, opposite, 2 - margin)
