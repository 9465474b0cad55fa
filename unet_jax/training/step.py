"""The training step: one update of the state, written for one device."""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from unet_jax import models
from unet_jax.distributed import devices, reductions
from unet_jax.learning import losses
from unet_jax.training.state import TrainState

# Streams of random numbers: every key is fold_in(fold_in(key(seed), stream), step).
DROPOUT = 1


def train_step(
    state: TrainState,
    batch: dict[str, jax.Array],
    key: jax.Array,
    *,
    model: nn.Module,
    loss: losses.Loss,
    optimizer: optax.GradientTransformation,
    ema_decay: float,
    input_range: str,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """One update, for one device's part of the batch; `key` is the seed's."""
    key = jax.random.fold_in(jax.random.fold_in(key, DROPOUT), state.step)
    rngs = {"dropout": reductions.fold_in_device(key)}

    def loss_fn(params: dict) -> tuple[jax.Array, Any]:
        logits, updated = model.apply(
            {**state.variables, "params": params},
            models.scale(batch["image"], input_range),
            train=True,
            mutable=["batch_stats"],
            rngs=rngs,
        )
        return loss(logits, batch["label"], reductions.total, batch.get("weight")), updated

    params = state.variables["params"]
    (value, updated), gradient = jax.value_and_grad(loss_fn, has_aux=True)(params)
    gradient = reductions.mean(gradient)
    updates, opt_state = optimizer.update(gradient, state.opt_state, params)
    variables = {**updated, "params": optax.apply_updates(params, updates)}
    average = state.average
    if average is not None:
        # A shorter memory at first, or the initial weights would stay in it for long.
        decay = jnp.minimum(ema_decay, (1 + state.step) / (10 + state.step))
        average = jax.tree.map(lambda a, new: decay * a + (1 - decay) * new, average, variables)
    metrics = {"loss": value, "gradient_norm": optax.tree.norm(gradient)}
    return TrainState(state.step + 1, variables, opt_state, average), metrics


def compile_update(
    config: ConfigDict, model: nn.Module, optimizer: optax.GradientTransformation, mesh: Mesh
) -> Callable:
    """`train_step` of an experiment over all devices: (state, batch, key) -> (state, metrics)."""
    step = functools.partial(
        train_step,
        model=model,
        loss=losses.build(**config.loss),
        optimizer=optimizer,
        ema_decay=config.optim.ema_decay,
        input_range=config.data.input_range,
    )
    return devices.compile_train_step(step, mesh)
