"""Attention U-Net (Oktay et al., 2018, https://arxiv.org/abs/1804.03999)."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from unet_jax.models.network import NETWORKS
from unet_jax.models.unet import UNet


class AttentionGate(nn.Module):
    """Additive attention gate: [N, H, W, C] -> [N, H, W, C], weighted by pixel (eqs. 1 and 2).

    All convolutions are 1x1, so that the gate does not change the margin of the network.

    Attributes:
      features: channels of the hidden layer.
      dtype: arithmetic of the layers.
    """

    features: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, skip: jax.Array, gate: jax.Array) -> jax.Array:
        project = nn.Conv(self.features, (1, 1), use_bias=False, dtype=self.dtype, name="skip")
        hidden = nn.Conv(self.features, (1, 1), dtype=self.dtype, name="gate")(gate)
        hidden = nn.relu(hidden + project(skip))
        weights = nn.sigmoid(nn.Conv(1, (1, 1), dtype=self.dtype, name="weights")(hidden))
        return weights * skip


@NETWORKS.register("attention_unet")
class AttentionUNet(UNet):
    """The U-Net with an attention gate on each skip connection.

    A gate weights the encoder's features by coefficients between 0 and 1, one for each pixel. The
    gating signal is the decoder's after it was upsampled to the level of the skip connection, so
    that the coefficients need no upsampling. In the paper it is taken before the upsampling. All
    paddings and upsampling methods of the U-Net are supported.
    """

    def join(self, skip: jax.Array, x: jax.Array, level: int) -> jax.Array:
        features = max(skip.shape[-1] // 2, 1)
        gate = AttentionGate(features, self.dtype, name=f"attention_{level}")
        return super().join(gate(skip, x), x, level)
