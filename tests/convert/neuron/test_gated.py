"""Neurons with gates: every path has the bits of plain neurons, one for each interval."""

import copy
import os
import pickle
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from spikingjelly.activation_based import functional
from spikingjelly.activation_based import neuron as sj_neuron
from torch import Tensor, nn

from convert.errors import InputError
from convert.neuron import fused as kernel
from convert.neuron import llvm_code as machine
from convert.neuron import surrogate
from convert.neuron.few_spikes import WHOLE, FewSpikesNeuron, GatedTable, NeuronPlan
from convert.neuron.llvm_program import Registers

_MANY = 10_000_000 if os.environ.get("FEWSPIKES_NEURONS") else 1_000_000
_TABLES = ("thresholds", "resets", "weights", "offset", "gates", "missing_mean")


def _neuron(
    intervals: int = 4, steps: int = 6, dtype: torch.dtype = torch.float32
) -> FewSpikesNeuron:
    g = torch.Generator().manual_seed(100 * intervals + steps)
    T, h, d = (torch.randn(intervals, steps, generator=g) for _ in range(3))
    offset = torch.randn(intervals, generator=g)
    # Constants of 0, of either sign, are no events and are read out as 0.
    offset[0], offset[-1] = 0.0, -0.0
    gates = torch.randn(intervals - 1, generator=g).sort()[0]
    neuron = FewSpikesNeuron(T, h.abs(), d, offset, gates, dtype=dtype)
    neuron.missing_mean.normal_(generator=g)
    return neuron


def _awkward(neuron: FewSpikesNeuron) -> Tensor:
    """Values at every gate and threshold and one float beside them, also after resets."""
    v = neuron.thresholds
    assert neuron.gates is not None
    at = torch.cat([neuron.gates, v.flatten(), (v[:, 1:] + neuron.resets[:, :-1]).flatten()])
    at = torch.cat([at, -at])
    up, down = (torch.nextafter(at, torch.full_like(at, sign * torch.inf)) for sign in (1, -1))
    tiny = torch.finfo(at.dtype).tiny
    inf, nan = float("inf"), float("nan")
    odd = torch.tensor([nan, inf, -inf, -0.0, 0.0, tiny / 8, -tiny / 8], dtype=at.dtype)
    return torch.cat([at, up, down, odd])


def _mixed(neuron: FewSpikesNeuron, size: int = 1500) -> Tensor:
    """Awkward values among ordinary ones ``[size]``."""
    g = torch.Generator().manual_seed(1)
    x = 2 * torch.randn(size, generator=g, dtype=neuron.thresholds.dtype)
    odd = _awkward(neuron)[:size]
    x[torch.randperm(size, generator=g)[: len(odd)]] = odd
    return x


def _layouts(neuron: FewSpikesNeuron) -> list[Tensor]:
    x = _mixed(neuron, 3 * 8 * 7 * 9).view(3, 8, 7, 9)
    return [
        x,
        x.to(memory_format=torch.channels_last),
        x.transpose(1, 2),
        x[:, ::2],
        x[0, 0, 0, 0],
        x[:0],
        x[:1, :1].expand(3, 4, 7, 9),
        x.view(-1)[1:],
    ]


def _run(
    neuron: FewSpikesNeuron,
    x: Tensor,
    addend: Tensor | None = None,
    *,
    counting: bool = True,
    plan: NeuronPlan = WHOLE,
) -> tuple[Tensor, int]:
    """Output and events of one call; 0 where nobody counts."""
    counted: list[int] = []
    plan = replace(plan, count=counted.append if counting else None)
    return neuron.decode(x, addend, plan=plan), sum(counted)


def _expected(neuron: FewSpikesNeuron, x: Tensor, plan: NeuronPlan = WHOLE) -> tuple[Tensor, int]:
    """What a plain neuron gives for the values of its interval, and all events."""
    assert neuron.gates is not None
    index = np.searchsorted(neuron.gates.detach().numpy(), x.detach().numpy(), side="left")
    y, events = x.detach().clone(), 0
    known = ~x.isnan()
    for r in range(neuron.intervals):
        inside = torch.from_numpy(np.asarray(index == r)) & known
        table = (neuron.thresholds[r], neuron.resets[r], neuron.weights[r])
        plain = FewSpikesNeuron(*table, neuron.offset[r], dtype=neuron.thresholds.dtype)
        plain.missing_mean.copy_(neuron.missing_mean[r])
        given = x.detach()[inside]
        y[inside], spikes = _run(plain, given, plan=plan)
        constant = neuron.offset[r]
        if plan.corrected and plan.steps is not None and plan.steps < neuron.steps:
            constant = constant + neuron.missing_mean[r, plan.steps]
        events += spikes + bool(constant != 0) * len(given)
    return y, events


def _same(found: Tensor, expected: Tensor) -> bool:
    return (
        torch.equal(found.isnan(), expected.isnan())
        and torch.equal(found.nan_to_num(7), expected.nan_to_num(7))
        and torch.equal(torch.signbit(found.nan_to_num(7)), torch.signbit(expected.nan_to_num(7)))
    )


# How a neuron may be run: machine code, blocks in torch, and the definition.
def _code(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(kernel, "WORTH_COMPILING", 0)
    patch.setattr(kernel, "gated_in_blocks", _never)


def _blocks(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(kernel, "WORTH_COMPILING", 10**18)
    patch.setattr(kernel, "_ready", set())
    patch.setattr(kernel.on_cpu, "run", _never)


def _no_compiler(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(kernel.numba.config, "DISABLE_JIT", True)
    patch.setattr(kernel, "WORTH_COMPILING", 0)
    patch.setattr(kernel.on_cpu, "run", _never)


def _broken_compiler(patch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("no code for this machine")

    patch.setattr(kernel, "compiled", broken)
    patch.setattr(kernel, "WORTH_COMPILING", 0)
    patch.setattr(kernel.on_cpu, "run", _never)


def _definition(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(kernel, "usable", lambda _: False)


def _never(*_: object) -> None:
    raise AssertionError("another path was taken")


_PATHS = {"code": _code, "blocks": _blocks, "definition": _definition}
Path = Callable[[pytest.MonkeyPatch], None]


@pytest.fixture(params=_PATHS)
def path(request: pytest.FixtureRequest) -> Path:
    return _PATHS[request.param]


@pytest.fixture
def code() -> Iterator[None]:
    """Machine code from the first value on."""
    with pytest.MonkeyPatch.context() as patch:
        _code(patch)
        yield


def _check(
    neuron: FewSpikesNeuron,
    x: Tensor,
    path: Path,
    *,
    counting: bool = True,
    plan: NeuronPlan = WHOLE,
) -> None:
    expected, events = _expected(neuron, x, plan)
    with pytest.MonkeyPatch.context() as patch:
        path(patch)
        y, found = _run(neuron, x.clone(), counting=counting, plan=plan)
    assert _same(y, expected)
    assert found == events * counting
    if x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last):
        assert y.is_contiguous(memory_format=torch.channels_last)


# Bits.


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("intervals", [2, 3, 4, 8, 9, 16])
def test_any_number_of_intervals_and_steps(intervals: int, dtype: torch.dtype, path: Path) -> None:
    for steps in range(1, 13):
        neuron = _neuron(intervals, steps, dtype)
        _check(neuron, _mixed(neuron, 500), path, counting=steps % 3 > 0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("intervals", [2, 4, 9])
def test_learning_has_the_same_bits(intervals: int, dtype: torch.dtype) -> None:
    for steps in (1, 2, 7):
        neuron = _neuron(intervals, steps, dtype)
        x = _mixed(neuron)
        expected, events = _expected(neuron, x)
        y, found = _run(neuron, x.clone().requires_grad_())
        assert y.requires_grad and _same(y.detach(), expected) and found == events
        y, found = _run(copy.deepcopy(neuron).unfreeze(), x)
        assert y.requires_grad and _same(y.detach(), expected) and found == events


@pytest.mark.parametrize("step", [None, 1, 4, 6, 99])
@pytest.mark.parametrize("corrected", [True, False])
def test_cut_readouts(step: int | None, corrected: bool, path: Path) -> None:
    for intervals in (3, 16):
        neuron = _neuron(intervals)
        neuron.missing_mean[1] = 0.0
        plan = NeuronPlan(step, corrected)
        x = _mixed(neuron)
        _check(neuron, x, path, plan=plan)
        y, events = _run(neuron, x.clone().requires_grad_(), plan=plan)
        expected, wanted = _expected(neuron, x, plan)
        assert _same(y.detach(), expected) and events == wanted


@pytest.mark.parametrize("in_place", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_layouts(dtype: torch.dtype, in_place: bool, path: Path) -> None:
    neuron = _neuron(4, 5, dtype)
    plan = NeuronPlan(in_place=in_place)
    for x in _layouts(neuron):
        for counting in (True, False):
            _check(neuron, x, path, counting=counting, plan=plan)
        if not in_place:
            before = x.clone()
            neuron(x)
            assert _same(x, before)


@pytest.mark.parametrize("in_place", [True, False])
@pytest.mark.parametrize(("intervals", "dtype"), [(3, torch.float32), (9, torch.float64)])
def test_a_sum_in_the_same_pass(
    intervals: int, dtype: torch.dtype, in_place: bool, path: Path
) -> None:
    neuron = _neuron(intervals, 3, dtype)
    plan = NeuronPlan(in_place=in_place)
    for x in _layouts(neuron):
        like = torch.randn(x.shape, generator=torch.Generator().manual_seed(3), dtype=dtype)
        for z in (torch.empty_like(x).copy_(like), like.clone(), x):
            expected, events = _expected(neuron, x + z)
            given, before = x.clone(), z.clone()
            with pytest.MonkeyPatch.context() as patch:
                path(patch)
                y, found = _run(neuron, given, given if z is x else z, plan=plan)
            assert _same(y, expected) and found == events
            assert z is x or _same(z, before)
            assert in_place or _same(given, x)


@pytest.mark.parametrize("size", [0, 1, 2, 15, 16, 17, 127, 128, 129, 70_001])
def test_odd_sizes(size: int, path: Path) -> None:
    neuron = _neuron(4, 3)
    x = torch.randn(size, generator=torch.Generator().manual_seed(size))
    _check(neuron, x, path)


@pytest.mark.parametrize(
    ("intervals", "steps", "dtype"), [(4, 8, torch.float32), (9, 3, torch.float64)]
)
def test_a_million_values(intervals: int, steps: int, dtype: torch.dtype) -> None:
    neuron = _neuron(intervals, steps, dtype)
    x = torch.randn(_MANY, generator=torch.Generator().manual_seed(2), dtype=dtype)
    odd = _awkward(neuron)
    x[: len(odd)] = odd
    expected, events = _expected(neuron, x)
    for path in (_code, _blocks, _definition):
        with pytest.MonkeyPatch.context() as patch:
            path(patch)
            y, found = _run(neuron, x)
        assert _same(y, expected) and found == events


@pytest.mark.parametrize(
    "registers",
    [
        Registers(256, 4, False, "avx2"),
        Registers(128, 4, False),
        Registers(256, 4, False),
        Registers(512, 2, True),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_registers_of_other_machines(
    registers: Registers, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "_registers", lambda _: registers)
    monkeypatch.setattr(kernel, "compiled", cache(machine.compiled.__wrapped__))
    for intervals in (2, 8, 9):
        neuron = _neuron(intervals, 3, dtype)
        for counting in (True, False):
            _check(neuron, _mixed(neuron, 1111), _code, counting=counting)
        x, z = _mixed(neuron, 500), torch.randn(500, dtype=dtype)
        expected, events = _expected(neuron, x + z)
        y, found = _run(neuron, x, z)
        assert _same(y, expected) and found == events


@pytest.mark.parametrize("path", [_no_compiler, _broken_compiler])
def test_without_a_compiler(path: Path) -> None:
    neuron = _neuron()
    for x in _layouts(neuron):
        _check(neuron, x, path)


def test_threads_of_our_own_where_torch_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel.on_cpu.openmp, "loaded", lambda: None)
    _check(_neuron(), torch.randn(200_001), _code)


def test_gates_are_compared_strictly(path: Path) -> None:
    # No step fires: the constant tells the interval.
    never = torch.full((3, 1), 99.0)
    neuron = FewSpikesNeuron(never, never, never, [1.0, 2.0, 3.0], [0.0, 0.5])
    above = float(torch.nextafter(torch.tensor(0.5), torch.tensor(1.0)))
    x = torch.tensor([-float("inf"), -0.0, 0.0, 1e-45, 0.5, above, float("inf")])
    with pytest.MonkeyPatch.context() as patch:
        path(patch)
        assert neuron(x).tolist() == [1.0, 1.0, 1.0, 2.0, 2.0, 3.0, 103.0 - 1.0]


def test_gates_that_float32_cannot_tell_apart(path: Path) -> None:
    neuron = _neuron(4, 5)
    gates = [-0.5, 1.0, 1.0 + 1e-9]
    neuron = FewSpikesNeuron(neuron.thresholds, neuron.resets, neuron.weights, neuron.offset, gates)
    assert neuron.interval(torch.tensor([-1.0, 1.0, 1.5])).tolist() == [0, 1, 3]
    x = _mixed(neuron)
    _check(neuron, x, path)
    neuron.offset.zero_()
    node = neuron.to_table()
    assert isinstance(node, GatedTable) and len(node.tables) == 3
    known = x.nan_to_num(0.0)
    assert torch.equal(node(known), neuron(known))


# The rows that machine code reads.


def _changes() -> dict[str, Callable[[FewSpikesNeuron], None]]:
    def in_place(neuron: FewSpikesNeuron) -> None:
        neuron.thresholds.mul_(0.5)

    def one_number(neuron: FewSpikesNeuron) -> None:
        neuron.offset[1] = 9.0

    def through_data(neuron: FewSpikesNeuron) -> None:
        neuron.resets.data.mul_(0.5)

    def through_numpy(neuron: FewSpikesNeuron) -> None:
        neuron.weights.numpy()[:] += 1.0

    def through_a_view(neuron: FewSpikesNeuron) -> None:
        neuron.offset.view(-1)[1:3].add_(1.0)

    def other_data(neuron: FewSpikesNeuron) -> None:
        neuron.gates.data = neuron.gates.data + 0.25

    def other_data_twice(neuron: FewSpikesNeuron) -> None:
        # The second may get the memory that the first one had.
        neuron.thresholds.data = torch.full_like(neuron.thresholds, 0.25)
        neuron.thresholds.data = torch.full_like(neuron.thresholds, -0.25)

    def state(neuron: FewSpikesNeuron) -> None:
        other = {name: value + 0.125 for name, value in neuron.state_dict().items()}
        neuron.load_state_dict(other)

    def state_assigned(neuron: FewSpikesNeuron) -> None:
        other = {name: value + 0.125 for name, value in neuron.state_dict().items()}
        neuron.load_state_dict(other, assign=True)

    def another(neuron: FewSpikesNeuron) -> None:
        neuron.weights = torch.zeros_like(neuron.weights)

    def all_others(neuron: FewSpikesNeuron) -> None:
        other = _neuron(3, 2)
        for name in _TABLES:
            setattr(neuron, name, getattr(other, name))

    def another_order(neuron: FewSpikesNeuron) -> None:
        neuron.thresholds, neuron.resets = neuron.resets, neuron.thresholds

    def unfrozen(neuron: FewSpikesNeuron) -> None:
        neuron.unfreeze()
        torch.optim.SGD(neuron.parameters(), 0.1).step(lambda: _backward(neuron))
        neuron.requires_grad_(False)

    def inference(neuron: FewSpikesNeuron) -> None:
        with torch.inference_mode():
            neuron.gates = neuron.gates + 0.5
            neuron(torch.zeros(3))
            neuron.gates += 0.5

    return {f.__name__: f for f in locals().values() if callable(f)}


def _backward(neuron: FewSpikesNeuron) -> Tensor:
    with torch.enable_grad():
        loss = neuron(_mixed(neuron).nan_to_num(0.0)).square().mean()
        loss.backward()
    return loss.detach()


@pytest.mark.parametrize("change", _changes())
def test_changed_numbers_are_noticed(change: str, code: None) -> None:
    neuron = _neuron()
    x = _mixed(neuron)
    before = neuron(x)
    for _ in range(3):
        _changes()[change](neuron)
        with torch.no_grad():
            found = neuron(x)
        expected, _ = _expected(neuron, x)
        assert _same(found, expected)
    assert not _same(found, before)


def test_another_type_and_back(code: None) -> None:
    neuron = _neuron()
    x = _mixed(neuron)
    first = neuron(x)
    neuron.double()
    assert _same(neuron(x.double()), _expected(neuron, x.double())[0])
    neuron.float()
    assert _same(neuron(x), first)
    neuron.to("meta")
    with pytest.raises(InputError, match="parameters are on meta"):
        neuron(x)


@pytest.mark.parametrize("how", [copy.deepcopy, lambda n: pickle.loads(pickle.dumps(n))])
def test_copies_are_their_own(how: Callable[[Any], FewSpikesNeuron], code: None) -> None:
    neuron = _neuron()
    x = _mixed(neuron)
    before = neuron(x)
    other = how(neuron)
    assert _same(other(x), before)
    other.weights.zero_()
    assert not _same(other(x), before) and _same(neuron(x), before)
    neuron.gates.sub_(0.5)
    assert _same(neuron(x), _expected(neuron, x)[0])


def test_inference_mode(code: None) -> None:
    with torch.inference_mode():
        neuron = _neuron()
        x = _mixed(neuron)
        assert _same(neuron(x), _expected(neuron, x)[0])
        neuron.weights.add_(1.0)
        assert _same(neuron(x), _expected(neuron, x)[0])


def test_tables_that_are_no_rows_of_memory(code: None) -> None:
    neuron = _neuron()
    x = _mixed(neuron)
    before = neuron(x)
    for name in ("thresholds", "resets", "weights"):
        setattr(neuron, name, getattr(neuron, name).t().contiguous().t())
    neuron.gates = neuron.gates.repeat_interleave(2)[::2]
    assert not neuron.gates.is_contiguous() and _same(neuron(x), before)


# Types, transforms and tracers.


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype: torch.dtype) -> None:
    neuron = _neuron()
    x = _mixed(neuron).to(dtype)
    expected = neuron(x.float()).to(dtype)
    halved = copy.deepcopy(neuron).to(dtype)
    assert {t.dtype for t in halved.state_dict().values()} == {torch.float32}
    assert halved(x).dtype == dtype and _same(halved(x), expected)
    with torch.autocast("cpu", dtype=dtype):
        assert _same(neuron(x), expected)


def test_wider_values_keep_their_interval() -> None:
    neuron = _neuron()
    assert neuron.gates is not None
    # In float32 these would lie on the gates.
    above = torch.nextafter(neuron.gates.double(), torch.full((3,), 9.0, dtype=torch.float64))
    assert torch.equal(above.float(), neuron.gates)
    assert neuron.interval(above).tolist() == [1, 2, 3]
    assert neuron.interval(neuron.gates.double()).tolist() == [0, 1, 2]
    expected = neuron(above)
    assert torch.equal(expected, _expected(copy.deepcopy(neuron).double(), above)[0])
    functional.set_step_mode(neuron, "m")
    currents = torch.zeros(neuron.steps, 3, dtype=torch.float64)
    currents[0] = above
    total = neuron.offset.double()[1:]
    assert torch.allclose(neuron(currents).double().sum(0) + total, expected, atol=1e-6)


def test_compiled_by_torch() -> None:
    neuron = _neuron()
    x = _mixed(neuron)
    compiled = torch.compile(neuron, backend="eager", fullgraph=True)
    assert _same(compiled(x), neuron(x))


def test_exported_and_traced() -> None:
    neuron = _neuron()
    x = _mixed(neuron)
    traced = torch.jit.trace(neuron, torch.randn(60))
    assert _same(traced(x), neuron(x))
    batch = torch.export.Dim("batch", min=2)
    exported = torch.export.export(neuron, (torch.randn(60),), dynamic_shapes=[{0: batch}])
    assert _same(exported.module()(x), neuron(x))


def test_transforms_of_torch_func() -> None:
    neuron = _neuron()
    x = 2 * torch.randn(60, generator=torch.Generator().manual_seed(0))
    rows = x.view(6, 10)
    assert torch.equal(torch.func.vmap(neuron)(rows), neuron(rows))
    given = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(neuron(given).sum(), given)
    assert float(slope.abs().mean()) > 0.1
    along = torch.randn(60, generator=torch.Generator().manual_seed(1))
    value, tangent = torch.func.jvp(neuron, (x,), (along,))
    assert torch.equal(value, neuron(x))
    assert torch.allclose(tangent, slope * along, atol=1e-5)
    assert torch.allclose(torch.func.grad(lambda v: neuron(v).sum())(x), slope, atol=1e-6)
    assert torch.allclose(torch.func.vmap(torch.func.grad(neuron))(x), slope, atol=1e-6)
    with pytest.raises(InputError, match="can't be counted"):
        plan = NeuronPlan(count=lambda spikes: None)
        torch.func.vmap(lambda row: neuron(row, plan=plan))(rows)


def test_meta() -> None:
    counted: list[int] = []
    found = _neuron().to("meta")(
        torch.empty(3, 4, device="meta"), plan=NeuronPlan(count=counted.append)
    )
    assert found.shape == (3, 4) and found.is_meta and counted == [0]


# What it is made of.


def test_sizes_and_text() -> None:
    neuron, plain = _neuron(4, 6), FewSpikesNeuron([1.0], [1.0], [1.0])
    assert (neuron.steps, neuron.intervals, neuron.latency) == (6, 4, 7)
    assert (plain.steps, plain.intervals, plain.latency) == (1, 1, 1)
    assert plain.gates is None and "gates" not in repr(plain)
    assert "steps=6, gates=3" in repr(neuron)
    assert set(neuron.state_dict()) == set(_TABLES)
    assert "gates" not in plain.state_dict()
    assert FewSpikesNeuron([1.0], [1.0], [1.0], gates=[]).intervals == 1


def test_spikes_are_those_of_the_own_table() -> None:
    neuron = _neuron()
    x = _mixed(neuron).nan_to_num(0.0)
    spikes, index = neuron.spikes(x), neuron.interval(x)
    assert spikes.shape == (6, *x.shape) and spikes.dtype == torch.bool
    total = neuron.offset[index]
    for t in range(neuron.steps):
        total = total + neuron.weights[index, t] * spikes[t]
    assert torch.allclose(total, neuron(x), atol=1e-5)
    counted = int(spikes.sum()) + int((neuron.offset[index] != 0).sum())
    assert _run(neuron, x)[1] == counted
    assert FewSpikesNeuron([1.0], [1.0], [1.0]).interval(x).sum() == 0


def test_step_mode_m() -> None:
    neuron = _neuron()
    x = _mixed(neuron).nan_to_num(0.0).view(30, 50)
    single = neuron(x)
    functional.set_step_mode(neuron, "m")
    currents = torch.zeros(neuron.steps, *x.shape)
    currents[0] = x
    weighted = neuron(currents)
    total = 0.0 + neuron.offset[neuron.interval(x)]
    for row in weighted:
        total = total + row
    assert torch.equal(total, single)
    assert torch.equal(neuron(x, plan=WHOLE), single)
    with pytest.raises(InputError, match="step mode m takes"):
        neuron(x)


def test_means_of_missing_steps() -> None:
    neuron = _neuron(4, 5)
    g = torch.Generator().manual_seed(0)
    x, share = 2 * torch.randn(4000, generator=g), torch.rand(4000, generator=g)
    # An interval that nothing falls into has means of 0.
    assert neuron.gates is not None
    share[neuron.interval(x) == 2] = 0.0
    share = share / share.sum()
    neuron.set_missing_means(x, share)
    assert neuron.missing_mean.shape == (4, 5) and not neuron.missing_mean[2].any()
    whole = float(share @ neuron(x))
    for t in range(1, 5):
        plan = NeuronPlan(t, corrected=True)
        assert float(share @ neuron(x, plan=plan)) == pytest.approx(whole, abs=1e-4)
        # Interval by interval, too.
        for r in range(4):
            inside = neuron.interval(x) == r
            gap = neuron(x, plan=plan) - neuron(x)
            assert float(share[inside] @ gap[inside]) == pytest.approx(0.0, abs=1e-4)


_WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "one row": ({"thresholds": torch.zeros(6)}, "3 gates need T, h and d of shape"),
    "other K": ({"resets": torch.zeros(4, 5)}, "3 gates need T, h and d of shape"),
    "too few rows": ({"gates": [1.0, 2.0, 3.0, 4.0]}, "4 gates need T, h and d of shape"),
    "one constant": ({"offset": 0.5}, "4 constants y0"),
    "constants of steps": ({"offset": torch.zeros(4, 6)}, "4 constants y0"),
    "falling gates": ({"gates": [0.0, -1.0, 1.0]}, "one row that never falls"),
    "gates in rows": ({"gates": torch.tensor([[0.0, 1.0, 2.0]])}, "one row that never falls"),
    "infinite": ({"gates": [0.0, 1.0, float("inf")]}, "gates of a few-spikes neuron must be"),
    "NaN": ({"offset": [0.0, 1.0, float("nan"), 1.0]}, "offset of a few-spikes neuron must be"),
    "a number": ({"gates": torch.tensor(0.5)}, "1 gates need T, h and d"),
    "no gates": ({"gates": None}, "one length K >= 1"),
}


@pytest.mark.parametrize("wrong", _WRONG)
def test_what_the_constructor_refuses(wrong: str) -> None:
    neuron = _neuron()
    given = {name: getattr(neuron, name) for name in _TABLES if name != "missing_mean"}
    changed, message = _WRONG[wrong]
    with pytest.raises(InputError, match=message):
        FewSpikesNeuron(**given | changed)


@pytest.mark.parametrize("name", ["thresholds", "resets", "weights", "offset", "gates"])
def test_tensors_of_other_lengths_are_refused(name: str) -> None:
    x = torch.randn(30)
    wrong = [torch.ones(2), torch.ones(5, 6), torch.ones(4, 5), torch.ones(0)]
    for value in wrong:
        neuron = _neuron()
        setattr(neuron, name, value)
        with pytest.raises(InputError, match="one length K") as raised:
            neuron(x)
        assert "\n" not in str(raised.value)
    neuron = _neuron()
    neuron.missing_mean = torch.zeros(4, 5)
    with pytest.raises(InputError, match="one length K"):
        neuron(x, plan=NeuronPlan(2, corrected=True))


# Learning.


def _apart() -> FewSpikesNeuron:
    """Three tables whose outputs lie far apart."""
    T = torch.tensor([[-2.0, -1.0], [0.3, 0.5], [1.4, 1.8]])
    h = torch.tensor([[0.5, 0.25], [0.4, 0.2], [0.5, 0.3]])
    d = torch.tensor([[0.1, 0.05], [0.1, -0.05], [0.2, 0.1]])
    return FewSpikesNeuron(T, h, d, [0.0, 3.0, -1.0], [-0.3, 0.9], dtype=torch.float64)


def test_gradients_of_gates_are_those_of_the_mean_output() -> None:
    x = torch.linspace(-5, 5, 400_001, dtype=torch.float64)
    density = torch.exp(-0.5 * (x - 0.2) ** 2)
    density = density / density.sum()
    neuron = _apart().unfreeze()
    (density @ neuron(x)).backward()
    assert neuron.gates is not None and neuron.gates.grad is not None
    for r in range(2):
        means = []
        for move in (0.02, -0.02):
            moved = _apart()
            moved.gates[r] += move
            means.append(float(density @ moved(x)))
        slope = (means[0] - means[1]) / 0.04
        assert abs(slope) > 0.1
        assert float(neuron.gates.grad[r]) == pytest.approx(slope, rel=0.1)


def test_training_moves_a_gate_to_the_jump() -> None:
    never = torch.full((2, 1), 99.0)
    neuron = FewSpikesNeuron(never, 0.2 + 0 * never, 0 * never, [0.0, 1.0], [0.3]).unfreeze()
    x = torch.linspace(-2, 2, 4001)
    target = (x > 0.5).float()
    optimiser = torch.optim.SGD([neuron.gates], 0.1)
    losses = []
    for _ in range(30):
        optimiser.zero_grad()
        loss = (neuron(x) - target).square().mean()
        loss.backward()
        losses.append(loss.item())
        optimiser.step()
    assert losses[-1] < 0.1 * losses[0]
    assert neuron.gates.item() == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize("moved", [[0.5, 0.5, 0.5], [0.5, -0.2, 1.0], [1.0, 0.5, -0.2]])
def test_gates_that_training_moved_past_each_other(moved: list[float], code: None) -> None:
    neuron = _neuron(4, 3)
    x = _mixed(neuron)
    learned, sorted_ = (copy.deepcopy(neuron).unfreeze() for _ in range(2))
    with torch.no_grad():
        learned.gates.copy_(torch.tensor(moved))
        sorted_.gates.copy_(torch.tensor(moved).sort().values)
        assert _same(learned(x), _expected(sorted_, x)[0])
    known = x.nan_to_num(0.0, 5.0, -5.0)
    for one in (learned, sorted_):
        y = one(known)
        assert torch.equal(y.detach(), _expected(sorted_, known)[0])
        y.square().mean().backward()
        assert bool(one.gates.grad.isfinite().all())
    order = torch.tensor(moved).argsort()
    assert torch.equal(learned.gates.grad[order], sorted_.gates.grad)
    learned.offset.zero_()
    assert torch.equal(learned.to_table()(known), learned(known))


def test_what_unfreezing_makes_of_it() -> None:
    neuron = _neuron().unfreeze()
    learned = {"thresholds", "resets", "weights", "gates"}
    assert {name for name, _ in neuron.named_parameters()} == learned
    assert set(neuron.state_dict()) == set(_TABLES)
    x = _mixed(neuron).nan_to_num(0.0, 5.0, -5.0).detach().requires_grad_()
    neuron(x).square().sum().backward()
    for tensor in (x, *neuron.parameters()):
        assert tensor.grad is not None and bool(tensor.grad.isfinite().all())
        assert bool(tensor.grad.any())
    assert FewSpikesNeuron([1.0], [1.0], [1.0]).unfreeze().gates is None


def test_a_gates_triangle_ends_before_the_next_gate() -> None:
    gates = torch.tensor([0.0, 0.1, 3.0])
    resets = torch.tensor([[4.0, 9.0], [1.0, 9.0], [2.0, 9.0], [0.5, 9.0]])
    # Half the last reset that matters of either side, or the distance.
    found = surrogate.gate_widths(gates, resets)
    assert torch.allclose(found, torch.tensor([0.1, 0.1, 1.0]))


# SpikingJelly.


@pytest.mark.parametrize("intervals", [2, 4, 9])
def test_equals_spikingjelly_bit_for_bit(intervals: int) -> None:
    neuron = _neuron(intervals, 5)
    neuron.offset.zero_()
    node = neuron.to_table()
    assert isinstance(node, sj_neuron.HGNode) and isinstance(node, GatedTable)
    x = _mixed(neuron).nan_to_num(0.0)
    x = torch.cat([x, node.region_theta.flatten(), node.gate_thresholds])
    assert torch.equal(node(x), neuron(x))
    for module in (node, neuron):
        functional.set_step_mode(module, "m")
    currents = torch.zeros(5, *x.shape)
    currents[0] = x
    assert torch.equal(node(currents), neuron(currents))


def test_tables_of_spikingjelly_come_back() -> None:
    neuron = _neuron()
    node = neuron.to_table()
    tables, gates = node
    assert len(tables) == 4 and all(isinstance(t, sj_neuron.FewSpikeTable) for t in tables)
    assert torch.equal(gates, neuron.gates)
    for table in (node, sj_neuron.HGNode(tables, gates)):
        back = FewSpikesNeuron.from_table(table, neuron.offset)
        for name in ("thresholds", "resets", "weights", "offset", "gates"):
            assert torch.equal(getattr(back, name), getattr(neuron, name)), name
    assert FewSpikesNeuron.from_table(node).offset.tolist() == [0.0] * 4
    # The node keeps numbers of its own.
    neuron.gates.zero_()
    assert not torch.equal(node.gate_thresholds, neuron.gates)
    learned = _neuron().unfreeze()
    assert not any(t.requires_grad for t in nn.Module.state_dict(learned.to_table()).values())
