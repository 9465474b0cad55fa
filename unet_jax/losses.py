"""Losses: logits and labels -> one number.

Each is a sum over a sum. `total` adds one array up: over the batch at hand by default, in a
training step over the batches of all devices too, so that the loss of a global batch does not
depend on how it is spread (averages of averages do, where ignored pixels differ). Ignored
pixels (label 255) count in no sum; where every pixel is ignored, loss and gradient are 0.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from unet_jax import IGNORED

Total = Callable[[jax.Array], jax.Array]
Loss = Callable[..., jax.Array]  # (logits, label, total=jnp.sum) -> scalar


def binary_cross_entropy(logits: jax.Array, label: jax.Array, total: Total = jnp.sum) -> jax.Array:
    """Mean binary cross-entropy: logits [N, H, W, 1], label uint8 [N, H, W] -> nats a pixel."""
    valid = label != IGNORED
    target = (label == 1).astype(jnp.float32)
    # Masked before and after: 0 times a gradient that is not finite would be NaN.
    logits = jnp.where(valid, logits[..., 0], 0.0)
    loss = optax.sigmoid_binary_cross_entropy(logits, target)  # [N, H, W]
    return total(jnp.where(valid, loss, 0.0)) / jnp.maximum(total(valid), 1)


def cross_entropy(logits: jax.Array, label: jax.Array, total: Total = jnp.sum) -> jax.Array:
    """Mean cross-entropy: logits [N, H, W, K], label uint8 [N, H, W] -> nats a pixel."""
    valid = label != IGNORED
    target = jnp.where(valid, label, 0).astype(jnp.int32)
    logits = jnp.where(valid[..., None], logits, 0.0)
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, target)  # [N, H, W]
    return total(jnp.where(valid, loss, 0.0)) / jnp.maximum(total(valid), 1)


LOSSES: dict[str, Loss] = {"bce": binary_cross_entropy, "cross_entropy": cross_entropy}
