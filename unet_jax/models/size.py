"""The size of a network, computed from shapes only: no array is allocated."""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from unet_jax.core.errors import UserError
from unet_jax.distributed import memory

GIB = 2**30
PARAMETER_BYTES = 4  # float32
COPIES = 2  # copies of the parameters: the initial ones, and those restored or put on a device


class Size(NamedTuple):
    """The size of a network with one input image."""

    parameters: int
    activations: int  # bytes of the outputs of all convolutions, which a gradient needs together
    largest: int  # bytes of the largest of them, which a forward pass needs


def measure(model: nn.Module, channels: int, side: int) -> Size:
    """Measures a network.

    Args:
      model: the network.
      channels: channels of the input image.
      side: side of the square input image, pixels.

    Returns:
      Its parameters and the memory of its activations for one image.
    """

    def init(key: jax.Array, image: jax.Array) -> Any:
        return model.init(key, image, capture_intermediates=_is_convolution, mutable=True)

    image = jax.ShapeDtypeStruct((1, side, side, channels), jnp.float32)
    shapes = jax.eval_shape(init, jax.random.key(0, impl="rbg"), image)
    outputs = [x.size * x.dtype.itemsize for x in jax.tree.leaves(shapes["intermediates"])]
    parameters = sum(x.size for x in jax.tree.leaves(shapes["params"]))
    return Size(parameters, sum(outputs), max(outputs, default=0))


def check_parameters(parameters: int) -> None:
    """Checks that the parameters fit into this machine's memory.

    Args:
      parameters: their number.

    Raises:
      UserError: they do not fit.
    """
    needed, room = COPIES * PARAMETER_BYTES * parameters, memory.host_memory()
    if needed > room:
        raise UserError(
            f"the network has {parameters:.3g} parameters, which take {needed / GIB:.3g} GiB, but "
            f"this machine has {room / GIB:.3g} GiB of memory; lower model.width or model.depth"
        )


def _is_convolution(module: nn.Module, _: str) -> bool:
    return isinstance(module, nn.Conv)
