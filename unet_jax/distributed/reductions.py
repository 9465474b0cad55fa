"""Sums and means over all devices, as a training step needs them.

Outside the axis that devices.py maps, as in a notebook or under plain `jit`, the step is the only
device's: sums and means over the devices are those of this one.
"""

from typing import Any

import jax
import jax.numpy as jnp

AXIS = "batch"


def total(x: jax.Array) -> jax.Array:
    """The sum of all elements on all devices."""
    return jax.lax.psum(jnp.sum(x), AXIS) if is_mapped() else jnp.sum(x)


def mean(tree: Any) -> Any:
    """Each leaf's mean over the devices."""
    return jax.lax.pmean(tree, AXIS) if is_mapped() else tree


def fold_in_device(key: jax.Array) -> jax.Array:
    """A key of this device's own: the index is folded in, 0 for the only one."""
    return jax.random.fold_in(key, jax.lax.axis_index(AXIS) if is_mapped() else 0)


def is_mapped() -> bool:
    """Whether the code that is being traced runs on the devices of a `pmap` of this module."""
    try:
        jax.lax.axis_size(AXIS)
    except NameError:  # the documented way in which JAX says that no such axis is bound
        return False
    return True
