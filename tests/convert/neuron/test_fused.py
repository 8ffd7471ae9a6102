"""Every fused pass over memory computes what the definition says, bit for bit."""

import os
from collections.abc import Callable
from dataclasses import replace
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from convert.errors import InputError
from convert.neuron import fused as kernel
from convert.neuron import llvm_code as machine
from convert.neuron.few_spikes import WHOLE, FewSpikesNeuron, NeuronPlan
from convert.neuron.llvm_program import Registers


def _neuron(steps: int = 8, dtype: torch.dtype = torch.float32) -> FewSpikesNeuron:
    g = torch.Generator().manual_seed(0)
    table = (
        torch.randn(steps, generator=g),
        torch.randn(steps, generator=g).abs(),
        torch.randn(steps, generator=g),
    )
    neuron = FewSpikesNeuron(*table, offset=0.3, dtype=dtype)
    neuron.missing_mean.normal_(generator=g)
    return neuron


def _awkward(neuron: FewSpikesNeuron) -> Tensor:
    """Values at and one ulp beside every threshold, denormals, infinities, NaN."""
    at = torch.cat([neuron.thresholds, -neuron.thresholds])
    up, down = (torch.nextafter(at, torch.full_like(at, sign * torch.inf)) for sign in (1, -1))
    tiny = torch.finfo(at.dtype).tiny
    odd = torch.tensor(
        [float("nan"), float("inf"), -float("inf"), -0.0, 0.0, tiny / 8, -tiny / 8],
        dtype=at.dtype,
    )
    return torch.cat([at, up, down, odd])


def _layouts(neuron: FewSpikesNeuron) -> list[Tensor]:
    dtype = neuron.thresholds.dtype
    x = torch.randn(5, 16, 9, 9, generator=torch.Generator().manual_seed(1), dtype=dtype) * 3
    odd = _awkward(neuron)
    x.view(-1)[: len(odd)] = odd
    return [
        x,
        x.to(memory_format=torch.channels_last),
        x.transpose(1, 2),
        x[:, ::2],
        x[0, 0, 0, 0],
        x[:0],
        x[:1, :1].expand(3, 4, 9, 9),
    ]


def _run(
    neuron: FewSpikesNeuron,
    x: Tensor,
    addend: Tensor | None = None,
    *,
    counting: bool = True,
    plan: NeuronPlan = WHOLE,
) -> tuple[Tensor, int]:
    """Output and spikes of one call; 0 where nobody counts."""
    counted: list[int] = []
    plan = replace(plan, count=counted.append if counting else None)
    return neuron.decode(x, addend, plan=plan), sum(counted)


def _both(
    neuron: FewSpikesNeuron, x: Tensor, monkeypatch: pytest.MonkeyPatch, **how: Any
) -> tuple[tuple[Tensor, int], tuple[Tensor, int]]:
    results = []
    for plain in (False, True):
        with monkeypatch.context() as patch:
            if plain:
                patch.setattr(kernel, "usable", lambda _: False)
            results.append(_run(neuron, x.clone(), **how))
    return results[0], results[1]


def _check(neuron: FewSpikesNeuron, x: Tensor, monkeypatch: pytest.MonkeyPatch, **how: Any) -> None:
    (fused, spikes), (plain, expected) = _both(neuron, x, monkeypatch, **how)
    assert torch.equal(torch.isnan(fused), torch.isnan(x))
    assert torch.equal(fused.nan_to_num(7), plain.nan_to_num(7))
    assert torch.equal(torch.signbit(fused), torch.signbit(plain))
    assert spikes == expected
    if x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last):
        assert fused.stride() == plain.stride()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("worth", [0, 10**18], ids=["compiled", "blocks"])
@pytest.mark.parametrize("step", [None, 1, 3])
@pytest.mark.parametrize("corrected", [True, False])
@pytest.mark.parametrize("in_place", [True, False])
def test_equals_the_definition(
    dtype: torch.dtype,
    worth: int,
    step: int | None,
    corrected: bool,
    in_place: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(kernel, "WORTH_COMPILING", worth)
    monkeypatch.setattr(kernel, "_ready", set())
    neuron = _neuron(dtype=dtype)
    plan = NeuronPlan(step, corrected, in_place=in_place)
    for counting in (True, False):
        for x in _layouts(neuron):
            assert kernel.usable(x)
            _check(neuron, x, monkeypatch, counting=counting, plan=plan)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("worth", [0, 10**18], ids=["compiled", "blocks"])
@pytest.mark.parametrize("in_place", [True, False])
def test_a_sum_in_the_same_pass(
    dtype: torch.dtype, worth: int, in_place: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernel, "WORTH_COMPILING", worth)
    monkeypatch.setattr(kernel, "_ready", set())
    neuron = _neuron(dtype=dtype)
    plan = NeuronPlan(in_place=in_place)
    for x in _layouts(neuron):
        like = torch.randn(x.shape, generator=torch.Generator().manual_seed(3), dtype=dtype)
        for z in (torch.empty_like(x).copy_(like), like.clone(), torch.zeros_like(x), x):
            _, (plain, spikes) = _both(neuron, x + z, monkeypatch)
            given, before = x.clone(), z.clone()
            y, found = _run(neuron, given, given if z is x else z, plan=plan)
            assert torch.equal(y.nan_to_num(7), plain.nan_to_num(7))
            assert torch.equal(torch.signbit(y), torch.signbit(plain))
            assert torch.equal(torch.isnan(y), torch.isnan(plain))
            assert found == spikes
            assert z is x or torch.equal(z.nan_to_num(7), before.nan_to_num(7))
            assert in_place or torch.equal(given.nan_to_num(7), x.nan_to_num(7))


def test_parameters_elsewhere_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "WORTH_COMPILING", 0)
    with pytest.raises(InputError, match="parameters are on meta"):
        _neuron().to("meta")(torch.randn(100))


def test_parameters_that_are_views_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "WORTH_COMPILING", 0)
    neuron = _neuron()
    for name in ("thresholds", "resets", "weights"):
        setattr(neuron, name, getattr(neuron, name).repeat_interleave(2)[::2])
    _check(neuron, torch.randn(1000), monkeypatch)


@pytest.mark.parametrize("steps", [1, 2, 7, 9, 16, 40])
def test_any_number_of_steps(steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "WORTH_COMPILING", 0)
    neuron = _neuron(steps)
    for x in _layouts(neuron):
        _check(neuron, x, monkeypatch)


@pytest.mark.parametrize("worth", [0, 10**18], ids=["compiled", "blocks"])
def test_ten_million_values(worth: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "WORTH_COMPILING", worth)
    monkeypatch.setattr(kernel, "_ready", set())
    neuron = _neuron()
    x = torch.randn(10_000_000, generator=torch.Generator().manual_seed(2)) * 3
    _check(neuron, x, monkeypatch)


@pytest.mark.parametrize("worth", [0, 10**18], ids=["compiled", "blocks"])
def test_inference_mode(worth: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "WORTH_COMPILING", worth)
    monkeypatch.setattr(kernel, "_ready", set())
    with torch.inference_mode():
        _check(_neuron(), torch.randn(200_000), monkeypatch)


@pytest.mark.parametrize("name", ["thresholds", "offset"])
def test_a_sum_where_no_fused_pass_can_read_the_numbers(name: str) -> None:
    neuron = _neuron()
    x, z = torch.randn(2, 100, generator=torch.Generator().manual_seed(4))
    setattr(neuron, name, getattr(neuron, name).double())
    assert torch.equal(neuron.decode(x, z), neuron.decode(x + z))
    assert not torch.equal(neuron.decode(x, z), neuron.decode(x))


def test_compiles_only_once_it_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[str] = []

    def spy(module: ModuleType, name: str) -> Callable[..., int]:
        original = getattr(module, name)

        def run(*args: object) -> int:
            used.append(name)
            return int(original(*args))

        return run

    for module, name in ((kernel, "in_blocks"), (kernel.on_cpu, "run")):
        monkeypatch.setattr(module, name, spy(module, name))
    monkeypatch.setattr(kernel, "_ready", set())
    monkeypatch.setattr(kernel, "_waiting", {})
    monkeypatch.setattr(kernel, "WORTH_COMPILING", 3 * 8 * 100)
    neuron = _neuron()
    for _ in range(4):
        neuron(torch.randn(100))
    assert used == ["in_blocks", "in_blocks", "run", "run"]


def test_no_compiler_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel.numba.config, "DISABLE_JIT", True)
    monkeypatch.setattr(kernel, "WORTH_COMPILING", 0)
    monkeypatch.setattr(kernel, "_ready", set())
    neuron = _neuron()
    _check(neuron, torch.randn(1000), monkeypatch)


def test_a_compiler_that_fails_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("no code for this machine")

    monkeypatch.setattr(kernel, "compiled", broken)
    monkeypatch.setattr(kernel, "WORTH_COMPILING", 0)
    _check(_neuron(), torch.randn(1000), monkeypatch)


@pytest.mark.parametrize("registers", [(128, 4, False), (256, 4, False), (128, 1, True)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_registers_of_other_machines(
    registers: tuple[int, int, bool], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "_registers", lambda _: Registers(*registers))
    monkeypatch.setattr(kernel, "compiled", machine.compiled.__wrapped__)
    monkeypatch.setattr(kernel, "WORTH_COMPILING", 0)
    neuron = _neuron(dtype=dtype)
    for counting in (True, False):
        for x in (*_layouts(neuron), torch.randn(70_001, dtype=dtype)):
            _check(neuron, x, monkeypatch, counting=counting)


def test_threads_of_our_own_where_torch_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel.on_cpu.openmp, "loaded", lambda: None)
    monkeypatch.setattr(kernel, "WORTH_COMPILING", 0)
    neuron = _neuron()
    for x in (*_layouts(neuron), torch.randn(300_001)):
        _check(neuron, x, monkeypatch)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_works_in_a_forked_process() -> None:
    neuron = _neuron()
    x = torch.randn(200_000)
    expected = neuron(x)
    child = os.fork()
    if not child:
        torch.set_num_threads(1)
        os._exit(0 if torch.equal(neuron(x), expected) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_is_left_out_where_it_does_not_apply() -> None:
    assert not kernel.usable(torch.zeros(3, dtype=torch.float16))
    assert not kernel.usable(torch.zeros(3, device="meta"))


def test_input_is_left_alone() -> None:
    x = torch.randn(4, 5)
    before = x.clone()
    _neuron()(x)
    assert torch.equal(x, before)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("gradients", [True, False])
def test_autocast_keeps_potentials_in_float32(dtype: torch.dtype, gradients: bool) -> None:
    neuron = _neuron()
    x = (torch.randn(1000, generator=torch.Generator().manual_seed(3)) * 3).to(dtype)
    expected = neuron(x.float()).to(dtype)
    with torch.set_grad_enabled(gradients), torch.autocast("cpu", dtype=dtype):
        found = neuron(x.clone().requires_grad_(gradients))
    assert found.dtype == dtype
    assert torch.equal(found, expected)
