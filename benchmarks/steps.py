"""Compiles an experiment's training step, to run it repeatedly on noise images."""

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from unet_jax import models
from unet_jax.distributed import devices as parallel
from unet_jax.learning import optim
from unet_jax.training.state import init_state
from unet_jax.training.step import compile_update


@dataclasses.dataclass(frozen=True)
class Step:
    """A compiled training step."""

    batch: dict[str, jax.Array]  # noise images and labels, on the devices
    advance: Callable[[dict[str, jax.Array]], None]  # starts a step on a batch of the same form
    wait: Callable[[], None]  # waits for the end of the steps that were started
    compiled: Any  # jax.stages.Compiled
    devices: int  # number of devices that share a batch
    seconds: float  # compilation time
    gflop: float | None  # forward pass of one step, if XLA reports it

    def run(self) -> None:
        """Runs one step on the noise images, from the state of the last, and waits for its end."""
        self.advance(self.batch)
        self.wait()


def training_step(config: ConfigDict, channels: int, devices: Sequence[jax.Device]) -> Step:
    """Compiles the step of a resolved config for images with `channels` channels."""
    mesh, key = parallel.local_mesh(devices), jax.random.key(config.seed)
    model = models.build(**config.model)
    optimizer = optim.build(
        config.optim, optim.build_schedule(config.optim, 1, 1), model.encoder_modules
    )
    first = init_state(model, optimizer, channels, config.seed, config.optim.ema_decay)
    rng, classes = np.random.default_rng(0), max(config.model.classes, 2)
    shape = (config.batch_size, config.data.size, config.data.size)
    noise = {
        "image": rng.integers(0, 256, (*shape, channels), np.uint8),
        "label": rng.integers(0, classes, shape, np.uint8),
    }
    if config.data.border_weight:
        noise["weight"] = rng.uniform(0.5, 10, shape).astype(np.float32)
    batch = {name: parallel.spread(array, mesh) for name, array in noise.items()}
    holder = [parallel.replicate(first, mesh)]
    update: Any = compile_update(config, model, optimizer, mesh)
    start = time.perf_counter()
    compiled = update.lower(holder[0], batch, key).compile()
    seconds = time.perf_counter() - start

    def advance(given: dict[str, jax.Array]) -> None:
        holder[0], _ = compiled(holder[0], {name: given[name] for name in batch}, key)

    def wait() -> None:
        jax.block_until_ready(holder[0])

    gflop = models.forward_gflop(model, first.variables, config.data.size, channels)
    total = gflop and gflop * config.batch_size
    return Step(batch, advance, wait, compiled, mesh.size, seconds, total)
