"""The training step: one update of the state, written from the view of a single device."""

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
from unet_jax.core.intensities import Intensities
from unet_jax.distributed import devices, reductions
from unet_jax.learning import losses
from unet_jax.models.blocks import frozen_norms
from unet_jax.models.network import Logits
from unet_jax.training.accumulation import loss_and_gradient
from unet_jax.training.state import TrainState

# Number of the random stream. A key is fold_in(fold_in(key(seed), stream), step); for dropout the
# index of the device and, if there are several, of the micro-batch are folded in last.
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
    intensities: Intensities,
    frozen: tuple[str, ...] = (),
    fixed_norms: tuple[str, ...] = (),
    accumulate: int = 1,
    pixel_weights: losses.PixelWeights | None = None,
) -> tuple[TrainState, dict[str, jax.Array]]:
    """Updates the state by one step, from one device's part of the batch.

    Gradient and loss are those of the whole batch, over all devices. Batch statistics are those of
    a micro-batch over all devices, and their mean updates the running statistics.

    Args:
      state: the state before the step.
      batch: `image` [N, H, W, C], as stored; `label` [N, H, W], uint8; optionally `weight`
        [N, H, W], float32.
      key: random key of the run's seed; step and device are folded in here.
      model: the network.
      loss: see `losses.Loss`.
      optimizer: gives the update from the gradient.
      ema_decay: decay of the EMA per step, if the state has one.
      intensities: the map from stored values to the network's input.
      frozen: beginnings of the names of the top-level modules whose parameters are not trained;
        their gradients are not computed.
      fixed_norms: see `blocks.frozen_norms`.
      accumulate: number of micro-batches, one after the other, that N is divided into.
      pixel_weights: see `losses.pixel_weights`; used if there are several micro-batches.

    Returns:
      The new state, and the metrics `loss` and `gradient_norm` (global, before clipping).
    """
    key = jax.random.fold_in(jax.random.fold_in(key, DROPOUT), state.step)
    params = state.variables["params"]
    constant = {name: x for name, x in params.items() if name.startswith(frozen)}
    trained = {name: x for name, x in params.items() if name not in constant}

    def forward(trained: dict, images: jax.Array, key: jax.Array) -> tuple[Logits, Any]:
        with frozen_norms(fixed_norms):
            logits, updated = model.apply(
                {**state.variables, "params": constant | trained},
                models.scale(images, intensities),
                train=True,
                mutable=["batch_stats"],
                rngs={"dropout": key},
            )
        return logits, updated

    value, gradient, updated = loss_and_gradient(
        forward,
        loss,
        trained,
        {name: x for name, x in state.variables.items() if name != "params"},
        batch,
        reductions.fold_in_device(key),
        count=accumulate,
        pixel_weights=pixel_weights,
    )
    gradient = reductions.mean(gradient) | jax.tree.map(jnp.zeros_like, constant)
    updates, opt_state = optimizer.update(gradient, state.opt_state, params)
    variables = {**updated, "params": optax.apply_updates(params, updates)}
    average = state.average
    if average is not None:
        # The decay starts small; otherwise the initial weights would dominate the EMA for long.
        decay = jnp.minimum(ema_decay, (1 + state.step) / (10 + state.step))
        # In this form an EMA that equals the variables stays exactly the same.
        average = jax.tree.map(lambda a, new: a + (1 - decay) * (new - a), average, variables)
    metrics = {"loss": value, "gradient_norm": optax.tree.norm(gradient)}
    return TrainState(state.step + 1, variables, opt_state, average), metrics


def compile_update(
    config: ConfigDict,
    model: models.Network,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    frozen: bool = False,
) -> Callable:
    """Compiles `train_step` of an experiment for all devices.

    Args:
      config: the experiment.
      model: the network.
      optimizer: gives the update from the gradient.
      mesh: this host's devices.
      frozen: whether the encoder is not trained, as in the first steps (`optim.frozen_steps`).

    Returns:
      A function (state, batch, key) -> (state, metrics); see `devices.compile_train_step`.
    """
    step = functools.partial(
        train_step,
        model=model,
        loss=losses.build(**config.loss),
        optimizer=optimizer,
        ema_decay=config.optim.ema_decay,
        intensities=Intensities.of(config.data),
        frozen=model.encoder_modules if frozen else (),
        fixed_norms={"none": (), "encoder": model.encoder_modules, "all": ("",)}[
            config.optim.frozen_norm
        ],
        accumulate=config.optim.accumulate,
        pixel_weights=losses.pixel_weights(**config.loss),
    )
    return devices.compile_train_step(step, mesh)
