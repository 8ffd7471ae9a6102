"""How often each value sent an event: every path tells what the definition says."""

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
import torch.autograd.forward_ad as forward_ad
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from convert.errors import InputError
from convert.neuron import fused as kernel
from convert.neuron import llvm_code as machine
from convert.neuron.few_spikes import WHOLE, FewSpikesNeuron, NeuronPlan
from convert.neuron.llvm_program import Registers


def _neuron(intervals: int, steps: int = 6, dtype: torch.dtype = torch.float32) -> FewSpikesNeuron:
    """Random numbers; with gates, some constants are zeros of either sign."""
    g = torch.Generator().manual_seed(100 * intervals + steps)
    T, h, d = (torch.randn(intervals, steps, generator=g) for _ in range(3))
    offset = torch.randn(intervals, generator=g)
    if intervals == 1:
        neuron = FewSpikesNeuron(T[0], h[0].abs(), d[0], offset[0], dtype=dtype)
    else:
        # The outer ones, which NaN and infinities fall to, are events.
        offset[1:-1:2], offset[2:-1:2] = 0.0, -0.0
        gates = torch.randn(intervals - 1, generator=g).sort()[0]
        neuron = FewSpikesNeuron(T, h.abs(), d, offset, gates, dtype=dtype)
    neuron.missing_mean.normal_(generator=g)
    return neuron


def _awkward(neuron: FewSpikesNeuron) -> Tensor:
    """Values at every gate and threshold and one float beside them, also after resets."""
    T, h = (t.reshape(neuron.intervals, -1) for t in (neuron.thresholds, neuron.resets))
    gates = T.new_zeros(0) if neuron.gates is None else neuron.gates
    at = torch.cat([gates, T.flatten(), (T[:, 1:] + h[:, :-1]).flatten()])
    up, down = (torch.nextafter(at, torch.full_like(at, sign * torch.inf)) for sign in (1, -1))
    tiny, inf = torch.finfo(at.dtype).tiny, float("inf")
    odd = torch.tensor([float("nan"), inf, -inf, -0.0, 0.0, tiny / 8, -tiny / 8], dtype=at.dtype)
    return torch.cat([at, up, down, odd])


def _mixed(neuron: FewSpikesNeuron, size: int = 1500) -> Tensor:
    """Awkward values among ordinary ones ``[size]``."""
    g = torch.Generator().manual_seed(1)
    x = 2 * torch.randn(size, generator=g, dtype=neuron.thresholds.dtype)
    odd = _awkward(neuron).flip(0)[:size]
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


def _expected(neuron: FewSpikesNeuron, x: Tensor, plan: NeuronPlan = WHOLE) -> Tensor:
    """Spikes of the steps that are done, and the constants that gates choose, int64."""
    steps = neuron.steps if plan.steps is None else min(plan.steps, neuron.steps)
    events = neuron.spikes(x)[:steps].sum(0)
    if neuron.gates is None:
        return events
    constants = neuron.offset
    if plan.corrected and steps < neuron.steps:
        constants = constants + neuron.missing_mean[:, steps]
    return events + ((constants[neuron.interval(x)] != 0) & ~x.isnan())


def _told(
    neuron: FewSpikesNeuron, x: Tensor, addend: Tensor | None = None, plan: NeuronPlan = WHOLE
) -> tuple[Tensor, Tensor]:
    """The tally of one call, which its count agrees with, and the output."""
    tallies: list[Tensor] = []
    counts: list[int] = []
    y = neuron.decode(x, addend, plan=replace(plan, count=counts.append, tally=tallies.append))
    (tally,), (count,) = tallies, counts
    assert tally.dtype == torch.uint8 and tally.shape == x.shape
    assert not tally.requires_grad and int(tally.sum()) == count
    return tally, y


def _apart(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors lie in memory of their own."""
    return a.untyped_storage().data_ptr() != b.untyped_storage().data_ptr() or not a.numel()


# How a neuron may be run: machine code, blocks in torch, and the definition.
def _code(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(kernel, "WORTH_COMPILING", 0)
    for name in ("in_blocks", "gated_in_blocks"):
        patch.setattr(kernel, name, _never)


def _blocks(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(kernel, "WORTH_COMPILING", 10**18)
    patch.setattr(kernel, "_ready", set())
    patch.setattr(kernel.on_cpu, "run", _never)
    # Several blocks, and a last one that isn't whole.
    patch.setattr(kernel, "_TORCH_BLOCK", 700)


def _definition(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(kernel, "usable", lambda _: False)
    patch.setattr(kernel, "run", _never)


def _never(*_: object, **__: object) -> None:
    raise AssertionError("another path was taken")


Path = Callable[[pytest.MonkeyPatch], None]
_PATHS: dict[str, Path] = {"code": _code, "blocks": _blocks, "definition": _definition}
_TYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
_INTERVALS = pytest.mark.parametrize("intervals", [1, 4, 17])


@pytest.fixture(params=_PATHS)
def path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    _PATHS[request.param](monkeypatch)


@pytest.fixture(params=[1, 2])
def threads(request: pytest.FixtureRequest) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("path")
@_TYPES
@pytest.mark.parametrize("intervals", [1, 2, 4, 8, 9, 17])
def test_any_number_of_intervals_and_steps(intervals: int, dtype: torch.dtype) -> None:
    for steps in (1, 2, 3, 8, 13):
        neuron = _neuron(intervals, steps, dtype)
        x = _mixed(neuron)
        tally, y = _told(neuron, x)
        assert torch.equal(tally.long(), _expected(neuron, x))
        assert torch.equal(y.nan_to_num(7), neuron(x).nan_to_num(7))


@pytest.mark.usefixtures("path")
@_INTERVALS
@pytest.mark.parametrize("step", [1, 4, 6, 99])
@pytest.mark.parametrize("corrected", [True, False])
def test_a_cut_readout_tells_the_steps_it_does(intervals: int, step: int, corrected: bool) -> None:
    neuron = _neuron(intervals)
    plan, x = NeuronPlan(step, corrected), _mixed(neuron)
    assert torch.equal(_told(neuron, x, plan=plan)[0].long(), _expected(neuron, x, plan))
    learning = _told(neuron, x.clone().requires_grad_(), plan=plan)[0]
    assert torch.equal(learning.long(), _expected(neuron, x, plan))


@pytest.mark.usefixtures("path")
@_TYPES
@_INTERVALS
@pytest.mark.parametrize("in_place", [True, False])
def test_layouts(intervals: int, dtype: torch.dtype, in_place: bool) -> None:
    neuron = _neuron(intervals, 5, dtype)
    for x in _layouts(neuron):
        expected, given = _expected(neuron, x), x.clone()
        tally, y = _told(neuron, given, plan=NeuronPlan(in_place=in_place))
        assert torch.equal(tally.long(), expected)
        assert _apart(tally, given) and _apart(tally, y)
        assert tally.stride() == y.stride()
        if x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last):
            assert tally.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.usefixtures("path")
@_TYPES
@_INTERVALS
@pytest.mark.parametrize("in_place", [True, False])
def test_of_a_sum(intervals: int, dtype: torch.dtype, in_place: bool) -> None:
    neuron = _neuron(intervals, 3, dtype)
    for x in _layouts(neuron):
        like = torch.randn(x.shape, generator=torch.Generator().manual_seed(3), dtype=dtype)
        for z in (torch.empty_like(x).copy_(like), like.clone(), x):
            expected, given = _expected(neuron, x + z), x.clone()
            plan = NeuronPlan(in_place=in_place)
            tally, _ = _told(neuron, given, given if z is x else z, plan)
            assert torch.equal(tally.long(), expected)


@pytest.mark.usefixtures("path", "threads")
@pytest.mark.parametrize("intervals", [1, 4])
def test_odd_sizes(intervals: int) -> None:
    """Around one group of machine code, and where a second thread pays."""
    neuron = _neuron(intervals, 3)
    group = machine.compiled(False, True, False, intervals, 8).group
    around = [k * group + r for k in (1, 2, 5) for r in (-1, 0, 1)]
    for size in (0, 1, 2, *around, 65_535, 65_537, 70_001):
        x = _mixed(neuron, size)
        assert torch.equal(_told(neuron, x)[0].long(), _expected(neuron, x)), size


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("intervals", [1, 4])
def test_threads_of_our_own_where_torch_has_none(
    intervals: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernel.on_cpu.openmp, "loaded", lambda: None)
    _code(monkeypatch)
    neuron = _neuron(intervals)
    x = _mixed(neuron, 200_001)
    assert torch.equal(_told(neuron, x)[0].long(), _expected(neuron, x))


@pytest.mark.parametrize(
    "registers",
    [
        Registers(256, 4, False, "avx2"),
        Registers(128, 4, False),
        Registers(256, 4, False),
        Registers(512, 2, True),
    ],
)
@_TYPES
def test_registers_of_other_machines(
    registers: Registers, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "_registers", lambda _: registers)
    monkeypatch.setattr(kernel, "compiled", cache(machine.compiled.__wrapped__))
    _code(monkeypatch)
    for intervals in (1, 2, 9):
        neuron = _neuron(intervals, 3, dtype)
        x, z = _mixed(neuron, 1111), torch.randn(1111, dtype=dtype)
        assert torch.equal(_told(neuron, x)[0].long(), _expected(neuron, x))
        assert torch.equal(_told(neuron, x, z)[0].long(), _expected(neuron, x + z))


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("steps", [254, 255, 300])
@pytest.mark.parametrize("gated", [False, True])
def test_more_events_than_a_byte_holds(steps: int, gated: bool) -> None:
    """Every step fires, and so does a constant."""
    row = torch.full((steps,), -1.0)
    numbers = (row, 0 * row, 0 * row)
    neuron = FewSpikesNeuron(*numbers, 1.0)
    if gated:
        neuron = FewSpikesNeuron(*(t.expand(2, -1) for t in numbers), [0.0, 1.0], [0.5])
    x = torch.tensor([-2.0, 0.0, 1.0, float("nan")]).repeat(40)
    tallies: list[Tensor] = []
    neuron(x, plan=NeuronPlan(tally=tallies.append))
    assert tallies[0].dtype == (torch.uint8 if steps == 254 else torch.int32)
    assert tallies[0].tolist() == [0, steps, steps + gated, 0] * 40
    neuron(x, plan=NeuronPlan(3, tally=tallies.append))
    assert tallies[1].dtype == tallies[0].dtype
    assert tallies[1].tolist() == [0, 3, 3 + gated, 0] * 40


@_TYPES
@_INTERVALS
def test_learning(intervals: int, dtype: torch.dtype) -> None:
    neuron = _neuron(intervals, 4, dtype)
    x = _mixed(neuron)
    expected = _expected(neuron, x)
    tally, y = _told(neuron, x.clone().requires_grad_())
    assert y.requires_grad and torch.equal(tally.long(), expected)
    tally, y = _told(neuron.unfreeze(), x)
    assert y.requires_grad and torch.equal(tally.long(), expected)


@pytest.mark.parametrize("intervals", [1, 4])
def test_other_types(intervals: int) -> None:
    neuron = _neuron(intervals)
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        x = _mixed(neuron).to(dtype)
        assert torch.equal(_told(neuron, x)[0].long(), _expected(neuron, x))


@pytest.mark.parametrize("intervals", [1, 4])
def test_is_told_once_and_counts_by_itself(intervals: int) -> None:
    neuron = _neuron(intervals)
    x = _mixed(neuron)
    expected = _expected(neuron, x)
    for given in (x, x.clone().requires_grad_()):
        counts: list[int] = []
        neuron(given, plan=NeuronPlan(count=counts.append))
        tallies: list[Tensor] = []
        neuron(given, plan=NeuronPlan(tally=tallies.append))
        assert counts == [int(expected.sum())] and len(tallies) == 1
        kept = tallies[0].clone()
        neuron(-given, plan=NeuronPlan(tally=tallies.append))
        # What was told stays as it is.
        assert torch.equal(tallies[0], kept) and torch.equal(kept.long(), expected)
        assert not torch.equal(tallies[1], kept)


def test_neurons_that_threads_share(monkeypatch: pytest.MonkeyPatch) -> None:
    _code(monkeypatch)
    neuron = _neuron(4)
    wrong: list[int] = []

    def work(size: int) -> None:
        x = _mixed(neuron, size)
        expected = _expected(neuron, x)
        for _ in range(50):
            if not torch.equal(_told(neuron, x)[0].long(), expected):
                wrong.append(size)

    workers = [threading.Thread(target=work, args=(size,)) for size in (700, 1001, 5000)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert wrong == []


# Whoever follows the values.


def _follow() -> dict[str, Callable[[Callable[[Tensor], Tensor], Tensor], Any]]:
    def dual(f: Callable[[Tensor], Tensor], x: Tensor) -> None:
        with forward_ad.dual_level():
            f(forward_ad.make_dual(x, torch.ones_like(x)))

    return {
        "grad": lambda f, x: torch.func.grad(lambda v: f(v).sum())(x),
        "hessian": lambda f, x: torch.func.hessian(lambda v: f(v).sum())(x[:20]),
        "jvp": lambda f, x: torch.func.jvp(f, (x,), (x,)),
        "functionalize": lambda f, x: torch.func.functionalize(f)(x),
        "dual": dual,
        "compile": lambda f, x: torch.compile(f, backend="eager")(x),
    }


@pytest.mark.parametrize("how", _follow())
@pytest.mark.parametrize("intervals", [1, 4])
def test_transforms_tell_plain_values(how: str, intervals: int) -> None:
    torch.compiler.reset()
    neuron = _neuron(intervals, 3)
    x = _mixed(neuron, 200).nan_to_num(0.0, 5.0, -5.0)
    tallies: list[Tensor] = []
    plan = NeuronPlan(tally=tallies.append)
    _follow()[how](lambda v: neuron(v, plan=plan), x)
    for tally in tallies:
        assert not torch._C._functorch.is_functorch_wrapped_tensor(tally)
        assert torch.equal(tally.long(), _expected(neuron, x)[: len(tally)])
    assert len(tallies) == 1


@pytest.mark.parametrize("intervals", [1, 4])
def test_is_refused_where_values_are_unknown(intervals: int) -> None:
    neuron = _neuron(intervals, 3)
    x = _mixed(neuron, 60).nan_to_num(0.0)
    tallies: list[Tensor] = []
    plan = NeuronPlan(tally=tallies.append)

    def run(value: Tensor) -> Tensor:
        return neuron(value, plan=plan)

    for follow in (torch.func.vmap(run), torch.func.vmap(torch.func.grad(run)), make_fx(run)):
        with pytest.raises(InputError, match="leave count_spikes and tally_spikes out") as raised:
            follow(x)
        assert "\n" not in str(raised.value)
    assert tallies == []


def test_meta() -> None:
    tallies: list[Tensor] = []
    _neuron(4).to("meta")(torch.empty(3, 4, device="meta"), plan=NeuronPlan(tally=tallies.append))
    assert tallies[0].is_meta and tallies[0].shape == (3, 4) and tallies[0].dtype == torch.uint8
