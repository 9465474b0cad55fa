"""The training state, and its form in a checkpoint."""

import dataclasses
from typing import Any

import flax.struct
import jax
import numpy as np
import optax

from unet_jax import models
from unet_jax.distributed import devices


@flax.struct.dataclass
class TrainState:
    """Everything that a training step updates. Random keys derive from the seed and the step."""

    step: jax.Array | np.ndarray
    variables: dict  # `params`, and `batch_stats` if the norm is batch normalisation
    opt_state: optax.OptState
    average: dict | None  # EMA of the variables; None if `optim.ema_decay` is 0

    @property
    def evaluated(self) -> dict:
        """The variables to evaluate and to save as a model: the EMA, if there is one."""
        return self.variables if self.average is None else self.average


def init_state(
    model: models.Network,
    optimizer: optax.GradientTransformation,
    channels: int,
    seed: int,
    ema_decay: float,
) -> TrainState:
    """Initialises the training state.

    Args:
      model: the network.
      optimizer: gives the structure of the optimizer state.
      channels: channels of the images.
      seed: seeds the initial parameters.
      ema_decay: `optim.ema_decay`; 0 disables the EMA.

    Returns:
      The state of step 0, as numpy arrays.
    """
    return first_state(models.init(model, channels, seed), optimizer, ema_decay)


def first_state(
    variables: dict, optimizer: optax.GradientTransformation, ema_decay: float
) -> TrainState:
    """Returns the state of step 0 with given `variables` (numpy arrays); see `init_state`."""
    opt_state = devices.to_host(jax.jit(optimizer.init)(variables["params"]))
    average = jax.tree.map(np.copy, variables) if ema_decay else None
    return TrainState(np.asarray(0, np.int32), variables, opt_state, average)


def with_variables(first: TrainState, variables: dict) -> TrainState:
    """Returns the state of step 0 with other variables (numpy arrays) than `first` has.

    The optimizer state of step 0 does not depend on them.
    """
    average = None if first.average is None else jax.tree.map(np.copy, variables)
    return dataclasses.replace(first, variables=variables, average=average)


def template(tree: Any) -> Any:
    """Returns zeros with the structure, shapes and dtypes of a pytree, which take no memory."""
    return jax.tree.map(lambda x: np.broadcast_to(np.zeros((), x.dtype), x.shape), tree)


def checkpoint_items(state: TrainState) -> dict[str, Any]:
    """Returns the items of a state's checkpoint.

    `model` are the evaluated variables and `optimizer` is the optimizer state. With an EMA, `model`
    is the EMA and `trained` are the variables that training updates.
    """
    items = {"model": state.evaluated, "optimizer": state.opt_state}
    return items if state.average is None else items | {"trained": state.variables}


def from_checkpoint(step: int, items: dict[str, Any]) -> tuple[int, TrainState]:
    """Returns the step and the state of a checkpoint; the inverse of `checkpoint_items`."""
    average = items["model"] if "trained" in items else None
    variables = items.get("trained", items["model"])
    return step, TrainState(np.asarray(step, np.int32), variables, items["optimizer"], average)
