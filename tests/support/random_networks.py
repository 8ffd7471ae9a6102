"""Random small networks as a user would write them, and images for them."""

import random
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

ACTIVATIONS: list[Callable[[Tensor], Tensor]] = [
    torch.relu,
    F.silu,
    F.gelu,
    torch.sigmoid,
    torch.tanh,
    F.hardswish,
    F.leaky_relu,
    lambda x: x * torch.sigmoid(1.7 * x),
    lambda x: F.softplus(x) - 0.5,
    lambda x: torch.relu(x).square(),
]


class Block(nn.Module):
    """One step of a random network on ``[N, C, H, W]``."""

    def __init__(self, draw: random.Random, channels: int) -> None:
        super().__init__()
        self.kind = draw.choice(["conv", "skip", "joined", "gated", "scaled", "shared", "tokens"])
        self.act = draw.choice(ACTIVATIONS)
        self.other = draw.choice(ACTIVATIONS)
        self.first = nn.Conv2d(channels, channels, 3, padding=1, bias=draw.random() < 0.7)
        self.second = nn.Conv2d(channels, channels, 1)
        self.joined = nn.Conv2d(2 * channels, channels, 1)
        norms: list[Callable[[], nn.Module]] = [
            nn.Identity,
            lambda: nn.BatchNorm2d(channels),
            lambda: nn.GroupNorm(2, channels),
        ]
        self.norm = draw.choice(norms)()
        self.attention = nn.MultiheadAttention(channels, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.first(x))
        if self.kind == "skip":
            return self.act(self.second(self.other(y)) + x)
        if self.kind == "joined":
            return self.act(self.joined(torch.cat([self.other(y), x], 1)))
        if self.kind == "gated":
            return self.act(y) * torch.sigmoid(self.second(x)) + x
        if self.kind == "scaled":
            z = y - 0.1
            return 0.5 * self.act(z * 2) + z * 0.25
        if self.kind == "shared":
            z = self.act(y + x)
            return self.act(z - y) + self.second(z)
        if self.kind == "tokens":
            tokens = x.flatten(2).transpose(1, 2)
            mixed = self.attention(tokens, tokens, tokens, need_weights=False)[0]
            return self.act((tokens + mixed).transpose(1, 2).reshape(x.shape))
        return self.act(y)


class RandomNetwork(nn.Module):
    """A stem, some random blocks, pooling, and a head or two."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        draw = random.Random(seed)
        torch.manual_seed(seed)
        channels = draw.choice([4, 8])
        self.stem = nn.Conv2d(3, channels, 3, padding=1)
        self.blocks = nn.ModuleList(Block(draw, channels) for _ in range(draw.randint(1, 3)))
        self.pooled = draw.choice([nn.Identity, lambda: nn.MaxPool2d(2), lambda: nn.AvgPool2d(2)])()
        self.head = nn.Linear(channels, 5)
        self.two = draw.random() < 0.3
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.3)  # type: ignore[union-attr]
                module.running_var.uniform_(0.5, 1.5)  # type: ignore[union-attr]

    def forward(self, x: Tensor) -> Tensor | dict[str, Tensor]:
        x = F.relu(self.stem(x))
        for block in self.blocks:
            x = block(x)
        features = self.pooled(x).mean((2, 3))
        logits = self.head(features)
        return {"logits": logits, "features": features} if self.two else logits


def images(seed: int, count: int) -> Tensor:
    """Noise images ``[count, 3, 6, 6]``."""
    return torch.randn(count, 3, 6, 6, generator=torch.Generator().manual_seed(seed))
