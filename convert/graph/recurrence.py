"""Recurrent layers as the operations of single time steps, whose gates keep their names.

`aten.lstm`, `aten.gru`, `aten.rnn_tanh` and `aten.rnn_relu`, and their cells, with the equations of
torch's documentation and torch's order of gates. A gate is the same neuron at every time step: its
values carry the same mark, by which `sites.find` makes one site of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._ops import OpOverload
from torch.fx import Graph, Node

from ..errors import CaptureError

aten = torch.ops.aten

# Key of a node's meta: its `Mark`.
MARK = "recurrent"


@dataclass(frozen=True)
class Mark:
    """What values of several time steps have in common.

    Args:
        weight: the hidden weight of the layer, as an expression of the network's tensors.
        name: of the value within its layer, such as ``layer0.forward.input_gate``.
    """

    weight: str
    name: str


@torch.library.custom_op("fewspikes::mark", mutates_args=())
def _mark(x: Tensor, weight: Tensor, name: str) -> Tensor:
    """Says what a value is until `read_marks` takes it out of the graph."""
    return x.clone()


@_mark.register_fake
def _(x: Tensor, weight: Tensor, name: str) -> Tensor:
    return torch.empty_like(x)


@dataclass(frozen=True)
class Weights:
    """The weights of one layer in one direction; H hidden values, P of them projected.

    Args:
        place: its name with a dot behind it, empty for a cell.
        given: of the input ``[G H, F]``.
        hidden: of the hidden state ``[G H, H or P]``.
        given_bias, hidden_bias: ``[G H]``, or None.
        projection: ``[P, H]``, or None.
    """

    place: str
    given: Tensor
    hidden: Tensor
    given_bias: Tensor | None = None
    hidden_bias: Tensor | None = None
    projection: Tensor | None = None

    @classmethod
    def of(cls, tensors: Sequence[Tensor], biases: bool, place: str) -> Weights:
        """Those of one layer and direction, in torch's order."""
        given, hidden, *rest = tensors
        pair = rest[:2] if biases else [None, None]
        return cls(place, given, hidden, *pair, *rest[2 * biases :])

    def from_input(self, x: Tensor) -> Tensor:
        """What the input ``[..., F]`` adds to the gates ``[..., G H]``."""
        return F.linear(x, self.given, self.given_bias)

    def from_state(self, h: Tensor) -> Tensor:
        """What the hidden state ``[N, H or P]`` adds to them ``[N, G H]``."""
        return F.linear(h, self.hidden, self.hidden_bias)

    def mark(self, x: Tensor, name: str) -> Tensor:
        """x, which has this name at every time step."""
        marked: Tensor = _mark(x, self.hidden, self.place + name)
        return marked


# The hidden state, and what else a layer remembers.
State = tuple[Tensor, ...]
# From what the input adds to the gates, and a state, to the next state.
Step = Callable[[Tensor, State, Weights], State]


def _lstm_step(x: Tensor, state: State, weights: Weights) -> State:
    """i, f, g, o; c' = f c + i g; h' = o tanh(c'), projected if it is."""
    h, c = state
    gates = (weights.from_state(h) + x).chunk(4, -1)
    i = weights.mark(torch.sigmoid(gates[0]), "input_gate")
    f = weights.mark(torch.sigmoid(gates[1]), "forget_gate")
    g = weights.mark(torch.tanh(gates[2]), "cell_gate")
    o = weights.mark(torch.sigmoid(gates[3]), "output_gate")
    c = weights.mark(f * c + i * g, "cell")
    h = o * weights.mark(torch.tanh(c), "cell_tanh")
    if weights.projection is not None:
        h = F.linear(weights.mark(h, "unprojected"), weights.projection)
    return weights.mark(h, "hidden"), c


def _gru_step(x: Tensor, state: State, weights: Weights) -> State:
    """r, z; n = tanh(W_in x + b_in + r (W_hn h + b_hn)); h' = n + z (h - n)."""
    (h,) = state
    given, held = x.chunk(3, -1), weights.from_state(h).chunk(3, -1)
    r = weights.mark(torch.sigmoid(held[0] + given[0]), "reset_gate")
    z = weights.mark(torch.sigmoid(held[1] + given[1]), "update_gate")
    n = weights.mark(torch.tanh(given[2] + held[2] * r), "new_gate")
    return (weights.mark((h - n) * z + n, "hidden"),)


def _rnn_step(function: Callable[[Tensor], Tensor]) -> Step:
    def step(x: Tensor, state: State, weights: Weights) -> State:
        """h' = f(W_ih x + b_ih + W_hh h + b_hh)."""
        return (weights.mark(function(weights.from_state(state[0]) + x), "hidden"),)

    return step


def _cell(step: Step) -> Callable[..., Any]:
    """A cell's operation: one time step."""

    def cell(
        x: Tensor,
        hx: Tensor | Sequence[Tensor],
        w_ih: Tensor,
        w_hh: Tensor,
        b_ih: Tensor | None = None,
        b_hh: Tensor | None = None,
    ) -> Tensor | State:
        weights = Weights("", w_ih, w_hh, b_ih, b_hh)
        alone = isinstance(hx, Tensor)
        state = step(weights.from_input(x), (hx,) if alone else tuple(hx), weights)
        return state[0] if alone else state

    return cell


def _layers(step: Step) -> Callable[..., Any]:
    """A recurrent layer's operation: all layers, directions and time steps."""

    def layers(
        x: Tensor,
        hx: Tensor | Sequence[Tensor],
        params: Sequence[Tensor],
        has_biases: bool,
        num_layers: int,
        dropout: float,
        train: bool,
        bidirectional: bool,
        batch_first: bool,
    ) -> State:
        first = (hx,) if isinstance(hx, Tensor) else tuple(hx)
        directions = ("forward", "reverse") if bidirectional else ("forward",)
        each = len(params) // (num_layers * len(directions))
        x = x.transpose(0, 1) if batch_first else x
        last: list[State] = []
        for layer in range(num_layers):
            if layer and dropout and train:
                x = torch.dropout(x, dropout, train)
            outputs = []
            for direction in directions:
                index = len(last)
                tensors = params[index * each : (index + 1) * each]
                weights = Weights.of(tensors, has_biases, f"layer{layer}.{direction}.")
                state = tuple(part[index] for part in first)
                output, state = _through_time(step, x, state, weights, direction == "reverse")
                outputs.append(output)
                last.append(state)
            x = torch.cat(outputs, -1) if bidirectional else outputs[0]
        x = x.transpose(0, 1) if batch_first else x
        return x, *(torch.stack(parts) for parts in zip(*last, strict=True))

    return layers


def _through_time(
    step: Step, x: Tensor, state: State, weights: Weights, reverse: bool
) -> tuple[Tensor, State]:
    """The hidden states of all time steps ``[T, N, H]`` for inputs ``[T, N, F]``; the last state."""
    length = x.shape[0]
    if not isinstance(length, int):
        raise CaptureError(VARYING)
    given = weights.from_input(x)
    hidden: dict[int, Tensor] = {}
    for t in reversed(range(length)) if reverse else range(length):
        state = step(given[t], state, weights)
        hidden[t] = state[0]
    return torch.stack([hidden[t] for t in range(length)]), state


VARYING = (
    "a recurrent layer can't be unrolled over a length that varies; name the layer in "
    "modules=[...], so that it runs step by step at any length, or give all sequences one length"
)

_LSTM, _TANH, _RELU = _lstm_step, _rnn_step(torch.tanh), _rnn_step(torch.relu)

# For the table of decompositions.
RECURRENT: Mapping[OpOverload, Callable[..., Any]] = {
    aten.lstm.input: _layers(_LSTM),
    aten.gru.input: _layers(_gru_step),
    aten.rnn_tanh.input: _layers(_TANH),
    aten.rnn_relu.input: _layers(_RELU),
    aten.lstm_cell.default: _cell(_LSTM),
    aten.gru_cell.default: _cell(_gru_step),
    aten.rnn_tanh_cell.default: _cell(_TANH),
    aten.rnn_relu_cell.default: _cell(_RELU),
}


def read_marks(graph: Graph) -> None:
    """Takes the marks out of a graph and notes each in the meta of the value that it is on."""
    told: dict[Node, str] = {}
    for node in list(graph.nodes):
        if node.target is not torch.ops.fewspikes.mark.default:
            continue
        value, weight, name = node.args
        value.meta[MARK] = Mark(_told(weight, told), name)
        node.replace_all_uses_with(value)
        graph.erase_node(node)


def _told(value: Any, known: dict[Node, str]) -> str:
    """What a value is computed from, as text: the same for the same tensors of the network."""
    if isinstance(value, tuple | list):
        return f"[{', '.join(_told(part, known) for part in value)}]"
    if not isinstance(value, Node):
        return str(value)
    if value not in known:
        given = ", ".join(_told(part, known) for part in (value.args, *value.kwargs.values()))
        inside = value.op == "placeholder" or value.op == "get_attr"
        known[value] = str(value.target) if inside else f"{value.target}({given})"
    return known[value]
