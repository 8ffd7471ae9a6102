"""Random graphs of ATen operations and sites, and what they are run on.

A graph mixes what makes memory reuse hard: views and views of views, slices of one tensor, values
that are read again later, sums that share an operand, scalars, other types, expanded tensors, sums
before sites, several outputs.
"""

import operator
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, GraphModule, Node

from convert.calls.call_signature import Signature
from convert.calls.input_shapes import TensorInput
from convert.graph.region_function import ExactFunction
from convert.network.model import SpikingModel
from convert.neuron.few_spikes import FewSpikesNeuron

aten = torch.ops.aten
CHANNELS, SIDE = 4, 3


@dataclass
class Case:
    """A network and an input for it."""

    snn: SpikingModel
    inputs: tuple[Tensor, ...]


class _Maker:
    def __init__(self, seed: int) -> None:
        self.draw = random.Random(seed)
        self.generator = torch.Generator().manual_seed(seed)
        self.root = torch.nn.Module()
        self.graph = Graph()
        self.values: list[Node] = []
        self.sites: dict[str, torch.nn.Module] = {}

    def tensor(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.generator)

    def add(self, node: Node, value: Any) -> Node:
        node.meta["val"] = value
        if isinstance(value, Tensor) and value.is_floating_point() and value.numel():
            self.values.append(node)
        return node

    def call(self, target: Callable[..., Any], *args: Any, **kwargs: Any) -> Node:
        given = torch.fx.node.map_arg((args, kwargs), lambda n: n.meta["val"])
        value = target(*given[0], **given[1])
        return self.add(self.graph.call_function(target, args, kwargs), value)

    def any(self) -> Node:
        # Mostly something recent; sometimes something old.
        recent = self.values[-5:] if self.draw.random() < 0.7 else self.values
        return self.draw.choice(recent)

    def weight(self, *shape: int) -> Node:
        name = f"w{len(self.root._parameters)}"
        parameter = torch.nn.Parameter(self.tensor(*shape), requires_grad=False)
        self.root.register_parameter(name, parameter)
        node = self.graph.get_attr(name)
        node.meta["val"] = parameter
        return node

    def step(self) -> None:
        """Adds one operation that fits, if there is one."""
        kind = self.draw.choice(_KINDS)
        try:
            kind(self, self.any())
        except RuntimeError:
            return  # types or shapes that torch doesn't take


def _linear(m: _Maker, x: Node) -> None:
    shape = x.meta["val"].shape
    if len(shape) >= 2:
        m.call(aten.linear.default, x, m.weight(shape[-1], shape[-1]), m.weight(shape[-1]))


def _conv(m: _Maker, x: Node) -> None:
    shape = x.meta["val"].shape
    if len(shape) == 4 and shape[1] == CHANNELS:
        weight = m.weight(CHANNELS, CHANNELS, 1, 1)
        m.call(aten.conv2d.default, x, weight, m.weight(CHANNELS))


def _alike(m: _Maker, x: Node) -> Node:
    shape = x.meta["val"].shape
    same = [v for v in m.values if v.meta["val"].shape == shape]
    return m.draw.choice(same[-4:] if m.draw.random() < 0.7 else same)


def _sum(m: _Maker, x: Node) -> None:
    y = _alike(m, x)
    m.call(m.draw.choice([aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor]), x, y)


def _broadcast(m: _Maker, x: Node) -> None:
    fits = []
    for y in m.values:
        try:
            torch.broadcast_shapes(x.meta["val"].shape, y.meta["val"].shape)
        except RuntimeError:
            continue
        fits.append(y)
    y = m.draw.choice(fits)
    pair = (x, y) if m.draw.random() < 0.5 else (y, x)
    m.call(m.draw.choice([aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor]), *pair)


def _scalar(m: _Maker, x: Node) -> None:
    target = m.draw.choice([aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor, aten.div.Tensor])
    m.call(target, x, m.draw.choice([2, -1, 0.5, 0.1]))


def _scaled_sum(m: _Maker, x: Node) -> None:
    m.call(aten.add.Tensor, x, _alike(m, x), alpha=2)


def _view(m: _Maker, x: Node) -> None:
    value = x.meta["val"]
    dim = value.dim()
    options: list[Callable[[], Any]] = [
        lambda: m.call(aten.reshape.default, x, [value.shape[0], -1]),
        lambda: m.call(aten.unsqueeze.default, x, 0),
        lambda: m.call(aten.alias.default, x),
    ]
    if dim >= 2:
        options.append(lambda: m.call(aten.transpose.int, x, dim - 1, dim - 2))
        options.append(
            lambda: m.call(aten.slice.Tensor, x, dim - 1, 0, max(1, value.shape[-1] // 2))
        )
        options.append(lambda: m.call(aten.slice.Tensor, x, 1, value.shape[1] // 2, 2**62))
        options.append(lambda: m.call(aten.select.int, x, 1, 0))
        options.append(lambda: m.call(aten.flatten.using_ints, x, 1))
    if dim == 4:
        options.append(lambda: m.call(aten.permute.default, x, [0, 2, 3, 1]))
    if value.shape[0] == 1:
        options.append(lambda: m.call(aten.squeeze.dim, x, 0))
        options.append(lambda: m.call(aten.expand.default, x, [3, *value.shape[1:]]))
    m.draw.choice(options)()


def _reduced(m: _Maker, x: Node) -> None:
    dim = x.meta["val"].dim()
    if dim >= 2:
        m.call(m.draw.choice([aten.mean.dim, aten.sum.dim_IntList]), x, [dim - 1], True)


def _joined(m: _Maker, x: Node) -> None:
    m.call(aten.cat.default, [x, _alike(m, x)], m.draw.randrange(x.meta["val"].dim()))


def _parts(m: _Maker, x: Node) -> None:
    value = x.meta["val"]
    if value.dim() >= 2 and value.shape[1] > 1:
        parts = m.call(aten.split.Tensor, x, max(1, value.shape[1] // 2), 1)
        for index in range(len(parts.meta["val"])):
            node = m.graph.call_function(operator.getitem, (parts, index))
            m.add(node, parts.meta["val"][index])


def _cast(m: _Maker, x: Node) -> None:
    dtype = m.draw.choice([torch.float64, torch.float32, torch.bfloat16])
    m.call(aten._to_copy.default, x, dtype=dtype)


def _copied(m: _Maker, x: Node) -> None:
    target = m.draw.choice([aten.clone.default, aten.contiguous.default, aten.neg.default])
    m.call(target, x)


def _site(m: _Maker, x: Node) -> None:
    name = f"s{len(m.sites)}"
    steps = m.draw.randint(1, 4)
    table = [m.tensor(steps) for _ in range(3)]
    neuron = FewSpikesNeuron(table[0], table[1].abs(), table[2], 0.1)
    region = Graph()
    argument = region.placeholder("x")
    # An identity site returns its very argument.
    identity = m.draw.random() < 0.3
    region.output(argument if identity else region.call_function(aten.relu.default, (argument,)))
    m.sites[name] = ExactFunction(GraphModule({}, region), x.meta["val"].dtype)
    m.root.add_module(name, neuron)
    m.add(m.graph.call_module(name, (x,)), neuron(x.meta["val"]))


def _summed_site(m: _Maker, x: Node) -> None:
    y = _alike(m, x)
    total = m.call(aten.add.Tensor, x, y)
    _site(m, total)
    if m.draw.random() < 0.7:
        # Nobody else reads the sum.
        m.values.remove(total)


_KINDS = [
    *[_linear, _conv] * 3, *[_sum] * 5, _broadcast, _scalar, _scalar, _scaled_sum, *[_view] * 3,
    _reduced, _joined, _parts, _cast, _copied, _site, _site, *[_summed_site] * 3,
]  # fmt: skip


def random_case(seed: int, length: int = 24) -> Case:
    """A network of `length` random operations, and an input for it."""
    m = _Maker(seed)
    inputs = []
    for index in range(m.draw.randint(1, 2)):
        x = m.tensor(2, CHANNELS, SIDE, SIDE)
        if m.draw.random() < 0.5:
            x = x.to(memory_format=torch.channels_last)
        m.add(m.graph.placeholder(f"x{index}"), x)
        inputs.append(x)
    while len(m.graph.nodes) < length:
        m.step()
    if not m.sites:
        _site(m, m.values[-1])
    unread = [v for v in m.values if not v.users]
    outputs = unread or m.values[-1:]
    outputs += [m.any()] if m.draw.random() < 0.3 else []
    m.graph.output(tuple(outputs))
    network = GraphModule(m.root, m.graph)
    described = [TensorInput(f"x{i}", tuple(x.shape), x.dtype) for i, x in enumerate(inputs)]
    signature = Signature(
        tuple(f"x{i}" for i in range(len(inputs))),
        tuple(described),
        (None,) * len(inputs),
        torch.utils._pytree.tree_structure([0] * len(inputs)),
        torch.utils._pytree.tree_structure([0] * len(outputs)),
        positional=len(inputs),
    )
    names = {name: name for name in m.sites}
    snn = SpikingModel(network, dict(m.sites), signature, names).eval()
    return Case(snn, tuple(inputs))
