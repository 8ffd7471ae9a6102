"""Layouts change where numbers lie, and none of them."""

import torch
from torch import Tensor, nn

import convert
from convert.graph.memory_layout import free_layout, linear_first, prefers_channels_last

aten = torch.ops.aten


class Patches(nn.Module):
    """A convolution, a view of its output, and attention with the batch second."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 2, 2)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.stem(x)).view(x.shape[0], 8, -1).permute(0, 2, 1)
        return self.attention(y, y, y, need_weights=False)[0]


class Map(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.layer(x))


def _captured(model: nn.Module, x: Tensor) -> torch.fx.GraphModule:
    module = torch.export.export(model.eval(), (x,)).run_decompositions(
        {aten.relu.default: lambda t: torch.clamp_min(t, 0)}
    )
    graph_module = module.module()
    assert isinstance(graph_module, torch.fx.GraphModule)
    return graph_module


def test_views_become_reshapes() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3, 6, 6)
    graph_module = _captured(Patches(), x)
    expected = graph_module(x)
    assert any(n.target is aten.view.default for n in graph_module.graph.nodes)
    assert not prefers_channels_last([graph_module])
    free_layout(graph_module)
    assert prefers_channels_last([graph_module])
    assert torch.equal(graph_module(x), expected)
    last = graph_module(x.to(memory_format=torch.channels_last))
    torch.testing.assert_close(last, expected)


def test_linear_layers_come_before_permutations() -> None:
    class Permuted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.other = nn.Linear(5, 3), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return self.layer(x.permute(2, 0, 1, 3)), self.other(x.permute(0, 3, 1, 2))

    torch.manual_seed(0)
    x = torch.randn(2, 3, 4, 5)
    graph_module = _captured(Permuted(), x)
    expected = graph_module(x)
    linear_first(graph_module)
    torch.testing.assert_close(graph_module(x), expected)
    before = {
        str(node.args[0].target) if node.args[0].op == "call_function" else "input"
        for node in graph_module.graph.nodes
        if node.target is aten.linear.default
    }
    # The second permutation moves the axis that the layer works on, and stays.
    assert before == {"input", "aten.permute.default"}


def test_outputs_come_as_the_original_gives_them() -> None:
    torch.manual_seed(0)
    x = torch.randn(4, 3, 6, 6)
    snn = convert.to_spiking(Map().eval(), x, steps=4, method="binary", progress=False)
    assert snn.signature.channels_last
    with torch.no_grad():
        y = snn(x)
    assert y.is_contiguous()
    assert torch.equal(snn(x.to(memory_format=torch.channels_last)), y)


def test_layers_around_a_permutation_still_have_their_own_outputs() -> None:
    class Swapped(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.permute(0, 2, 1, 3)

    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.before, self.layer, self.act = Swapped(), nn.Linear(5, 5), nn.ReLU()
            self.other = nn.Linear(5, 5)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return self.act(self.layer(self.before(x))), self.act(self.other(x.permute(0, 2, 1, 3)))

    torch.manual_seed(0)
    model, x = Named().eval(), torch.randn(4, 6, 7, 5)
    snn = convert.to_spiking(model, x, steps=4, method="binary", progress=False)
    found = convert.features(snn, ["before", "layer", "other"])(x)
    swapped = model.before(x)
    torch.testing.assert_close(found["before"], swapped)
    torch.testing.assert_close(found["layer"], model.layer(swapped))
    torch.testing.assert_close(found["other"], model.other(swapped))


def test_a_vector_of_weights_behind_a_permutation() -> None:
    class Vector(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.weight = nn.Linear(5, 5), nn.Parameter(torch.randn(5))

        def forward(self, x: Tensor) -> Tensor:
            y = torch.relu(self.layer(x)).permute(0, 2, 1, 3)
            return nn.functional.linear(y, self.weight).reshape(x.shape[0], -1).mul(2)

    torch.manual_seed(0)
    model, x = Vector().eval(), torch.randn(4, 6, 7, 5)
    snn = convert.to_spiking(model, x, steps=4, method="binary", progress=False)
    with torch.no_grad(), snn.spiking_only([]):
        torch.testing.assert_close(snn(x), model(x))
