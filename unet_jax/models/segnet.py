"""SegNet (Badrinarayanan, Kendall, Cipolla, 2017, https://arxiv.org/abs/1511.00561)."""

import functools
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from unet_jax.models.blocks import (
    NORMS,
    Norm,
    convolution_of,
    float32_logits,
    max_pool_with_indices,
    max_unpool,
    pad_to_multiple,
)
from unet_jax.models.network import NETWORKS, Network
from unet_jax.models.remat import recomputed
from unet_jax.models.unet import margin


class ConvReluNorm(nn.Module):
    """3x3 convolution, ReLU and norm for each of `features`: [N, H, W, C] -> [N, H, W, last].

    Every convolution has a bias. A norm directly after it would cancel the bias, but here the ReLU
    comes first.
    """

    features: Sequence[int]
    norm: str = "batch"
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        for features in self.features:
            x = conv3x3(self, features, self.dtype)(x)
            x = Norm(self.norm, self.dtype)(nn.relu(x), train)
        return x


@NETWORKS.register("segnet")
class SegNet(Network):
    """SegNet: an encoder, and a decoder that unpools with the indices of the encoder's maxima.

    The encoder is VGG16's: level i = 0 ... depth - 1 has width * 2^min(i, 3) channels, and two
    convolutions on the first two levels, three on the others. The paper has depth 5 and width 64.
    The decoder mirrors the encoder, with as many convolutions on each level. The last convolution
    of a level has the channels of the level above; on level 0 it computes the logits. The norm is
    after the ReLU; in the paper it is before.

    The input is float [N, H, W, C] with any H and W. It is padded with zeros at the bottom and the
    right to multiples of 2^depth, and the result is cropped back. The output is float32 logits
    [N, H, W, classes] for any `dtype`.

    Attributes:
      classes: logits per pixel.
      width: channels of the first level.
      depth: number of 2x2 poolings.
      norm: one of `blocks.NORMS`.
      dropout: dropout rate after the last pooling, in training.
      dtype: arithmetic of all layers but the last.
      remat: whether the gradient recomputes each level (see `remat.recomputed`).
    """

    choices = Network.choices | {"norm": NORMS, "remat": (False, True)}
    encoder_modules = ("down_",)
    head_modules = ("head",)

    classes: int
    width: int = 64
    depth: int = 4
    norm: str = "batch"
    dropout: float = 0.0
    dtype: jnp.dtype = jnp.float32
    remat: bool = False

    @property
    def multiple(self) -> int:
        return 2**self.depth

    @property
    def margin(self) -> int:
        # SegNet sees 8 pixels less than a U-Net of this depth, whose bottom has a block as well.
        return margin(self.depth)

    @property
    def first_kernel(self) -> tuple[str, ...]:
        return "down_0", "Conv_0", "kernel"

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        height, width = x.shape[1:3]
        remat = self.remat and train
        x = pad_to_multiple(x, self.multiple)
        channels = [self.width * 2 ** min(level, 3) for level in range(self.depth)]
        convolutions = [2 if level < 2 else 3 for level in range(self.depth)]

        indices = []
        for level in range(self.depth):
            features = [channels[level]] * convolutions[level]
            encode = functools.partial(_encode, features=features, level=level, train=train)
            x, index = recomputed(encode, self, x, remat=remat)  # [N, H/2, W/2, C]
            indices.append(index)

        x = nn.Dropout(self.dropout, deterministic=not train)(x)

        for level in reversed(range(self.depth)):
            features = [channels[level]] * (convolutions[level] - 1)
            # On level 0 the head is the last convolution.
            features += [channels[level - 1]] if level else []
            decode = functools.partial(_decode, features=features, level=level, train=train)
            x = recomputed(decode, self, x, indices[level], remat=remat)

        logits = float32_logits(conv3x3(self, self.classes, jnp.float32, name="head"), x)
        return logits[:, :height, :width]

    def block(self, features: Sequence[int], *, name: str) -> ConvReluNorm:
        return ConvReluNorm(features, self.norm, self.dtype, name=name)


def _encode(
    network: SegNet, x: jax.Array, *, features: Sequence[int], level: int, train: bool
) -> tuple[jax.Array, jax.Array]:
    """Computes a level of the encoder: the pooled features and the places of the maxima."""
    return max_pool_with_indices(network.block(features, name=f"down_{level}")(x, train))


def _decode(
    network: SegNet,
    x: jax.Array,
    index: jax.Array,
    *,
    features: Sequence[int],
    level: int,
    train: bool,
) -> jax.Array:
    """Computes a level of the decoder from the level below, [N, H/2, W/2, C]."""
    return network.block(features, name=f"up_{level}")(max_unpool(x, index), train)


def conv3x3(module: nn.Module, features: int, dtype: jnp.dtype, name: str | None = None) -> nn.Conv:
    """Returns a 3x3 convolution of a module."""
    return nn.Conv(
        features,
        (3, 3),
        padding=1,
        kernel_init=nn.initializers.he_normal(),
        dtype=dtype,
        conv_general_dilated=convolution_of(module),
        name=name,
    )
