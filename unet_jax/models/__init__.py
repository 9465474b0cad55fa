"""Segmentation networks: float images [N, H, W, C] -> float32 logits [N, H, W, K]."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from unet_jax.models.unet import UNet

MODELS = {"unet": UNet}


def build(
    *,
    name: str,
    classes: int,
    width: int,
    depth: int,
    norm: str,
    upsample: str,
    dropout: float,
    dtype: str,
) -> nn.Module:
    """The network that the fields of `config.model` describe.

    `dtype` is that of the layers' arithmetic: `float32`, `bfloat16`, or `auto`, which is
    bfloat16 on accelerators and float32 on CPU. Parameters, statistics and logits are float32.
    """
    if dtype == "auto":
        dtype = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    return MODELS[name](
        classes=classes,
        width=width,
        depth=depth,
        norm=norm,
        upsample=upsample,
        dropout=dropout,
        dtype=jnp.dtype(dtype),
    )


def init(model: nn.Module, channels: int, seed: int) -> dict:
    """Initial variables (`params`, `batch_stats`) as numpy arrays, from the seed alone."""
    image = jnp.zeros((1, 2**model.depth, 2**model.depth, channels))
    # XLA needs three times as long to compile the default generator for every parameter.
    key = jax.random.key(seed, impl="rbg")
    return jax.tree.map(np.asarray, jax.jit(model.init)(key, image))


def scale(image: jax.Array) -> jax.Array:
    """Unsigned integer image -> float32, the range of its type to [-1, 1]."""
    return image.astype(jnp.float32) * (2.0 / jnp.iinfo(image.dtype).max) - 1.0


def probabilities(logits: jax.Array) -> jax.Array:
    """Logits [..., K] -> probabilities [..., K]: sigmoid where K = 1, softmax otherwise."""
    return jax.nn.sigmoid(logits) if logits.shape[-1] == 1 else jax.nn.softmax(logits)


def parameter_count(params: dict) -> int:
    """The number of trainable numbers."""
    return sum(x.size for x in jax.tree.leaves(params))


def forward_gflop(model: nn.Module, variables: dict, size: int, channels: int) -> float | None:
    """10^9 floating-point operations of the forward pass of one size x size image.

    As XLA counts them; None where a backend does not count.
    """
    image = jax.ShapeDtypeStruct((1, size, size, channels), jnp.float32)
    cost = jax.jit(model.apply).lower(variables, image).cost_analysis()
    return cost["flops"] / 1e9 if cost else None
