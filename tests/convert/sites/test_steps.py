"""Steps are sites: networks of binary activations come out as they were."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from convert import audit, to_spiking


class Spike(torch.autograd.Function):
    """A step forwards, the identity backwards."""

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return (x > 0).to(x.dtype)

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> Tensor:
        return gradient


class Layers(nn.Module):
    """Three layers with one activation."""

    def __init__(self, act: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList(nn.Linear(12, 12) for _ in range(3))
        self.bound = nn.Parameter(torch.tensor(0.7))
        self.head, self.act = nn.Linear(12, 4), act

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = self.act(layer(x))
        return self.head(x)


class Membrane(nn.Module):
    """Potentials that leak, fire and are reset over three time steps."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.head = nn.Linear(12, 12), nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        current = self.a(x)
        v, fired = torch.zeros_like(current), 0
        for _ in range(3):
            v = 0.5 * v + current
            spikes = Spike.apply(v - 0.3)
            v, fired = v - 0.3 * spikes, fired + spikes
        return self.head(fired)


def _inputs(seed: int) -> Tensor:
    return torch.randn(96, 12, generator=torch.Generator().manual_seed(seed)) * (1 + seed)


ACTIVATIONS: dict[str, tuple[int, Callable[[Tensor], Tensor]]] = {
    "where": (1, lambda x: torch.where(x > 0.1, torch.ones_like(x), torch.zeros_like(x))),
    "cast": (1, lambda x: 1 - (x > 0).float()),
    "product": (1, lambda x: (x >= 0) * 1.0),
    "function": (1, Spike.apply),
    "sign": (1, torch.sign),
    "heaviside": (2, lambda x: torch.heaviside(x, torch.tensor(1.0))),
    "ternary": (2, lambda x: (x > 0.5).float() - (x < -0.5).float()),
    "quantised": (4, lambda x: x + (torch.round(x.clamp(0, 1) * 3) / 3 - x).detach()),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_binary_networks_stay_what_they_were(name: str) -> None:
    steps, act = ACTIVATIONS[name]
    model = Layers(act).eval()
    snn = to_spiking(model, _inputs(0), steps=steps, method="binary", progress=False)
    snn.check_inputs = False
    assert not [o.op for o in snn.report.operations if o.kind == "remaining"]
    assert len(snn.sites) == 3 and audit(snn, _inputs(1)).agrees
    with torch.no_grad():
        for seed in (1, 2):
            torch.testing.assert_close(snn(_inputs(seed)), model(_inputs(seed)))


def test_spikes_over_time_stay_what_they_were() -> None:
    model = Membrane().eval()
    snn = to_spiking(model, _inputs(0), steps=1, method="binary", progress=False)
    snn.check_inputs = False
    assert len(snn.sites) == 3 and audit(snn, _inputs(1)).agrees
    with torch.no_grad():
        torch.testing.assert_close(snn(_inputs(1)), model(_inputs(1)))


def test_a_learned_bound_is_a_number() -> None:
    model = Layers(lambda x: x).eval()
    model.act = lambda x: torch.clamp(x, 0, model.bound.item())
    snn = to_spiking(model, _inputs(0), steps=8, method="binary", progress=False)
    assert not [o.op for o in snn.report.operations if o.kind == "remaining"]
    with torch.no_grad():
        exact = model(_inputs(0))
        torch.testing.assert_close(snn.original()(_inputs(0)), exact)
        assert float((snn(_inputs(0)) - exact).norm() / exact.norm()) < 0.01


def test_a_choice_between_two_signals_remains() -> None:
    model = Layers(lambda x: torch.where(x > x.flip(1), x.relu(), x)).eval()
    snn = to_spiking(model, _inputs(0), steps=4, method="binary", progress=False)
    found = audit(snn, _inputs(1))
    assert found.agrees and set(found.nonlinear) == {"gt", "where"}
