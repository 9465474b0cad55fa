"""Soft clDice: the overlap of centrelines (Shit et al. 2021, https://arxiv.org/abs/2003.07311)."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax

from unet_jax import IGNORED
from unet_jax.learning.losses import (
    Total,
    mask_ignored,
    mean_over_classes,
    one_hot,
    probabilities,
    totals_by_class,
)
from unet_jax.learning.registry import fields_of_base, loss_term


@loss_term(
    "cldice",
    is_mean_over_pixels=False,
    fields=fields_of_base("cldice_iterations", "dice_smooth"),
)
def cldice(
    logits: jax.Array,
    label: jax.Array,
    total: Total = jnp.sum,
    weight: jax.Array | None = None,
    *,
    cldice_iterations: int,
    dice_smooth: float,
    class_weights: Sequence[float] = (),
) -> jax.Array:
    """Computes 1 - soft clDice over the whole batch: of class 1, or the mean over classes 1 to K-1.

    Soft clDice is the harmonic mean of the precision of the predicted skeleton,
    (sum(w S(p) t) + smooth) / (sum(w S(p)) + smooth), and the sensitivity to the labelled one,
    (sum(w S(t) p) + smooth) / (sum(w S(t)) + smooth), where p are a class's probabilities, t its
    labels in {0, 1}, S is `soft_skeleton` of each image, w is the pixel weight and smooth is
    `loss.dice_smooth`, pixels. Class 0, the background, has no skeleton. Class weights weight the
    mean over the other classes, if there are several. At ignored pixels p, t and w are 0: a
    structure ends there, in the prediction as in the label.

    It is meant to be added to another loss, which the paper's `soft_dice_cldice` does: alone it
    says nothing of the width of the structures.
    """
    counted = (label != IGNORED)[..., None]
    logits, target, weight = mask_ignored(logits, label, weight)
    first = min(logits.shape[-1] - 1, 1)  # class 1
    p = jnp.where(counted, probabilities(logits), 0.0)[..., first:]
    t = one_hot(target, logits)[..., first:]
    weight, totals = weight[..., None], totals_by_class(total)

    def shares(skeleton: jax.Array, hit: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns the shares of a skeleton that hit and miss, [K] each; `hit` is a probability."""
        weighted = weight * skeleton
        size = totals(weighted) + dice_smooth
        return (totals(weighted * hit) + dice_smooth) / size, totals(weighted * (1 - hit)) / size

    labelled = t.astype(p.dtype)
    precision, false_positives = shares(soft_skeleton(p, cldice_iterations), labelled)
    sensitivity, false_negatives = shares(soft_skeleton(labelled, cldice_iterations), p)
    # 1 - the harmonic mean as one fraction avoids a difference of nearly equal numbers.
    per_class = precision * false_negatives + sensitivity * false_positives
    return mean_over_classes(per_class / (precision + sensitivity), class_weights[1:])


def soft_skeleton(p: jax.Array, iterations: int) -> jax.Array:
    """Computes the soft skeleton: algorithm 1 of Shit et al. 2021, with the authors' pooling.

    Each erosion removes the outermost pixels; what an opening, which follows, does not restore is
    added to the skeleton. An erosion is the minimum over a pixel and its four neighbours, a
    dilation the maximum over 3x3 pixels. Pixels outside of the image are left out.

    Args:
      p: probabilities, float32 [N, H, W, K].
      iterations: number of erosions.

    Returns:
      The skeletons, float32 [N, H, W, K], in [0, 1].
    """

    def erode_once(state: tuple[jax.Array, jax.Array], _: None) -> tuple[tuple, None]:
        p, skeleton = state
        eroded = jnp.minimum(-_max_pool(-p, (3, 1)), -_max_pool(-p, (1, 3)))
        opened = _max_pool(_max_pool(eroded, (3, 1)), (1, 3))
        return (eroded, skeleton + (1 - skeleton) * jax.nn.relu(p - opened)), None

    # The first pass adds what the opening of p itself removes.
    (_, skeleton), _ = lax.scan(erode_once, (p, jnp.zeros_like(p)), length=iterations + 1)
    return skeleton


def _max_pool(x: jax.Array, window: tuple[int, int]) -> jax.Array:
    """Returns the maximum over a window around each pixel, [N, H, W, K]."""
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, *window, 1), (1, 1, 1, 1), "SAME")
