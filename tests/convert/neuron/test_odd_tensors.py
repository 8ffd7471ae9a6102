"""Tensors that compiled code can't read: the plain path, the same values, or one clear line."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.autograd.forward_ad as forward_ad
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from convert import InputError
from convert.neuron import fused
from convert.neuron.few_spikes import FewSpikesNeuron, NeuronPlan


@pytest.fixture(autouse=True)
def _compiled_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused, "WORTH_COMPILING", 0)


@pytest.fixture
def neuron() -> FewSpikesNeuron:
    return FewSpikesNeuron([2.0, 1.0, 0.5], [2.0, 1.0, 0.5], [2.0, 1.0, 0.5], 0.3)


@pytest.fixture
def x() -> Tensor:
    return 2 * torch.randn(60, generator=torch.Generator().manual_seed(0))


def test_negated_views_keep_their_sign(neuron: FewSpikesNeuron, x: Tensor) -> None:
    expected = neuron(x)
    assert torch.equal(neuron(torch._neg_view(-x)), expected)
    imaginary = torch.complex(x, -x).conj().imag
    assert imaginary.is_neg()
    assert torch.equal(neuron(imaginary), expected)
    assert torch.equal(neuron.spikes(torch._neg_view(-x)), neuron.spikes(x))
    assert torch.equal(neuron.decode(x, torch._neg_view(-x)), neuron(x + x))
    before = neuron.resets
    neuron.resets = torch._neg_view(-before)
    assert torch.equal(neuron(x), expected)


def test_zeros_without_storage(neuron: FewSpikesNeuron) -> None:
    zeros = torch._efficientzerotensor(7)
    assert torch.equal(neuron(zeros), neuron(torch.zeros(7)))
    assert torch.equal(neuron.spikes(zeros), neuron.spikes(torch.zeros(7)))


def test_meta(neuron: FewSpikesNeuron) -> None:
    counted: list[int] = []
    found = neuron.to("meta")(
        torch.empty(3, 4, device="meta"), plan=NeuronPlan(count=counted.append)
    )
    assert found.shape == (3, 4) and found.is_meta and counted == [0]


class Plain(Tensor):
    """A subclass that changes nothing."""


def test_subclasses_stay_what_they_are(neuron: FewSpikesNeuron, x: Tensor) -> None:
    found = neuron(x.as_subclass(Plain))
    assert type(found) is Plain
    assert torch.equal(found.as_subclass(Tensor), neuron(x))


_REFUSED: dict[str, tuple[Callable[[Tensor], Any], str]] = {
    "sparse": (lambda x: x.to_sparse(), "sparse_coo"),
    "rows": (lambda x: x.view(6, 10).to_sparse_csr(), "sparse_csr"),
    "nested": (lambda x: torch.nested.nested_tensor([x, x[:3]]), "nested"),
    "jagged": (lambda x: torch.nested.nested_tensor([x, x[:3]], layout=torch.jagged), "nested"),
    "masked": (lambda x: torch.masked.masked_tensor(x, x > 0), "MaskedTensor"),
    "whole": (lambda x: x.long(), "int64"),
    "truth": (lambda x: x > 0, "bool"),
    "complex": (lambda x: torch.complex(x, x), "complex64"),
}


@pytest.mark.parametrize("kind", _REFUSED)
@pytest.mark.filterwarnings("ignore")
def test_refused_in_one_line(neuron: FewSpikesNeuron, x: Tensor, kind: str) -> None:
    make, named = _REFUSED[kind]
    with pytest.raises(InputError, match=named) as raised:
        neuron(make(x))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", ["thresholds", "resets", "weights", "offset"])
def test_parameters_of_other_lengths(neuron: FewSpikesNeuron, x: Tensor, name: str) -> None:
    for wrong in (torch.ones(2), torch.ones(0), torch.ones(5, 1)):
        changed = FewSpikesNeuron(neuron.thresholds, neuron.resets, neuron.weights)
        setattr(changed, name, wrong)
        with pytest.raises(InputError, match="one length K"):
            changed(x)


def test_means_of_another_length(neuron: FewSpikesNeuron, x: Tensor) -> None:
    for name in ("thresholds", "resets", "weights"):
        setattr(neuron, name, torch.ones(5))
    assert neuron(x).shape == x.shape
    with pytest.raises(InputError, match="one length K"):
        neuron(x, plan=NeuronPlan(steps=4, corrected=True))


def test_parameters_of_another_type(neuron: FewSpikesNeuron, x: Tensor) -> None:
    expected = neuron(x)
    for name in ("resets", "weights", "offset"):
        setattr(neuron, name, getattr(neuron, name).double())
        assert torch.equal(neuron(x), expected)


def _slope(neuron: FewSpikesNeuron, x: Tensor) -> Tensor:
    given = x.clone().requires_grad_()
    (found,) = torch.autograd.grad(neuron(given).sum(), given)
    return found


def test_batched_by_vmap(neuron: FewSpikesNeuron, x: Tensor) -> None:
    rows = x.view(6, 10)
    assert torch.equal(torch.func.vmap(neuron)(rows), neuron(rows))
    assert torch.equal(torch.func.vmap(neuron, in_dims=1)(rows), neuron(rows.T))
    plan = NeuronPlan(count=lambda spikes: None)
    with pytest.raises(InputError, match="can't be counted"):
        torch.func.vmap(lambda row: neuron(row, plan=plan))(rows)


def test_every_derivative_is_the_surrogates(neuron: FewSpikesNeuron, x: Tensor) -> None:
    slope = _slope(neuron, x)
    assert 0.1 < float(slope.mean()) < 2
    along = torch.randn(60, generator=torch.Generator().manual_seed(1))
    value, tangent = torch.func.jvp(neuron, (x,), (along,))
    assert torch.equal(value, neuron(x))
    assert torch.allclose(tangent, slope * along)
    assert torch.allclose(torch.func.grad(lambda v: neuron(v).sum())(x), slope)
    assert torch.allclose(torch.func.vmap(torch.func.grad(neuron))(x), slope)
    for jacobian in (torch.func.jacfwd(neuron), torch.func.jacrev(neuron)):
        assert torch.allclose(jacobian(x), torch.diag(slope))
    for enabled in (True, False):
        with torch.set_grad_enabled(enabled), forward_ad.dual_level():
            pair = forward_ad.unpack_dual(neuron(forward_ad.make_dual(x, along)))
            assert torch.equal(pair.primal, neuron(x))
            assert torch.allclose(pair.tangent, slope * along)


def test_traced(neuron: FewSpikesNeuron, x: Tensor) -> None:
    traced = make_fx(neuron)(torch.randn(60))
    assert torch.equal(traced(x), neuron(x))
    assert torch.equal(torch.func.functionalize(neuron)(x), neuron(x))
    assert torch.equal(torch.jit.trace(neuron, torch.randn(60))(x), neuron(x))
