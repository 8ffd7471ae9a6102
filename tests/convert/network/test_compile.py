"""`torch.compile` of a network: one graph, whole neurons, any batch."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from convert import SpikingModel, to_spiking


@pytest.fixture(scope="module")
def snn(small_model: nn.Module, noise: Tensor) -> SpikingModel:
    """The small network in float64, where no rounding flips a spike; not to be changed."""
    made = to_spiking(small_model, noise, steps=4, method="binary", progress=False)
    return copy.deepcopy(made).double()


def test_one_graph_with_whole_neurons(snn: SpikingModel, images: Tensor) -> None:
    graphs: list[list[str]] = []

    def backend(graph: torch.fx.GraphModule, _: Any) -> Any:
        graphs.append([str(node.target) for node in graph.graph.nodes])
        return graph

    torch.compiler.reset()
    compiled = torch.compile(snn, backend=backend, fullgraph=True, dynamic=True)
    x = images.double()
    with torch.no_grad():
        for count in (2, 3, 5):
            assert torch.allclose(compiled(x[:count]), snn(x[:count]), rtol=1e-9, atol=1e-12)
    (targets,) = graphs
    assert sum("fewspikes.neuron" in name for name in targets) == len(snn.sites)


def test_nothing_breaks_the_graph(snn: SpikingModel, images: Tensor) -> None:
    torch.compiler.reset()
    with torch.no_grad():
        found = torch._dynamo.explain(snn)(images.double()[:2])
    assert found.graph_count == 1 and found.graph_break_count == 0
