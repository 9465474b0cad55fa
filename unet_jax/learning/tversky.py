"""Tversky losses: the soft Dice loss with separate weights of false positives and negatives."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from unet_jax.learning.losses import (
    Total,
    mask_ignored,
    mean_over_classes,
    one_hot,
    probabilities,
    totals_by_class,
)
from unet_jax.learning.registry import fields_of_base, loss_term

INDEX = "tversky_alpha", "tversky_beta", "dice_smooth"


@loss_term("tversky", is_mean_over_pixels=False, fields=fields_of_base(*INDEX))
def tversky(
    logits: jax.Array,
    label: jax.Array,
    total: Total = jnp.sum,
    weight: jax.Array | None = None,
    *,
    tversky_alpha: float,
    tversky_beta: float,
    dice_smooth: float,
    class_weights: Sequence[float] = (),
) -> jax.Array:
    """Computes 1 - Tversky index over the whole batch.

    Salehi, Erdogmus, Gholipour 2017, https://arxiv.org/abs/1706.05721.

    The index of a class is (2 TP + smooth) / (2 TP + 2 alpha FP + 2 beta FN + smooth), of sums of
    probabilities that are weighted by pixel: `dice` if alpha = beta = 0.5. It is class 1's if
    K = 1, else the mean over classes, which class weights weight. smooth is `loss.dice_smooth`,
    pixels; the paper has none.
    """
    misses = _misses(logits, label, total, weight, tversky_alpha, tversky_beta, dice_smooth)
    return mean_over_classes(misses, class_weights)


@loss_term(
    "focal_tversky",
    is_mean_over_pixels=False,
    fields=fields_of_base(*INDEX, "focal_tversky_gamma"),
)
def focal_tversky(
    logits: jax.Array,
    label: jax.Array,
    total: Total = jnp.sum,
    weight: jax.Array | None = None,
    *,
    tversky_alpha: float,
    tversky_beta: float,
    dice_smooth: float,
    focal_tversky_gamma: float,
    class_weights: Sequence[float] = (),
) -> jax.Array:
    """Computes (1 - Tversky index)^(1 / gamma), which stresses classes that are segmented badly.

    Abraham & Khan 2019, https://arxiv.org/abs/1810.07842. There alpha weights false negatives and
    beta false positives, and the loss is the sum over classes, not their mean. gamma is
    `loss.focal_tversky_gamma`; see `tversky` for the rest.
    """
    misses = _misses(logits, label, total, weight, tversky_alpha, tversky_beta, dice_smooth)
    # For gamma > 1 the power has no finite gradient at 0.
    power = jnp.where(misses > 0, misses, 1.0) ** (1 / focal_tversky_gamma)
    return mean_over_classes(jnp.where(misses > 0, power, 0.0), class_weights)


def _misses(
    logits: jax.Array,
    label: jax.Array,
    total: Total,
    weight: jax.Array | None,
    alpha: float,
    beta: float,
    smooth: float,
) -> jax.Array:
    """Returns 1 - Tversky index of each logit's class, float32 [K]."""
    logits, target, weight = mask_ignored(logits, label, weight)
    p, t = probabilities(logits), one_hot(target, logits)
    weight, totals = weight[..., None], totals_by_class(total)
    hits = totals(weight * jnp.where(t, p, 0))
    false_positives = totals(weight * jnp.where(t, 0, p))
    false_negatives = totals(weight * jnp.where(t, 1 - p, 0))
    misses = 2 * (alpha * false_positives + beta * false_negatives)
    return misses / (2 * hits + misses + smooth)
