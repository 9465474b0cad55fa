"""EfficientNet-Lite0, with the structure of timm's `tf_efficientnet_lite0`.

EfficientNet-B0 (Tan and Le, 2019, https://arxiv.org/abs/1905.11946) without squeeze-and-excitation,
and with ReLU6. The convolutions with stride pad as TensorFlow does: of an even number of pixels
the extra one is at the bottom and the right.
"""

import functools
import re

import flax.linen as nn
import jax
import jax.numpy as jnp

from unet_jax.models.blocks import BatchNorm
from unet_jax.models.encoders.encoder import ENCODERS, Encoder
from unet_jax.models.kernels.depthwise import convolve
from unet_jax.models.remat import apply_block, recomputed

EPSILON = 1e-3  # of the batch normalisation, TensorFlow's

# Of each stage: number of blocks, side of the depthwise kernel, stride, expansion, channels.
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
LAST = (0, 1, 2, 4, 6)  # the last stage of each stride

# Names of modules in lukemelas/EfficientNet-PyTorch, and timm's.
OTHER_TOP = {
    "_conv_stem": "conv_stem",
    "_bn0": "bn1",
    "_conv_head": "conv_head",
    "_bn1": "bn2",
    "_fc": "classifier",
}
OTHER_BLOCK = {
    "expand_conv": "conv_pw",
    "bn0": "bn1",
    "depthwise_conv": "conv_dw",
    "bn1": "bn2",
    "project_conv": "conv_pwl",
    "bn2": "bn3",
}
OTHER_FIRST_BLOCK = {"depthwise_conv": "conv_dw", "project_conv": "conv_pw"}


class DepthwiseConv(nn.Module):
    """Convolution of each channel by itself: [N, H, W, C] -> [N, H / stride, W / stride, C].

    It has the parameters and the values of `nn.Conv` with `feature_group_count` = C.

    Attributes:
      size: side of the kernel, 3 or 5.
      stride: 1 or 2; with 2, H and W must be even.
      dtype: arithmetic of the layer.
    """

    size: int
    stride: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (self.size, self.size, 1, x.shape[-1])
        init = nn.initializers.variance_scaling(2.0, "fan_in", "normal")
        kernel = self.param("kernel", init, shape)
        x, kernel = nn.dtypes.promote_dtype(x, kernel, dtype=self.dtype)
        return convolve(x, kernel, self.stride)


class InvertedResidual(nn.Module):
    """MBConv: 1x1 convolution to more channels, depthwise, and 1x1 convolution to fewer.

    [N, H, W, C] -> [N, H / stride, W / stride, features]. Without expansion it has no first
    convolution, and the names of a depthwise separable convolution.
    """

    features: int
    size: int
    stride: int
    expansion: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        expanded = self.expansion > 1
        y, norms = x, 0

        def norm(y: jax.Array) -> jax.Array:
            nonlocal norms
            norms += 1
            return BatchNorm(self.dtype, epsilon=EPSILON, name=f"bn{norms}")(y, train)

        if expanded:
            y = pointwise(self, self.expansion * x.shape[-1], "conv_pw")(y)
            y = nn.relu6(norm(y))
        y = nn.relu6(norm(DepthwiseConv(self.size, self.stride, self.dtype, name="conv_dw")(y)))
        y = norm(pointwise(self, self.features, "conv_pwl" if expanded else "conv_pw")(y))
        return x + y if y.shape == x.shape else y


@ENCODERS.register("efficientnet_lite0")
class EfficientNetLite0(Encoder):
    """EfficientNet-Lite0: features of 16, 24, 40, 112 and 320 channels."""

    mean = (0.5, 0.5, 0.5)
    std = (0.5, 0.5, 0.5)
    first_module = "conv_stem"
    timm_name = "tf_efficientnet_lite0"
    # Not "encoder.": smp's own network of this name has it, and pads its convolutions otherwise.
    prefixes = ("", "encoder.model.", "backbone.", "model.", "model.encoder.model.")

    @classmethod
    def torch_name(cls, name: str) -> str:
        """Renames the weights of lukemelas/EfficientNet-PyTorch, such as `_blocks.3._bn1.bias`."""
        found = re.fullmatch(r"_blocks\.(\d+)\._(\w+)\.(\w+)", name)
        if not found:
            module, _, leaf = name.rpartition(".")
            return f"{OTHER_TOP[module]}.{leaf}" if module in OTHER_TOP else name
        number, stage, module, leaf = int(found[1]), 0, found[2], found[3]
        while number >= STAGES[stage][0]:  # blocks are counted over all stages there
            number -= STAGES[stage][0]
            stage += 1
            if stage == len(STAGES):
                return name  # of a larger network
        names = OTHER_BLOCK if STAGES[stage][3] > 1 else OTHER_FIRST_BLOCK
        return f"blocks.{stage}.{number}.{names.get(module, module)}.{leaf}"

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> list[jax.Array]:
        x = nn.Conv(
            32,
            (3, 3),
            2,
            padding=((0, 1), (0, 1)),
            use_bias=False,
            dtype=self.dtype,
            name="conv_stem",
        )(x)
        x = nn.relu6(BatchNorm(self.dtype, epsilon=EPSILON, name="bn1")(x, train))
        features = []
        for stage in range(LAST[self.levels - 1] + 1):
            blocks, size, stride, expansion, channels = STAGES[stage]
            for number in range(blocks):
                step = stride if number == 0 else 1
                name = f"blocks_{stage}_{number}"
                block = functools.partial(
                    InvertedResidual, channels, size, step, expansion, self.dtype, name=name
                )
                layers = functools.partial(apply_block, block=block, train=train)
                x = recomputed(layers, self, x, remat=self.remat and train)
            if stage in LAST:
                features.append(x)
        return features


def pointwise(module: nn.Module, features: int, name: str) -> nn.Conv:
    """Returns a 1x1 convolution of a module."""
    return nn.Conv(features, (1, 1), use_bias=False, dtype=module.dtype, name=name)
