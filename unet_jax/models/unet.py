"""U-Net (Ronneberger, Fischer, Brox, 2015, https://arxiv.org/abs/1505.04597) and a variant.

With `padding="same"` every 3x3 convolution keeps the size. With `padding="valid"`, as in the paper,
it removes one pixel on every side, so that each logit depends on pixels of the image only. The
whole network removes `margin(depth)` pixels on every side: 572x572 pixels give 388x388 logits.
"""

import functools
from typing import Any, Self

import flax.linen as nn
import jax
import jax.numpy as jnp

from unet_jax.core.errors import UserError
from unet_jax.models.blocks import (
    NORMS,
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
    LANES,
    ImageConv,
    PairBlock,
    PairHead,
    SkipUpConv,
    UpKernel,
    max_pool_pairs,
)
from unet_jax.models.network import NETWORKS, Logits, Network
from unet_jax.models.remat import recomputed

PADDINGS = ("same", "valid")
UPSAMPLES = ("transpose", "nearest", "bilinear", "bilinear_corners")


def margin(depth: int) -> int:
    """Returns the margin of an unpadded U-Net, the pixels that it removes on every side.

    At depth 4 the margin is 92 pixels.
    """
    # A block removes 2 pixels of its level, each of which is 2^level pixels of the image. With two
    # blocks on each level above the bottom and one at the bottom, the margin is
    # 2 (2 (2^depth - 1) + 2^depth).
    return 6 * 2**depth - 4


def valid_input_size(output: int, depth: int) -> int:
    """Computes the smallest input size of an unpadded U-Net that gives at least `output` logits.

    Each pooling needs an even size, so the number of logits is exact only if `output` = 4
    (mod 2^depth); at depth 4, 388 logits need 572 pixels. The first logit belongs to the pixel that
    is `margin(depth)` pixels from the top and from the left.

    Args:
      output: side of the logits, pixels.
      depth: number of poolings.

    Returns:
      Side of the input, pixels.
    """
    multiple = 2**depth
    return (output + multiple - 5) // multiple * multiple + 4 + 2 * margin(depth)


@NETWORKS.register("unet")
class UNet(Network):
    """The U-Net, with a norm after each 3x3 convolution.

    Level i = 0 ... depth has width * 2^i channels. In the decoder a transposed convolution halves
    the channels. If `upsample` is a resize (`blocks.resize_double`), which keeps the channels, the
    block before it ends with half of them instead.

    The input is float [N, H, W, C] with any H and W. `same` pads it with zeros at the bottom and
    the right to multiples of 2^depth. `valid` mirrors it at the edges, by `margin(depth)` pixels
    and what the poolings need. The result is cropped back. The output is float32 logits
    [N, H, W, classes] for any `dtype`.

    Attributes:
      classes: logits per pixel.
      width: channels of the first level.
      depth: number of 2x2 poolings.
      norm: one of `blocks.NORMS`.
      padding: one of `PADDINGS`; the parameters do not depend on it.
      upsample: one of `UPSAMPLES`.
      dropout: dropout rate at the bottleneck, in training.
      dtype: arithmetic of all layers but those that compute logits.
      deep_supervision: whether each level of the decoder computes logits in training (see
        `Network.__call__`), by a 1x1 convolution `aux_head_1`, `aux_head_2`, ... Needs the padding
        `same`.
      remat: whether the gradient recomputes each level instead of keeping its activations (see
        `remat.recomputed`).
      pairs: computes the first level on pairs of pixels, which is faster on TPU (see
        `kernels.pixel_pairs`). Needs the defaults of `norm`, `padding` and `upsample`.
    """

    choices = Network.choices | {
        "padding": PADDINGS,
        "norm": NORMS,
        "upsample": UPSAMPLES,
        "deep_supervision": (False, True),
        "remat": (False, True),
    }
    encoder_modules = ("down_", "pool_", "bottom")
    head_modules = ("head", "aux_head_")

    classes: int
    width: int = 64
    depth: int = 4
    norm: str = "batch"
    padding: str = "same"
    upsample: str = "transpose"
    dropout: float = 0.0
    dtype: jnp.dtype = jnp.float32
    deep_supervision: bool = False
    remat: bool = False
    pairs: bool = False

    @classmethod
    def from_config(cls, *, platform: str, **fields: Any) -> Self:
        padding, upsample = fields["padding"], fields["upsample"]
        if padding == "valid" and upsample in ("bilinear", "bilinear_corners"):
            # Bilinear resizing extrapolates at the edges, but the logits of an unpadded network
            # must depend on the image's pixels only.
            raise UserError(
                f"model.padding='valid' with model.upsample={upsample!r}: the logits at the edges "
                f"would depend on where an image is cut; choose 'transpose' or 'nearest'"
            )
        if padding == "valid" and fields.get("deep_supervision"):
            raise UserError(
                "model.padding='valid' with model.deep_supervision=True: the logits of lower "
                "levels would lack more of the image than those of the first; choose "
                "model.padding='same'"
            )
        usual = (padding, fields["norm"], upsample) == ("same", "batch", "transpose")
        # A subclass may change the layers of the first level.
        pairs = cls is UNet and platform == "tpu" and usual and 2 * fields["width"] <= LANES
        return super().from_config(platform=platform, pairs=pairs, **fields)

    @property
    def multiple(self) -> int:
        return 2**self.depth

    @property
    def margin(self) -> int:
        return margin(self.depth)

    @property
    def unpadded(self) -> bool:
        return self.padding == "valid"

    def input_size(self, output: int) -> int:
        return valid_input_size(output, self.depth) if self.unpadded else output

    @property
    def first_kernel(self) -> tuple[str, ...]:
        return "down_0", "Conv_0", "kernel"

    def __call__(self, x: jax.Array, train: bool = False) -> Logits:
        height, width = x.shape[1:3]
        if self.unpadded:
            x = mirror(x, self.margin, *(self.input_size(size) for size in (height, width)))
        else:
            x = pad_to_multiple(x, self.multiple)
        logits = self.core(x, train)
        if not isinstance(logits, tuple):
            return logits[:, :height, :width]
        sizes = [(-(-height // 2**i), -(-width // 2**i)) for i in range(len(logits))]
        return tuple(
            a[:, :rows, :columns] for a, (rows, columns) in zip(logits, sizes, strict=True)
        )

    @nn.compact
    def core(self, x: jax.Array, train: bool = False) -> Logits:
        """Computes the logits without padding the input, for tiles that include their margin.

        Call it by `apply(variables, x, method="core")`. With padding `valid` the logits of a tile
        are equal to those of the same pixels in a larger image (overlap-tile strategy), if the
        tile's offset is a multiple of 2^depth and the norm has no statistics of the image (`group`
        has).

        Args:
          x: float [N, H, W, C]. With padding `valid`, H and W are values of `valid_input_size`;
            with `same`, multiples of 2^depth.
          train: uses dropout and the batch statistics.

        Returns:
          float32 logits, [N, H - 2 margin, W - 2 margin, classes] with padding `valid` and
          [N, H, W, classes] with `same`. With deep supervision and `train`, a tuple of the logits
          of all levels; see `Network.__call__`.
        """
        remat = self.remat and train
        skips = []
        for level in range(self.depth):
            encode = functools.partial(encode_level, level=level, train=train)
            skip, x = recomputed(encode, self, x, remat=remat)
            skips.append(skip)

        x = recomputed(functools.partial(bottom_level, train=train), self, x, remat=remat)
        x = nn.Dropout(self.dropout, deterministic=not train)(x)

        logits = []  # of the levels that have any, lowest level first
        for level in reversed(range(self.depth)):
            decode = functools.partial(_decode_level, level=level, train=train)
            x, own_logits = recomputed(decode, self, skips[level], x, remat=remat)
            logits += [] if own_logits is None else [own_logits]
        return tuple(logits[::-1]) if self.deep_supervision and train else logits[-1]

    def pool(self, x: jax.Array, level: int) -> jax.Array:
        return max_pool(x)

    def join(self, skip: jax.Array, x: jax.Array, level: int) -> jax.Array:
        """Joins the encoder's features of a level, at the decoder's size, with the decoder's."""
        return jnp.concatenate([skip, x], axis=-1)

    def encoder_block(self, features: int, level: int, *, name: str) -> nn.Module:
        """Returns the encoder's layers of a level: (x, train) -> features of the level."""
        return self.block(features, name=name)

    def block(self, features: int, middle: int | None = None, *, name: str) -> ConvBlock:
        return ConvBlock(features, middle, self.norm, self.padding, self.dtype, name=name)


def encode_level(
    network: UNet, x: jax.Array, level: int, train: bool
) -> tuple[jax.Array, jax.Array]:
    """Computes a level of the encoder: its features, and the input of the next level."""
    if network.pairs and level == 0:
        block = PairBlock(network.width, ImageConv, network.dtype, name="down_0")
        skip = block(x, train=train)
        return skip, max_pool_pairs(skip)  # [N, H, W/2, 2C], [N, H/2, W/2, C]
    features = network.width * 2**level
    skip = network.encoder_block(features, level, name=f"down_{level}")(x, train)
    return skip, network.pool(skip, level)  # [N, H, W, C], [N, H/2, W/2, C]


def bottom_level(network: UNet, x: jax.Array, train: bool) -> jax.Array:
    """Computes the level between encoder and decoder: [N, H, W, C]."""
    # A resize keeps the channels, which a transposed convolution halves.
    level = network.depth if network.upsample == "transpose" else network.depth - 1
    features = network.width * 2**level
    return network.encoder_block(features, network.depth, name="bottom")(x, train)


def _decode_level(
    network: UNet, skip: jax.Array, x: jax.Array, level: int, train: bool
) -> tuple[jax.Array, jax.Array | None]:
    """Computes a level of the decoder: its features, and its logits if it has a head."""
    features = network.width * 2**level
    if network.pairs and level == 0:
        kernel, bias = UpKernel(network.width, name="upconv_0")(x.shape[-1])
        block = PairBlock(network.width, SkipUpConv, network.dtype, name="up_0")
        x = block(skip, x, kernel, bias, train=train)
        return x, float32_logits(PairHead(network.classes, name="head"), x)
    last = features
    if network.upsample == "transpose":
        x = UpConv(features, network.dtype, name=f"upconv_{level}")(x)
    else:
        x = resize_double(x, network.upsample)
        last = network.width * 2 ** max(level - 1, 0)
    x = network.join(crop_to(skip, x), x, level)  # [N, 2H, 2W, 2C]
    x = network.block(last, features, name=f"up_{level}")(x, train)
    if level == 0:
        return x, float32_logits(nn.Conv(network.classes, (1, 1), name="head"), x)
    if network.deep_supervision and (train or network.is_initializing()):
        head = nn.Conv(network.classes, (1, 1), name=f"aux_head_{level}")
        return x, float32_logits(head, x)
    return x, None


@NETWORKS.register("unet2")
class UNet2(UNet):
    """A U-Net that replaces max-pooling by 3x3 convolutions with stride 2 and as many channels.

    No norm and no activation follows such a convolution, as in the public PyTorch U-Nets of the
    PH2 skin lesion exercise that replace pooling and resizing by (transposed) convolutions.
    `padding` must be `same` and `upsample` must be `transpose`.
    """

    choices = UNet.choices | {"padding": ("same",), "upsample": ("transpose",)}

    def pool(self, x: jax.Array, level: int) -> jax.Array:
        # One zero on every side, as in PyTorch: "SAME" would not pad at the top and the left.
        conv = nn.Conv(x.shape[-1], (3, 3), 2, padding=1, dtype=self.dtype, name=f"pool_{level}")
        return conv(x)
