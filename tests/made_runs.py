"""Runs with a network that was not trained, and runs that are stopped, for tests."""

import dataclasses
import math
import os
import pathlib
import signal

import jax
import numpy as np
from ml_collections import ConfigDict

import unet_jax.training.loop
import unet_jax.training.validation
from configs import base
from unet_jax import models
from unet_jax.core.config import digest
from unet_jax.core.files import write_json
from unet_jax.distributed import devices as parallel
from unet_jax.inference.outputs import Extras
from unet_jax.inference.predict import predict
from unet_jax.runs.checkpoints import Checkpoints
from unet_jax.runs.log import Writer


def small_config(**fields) -> ConfigDict:
    """Fields by their full names, such as `model__norm="none"`."""
    config = base.get_config()
    small = {"model__width": 3, "model__depth": 2, "data__size": 16}
    config.update_from_flattened_dict(
        {name.replace("__", "."): value for name, value in (small | fields).items()}
    )
    return config


def random_variables(config: ConfigDict, channels: int, seed: int = 0, calm: bool = False) -> dict:
    """Values of every kind for all variables, so that logits differ and no norm is neutral.

    Logits are in the hundreds; if `calm`, with kernels as He et al. draw them, they are a few.
    """
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        kernel = calm and leaf.ndim > 1
        spread = (2 / math.prod(leaf.shape[:-1])) ** 0.5 if kernel else 0.4
        values = rng.normal(0, spread, leaf.shape).astype(leaf.dtype)
        return np.abs(values) + 0.5 if path[-1].key in ("var", "scale") else values

    initial = models.init(models.build(**config.model), channels, 0)
    return jax.tree_util.tree_map_with_path(draw, initial)


def make_run(
    folder: pathlib.Path,
    config: ConfigDict,
    channels: int,
    steps=(7,),
    calm: bool = False,
    seed: int = 0,
) -> pathlib.Path:
    """A run's folder with checkpoints of these steps, the network of each another."""
    checkpoints = Checkpoints(folder, 9, config.to_dict())
    for step in steps:
        checkpoints.save(step, {"model": random_variables(config, channels, step + seed, calm)})
        checkpoints.wait()
    checkpoints.close()
    write_json(folder / "config.json", {"digest": digest(config), "config": config.to_dict()})
    return folder


def predict_files(run: pathlib.Path, config, wanted, output, devices: int = 1, **options) -> int:
    mesh = parallel.local_mesh(jax.devices()[:devices])
    kinds = {field.name for field in dataclasses.fields(Extras)} & {*options}
    extras = Extras(**{"probabilities": True} | {kind: options.pop(kind) for kind in kinds})
    options = {"checkpoint": "best", "side": 1024} | options
    return predict({run: config}, mesh, wanted=str(wanted), output=output, extras=extras, **options)


def signal_after(step: int, monkeypatch) -> None:
    """SIGTERM comes when this step of training has been logged."""
    write = Writer.write

    def write_and_stop(writer, now, epoch, split, scalars):
        write(writer, now, epoch, split, scalars)
        if (now, split) == (step, "train"):
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Writer, "write", write_and_stop)


def set_losses(monkeypatch, losses):
    """The validation losses of the steps; all else is as it is."""
    real, validate = (
        unet_jax.training.validation.mean_scalars,
        unet_jax.training.validation.validate,
    )

    def validate_with(run, variables, step):
        with monkeypatch.context() as patch:
            of_step = lambda summary: real(summary) | {"loss": losses[step]}  # noqa: E731
            patch.setattr(unet_jax.training.validation, "mean_scalars", of_step)
            validate(run, variables, step)

    monkeypatch.setattr(unet_jax.training.loop, "validate", validate_with)
