"""UNet++ (Zhou, Siddiquee, Tajbakhsh, Liang, 2018, https://arxiv.org/abs/1807.10165)."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from unet_jax.models.blocks import NORMS, UpConv, float32_logits
from unet_jax.models.network import NETWORKS, Network
from unet_jax.models.unet import UNet


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

    choices = Network.choices | {"norm": NORMS}

    @nn.compact
    def core(self, x: jax.Array, train: bool = False) -> jax.Array:
        channels = [self.width * 2**level for level in range(self.depth + 1)]

        nodes: list[list[jax.Array]] = []  # by level, each [N, H / 2^level, W / 2^level, C]
        for level in range(self.depth):
            x = self.block(channels[level], name=f"down_{level}")(x, train)
            nodes.append([x])
            x = self.pool(x, level)

        x = self.block(channels[-1], name="bottom")(x, train)
        nodes.append([nn.Dropout(self.dropout, deterministic=not train)(x)])

        for j in range(1, self.depth + 1):
            for i in range(self.depth - j + 1):
                up = UpConv(channels[i], self.dtype, name=f"upconv_{i}_{j}")(nodes[i + 1][j - 1])
                x = jnp.concatenate([*nodes[i], up], axis=-1)  # [N, H, W, (j + 1) C]
                nodes[i].append(self.block(channels[i], name=f"up_{i}_{j}")(x, train))

        return float32_logits(nn.Conv(self.classes, (1, 1), name="head"), nodes[0][-1])
