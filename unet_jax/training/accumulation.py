"""The gradient of a batch, computed from micro-batches to save memory (gradient accumulation).

The loss of a batch is not the mean of the losses of its parts: it divides sums over all pixels of
the batch. Both methods here give the gradient of that loss, up to rounding:

- A mean over pixels needs one pass. The loss of each micro-batch is weighted by its share of the
  batch's pixels, and the gradients are added.
- Any other loss needs another forward pass before. That pass computes the logits of the whole
  batch, which take little memory, and with them the loss and its gradient with respect to the
  logits. The second pass propagates this gradient through the network, one micro-batch at a time
  (Gao et al. 2021, https://arxiv.org/abs/2101.06983).
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from unet_jax.distributed import reductions
from unet_jax.learning.deep_supervision import at_level, mean_over_levels
from unet_jax.learning.losses import Loss, PixelWeights
from unet_jax.models.network import Logits

Batch = dict[str, jax.Array]
# (parameters, images, random key) -> logits, updated batch statistics by collection
Forward = Callable[[dict, jax.Array, jax.Array], tuple[Logits, Any]]


def loss_and_gradient(
    forward: Forward,
    loss: Loss,
    params: dict,
    stats: dict,
    batch: Batch,
    key: jax.Array,
    *,
    count: int = 1,
    pixel_weights: PixelWeights | None = None,
) -> tuple[jax.Array, dict, dict]:
    """Computes the loss of the batch of all devices, and its gradient by one device's part.

    Micro-batch i has the images i, i + count, ... of the part. A micro-batch of all devices of a
    host then has the same images for any number of devices.

    Args:
      forward: the network in training.
      loss: see `losses.Loss`.
      params: the parameters that are trained.
      stats: the batch statistics before the step, by collection.
      batch: `image` [N, H, W, C], `label` [N, H, W] and optionally `weight` [N, H, W].
      key: random key of dropout; the number of the micro-batch is folded in if there are several.
      count: number of micro-batches; divides N.
      pixel_weights: see `losses.pixel_weights`.

    Returns:
      The loss, the gradient, whose mean over the devices is that of the loss, and the updated
      statistics: the mean of those that each micro-batch gives.
    """
    if count == 1:

        def of_whole(params: dict) -> tuple[jax.Array, dict]:
            logits, updated = forward(params, batch["image"], key)
            return _loss_of(loss, logits, batch), updated

        (value, updated), gradient = jax.value_and_grad(of_whole, has_aux=True)(params)
        return value, gradient, updated

    batch = {name: batch[name] for name in ("image", "label", "weight") if name in batch}
    parts = _split(batch, count)
    keys = jax.vmap(functools.partial(jax.random.fold_in, key))(jnp.arange(count))
    if pixel_weights is None:
        network = functools.partial(forward, params)
        value, parts["gradient"] = _loss_and_logit_gradient(network, loss, batch, parts, keys)
        part_loss = _product_with_gradient
    else:
        value = None  # the sum of the shares
        part_loss = functools.partial(_share_of_loss, loss, pixel_weights, batch)

    def add(sums: tuple, part: tuple[Batch, jax.Array]) -> tuple[tuple, None]:
        def of_part(params: dict) -> tuple[jax.Array, dict]:
            logits, updated = forward(params, part[0]["image"], part[1])
            return part_loss(logits, part[0]), updated

        (own, updated), gradient = jax.value_and_grad(of_part, has_aux=True)(params)
        # In this form, statistics that a frozen norm keeps stay exactly the same.
        moved = jax.tree.map(lambda new, old: (new - old) / count, updated, stats)
        return jax.tree.map(jnp.add, sums, (own, gradient, moved)), None

    zeros = jax.tree.map(jnp.zeros_like, (params, stats))
    sums, _ = jax.lax.scan(add, (jnp.zeros(()), *zeros), (parts, keys))
    own, gradient, moved = sums
    updated = jax.tree.map(jnp.add, stats, moved)
    return own if value is None else value, gradient, updated


def _loss_and_logit_gradient(
    network: Callable[[jax.Array, jax.Array], tuple[Logits, Any]],
    loss: Loss,
    batch: Batch,
    parts: Batch,
    keys: jax.Array,
) -> tuple[jax.Array, Logits]:
    """Returns the batch's loss and its gradient with respect to the logits, in micro-batches."""

    def logits_of(_: None, part: tuple[Batch, jax.Array]) -> tuple[None, Logits]:
        return None, network(part[0]["image"], part[1])[0]

    _, logits = jax.lax.scan(logits_of, None, (parts, keys))
    value, gradient = jax.value_and_grad(lambda x: _loss_of(loss, x, batch))(_join(logits))
    return value, _split(gradient, len(keys))


def _loss_of(loss: Loss, logits: Logits, batch: Batch) -> jax.Array:
    """Returns the loss over all devices."""
    return mean_over_levels(loss, logits, batch["label"], reductions.total, batch.get("weight"))


def _share_of_loss(
    loss: Loss, pixel_weights: PixelWeights, batch: Batch, logits: Logits, part: Batch
) -> jax.Array:
    """Returns what a micro-batch adds to the loss of the batch, a mean over pixels."""

    def pixels(of: Batch, level: int) -> jax.Array:
        weight = at_level(of["weight"], level) if "weight" in of else None
        return reductions.total(pixel_weights(at_level(of["label"], level), weight))

    levels = range(len(logits) if isinstance(logits, tuple) else 1)
    totals = [pixels(batch, level) for level in levels]
    shares = [
        pixels(part, level) / jnp.where(total > 0, total, 1.0) for level, total in enumerate(totals)
    ]
    return mean_over_levels(
        loss, logits, part["label"], reductions.total, part.get("weight"), shares
    )


def _product_with_gradient(logits: Logits, part: Batch) -> jax.Array:
    """Returns a scalar whose gradient with respect to the logits is `gradient` of the part."""
    products = jax.tree.map(lambda x, y: jnp.sum(x * y), logits, part["gradient"])
    return sum(jax.tree.leaves(products), jnp.zeros(()))


def _split(tree: Any, count: int) -> Any:
    """Splits arrays [N, ...] into micro-batches: [count, N / count, ...]."""
    return jax.tree.map(
        lambda x: x.reshape(x.shape[0] // count, count, *x.shape[1:]).swapaxes(0, 1), tree
    )


def _join(tree: Any) -> Any:
    """Joins arrays [count, N / count, ...] of micro-batches to [N, ...]; undoes `_split`."""
    return jax.tree.map(lambda x: x.swapaxes(0, 1).reshape(-1, *x.shape[2:]), tree)
