"""How large a network is, found from shapes alone: nothing is computed and no memory is taken."""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from unet_jax.core.errors import UserError
from unet_jax.distributed import memory

GIB = 2**30
PARAMETER_BYTES = 4  # float32
COPIES = 2  # of the parameters: the initial ones, and those restored or placed on a device


class Size(NamedTuple):
    """Of a network that sees one image of a given side."""

    parameters: int
    activations: int  # bytes of the outputs of all convolutions, which a gradient needs at once
    largest: int  # bytes of the largest of them, which a forward pass needs


def measure(model: nn.Module, channels: int, side: int) -> Size:
    """The size of a network that sees an image of side x side pixels."""

    def init(key: jax.Array, image: jax.Array) -> Any:
        return model.init(key, image, capture_intermediates=_is_convolution, mutable=True)

    image = jax.ShapeDtypeStruct((1, side, side, channels), jnp.float32)
    shapes = jax.eval_shape(init, jax.random.key(0, impl="rbg"), image)
    outputs = [x.size * x.dtype.itemsize for x in jax.tree.leaves(shapes["intermediates"])]
    parameters = sum(x.size for x in jax.tree.leaves(shapes["params"]))
    return Size(parameters, sum(outputs), max(outputs, default=0))


def check_parameters(parameters: int) -> None:
    """Raises a `UserError` where not even the parameters fit into this machine's memory."""
    needed, room = COPIES * PARAMETER_BYTES * parameters, memory.host_memory()
    if needed > room:
        raise UserError(
            f"the network has {parameters:.3g} parameters, which take {needed / GIB:.3g} GiB, but "
            f"this machine has {room / GIB:.3g} GiB of memory; lower model.width or model.depth"
        )


def _is_convolution(module: nn.Module, _: str) -> bool:
    return isinstance(module, nn.Conv)
