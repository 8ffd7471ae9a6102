"""How many images a network takes at once, where its forward asks for the size of the batch."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.utils import _pytree as pytree

from ..common.label_names import named_parts
from ..errors import InputError


@dataclass(frozen=True)
class BatchBounds:
    """The sizes of a batch that a network was captured for.

    Args:
        least: the fewest images.
        most: the most images; None for no bound.
        divisor: every size is a multiple of it.
        asked: the line of forward that asks for the size, where it is known.
    """

    least: int = 1
    most: int | None = None
    divisor: int = 1
    asked: str = ""

    def __str__(self) -> str:
        """In words: ``at most 63 images at once``."""
        parts = [f"a multiple of {self.divisor} images"] if self.divisor > 1 else []
        if self.least > self.divisor:
            parts.append(f"at least {self.least} images")
        if self.most is not None:
            parts.append(f"at most {self.most} images")
        return f"{' and '.join(parts) or 'any number of images'} at once"

    @property
    def smallest(self) -> int:
        """The smallest size that is taken."""
        return -(-self.least // self.divisor) * self.divisor

    def holds(self, size: int) -> bool:
        """Whether a batch of `size` images is taken."""
        return size >= self.least and size % self.divisor == 0 and size <= (self.most or size)

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

    def at_least(self, size: int) -> int:
        """The smallest size that is taken and isn't below `size`, if there is one."""
        size = max(-(-size // self.divisor) * self.divisor, self.smallest)
        return size if self.most is None else min(size, self.most // self.divisor * self.divisor)


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


def suggested(message: str, now: BatchBounds) -> BatchBounds | None:
    """The bounds that torch.export asks for in an error, narrower than `now`; None for no such.

    Args:
        message: what torch says: ``batch = Dim('batch', max=63)``, ``batch = 8*_batch``.
        now: the bounds that it was given.
    """
    found = re.findall(r"^\s*(_*batch) = (.+)$", message, re.MULTILINE)
    least, most, divisor = now.least, now.most, now.divisor
    for _, text in found:
        if multiple := re.fullmatch(r"(\d+)\*_+batch", text.strip()):
            divisor = int(multiple[1]) * (1 if text.count("_") == 1 else now.divisor)
    for name, text in found:
        if not text.startswith("Dim("):
            if "*" not in text:
                return None  # one size alone
            continue
        scale = divisor if name.startswith("_") else 1
        if bound := re.search(r"min=(\d+)", text):
            least = max(least, scale * int(bound[1]))
        if bound := re.search(r"max=(\d+)", text):
            most = min(scale * int(bound[1]), scale * int(bound[1]) if most is None else most)
    if (least, most, divisor) == (now.least, now.most, now.divisor) or (most or least) < least:
        return None
    return BatchBounds(least, most, divisor)
