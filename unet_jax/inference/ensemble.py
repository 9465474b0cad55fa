"""Networks from integer images to logits: single networks, ensembles, test-time augmentation (TTA).

A `Network` is a function (variables, images, surrounded) -> logits for the batch of one device.
Images are uint8 or uint16 [N, H, W, C], logits float32 [N, H, W, K]. If `surrounded` is true, the
images include the margin that an unpadded U-Net consumes, and the logits cover only their centre.
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
    """Returns the network of one model, which scales its integer images first.

    Args:
      model: the model.
      input_range: range of its float input, a key of `models.INPUT_RANGES`.
    """

    def network(variables: dict, images: jax.Array, surrounded: bool = False) -> jax.Array:
        bound: Any = model.bind(variables)
        return (bound.core if surrounded else bound)(models.scale(images, input_range), train=False)

    return network


def member(run: pathlib.Path, config: ConfigDict, symmetries: bool) -> Network:
    """Returns the network of a run, with TTA over the training symmetries if requested.

    Args:
      run: folder of the run, for error messages.
      config: the run's config.
      symmetries: whether to average over the symmetries that training used as augmentation.

    Raises:
      UserError: `symmetries` is true, but `data.augment` has no flip, mirror or quarter_turn.
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
    """Returns the ensemble of several networks, which averages their probabilities.

    Its variables are the sequence of the networks' variables, in the same order.
    """

    def network(variables: Sequence[Any], images: jax.Array, surrounded: bool = False) -> jax.Array:
        pairs = zip(networks, variables, strict=True)
        return average(jnp.stack([each(own, images, surrounded) for each, own in pairs]))

    return network


class Symmetries(NamedTuple):
    """A subset of the eight symmetries of the square.

    Each element is a tuple of the axes of [N, H, W, C] to mirror; () mirrors none.
    """

    upright: Sequence[tuple[int, ...]]
    lying: Sequence[tuple[int, ...]]  # mirrors that follow a transposition of the image


MIRRORS = ((), (1,), (2,), (1, 2))
NONE = Symmetries(((),), ())  # only the identity


def learned(augment: Sequence[str]) -> Symmetries:
    """Returns the training symmetries: those that the transforms in `data.augment` generate.

    Only flip, mirror and quarter_turn generate symmetries; `randaugment` generates none. Averaging
    over other symmetries may reduce accuracy, since labels may depend on the orientation: those of
    ISBI 2012 lie half a pixel above the membranes.
    """
    if "quarter_turn" in augment and not {"flip", "mirror"} & {*augment}:
        return Symmetries(((), (1, 2)), ((1,), (2,)))
    if "flip" in augment and "quarter_turn" not in augment:
        return Symmetries(MIRRORS, ())
    if "mirror" in augment and "quarter_turn" not in augment:
        return Symmetries(((), (2,)), ())
    return Symmetries(MIRRORS, MIRRORS) if "quarter_turn" in augment else NONE


def over_symmetries(network: Network, symmetries: Symmetries) -> Network:
    """Returns the network with test-time augmentation (TTA) over symmetries of the square.

    It applies each symmetry to the images and the inverse to their logits, and averages the
    probabilities (see `average`).
    """

    def over(
        axes: Sequence[tuple[int, ...]], variables: Any, images: jax.Array, surrounded: bool
    ) -> jax.Array:
        mirrored = jnp.stack([jnp.flip(images, axis) for axis in axes])
        # `map` runs them one at a time, so that they need no more memory than one.
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
    """Returns the logits of the mean of M probabilities.

    Probabilities are the sigmoid of the logits if K = 1, otherwise their softmax. The mean is
    computed in log space, so that a loss of the result is finite: the mean of float32
    probabilities could round to 0 or 1.

    Args:
      logits: float32 [M, ..., K].

    Returns:
      float32 [..., K].
    """
    if logits.shape[-1] > 1:
        return jax.nn.logsumexp(jax.nn.log_softmax(logits), axis=0) - jnp.log(len(logits))
    present = jax.nn.logsumexp(jax.nn.log_sigmoid(logits), axis=0)
    absent = jax.nn.logsumexp(jax.nn.log_sigmoid(-logits), axis=0)
    return present - absent


def check_alike(config: ConfigDict, other: ConfigDict, run: pathlib.Path) -> None:
    """Checks that the probabilities of another run can be averaged with those of the first.

    Both need the same classes and the same pixels.

    Args:
      config: config of the first run.
      other: config of the other run.
      run: folder of the other run, for error messages.

    Raises:
      UserError: `data.fit`, `data.size`, `model.classes`, `model.padding` or `model.depth` differs
        where it must not.
    """
    fields = ["data.fit", "model.classes", "model.padding"]
    fields += ["data.size"] * (config.data.fit == "resize")
    fields += ["model.depth"] * (config.model.padding == "valid")  # tile margins depend on it
    for field in fields:
        section, name = field.split(".")
        first, its = config[section][name], other[section][name]
        if first != its:
            raise UserError(
                f"--ensemble={run}: {field} is {its} there and {first} in the first run; their "
                f"probabilities cannot be averaged"
            )
