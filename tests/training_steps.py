"""Runs training steps of an experiment on some of the CPU devices."""

import functools

import jax
import numpy as np

from unet_jax import models
from unet_jax.core.intensities import Intensities
from unet_jax.data import pipeline
from unet_jax.data.augment import transforms as augment
from unet_jax.data.fit import Fit
from unet_jax.distributed import devices as parallel
from unet_jax.learning import losses, optim
from unet_jax.training.state import init_state
from unet_jax.training.step import train_step


def mesh_of(devices: int):
    return parallel.local_mesh(jax.devices()[:devices])


def updates(config, mesh, split, steps, transforms=("flip",)):
    """The state after some steps on `split`, still on the devices, and each step's loss."""
    model = models.build(**config.model)
    optimizer = optim.build(config.optim, lambda _: config.optim.learning_rate)
    loss, ema_decay = losses.build(**config.loss), config.optim.ema_decay
    step = functools.partial(
        train_step,
        model=model,
        loss=loss,
        optimizer=optimizer,
        ema_decay=ema_decay,
        intensities=Intensities.of(config.data),
    )
    update = parallel.compile_train_step(step, mesh)
    state = parallel.replicate(init_state(model, optimizer, 1, config.seed, ema_decay), mesh)
    batches = pipeline.train_batches(
        split,
        batch_size=8,
        augment=augment.build(transforms, config.augment, fit=Fit("crop", config.data.size)),
        seed=config.seed,
    )
    values = []
    with parallel.on_devices(pipeline.read_ahead(batches, 0), mesh) as placed:
        for _ in range(steps):
            state, metrics = update(state, next(placed), jax.random.key(config.seed))
            values.append(float(metrics["loss"]))
    return state, values


def assert_trees_close(a, b, **tolerance):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, **tolerance), a, b)
