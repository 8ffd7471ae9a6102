"""What is kept of calibration batches: counts of every site's inputs, and facts of their own."""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from ..calls.call_signature import Signature
from ..common.devices import apart
from ..sites.find import Site
from . import device_counts
from .histogram import HIDDEN, Histogram

# A batch runs in this many pieces: the backward pass keeps the values of a whole piece.
_PIECES = 4

# Lowest and highest value of an input; None where it isn't a floating-point tensor.
Range = tuple[float, float] | None


class Tally:
    """Counts the inputs of every site.

    Args:
        sites: by whose calls inputs are told.

    Attributes:
        site_of: the site of every call.
        histograms: of the inputs, by the name of the site.
        elements: how many inputs each call had.
        masks: whether -inf is allowed, and what counts as that, by the name of the site.
        waiting: what is counted of a GPU when a piece is finished.
    """

    def __init__(self, sites: Sequence[Site]) -> None:
        self.site_of = {call: site for site in sites for call in site.calls}
        self.histograms = {s.name: Histogram(s.name, relative=s.singular) for s in sites}
        self.elements = dict.fromkeys(self.site_of, 0)
        self.masks = {site.name: (site.masks, site.hidden_below(HIDDEN)) for site in sites}
        # Inputs of the first time steps of a gate, which are counted with those of the last.
        self._steps: dict[str, list[tuple[Tensor, Tensor]]] = {}
        self.waiting: list[Generator[device_counts.Asked, device_counts.Told, None]] = []

    def count(self, call: Node, x: Tensor, importance: Tensor) -> None:
        """Adds inputs ``[...]`` of a site, each with its importance ``[...]``."""
        site = self.site_of[call]
        self.elements[call] += x.numel()
        if site.later:
            steps = self._steps.setdefault(site.name, [])
            steps.append((x.flatten(), importance.flatten()))
            if call is not site.calls[-1]:
                return
            x, importance = map(torch.cat, zip(*self._steps.pop(site.name), strict=True))
        self._add(site.name, x, importance)

    def _add(self, name: str, x: Tensor, importance: Tensor) -> None:
        masked, hidden = self.masks[name]
        histogram = self.histograms[name]
        if apart(x.device):
            told = histogram.adding(x, masked=masked, hidden=hidden, importance=importance)
            self.waiting.append(told)
        else:
            histogram.add(x, masked=masked, hidden=hidden, importance=importance)

    def neurons(self, images: int) -> dict[str, int]:
        """Neurons of every site for one of so many images, by its name."""
        found: dict[str, int] = {}
        for call, count in self.elements.items():
            # A value that all images of a batch share has fewer elements than there are images.
            one, name = max(round(count / images), 1), self.site_of[call].name
            found[name] = max(one, found.get(name, 0))
        return found

    def finish(self) -> None:
        """Counts what was told of a GPU; sites wait for it together, not each by itself."""
        waiting, self.waiting = self.waiting, []
        device_counts.finish(waiting)


@dataclass
class Inputs:
    """Facts of the inputs of batches.

    Args:
        images: how many there were.
        ranges: lowest and highest value of each flat input; None where it isn't a floating-point
            tensor.
        longest: the longest of each length that varies, by its name.
    """

    images: int = 0
    ranges: list[Range] = field(default_factory=list)
    longest: dict[str, int] = field(default_factory=dict)

    def add(
        self, signature: Signature, batch: Any, device: torch.device | str | None
    ) -> list[list[Any]]:
        """The flat inputs of a batch, cut into pieces; none of a batch without images."""
        args, kwargs = signature.split(batch, device)
        leaves = signature.flatten(args, kwargs)
        if not (size := signature.images(leaves)):
            return []
        self.ranges = widened(self.ranges, leaves)
        self._lengths(signature.lengths(leaves))
        self.images += size
        return signature.pieces(leaves, _PIECES)

    def join(self, other: Inputs) -> None:
        """Adds the facts of other batches."""
        self.images += other.images
        if self.ranges and other.ranges:
            pairs = zip(self.ranges, other.ranges, strict=True)
            self.ranges = [
                (min(a[0], b[0]), max(a[1], b[1])) if a and b else a or b for a, b in pairs
            ]
        self.ranges = self.ranges or other.ranges
        self._lengths(other.longest)

    def _lengths(self, lengths: Mapping[str, int]) -> None:
        for name, length in lengths.items():
            self.longest[name] = max(self.longest.get(name, 0), length)


def widened(ranges: Sequence[Range], leaves: Sequence[Any]) -> list[Range]:
    """Ranges that hold another batch of inputs too."""
    result: list[Range] = []
    for index, leaf in enumerate(leaves):
        if not isinstance(leaf, Tensor) or not leaf.is_floating_point() or not leaf.numel():
            result.append(None)
            continue
        before = ranges[index] if ranges else None
        low, high = (float(bound) for bound in torch.aminmax(leaf))
        if math.isnan(low):
            # NaN that no site sees says nothing of the range.
            leaf = leaf[~leaf.isnan()]
            if not leaf.numel():
                result.append(before)
                continue
            low, high = (float(bound) for bound in torch.aminmax(leaf))
        result.append((min(low, before[0]), max(high, before[1])) if before else (low, high))
    return result
