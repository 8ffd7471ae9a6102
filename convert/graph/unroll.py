"""Takes recurrent layers apart into the operations of every time step; gates keep their names.

The equations are those of torch's documentation, with torch's order of gates. A gate is the same
neuron at every time step: its values carry one mark, by which `sites.find` makes one site of them.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.fx import GraphModule, Node
from torch.fx.node import map_arg
from torch.utils import _pytree as pytree

from .node_facts import read, without_data
from .recurrence import CELL, LAYERS

aten = torch.ops.aten

# Key of a node's meta: its `Mark`.
MARK = "recurrent"
# The state of a layer: the hidden state, and the cell of an LSTM.
State = tuple[Node, ...]


@dataclass(frozen=True)
class Mark:
    """What the values of several time steps have in common.

    Args:
        weight: the hidden weight of the layer, as an expression of the network's tensors.
        name: of the value within its layer, such as ``layer0.forward.input_gate``.
    """

    weight: str
    name: str


def unroll(graph_module: GraphModule) -> None:
    """Puts the operations of all time steps in the place of every recurrent layer and cell.

    Args:
        graph_module: a graph in which they are whole; changed in place.
    """
    told: dict[Node, str] = {}
    for node in list(graph_module.graph.nodes):
        if node.target is LAYERS:
            made = _of_layers(_Tape(graph_module, node, told), *node.args)
        elif node.target is CELL:
            made = _of_cell(_Tape(graph_module, node, told), *node.args)
        else:
            continue
        for user in list(node.users):
            # Every value that it gives is taken out by a node of its own.
            user.replace_all_uses_with(made[user.args[1]])
            graph_module.graph.erase_node(user)
        graph_module.graph.erase_node(node)


class _Tape:
    """Writes operations before a node; what is computed alike is inferred once.

    Args:
        graph_module: where the node is.
        node: the recurrent layer.
        told: expressions of the network's tensors, as far as they are known.
    """

    def __init__(self, graph_module: GraphModule, node: Node, told: dict[Node, str]) -> None:
        self.graph_module, self.node, self._told = graph_module, node, told
        self._mode = next(
            v.fake_mode for v in pytree.tree_leaves(node.meta["val"]) if isinstance(v, FakeTensor)
        )
        # By operation and operands; a value that is known stays where it is in memory.
        self._values: dict[tuple[Any, ...], Any] = {}
        self._alike: dict[tuple[Any, ...], Tensor] = {}
        self._given: dict[Node, Any] = {}

    def call(self, target: Callable[..., Any], *args: Any) -> Node:
        """A call of an operation."""
        with self.graph_module.graph.inserting_before(self.node):
            made = self.graph_module.graph.call_function(target, args)
        made.meta = {key: value for key, value in self.node.meta.items() if key != "val"}
        made.meta["val"] = self._value(target, args)
        return made

    def parts(self, x: Node, count: int) -> list[Node]:
        """A value ``[N, count H]`` in equal parts ``[N, H]``."""
        size = self._of(x).shape[-1] // count
        split = self.call(aten.split_with_sizes.default, x, [size] * count, -1)
        return [self.call(operator.getitem, split, i) for i in range(count)]

    def expression(self, value: Any) -> str:
        """What a value is computed from: the same for the same tensors of the network."""
        if isinstance(value, tuple | list):
            return f"[{', '.join(map(self.expression, value))}]"
        if not isinstance(value, Node):
            return str(value)
        if value not in self._told:
            given = ", ".join(map(self.expression, (value.args, *value.kwargs.values())))
            named = value.op in ("placeholder", "get_attr")
            self._told[value] = str(value.target) if named else f"{value.target}({given})"
        return self._told[value]

    def length(self, x: Node) -> int:
        """The first axis of a value."""
        return int(self._of(x).shape[0])

    def _of(self, node: Node) -> Any:
        """A node's value without data."""
        if node.meta.get("val") is not None:
            return node.meta["val"]
        if node not in self._given:
            tensor = read(self.graph_module, node)
            self._given[node] = self._mode.from_tensor(tensor, static_shapes=True)
        return self._given[node]

    def _value(self, target: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        values: Any = map_arg(args, self._of)
        leaves, form = pytree.tree_flatten(values)
        key = target, str(form), *(id(v) if isinstance(v, Tensor) else v for v in leaves)
        if key not in self._values:
            with without_data(self._mode):
                made = target(*values)
            # The next time step's operands are the same values as this one's.
            alike = pytree.tree_map_only(
                Tensor, lambda v: self._alike.setdefault(_form(v), v), made
            )
            # The operands are kept, so that no other value takes their place in memory.
            self._values[key] = alike, values
        return self._values[key][0]


def _form(value: Tensor) -> tuple[Any, ...]:
    """What two values have in common that are alike but for their numbers."""
    return value.dtype, value.device, str(tuple(value.shape)), str(value.stride())


@dataclass(frozen=True)
class _Layer:
    """One layer in one direction, or a cell; H hidden values, of which P are projected.

    Args:
        tape: what is written to.
        place: its name with a dot behind it, empty for a cell.
        given: weight of the input ``[G H, F]``.
        hidden: weight of the hidden state ``[G H, H or P]``.
        given_bias, hidden_bias: ``[G H]``, or None.
        projection: ``[P, H]``, or None.
    """

    tape: _Tape
    place: str
    given: Node
    hidden: Node
    given_bias: Node | None = None
    hidden_bias: Node | None = None
    projection: Node | None = None

    @classmethod
    def of(cls, tape: _Tape, place: str, tensors: Sequence[Node], biases: bool) -> _Layer:
        """From its tensors in torch's order."""
        given, hidden, *rest = tensors
        pair = rest[:2] if biases else [None, None]
        return cls(tape, place, given, hidden, *pair, *rest[2 * biases :])

    def from_input(self, x: Node) -> Node:
        """What the input ``[..., F]`` adds to the gates ``[..., G H]``."""
        return self.tape.call(aten.linear.default, x, self.given, self.given_bias)

    def from_state(self, h: Node) -> Node:
        """What the hidden state ``[N, H or P]`` adds to them ``[N, G H]``."""
        return self.tape.call(aten.linear.default, h, self.hidden, self.hidden_bias)

    def named(self, name: str, target: Callable[..., Any], *args: Any) -> Node:
        """A value that has this name at every time step."""
        made = self.tape.call(target, *args)
        made.meta[MARK] = self.mark(name)
        return made

    def mark(self, name: str) -> Mark:
        """The mark of a value that has this name at every time step."""
        return Mark(self.tape.expression(self.hidden), self.place + name)


def _lstm(layer: _Layer, x: Node, state: State) -> State:
    """i, f, g, o; c' = f c + i g; h' = o tanh(c'), projected if there is a projection."""
    (h, c), call = state, layer.tape.call
    i, f, g, o = layer.tape.parts(call(aten.add.Tensor, layer.from_state(h), x), 4)
    i = layer.named("input_gate", aten.sigmoid.default, i)
    f = layer.named("forget_gate", aten.sigmoid.default, f)
    g = layer.named("cell_gate", aten.tanh.default, g)
    o = layer.named("output_gate", aten.sigmoid.default, o)
    kept, new = call(aten.mul.Tensor, f, c), call(aten.mul.Tensor, i, g)
    c = layer.named("cell", aten.add.Tensor, kept, new)
    shown = layer.named("cell_tanh", aten.tanh.default, c)
    h = layer.named("hidden", aten.mul.Tensor, o, shown)
    if layer.projection is not None:
        h = layer.named("projected", aten.linear.default, h, layer.projection)
    return h, c


def _gru(layer: _Layer, x: Node, state: State) -> State:
    """r, z; n = tanh(W_in x + b_in + r (W_hn h + b_hn)); h' = n + z (h - n)."""
    (h,), call = state, layer.tape.call
    given, held = layer.tape.parts(x, 3), layer.tape.parts(layer.from_state(h), 3)
    r, z = (call(aten.add.Tensor, held[gate], given[gate]) for gate in (0, 1))
    r = layer.named("reset_gate", aten.sigmoid.default, r)
    z = layer.named("update_gate", aten.sigmoid.default, z)
    held[2].meta[MARK] = layer.mark("new_hidden")
    n = call(aten.add.Tensor, given[2], call(aten.mul.Tensor, held[2], r))
    n = layer.named("new_gate", aten.tanh.default, n)
    kept = call(aten.mul.Tensor, layer.named("difference", aten.sub.Tensor, h, n), z)
    return (layer.named("hidden", aten.add.Tensor, kept, n),)


def _rnn(function: Callable[..., Any]) -> Step:
    def step(layer: _Layer, x: Node, state: State) -> State:
        """h' = f(W_ih x + b_ih + W_hh h + b_hh)."""
        total = layer.tape.call(aten.add.Tensor, layer.from_state(state[0]), x)
        return (layer.named("hidden", function, total),)

    return step


# From what the input adds to the gates, and a state, to the next state.
Step = Callable[[_Layer, Node, State], State]
_STEPS: dict[str, Step] = {
    "lstm": _lstm,
    "gru": _gru,
    "rnn_tanh": _rnn(aten.tanh.default),
    "rnn_relu": _rnn(aten.relu.default),
}


def _of_cell(
    tape: _Tape, kind: str, x: Node, hx: Sequence[Node], params: Sequence[Node], biases: bool
) -> Sequence[Node]:
    """The next states."""
    layer = _Layer.of(tape, "", params, biases)
    return _STEPS[kind](layer, layer.from_input(x), tuple(hx))


def _of_layers(
    tape: _Tape,
    kind: str,
    x: Node,
    hx: Sequence[Node],
    params: Sequence[Node],
    biases: bool,
    layers: int,
    bidirectional: bool,
    batch_first: bool,
) -> Sequence[Node]:
    """The outputs of the last layer, and the last states of all layers."""
    directions = ("forward", "reverse") if bidirectional else ("forward",)
    each = len(params) // (layers * len(directions))
    x = tape.call(aten.permute.default, x, [1, 0, 2]) if batch_first else x
    last: list[State] = []
    for number in range(layers):
        outputs = []
        for direction in directions:
            index = len(last)
            tensors = params[index * each : (index + 1) * each]
            layer = _Layer.of(tape, f"layer{number}.{direction}.", tensors, biases)
            first = tuple(tape.call(aten.select.int, state, 0, index) for state in hx)
            output, state = _through_time(layer, _STEPS[kind], x, first, direction == "reverse")
            outputs.append(output)
            last.append(state)
        x = tape.call(aten.cat.default, outputs, -1) if bidirectional else outputs[0]
    x = tape.call(aten.permute.default, x, [1, 0, 2]) if batch_first else x
    return x, *(tape.call(aten.stack.default, list(parts)) for parts in zip(*last, strict=True))


def _through_time(
    layer: _Layer, step: Step, x: Node, state: State, reverse: bool
) -> tuple[Node, State]:
    """The hidden states of all time steps ``[T, N, H]``, from ``[T, N, F]``; the last state."""
    tape, times = layer.tape, range(layer.tape.length(x))
    given = layer.from_input(x)
    hidden: dict[int, Node] = {}
    for t in reversed(times) if reverse else times:
        state = step(layer, tape.call(aten.select.int, given, 0, t), state)
        hidden[t] = state[0]
    return tape.call(aten.stack.default, [hidden[t] for t in times]), state
