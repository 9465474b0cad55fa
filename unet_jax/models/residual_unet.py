"""U-Net with the residual encoder of nnU-Net (Isensee et al., 2024, https://arxiv.org/abs/2404.09556)."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import flax.linen as nn
import jax
import jax.numpy as jnp

from unet_jax.core.errors import UserError
from unet_jax.core.fields import Field
from unet_jax.models.blocks import Norm, convolution_of, window_pixels
from unet_jax.models.network import NETWORKS
from unet_jax.models.unet import UNet

# Residual blocks of the first levels in nnU-Net's plans; every further level has as many as the
# last.
BLOCKS = (1, 3, 4, 6)


def convolution(
    module: nn.Module, features: int, kernel: int, stride: int, norm: str, dtype: jnp.dtype
) -> nn.Conv:
    """Returns a convolution of a module, with a bias only if no norm follows."""
    return nn.Conv(
        features,
        (kernel, kernel),
        stride,
        padding=kernel // 2,
        use_bias=norm == "none",
        kernel_init=nn.initializers.he_normal(),
        dtype=dtype,
        conv_general_dilated=convolution_of(module) if (kernel, stride) == (3, 1) else None,
    )


def average_pool(x: jax.Array) -> jax.Array:
    """Applies 2x2 average pooling with stride 2: [N, H, W, C] -> [N, H/2, W/2, C], H and W even."""
    top_left, top_right, bottom_left, bottom_right = window_pixels(x)
    return (top_left + top_right + bottom_left + bottom_right) / 4


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with norms, added to a shortcut (He et al., 2015), then ReLU.

    [N, H, W, C] -> [N, H / stride, W / stride, features]. As in ResNet-D (He et al., 2018) the
    shortcut is an average pooling where the stride is 2, and then a 1x1 convolution with a norm
    where the number of channels changes.

    Attributes:
      features: channels of the result.
      stride: stride of the first convolution, 1 or 2.
      norm: one of `blocks.NORMS`.
      dtype: arithmetic of the layers.
    """

    features: int
    stride: int = 1
    norm: str = "batch"
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        def layer(x: jax.Array, kernel: int, stride: int = 1) -> jax.Array:
            conv = convolution(self, self.features, kernel, stride, self.norm, self.dtype)
            return Norm(self.norm, self.dtype)(conv(x), train)

        y = layer(nn.relu(layer(x, 3, self.stride)), 3)
        if self.stride > 1:
            x = average_pool(x)
        if x.shape[-1] != self.features:
            x = layer(x, 1)
        return nn.relu(x + y)


class ResidualLevel(nn.Module):
    """The residual blocks of a level; the first has stride 2, except on level 0.

    Level 0 begins with a 3x3 convolution, norm and ReLU, as in nnU-Net.

    Attributes:
      features: channels of the result.
      blocks: number of residual blocks.
      first: whether this is level 0.
      norm: one of `blocks.NORMS`.
      dtype: arithmetic of the layers.
    """

    features: int
    blocks: int
    first: bool
    norm: str = "batch"
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        if self.first:
            x = convolution(self, self.features, 3, 1, self.norm, self.dtype)(x)
            x = nn.relu(Norm(self.norm, self.dtype)(x, train))
        for i in range(self.blocks):
            stride = 1 if self.first or i else 2
            block = ResidualBlock(self.features, stride, self.norm, self.dtype, name=f"block_{i}")
            x = block(x, train)
        return x


@NETWORKS.register("residual_unet")
class ResidualUNet(UNet):
    """The U-Net with residual blocks in the encoder, as in nnU-Net's ResEnc plans.

    Strided convolutions replace the poolings. The decoder is that of the U-Net; nnU-Net's has one
    convolution on each level instead of two. `padding` must be `same`.

    Attributes:
      blocks: number of residual blocks of each level, depth + 1 in all; () is nnU-Net's 1, 3, 4, 6,
        6, ....
    """

    choices = UNet.choices | {"padding": ("same",)}
    options: ClassVar[Mapping[str, Field]] = {
        # Number of residual blocks of each level, depth + 1 in all; (): 1, 3, 4, 6, 6, ... as in
        # nnU-Net.
        "model.blocks": Field((), "[1, 64]", entries=int),
    }

    blocks: tuple[int, ...] = ()

    @classmethod
    def from_config(cls, *, platform: str, blocks: Sequence[int] = (), **fields: Any) -> Self:
        if len(blocks) not in (0, fields["depth"] + 1):
            raise UserError(
                f"model.blocks={tuple(blocks)} with model.depth={fields['depth']}: {len(blocks)} "
                f"given; give {fields['depth'] + 1}, one for each level from the image's to the "
                f"bottom, or () for nnU-Net's"
            )
        return super().from_config(platform=platform, blocks=tuple(blocks), **fields)

    @property
    def margin(self) -> int:
        # A convolution reaches one pixel of its level, 2^level pixels of the image; one with stride
        # 2, a pixel of the level above.
        numbers = self._blocks_by_level()
        encoder = 1 + 2 * numbers[0]
        for level in range(1, self.depth + 1):
            encoder += 2 ** (level - 1) + (2 * numbers[level] - 1) * 2**level
        return encoder + 2 * (2**self.depth - 1)

    def pool(self, x: jax.Array, level: int) -> jax.Array:
        return x  # the first block of the next level has stride 2

    def encoder_block(self, features: int, level: int, *, name: str) -> ResidualLevel:
        blocks = self._blocks_by_level()[level]
        return ResidualLevel(features, blocks, level == 0, self.norm, self.dtype, name=name)

    def _blocks_by_level(self) -> tuple[int, ...]:
        return self.blocks or (*BLOCKS, *[BLOCKS[-1]] * self.depth)[: self.depth + 1]
