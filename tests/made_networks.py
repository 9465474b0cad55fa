"""Small networks with random variables, and random images."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from unet_jax import models

NORMS = ("batch", "group", "none")


UPSAMPLES = ("transpose", "nearest", "bilinear", "bilinear_corners")


# The fields that tell one network from another.
NETWORKS: dict[str, dict[str, Any]] = {
    **{upsample: {"upsample": upsample} for upsample in UPSAMPLES},
    "valid": {"padding": "valid"},
    "valid_nearest": {"padding": "valid", "upsample": "nearest"},
    "unet2": {"name": "unet2"},
    "segnet": {"name": "segnet"},
    "attention_unet": {"name": "attention_unet"},
    "residual_unet": {"name": "residual_unet"},
    "unet_plus_plus": {"name": "unet_plus_plus"},
    "deep": {"deep_supervision": True},
    "smp_unet": {"name": "smp_unet", "encoder": "resnet18"},  # batch normalisation only
}


def make(**fields):
    small: dict[str, Any] = {
        "name": "unet",
        "classes": 2,
        "width": 4,
        "depth": 2,
        "padding": "same",
        "norm": "none",
        "upsample": "transpose",
        "dropout": 0.0,
        "dtype": "float32",
    }
    return models.build(**small | fields)


def shapes(model, channels: int = 3):
    """The variables' shapes and dtypes; nothing is computed."""
    size = model.multiple
    image = jax.ShapeDtypeStruct((1, size, size, channels), jnp.float32)
    return jax.eval_shape(model.init, jax.random.key(0), image)


def variables_of(model) -> dict:
    """Initial values from numpy: compiling the library's generators takes ten seconds."""
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        if path[-1].key == "kernel":
            fan_in = np.prod(leaf.shape[:-1])
            return rng.normal(0, np.sqrt(2 / fan_in), leaf.shape).astype(leaf.dtype)
        start = np.ones if path[-1].key in ("scale", "var") else np.zeros
        return start(leaf.shape, leaf.dtype)

    return jax.tree_util.tree_map_with_path(draw, shapes(model))


def images(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)
