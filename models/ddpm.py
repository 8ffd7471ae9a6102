"""A small U-Net that predicts the noise in an image (Ho et al. 2020, arXiv 2006.11239, app. B)."""

from __future__ import annotations

import math
import os
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .checkpoints import load_weights
from .diffusion import Schedule

DIGIT_STEPS = 200
_SHIPPED = Path(__file__).parent / "weights" / "ddpm_digits.pt"


def time_table(steps: int, width: int) -> Tensor:
    """Sines and cosines of every time step at geometrically spaced frequencies, ``[T, width]``."""
    half = width // 2
    frequencies = torch.exp(-math.log(10_000.0) * torch.arange(half, dtype=torch.float64) / half)
    angles = torch.arange(steps, dtype=torch.float64)[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], 1).float()


class TimeEmbedding(nn.Module):
    """Sinusoidal embedding of integer time steps ``[N]``, and a layer on it: ``[N, width]``.

    The sines are a table that is looked up: nothing is computed of a number that has only T values.
    """

    def __init__(self, steps: int, channels: int, width: int) -> None:
        super().__init__()
        self.table = nn.Embedding.from_pretrained(time_table(steps, channels), freeze=True)
        self.linear1 = nn.Linear(channels, width)
        self.linear2 = nn.Linear(width, width)
        self.act1, self.act2 = nn.SiLU(), nn.SiLU()

    def forward(self, t: Tensor) -> Tensor:
        """Time steps 0..T-1, integers ``[N]``."""
        return self.act2(self.linear2(self.act1(self.linear1(self.table(t)))))


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions, each behind group norm and SiLU; the time enters between them."""

    def __init__(self, channels: int, out_channels: int, time_width: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(8, channels)
        self.act1 = nn.SiLU()
        self.conv1 = nn.Conv2d(channels, out_channels, 3, padding=1)
        self.time = nn.Linear(time_width, out_channels)
        self.norm2 = nn.GroupNorm(8, out_channels)
        self.act2 = nn.SiLU()
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        same = channels == out_channels
        self.shortcut = nn.Identity() if same else nn.Conv2d(channels, out_channels, 1)
        nn.init.zeros_(self.conv2.weight)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """``[N, C, H, W]`` and ``[N, time_width]`` to ``[N, C', H, W]``."""
        y = self.conv1(self.act1(self.norm1(x))) + self.time(time)[:, :, None, None]
        y = self.conv2(self.dropout(self.act2(self.norm2(y))))
        return y + self.shortcut(x)


class Attention(nn.Module):
    """Self-attention of one head over all pixels, beside a skip."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(8, channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.out = nn.Conv2d(channels, channels, 1)
        nn.init.zeros_(self.out.weight)

    def forward(self, x: Tensor) -> Tensor:
        """``[N, C, H, W]`` in and out."""
        q, k, v = self.qkv(self.norm(x)).flatten(2).transpose(1, 2).chunk(3, 2)
        y = F.scaled_dot_product_attention(q, k, v)
        return x + self.out(y.transpose(1, 2).reshape(x.shape))


class UNet(nn.Module):
    """Predicts the noise in images of 8x8 pixels or a multiple of 2 at two resolutions.

    Args:
        steps: T, number of time steps that exist.
        in_channels: channels of the image.
        channels: channels at full resolution, a multiple of 8; twice as many at half of it.
        dropout: share of activations left out in training.
    """

    def __init__(
        self, steps: int, in_channels: int = 1, channels: int = 24, dropout: float = 0.1
    ) -> None:
        super().__init__()
        wide, width = 2 * channels, 4 * channels
        self.time = TimeEmbedding(steps, channels, width)
        self.enter = nn.Conv2d(in_channels, channels, 3, padding=1)
        self.down1 = ResidualBlock(channels, channels, width, dropout)
        self.shrink = nn.Conv2d(channels, channels, 3, stride=2, padding=1)
        self.down2 = ResidualBlock(channels, wide, width, dropout)
        self.down2_attention = Attention(wide)
        self.middle1 = ResidualBlock(wide, wide, width, dropout)
        self.middle_attention = Attention(wide)
        self.middle2 = ResidualBlock(wide, wide, width, dropout)
        self.up2 = ResidualBlock(2 * wide, wide, width, dropout)
        self.up2_attention = Attention(wide)
        self.grow = nn.Conv2d(wide, wide, 3, padding=1)
        self.up1 = ResidualBlock(wide + channels, channels, width, dropout)
        self.last = ResidualBlock(2 * channels, channels, width, dropout)
        self.norm = nn.GroupNorm(8, channels)
        self.act = nn.SiLU()
        self.leave = nn.Conv2d(channels, in_channels, 3, padding=1)
        nn.init.zeros_(self.leave.weight)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """The noise ``[N, C, H, W]`` in images ``[N, C, H, W]`` at integer time steps ``[N]``."""
        time = self.time(t)
        entered = self.enter(x)
        full = self.down1(entered, time)
        half = self.down2_attention(self.down2(self.shrink(full), time))
        y = self.middle2(self.middle_attention(self.middle1(half, time)), time)
        y = self.up2_attention(self.up2(torch.cat([y, half], 1), time))
        y = self.grow(F.interpolate(y, scale_factor=2, mode="nearest"))
        y = self.up1(torch.cat([y, full], 1), time)
        y = self.last(torch.cat([y, entered], 1), time)
        return self.leave(self.act(self.norm(y)))


def ddpm_digits(
    weights: str | os.PathLike[str] | None = None, *, seed: int = 0
) -> tuple[UNet, Schedule]:
    """The U-Net for scikit-learn's 8x8 digits in -1..1, in eval mode, and its schedule.

    Args:
        weights: a checkpoint file; None for the weights that come with the package; ``"random"``
            for an untrained network.
        seed: of random weights.

    Raises:
        ModelError: for weights that don't exist or don't fit.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = UNet(DIGIT_STEPS)
    if weights != "random":
        load_weights(model, _SHIPPED if weights is None else weights, "ddpm_digits")
    return model.eval(), Schedule(DIGIT_STEPS)
