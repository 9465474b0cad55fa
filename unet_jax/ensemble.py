"""From integer images to logits: one network, several as one, and a network over symmetries.

A `Network` is (variables, images, surrounded) -> logits, for one device's part: images of an
unsigned integer type, [N, H, W, C]; logits float32 [N, H, W, K]. Where `surrounded` is true, the
images of an unpadded U-Net bring their surroundings along, and the logits are of the middle alone.
"""

import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from unet_jax import models
from unet_jax.errors import UserError

Network = Callable[..., jax.Array]


def one(model: nn.Module, input_range: str) -> Network:
    """A model that was trained on images in one of `models.INPUT_RANGES`."""

    def network(variables: dict, images: jax.Array, surrounded: bool = False) -> jax.Array:
        bound: Any = model.bind(variables)
        return (bound.core if surrounded else bound)(models.scale(images, input_range), train=False)

    return network


def together(networks: Sequence[Network]) -> Network:
    """The `average` of several networks; its variables are a sequence of theirs."""

    def network(variables: Sequence[Any], images: jax.Array, surrounded: bool = False) -> jax.Array:
        pairs = zip(networks, variables, strict=True)
        return average(jnp.stack([member(own, images, surrounded) for member, own in pairs]))

    return network


def over_symmetries(network: Network) -> Network:
    """The `average` of a network over the eight symmetries of the square.

    Test-time augmentation: the images are mirrored, turned and both, the logits brought back.
    """

    def over_mirrors(variables: Any, images: jax.Array, surrounded: bool) -> jax.Array:
        axes = ((), (1,), (2,), (1, 2))
        mirrored = jnp.stack([jnp.flip(images, axis) for axis in axes])
        # One after another, so that they need no more memory than one.
        logits = jax.lax.map(lambda images: network(variables, images, surrounded), mirrored)
        return jnp.stack([jnp.flip(logits[i], axis) for i, axis in enumerate(axes)])

    def over_all(variables: Any, images: jax.Array, surrounded: bool = False) -> jax.Array:
        upright = over_mirrors(variables, images, surrounded)
        lying = over_mirrors(variables, images.swapaxes(1, 2), surrounded).swapaxes(2, 3)
        return average(jnp.concatenate([upright, lying]))

    return over_all


def average(logits: jax.Array) -> jax.Array:
    """Logits [M, ..., K] -> those of the mean of the M probabilities, [..., K].

    The sigmoid's where K = 1, else the softmax's. Taken in logarithms: a loss of the result is
    finite, though a mean of float32 probabilities may be 0 or 1.
    """
    if logits.shape[-1] > 1:
        return jax.nn.logsumexp(jax.nn.log_softmax(logits), axis=0) - jnp.log(len(logits))
    present = jax.nn.logsumexp(jax.nn.log_sigmoid(logits), axis=0)
    absent = jax.nn.logsumexp(jax.nn.log_sigmoid(-logits), axis=0)
    return present - absent


def check_alike(config: ConfigDict, other: ConfigDict, run: pathlib.Path) -> None:
    """Raises a `UserError` unless the other run's probabilities can be averaged with the first's.

    They are of the same classes and the same pixels.
    """
    fields = ["data.fit", "model.classes", "model.padding"]
    fields += ["data.size"] * (config.data.fit == "resize")
    fields += ["model.depth"] * (config.model.padding == "valid")  # its tiles are cut for it
    for field in fields:
        section, name = field.split(".")
        first, its = config[section][name], other[section][name]
        if first != its:
            raise UserError(
                f"--ensemble={run}: {field} is {its} there and {first} in the first run; their "
                f"probabilities cannot be averaged"
            )
