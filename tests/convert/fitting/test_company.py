"""A K's neuron is the same whatever other K are asked for, and in whatever order."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import convert
from convert.assembly import steps_per_site
from convert.fitting import tbpi
from convert.fitting.measure import measure
from convert.fitting.methods import METHODS, fit_problems
from convert.fitting.problem import Problem, Solution


@pytest.fixture(autouse=True)
def short_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """Long enough for trends that a growth would be moved by."""
    monkeypatch.setattr(tbpi, "_EPOCHS_FIRST", 1000)
    monkeypatch.setattr(tbpi, "_EPOCHS_THIRD", 300)


def _wave(x: torch.Tensor) -> torch.Tensor:
    """The library has nothing like it, so its tables grow."""
    return torch.sin(2 * x) + 0.3 * x**2


def _problem(steps: int, name: str = "a", function=_wave, high: float = 6.0) -> Problem:
    edges = np.linspace(-4.0, high, 1025)
    values = function(torch.from_numpy(0.5 * (edges[1:] + edges[:-1]))).numpy()
    return Problem(edges, np.full(1024, 1 / 1024), values, steps, function.__name__, name)


def _same(a: Solution, b: Solution) -> bool:
    arrays = [(s.thresholds, s.resets, s.weights) for s in (a, b)]
    equal = all(np.array_equal(x, y) for x, y in zip(*arrays, strict=True))
    return equal and (a.offset, a.mse, a.start) == (b.offset, b.mse, b.start)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("shared", "steps"), [(False, (2, 3)), (True, (2, 3, 4))])
def test_a_problem_alone_and_beside_other_steps(
    method: str, shared: bool, steps: tuple[int, ...]
) -> None:
    settings = {"seed": 1, "shared": shared}
    alone = {k: fit_problems([_problem(k)], method, **settings)[0] for k in steps}
    for order in {steps, steps[::-1], steps[1:] + steps[:1]}:
        found = fit_problems([_problem(k) for k in order], method, **settings)
        assert all(_same(s, alone[k]) for k, s in zip(order, found, strict=True))


@pytest.mark.parametrize("method", METHODS)
def test_steps_of_other_sites_do_not_matter(method: str) -> None:
    def network(*steps: int) -> list[Problem]:
        sites = (("a", F.silu, 6.0), ("b", F.silu, 3.0), ("c", F.gelu, 5.0))
        return [_problem(k, *site) for k, site in zip(steps, sites, strict=True)]

    even = fit_problems(network(3, 3, 3), method, shared=True)
    uneven = fit_problems(network(3, 4, 2), method, shared=True)
    assert _same(even[0], uneven[0])
    both = fit_problems(network(4, 4, 4) + network(3, 3, 3), method, shared=True)
    assert all(_same(a, b) for a, b in zip(even, both[3:], strict=True))


def test_one_function_measured_at_several_steps() -> None:
    given = {"low": -4.0, "high": 6.0}
    together = measure(F.silu, [3, 2], **given)
    neuron = convert.fit(F.silu, steps=2, **given)
    assert np.array_equal(neuron.thresholds.numpy(), np.float32(together[1].solution.thresholds))


class _Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.c(F.gelu(self.b(F.silu(self.a(x)))))


@pytest.fixture(scope="module")
def net() -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    return _Net().eval(), 2 * torch.randn(64, 4)


def _tables(snn: convert.SpikingModel) -> dict[str, list[torch.Tensor]]:
    return {name: [n.thresholds, n.resets, n.weights, n.offset] for name, n in snn.sites.items()}


def _equal(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_a_network_alone_and_beside_other_steps(net: tuple[nn.Module, torch.Tensor]) -> None:
    model, x = net
    alone = convert.to_spiking(model, x, steps=2, progress=False)
    first = convert.to_spiking(model, x, steps=(2, 3), progress=False)
    second = convert.refit(first, x, steps=(3, 2), progress=False)
    fitted = _tables(alone)
    assert all(_equal(table, fitted[name]) for name, table in _tables(first).items())
    assert torch.equal(first(x), alone(x))
    with second.with_steps(2):
        assert torch.equal(second(x), alone(x))
    uneven = convert.to_spiking(model, x, steps=2, per_site_steps={"gelu": 3}, progress=False)
    assert _equal(_tables(uneven)["silu"], fitted["silu"])


def test_a_network_whose_steps_were_chosen(
    net: tuple[nn.Module, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, x = net
    monkeypatch.setattr(steps_per_site, "_MOST", 3)
    settings = {"sequential": False, "progress": False}
    chosen = convert.to_spiking(model, x, steps="auto", budget=5, **settings)
    assert chosen.report is not None
    for row in chosen.report.sites:
        alone = convert.to_spiking(model, x, steps=row.steps, **settings)
        assert _equal(_tables(chosen)[row.name], _tables(alone)[row.name])
