"""UNet++ (Zhou, Siddiquee, Tajbakhsh, Liang, 2018, https://arxiv.org/abs/1807.10165)."""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from unet_jax.models.blocks import NORMS, UpConv, float32_logits
from unet_jax.models.network import NETWORKS, Network
from unet_jax.models.remat import recomputed
from unet_jax.models.unet import UNet, bottom_level, encode_level


@NETWORKS.register("unet_plus_plus")
class UNetPlusPlus(UNet):
    """The U-Net with nested, dense skip connections.

    Node (i, j) of the network, i + j <= depth, is a block of level i. Nodes (i, 0) are the encoder.
    Node (i, j) joins all earlier nodes of its level, (i, 0) ... (i, j - 1), and node (i + 1, j - 1)
    upsampled by a transposed convolution, which halves the channels. The last node of the first
    level, (0, depth), gives the logits. `padding` must be `same` and `upsample` must be
    `transpose`.

    The deep supervision of the paper, which trains all nodes (0, j) and averages their logits or
    prunes the network, is not supported.
    """

    choices = Network.choices | {"norm": NORMS, "remat": (False, True)}

    @nn.compact
    def core(self, x: jax.Array, train: bool = False) -> jax.Array:
        def apply(layers: Callable, *inputs: jax.Array, **options: Any) -> Any:
            layers = functools.partial(layers, train=train, **options)
            return recomputed(layers, self, *inputs, remat=self.remat and train)

        nodes: list[list[jax.Array]] = []  # by level, each [N, H / 2^level, W / 2^level, C]
        for level in range(self.depth):
            features, x = apply(encode_level, x, level=level)
            nodes.append([features])

        x = apply(bottom_level, x)
        nodes.append([nn.Dropout(self.dropout, deterministic=not train)(x)])

        for j in range(1, self.depth + 1):
            for i in range(self.depth - j + 1):
                node = apply(_node, nodes[i + 1][j - 1], *nodes[i], i=i, j=j)
                nodes[i].append(node)

        return float32_logits(nn.Conv(self.classes, (1, 1), name="head"), nodes[0][-1])


def _node(
    network: UNetPlusPlus, lower: jax.Array, *earlier: jax.Array, i: int, j: int, train: bool
) -> jax.Array:
    """Computes node (i, j) from (i + 1, j - 1) and the earlier nodes of its level."""
    channels = network.width * 2**i
    up = UpConv(channels, network.dtype, name=f"upconv_{i}_{j}")(lower)
    x = jnp.concatenate([*earlier, up], axis=-1)  # [N, H, W, (j + 1) C]
    return network.block(channels, name=f"up_{i}_{j}")(x, train)
