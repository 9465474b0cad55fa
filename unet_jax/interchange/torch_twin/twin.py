"""The networks of `unet_jax` in plain PyTorch, layer for layer: the PyTorch twin.

Images are float32 [N, C, H, W], logits float32 [N, K, H, W]. Networks have PyTorch's initial
values; `convert` converts those of Flax.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unet_jax import models
from unet_jax.core.errors import UserError
from unet_jax.models.unet import margin, valid_input_size


def make_norm(kind: str, channels: int) -> nn.Module:
    """Returns batch or group normalisation with Flax's constants, or the identity.

    `BatchNorm2d` averages the unbiased variance, Flax the biased one: with n values per channel, a
    training step contributes n / (n - 1) times as much to the running variance as in Flax.
    """
    if kind == "batch":
        return nn.BatchNorm2d(channels, eps=1e-5, momentum=0.1)  # Flax's momentum is 1 - 0.1
    if kind == "group":
        return nn.GroupNorm(math.gcd(32, channels), channels, eps=1e-6)
    return nn.Identity()


class ConvBlock(nn.Module):
    """3x3 convolution -> norm -> ReLU, from each of `channels` to the next."""

    def __init__(self, channels: Sequence[int], norm: str, padding: str = "same") -> None:
        super().__init__()
        bias = norm == "none"  # a norm cancels it
        pad = 1 if padding == "same" else 0
        self.convs = nn.ModuleList(
            nn.Conv2d(a, b, 3, padding=pad, bias=bias) for a, b in pairwise(channels)
        )
        self.norms = nn.ModuleList(make_norm(norm, c) for c in channels[1:])
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = self.relu(norm(conv(x)))
        return x


class UNet(nn.Module):
    """`unet_jax.models.unet.UNet`; with `pool="conv"` it is `UNet2`.

    In training with deep supervision it returns a list of the logits of all levels.
    """

    def __init__(
        self,
        channels: int,
        classes: int,
        width: int = 64,
        depth: int = 4,
        norm: str = "batch",
        padding: str = "same",
        upsample: str = "transpose",
        dropout: float = 0.0,
        pool: str = "max",
        deep_supervision: bool = False,
    ) -> None:
        super().__init__()
        self.depth, self.padding, self.deep_supervision = depth, padding, deep_supervision
        levels = [width * 2**level for level in range(depth + 1)]
        transpose = upsample == "transpose"

        def block(*channels: int) -> ConvBlock:
            return ConvBlock(channels, norm, padding)

        def pooling(c: int) -> nn.Module:
            return nn.MaxPool2d(2) if pool == "max" else nn.Conv2d(c, c, 3, stride=2, padding=1)

        def doubling(below: int, c: int) -> nn.Module:
            if transpose:
                return nn.ConvTranspose2d(below, c, 2, stride=2)
            if upsample == "bilinear_corners":
                return nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)
            # With half-pixel centres, as in `jax.image.resize`.
            return nn.Upsample(scale_factor=2, mode=upsample)

        self.down = nn.ModuleList(block(a, b, b) for a, b in pairwise([channels, *levels[:-1]]))
        self.pool = nn.ModuleList(pooling(c) for c in levels[:-1])
        bottom = levels[-1] if transpose else levels[-2]
        self.bottom: nn.Module = block(levels[-2], bottom, bottom)
        self.dropout = nn.Dropout(dropout)
        self.upconv = nn.ModuleList(doubling(b, a) for a, b in pairwise(levels))
        last = levels[:-1] if transpose else [width, *levels[:-2]]
        self.up = nn.ModuleList(block(2 * b, b, a) for a, b in zip(last, levels, strict=False))
        self.head = nn.Conv2d(width, classes, 1)
        supervised = range(1, depth) if deep_supervision else ()
        self.aux_head = nn.ModuleDict({str(i): nn.Conv2d(last[i], classes, 1) for i in supervised})

    def join(self, skip: Tensor, x: Tensor, level: int) -> Tensor:
        """Joins encoder and decoder at the same size: [N, 2C, H, W]."""
        return torch.cat([skip, x], dim=1)

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        height, width = x.shape[2:]
        if self.padding == "valid":
            x = mirror(x, self.depth)
        else:
            x = pad_to_multiple(x, 2**self.depth)

        skips = []
        for down, pool in zip(self.down, self.pool, strict=True):
            x = down(x)
            skips.append(x)
            x = pool(x)  # [N, C, H/2, W/2]

        x = self.dropout(self.bottom(x))

        lower = []
        for level in reversed(range(self.depth)):
            x = self.upconv[level](x)
            x = self.join(crop_to(skips[level], x), x, level)  # [N, 2C, 2H, 2W]
            x = self.up[level](x)
            if self.training and str(level) in self.aux_head:
                rows, columns = math.ceil(height / 2**level), math.ceil(width / 2**level)
                logits = self.aux_head[str(level)](x)
                lower.insert(0, logits[:, :, :rows, :columns].float())

        logits = self.head(x)[:, :, :height, :width].float()
        return [logits, *lower] if self.training and self.deep_supervision else logits


class ConvReluNorm(nn.Module):
    """3x3 convolution -> ReLU -> norm, from each of `channels` to the next."""

    def __init__(self, channels: Sequence[int], norm: str) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1) for a, b in pairwise(channels))
        self.norms = nn.ModuleList(make_norm(norm, c) for c in channels[1:])
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = norm(self.relu(conv(x)))
        return x


class SegNet(nn.Module):
    """`unet_jax.models.segnet.SegNet`."""

    def __init__(
        self,
        channels: int,
        classes: int,
        width: int = 64,
        depth: int = 4,
        norm: str = "batch",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.depth = depth
        levels = [width * 2 ** min(level, 3) for level in range(depth)]
        number = [2 if level < 2 else 3 for level in range(depth)]
        above = [channels, *levels]  # channels of the next higher level; the image's for the first
        self.down = nn.ModuleList(
            ConvReluNorm([above[i], *[levels[i]] * number[i]], norm) for i in range(depth)
        )
        self.pool = nn.MaxPool2d(2, return_indices=True)
        self.dropout = nn.Dropout(dropout)
        # The head is the last convolution of the first level.
        self.up = nn.ModuleList(
            ConvReluNorm([levels[i]] * number[i] + ([above[i]] if i else []), norm)
            for i in range(depth)
        )
        self.head = nn.Conv2d(width, classes, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        x = pad_to_multiple(x, 2**self.depth)

        indices = []
        for down in self.down:
            x, index = self.pool(down(x))  # [N, C, H/2, W/2]
            indices.append(index)

        x = self.dropout(x)

        for level in reversed(range(self.depth)):
            x = self.up[level](unpool(x, indices[level]))  # [N, C, 2H, 2W]

        return self.head(x)[:, :, :height, :width].float()


def pad_to_multiple(x: Tensor, multiple: int) -> Tensor:
    """Pads with zeros at the bottom and the right, to multiples in height and width."""
    height, width = x.shape[2:]
    return F.pad(x, (0, -width % multiple, 0, -height % multiple))


@torch.jit.script_if_tracing  # a trace would keep the size
def unpool(x: Tensor, indices: Tensor) -> Tensor:
    """Doubles height and width; values go to where max-pooling found them, all others are 0."""
    return F.max_unpool2d(x, indices, [2, 2])


def mirror(x: Tensor, depth: int) -> Tensor:
    """Mirrors an image [N, C, H, W] by an unpadded U-Net's margin, repeatedly if it is small."""

    def source_indices(size: int) -> Tensor:
        index = torch.arange(valid_input_size(size, depth), device=x.device) - margin(depth)
        # The period of a mirror that does not repeat edges. `max` could not be traced.
        index = index % (2 * size - 2 + (size == 1))
        return torch.minimum(index, 2 * size - 2 - index)

    height, width = x.shape[2:]
    return x[:, :, source_indices(height)][:, :, :, source_indices(width)]


def crop_to(x: Tensor, like: Tensor) -> Tensor:
    """Crops `x` centrally to the height and width of `like`."""
    height, width = like.shape[2:]
    top, left = (x.shape[2] - height) // 2, (x.shape[3] - width) // 2
    return x[:, :, top : top + height, left : left + width]


def network_of(channels: int, **fields: Any) -> tuple[type[nn.Module], dict[str, Any]]:
    """Returns the twin of `unet_jax.models.build(**fields)`: its class and the arguments of it.

    Args:
      channels: channels of the images.
      **fields: the fields of `config.model`; `dtype` has no effect here.

    Raises:
      UserError: a field is invalid, or the network has no twin.
    """
    from unet_jax.interchange.torch_twin import smp, variants  # the latter builds on this module

    networks: dict[str, tuple[type[nn.Module], str]] = {
        "unet": (UNet, "padding upsample deep_supervision"),
        "unet2": (UNet, "padding upsample deep_supervision"),
        "attention_unet": (variants.AttentionUNet, "padding upsample deep_supervision"),
        "residual_unet": (variants.ResidualUNet, "padding upsample deep_supervision blocks"),
        "unet_plus_plus": (variants.UNetPlusPlus, ""),
        "segnet": (SegNet, ""),
        "smp_unet": (smp.SmpUNet, "encoder stride"),
    }
    models.build(**fields | {"dtype": "float32"}, platform="cpu")  # raises for invalid fields
    name = fields["name"]
    if name not in networks:
        raise UserError(
            f"model.name={name}: has no PyTorch twin; there are those of {', '.join(networks)}"
        )
    network, own = networks[name]
    names = ["classes", "width", "depth", "dropout", *own.split()]
    names += ["norm"] if name != "smp_unet" else []
    arguments = {"channels": channels} | {k: fields[k] for k in names if k in fields}
    return network, arguments | ({"pool": "conv"} if name == "unet2" else {})


def build(channels: int, **fields: Any) -> nn.Module:
    """Builds the twin of `unet_jax.models.build(**fields)`; see `network_of`."""
    network, arguments = network_of(channels, **fields)
    return network(**arguments)
