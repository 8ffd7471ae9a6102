"""A small language model on bytes in the shape of Llama (Touvron et al. 2023, arXiv 2302.13971).

RMS norms before each part, rotary positions (Su et al. 2021, arXiv 2104.09864), several queries for
each key and value (Ainslie et al. 2023, arXiv 2305.13245), SwiGLU (Shazeer 2020, arXiv 2002.05202),
and one matrix for the bytes' embedding and the output.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# Of a byte model.
BYTES = 256


class ByteLlama(nn.Module):
    """Logits of the next byte, for every byte of a text.

    Args:
        width: of the stream between the blocks.
        layers: blocks.
        heads: of queries.
        key_heads: of keys and values; `heads` is a multiple.
        hidden: width inside SwiGLU.
        positions: longest text.
    """

    def __init__(
        self,
        width: int = 160,
        layers: int = 5,
        heads: int = 4,
        key_heads: int = 2,
        hidden: int = 432,
        positions: int = 512,
    ) -> None:
        super().__init__()
        self.positions = positions
        self.embedding = nn.Embedding(BYTES, width)
        self.blocks = nn.ModuleList(
            Block(width, heads, key_heads, hidden, positions) for _ in range(layers)
        )
        self.norm = nn.RMSNorm(width, eps=1e-5)
        self.head = nn.Linear(width, BYTES, bias=False)
        for name, parameter in self.named_parameters():
            if parameter.dim() > 1:
                # What is added to the stream starts small (Radford et al. 2019, GPT-2).
                added = name.endswith(("out.weight", "down.weight"))
                nn.init.normal_(parameter, std=0.02 / (2 * layers) ** 0.5 if added else 0.02)
        self.head.weight = self.embedding.weight

    def forward(self, ids: Tensor) -> Tensor:
        """Logits ``[N, T, 256]``; those at place t are for byte t + 1.

        Args:
            ids: bytes ``[N, T]``, int64, T up to `positions`.
        """
        x = self.embedding(ids)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


class Block(nn.Module):
    """Attention to what came before, then SwiGLU, each added to the stream."""

    def __init__(self, width: int, heads: int, key_heads: int, hidden: int, positions: int) -> None:
        super().__init__()
        self.attention_norm = nn.RMSNorm(width, eps=1e-5)
        self.attention = Attention(width, heads, key_heads, positions)
        self.mlp_norm = nn.RMSNorm(width, eps=1e-5)
        self.mlp = SwiGLU(width, hidden)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.attention_norm(x))
        return x + self.mlp(self.mlp_norm(x))


class Attention(nn.Module):
    """Causal attention with rotary positions; each key and value serves several queries."""

    cos: Tensor
    sin: Tensor

    def __init__(self, width: int, heads: int, key_heads: int, positions: int) -> None:
        super().__init__()
        self.heads, self.key_heads, self.size = heads, key_heads, width // heads
        self.query = nn.Linear(width, heads * self.size, bias=False)
        self.key = nn.Linear(width, key_heads * self.size, bias=False)
        self.value = nn.Linear(width, key_heads * self.size, bias=False)
        self.out = nn.Linear(heads * self.size, width, bias=False)
        cos, sin = rotations(self.size, positions)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        n, length, _ = x.shape
        query = self.query(x).view(n, length, self.heads, self.size).transpose(1, 2)
        key = self.key(x).view(n, length, self.key_heads, self.size).transpose(1, 2)
        value = self.value(x).view(n, length, self.key_heads, self.size).transpose(1, 2)
        query, key = self._rotated(query), self._rotated(key)
        times = self.heads // self.key_heads
        y = F.scaled_dot_product_attention(
            query,
            key.repeat_interleave(times, 1),
            value.repeat_interleave(times, 1),
            is_causal=True,
        )
        return self.out(y.transpose(1, 2).reshape(n, length, self.heads * self.size))

    def _rotated(self, x: Tensor) -> Tensor:
        length = x.shape[2]
        first, second = x.chunk(2, -1)
        turned = torch.cat((-second, first), -1)
        return x * self.cos[:length] + turned * self.sin[:length]


class SwiGLU(nn.Module):
    """``down(silu(gate(x)) * up(x))``."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.gate = nn.Linear(width, hidden, bias=False)
        self.up = nn.Linear(width, hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.silu(self.gate(x)) * self.up(x))


def rotations(size: int, positions: int, base: float = 10_000.0) -> tuple[Tensor, Tensor]:
    """Cosines and sines of the angles at each position ``[positions, size]``."""
    rates = base ** (-torch.arange(0, size, 2, dtype=torch.float64) / size)
    angles = torch.outer(torch.arange(positions, dtype=torch.float64), rates).repeat(1, 2)
    return angles.cos().float(), angles.sin().float()


@torch.no_grad()
def generate(
    model: nn.Module,
    prompt: bytes,
    count: int,
    *,
    temperature: float = 0.8,
    window: int = 256,
    padded: bool = False,
    seed: int = 0,
) -> bytes:
    """The prompt and `count` bytes that a model says come next.

    Args:
        model: from bytes ``[1, T]`` to logits ``[1, T, 256]``; the original or a spiking one.
        prompt: one byte at least.
        count: bytes that are added.
        temperature: of the draw; 0 takes the likeliest byte.
        window: bytes before the next one that the model sees, at most.
        padded: always gives the model that many, the rest behind the text: for a network that
            takes one length alone. A causal model doesn't hear what comes later.
        seed: of the draw.
    """
    if not prompt:
        raise ValueError("the prompt is empty; give one byte at least")
    generator = torch.Generator().manual_seed(seed)
    said = list(prompt)
    for _ in range(count):
        seen = said[-window:]
        filling = [0] * (window - len(seen)) if padded else []
        logits = model(torch.tensor([seen + filling]))[0, len(seen) - 1].double()
        if temperature > 0:
            chances = torch.softmax(logits / temperature, 0)
            said.append(int(torch.multinomial(chances, 1, generator=generator)))
        else:
            said.append(int(logits.argmax()))
    return bytes(said)
