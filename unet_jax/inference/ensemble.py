"""From integer images to logits: one network, several as one, and a network over symmetries.

A `Network` is (variables, images, surrounded) -> logits, for one device's part: images of an
unsigned integer type, [N, H, W, C]; logits float32 [N, H, W, K]. Where `surrounded` is true, the
images of an unpadded U-Net bring their surroundings along, and the logits are of the middle alone.
"""

import pathlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from unet_jax import models
from unet_jax.core.errors import UserError

Network = Callable[..., jax.Array]


def one(model: nn.Module, input_range: str) -> Network:
    """A model that was trained on images in one of `models.INPUT_RANGES`."""

    def network(variables: dict, images: jax.Array, surrounded: bool = False) -> jax.Array:
        bound: Any = model.bind(variables)
        return (bound.core if surrounded else bound)(models.scale(images, input_range), train=False)

    return network


def member(run: pathlib.Path, config: ConfigDict, symmetries: bool) -> Network:
    """The network of a run, over the symmetries that its training drew if wanted.

    Raises a `UserError` where they are wanted and it drew none.
    """
    network = one(models.build(**config.model), config.data.input_range)
    if not symmetries:
        return network
    drawn = learned(config.data.augment)
    if drawn == NONE:
        augment = ", ".join(config.data.augment) or "()"
        raise UserError(
            f"--tta: {run} was trained with data.augment={augment}, which mirrors and turns no "
            f"image, so there is no symmetry to average over; leave --tta out, or train with flip, "
            f"mirror or quarter_turn in data.augment"
        )
    return over_symmetries(network, drawn)


def together(networks: Sequence[Network]) -> Network:
    """The `average` of several networks; its variables are a sequence of theirs."""

    def network(variables: Sequence[Any], images: jax.Array, surrounded: bool = False) -> jax.Array:
        pairs = zip(networks, variables, strict=True)
        return average(jnp.stack([each(own, images, surrounded) for each, own in pairs]))

    return network


class Symmetries(NamedTuple):
    """Some of the square's eight: axes of [N, H, W, C] that are mirrored, () being none of them."""

    upright: Sequence[tuple[int, ...]]
    lying: Sequence[tuple[int, ...]]  # of images whose rows and columns were exchanged before


MIRRORS = ((), (1,), (2,), (1, 2))
NONE = Symmetries(((),), ())  # but the identity


def learned(augment: Sequence[str]) -> Symmetries:
    """The symmetries among the transforms of training (`data.augment`).

    Those are flips, mirrors and quarter turns; `randaugment` draws none of them. Others may harm:
    labels may depend on what is up, as those of ISBI 2012, half a pixel higher than the membranes.
    """
    if "quarter_turn" in augment and not {"flip", "mirror"} & {*augment}:
        return Symmetries(((), (1, 2)), ((1,), (2,)))
    if "flip" in augment and "quarter_turn" not in augment:
        return Symmetries(MIRRORS, ())
    if "mirror" in augment and "quarter_turn" not in augment:
        return Symmetries(((), (2,)), ())
    return Symmetries(MIRRORS, MIRRORS) if "quarter_turn" in augment else NONE


def over_symmetries(network: Network, symmetries: Symmetries) -> Network:
    """The `average` of a network over symmetries of the square.

    Test-time augmentation: the images are mirrored, turned and both, the logits brought back.
    """

    def over(
        axes: Sequence[tuple[int, ...]], variables: Any, images: jax.Array, surrounded: bool
    ) -> jax.Array:
        mirrored = jnp.stack([jnp.flip(images, axis) for axis in axes])
        # One after another, so that they need no more memory than one.
        logits = jax.lax.map(lambda images: network(variables, images, surrounded), mirrored)
        return jnp.stack([jnp.flip(logits[i], axis) for i, axis in enumerate(axes)])

    def over_all(variables: Any, images: jax.Array, surrounded: bool = False) -> jax.Array:
        logits = over(symmetries.upright, variables, images, surrounded)
        if symmetries.lying:
            turned = over(symmetries.lying, variables, images.swapaxes(1, 2), surrounded)
            logits = jnp.concatenate([logits, turned.swapaxes(2, 3)])
        return average(logits)

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
