"""Whether a device gives every neuron's values bit by bit as the loop over steps on the CPU."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from convert.neuron import fused, on_gpu
from convert.neuron.few_spikes import FewSpikesNeuron, NeuronPlan

Tell = Callable[[dict[str, Any]], None]

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


def neuron(intervals: int, state: torch.dtype, steps: int = 8) -> FewSpikesNeuron:
    """A neuron with numbers of many magnitudes; with gates if there are several intervals."""
    g = torch.Generator().manual_seed(10 * intervals)
    shape = (steps,) if intervals == 1 else (intervals, steps)
    T, h, d = (torch.randn(shape, generator=g, dtype=torch.float64) for _ in range(3))
    d = d * 10.0 ** torch.randint(-6, 3, shape, generator=g)
    if intervals == 1:
        return FewSpikesNeuron(T, h.abs(), d, 0.3, dtype=state)
    gates = torch.randn(intervals - 1, generator=g).sort()[0]
    return FewSpikesNeuron(T, h.abs(), d, torch.randn(intervals, generator=g), gates, dtype=state)


def inputs(n: FewSpikesNeuron, dtype: torch.dtype, size: int) -> Tensor:
    """Values at every gate and threshold and one float beside them, odd ones, and ordinary ones."""
    v = n.thresholds.reshape(-1, n.steps)
    at = [v.flatten(), (v[:, 1:] + n.resets.view_as(v)[:, :-1]).flatten()]
    exact = torch.cat(at if n.gates is None else [*at, n.gates]).to(dtype)
    up, down = (torch.nextafter(exact, torch.full_like(exact, s * torch.inf)) for s in (1, -1))
    tiny, inf = torch.finfo(dtype).tiny, torch.inf
    odd = torch.tensor([torch.nan, inf, -inf, -0.0, 0.0, tiny / 8, -tiny / 8, tiny], dtype=dtype)
    x = 2 * torch.randn(size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    x = x.to(dtype)
    awkward = torch.cat([odd, -exact, exact, up, down])[:size]
    places = torch.randperm(size, generator=torch.Generator().manual_seed(2))[: len(awkward)]
    x[places] = awkward
    return x


def told(
    n: FewSpikesNeuron, x: Tensor, addend: Tensor | None = None, steps: int | None = None
) -> tuple[Tensor, int, Tensor]:
    """Output, events, and those of each value, on the CPU."""
    counts: list[Any] = []
    tallies: list[Tensor] = []
    with torch.no_grad():
        y = n.decode(x, addend, plan=NeuronPlan(steps, False, counts.append, tally=tallies.append))
    return y.cpu(), int(counts[0]), tallies[0].cpu()


@contextmanager
def plain_loop() -> Iterator[None]:
    """The definition, step by step, in torch."""
    before = fused.usable
    fused.usable = lambda _: False  # type: ignore[assignment]
    try:
        yield
    finally:
        fused.usable = before


def differing(found: Tensor, expected: Tensor) -> int:
    """Values whose bits differ; NaN is NaN."""
    kind, nan = _BITS[expected.element_size()], expected.isnan()
    bits = (found.contiguous().view(kind) != expected.contiguous().view(kind)) & ~nan
    return int(bits.sum() + (found.isnan() != nan).sum())


def wrong(
    n: FewSpikesNeuron, x: Tensor, device: torch.device, addend: Tensor | None = None,
    steps: int | None = None,
) -> int:  # fmt: skip
    """Values that a device gives otherwise than the loop on the CPU; so with their events."""
    with plain_loop():
        expected = told(n, x, addend, steps)
    there = FewSpikesNeuron(
        n.thresholds, n.resets, n.weights, n.offset, n.gates, dtype=n.thresholds.dtype
    ).to(device)
    moved = None if addend is None else addend.to(device)
    found = told(there, x.to(device), moved, steps)
    lost = int((found[2] != expected[2]).sum()) + (found[1] != expected[1])
    with torch.no_grad():
        quiet = there.decode(x.to(device), moved, plan=NeuronPlan(steps)).cpu()
    return differing(found[0], expected[0]) + differing(quiet, expected[0]) + lost


def equality(device: torch.device, values: int) -> Iterator[tuple[str, Callable[[], int]]]:
    """Every check by its name: a function that counts what is wrong."""
    for dtype, state in _TYPES:
        for intervals in (1, 4):
            n = neuron(intervals, state)
            x = inputs(n, dtype, values)
            z = torch.randn(values, generator=torch.Generator().manual_seed(3)).to(dtype)
            kind = "gated" if intervals > 1 else "plain"
            name = f"{kind}, {_short(dtype)} in {_short(state)}"
            yield name, lambda n=n, x=x: wrong(n, x, device)
            yield f"{name}, a sum", lambda n=n, x=x, z=z: wrong(n, x, device, z)
            yield f"{name}, three steps", lambda n=n, x=x: wrong(n, x, device, None, 3)
    n = neuron(4, torch.float32)
    odd = inputs(n, torch.float32, 3 * 8 * 7 * 9).view(3, 8, 7, 9)
    layouts = {
        "channels last": odd.to(memory_format=torch.channels_last),
        "transposed": odd.transpose(1, 2),
        "strided": odd[:, ::2],
        "expanded": odd[:1, :1].expand(3, 4, 7, 9),
        "memory at an odd place": odd.view(-1)[1:],
        "one value": odd[0, 0, 0, 0],
        "no value": odd[:0],
    }
    for name, x in layouts.items():
        yield name, lambda x=x: wrong(n, x, device)
    if device.type == "cuda":
        yield "a CUDA graph", lambda: wrong_in_a_graph(device)
        yield "nothing waits", lambda: waits(device)
        yield "more than 2^31 values", lambda: wrong_beyond(device, 2**31 + 1000)
        if torch.cuda.device_count() > 1:
            other = torch.device("cuda", 1)
            yield "another device", lambda: wrong(n, odd, other)


def wrong_in_a_graph(device: torch.device) -> int:
    """Values that a recorded CUDA graph gives otherwise when it is run on new ones."""
    n = neuron(4, torch.float32).to(device)
    x = inputs(n.cpu(), torch.float32, 10_000)
    n, static = n.to(device), torch.zeros(10_000, device=device)
    plan = NeuronPlan(count=lambda count: kept.append(count))
    kept: list[Any] = []
    with torch.no_grad():
        n.decode(static, plan=plan)
        torch.cuda.synchronize(device)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            y = n.decode(static, plan=plan)
        static.copy_(x)
        graph.replay()
    found, count = y.cpu(), int(kept[-1])
    with plain_loop():
        expected = told(n.cpu(), x)
    return differing(found, expected[0]) + (count != expected[1])


def waits(device: torch.device) -> int:
    """Whether a neuron that is counted makes the program wait for the GPU."""
    n = neuron(4, torch.float32).to(device)
    x = torch.randn(10_000, device=device)
    plan = NeuronPlan(3, True, lambda count: None, tally=lambda tally: None)
    with torch.no_grad():
        n.decode(x, x.clone(), plan=plan)
        torch.cuda.set_sync_debug_mode("error")
        try:
            n.decode(x, x.clone(), plan=plan)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return 0


def wrong_beyond(device: torch.device, size: int) -> int:
    """Values at the end of a tensor of so many that are given otherwise than by themselves."""
    n = neuron(1, torch.float32).to(device)
    x = torch.zeros(size, dtype=torch.bfloat16, device=device)
    last = inputs(n.cpu(), torch.bfloat16, 1000)
    x[-1000:] = last.to(device)
    with torch.no_grad():
        y = n.to(device).decode(x)
    with plain_loop():
        expected = told(n.cpu(), torch.cat([last, torch.zeros(1, dtype=torch.bfloat16)]))[0]
    # The first value of all, and one from the middle, are those of a zero.
    found = torch.cat([y[-1000:], y[:1]]).cpu()
    return differing(found, expected) + differing(y[size // 2][None].cpu(), expected[-1:])


def check_bits(device: torch.device, values: int, seconds: float, tell: Tell) -> None:
    """Tells the result of every check, as far as time allows."""
    end = time.perf_counter() + seconds
    for name, check in equality(device, values):
        if time.perf_counter() > end:
            tell({"kind": "check", "name": name, "error": "no time left"})
            continue
        try:
            tell({"kind": "check", "name": name, "wrong": check()})
        except Exception as error:
            tell({"kind": "check", "name": name, "error": first_line(error)})
    if not on_gpu.ready(device):
        tell({"kind": "failed", "name": "equality", "error": f"no kernel ran on {device}"})


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def first_line(error: BaseException) -> str:
    """What an error says, in one line of a table."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:160]}".replace("|", "/")
