"""Lovász losses: surrogates of the IoU (Berman et al. 2018, https://arxiv.org/abs/1705.08790)."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax

from unet_jax.learning.losses import Total, mask_ignored, one_hot
from unet_jax.learning.registry import loss_term


@loss_term("lovasz", is_mean_over_pixels=False)
def lovasz(
    logits: jax.Array,
    label: jax.Array,
    total: Total = jnp.sum,
    weight: jax.Array | None = None,
    *,
    class_weights: Sequence[float] = (),
) -> jax.Array:
    """Computes the mean over images of the Lovász hinge (K = 1) or the Lovász-Softmax (K >= 2).

    Each is the Lovász extension of 1 - IoU, which is piecewise linear in the errors of an image's
    pixels: for K = 1 of class 1 and the errors max(0, 1 - z) with z = logit if the label is 1, else
    -logit; for K >= 2 the mean over the classes that the image's label has, with the errors
    1 - p if the label is the class, else p, where p is its probability. Pixel weights weight the
    pixels of both sets of the IoU. Class weights weight the mean over classes, so that they have
    no effect if K = 1. Images without counted pixels do not enter the mean.
    """
    logits, target, weight = mask_ignored(logits, label, weight)
    t = one_hot(target, logits)
    if logits.shape[-1] == 1:
        errors = jax.nn.relu(1 - jnp.where(t, logits, -logits))
        present = jnp.any(weight > 0, axis=(1, 2))[:, None]
    else:
        p = jax.nn.softmax(logits)
        errors = jnp.where(t, 1 - p, p)
        present = jnp.any((weight[..., None] > 0) & t, axis=(1, 2))
    by_class = present.astype(jnp.float32)  # [N, K]
    if class_weights and by_class.shape[-1] > 1:
        by_class = by_class * jnp.asarray(class_weights, jnp.float32)
    slopes = iou_slopes(_pixels_last(errors), _pixels_last(t), weight.reshape(len(weight), 1, -1))
    values = by_class * jnp.sum(_pixels_last(errors) * slopes, axis=-1)
    sums = by_class.sum(-1)
    images = total(jnp.where(sums > 0, 1.0, 0.0))
    per_image = values.sum(-1) / jnp.where(sums > 0, sums, 1.0)
    return total(per_image) / jnp.where(images > 0, images, 1.0)


def iou_slopes(errors: jax.Array, positive: jax.Array, weight: jax.Array) -> jax.Array:
    """Computes the gradient of the Lovász extension of 1 - IoU by the errors of the pixels.

    In the order of falling errors, it is by how much the IoU of the labelled mask falls when one
    more pixel is predicted wrongly (Berman et al. 2018, algorithm 1), with pixels that count as
    `weight` pixels each. It is constant between the kinks of the loss and has no gradient itself.

    Args:
      errors: float32 [N, K, P], of P pixels.
      positive: whether a pixel is labelled as the class, bool [N, K, P].
      weight: float32 [N, 1, P].

    Returns:
      float32 [N, K, P], in the order of the pixels.
    """
    pixel = lax.broadcasted_iota(jnp.int32, errors.shape, 2)
    operands = (-errors, pixel, jnp.where(positive, weight, 0.0), jnp.where(positive, 0.0, weight))
    _, order, inside, outside = lax.sort(lax.stop_gradient(operands), num_keys=1)
    labelled = inside.sum(-1, keepdims=True)
    intersection = jnp.maximum(labelled - jnp.cumsum(inside, axis=-1), 0.0)
    union = labelled + jnp.cumsum(outside, axis=-1)
    # A missed pixel of the mask lowers the intersection, any other raises the union. As quotients,
    # not as differences of two IoUs, the slopes are exact to rounding for millions of pixels too.
    before = jnp.maximum(union - outside, labelled)
    iou = jnp.where(before > 0, intersection / jnp.where(before > 0, before, 1.0), 1.0)
    slopes = (inside + iou * outside) / jnp.where(union > 0, union, 1.0)
    _, slopes = lax.sort((order, slopes), num_keys=1)
    return slopes


def _pixels_last(x: jax.Array) -> jax.Array:
    """[N, H, W, K] -> [N, K, H W]."""
    return jnp.moveaxis(x, -1, 1).reshape(x.shape[0], x.shape[-1], -1)
