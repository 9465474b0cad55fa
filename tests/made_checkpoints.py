"""Small training states for tests of checkpoints, a step's own by a factor."""

import contextlib
import pathlib
from typing import Any

import jax
import numpy as np
import optax

from unet_jax.runs.checkpoints import Checkpoints

PARAMS = {"a": {"kernel": np.arange(6, dtype=np.float32).reshape(2, 3)}, "b": np.ones(3, "f4")}
MODEL = {"params": PARAMS, "batch_stats": {"mean": np.zeros(3, np.float32)}}
OPTIMIZER = jax.tree.map(np.asarray, optax.adam(1e-3).init(PARAMS))


def scaled(tree: Any, factor: float) -> Any:
    return jax.tree.map(lambda x: np.asarray(x * factor).astype(x.dtype), tree)


def state_at(step: int) -> dict[str, Any]:
    return {"model": scaled(MODEL, step), "optimizer": scaled(OPTIMIZER, step)}


def best_at(step: int) -> dict[str, Any]:
    return {"loss": 1 / step, "thresholds": {"dice": 1 / step}}


TARGETS = state_at(1)


def checkpoints(folder: pathlib.Path, **options: Any) -> contextlib.closing[Checkpoints]:
    arguments = {"keep": 2, "config": {"seed": 0}} | options
    return contextlib.closing(Checkpoints(folder, **arguments))
