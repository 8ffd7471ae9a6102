"""The neuron as an operator: compilers call it whole, and it gives the bits of the steps."""

from typing import Any

import pytest
import torch
from torch import Tensor

from convert.neuron import fused, operator
from convert.neuron.few_spikes import FewSpikesNeuron

_PLAIN = FewSpikesNeuron([2.0, 1.0, 0.5], [2.0, 1.0, 0.5], [1.5, 1.0, 0.5], 0.3)
_GATED = FewSpikesNeuron(
    [[2.0, 1.0], [1.0, 0.5]], [[2.0, 1.0], [1.0, 0.5]], [[1.0, 2.0], [0.5, 0.25]], [0.3, 0.1], [0.4]
)
_LAYOUTS = {
    "rows": torch.randn(3, 4, 5, 6),
    "channels last": torch.randn(3, 4, 5, 6).contiguous(memory_format=torch.channels_last),
    "permuted": torch.randn(5, 4, 3).permute(2, 0, 1),
    "with gaps": torch.randn(7, 4)[:, ::2],
    "half": torch.randn(4, 6).half(),
    "double": torch.randn(4, 6).double(),
    "empty": torch.randn(0, 6),
}


@pytest.fixture(params=["compiled", "blocks"])
def _either(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused, "WORTH_COMPILING", 0 if request.param == "compiled" else 10**18)
    monkeypatch.setattr(fused, "_ready", set())


@pytest.mark.usefixtures("_either")
@pytest.mark.parametrize("neuron", [_PLAIN, _GATED], ids=["plain", "gated"])
@pytest.mark.parametrize("x", _LAYOUTS.values(), ids=_LAYOUTS)
def test_bits_and_layout(neuron: FewSpikesNeuron, x: Tensor) -> None:
    with torch.no_grad():
        expected = neuron(x)
        found = operator.neuron(x, neuron._numbers(), neuron.steps)
    assert torch.equal(found, expected) and found.dtype == x.dtype
    assert found.stride() == torch.empty_like(x).stride()
    assert not found.numel() or found.data_ptr() != x.data_ptr()


@pytest.mark.parametrize("neuron", [_PLAIN, _GATED], ids=["plain", "gated"])
def test_torch_finds_no_fault_in_it(neuron: FewSpikesNeuron) -> None:
    given = (torch.randn(3, 4, 5).transpose(0, 2), *neuron._numbers(), 2)
    checks = ("test_schema", "test_faketensor", "test_aot_dispatch_dynamic")
    torch.library.opcheck(torch.ops.fewspikes.neuron.default, given, test_utils=checks)


def _called(neuron: FewSpikesNeuron, x: Tensor) -> tuple[Tensor, list[str]]:
    """The output of a neuron that a compiler calls, and the operations that it saw."""
    seen: list[str] = []

    def backend(graph: torch.fx.GraphModule, _: Any) -> Any:
        seen.extend(str(node.target) for node in graph.graph.nodes if node.op == "call_function")
        return graph

    torch.compiler.reset()
    found = torch.compile(neuron, backend=backend, fullgraph=True)(x)
    return found, seen


def test_a_compiler_sees_one_operation() -> None:
    x = torch.randn(50)
    with torch.no_grad():
        found, seen = _called(_PLAIN, x)
        assert seen == ["fewspikes.neuron"] or seen == ["fewspikes.neuron.default"]
        assert torch.equal(found, _PLAIN(x))


def test_numbers_may_change_after_compilation() -> None:
    torch.compiler.reset()
    neuron = FewSpikesNeuron([1.0, 0.5], [1.0, 0.5], [1.0, 0.5])
    gated = FewSpikesNeuron(_GATED.thresholds, _GATED.resets, _GATED.weights, [0.3, 0.1], [0.4])
    x = torch.randn(50)
    with torch.no_grad():
        for one in (neuron, gated):
            compiled = torch.compile(one, backend="aot_eager", fullgraph=True)
            before = compiled(x)
            one.weights.data *= 2
            one.weights.numpy()[..., 0] += 1
            assert torch.equal(compiled(x), one(x)) and not torch.equal(before, one(x))


def test_gradients_need_the_steps() -> None:
    x = torch.randn(50, requires_grad=True)
    assert _PLAIN(x).requires_grad
    torch.compiler.reset()
    seen: list[str] = []

    def backend(graph: torch.fx.GraphModule, _: Any) -> Any:
        seen.extend(str(node.target) for node in graph.graph.nodes)
        return graph

    found = torch.compile(_PLAIN, backend=backend)(x)
    assert found.requires_grad and not any("fewspikes" in name for name in seen)


def test_exported_programs_name_only_operators_of_torch() -> None:
    for strict in (True, False):
        program = torch.export.export(_PLAIN, (torch.randn(5),), strict=strict)
        assert "fewspikes" not in str(program.graph)
