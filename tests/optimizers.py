"""Fields of optimizers, and comparisons of trees, for the tests of optimizers."""

import jax
import numpy as np
from ml_collections import ConfigDict


def floats(values) -> np.ndarray:
    return np.array(values, np.float32)


def fields(**overrides) -> ConfigDict:
    config = ConfigDict(
        {
            "name": "adam",
            "learning_rate": 0.5,
            "schedule": "constant",
            "step_epochs": 3.0,
            "step_factor": 0.1,
            "warmup_epochs": 0.0,
            "momentum": 0.9,
            "weight_decay": 0.0,
            "clip_norm": 0.0,
            "encoder_rate": 1.0,
            "frozen_epochs": 0.0,
        }
    )
    config.update(overrides)
    return config


def assert_close(tree, expected, rtol: float = 1e-5) -> None:
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=1e-8), tree, expected
    )
