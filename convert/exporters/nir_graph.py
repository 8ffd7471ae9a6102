"""A graph of NIR's nodes as it is built; nothing here needs the package `nir`.

Arrays whose values are all alike are views of one number: they take no memory until they are
written. Source of the nodes: Pedersen et al. 2024, https://doi.org/10.1038/s41467-024-52259-9.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Shape = tuple[int, ...]


@dataclass(frozen=True)
class NirSignal:
    """A value of one image: the sum of what some nodes give.

    Args:
        sources: names of the nodes, each once.
        shape: without the axis of images.
    """

    sources: tuple[str, ...]
    shape: Shape


@dataclass(frozen=True)
class NirNode:
    """One node.

    Args:
        kind: NIR's name of it.
        fields: its arguments.
        metadata: for readers who want to know more.
    """

    kind: str
    fields: Mapping[str, Any]
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @property
    def bytes(self) -> int:
        """Size of its arrays."""
        values = (*self.fields.values(), *self.metadata.values())
        return sum(value.nbytes for value in values if isinstance(value, np.ndarray))


@dataclass(frozen=True)
class NirSize:
    """How large a file is.

    Args:
        nodes: how many.
        edges: how many.
        bytes: of all arrays, before they are compressed in the file.
    """

    nodes: int
    edges: int
    bytes: int

    def __str__(self) -> str:
        return f"{self.nodes:,} nodes, {self.edges:,} edges, {self.bytes / 1e6:,.1f} MB of arrays"


class NirGraph:
    """Nodes and the edges between them.

    Args:
        dtype: of all arrays.
    """

    def __init__(self, dtype: npt.DTypeLike) -> None:
        self.dtype = np.dtype(dtype)
        self.nodes: dict[str, NirNode] = {}
        self.edges: list[tuple[str, str]] = []

    @property
    def size(self) -> NirSize:
        """What writing it takes."""
        total = sum(node.bytes for node in self.nodes.values())
        return NirSize(len(self.nodes), len(self.edges), total)

    def add(
        self,
        kind: str,
        name: str,
        signal: NirSignal | None,
        shape: Shape,
        metadata: Mapping[str, Any] | None = None,
        **fields: Any,
    ) -> NirSignal:
        """A new node that takes a signal; what it gives.

        Args:
            kind: NIR's name of it.
            name: that it should have; a number follows where it is taken.
            signal: what comes in; None for an input.
            shape: of what it gives.
            metadata, fields: of the node.
        """
        name = self.free(name)
        self.nodes[name] = NirNode(kind, fields, metadata or {})
        if signal is not None:
            self.edges += [(source, name) for source in signal.sources]
        return NirSignal((name,), shape)

    def free(self, name: str) -> str:
        """A name that no node has; HDF5 takes no slashes."""
        name = name.replace("/", "_").replace(" ", "_") or "node"
        found, number = name, 1
        while found in self.nodes:
            number += 1
            found = f"{name}_{number}"
        return found

    def filled(self, shape: Shape, value: Any) -> Array:
        """An array of one number, or of what is spread over it."""
        return np.broadcast_to(np.asarray(value, self.dtype), shape)

    def scaled(self, name: str, signal: NirSignal, factor: Any) -> NirSignal:
        """A signal times a number, or an array that is spread over it."""
        return self.add(
            "Scale", name, signal, signal.shape, scale=self.filled(signal.shape, factor)
        )

    def joined(self, name: str, signal: NirSignal) -> NirSignal:
        """The same signal, from one node: all that read it see one sum."""
        return signal if len(signal.sources) == 1 else self.scaled(name, signal, 1)

    def constant(self, name: str, like: NirSignal, value: Any) -> NirSignal:
        """A constant: a neuron that fires for any input, times the constant.

        Args:
            name: of the nodes.
            like: a signal of the constant's shape, which may be anything but NaN.
            value: a number, or an array that is spread over the shape.
        """
        lowest = self.filled(like.shape, np.finfo(self.dtype).min)
        metadata = {"role": "fires always: its output is a constant"}
        always = self.add(
            "Threshold", f"{name}.always", like, like.shape, metadata, threshold=lowest
        )
        return self.scaled(name, always, value)

    def sum(self, name: str, signals: Sequence[NirSignal]) -> NirSignal:
        """The sum of signals of one shape."""
        sources: list[str] = []
        for signal in signals:
            if set(signal.sources) & set(sources):
                # There is one edge at most between two nodes.
                signal = self.scaled(f"{name}.again", signal, 1)
            sources += signal.sources
        return NirSignal(tuple(sources), signals[0].shape)

    def mixed(self, name: str, signal: NirSignal, matrix: Array) -> NirSignal:
        """Sums over the first axis, place by place.

        Args:
            name: of the node.
            signal: ``[C, ...]`` with at most two more axes.
            matrix: ``[D, C]``.
        """
        matrix = matrix.astype(self.dtype)
        shape = (len(matrix), *signal.shape[1:])
        dims = len(signal.shape) - 1
        if not dims:
            return self.add("Linear", name, signal, shape, weight=matrix)
        return self.convolved(name, signal, matrix.reshape(*matrix.shape, *[1] * dims), shape)

    def convolved(
        self,
        name: str,
        signal: NirSignal,
        weight: Array,
        shape: Shape,
        bias: Array | None = None,
        *,
        stride: Shape = (1, 1),
        padding: Shape = (0, 0),
        dilation: Shape = (1, 1),
    ) -> NirSignal:
        """A convolution of ``[C, W]`` or ``[C, H, W]`` without groups."""
        dims = len(signal.shape) - 1
        sizes = signal.shape[1:]
        lengths = {"stride": stride, "padding": padding, "dilation": dilation}
        fields: dict[str, Any] = {
            name: value[:2] if dims == 2 else int(value[0]) for name, value in lengths.items()
        }
        return self.add(
            f"Conv{dims}d",
            name,
            signal,
            shape,
            input_shape=sizes if dims == 2 else sizes[0],
            weight=np.ascontiguousarray(weight, self.dtype),
            groups=1,
            bias=self.filled((len(weight),), 0) if bias is None else bias.astype(self.dtype),
            **fields,
        )

    def keep(self, ends: Sequence[str]) -> None:
        """Drops nodes from which no way leads to these; inputs stay."""
        before: dict[str, list[str]] = {}
        for source, target in self.edges:
            before.setdefault(target, []).append(source)
        kept, waiting = set(), list(ends)
        while waiting:
            name = waiting.pop()
            if name not in kept:
                kept.add(name)
                waiting += before.get(name, [])
        kept |= {name for name, node in self.nodes.items() if node.kind == "Input"}
        self.nodes = {name: node for name, node in self.nodes.items() if name in kept}
        self.edges = [edge for edge in self.edges if edge[0] in kept and edge[1] in kept]
