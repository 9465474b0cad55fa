"""segmentation_models_pytorch's U-Net and its encoders in plain PyTorch, with the same names.

Images are float32 [N, C, H, W]; the features are those at strides 2 to 32. The ResNets are
torchvision's, EfficientNet-Lite0 is timm's `tf_efficientnet_lite0` (features only), whose names
begin with `encoder.` here and with `encoder.model.` in segmentation_models_pytorch.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ResNetBlock(nn.Module):
    def __init__(self, channels: int, features: int, stride: int, bottleneck: bool) -> None:
        super().__init__()
        out = 4 * features if bottleneck else features
        if bottleneck:
            self.conv1 = nn.Conv2d(channels, features, 1, bias=False)
            self.conv2 = nn.Conv2d(features, features, 3, stride, 1, bias=False)
            self.conv3 = nn.Conv2d(features, out, 1, bias=False)
            self.bn3 = nn.BatchNorm2d(out)
        else:
            self.conv1 = nn.Conv2d(channels, features, 3, stride, 1, bias=False)
            self.conv2 = nn.Conv2d(features, features, 3, 1, 1, bias=False)
        self.bn1, self.bn2 = nn.BatchNorm2d(features), nn.BatchNorm2d(features)
        self.bottleneck = bottleneck
        self.downsample = None
        if stride != 1 or channels != out:
            self.downsample = nn.Sequential(
                nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out)
            )

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        if self.bottleneck:
            y = self.bn3(self.conv3(F.relu(y)))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


class ResNet(nn.Module):
    def __init__(self, channels: int, blocks: Sequence[int], bottleneck: bool, depth: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.out_channels = [64]
        before = 64
        for stage in range(1, depth):
            features = 32 * 2**stage
            layers = []
            for number in range(blocks[stage - 1]):
                stride = 2 if stage > 1 and number == 0 else 1
                layers.append(ResNetBlock(before, features, stride, bottleneck))
                before = features * (4 if bottleneck else 1)
            self.add_module(f"layer{stage}", nn.Sequential(*layers))
            self.out_channels.append(before)

    def forward(self, x: Tensor) -> list[Tensor]:
        features = [F.relu(self.bn1(self.conv1(x)))]
        for stage in range(1, len(self.out_channels)):
            x = F.max_pool2d(features[-1], 3, 2, 1) if stage == 1 else features[-1]
            features.append(self.get_submodule(f"layer{stage}")(x))
        return features


class SameConv(nn.Conv2d):
    """TensorFlow's `SAME` padding: the odd pixel is at the bottom and the right."""

    def forward(self, input: Tensor) -> Tensor:
        (kernel, _), (stride, _) = self.kernel_size, self.stride
        x = pad_same(input, kernel, stride)
        return F.conv2d(x, self.weight, None, self.stride, 0, 1, self.groups)


@torch.jit.script_if_tracing  # a trace would keep the pads of one size
def pad_same(x: Tensor, kernel: int, stride: int) -> Tensor:
    pads: list[int] = []
    for size in [x.shape[3], x.shape[2]]:
        total = max(((size + stride - 1) // stride - 1) * stride + kernel - size, 0)
        pads += [total // 2, total - total // 2]
    return F.pad(x, pads)


def norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3)


class SeparableBlock(nn.Module):
    def __init__(self, channels: int, features: int) -> None:
        super().__init__()
        self.conv_dw = SameConv(channels, channels, 3, groups=channels, bias=False)
        self.bn1 = norm(channels)
        self.conv_pw = nn.Conv2d(channels, features, 1, bias=False)
        self.bn2 = norm(features)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn2(self.conv_pw(F.relu6(self.bn1(self.conv_dw(x)))))


class InvertedBlock(nn.Module):
    def __init__(self, channels: int, features: int, size: int, stride: int) -> None:
        super().__init__()
        wide = 6 * channels
        self.conv_pw = nn.Conv2d(channels, wide, 1, bias=False)
        self.bn1 = norm(wide)
        self.conv_dw = SameConv(wide, wide, size, stride, groups=wide, bias=False)
        self.bn2 = norm(wide)
        self.conv_pwl = nn.Conv2d(wide, features, 1, bias=False)
        self.bn3 = norm(features)
        self.adds = stride == 1 and channels == features

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu6(self.bn1(self.conv_pw(x)))
        y = F.relu6(self.bn2(self.conv_dw(y)))
        y = self.bn3(self.conv_pwl(y))
        return x + y if self.adds else y


class EfficientNetLite0(nn.Module):
    def __init__(self, channels: int, depth: int) -> None:
        super().__init__()
        self.conv_stem = SameConv(channels, 32, 3, 2, bias=False)
        self.bn1 = norm(32)
        rows = [(2, 3, 2, 24), (2, 5, 2, 40), (3, 3, 2, 80), (3, 5, 1, 112)]
        rows += [(4, 5, 2, 192), (1, 3, 1, 320)]
        stages = [nn.Sequential(SeparableBlock(32, 16))]
        before = 16
        for count, size, stride, features in rows:
            blocks = []
            for number in range(count):
                blocks.append(InvertedBlock(before, features, size, 1 if number else stride))
                before = features
            stages.append(nn.Sequential(*blocks))
        self.ends = [0, 1, 2, 4, 6][:depth]
        self.blocks = nn.Sequential(*stages[: self.ends[-1] + 1])
        self.out_channels = [16, 24, 40, 112, 320][:depth]

    def forward(self, x: Tensor) -> list[Tensor]:
        x = F.relu6(self.bn1(self.conv_stem(x)))
        features = []
        for number, stage in enumerate(self.blocks):
            x = stage(x)
            if number in self.ends:
                features.append(x)
        return features


def make_encoder(name: str, channels: int, depth: int) -> tuple[nn.Module, list[int]]:
    """Returns an encoder and the channels of its features."""
    if name == "efficientnet_lite0":
        model = EfficientNetLite0(channels, depth)
        return model, model.out_channels
    blocks = {"resnet18": (2, 2, 2, 2)}.get(name, (3, 4, 6, 3))
    model = ResNet(channels, blocks, name == "resnet50", depth)
    return model, model.out_channels


def conv_norm_relu(channels: int, features: int) -> nn.Sequential:
    conv = nn.Conv2d(channels, features, 3, padding=1, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(features), nn.ReLU())


class DecoderBlock(nn.Module):
    def __init__(self, channels: int, features: int) -> None:
        super().__init__()
        self.conv1 = conv_norm_relu(channels, features)
        self.conv2 = conv_norm_relu(features, features)

    def forward(self, x: Tensor, skip: Tensor | None) -> Tensor:
        x = F.interpolate(x, scale_factor=2, mode="nearest")
        if skip is not None:
            x = torch.cat([x, skip], dim=1)
        return self.conv2(self.conv1(x))


class Decoder(nn.Module):
    def __init__(self, encoder: Sequence[int], features: Sequence[int]) -> None:
        super().__init__()
        below, skips = [encoder[-1], *features[:-1]], [*encoder[-2::-1], 0]
        self.blocks = nn.ModuleList(
            DecoderBlock(a + b, c) for a, b, c in zip(below, skips, features, strict=False)
        )

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        x, *skips = features[::-1]
        for block, skip in zip(self.blocks, [*skips, None], strict=False):
            x = block(x, skip)
        return x


class SmpUNet(nn.Module):
    """`unet_jax.models.smp_unet.SmpUNet`."""

    def __init__(
        self,
        channels: int,
        classes: int,
        encoder: str = "resnet34",
        width: int = 16,
        depth: int = 5,
        stride: int = 1,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.depth, self.levels = depth, stride.bit_length() - 1
        self.encoder, skips = make_encoder(encoder, channels, depth)
        self.dropout = nn.Dropout(dropout)
        features = [width * 2**level for level in reversed(range(self.levels, depth))]
        self.decoder = Decoder(skips, features)
        self.segmentation_head = nn.Sequential(nn.Conv2d(features[-1], classes, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        multiple = 2**self.depth
        x = F.pad(x, (0, -width % multiple, 0, -height % multiple))
        *skips, x = self.encoder(x)
        logits = self.segmentation_head(self.decoder([*skips, self.dropout(x)]))
        for _ in range(self.levels):
            logits = F.interpolate(logits, scale_factor=2, mode="bilinear", align_corners=False)
        return logits[:, :, :height, :width].float()
