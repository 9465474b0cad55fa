"""U-Net (Ronneberger, Fischer, Brox, 2015, https://arxiv.org/abs/1505.04597) and a variant.

With `padding="same"` every 3x3 convolution keeps the size. With `padding="valid"`, the paper's,
it takes a pixel off every side, so that each logit is computed from an image's pixels alone. All
together they take `margin(depth)` pixels off every side: 572x572 pixels give 388x388 logits.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from unet_jax.models.blocks import (
    ConvBlock,
    UpConv,
    crop_to,
    float32_logits,
    max_pool,
    mirror,
    pad_to_multiple,
    resize_double,
)
from unet_jax.models.kernels.pixel_pairs import (
    ImageConv,
    PairBlock,
    PairHead,
    SkipUpConv,
    UpKernel,
    max_pool_pairs,
)

PADDINGS = ("same", "valid")
UPSAMPLES = ("transpose", "nearest", "bilinear", "bilinear_corners")


def margin(depth: int) -> int:
    """Pixels on every side of its logits that an unpadded U-Net sees: 92 at depth 4."""
    # A block takes 2 pixels of its level, which are 2^level of the image. There are two blocks
    # on each level above the bottom, and one there: 2 (2 (2^depth - 1) + 2^depth).
    return 6 * 2**depth - 4


def valid_input_size(output: int, depth: int) -> int:
    """Side of the smallest input to an unpadded U-Net of at least `output` logits: 388 -> 572.

    Each pooling needs an even size, so only `output` = 4 (mod 2^depth) is met exactly. The
    first logit is that of the pixel `margin(depth)` from the top and the left.
    """
    multiple = 2**depth
    return (output + multiple - 5) // multiple * multiple + 4 + 2 * margin(depth)


class UNet(nn.Module):
    """The U-Net, with a norm after each 3x3 convolution.

    Level i = 0 ... depth has width * 2^i channels. A transposed convolution halves them on the
    way up; where `upsample` is a resize (`layers.resize_double`), which cannot, the blocks
    before it end with half their channels instead.

    Input: float [N, H, W, C], any H and W. `same` pads it with zeros at the bottom and the right
    to multiples of 2^depth, `valid` mirrors it by `margin(depth)` and what the poolings need;
    the result is cropped back. Output: float32 logits [N, H, W, classes], whatever `dtype` is
    inside. Parameters do not depend on `padding`.
    """

    classes: int
    width: int = 64
    depth: int = 4
    norm: str = "batch"
    padding: str = "same"
    upsample: str = "transpose"
    dropout: float = 0.0  # share of the bottom's activations that training drops
    dtype: jnp.dtype = jnp.float32
    # Computes the first level in pairs of pixels, as a TPU likes it (see pairs.py). Of the network
    # as it is by default: BatchNorm, padded, with transposed convolutions.
    pairs: bool = False

    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        height, width = x.shape[1:3]
        if self.padding == "valid":
            sizes = (valid_input_size(size, self.depth) for size in (height, width))
            x = mirror(x, margin(self.depth), *sizes)
        else:
            x = pad_to_multiple(x, 2**self.depth)
        return self.core(x, train)[:, :height, :width]

    @nn.compact
    def core(self, x: jax.Array, train: bool = False) -> jax.Array:
        """The network without its padding, for images that bring their surroundings with them.

        `apply(variables, x, method="core")`: where `padding` is `valid`, x [N, H, W, C] with H
        and W from `valid_input_size` -> float32 logits of the middle [N, H - 2 margin,
        W - 2 margin, classes]. They are equal to the same pixels' logits in a larger image, if
        the offset is a multiple of 2^depth and the norm does not look at the image (`group`
        does). Where it is `same`, H and W are multiples of 2^depth, and the logits have them.
        """
        channels = [self.width * 2**level for level in range(self.depth + 1)]
        transpose = self.upsample == "transpose"

        skips = []
        for level in range(self.depth):
            if self.pairs and level == 0:
                block = PairBlock(self.width, ImageConv, self.dtype, name="down_0")
                x = block(x, train=train)
                skips.append(x)  # [N, H, W/2, 2C]
                x = max_pool_pairs(x)
            else:
                x = self.block(channels[level], name=f"down_{level}")(x, train)
                skips.append(x)
                x = self.pool(x, level)  # [N, H/2, W/2, C]

        x = self.block(channels[-1] if transpose else channels[-2], name="bottom")(x, train)
        x = nn.Dropout(self.dropout, deterministic=not train)(x)

        for level in reversed(range(self.depth)):
            if self.pairs and level == 0:
                kernel, bias = UpKernel(self.width, name="upconv_0")(x.shape[-1])
                block = PairBlock(self.width, SkipUpConv, self.dtype, name="up_0")
                x = block(skips[0], x, kernel, bias, train=train)
                return float32_logits(PairHead(self.classes, name="head"), x)
            if transpose:
                x = UpConv(channels[level], self.dtype, name=f"upconv_{level}")(x)
            else:
                x = resize_double(x, self.upsample)
            x = jnp.concatenate([crop_to(skips[level], x), x], axis=-1)  # [N, 2H, 2W, 2C]
            features = channels[level] if transpose else channels[max(level - 1, 0)]
            x = self.block(features, channels[level], name=f"up_{level}")(x, train)

        return float32_logits(nn.Conv(self.classes, (1, 1), name="head"), x)

    def pool(self, x: jax.Array, level: int) -> jax.Array:
        return max_pool(x)

    def block(self, features: int, middle: int | None = None, *, name: str) -> ConvBlock:
        return ConvBlock(features, middle, self.norm, self.padding, self.dtype, name=name)


class UNet2(UNet):
    """The U-Net whose poolings are convolutions: 3x3, stride 2, as many channels out as in.

    Nothing follows such a convolution, as nothing follows the max-pooling in whose place it is.
    So do the public PyTorch U-Nets of the PH2 skin lesion exercise that replace pooling and
    resizing by (transposed) convolutions. `padding` is `same` and `upsample` is `transpose`.
    """

    def pool(self, x: jax.Array, level: int) -> jax.Array:
        # One zero on every side, as PyTorch has it: "SAME" would be none at the top and the left.
        conv = nn.Conv(x.shape[-1], (3, 3), 2, padding=1, dtype=self.dtype, name=f"pool_{level}")
        return conv(x)
