"""Rematerialisation: a gradient that recomputes activations instead of keeping them."""

from collections.abc import Callable
from typing import TypeVar

import flax.linen as nn
import jax

T = TypeVar("T")


def recomputed(
    layers: Callable[..., T], module: nn.Module, *inputs: jax.Array | None, remat: bool
) -> T:
    """Applies layers of a module, with rematerialisation of their results if `remat`.

    The gradient then keeps the inputs of the layers, and computes everything between them and the
    result again. Parameters and results are the same with and without.

    Args:
      layers: function of the module and the inputs. It creates submodules with names, of the module
        that it is given: with rematerialisation, that is a copy.
      module: the module.
      *inputs: arrays.
      remat: whether to recompute. It should be False where no gradient is computed, because it adds
        an operation to the program, which exchange formats need not support.
    """
    return (nn.remat(layers) if remat else layers)(module, *inputs)


def apply_block(
    _: nn.Module, *inputs: jax.Array | None, block: Callable[[], nn.Module], train: bool
) -> jax.Array:
    """Creates a block of the current module and applies it; for `recomputed`."""
    return block()(*inputs, train)
