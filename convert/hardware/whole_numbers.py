"""The arithmetic of a network in whole numbers: every rule is here, and nowhere else.

``docs/hardware.md`` states the same rules for whoever builds them; `c_code` writes them in C.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import InputError

# What an accumulator may hold: int32, and one bit for whoever adds in another order.
MOST = 2**31 - 1
# Multipliers have 15 bits.
_BITS = 15
# A ratio this near to a power of two is one.
_ALIKE = 1e-9
_LONGEST_SHIFT = 62


@dataclass(frozen=True)
class Rescale:
    """A whole number in another unit: ``(n * multiplier + half) >> shift``, half = 2^(shift - 1).

    Halves are rounded up, towards plus infinity. A shift of 0 or less goes left and rounds nothing.

    Args:
        multiplier: 1 where a shift does.
        shift: how far to the right.
    """

    multiplier: int = 1
    shift: int = 0

    @property
    def plain(self) -> bool:
        """Whether nothing changes."""
        return self.multiplier == 1 and self.shift == 0

    def __call__(self, n: Tensor) -> Tensor:
        """Whole numbers int64 ``[...]`` in the other unit."""
        return shifted(n if self.multiplier == 1 else n * self.multiplier, self.shift)

    def bound(self, most: int) -> int:
        """The largest size that a number of at most this size can get."""
        size = most * self.multiplier
        return size << -self.shift if self.shift <= 0 else (size >> self.shift) + 1


def rescale(ratio: float) -> Rescale:
    """What turns numbers in one unit into numbers in another.

    Args:
        ratio: the unit that they have over the one that they get, > 0.
    """
    exponent = round(math.log2(ratio))
    if abs(ratio / 2.0**exponent - 1) < _ALIKE:
        return Rescale(1, min(-exponent, _LONGEST_SHIFT))
    mantissa, exponent = math.frexp(ratio)
    multiplier, shift = round(mantissa * 2**_BITS), _BITS - exponent
    if multiplier == 2**_BITS:
        multiplier, shift = multiplier // 2, shift - 1
    return Rescale(multiplier, shift) if shift <= _LONGEST_SHIFT else Rescale(0, 0)


def shifted(n: Tensor, shift: int | Tensor) -> Tensor:
    """``n`` int64 ``[...]`` shifted to the right, halves up; to the left below 0.

    Args:
        n: whole numbers.
        shift: one for all, or a tensor that broadcasts.
    """
    by = torch.as_tensor(shift, dtype=torch.int64, device=n.device)
    right, left = by.clamp_min(0), (-by).clamp_min(0)
    half = torch.where(right > 0, torch.ones_like(right) << (right - 1).clamp_min(0), 0)
    return ((n << left) + half) >> right


def clamped(n: Tensor, most: int) -> Tensor:
    """Whole numbers that saturate at plus and minus `most`."""
    return n.clamp(-most, most)


def whole(x: Tensor, unit: float, most: int, what: str) -> Tensor:
    """Numbers as multiples of a unit, int64: halves up, saturated at plus and minus `most`.

    Args:
        x: floating point ``[...]``; infinite values saturate.
        unit: what one is worth.
        most: the largest.
        what: whose values they are, for the message.

    Raises:
        InputError: for NaN.
    """
    if bool(x.isnan().any()):
        raise InputError(
            f"NaN comes to {what}, and whole numbers have none; check the images and the network"
        )
    return torch.floor(x.double() / unit + 0.5).clamp(-most, most).to(torch.int64)


def checked(n: Tensor, most: int, what: str) -> Tensor:
    """The same numbers, which a bound that was proven before allows.

    Raises:
        InputError: if one is larger: the plan and the run don't belong together.
    """
    found = int(n.abs().max()) if n.numel() else 0
    if found > most:
        raise InputError(
            f"{what} holds {found}, but at most {most} was proven for it; the weights were changed "
            "after quantise, call it again"
        )
    return n
