"""U-Net (Ronneberger, Fischer, Brox, 2015, https://arxiv.org/abs/1505.04597)."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from unet_jax.models.layers import ConvBlock, UpConv, max_pool, resize_double

UPSAMPLES = ("transpose", "nearest", "bilinear")


class UNet(nn.Module):
    """The U-Net with zero-padded 3x3 convolutions and a norm after each of them.

    Level i = 0 ... depth has width * 2^i channels. A transposed convolution halves them on the
    way up; where `upsample` is a resize (`nearest`, `bilinear`), which cannot, the blocks
    before it end with half their channels instead.

    Input: float [N, H, W, C], any H and W; it is padded with zeros at the bottom and the right
    to multiples of 2^depth, and the result is cropped back. Output: float32 logits
    [N, H, W, classes], whatever `dtype` is inside.
    """

    classes: int
    width: int = 64
    depth: int = 4
    norm: str = "batch"
    upsample: str = "transpose"
    dropout: float = 0.0  # share of the bottom's activations that training drops
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        height, width = x.shape[1:3]
        multiple = 2**self.depth
        x = jnp.pad(x, ((0, 0), (0, -height % multiple), (0, -width % multiple), (0, 0)))
        channels = [self.width * 2**level for level in range(self.depth + 1)]
        transpose = self.upsample == "transpose"

        skips = []
        for level in range(self.depth):
            x = self.block(channels[level], name=f"down_{level}")(x, train)
            skips.append(x)
            x = max_pool(x)  # [N, H/2, W/2, C]

        x = self.block(channels[-1] if transpose else channels[-2], name="bottom")(x, train)
        x = nn.Dropout(self.dropout, deterministic=not train)(x)

        for level in reversed(range(self.depth)):
            if transpose:
                x = UpConv(channels[level], self.dtype, name=f"upconv_{level}")(x)
            else:
                x = resize_double(x, self.upsample)
            x = jnp.concatenate([skips[level], x], axis=-1)  # [N, 2H, 2W, 2C]
            features = channels[level] if transpose else channels[max(level - 1, 0)]
            x = self.block(features, channels[level], name=f"up_{level}")(x, train)

        logits = nn.Conv(self.classes, (1, 1), dtype=self.dtype, name="head")(x)
        return logits[:, :height, :width].astype(jnp.float32)

    def block(self, features: int, middle: int | None = None, *, name: str) -> ConvBlock:
        return ConvBlock(features, middle, self.norm, self.dtype, name=name)
