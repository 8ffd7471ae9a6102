"""A few calibration images, which run through a captured graph as exact and as spiking network."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.fx.node import map_arg
from torch.utils import _pytree as pytree

from ..calls.call_signature import Signature
from ..common.ranks import team
from ..graph.node_facts import captured_batch, has_batch, size_names
from ..graph.run import Modules, last_read, walk
from ..neuron.few_spikes import FewSpikesNeuron

# Pieces of a batch, as in calibration.
_PIECES = 4
# Both networks' values between two layers may take this share of what all layers put out on a
# batch, and this many bytes at least.
_SHARE, _FLOOR = 0.5, 64 * 2**20


class Sample:
    """The first calibration images, as many as memory allows.

    Args:
        network: graph that calls the sites as modules.
        exact: their exact functions by path.
        signature: how the network is called.
        batches: calibration batches, as for `calibrate`.
        device: where the network lives.

    Attributes:
        pieces: flat inputs of some images each.
        sizes: how many images each has.
        others: pieces of the images after those, as many again at most: on them one sees whether
            what was learned of the first ones holds. Empty where the data has no more.
        other_images: how many images those have.
        own: the pieces that this process runs; all, unless several work together.
        last: values that no node reads any more, by the node after which that is so.
    """

    def __init__(
        self,
        network: GraphModule,
        exact: Mapping[str, torch.nn.Module],
        signature: Signature,
        batches: Iterable[Any],
        device: torch.device | str | None = None,
    ) -> None:
        self.network, self.exact, self.device = network, exact, device
        self.last = last_read(network.graph)
        self._captured = captured_batch(network.graph)
        self._names = size_names(network.graph)
        self.sizes: list[int] = []
        self.pieces: list[list[Any]] = []
        self.others: list[list[Any]] = []
        self.other_images = 0
        self._choose(signature, batches, device)
        self._outputs: list[list[Any]] | None = None

    @property
    def own(self) -> list[list[Any]]:
        return _share(self.pieces)

    @property
    def own_sizes(self) -> list[int]:
        """How many images each of the own pieces has."""
        return _share(self.sizes)

    def gathered(self, step: str, values: list[Any]) -> list[Any]:
        """What all processes found for their own pieces, in the order of the pieces."""
        together = team()
        return values if together is None else together.merged(step, values, self.device or "cpu")

    @property
    def images(self) -> int:
        """How many images."""
        return sum(self.sizes)

    def error(self, neurons: Mapping[str, FewSpikesNeuron]) -> float:
        """Relative error of the outputs with these neurons, by path; see `relative_error`."""
        with torch.no_grad():
            if self._outputs is None:
                self._outputs = self._run(self.exact, self.own)
            return self.error_of(self._outputs, self._run(neurons, self.own))

    def error_of(self, exact: Sequence[Sequence[Any]], spiking: Sequence[Sequence[Any]]) -> float:
        """Relative error of outputs of the own pieces, over the pieces of all processes."""
        return _error(self.gathered("error of the outputs", _squares(exact, spiking)))

    def error_on_others(
        self, neurons: Mapping[str, FewSpikesNeuron], tensors: Mapping[str, Tensor] | None = None
    ) -> float:
        """The same on the other images.

        Args:
            neurons: by path.
            tensors: what is read in place of a tensor of the network, by its path.
        """
        with torch.no_grad():
            others = _share(self.others)
            exact = self._run(self.exact, others)
            return self.error_of(exact, self._run(neurons, others, tensors))

    def batch_axes(self, node: Node) -> frozenset[int]:
        """Axes of a node's value whose length the batch decides."""
        value = node.meta["val"]
        return frozenset(
            axis
            for axis, length in enumerate(value.shape)
            # A loaded graph has numbers for symbols.
            if has_batch(length, self._names) or length == self._captured
        )

    def _run(
        self,
        modules: Mapping[str, torch.nn.Module],
        pieces: Sequence[list[Any]],
        tensors: Mapping[str, Tensor] | None = None,
    ) -> list[list[Any]]:
        """The outputs of every piece."""
        calls = called(modules)
        return [list(walk(self.network, one, modules=calls, tensors=tensors)) for one in pieces]

    def _choose(
        self, signature: Signature, batches: Iterable[Any], device: torch.device | str | None
    ) -> None:
        """Takes pieces of the first batches, as many images as memory allows, and others."""
        images, most = 0, 0
        for batch in batches:
            given = signature.flatten(*signature.split(batch, device))
            if not (size := signature.images(given)):
                continue
            for piece in signature.pieces(given, _PIECES):
                count = signature.images(piece)
                if not self.pieces:
                    most = self._affordable(piece, count, size)
                if images < most:
                    self.pieces.append(piece)
                    self.sizes.append(count)
                    images += count
                    continue
                if self.other_images >= images:
                    return
                self.others.append(piece)
                self.other_images += count

    def _affordable(self, piece: list[Any], images: int, size: int) -> int:
        """How many images' values may be kept, both networks' together.

        Args:
            piece: flat inputs of some images.
            images: how many.
            size: images of a batch.
        """
        total = peak = 0

        def measure(node: Node, value: Any, values: Mapping[Node, Any]) -> Any:
            nonlocal total, peak
            if node.op not in ("placeholder", "get_attr"):
                seen = set(_storages(values[n] for n in node.all_input_nodes))
                total += sum(n for at, n in _storages([value]).items() if at not in seen)
                peak = max(peak, sum(_storages(values.values()).values()))
            return value

        with torch.no_grad():
            walk(self.network, piece, modules=self.exact, after=measure)
        allowed = max(_FLOOR, _SHARE * total * size / images)
        return max(images, int(allowed * images / (2 * max(peak, 1))))


def called(modules: Mapping[str, torch.nn.Module]) -> Modules:
    """What to call for each site: a neuron decodes whatever its step mode is."""
    return {
        path: module.decode if isinstance(module, FewSpikesNeuron) else module
        for path, module in modules.items()
    }


def leaves(output: Node, values: Mapping[Node, Any]) -> list[Any]:
    """The values that the output node returns."""
    given: Any = output.args[0]
    return list(map_arg(given, values.__getitem__))


def _storages(values: Iterable[Any]) -> dict[int, int]:
    """Bytes by address of what some values lie in."""
    tensors = [t for t in pytree.tree_leaves(list(values)) if isinstance(t, Tensor)]
    return {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}


def relative_error(exact: Sequence[Sequence[Any]], spiking: Sequence[Sequence[Any]]) -> float:
    """Root mean square of the error over that of the outputs, on average over the outputs.

    Args:
        exact, spiking: outputs of every piece.
    """
    return _error(_squares(exact, spiking))


class _Squares(NamedTuple):
    """Sums of squares of the error and of the exact values, where these are finite.

    A value that only the spiking network makes NaN or infinite is an infinite error.
    """

    error: float
    size: float


def _squares(
    exact: Sequence[Sequence[Any]], spiking: Sequence[Sequence[Any]]
) -> list[list[_Squares | None]]:
    """Of every piece, those of each output; None for one without numbers."""
    return [
        [_of_one(a, b) for a, b in zip(*pair, strict=True)]
        for pair in zip(exact, spiking, strict=True)
    ]


def _of_one(a: Any, b: Any) -> _Squares | None:
    if not isinstance(a, Tensor) or not a.is_floating_point():
        return None
    seen = a.isfinite()
    broken = (seen & ~b.isfinite()).any()
    apart = torch.where(seen, b.double() - a.double(), 0.0).square().sum()
    whole = torch.where(seen, a.double(), 0.0).square().sum()
    # A GPU is waited for once.
    lost, gap, size = torch.stack([broken.double(), apart, whole]).tolist()
    return _Squares(math.inf if lost else gap, size)


def _error(squares: Sequence[Sequence[_Squares | None]]) -> float:
    """The relative error of what was summed of every piece, in the order of the pieces."""
    found = []
    for pieces in zip(*squares, strict=True):
        error = size = 0.0
        # What the first piece has no numbers of, no piece has.
        for piece in pieces:
            if piece is None:
                break
            if math.isinf(piece.error):
                error, size = math.inf, piece.size or 1.0
                break
            error += piece.error
            size += piece.size
        if size > 0:
            found.append(math.sqrt(error / size))
    return sum(found) / len(found) if found else 0.0


def _share(items: list[Any]) -> list[Any]:
    """Those of this process, where several work together."""
    together = team()
    return items if together is None else together.share(items)
