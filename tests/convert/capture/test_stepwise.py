"""Recurrent layers step by step, by cells: equal to torch's layers, at any length."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm
from torch.nn.utils.rnn import pack_sequence
from torch.utils import _pytree as pytree

import convert
from convert.capture.stepwise import ProjectedLSTMCell, Stepwise, stepwise
from convert.errors import InputError

_KINDS: tuple[tuple[type[nn.RNNBase], dict[str, Any]], ...] = (
    (nn.LSTM, {}),
    (nn.LSTM, {"proj_size": 3}),
    (nn.GRU, {}),
    (nn.RNN, {}),
    (nn.RNN, {"nonlinearity": "relu"}),
)


def _alike(a: Any, b: Any) -> None:
    assert pytree.tree_structure(a) == pytree.tree_structure(b)
    for one, other in zip(pytree.tree_leaves(a), pytree.tree_leaves(b), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("kind", "more"), _KINDS)
@pytest.mark.parametrize("layers", (1, 2))
@pytest.mark.parametrize("both", (False, True))
def test_it_computes_what_the_layer_computes(
    kind: Any, more: dict[str, Any], layers: int, both: bool
) -> None:
    for first, biases in ((True, True), (False, False)):
        form = {"bias": biases, "batch_first": first, "bidirectional": both}
        layer = kind(4, 5, layers, **form, **more).double().eval()
        steps = stepwise(layer)
        assert {id(p) for p in steps.parameters()} == {id(p) for p in layer.parameters()}
        count, size = layers * (1 + both), more.get("proj_size", 5)
        state: Any = torch.randn(count, 3, size, dtype=torch.double)
        if kind is nn.LSTM:
            state = state, torch.randn(count, 3, 5, dtype=torch.double)
        for length in (1, 6):
            x = torch.randn((3, length, 4) if first else (length, 3, 4), dtype=torch.double)
            _alike(steps(x), layer(x))
            _alike(steps(x, state), layer(x, state))
        alone = pytree.tree_map(lambda part: part[:, 0], state)
        x = torch.randn(6, 4, dtype=torch.double)
        _alike(steps(x), layer(x))
        _alike(steps(x, alone), layer(x, alone))


def test_dropout_between_layers_in_training_alone() -> None:
    layer = nn.GRU(4, 64, 2, dropout=0.5)
    x = torch.randn(5, 3, 4)
    steps = stepwise(layer)
    assert steps.training and not torch.equal(steps(x)[0], steps(x)[0])
    steps.eval(), layer.eval()
    torch.testing.assert_close(steps(x)[0], layer(x)[0])


def test_a_weight_that_is_computed_is_taken_as_it_is() -> None:
    layer = weight_norm(nn.LSTM(4, 5), "weight_hh_l0").double().eval()
    x = torch.randn(4, 3, 4, dtype=torch.double)
    _alike(stepwise(layer)(x), layer(x))


def test_other_modules_are_refused() -> None:
    class Own(nn.LSTM):
        def forward(self, input: Tensor, hx: Any = None) -> Any:
            return super().forward(2 * input, hx)

    other: Any = nn.Linear(4, 4)
    for layer, name in ((Own(4, 5), "Own"), (other, "Linear")):
        with pytest.raises(InputError, match=f"{name} doesn't run as nn.LSTM"):
            stepwise(layer)
    kept = type("Kept", (nn.GRU,), {})(4, 5)
    assert list(stepwise(kept).cells) == ["layer0_forward"]


def test_packed_sequences_are_refused() -> None:
    packed: Any = pack_sequence([torch.randn(3, 4), torch.randn(2, 4)])
    with pytest.raises(InputError, match="gather the last step"):
        stepwise(nn.GRU(4, 5))(packed)


@pytest.mark.parametrize(("kind", "more"), (_KINDS[1], _KINDS[2]))
def test_a_converted_cell_runs_at_any_length(kind: Any, more: dict[str, Any]) -> None:
    torch.manual_seed(3)
    layer = kind(4, 5, batch_first=True, **more).eval()
    steps = stepwise(layer)
    spiking = _with_converted_cell(steps, torch.randn(32, 3, 4))
    for length in (2, 6):
        x = torch.randn(8, length, 4)
        with torch.no_grad():
            expected, found = layer(x)[0], spiking(x)[0]
        assert found.shape == expected.shape
        assert 0 < (found - expected).norm() < 0.25 * expected.norm()


def _with_converted_cell(steps: Stepwise, x: Tensor) -> Stepwise:
    """The same module with its one cell converted on what it gets while all of it runs."""
    seen: list[Any] = []
    (cell,) = steps.cells.values()
    handle = cell.register_forward_pre_hook(lambda _, given: seen.append(given))
    with torch.no_grad():
        steps(x)
    handle.remove()
    inputs = ("x", "state") if isinstance(cell, ProjectedLSTMCell) else ("input", "hx")
    batches = [dict(zip(inputs, given, strict=True)) for given in seen]
    spiking = convert.to_spiking(
        cell, batches, steps=6, gates=7, method="binary", sequential=False, progress=False
    )
    made = copy.copy(steps)
    made._modules = {"cells": nn.ModuleDict({"layer0_forward": spiking})}
    return made
