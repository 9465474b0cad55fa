"""SegNet (Badrinarayanan, Kendall, Cipolla, 2017, https://arxiv.org/abs/1511.00561)."""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from unet_jax.models.blocks import (
    Norm,
    float32_logits,
    max_pool_with_indices,
    max_unpool,
    pad_to_multiple,
)
from unet_jax.models.kernels.convolution import convolve


class ConvReluNorm(nn.Module):
    """3x3 convolution -> ReLU -> norm for each of `features`: [N, H, W, C] -> [N, H, W, last].

    Every convolution has a bias: after the ReLU, the norm cannot take it out again.
    """

    features: Sequence[int]
    norm: str = "batch"
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        for features in self.features:
            x = conv3x3(features, self.dtype)(x)
            x = Norm(self.norm, self.dtype)(nn.relu(x), train)
        return x


class SegNet(nn.Module):
    """An encoder, and a decoder that puts values back where the encoder's maxima were.

    The encoder is VGG16's: level i = 0 ... depth - 1 has width * 2^min(i, 3) channels and two
    convolutions on the first two levels, three below; depth 5 and width 64 are the paper's. The
    decoder mirrors it: as many convolutions on each level, the last of which goes to the next
    level's channels, and on level 0 to the classes. The norm comes after the ReLU; the paper has
    it before.

    Input: float [N, H, W, C], any H and W; it is padded with zeros at the bottom and the right
    to multiples of 2^depth, and the result is cropped back. Output: float32 logits
    [N, H, W, classes], whatever `dtype` is inside.
    """

    classes: int
    width: int = 64
    depth: int = 4
    norm: str = "batch"
    dropout: float = 0.0  # share of the bottom's activations that training drops
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        height, width = x.shape[1:3]
        x = pad_to_multiple(x, 2**self.depth)
        channels = [self.width * 2 ** min(level, 3) for level in range(self.depth)]
        convolutions = [2 if level < 2 else 3 for level in range(self.depth)]

        indices = []
        for level in range(self.depth):
            features = [channels[level]] * convolutions[level]
            x = self.block(features, name=f"down_{level}")(x, train)
            x, index = max_pool_with_indices(x)  # [N, H/2, W/2, C]
            indices.append(index)

        x = nn.Dropout(self.dropout, deterministic=not train)(x)

        for level in reversed(range(self.depth)):
            x = max_unpool(x, indices[level])  # [N, 2H, 2W, C]
            features = [channels[level]] * (convolutions[level] - 1)
            features += [channels[level - 1]] if level else []  # the head is level 0's last
            x = self.block(features, name=f"up_{level}")(x, train)

        logits = float32_logits(conv3x3(self.classes, jnp.float32, name="head"), x)
        return logits[:, :height, :width]

    def block(self, features: Sequence[int], *, name: str) -> ConvReluNorm:
        return ConvReluNorm(features, self.norm, self.dtype, name=name)


def conv3x3(features: int, dtype: jnp.dtype, name: str | None = None) -> nn.Conv:
    init = nn.initializers.he_normal()
    return nn.Conv(
        features,
        (3, 3),
        padding=1,
        kernel_init=init,
        dtype=dtype,
        conv_general_dilated=convolve,
        name=name,
    )
