"""ResNet (He et al., 2015, https://arxiv.org/abs/1512.03385), with torchvision's structure.

As in torchvision, the 3x3 convolution of a bottleneck has the stride (ResNet v1.5).
"""

import functools
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from unet_jax.models.blocks import BatchNorm, convolution_of
from unet_jax.models.encoders.encoder import ENCODERS, Encoder
from unet_jax.models.remat import apply_block, recomputed


class Block(nn.Module):
    """A residual block: [N, H, W, C] -> [N, H / stride, W / stride, features or 4 features].

    Attributes:
      features: channels of the 3x3 convolutions.
      stride: stride of the block, 1 or 2.
      bottleneck: 1x1, 3x3 and 1x1 convolutions, the last to 4 * features; otherwise two of 3x3.
      dtype: arithmetic of the layers.
    """

    features: int
    stride: int
    bottleneck: bool
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        features, out = self.features, self.features * (4 if self.bottleneck else 1)
        if self.bottleneck:
            layers = [(1, features, 1), (3, features, self.stride), (1, out, 1)]
        else:
            layers = [(3, features, self.stride), (3, out, 1)]
        y = x
        for number, (size, channels, stride) in enumerate(layers, 1):
            y = conv(self, channels, size, stride, name=f"conv{number}")(y)
            y = BatchNorm(self.dtype, name=f"bn{number}")(y, train)
            y = nn.relu(y) if number < len(layers) else y
        if self.stride > 1 or x.shape[-1] != out:
            x = conv(self, out, 1, self.stride, name="downsample_0")(x)
            x = BatchNorm(self.dtype, name="downsample_1")(x, train)
        return nn.relu(x + y)


class ResNet(Encoder):
    """A 7x7 convolution with stride 2, 3x3 max-pooling with stride 2, and four stages of blocks."""

    blocks: ClassVar[tuple[int, int, int, int]]  # number of blocks in each stage
    bottleneck: ClassVar[bool] = False
    mean = (0.485, 0.456, 0.406)
    std = (0.229, 0.224, 0.225)
    first_module = "conv1"

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> list[jax.Array]:
        x = conv(self, 64, 7, 2, name="conv1")(x)
        x = nn.relu(BatchNorm(self.dtype, name="bn1")(x, train))
        features = [x]
        for stage in range(1, self.levels):
            if stage == 1:
                x = nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))
            for number in range(self.blocks[stage - 1]):
                stride = 2 if stage > 1 and number == 0 else 1
                name = f"layer{stage}_{number}"
                width = 64 * 2 ** (stage - 1)
                block = functools.partial(
                    Block, width, stride, self.bottleneck, self.dtype, name=name
                )
                layers = functools.partial(apply_block, block=block, train=train)
                x = recomputed(layers, self, x, remat=self.remat and train)
            features.append(x)
        return features


@ENCODERS.register("resnet18")
class ResNet18(ResNet):
    """ResNet-18: features of 64, 64, 128, 256 and 512 channels."""

    timm_name = "resnet18"
    blocks = (2, 2, 2, 2)


@ENCODERS.register("resnet34")
class ResNet34(ResNet):
    """ResNet-34: features of 64, 64, 128, 256 and 512 channels."""

    timm_name = "resnet34"
    blocks = (3, 4, 6, 3)


@ENCODERS.register("resnet50")
class ResNet50(ResNet):
    """ResNet-50: features of 64, 256, 512, 1024 and 2048 channels."""

    timm_name = "resnet50"
    blocks = (3, 4, 6, 3)
    bottleneck = True


def conv(module: nn.Module, features: int, size: int, stride: int, name: str) -> nn.Conv:
    """Returns a convolution of a module, zero-padded to the size of its input / stride."""
    return nn.Conv(
        features,
        (size, size),
        stride,
        padding=size // 2,
        use_bias=False,
        kernel_init=nn.initializers.variance_scaling(2.0, "fan_out", "normal"),
        dtype=module.dtype,
        conv_general_dilated=convolution_of(module) if (size, stride) == (3, 1) else None,
        name=name,
    )
