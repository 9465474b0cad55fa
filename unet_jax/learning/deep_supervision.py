"""Deep supervision (Lee et al., 2015, https://arxiv.org/abs/1409.5185), weighted as in nnU-Net."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from unet_jax.learning.losses import Loss, Total


def mean_over_levels(
    loss: Loss,
    logits: jax.Array | tuple[jax.Array, ...],
    label: jax.Array,
    total: Total = jnp.sum,
    weight: jax.Array | None = None,
    factors: Sequence[jax.Array] = (),
) -> jax.Array:
    """Computes the weighted mean of the losses of all levels of a decoder.

    Level i has the weight 2^-i, divided by the sum of the weights of all levels. A logit of level
    i, which is that of 2^i x 2^i pixels, is compared with the label (and pixel weight) of the
    nearest pixel to their centre, as in nnU-Net; of the four nearest it is the one at the bottom
    right. A logit whose nearest pixel is beyond the image has no label and enters no loss. nnU-Net
    gives the lowest level the weight 0; here it counts as the others.

    Args:
      loss: the loss of one level; see `losses.build`.
      logits: float32 [N, H, W, K], or those of the levels i = 0, 1, ... (see `Network.__call__`).
      label: uint8 [N, H, W].
      total: sums an array over the global batch.
      weight: pixel weights, float32 [N, H, W], or None.
      factors: a factor of the loss of each level; () is 1 for each.

    Returns:
      The loss, float32 []. For logits that are no tuple it is `loss` itself.
    """
    if not isinstance(logits, tuple):
        value = loss(logits, label, total, weight)
        return factors[0] * value if factors else value
    losses = []
    for level, level_logits in enumerate(logits):
        own_label = at_level(label, level)
        rows, columns = own_label.shape[1:3]
        own_weight = None if weight is None else at_level(weight, level)
        value = loss(level_logits[:, :rows, :columns], own_label, total, own_weight)
        losses.append(2.0**-level * (factors[level] * value if factors else value))
    return jnp.sum(jnp.stack(losses)) / sum(2.0**-level for level in range(len(logits)))


def at_level(x: jax.Array, level: int) -> jax.Array:
    """Returns the pixel nearest to the centre of each 2^level x 2^level pixels: [N, H, W].

    Pixels at the bottom and the right that are fewer than that, and lack this pixel, are left out.
    """
    stride = 2**level
    return x[:, stride // 2 :: stride, stride // 2 :: stride]
