"""Chains of rearrangements become shorter, and give the same numbers for every length."""

import random
from collections import Counter

import pytest
import sympy
import torch
from torch import Tensor, nn

import convert
from convert.capture.capture import capture
from convert.graph.layout_chains import _quotient, shorten
from convert.graph.memory_layout import free_layout
from convert.graph.origins import OUTPUT_OF

aten = torch.ops.aten
_MOVES = (aten.reshape, aten.permute, aten.transpose, aten.select, aten.clone, aten.unsqueeze,
          aten.squeeze)  # fmt: skip


class Moved(nn.Module):
    """What a test gives, between two operations that move nothing."""

    def __init__(self, moves: object) -> None:
        super().__init__()
        self.moves = moves

    def forward(self, x: Tensor) -> Tensor:
        return self.moves(x * 2) + 1  # type: ignore[operator]


def _graph(moves: object, x: Tensor) -> torch.fx.GraphModule:
    batch = torch.export.Dim("batch", min=2, max=64)
    exported = torch.export.export(Moved(moves).eval(), (x,), dynamic_shapes=({0: batch},))
    graph_module = exported.run_decompositions().module(check_guards=False)
    assert isinstance(graph_module, torch.fx.GraphModule)
    free_layout(graph_module)
    return graph_module


def _count(graph_module: torch.fx.GraphModule) -> Counter[str]:
    packets = [getattr(n.target, "overloadpacket", None) for n in graph_module.graph.nodes]
    return Counter(str(p).rpartition(".")[2] for p in packets if p in _MOVES)


def _shortened(moves: object, shape: tuple[int, ...] = (4, 6, 10)) -> Counter[str]:
    """What moves values after shortening; two batch sizes give the same values as before."""
    x = torch.randn(*shape)
    graph_module = _graph(moves, x)
    shorten(graph_module)
    for n in (2, 9):
        given = torch.randn(n, *shape[1:])
        torch.testing.assert_close(graph_module(given), Moved(moves)(given), rtol=0, atol=0)
    return _count(graph_module)


def test_permutations_join() -> None:
    assert _shortened(lambda x: x.permute(1, 0, 2).permute(2, 1, 0)) == {"permute": 1}


def test_what_cancels_out_stays_as_it_is() -> None:
    # An end that is its source would lie in the source's memory.
    assert _shortened(lambda x: x.transpose(1, 2).transpose(1, 2))["permute"] == 2


def test_axes_are_split_permuted_and_joined_at_once() -> None:
    def moves(x: Tensor) -> Tensor:
        y = x.permute(1, 0, 2).contiguous().view(6, x.shape[0], 2, 5)
        return y.permute(1, 2, 0, 3).contiguous().view(x.shape[0], 2, 30)

    assert _shortened(moves) == {"reshape": 2, "permute": 1}


def test_parts_of_one_value_share_what_is_done() -> None:
    def moves(x: Tensor) -> Tensor:
        three = x.permute(1, 0, 2).unflatten(-1, (2, 5)).unsqueeze(0).transpose(0, -2)
        dense = three.squeeze(-2).contiguous()
        return dense[0].permute(2, 0, 1) - dense[1].permute(2, 0, 1)

    assert _shortened(moves) == {"reshape": 1, "permute": 1, "select": 2}


def test_one_copy_does_not_become_two() -> None:
    def moves(x: Tensor) -> Tensor:
        dense = x.permute(1, 0, 2).contiguous()
        return dense.view(-1).sum() + dense.view(6, -1).sum() + dense.view(-1, 10).sum()

    found = _shortened(moves)
    assert found["clone"] == 1
    assert found["permute"] == 1


def test_a_join_that_no_length_tells_is_left() -> None:
    found = _shortened(lambda x: x.permute(0, 2, 1).reshape(x.shape[0], 4, 15).permute(0, 2, 1))
    assert found["permute"] == 2


class Linear(nn.Module):
    """A layer and a neuron, and what a test does to what they give, and to the input."""

    def __init__(self, moves: object) -> None:
        super().__init__()
        self.layer, self.act, self.moves = nn.Linear(6, 6), nn.ReLU(), moves

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.act(self.layer(x))
        return y, self.moves(x, y)  # type: ignore[operator]


_COPIED = {
    "the input": lambda x, y: x.permute(0, 2, 1).contiguous().view(x.shape[0], 3, 2, 8),
    "behind a view": lambda x, y: x.permute(0, 2, 1).contiguous().view(-1, 3, 2, 8)[:, 1:],
    "another output": lambda x, y: y.permute(0, 2, 1).contiguous().view(-1, 3, 2, 8)[:, 1:],
    "cancelled out": lambda x, y: x.clone().unsqueeze(0).squeeze(0).unsqueeze(1),
}


@pytest.mark.parametrize("what", _COPIED)
def test_an_output_keeps_its_own_memory(what: str) -> None:
    torch.manual_seed(0)
    model, x = Linear(_COPIED[what]).eval(), torch.randn(4, 8, 6)
    snn = convert.to_spiking(model, x, steps=4, method="binary", progress=False)
    with torch.no_grad():
        first, second = snn(x)
        kept = second.clone()
        first.zero_()
        x.zero_()
    assert torch.equal(second, kept)


def test_a_length_of_one_is_dropped_at_the_call_that_has_it() -> None:
    def moves(x: Tensor, y: Tensor) -> Tensor:
        return y.unsqueeze(1).permute(0, 3, 1, 2).squeeze(2).squeeze(-1) * 2

    torch.manual_seed(0)
    model, x = Linear(moves).eval(), torch.randn(4, 5, 6)
    snn = convert.to_spiking(
        model, x, steps=4, method="binary", dynamic={"x": {1: "T"}}, progress=False
    )
    with torch.no_grad():
        for given in (x[:, :1], x[:, :3], x):
            assert [y.shape for y in snn(given)] == [y.shape for y in model(given)]


def test_what_a_layer_gives_is_still_there() -> None:
    class Layer(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.permute(1, 0, 2).contiguous()

    class Whole(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = Layer()

        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(self.layer(x * 2).permute(1, 0, 2).unsqueeze(0).squeeze(0))

    captured = capture(Whole().eval(), torch.randn(4, 6, 10))
    free_layout(captured.graph_module)
    shorten(captured.graph_module)
    nodes = captured.graph_module.graph.nodes
    (marked,) = [n for n in nodes if "layer" in n.meta.get(OUTPUT_OF, ())]
    x = torch.randn(5, 6, 10)
    assert marked.meta["val"].shape[0] == 6
    torch.testing.assert_close(captured.graph_module(x)[0], Whole()(x))


def test_random_chains_give_the_same_values() -> None:
    generator = random.Random(0)
    shorter = 0
    for _ in range(15):
        plan = [(generator.randrange(6), generator.randrange(60)) for _ in range(6)]

        def moves(x: Tensor, plan: list[tuple[int, int]] = plan) -> Tensor:
            for kind, number in plan:
                axis = number % x.dim()
                if kind == 0:
                    x = x.permute(random.Random(number).sample(range(x.dim()), x.dim()))
                elif kind == 1:
                    x = x.contiguous()
                elif kind == 2 and isinstance(x.shape[axis], int) and x.shape[axis] % 2 == 0:
                    x = x.unflatten(axis, (2, -1))
                elif kind == 3 and axis + 1 < x.dim():
                    x = x.flatten(axis, axis + 1)
                elif kind == 4:
                    x = x.unsqueeze(axis)
                elif kind == 5 and isinstance(x.shape[axis], int) and x.shape[axis] == 2:
                    x = x.select(axis, number % 2)
            return x

        graph_module = _graph(moves, torch.randn(7, 6, 10))
        given = [torch.randn(n, 6, 10) for n in (3, 7)]
        before, expected = _count(graph_module).total(), [graph_module(x) for x in given]
        shorten(graph_module)
        assert _count(graph_module).total() <= before
        shorter += _count(graph_module).total() < before
        for x, y in zip(given, expected, strict=True):
            torch.testing.assert_close(graph_module(x), y, rtol=0, atol=0)
    assert shorter > 4


def test_attention_copies_as_often_as_it_must() -> None:
    """Queries, keys and values are views of one projection; heads are joined by one copy."""

    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            return self.attention(x, x, x, need_weights=False)[0]

    torch.manual_seed(0)
    model, x = Attention().eval(), torch.randn(4, 5, 8)
    snn = convert.to_spiking(model, x, steps=8, method="binary", progress=False)
    assert _count(snn.network) == {"reshape": 2, "permute": 3, "select": 3}
    with torch.no_grad(), snn.spiking_only([]):
        torch.testing.assert_close(snn(x), model(x))
        torch.testing.assert_close(snn(x[:1]), model(x[:1]))


@pytest.mark.parametrize("heads", [1, 2])
def test_encoders_agree(heads: int) -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, heads, 16, dropout=0.0)
    model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval()
    x = torch.randn(5, 4, 8)
    snn = convert.to_spiking(model, x, steps=8, method="binary", batch_axis=1, progress=False)
    with torch.no_grad(), snn.spiking_only([]):
        for given in (x, torch.randn(5, 7, 8)):
            torch.testing.assert_close(snn(given), model(given), rtol=1e-4, atol=1e-5)


def test_a_length_is_whole_only_where_it_is_so_for_every_length() -> None:
    s = sympy.Symbol("s", positive=True, integer=True)
    assert _quotient(4 * s, s) == 4 and _quotient(65 * s, s * 65) == 1 and _quotient(12, 4) == 3
    assert _quotient(2 * s + 2, 2) == s + 1
    # s (s + 1) / 2 is whole too, but nothing tells that of its terms.
    assert _quotient(s * s + s, 2) is None and _quotient(4 * s, 6) is None
    assert _quotient(12, 5) is None
