"""Networks from stored images to logits: single networks, ensembles, test-time augmentation (TTA).

A `Forward` is a function (variables, images, surrounded) -> logits for the batch of one device.
Images are as stored, [N, H, W, C], logits float32 [N, H, W, K]. If `surrounded` is true, the
images include the margin of an unpadded network, and the logits cover only their centre.
"""

import pathlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from unet_jax import models
from unet_jax.core.errors import UserError
from unet_jax.core.intensities import Intensities
from unet_jax.data.fit import Fit

Forward = Callable[..., jax.Array]


def single_network(model: models.Network, intensities: Intensities) -> Forward:
    """Returns the function of a single network, which maps the stored values to its input first.

    Args:
      model: the network.
      intensities: the map.
    """

    def forward(variables: dict, images: jax.Array, surrounded: bool = False) -> jax.Array:
        bound: Any = model.bind(variables)
        return (bound.core if surrounded else bound)(models.scale(images, intensities), train=False)

    return forward


def run_network(run: pathlib.Path, config: ConfigDict, symmetries: bool) -> Forward:
    """Returns the function of a run's network, with TTA over the training symmetries if requested.

    Args:
      run: folder of the run, for error messages.
      config: the run's config.
      symmetries: whether to average over the training symmetries (test-time augmentation).

    Raises:
      UserError: `symmetries` is true, but `data.augment` has no flip, mirror or quarter_turn.
    """
    forward = single_network(models.build(**config.model), Intensities.of(config.data))
    if not symmetries:
        return forward
    found = training_symmetries(config.data.augment)
    if found == NONE:
        augment = ", ".join(config.data.augment) or "()"
        raise UserError(
            f"--tta: {run} was trained with data.augment={augment}, which neither mirrors nor "
            f"rotates by quarter turns, so there is no symmetry to average over; leave --tta out, "
            f"or train with flip, mirror or quarter_turn in data.augment"
        )
    return over_symmetries(forward, found)


def ensemble_network(networks: Sequence[Forward]) -> Forward:
    """Returns the function of an ensemble, which averages the probabilities of its networks.

    Its variables are the sequence of the networks' variables, in the same order.
    """

    def forward(variables: Sequence[Any], images: jax.Array, surrounded: bool = False) -> jax.Array:
        pairs = zip(networks, variables, strict=True)
        return average(jnp.stack([network(own, images, surrounded) for network, own in pairs]))

    return forward


class Symmetries(NamedTuple):
    """A subset of the eight symmetries of the square.

    Each element is a tuple of the axes of [N, H, W, C] to mirror; () mirrors none.
    """

    mirrors: Sequence[tuple[int, ...]]
    transposed: Sequence[tuple[int, ...]]  # mirrors that follow a transposition of the image


MIRRORS = ((), (1,), (2,), (1, 2))
NONE = Symmetries(((),), ())  # only the identity


def training_symmetries(augment: Sequence[str]) -> Symmetries:
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


def symmetries_note(configs: Iterable[ConfigDict]) -> str:
    """Returns the remark of a report on test-time augmentation with runs of these configs."""
    counts = sorted({sum(map(len, training_symmetries(c.data.augment))) for c in configs})
    count = " or ".join(map(str, counts))
    return f"probabilities are the mean over {count} of the square's eight symmetries"


def over_symmetries(network: Forward, symmetries: Symmetries) -> Forward:
    """Returns the function of a network with TTA over symmetries of the square.

    It applies each symmetry to the images and the inverse to their logits, and averages the
    probabilities (see `average`).
    """

    def over_mirrors(
        axes: Sequence[tuple[int, ...]], variables: Any, images: jax.Array, surrounded: bool
    ) -> jax.Array:
        mirrored = jnp.stack([jnp.flip(images, axis) for axis in axes])
        # `map` runs them one at a time, so that they need no more memory than a single one.
        logits = jax.lax.map(lambda images: network(variables, images, surrounded), mirrored)
        return jnp.stack([jnp.flip(logits[i], axis) for i, axis in enumerate(axes)])

    def forward(variables: Any, images: jax.Array, surrounded: bool = False) -> jax.Array:
        logits = over_mirrors(symmetries.mirrors, variables, images, surrounded)
        if symmetries.transposed:
            images = images.swapaxes(1, 2)
            transposed = over_mirrors(symmetries.transposed, variables, images, surrounded)
            logits = jnp.concatenate([logits, transposed.swapaxes(2, 3)])
        return average(logits)

    return forward


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

    Both need the same classes and the same pixels, and unpadded networks the same tiles.

    Args:
      config: config of the first run.
      other: config of the other run.
      run: folder of the other run, for error messages.

    Raises:
      UserError: `data.fit`, `data.size`, `model.classes` or what the networks need of a tile
        differs where it must not.
    """
    first, second = _comparable(config), _comparable(other)
    for what, value in first.items():
        if second[what] != value:
            raise UserError(
                f"--ensemble={run}: {what} is {second[what]} there and {value} in the first run; "
                f"their probabilities cannot be averaged"
            )


def _comparable(config: ConfigDict) -> dict[str, Any]:
    """Returns what two runs must have in common, by its name in a message."""
    network = models.build(**config.model, platform="cpu")
    found = {"data.fit": config.data.fit, "model.classes": config.model.classes}
    if Fit.of(config.data).resizes:
        found["data.size"] = config.data.size
    # The input of an unpadded network includes the margin of a tile.
    found["the margin of a tile"] = network.margin if network.unpadded else 0
    found["the divisor of a tile's position"] = network.multiple if network.unpadded else 1
    return found
