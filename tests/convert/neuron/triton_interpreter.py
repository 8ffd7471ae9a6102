"""What the GPU's kernel gives, under Triton's interpreter on the CPU: `test_triton_kernel` runs it.

The interpreter must be chosen before Triton is imported, so this is a session of its own.
"""

import logging
import os
from collections.abc import Iterator
from dataclasses import replace
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from convert.errors import InputError
from convert.neuron import fused, on_gpu
from convert.neuron.few_spikes import WHOLE, FewSpikesNeuron, NeuronPlan

_BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}
# Types of the input and of the membrane potential.
_TYPES = [
    (torch.float32, torch.float32),
    (torch.float64, torch.float64),
    (torch.float16, torch.float32),
    (torch.bfloat16, torch.float32),
    (torch.float16, torch.float64),
    (torch.bfloat16, torch.float64),
    (torch.float32, torch.float64),
]


# A million values of each neuron, or fewer.
_ALL = bool(os.environ.get("FEWSPIKES_NEURONS"))


@pytest.fixture(autouse=True)
def kernel(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The module of the kernel, which takes tensors of the CPU here."""
    monkeypatch.setattr(on_gpu, "KINDS", {"cpu"})
    monkeypatch.setattr(on_gpu, "_without", set())
    on_gpu._warn_once.cache_clear()
    found = on_gpu._kernel()
    assert found is not None
    monkeypatch.setattr(found, "BLOCK", 1 << 16)
    yield found


def _neuron(intervals: int = 1, steps: int = 8, dtype: torch.dtype = torch.float32) -> Any:
    g = torch.Generator().manual_seed(10 * intervals + steps)
    shape = (steps,) if intervals == 1 else (intervals, steps)
    T, h, d = (torch.randn(shape, generator=g, dtype=torch.float64) for _ in range(3))
    offset: Any = -0.0
    gates = None
    if intervals > 1:
        offset = torch.randn(intervals, generator=g)
        offset[0], offset[-1] = 0.0, -0.0
        gates = torch.randn(intervals - 1, generator=g).sort()[0]
    # Weights of many magnitudes: a product that isn't rounded by itself would show.
    d = d * 10.0 ** torch.randint(-6, 3, shape, generator=g)
    neuron = FewSpikesNeuron(T, h.abs(), d, offset, gates, dtype=dtype)
    neuron.missing_mean.normal_(generator=g)
    return neuron


def _inputs(neuron: FewSpikesNeuron, dtype: torch.dtype, size: int) -> Tensor:
    """Values at every gate and threshold and one float beside them, odd ones, and ordinary ones."""
    v = neuron.thresholds.reshape(-1, neuron.steps)
    at = [v.flatten(), (v[:, 1:] + neuron.resets.view_as(v)[:, :-1]).flatten()]
    if neuron.gates is not None:
        at.append(neuron.gates)
    exact = torch.cat(at).to(dtype)
    up, down = (torch.nextafter(exact, torch.full_like(exact, s * torch.inf)) for s in (1, -1))
    tiny, inf, nan = torch.finfo(dtype).tiny, torch.inf, torch.nan
    odd = torch.tensor([nan, inf, -inf, -0.0, 0.0, tiny / 8, -tiny / 8, tiny], dtype=dtype)
    x = 2 * torch.randn(size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    x = x.to(dtype)
    awkward = torch.cat([odd, -exact, exact, up, down])[:size]
    places = torch.randperm(size, generator=torch.Generator().manual_seed(2))[: len(awkward)]
    x[places] = awkward
    return x


def _run(
    neuron: FewSpikesNeuron, x: Tensor, addend: Tensor | None = None, plan: NeuronPlan = WHOLE
) -> tuple[Tensor, list[int], list[Tensor]]:
    """Output, events told and tallies told."""
    counted: list[Any] = []
    tallies: list[Tensor] = []
    plan = replace(plan, count=counted.append, tally=tallies.append)
    y = neuron.decode(x, addend, plan=plan)
    return y, [int(count) for count in counted], tallies


def _plain(
    neuron: FewSpikesNeuron,
    x: Tensor,
    addend: Tensor | None = None,
    plan: NeuronPlan = WHOLE,
) -> tuple[Tensor, list[int], list[Tensor]]:
    """The same by the loop over steps."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fused, "usable", lambda _: False)
        return _run(neuron, x.clone(), None if addend is None else addend.clone(), plan)


def _same(found: Tensor, expected: Tensor) -> bool:
    """Whether two tensors have the same bits, and NaN in the same places."""
    nan, kind = expected.isnan(), _BITS[expected.element_size()]
    bits = [t.contiguous().view(kind).masked_fill(nan, 0) for t in (found, expected)]
    return (
        found.dtype == expected.dtype
        and torch.equal(found.isnan(), nan)
        and torch.equal(bits[0], bits[1])
    )


def _check(
    neuron: FewSpikesNeuron,
    x: Tensor,
    addend: Tensor | None = None,
    plan: NeuronPlan = WHOLE,
) -> None:
    y, count, tallies = _plain(neuron, x, addend, plan)
    given = x.clone() if x.is_contiguous() else x
    found = _run(neuron, given, addend, plan)
    assert _same(found[0], y)
    assert found[1] == count and len(count) == 1
    assert torch.equal(found[2][0], tallies[0]) and found[2][0].dtype == tallies[0].dtype
    # Without anybody who counts there is another kernel.
    quiet = neuron.decode(x.clone(), None if addend is None else addend.clone(), plan=plan)
    assert _same(quiet, y)


@pytest.fixture
def launched(kernel: ModuleType, monkeypatch: pytest.MonkeyPatch) -> list[torch.dtype]:
    """The types of the values that the kernel was started for."""
    started: list[torch.dtype] = []
    launch = kernel.launch

    def noted(x: Tensor, *others: Any) -> None:
        started.append(x.dtype)
        launch(x, *others)

    monkeypatch.setattr(kernel, "launch", noted)
    return started


@pytest.mark.parametrize("types", _TYPES, ids=lambda types: "-".join(str(t)[6:] for t in types))
@pytest.mark.parametrize("intervals", [1, 4])
def test_many_values(
    types: tuple[torch.dtype, torch.dtype], intervals: int, launched: list[torch.dtype]
) -> None:
    dtype, state = types
    neuron = _neuron(intervals, dtype=state)
    # Those that are rarer in use have fewer.
    usual = dtype == state or state == torch.float32
    x = _inputs(neuron, dtype, 1_000_000 if usual and _ALL else 100_000)
    y, count, tallies = _plain(neuron, x)
    found = _run(neuron, x)
    assert _same(found[0], y) and found[1] == count
    assert torch.equal(found[2][0], tallies[0])
    assert launched == [dtype]


@pytest.mark.parametrize("types", _TYPES, ids=lambda types: "-".join(str(t)[6:] for t in types))
@pytest.mark.parametrize("intervals", [1, 3])
def test_a_sum_in_the_same_pass(
    types: tuple[torch.dtype, torch.dtype],
    intervals: int,
    kernel: ModuleType,
    launched: list[torch.dtype],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(kernel, "BLOCK", 1 << 13)
    dtype, state = types
    neuron = _neuron(intervals, dtype=state)
    x = _inputs(neuron, dtype, 10_000)
    z = torch.randn(10_000, generator=torch.Generator().manual_seed(3)).to(dtype)
    z[:2] = torch.tensor([torch.inf, -torch.inf])
    _check(neuron, x, z)
    _check(neuron, x, -x)
    assert len(launched) == 4
    # The addend stays, and so does the input unless its memory may be taken.
    before = x.clone(), z.clone()
    neuron.decode(x, z)
    assert _same(x, before[0]) and _same(z, before[1])
    expected = neuron.decode(x, z)
    taken = x.clone()
    found = neuron.decode(taken, z, plan=NeuronPlan(in_place=True))
    assert _same(found, expected) and found.data_ptr() == taken.data_ptr()


@pytest.mark.parametrize("intervals", [1, 4])
@pytest.mark.parametrize("step", [1, 5, None])
@pytest.mark.parametrize("corrected", [True, False])
def test_cut_readouts(intervals: int, step: int | None, corrected: bool) -> None:
    neuron = _neuron(intervals)
    _check(neuron, _inputs(neuron, torch.float32, 5000), plan=NeuronPlan(step, corrected))


def _layouts(neuron: FewSpikesNeuron, dtype: torch.dtype) -> dict[str, Tensor]:
    x = _inputs(neuron, dtype, 3 * 8 * 7 * 9).view(3, 8, 7, 9)
    return {
        "contiguous": x,
        "channels last": x.to(memory_format=torch.channels_last),
        "transposed": x.transpose(1, 2),
        "strided": x[:, ::2],
        "one value": x[0, 0, 0, 0],
        "empty": x[:0],
        "expanded": x[:1, :1].expand(3, 4, 7, 9),
        "offset": x.view(-1)[1:],
    }


@pytest.mark.parametrize(("block", "dtype"), [(512, torch.float32), (1024, torch.bfloat16)])
@pytest.mark.parametrize("intervals", [1, 4])
def test_layouts_and_sizes_of_no_whole_blocks(
    block: int,
    dtype: torch.dtype,
    intervals: int,
    kernel: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(kernel, "BLOCK", block)
    neuron = _neuron(intervals, 3)
    for name, x in _layouts(neuron, dtype).items():
        like = torch.randn(x.shape, generator=torch.Generator().manual_seed(4)).to(dtype)
        _check(neuron, x)
        _check(neuron, x, torch.empty_like(x).copy_(like))
        _check(neuron, x, like)
        y = neuron(x)
        if name in ("contiguous", "channels last"):
            assert y.stride() == x.stride()
    for size in (1, 511, 1025):
        _check(neuron, _inputs(neuron, dtype, size))


def test_no_copy_where_memory_is_in_order(launched: list[torch.dtype]) -> None:
    neuron = _neuron()
    for name, x in _layouts(neuron, torch.float16).items():
        y = neuron.decode(x, plan=NeuronPlan(in_place=True))
        taken = y.data_ptr() == x.data_ptr() and y.stride() == x.stride()
        assert taken == (name in ("contiguous", "channels last", "one value", "empty", "offset"))
    assert torch.float32 not in launched


@pytest.mark.parametrize("steps", [1, 2, 16, 300])
def test_any_number_of_steps(
    steps: int, kernel: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The interpreter works through a whole block, whatever the number of values.
    monkeypatch.setattr(kernel, "BLOCK", 128)
    for intervals in (1, 9):
        neuron = _neuron(intervals, steps)
        _check(neuron, _inputs(neuron, torch.float32, 100))


def test_gates_that_are_alike_or_out_of_order() -> None:
    neuron = _neuron(4, 3)
    for gates in ([0.5, 0.5, 0.5], [1.0, 0.5, -0.2]):
        neuron.gates.copy_(torch.tensor(gates))
        _check(neuron, _inputs(neuron, torch.float32, 2000))


def test_numbers_that_are_views_of_others() -> None:
    neuron = _neuron(4)
    for name in ("thresholds", "resets", "weights", "gates"):
        setattr(neuron, name, getattr(neuron, name).repeat_interleave(2, -1)[..., ::2])
    _check(neuron, _inputs(neuron, torch.float32, 2000))


def test_numbers_that_change_are_read_anew() -> None:
    neuron = _neuron()
    x = _inputs(neuron, torch.float32, 2000)
    before = neuron(x)
    neuron.thresholds.data.add_(0.5)
    assert not _same(neuron(x), before)
    _check(neuron, x)


class _Reads(TorchFunctionMode):
    """Notes what would wait for a GPU."""

    NAMES = ("item", "__bool__", "__int__", "__float__", "__index__", "tolist", "cpu", "numpy")

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        if name in self.NAMES or "nonzero" in name or "unique" in name:
            self.found.append(name)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("intervals", [1, 4])
def test_nothing_waits_for_the_gpu(
    intervals: int, kernel: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    neuron = _neuron(intervals)
    x = _inputs(neuron, torch.float16, 3000)
    told: list[Any] = []
    plan = NeuronPlan(3, True, told.append, tally=told.append)
    # Triton's interpreter reads memory, the kernel on a GPU doesn't.
    monkeypatch.setattr(kernel, "launch", lambda *_: None)
    reads = _Reads()
    with reads:
        neuron.decode(x, x, plan=plan)
        assert reads.found == []
        # The mode sees what it should.
        bool(x[0] > 0)
    assert reads.found == ["__bool__"]
    count, tally = told
    assert count.dtype == torch.int64 and count.dim() == 0
    assert tally.dtype == torch.uint8 and tally.shape == x.shape


def test_numbers_elsewhere_are_refused() -> None:
    with pytest.raises(InputError, match="parameters are on meta"):
        _neuron().to("meta")(torch.randn(100))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("in_place", [True, False])
def test_a_kernel_that_cannot_be_made_is_no_error(
    dtype: torch.dtype,
    in_place: bool,
    kernel: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    tried: list[int] = []

    def broken(*_: Any) -> None:
        tried.append(1)
        raise RuntimeError("no compiler\nand more")

    for intervals in (1, 4):
        tried.clear()
        monkeypatch.setattr(kernel, "launch", broken)
        monkeypatch.setattr(on_gpu, "_without", set())
        on_gpu._warn_once.cache_clear()
        caplog.clear()
        neuron = _neuron(intervals)
        x = _inputs(neuron, dtype, 500)
        z = torch.randn(500, generator=torch.Generator().manual_seed(3)).to(dtype)
        plan = NeuronPlan(in_place=in_place)
        for addend in (z, None):
            expected = _plain(neuron, x, addend)
            with caplog.at_level(logging.WARNING):
                found = _run(neuron, x.clone(), addend, plan)
            assert _same(found[0], expected[0]) and found[1] == expected[1]
            assert torch.equal(found[2][0], expected[2][0])
        assert tried == [1]
        assert [record.getMessage() for record in caplog.records] == [
            "no kernel for the GPU, time steps run one by one: no compiler"
        ]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_gradients_and_tracers_see_the_steps(
    dtype: torch.dtype, launched: list[torch.dtype]
) -> None:
    neuron = _neuron(1, 3)
    x = _inputs(neuron, dtype, 200).nan_to_num(0.0, 5.0, -5.0)
    expected = neuron(x)
    launched.clear()
    given = x.clone().requires_grad_()
    y = neuron(given)
    y.sum().backward()
    assert given.grad is not None and torch.equal(y.detach(), expected)
    exported = torch.export.export(neuron, (x,)).module()
    assert torch.equal(exported(x), expected)
    assert torch.equal(torch.func.vmap(neuron)(x.view(2, 100)).flatten(), expected)
    assert launched == []
    # A compiler calls the kernel.
    assert torch.equal(torch.compile(neuron, backend="eager", fullgraph=True)(x), expected)
    assert launched == [dtype]
    assert neuron.to("meta")(x.to("meta")).dtype == dtype
