"""Times a few steps of an experiment that has not begun."""

import time

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from unet_jax import models
from unet_jax.data import pipeline
from unet_jax.data.dataset import Dataset
from unet_jax.distributed import devices
from unet_jax.learning import optim
from unet_jax.training.plan import make_plan
from unet_jax.training.state import init_state
from unet_jax.training.step import compile_update

WARM_UP = 2  # steps that are not timed; the first one compiles
MOST_STEPS = 50  # steps that are timed, at most
ENOUGH_SECONDS = 4.0  # after which no further step is timed


def seconds_per_step(config: ConfigDict, dataset: Dataset, mesh: Mesh) -> float:
    """Returns the time of a training step with reading and augmentation, after the compilation.

    It is that of a step that trains the whole network.

    Args:
      config: a resolved config.
      dataset: its data set.
      mesh: this host's devices.
    """
    model = models.build(**config.model)
    plan = make_plan(config, len(dataset.splits["train"]))
    schedule = optim.build_schedule(config.optim, config.num_epochs, plan.steps_per_epoch)
    frozen_steps = optim.frozen_steps(config.optim, plan.steps_per_epoch)
    optimizer = optim.build(config.optim, schedule, model.encoder_modules, frozen_steps)
    update = compile_update(config, model, optimizer, mesh)
    ema_decay = config.optim.ema_decay
    state = init_state(model, optimizer, dataset.channels, config.seed, ema_decay)
    state, key = devices.replicate(state, mesh), jax.random.key(config.seed)
    batches = pipeline.batches_of(config, dataset.splits["train"])
    prefetched = pipeline.read_ahead(batches[: WARM_UP + MOST_STEPS], config.data.workers)
    start = seconds = 0.0
    count = 0
    with devices.on_devices(prefetched, mesh) as device_batches:
        for count, batch in enumerate(device_batches, 1 - WARM_UP):
            state, metrics = update(state, batch, key)
            jax.block_until_ready(metrics)
            if count <= 0:
                start = time.perf_counter()
            elif (seconds := time.perf_counter() - start) > ENOUGH_SECONDS:
                break
    return seconds / count
