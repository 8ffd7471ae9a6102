"""How many images a network takes at once, where its forward asks for the size of the batch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.utils import _pytree as pytree

from ..common.label_names import named_parts
from ..errors import InputError
from .size_bounds import SizeBounds


@dataclass(frozen=True)
class BatchBounds(SizeBounds):
    """The sizes of a batch that a network was captured for: how many images at once."""

    def __str__(self) -> str:
        """In words: ``at most 63 images at once``."""
        parts = [f"a multiple of {self.divisor} images"] if self.divisor > 1 else []
        if self.least > self.divisor:
            parts.append(f"at least {self.least} images")
        if self.most is not None:
            parts.append(f"at most {self.most} images")
        return f"{' and '.join(parts) or 'any number of images'} at once"

    def check(self, size: int) -> None:
        """Refuses a batch of another size.

        Raises:
            InputError: with what is taken, and why.
        """
        if not self.holds(size):
            why = f" (forward asks at {self.asked})" if self.asked else ""
            raise InputError(
                f"a batch of {size} images; the network takes {self}, give such batches{why}"
            )

    def sizes(self, total: int, count: int) -> list[int]:
        """At least `count` pieces, if that many are possible, that make up a batch of `total`.

        Args:
            total: a batch's images.
            count: how many pieces are wanted; more come out where a piece would be too large.

        Raises:
            InputError: where no pieces of allowed sizes make up the batch.
        """
        units, rest = divmod(total, self.divisor)
        least = self.smallest // self.divisor
        most = units if self.most is None else self.most // self.divisor
        if rest or units < least or most < least:
            self.check(total)
        pieces = max(-(-units // max(most, 1)), min(count, units // least))
        if pieces * least > units:
            self.check(total)
        each, more = divmod(units, pieces)
        return [self.divisor * (each + (i < more)) for i in range(pieces)]

    def part_of(self, size: int) -> int:
        """How many of `size` images can be taken, in one batch or in several."""
        size -= size % self.divisor
        most = size if self.most is None else self.most - self.most % self.divisor
        while size >= self.smallest and -(-size // most) * self.smallest > size:
            size -= self.divisor
        return size if size >= self.smallest else 0


def label_parts(label: Any, size: int, sizes: list[int]) -> Iterator[Any]:
    """A batch's label cut into some of these sizes; what isn't one an image stays whole.

    Args:
        label: an array, a list or tuple of one an image, or some of them in a dict or list.
        size: images of the batch.
        sizes: of the parts.
    """
    if not isinstance(label, tuple | dict):
        label = label if (named := named_parts(label)) is None else named
    held = {id(part) for part in (label, *_elements(label)) if _is_list_of(part, size)}
    leaves, spec = pytree.tree_flatten(label, is_leaf=lambda value: id(value) in held)
    begin = 0
    for length in sizes:
        yield pytree.tree_unflatten(
            [
                leaf[begin : begin + length]
                if getattr(leaf, "shape", ())[:1] == (size,) or id(leaf) in held
                else leaf
                for leaf in leaves
            ],
            spec,
        )
        begin += length


def _elements(batch: Any) -> list[Any]:
    if isinstance(batch, dict):
        return list(batch.values())
    return list(batch) if isinstance(batch, tuple | list) else []


def _is_list_of(value: Any, size: int) -> bool:
    """Whether a value is a list of one label an image."""
    plain = isinstance(value, tuple | list) and len(value) == size
    return plain and not any(isinstance(entry, Tensor) and entry.dim() for entry in value)
