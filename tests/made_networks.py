"""Small networks with random variables, and random images."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from unet_jax import models
from unet_jax.core.errors import UserError
from unet_jax.learning.registry import LOSSES
from unet_jax.runs.experiment import check, resolve

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


SMALL: dict[str, Any] = {
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


def make(**fields):
    return models.build(**SMALL | fields)


def variants() -> dict[str, dict[str, Any]]:
    """Few networks that have among them each registered one with each value of its choices.

    The first of each network has its defaults. Each further one has as many other values as
    support one another, each in place of the default.
    """
    found = {}
    for name, network in models.NETWORKS.items():
        values = {field: [*choices] for field, choices in network.choices.items()}
        for option, field in network.options.items():
            if field.choices:
                others = [x for x in field.choices if x != field.default]
                values[option.removeprefix("model.")] = [field.default, *others]
        found[name] = {"name": name, "norm": values["norm"][0]}
        left = [(k, value) for k, (_, *others) in values.items() for value in reversed(others)]
        while left:
            fields: dict[str, Any] = {}
            for field, value in left:
                if field not in fields and supported(**found[name] | fields | {field: value}):
                    fields[field] = value
            left = [pair for pair in left if pair not in fields.items()]
            found[" ".join([name, *(f"{k}={v}" for k, v in fields.items())])] = found[name] | fields
    return found


def supported(**fields: Any) -> bool:
    try:
        make(**fields)
    except UserError:
        return False
    return True


def all_losses(classes: int) -> str:
    """The sum of all registered loss terms, as `loss.name` has it.

    Its gradient is the sum of theirs, so that one program has each of them.
    """
    return "+".join(name for name in sorted(LOSSES) if classes in LOSSES[name].logits)


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


def with_network(config: ConfigDict, fields: dict[str, Any], classes: int, loss: str) -> ConfigDict:
    """The experiment with a tiny network of `variants` and a loss."""
    config.update_from_flattened_dict({f"model.{name}": fields[name] for name in ("name", "norm")})
    config.model.classes, config.loss.name = classes, loss
    config.loss.cldice_iterations = 2
    config.model.width, config.model.depth = 2, 2
    config = resolve(config, [str(i) for i in range(max(classes, 2))])  # with its options
    config.model.update(fields)
    check(config)
    return config
