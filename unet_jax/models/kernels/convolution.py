"""3x3 convolution in the ways in which it is fast on CPU.

XLA on CPU hands a convolution to its fast library only where it has more than 16 channels in or
out; of a weight gradient it is the images of the batch that count as channels in. The others run
at a third of the speed (forward) to a tenth (weight gradient). Where there are few channels, two
neighbours in a row are computed as one pixel of twice the channels, from the 3x4 pixels that they
see: a third more arithmetic, for the fast library. Where there are many, Winograd's way needs 4/9
of the arithmetic and is up to twice as fast.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from unet_jax.models.kernels import winograd

FEW = 16  # channels that are too few for XLA's fast library on CPU
LAYOUT = ("NHWC", "HWIO", "NHWC")
Operation = Callable[..., jax.Array]  # of two arrays and a margin


def convolve(
    x: jax.Array, kernel: jax.Array, strides: Sequence[int], padding: Any, **options: Any
) -> jax.Array:
    """`jax.lax.conv_general_dilated` as `nn.Conv` calls it, for 3x3 kernels and stride 1.

    [N, H, W, C] * [3, 3, C, F]; `padding`, 0 or 1, is ((p, p), (p, p)). Equal to it in value and
    gradients but for rounding, and no other than it except on CPU: in pairs for 9 to 16 channels
    F and an even width of the result (with fewer channels even two pixels have too few), and as
    `winograd.pays` says.
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
    """How the CPU computes the convolution, if not as XLA has it, gradients included."""
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
    """The convolution with stride 2 along rows, for both pixels of each pair at once."""
    left, right = (
        jnp.pad(kernel, ((0, 0), columns, (0, 0), (0, 0))) for columns in ((0, 1), (1, 0))
    )
    both = jnp.concatenate([left, right], axis=-1)  # [3, 4, C, 2F]
    padding = ((margin, margin),) * 2
    y = jax.lax.conv_general_dilated(x, both, (1, 2), padding, dimension_numbers=LAYOUT)
    return y.reshape(*y.shape[:2], 2 * y.shape[2], kernel.shape[-1])


def _pairs_to_x(gradient: jax.Array, kernel: jax.Array, margin: int) -> jax.Array:
    # Each input pixel was seen by 3x3 output pixels, in the opposite order.
    opposite = kernel[::-1, ::-1].swapaxes(2, 3)
    few = kernel.shape[2] <= FEW
    return (_pairs if few else _plain)(gradient, opposite, 2 - margin)
