"""What training changes, and what a checkpoint holds of it."""

from typing import Any

import flax.linen as nn
import flax.struct
import jax
import numpy as np
import optax

from unet_jax import models
from unet_jax.distributed import devices


@flax.struct.dataclass
class TrainState:
    """All that training changes. It holds no key: keys come from the seed and the step."""

    step: jax.Array | np.ndarray
    variables: dict  # `params`, and `batch_stats` where the norm has them
    opt_state: optax.OptState
    average: dict | None  # of the variables over the steps, where `optim.ema_decay` wants it

    @property
    def evaluated(self) -> dict:
        """The variables to evaluate and to keep."""
        return self.variables if self.average is None else self.average


def init_state(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    channels: int,
    seed: int,
    ema_decay: float,
) -> TrainState:
    """The state before the first step, as numpy arrays."""
    return first_state(models.init(model, channels, seed), optimizer, ema_decay)


def first_state(
    variables: dict, optimizer: optax.GradientTransformation, ema_decay: float
) -> TrainState:
    """The state from which `variables` (numpy arrays) are trained."""
    opt_state = devices.to_host(jax.jit(optimizer.init)(variables["params"]))
    average = jax.tree.map(np.copy, variables) if ema_decay else None
    return TrainState(np.asarray(0, np.int32), variables, opt_state, average)


def checkpoint_items(state: TrainState) -> dict[str, Any]:
    """What a checkpoint holds: `model` is what is evaluated, `trained` what the average is of."""
    items = {"model": state.evaluated, "optimizer": state.opt_state}
    return items if state.average is None else items | {"trained": state.variables}


def from_checkpoint(step: int, items: dict[str, Any]) -> tuple[int, TrainState]:
    """The step and the state that a checkpoint with these items holds."""
    average = items["model"] if "trained" in items else None
    variables = items.get("trained", items["model"])
    return step, TrainState(np.asarray(step, np.int32), variables, items["optimizer"], average)
