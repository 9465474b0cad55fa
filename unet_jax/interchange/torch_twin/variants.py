"""Variants of the U-Net in plain PyTorch: attention gates, residual encoder, UNet++.

They are written from the papers and, for the residual encoder, from nnU-Net's architecture
(https://github.com/MIC-DKFZ/dynamic-network-architectures). `twin.build` builds them.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unet_jax.interchange.torch_twin.twin import ConvBlock, UNet, make_norm, pad_to_multiple


class AttentionGate(nn.Module):
    """Additive attention: alpha = sigmoid(psi(ReLU(W_x x + W_g g + b_g)) + b_psi), alpha x."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = max(channels // 2, 1)
        self.skip = nn.Conv2d(channels, hidden, 1, bias=False)
        self.gate = nn.Conv2d(channels, hidden, 1)
        self.weights = nn.Conv2d(hidden, 1, 1)
        self.relu = nn.ReLU()

    def forward(self, skip: Tensor, gate: Tensor) -> Tensor:
        return skip * torch.sigmoid(self.weights(self.relu(self.skip(skip) + self.gate(gate))))


class AttentionUNet(UNet):
    """`unet_jax.models.attention_unet.AttentionUNet`."""

    def __init__(self, channels: int, classes: int, width: int, depth: int, **fields: Any) -> None:
        super().__init__(channels, classes, width, depth, **fields)
        self.attention = nn.ModuleList(AttentionGate(width * 2**level) for level in range(depth))

    def join(self, skip: Tensor, x: Tensor, level: int) -> Tensor:
        return super().join(self.attention[level](skip, x), x, level)


class ResidualBlock(nn.Module):
    """conv 3x3 - norm - ReLU - conv 3x3 - norm, plus the shortcut, ReLU."""

    def __init__(self, before: int, channels: int, stride: int, norm: str) -> None:
        super().__init__()
        bias = norm == "none"
        convs = [
            nn.Conv2d(before, channels, 3, stride, padding=1, bias=bias),
            nn.Conv2d(channels, channels, 3, padding=1, bias=bias),
        ]
        if before != channels:
            convs.append(nn.Conv2d(before, channels, 1, bias=bias))
        self.convs = nn.ModuleList(convs)
        self.norms = nn.ModuleList(make_norm(norm, channels) for _ in convs)
        self.stride, self.relu = stride, nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        residual = self.relu(self.norms[0](self.convs[0](x)))
        residual = self.norms[1](self.convs[1](residual))
        if self.stride == 2:
            x = F.avg_pool2d(x, 2)
        if len(self.convs) == 3:
            x = self.norms[2](self.convs[2](x))
        return self.relu(residual + x)


class ResidualLevel(nn.Module):
    """The residual blocks of a level, on the first level after a 3x3 convolution, norm and ReLU."""

    def __init__(self, before: int, channels: int, blocks: int, first: bool, norm: str) -> None:
        super().__init__()
        if first:
            bias = norm == "none"
            self.convs = nn.ModuleList([nn.Conv2d(before, channels, 3, padding=1, bias=bias)])
            self.norms = nn.ModuleList([make_norm(norm, channels)])
        self.first, self.relu = first, nn.ReLU()
        sizes = [channels if first else before, *[channels] * blocks]
        self.block = nn.ModuleList(
            ResidualBlock(a, b, 1 if first or i else 2, norm)
            for i, (a, b) in enumerate(pairwise(sizes))
        )

    def forward(self, x: Tensor) -> Tensor:
        if self.first:
            x = self.relu(self.norms[0](self.convs[0](x)))
        for block in self.block:
            x = block(x)
        return x


class ResidualUNet(UNet):
    """`unet_jax.models.residual_unet.ResidualUNet`."""

    def __init__(
        self,
        channels: int,
        classes: int,
        width: int,
        depth: int,
        norm: str,
        upsample: str,
        blocks: Sequence[int] = (),
        **fields: Any,
    ) -> None:
        super().__init__(channels, classes, width, depth, norm, upsample=upsample, **fields)
        if not blocks:
            blocks = [1, 3, 4, *[6] * depth][: depth + 1]
        bottom = width * 2 ** (depth if upsample == "transpose" else depth - 1)
        levels = [channels, *(width * 2**level for level in range(depth)), bottom]
        *down, self.bottom = (
            ResidualLevel(a, b, number, i == 0, norm)
            for i, ((a, b), number) in enumerate(zip(pairwise(levels), blocks, strict=True))
        )
        self.down = nn.ModuleList(down)
        self.pool = nn.ModuleList(nn.Identity() for _ in range(depth))


class UNetPlusPlus(nn.Module):
    """`unet_jax.models.unet_plus_plus.UNetPlusPlus`; x^(i, j) as in the paper."""

    def __init__(
        self,
        channels: int,
        classes: int,
        width: int,
        depth: int,
        norm: str,
        dropout: float,
    ) -> None:
        super().__init__()
        self.depth = depth
        levels = [width * 2**level for level in range(depth + 1)]
        self.down = nn.ModuleList(
            ConvBlock([a, b, b], norm) for a, b in pairwise([channels, *levels[:-1]])
        )
        self.pool = nn.MaxPool2d(2)
        self.bottom = ConvBlock([levels[-2], levels[-1], levels[-1]], norm)
        self.dropout = nn.Dropout(dropout)
        columns = [range(1, depth - i + 1) for i in range(depth)]
        self.upconv = nn.ModuleList(
            nn.ModuleDict({str(j): nn.ConvTranspose2d(2 * c, c, 2, stride=2) for j in columns[i]})
            for i, c in enumerate(levels[:-1])
        )
        self.up = nn.ModuleList(
            nn.ModuleDict({str(j): ConvBlock([(j + 1) * c, c, c], norm) for j in columns[i]})
            for i, c in enumerate(levels[:-1])
        )
        self.head = nn.Conv2d(width, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        x = pad_to_multiple(x, 2**self.depth)
        nodes: dict[tuple[int, int], Tensor] = {}
        for i, down in enumerate(self.down):
            nodes[i, 0] = down(x)
            x = self.pool(nodes[i, 0])
        nodes[self.depth, 0] = self.dropout(self.bottom(x))
        for i in reversed(range(self.depth)):
            for j in range(1, self.depth - i + 1):
                raised = self.get_submodule(f"upconv.{i}.{j}")(nodes[i + 1, j - 1])
                dense = [nodes[i, k] for k in range(j)]
                node = self.get_submodule(f"up.{i}.{j}")
                nodes[i, j] = node(torch.cat([*dense, raised], dim=1))
        return self.head(nodes[0, self.depth])[:, :, :height, :width].float()
