"""The boundary-weighted cross-entropy: pixels near a border between classes weigh more."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax

from unet_jax import IGNORED
from unet_jax.learning.losses import Total, mask_ignored, pixel_cross_entropy, weighted_mean
from unet_jax.learning.registry import fields_of_base, loss_term


@loss_term(
    "boundary",
    is_mean_over_pixels=False,
    fields=fields_of_base("boundary_weight", "boundary_pixels"),
)
def boundary(
    logits: jax.Array,
    label: jax.Array,
    total: Total = jnp.sum,
    weight: jax.Array | None = None,
    *,
    boundary_weight: float,
    boundary_pixels: int,
    class_weights: Sequence[float] = (),
) -> jax.Array:
    """Computes the mean cross-entropy with larger weights near the borders between classes.

    It is sum(w ce) / sum(w), where w is the weight of `cross_entropy`, times
    1 + `loss.boundary_weight` if a pixel of another class is within `loss.boundary_pixels` of the
    pixel. Ignored pixels are of no class. The weights are computed on the device from the label
    that the loss gets, after augmentation. F3Net (Wei et al. 2020, https://arxiv.org/abs/1911.11445)
    has such weights too, but ones that fall off smoothly: 1 + 5 |mean of the mask over 31x31 pixels
    - mask|.
    """
    near = near_boundary(label, boundary_pixels)
    logits, target, weight = mask_ignored(logits, label, weight)
    weight = weight * (1 + boundary_weight * near)
    return weighted_mean(pixel_cross_entropy(logits, target), target, weight, class_weights, total)


def near_boundary(label: jax.Array, pixels: int) -> jax.Array:
    """Returns whether a pixel of another class is near each pixel, and neither is ignored.

    Args:
      label: uint8 [N, H, W]; 255 is ignored.
      pixels: side of the square window around a pixel is 2 pixels + 1.

    Returns:
      bool [N, H, W]; what it is at ignored pixels has no meaning.
    """
    counted, label = label != IGNORED, label.astype(jnp.int32)
    highest = _window_max(jnp.where(counted, label, -IGNORED), pixels)
    lowest = -_window_max(jnp.where(counted, -label, -IGNORED), pixels)
    return highest > lowest


def _window_max(x: jax.Array, pixels: int) -> jax.Array:
    """Returns the maximum in the square window around each pixel, int32 [N, H, W]."""
    side, least = 2 * pixels + 1, jnp.iinfo(x.dtype).min
    for window in ((1, side, 1), (1, 1, side)):
        x = lax.reduce_window(x, jnp.array(least, x.dtype), lax.max, window, (1, 1, 1), "SAME")
    return x
