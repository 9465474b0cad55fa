"""Sums and means over all devices, for use in training steps.

Outside the pmap axis of devices.py, such as in a notebook or under plain `jit`, they reduce over
the current device alone.
"""

from typing import Any

import jax
import jax.numpy as jnp

AXIS = "batch"


def total(x: jax.Array) -> jax.Array:
    """Returns the sum of all elements over all devices."""
    return jax.lax.psum(jnp.sum(x), AXIS) if is_mapped() else jnp.sum(x)


def mean(tree: Any) -> Any:
    """Returns the mean over the devices of each leaf of a pytree."""
    return jax.lax.pmean(tree, AXIS) if is_mapped() else tree


def fold_in_device(key: jax.Array) -> jax.Array:
    """Folds the index of this device into a random key; the index is 0 without a pmap axis."""
    return jax.random.fold_in(key, jax.lax.axis_index(AXIS) if is_mapped() else 0)


def is_mapped() -> bool:
    """Returns whether the code is being traced by a `pmap` of devices.py."""
    try:
        jax.lax.axis_size(AXIS)
    except NameError:  # documented exception of JAX if the axis is not bound
        return False
    return True
