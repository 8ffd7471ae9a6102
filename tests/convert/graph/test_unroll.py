"""Recurrent layers as the operations of every time step: equal to torch's, with named gates."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm
from torch.utils import _pytree as pytree

from convert.capture.capture import Captured, capture
from convert.graph.unroll import MARK
from convert.sites.find import Site
from convert.sites.prepare import Preparation, prepare

# Layers, both directions, batch first, biases, projection, first states given.
_FORMS = (
    (1, False, False, True, 0, False),
    (2, True, True, True, 0, True),
    (2, True, False, False, 0, True),
    (2, False, True, True, 3, True),
    (3, True, True, False, 2, False),
)
_KINDS = ("LSTM", "GRU", "tanh", "relu")
_EVERY = [(k, f) for k in _KINDS for f in _FORMS if k == "LSTM" or not f[4]]


class _Whole(nn.Module):
    """A recurrent layer whose states come in with the images first, and everything it gives."""

    def __init__(self, rnn: nn.RNNBase) -> None:
        super().__init__()
        self.rnn = rnn

    def forward(self, x: Tensor, h: Tensor | None = None, c: Tensor | None = None) -> Any:
        state: Any = None if h is None else h.transpose(0, 1)
        if h is not None and c is not None:
            state = state, c.transpose(0, 1)
        return pytree.tree_leaves(self.rnn(x, state))


def _layer(kind: str, layers: int, both: bool, first: bool, biases: bool, p: int) -> nn.RNNBase:
    more: dict[str, Any] = {"proj_size": p} if p else {}
    if kind in ("tanh", "relu"):
        more = {"nonlinearity": kind}
    module: Any = {"LSTM": nn.LSTM, "GRU": nn.GRU}.get(kind, nn.RNN)
    more |= {"bias": biases, "batch_first": first, "bidirectional": both}
    made: nn.RNNBase = module(4, 5, layers, dropout=0.5 if layers > 1 else 0.0, **more)
    return made.double().eval()


def _sites(captured: Captured) -> list[Site]:
    return prepare(Preparation(captured, []))


def _same(captured: Captured, inputs: Any, expected: Any) -> None:
    with torch.no_grad():
        for a, b in zip(captured.graph_module(*inputs), expected, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("kind", "form"), _EVERY)
def test_the_graph_computes_what_torch_computes(kind: str, form: Any) -> None:
    layers, both, first, biases, p, given = form
    torch.manual_seed(1)
    model = _Whole(_layer(kind, layers, both, first, biases, p)).eval()
    x = torch.randn((6, 3, 4) if first else (3, 6, 4), dtype=torch.double)
    batch = {"x": x}
    directions = 2 if both else 1
    if given:
        batch["h"] = torch.randn(6, layers * directions, p or 5, dtype=torch.double)
        if kind == "LSTM":
            batch["c"] = torch.randn(6, layers * directions, 5, dtype=torch.double)
    axes: Any = {"x": 0 if first else 1, "h": 0, "c": 0}
    captured = capture(model, batch, batch_axis={name: axes[name] for name in batch})
    with torch.no_grad():
        expected = model(**batch)
    _same(captured, batch.values(), expected)
    sites = _sites(captured)
    _same(captured, batch.values(), expected)
    gates = {"LSTM": 5, "GRU": 3}.get(kind, 1)
    assert len(sites) == gates * layers * directions
    assert {len(site.calls) for site in sites} == {3}


def test_gates_have_names() -> None:
    x = torch.randn(6, 4, 4)
    names = [
        s.name for s in _sites(capture(nn.LSTM(4, 5, batch_first=True, bidirectional=True), x))
    ]
    gates = ("input_gate", "forget_gate", "cell_gate", "output_gate", "cell_tanh")
    assert names == [f"layer0.{way}.{gate}" for way in ("forward", "reverse") for gate in gates]
    net = nn.Sequential(nn.GRU(4, 5, batch_first=True))
    names = [site.name for site in _sites(capture(net, x))]
    assert names == [f"0.layer0.forward.{gate}_gate" for gate in ("reset", "update", "new")]


class _Loop(nn.Module):
    """Time steps in Python: cells of all kinds, and an activation of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.LSTMCell(4, 5), nn.GRUCell(5, 6, bias=False)
        self.c, self.d = nn.RNNCell(6, 3, nonlinearity="relu"), nn.RNNCell(3, 3)
        self.act = nn.SiLU()

    def forward(self, x: Tensor) -> Tensor:
        n = x.shape[0]
        h, c, g = x.new_zeros(n, 5), x.new_zeros(n, 5), x.new_zeros(n, 6)
        r, t = x.new_zeros(n, 3), x.new_zeros(n, 3)
        for i in range(x.shape[1]):
            h, c = self.a(self.act(x[:, i]), (h, c))
            g = self.b(h, g)
            r = self.c(g, r)
            t = self.d(r, t)
        return torch.cat([h, c, g, r, t], 1)


def test_cells_are_tied_over_their_calls_and_own_modules_are_not() -> None:
    torch.manual_seed(2)
    model, x = _Loop().double().eval(), torch.randn(6, 4, 4, dtype=torch.double)
    captured = capture(model, x)
    sites = _sites(captured)
    _same(captured, (x,), [model(x)])
    calls = {site.name: len(site.calls) for site in sites}
    # The first forget gate is multiplied with a state of zeros.
    assert calls.pop("a.forget_gate") in (3, 4)
    assert {calls.pop(name) for name in list(calls) if name.startswith("act")} == {1}
    gates = {
        "a": ("input_gate", "cell_gate", "output_gate", "cell_tanh"),
        "b": ("reset_gate", "update_gate", "new_gate"),
        "c": ("hidden",),
        "d": ("hidden",),
    }
    assert calls == {f"{cell}.{gate}": 4 for cell, names in gates.items() for gate in names}
    assert sum(site.name.startswith("act") for site in sites) == 4


def test_a_layer_that_is_called_twice_is_one() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = nn.GRU(4, 4, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            y, h = self.rnn(x)
            return self.rnn(y, h)[0]

    model, x = Twice().double().eval(), torch.randn(6, 3, 4, dtype=torch.double)
    captured = capture(model, x)
    sites = _sites(captured)
    assert [len(site.calls) for site in sites] == [6, 6, 6]
    _same(captured, (x,), [model(x)])


def test_functions_are_tied_by_their_weights() -> None:
    class Functions(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.ParameterList(torch.randn(12, 4) for _ in range(4))

        def forward(self, x: Tensor) -> Tensor:
            h = k = torch.zeros_like(x[:, 0])
            for t in range(x.shape[1]):
                h = torch.gru_cell(x[:, t], h, self.w[0], self.w[1])
                k = torch.gru_cell(h, k, self.w[2], self.w[3])
            return k

    sites = _sites(capture(Functions(), torch.randn(6, 3, 4)))
    gates = ["reset_gate", "update_gate", "new_gate"]
    assert [site.name for site in sites] == [*gates, *(f"{gate}_1" for gate in gates)]
    assert {len(site.calls) for site in sites} == {3}


def test_weights_that_are_computed_are_the_same_at_every_call() -> None:
    class Normed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell = weight_norm(nn.GRUCell(4, 4), "weight_hh")

        def forward(self, x: Tensor) -> Tensor:
            h = torch.zeros_like(x[:, 0])
            for t in range(x.shape[1]):
                h = self.cell(x[:, t], h)
            return h

    model, x = Normed().double().eval(), torch.randn(6, 3, 4, dtype=torch.double)
    captured = capture(model, x)
    assert [len(site.calls) for site in _sites(captured)] == [3, 3, 3]
    _same(captured, (x,), [model(x)])


def test_time_steps_share_what_is_known_of_their_values() -> None:
    captured = capture(nn.GRU(4, 5, batch_first=True), torch.randn(6, 40, 4))
    gates = [
        node.meta["val"]
        for node in captured.graph_module.graph.nodes
        if MARK in node.meta and node.meta[MARK].name.endswith("new_gate")
    ]
    # Inferring each of them anew took half a minute at 50 steps of two layers both ways.
    assert len(gates) == 40 and len(set(map(id, gates))) == 1
