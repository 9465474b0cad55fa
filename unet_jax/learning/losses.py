"""Segmentation losses: functions of logits, labels and optional pixel weights.

A loss is computed from sums, mostly as one divided by another. `total` computes these sums: over
the local batch by default, and in a training step over the batches of all devices. The loss of a
global batch then does not depend on how it is sharded, whereas a mean of means would if the numbers
of ignored pixels differ.
Ignored pixels (label 255) contribute to no sum; if all pixels are ignored, loss and gradient are 0.

All terms are registered in `learning.registry`, also those of other files. They take

- logits: float32 [N, H, W, K]. K = 1 is the logit of class 1 against class 0 (sigmoid), K >= 2 is
  a softmax.
- label: uint8 [N, H, W].
- total: sums an array to a scalar.
- weight: non-negative pixel weights, float32 [N, H, W], or None.
- class_weights: a factor for each class (K = 1: for classes 0 and 1); () is 1 for each.
- their own fields of `config.loss`, as keyword arguments.

and return a float32 scalar.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax

from unet_jax import IGNORED
from unet_jax.core.errors import UserError
from unet_jax.core.fields import expected, show, within
from unet_jax.learning.registry import ANY_LOGITS, LOSSES, fields_of_base, loss_term

Total = Callable[[jax.Array], jax.Array]
Loss = Callable[..., jax.Array]  # (logits, label, total=jnp.sum, weight=None) -> scalar
PixelWeights = Callable[[jax.Array, jax.Array | None], jax.Array]  # see `pixel_weights`

SMOOTHING = fields_of_base("label_smoothing")


def default_name(classes: int) -> str:
    """Returns the `loss.name` that replaces `auto` for a number of logits."""
    return "bce" if classes == 1 else "cross_entropy"


@loss_term("bce", is_mean_over_pixels=True, logits=range(1, 2), fields=SMOOTHING)
@loss_term("cross_entropy", is_mean_over_pixels=True, logits=ANY_LOGITS[1:], fields=SMOOTHING)
def cross_entropy(
    logits: jax.Array,
    label: jax.Array,
    total: Total = jnp.sum,
    weight: jax.Array | None = None,
    *,
    label_smoothing: float,
    class_weights: Sequence[float] = (),
) -> jax.Array:
    """Computes the mean cross-entropy in nats per pixel: binary if K = 1, else of the softmax.

    With weights this is PyTorch's weighted mean, sum(w ce) / sum(w), where w is the pixel's weight
    times the weight of its labelled class. `loss.label_smoothing`, s, replaces the labelled class's
    probability of 1 by 1 - s + s / C and the others' 0 by s / C, where C = max(K, 2) is the number
    of classes (Szegedy et al. 2016, section 7).
    """
    logits, target, weight = mask_ignored(logits, label, weight)
    values = pixel_cross_entropy(logits, target, label_smoothing)
    return weighted_mean(values, target, weight, class_weights, total)


@loss_term(
    "focal",
    is_mean_over_pixels=True,
    fields=fields_of_base("focal_gamma"),
)
def focal(
    logits: jax.Array,
    label: jax.Array,
    total: Total = jnp.sum,
    weight: jax.Array | None = None,
    *,
    focal_gamma: float,
    class_weights: Sequence[float] = (),
) -> jax.Array:
    """Computes the focal loss, the mean of (1 - p_t)^gamma ce: Lin et al. 2017, eqs. 4 and 5.

    gamma is `loss.focal_gamma`. p_t is the probability of the pixel's labelled class; the paper's
    alpha_t is a class weight. The mean is that of `cross_entropy`,
    sum(w (1 - p_t)^gamma ce) / sum(w), so that gamma = 0 is the cross-entropy. The paper, on object
    detection, divides by the number of anchors assigned to an object instead.
    """
    logits, target, weight = mask_ignored(logits, label, weight)
    if logits.shape[-1] == 1:
        log_miss = -pixel_cross_entropy(logits, 1 - target)
    else:
        others = jnp.where(one_hot(target, logits), -jnp.inf, jax.nn.log_softmax(logits))
        log_miss = jax.nn.logsumexp(others, axis=-1)
    # For gamma < 1, a power of 1 - p_t itself has no finite gradient at p_t = 1.
    loss = jnp.exp(focal_gamma * log_miss) * pixel_cross_entropy(logits, target)
    return weighted_mean(loss, target, weight, class_weights, total)


@loss_term(
    "dice",
    is_mean_over_pixels=False,
    fields=fields_of_base("dice_smooth"),
)
def dice(
    logits: jax.Array,
    label: jax.Array,
    total: Total = jnp.sum,
    weight: jax.Array | None = None,
    *,
    dice_smooth: float,
    class_weights: Sequence[float] = (),
) -> jax.Array:
    """Computes 1 - soft Dice over the whole batch: of class 1 if K = 1, else the mean over classes.

    The soft Dice of a class with probabilities p and labels t in {0, 1} is
    (2 sum(w p t) + smooth) / (sum(w p) + sum(w t) + smooth): V-Net's (Milletari et al. 2016)
    without its squares. w is the pixel weight and smooth is `loss.dice_smooth`, pixels. Class
    weights weight the mean over classes, so that they have no effect if K = 1. Soft Dice is
    computed from a batch's probabilities; it is never reported as the Dice of a prediction.
    """
    logits, target, weight = mask_ignored(logits, label, weight)
    p, t = probabilities(logits), one_hot(target, logits)
    weight = weight[..., None]
    totals = totals_by_class(total)
    # 1 - Dice as one fraction avoids a difference of large sums: its numerator is sum(w |p - t|).
    misses = totals(weight * jnp.where(t, 1 - p, p))
    per_class = misses / (totals(weight * p) + totals(weight * t) + dice_smooth)
    return mean_over_classes(per_class, class_weights)


def build(
    *, name: str, weights: Sequence[float], class_weights: Sequence[float], **fields: Any
) -> Loss:
    """Builds the loss that the fields of `config.loss` describe, a weighted sum of terms.

    Args:
      name: keys of `LOSSES`, joined by '+'.
      weights: a factor for each term; () is 1 for each.
      class_weights: a factor for each class; () is 1 for each.
      **fields: the other fields. A term takes its own, or their defaults if they are missing.

    Returns:
      A function of (logits, label, total=jnp.sum, weight=None) that returns a float32 scalar.

    Raises:
      UserError: a field is invalid; the message names the first such field.
    """
    names = name.split("+")
    for term in names:
        if term not in LOSSES:
            raise UserError(
                f"loss.name={name!r}: {term!r} is unknown; choose one of {', '.join(LOSSES)}, or "
                f"join several by '+'"
            )
        if names.count(term) > 1:
            raise UserError(
                f"loss.name={name!r}: {term} is repeated; name it once, with its factor in "
                f"loss.weights"
            )
    if len(weights) not in (0, len(names)):
        raise _wrong_number("weights", weights, f"loss.name={name!r}", "term", len(names))
    _check_factors("weights", weights)
    _check_factors("class_weights", class_weights)
    terms = [
        (
            factor,
            partial(LOSSES[term].function, class_weights=class_weights, **own_fields(term, fields)),
        )
        for factor, term in zip(weights or [1.0] * len(names), names, strict=True)
    ]

    def loss(
        logits: jax.Array,
        label: jax.Array,
        total: Total = jnp.sum,
        weight: jax.Array | None = None,
    ) -> jax.Array:
        values = [factor * term(logits, label, total, weight) for factor, term in terms]
        return jnp.sum(jnp.stack(values))

    return loss


def is_mean_over_pixels(*, name: str, class_weights: Sequence[float], **_: Any) -> bool:
    """Whether the loss of the fields of `config.loss` is a plain mean over counted pixels.

    Then several images' loss is the mean of theirs, each weighted by its counted pixels. With class
    weights the mean is weighted by what the labels are.
    """
    return not class_weights and all(LOSSES[term].is_mean_over_pixels for term in name.split("+"))


def pixel_weights(*, name: str, class_weights: Sequence[float], **_: Any) -> PixelWeights | None:
    """Returns the weights of the mean over pixels that the loss of `config.loss` is.

    Returns:
      A function of the labels, uint8 [N, H, W], and the pixel weights, float32 [N, H, W] or None,
      that returns float32 [N, H, W], 0 at ignored pixels. None if a term of the loss is no mean
      over pixels.
    """
    if not all(LOSSES[term].is_mean_over_pixels for term in name.split("+")):
        return None

    def weights(label: jax.Array, weight: jax.Array | None) -> jax.Array:
        valid = label != IGNORED
        own = jnp.where(valid, 1.0 if weight is None else weight, 0.0)
        return _weighted_by_class(own, jnp.where(valid, label, 0), class_weights)

    return weights


def check(*, classes: int, **fields: Any) -> None:
    """Raises a `UserError` if the fields of `config.loss` are invalid for `classes` logits."""
    build(**fields)
    name, class_weights = fields["name"], fields["class_weights"]
    for term in name.split("+"):
        if classes not in LOSSES[term].logits:
            suitable = [name for name, entry in LOSSES.items() if classes in entry.logits]
            raise UserError(
                f"loss.name={name!r} with model.classes={classes}: {term} is not for "
                f"{classes} logit{'s' * (classes > 1)}; choose from {', '.join(suitable)}"
            )
    smoothed = [term for term, entry in LOSSES.items() if entry.fields.keys() & SMOOTHING.keys()]
    if fields.get("label_smoothing") and not {*smoothed} & {*name.split("+")}:
        raise UserError(
            f"loss.label_smoothing={fields['label_smoothing']} with loss.name={name!r}: only "
            f"{' and '.join(smoothed)} smooth labels; add one of them, or set it to 0"
        )
    needed = max(classes, 2)
    if len(class_weights) not in (0, needed):
        task = f"model.classes={classes}"
        raise _wrong_number("class_weights", class_weights, task, "class", needed)


def own_fields(term: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the keyword arguments that a term takes from the fields of `config.loss`.

    Raises:
      UserError: one of them is outside its range.
    """
    found = {}
    for name, field in LOSSES[term].fields.items():
        key = name.removeprefix("loss.")
        found[key] = fields.get(key, field.default)
        if field.range and not within(found[key], field.range):
            raise UserError(f"{name}={show(found[key])}: must be {expected(field)}")
    return found


def mask_ignored(
    logits: jax.Array, label: jax.Array, weight: jax.Array | None
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Sets logits, labels and weights to 0 at ignored pixels.

    The logits are set too, because 0 times a non-finite value or gradient would be NaN.

    Args:
      logits: float32 [N, H, W, K].
      label: uint8 [N, H, W].
      weight: float32 [N, H, W], or None for 1 everywhere.

    Returns:
      Logits, labels (int32) and weights (float32), with the shapes of the arguments.
    """
    valid = label != IGNORED
    logits = jnp.where(valid[..., None], logits, 0.0)
    target = jnp.where(valid, label, 0).astype(jnp.int32)
    return logits, target, jnp.where(valid, 1.0 if weight is None else weight, 0.0)


def pixel_cross_entropy(
    logits: jax.Array, target: jax.Array, label_smoothing: float = 0.0
) -> jax.Array:
    """Returns each pixel's cross-entropy, nats [N, H, W]; see `cross_entropy` for smoothing."""
    if logits.shape[-1] == 1:
        probability = (1 - label_smoothing) * target + label_smoothing / 2
        return optax.sigmoid_binary_cross_entropy(logits[..., 0], probability)
    # The labelled class's logit, as a sum: for a gather, a TPU copies the logits, padded to 128
    # classes, which lowers the highest possible rate of voc.py from 295 to 231 images/s (v5e).
    labelled = logits.sum(axis=-1, where=one_hot(target, logits))
    normalizer = jax.nn.logsumexp(logits, axis=-1)
    loss = normalizer - labelled
    if not label_smoothing:
        return loss
    uniform = normalizer - logits.mean(axis=-1)
    return (1 - label_smoothing) * loss + label_smoothing * uniform


def probabilities(logits: jax.Array) -> jax.Array:
    """Returns the probability of each logit's class, float32 [N, H, W, K]."""
    return jax.nn.sigmoid(logits) if logits.shape[-1] == 1 else jax.nn.softmax(logits)


def one_hot(target: jax.Array, logits: jax.Array) -> jax.Array:
    """Returns whether a pixel has each logit's class, bool [N, H, W, K]."""
    k = logits.shape[-1]
    return target[..., None] == (jnp.arange(k) if k > 1 else 1)


def weighted_mean(
    values: jax.Array,
    target: jax.Array,
    weight: jax.Array,
    class_weights: Sequence[float],
    total: Total,
) -> jax.Array:
    """Computes the weighted mean of the pixels' values.

    Args:
      values: float32 [N, H, W].
      target: labels, int32 [N, H, W], whose class weights are factors of the weights.
      weight: float32 [N, H, W].
      class_weights: a factor for each class; () is 1 for each.
      total: sums an array over the global batch.

    Returns:
      The mean, float32 []; 0 if all weights are 0.
    """
    weight = _weighted_by_class(weight, target, class_weights)
    denominator = total(weight)
    return total(weight * values) / jnp.where(denominator > 0, denominator, 1.0)


def _weighted_by_class(
    weight: jax.Array, target: jax.Array, class_weights: Sequence[float]
) -> jax.Array:
    """Multiplies pixel weights [N, H, W] by the weights of the labelled classes."""
    if not class_weights:
        return weight
    return weight * jnp.asarray(class_weights, jnp.float32)[target]


def totals_by_class(total: Total) -> Callable[[jax.Array], jax.Array]:
    """Returns a function that sums each class: [..., K] -> [K]."""
    return jax.vmap(total, in_axes=-1, out_axes=-1)


def mean_over_classes(values: jax.Array, class_weights: Sequence[float]) -> jax.Array:
    """Computes the mean of the classes' values, float32 [K], weighted by class unless K = 1.

    It is 0 if all weights are 0.
    """
    if len(values) == 1 or not class_weights:
        return values.mean()
    weights = jnp.asarray(class_weights, jnp.float32)
    return jnp.sum(weights * values) / (jnp.sum(weights) if any(class_weights) else 1.0)


def _check_factors(field: str, factors: Sequence[float]) -> None:
    good = all(isinstance(x, int | float) and 0 <= x < math.inf for x in factors)
    if not good or (factors and not any(factors)):
        raise UserError(
            f"loss.{field}={tuple(factors)}: must be finite, non-negative numbers, not all 0; "
            f"give others, or () for 1 each"
        )


def _wrong_number(
    field: str, factors: Sequence[float], of: str, what: str, expected: int
) -> UserError:
    return UserError(
        f"loss.{field}={tuple(factors)} with {of}: {len(factors)} given; give {expected}, one for "
        f"each {what}, or () for 1 each"
    )
