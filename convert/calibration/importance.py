"""What an error of a site does to the network's output.

To first order an error e of a site's output moves the network's outputs by the gradient times e.
The calibration histogram of a site is weighted with the square of that gradient, summed over the
outputs: an exp that a large sum divides, a channel that the next layer hardly reads, count for
little. The sum over outputs is estimated without bias by one backward pass from a random sign for
each output (Hutchinson 1990).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.utils import _pytree as pytree

from ..calls.batch_layout import Layout
from ..graph.run import walk

Told = Callable[[Node, Tensor, Tensor], None]


class Observer:
    """Runs a captured graph and tells every site's input and how much each output matters.

    Where no gradient reaches a site (integer outputs, an operation without derivative), every
    importance is 0.

    Args:
        graph_module: the captured graph.
        sites: the sites' calls.
        told: called with a site's call, its input ``[...]`` and the importance ``[...]`` of each
            element of its output, float32, >= 0, finite.
        seed: of the signs; the n-th image has the same signs however the data is split in batches.
        layouts: where the images lie in each flat output; empty where all are ``[N, ...]``.
        positions: whether each flat output is ``[N, L, ...]``, with a part for each position of a
            text; empty where none is.
    """

    def __init__(
        self,
        graph_module: GraphModule,
        sites: Sequence[Node],
        told: Told,
        seed: int = 0,
        layouts: Sequence[Layout | None] = (),
        positions: Sequence[bool] = (),
    ) -> None:
        self.graph_module = graph_module
        self._positions = positions
        self._layouts = layouts
        self.sites, self.told, self._seed = set(sites), told, seed
        # Why a backward pass failed, if one did.
        self.failed: str | None = None
        self._signs: list[np.random.Generator] = []
        # Magnitude of each output in the first batch, and how many signs the last batch took.
        self.sizes: list[float] = []
        self.drawn: list[int] = []
        self._seen: dict[Node, tuple[Tensor, Tensor]] = {}

    def begin(self, before: Sequence[int], sizes: Sequence[float]) -> None:
        """Goes on as if other batches had been run before.

        Args:
            before: how many signs they took of each output.
            sizes: what `sizes` is behind the first of them.
        """
        self._signs, self.sizes = [], list(sizes)
        for index, count in enumerate(before):
            self._signs.append(np.random.default_rng([self._seed, index]))
            self._signs[index].bit_generator.advance(count)  # type: ignore[attr-defined]

    def outputs_of(self, *inputs: Any, kept: Tensor | None = None) -> list[tuple[int, float]]:
        """Of each output that a gradient starts from: its elements and its magnitude.

        Args:
            inputs, kept: as for `run`.
        """
        with torch.enable_grad():
            outputs = walk(self.graph_module, inputs, after=self._followed)
            found = self._probed(self._unpadded(pytree.tree_leaves(outputs), kept))
        self._seen.clear()
        return [(output.numel(), _magnitude(_plain(output))) for output in found]

    def run(self, *inputs: Any, kept: Tensor | None = None) -> Any:
        """Computes the outputs of one batch and tells what it saw of every site.

        Args:
            inputs: flat inputs.
            kept: True where a position is no padding, ``[N, L]``: outputs at the others count for
                nothing.
        """
        with torch.enable_grad():
            outputs = walk(self.graph_module, inputs, after=self._followed)
            found = self._gradients(self._unpadded(pytree.tree_leaves(outputs), kept))
        outputs = pytree.tree_map_only(Tensor, Tensor.detach, outputs)
        for node in list(self._seen):
            # One at a time, so that a site's memory is free before the next one is counted.
            x, y = self._seen.pop(node)
            gradient = found.pop(node, None)
            square = torch.zeros_like(y, dtype=torch.float32)
            if gradient is not None:
                square = gradient.float().square().nan_to_num_(0.0, 0.0, 0.0)
            self.told(node, x.detach(), square)
        return outputs

    def state(self) -> dict[str, Any]:
        """What the next batch depends on, as numbers and texts."""
        signs = [generator.bit_generator.state for generator in self._signs]
        return {"signs": signs, "sizes": list(self.sizes), "failed": self.failed}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes on from what `state` gave, after a first batch."""
        for generator, known in zip(self._signs, state["signs"], strict=True):
            generator.bit_generator.state = known
        self.sizes, self.failed = list(state["sizes"]), state["failed"]

    def _unpadded(self, outputs: Sequence[Any], kept: Tensor | None) -> Sequence[Any]:
        """The outputs with 0 at padding, through which no gradient passes."""
        if kept is None or len(self._positions) != len(outputs):
            return outputs
        return [
            torch.where(kept.view(*kept.shape, *[1] * (output.dim() - 2)), output, 0.0)
            if held and _learns(output)
            else output
            for output, held in zip(outputs, self._positions, strict=True)
        ]

    def _followed(self, n: Node, result: Any, known: Mapping[Node, Any]) -> Any:
        """What goes on in place of a node's value; the weights take no gradient."""
        if n.op == "get_attr":
            return pytree.tree_map_only(Tensor, Tensor.detach, result)
        if n in self.sites:
            x = known[n.all_input_nodes[0]]
            if not result.requires_grad:
                result = result.detach().requires_grad_()
            # What one masked position has of an infinite gradient must not spoil the others'.
            result.register_hook(lambda g: g.nan_to_num(0.0, 0.0, 0.0))
            self._seen[n] = x, result
        return result

    def _gradients(self, outputs: Sequence[Any]) -> dict[Node, Tensor]:
        probe = self._probe(self._probed(outputs))
        reached = [node for node, (_, y) in self._seen.items() if y.requires_grad]
        if probe is None or not reached:
            return {}
        values = [self._seen[node][1] for node in reached]
        try:
            found = torch.autograd.grad(probe, values, allow_unused=True)
        except RuntimeError as error:
            self.failed = str(error).splitlines()[0]
            return {}
        return {n: g for n, g in zip(reached, found, strict=True) if g is not None}

    def _probed(self, outputs: Sequence[Any]) -> list[Tensor]:
        """The outputs that a gradient starts from, image by image."""
        known = self._layouts if len(self._layouts) == len(outputs) else [None] * len(outputs)
        pairs = [(o, layout) for o, layout in zip(outputs, known, strict=True) if _learns(o)]
        return [o if layout is None else layout.one_by_one(o) for o, layout in pairs]

    def _probe(self, outputs: Sequence[Tensor]) -> Tensor | None:
        """Sum of the outputs with random signs, each output over its magnitude in the first batch.

        Signs are drawn image by image where the outputs hold images.
        """
        total = None
        self.drawn = [output.numel() for output in outputs]
        for index, output in enumerate(outputs):
            value = _plain(output)
            if len(self._signs) <= index:
                self._signs.append(np.random.default_rng([self._seed, index]))
                self.sizes.append(_magnitude(value))
            drawn = self._signs[index].random(output.numel()) < 0.5
            signs = torch.from_numpy(drawn).to(output.device).view(output.shape)
            part = torch.where(signs, value, -value).sum() / self.sizes[index]
            total = part if total is None else total + part
        return total


def _plain(output: Tensor) -> Tensor:
    """An output with 0 where it isn't finite."""
    return torch.where(output.detach().isfinite(), output, 0.0).float()


def _magnitude(value: Tensor) -> float:
    """Root mean square; 1 where that is 0."""
    return float(value.detach().square().mean().sqrt()) or 1.0


def _learns(output: Any) -> bool:
    return isinstance(output, Tensor) and output.requires_grad and output.is_floating_point()
