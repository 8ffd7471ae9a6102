"""ResNet for CIFAR: 6n+2 layers, option A shortcuts (He et al. 2016, arXiv 1512.03385, §4.2)."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn


class Shortcut(nn.Module):
    """Option A: stride-2 subsampling and zero-padded channels, ``[N, C, H, W]`` in and out."""

    def __init__(self, extra_channels: int) -> None:
        super().__init__()
        self.before = extra_channels // 2
        self.after = extra_channels - self.before

    def forward(self, x: Tensor) -> Tensor:
        """Every second pixel, zeros before and after the channels."""
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.before, self.after))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut without parameters."""

    def __init__(
        self, channels: int, out_channels: int, stride: int, activation: Callable[[], nn.Module]
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out_channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.act1 = activation()
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.act2 = activation()
        self.shortcut = Shortcut(out_channels - channels) if stride > 1 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """``[N, C, H, W]`` to ``[N, C', H / stride, W / stride]``."""
        y = self.act1(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return self.act2(y + self.shortcut(x))


class ResNetCifar(nn.Module):
    """ResNet of depth 6n+2 with 16, 32 and 64 channels.

    Args:
        depth: 20, 32, 44, 56, 110 or any other 6n+2.
        classes: number of outputs.
        activation: makes the module of each activation.
        width: channels of the first stage.
        in_channels: channels of the image.
    """

    def __init__(
        self,
        depth: int,
        classes: int = 10,
        activation: Callable[[], nn.Module] = nn.ReLU,
        *,
        width: int = 16,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        if depth < 8 or (depth - 2) % 6:
            raise ValueError(f"the depth of a CIFAR ResNet is 6n+2 >= 8, found {depth}")
        self.conv1 = nn.Conv2d(in_channels, width, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.act1 = activation()
        blocks = (depth - 2) // 6
        for stage, stride in enumerate((1, 2, 2)):
            out_channels = width << stage
            inner = [
                BasicBlock(
                    out_channels >> (stride - 1) if i == 0 else out_channels,
                    out_channels,
                    stride if i == 0 else 1,
                    activation,
                )
                for i in range(blocks)
            ]
            setattr(self, f"layer{stage + 1}", nn.Sequential(*inner))
        self.linear = nn.Linear(width * 4, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``[N, classes]`` of images ``[N, 3, 32, 32]``."""
        x = self.act1(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(x.mean((2, 3)))
