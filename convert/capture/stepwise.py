"""Recurrent layers as modules that call one cell for each layer and direction, step by step.

`stepwise(nn.LSTM(...))` computes what the layer computes, at any length, in Python. Each cell is a
module of its own with the layer's own weights: converted by itself it has one neuron a gate for all
time steps, however many there are.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from ..errors import InputError
from ..graph.recurrence import PACKED

State = tuple[Tensor, ...]
_FORWARDS = (nn.LSTM.forward, nn.GRU.forward, nn.RNN.forward)


class ProjectedLSTMCell(nn.Module):
    """One step of an LSTM with projections: H hidden values, P of them projected.

    Args:
        weights: ``weight_ih [4 H, F]``, ``weight_hh [4 H, P]``, the two biases ``[4 H]`` where
            there are any, and ``weight_hr [P, H]``.
        biases: whether there are biases.
    """

    def __init__(self, weights: list[nn.Parameter], biases: bool) -> None:
        super().__init__()
        self.weights = nn.ParameterList(weights)
        self.biases = biases

    def forward(self, x: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """The next hidden state ``[N, P]`` and cell ``[N, H]``, from an input ``[N, F]``."""
        h, c = (part[None] for part in state)
        flags = self.biases, 1, 0.0, False, False, False
        _, h, c = torch.lstm(x[None], (h, c), list(self.weights), *flags)
        return h[0], c[0]


class Stepwise(nn.Module):
    """A recurrent layer, step by step; called like it, with the same outputs.

    Args:
        layer: an `nn.LSTM`, `nn.GRU` or `nn.RNN`, with which it shares its weights.

    Attributes:
        cells: a module for each layer and direction: ``layer0_forward``, ``layer0_reverse``, ...
    """

    def __init__(self, layer: nn.RNNBase) -> None:
        super().__init__()
        self.layers, self.batch_first, self.dropout = (
            layer.num_layers,
            layer.batch_first,
            layer.dropout,
        )
        self.directions = ("forward", "reverse") if layer.bidirectional else ("forward",)
        self.long_memory = layer.mode == "LSTM"
        self.hidden = layer.proj_size or layer.hidden_size
        self.remembered = layer.hidden_size
        self.cells = nn.ModuleDict(
            {
                f"layer{number}_{direction}": _cell(layer, number, direction)
                for number in range(layer.num_layers)
                for direction in self.directions
            }
        )
        self.train(layer.training)

    def forward(self, input: Tensor, hx: Any = None) -> tuple[Tensor, Any]:
        """Outputs and last states, as the layer gives them.

        Args:
            input: ``[T, N, F]``, ``[N, T, F]`` with batch_first, or ``[T, F]``.
            hx: the first states, as the layer takes them; zeros if None.

        Raises:
            InputError: for a `PackedSequence`.
        """
        if isinstance(input, PackedSequence):
            raise InputError(PACKED)
        batched = input.dim() == 3
        x = input if batched else input.unsqueeze(1)
        if batched and self.batch_first:
            x = x.transpose(0, 1)
        states = self._states(x, hx, batched)
        last: list[State] = []
        for number in range(self.layers):
            if number and self.dropout and self.training:
                x = torch.dropout(x, self.dropout, True)
            outputs = []
            for direction in self.directions:
                cell = self.cells[f"layer{number}_{direction}"]
                state = tuple(part[len(last)] for part in states)
                output, state = self._through_time(cell, x, state, direction == "reverse")
                outputs.append(output)
                last.append(state)
            x = torch.cat(outputs, -1)
        final = tuple(torch.stack(parts) for parts in zip(*last, strict=True))
        if not batched:
            x, final = x.squeeze(1), tuple(part.squeeze(1) for part in final)
        elif self.batch_first:
            x = x.transpose(0, 1)
        return x, final if self.long_memory else final[0]

    def _states(self, x: Tensor, hx: Any, batched: bool) -> State:
        """The first states ``[layers and directions, N, H]``."""
        if hx is None:
            count = self.layers * len(self.directions)
            sizes = (self.hidden, self.remembered) if self.long_memory else (self.hidden,)
            return tuple(x.new_zeros(count, x.shape[1], size) for size in sizes)
        given = tuple(hx) if self.long_memory else (hx,)
        return given if batched else tuple(part.unsqueeze(1) for part in given)

    def _through_time(
        self, cell: nn.Module, x: Tensor, state: State, reverse: bool
    ) -> tuple[Tensor, State]:
        """The hidden states of all time steps ``[T, N, H]``, and the last state."""
        hidden: list[Tensor] = []
        steps = x.unbind(0)
        for given in reversed(steps) if reverse else steps:
            found = cell(given, state if self.long_memory else state[0])
            state = tuple(found) if self.long_memory else (found,)
            hidden.append(state[0])
        return torch.stack(hidden[::-1] if reverse else hidden), state


def stepwise(layer: nn.RNNBase) -> Stepwise:
    """A module that does what a recurrent layer does, by cells that are called step by step.

    Args:
        layer: an `nn.LSTM`, `nn.GRU` or `nn.RNN`; it is left as it was, and shares its weights.

    Raises:
        InputError: for another module, or a subclass with a forward of its own.
    """
    if getattr(type(layer), "forward", None) not in _FORWARDS:
        raise InputError(
            f"{type(layer).__name__} doesn't run as nn.LSTM, nn.GRU or nn.RNN does, so it can't be "
            "run step by step; give one of these, or name modules inside it"
        )
    return Stepwise(layer)


def _cell(layer: nn.RNNBase, number: int, direction: str) -> nn.Module:
    """The cell of one layer and direction, with the layer's own weights."""
    suffix = f"l{number}" + ("_reverse" if direction == "reverse" else "")
    names = ["weight_ih", "weight_hh", *(["bias_ih", "bias_hh"] if layer.bias else [])]
    if layer.proj_size:
        own = [_own(layer, f"{name}_{suffix}") for name in [*names, "weight_hr"]]
        return ProjectedLSTMCell(own, layer.bias)
    kinds: dict[str, Any] = {"LSTM": nn.LSTMCell, "GRU": nn.GRUCell}
    kind = kinds.get(layer.mode, nn.RNNCell)
    more = {} if layer.mode in kinds else {"nonlinearity": layer.mode.removeprefix("RNN_").lower()}
    given = getattr(layer, f"weight_ih_{suffix}").shape[1]
    with torch.device("meta"):
        cell: nn.Module = kind(given, layer.hidden_size, layer.bias, **more)
    for name in names:
        setattr(cell, name, _own(layer, f"{name}_{suffix}"))
    return cell


def _own(layer: nn.RNNBase, name: str) -> nn.Parameter:
    """A weight of a layer; one that is computed, as by a weight norm, as it is now."""
    weight: Tensor = getattr(layer, name)
    if isinstance(weight, nn.Parameter):
        return weight
    return nn.Parameter(weight.detach().clone(), requires_grad=False)
