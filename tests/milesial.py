"""The U-Net of milesial/Pytorch-UNet with the names of its tensors, and random weights for it."""

import torch
from torch import nn


class DoubleConv(nn.Module):
    """`bias` is as in the older versions."""

    def __init__(self, a, b, middle=None, bias=False):
        super().__init__()
        middle = middle or b
        self.double_conv = nn.Sequential(
            nn.Conv2d(a, middle, 3, padding=1, bias=bias),
            nn.BatchNorm2d(middle),
            nn.ReLU(inplace=True),
            nn.Conv2d(middle, b, 3, padding=1, bias=bias),
            nn.BatchNorm2d(b),
            nn.ReLU(inplace=True),
        )

    def forward(self, x):
        return self.double_conv(x)


class Down(nn.Module):
    def __init__(self, a, b, bias):
        super().__init__()
        self.maxpool_conv = nn.Sequential(nn.MaxPool2d(2), DoubleConv(a, b, bias=bias))

    def forward(self, x):
        return self.maxpool_conv(x)


class Up(nn.Module):
    def __init__(self, a, b, bilinear, bias):
        super().__init__()
        if bilinear:
            self.up = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)
            self.conv = DoubleConv(a, b, a // 2, bias)
        else:
            self.up = nn.ConvTranspose2d(a, a // 2, 2, stride=2)
            self.conv = DoubleConv(a, b, bias=bias)

    def forward(self, below, skip):
        return self.conv(torch.cat([skip, self.up(below)], dim=1))


class OutConv(nn.Module):
    def __init__(self, a, b):
        super().__init__()
        self.conv = nn.Conv2d(a, b, 1)

    def forward(self, x):
        return self.conv(x)


class UNet(nn.Module):
    def __init__(self, n_channels, n_classes, bilinear=False, width=2, bias=False):
        super().__init__()
        factor = 2 if bilinear else 1
        w = [width * 2**level for level in range(5)]
        self.inc = DoubleConv(n_channels, w[0], bias=bias)
        self.down1 = Down(w[0], w[1], bias)
        self.down2 = Down(w[1], w[2], bias)
        self.down3 = Down(w[2], w[3], bias)
        self.down4 = Down(w[3], w[4] // factor, bias)
        self.up1 = Up(w[4], w[3] // factor, bilinear, bias)
        self.up2 = Up(w[3], w[2] // factor, bilinear, bias)
        self.up3 = Up(w[2], w[1] // factor, bilinear, bias)
        self.up4 = Up(w[1], w[0], bilinear, bias)
        self.outc = OutConv(w[0], n_classes)

    def forward(self, x):
        x1 = self.inc(x)
        x2 = self.down1(x1)
        x3 = self.down2(x2)
        x4 = self.down3(x3)
        x = self.up1(self.down4(x4), x4)
        x = self.up2(x, x3)
        x = self.up3(x, x2)
        x = self.up4(x, x1)
        return self.outc(x)


def randomise(model: nn.Module, seed: int = 0) -> nn.Module:
    """Random parameters and running statistics; returns the model in evaluation mode."""
    generator = torch.Generator().manual_seed(seed)
    for name, x in model.state_dict().items():
        if name.endswith("num_batches_tracked"):
            x.fill_(7)
        elif x.ndim == 4:
            fan_in = x[0].numel() if "up.weight" not in name else x.shape[0]
            x.normal_(0, (2 / fan_in) ** 0.5, generator=generator)
        elif name.endswith(("running_var", "weight")):
            x.uniform_(0.5, 1.5, generator=generator)
        else:
            x.normal_(0.3, 0.5, generator=generator)
    return model.eval()


def milesial(bilinear=False, classes=1, **options) -> UNet:
    torch.manual_seed(0)
    model = UNet(1, classes, bilinear, **options)
    return randomise(model)
