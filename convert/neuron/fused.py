"""The neuron's time steps fused into one pass over memory.

On the CPU machine code (see `llvm_code`) takes each value through all steps in registers; where
there is none, a loop over blocks does the same in torch. A GPU runs a Triton kernel (`on_gpu`).
All give what the plain loop in `few_spikes` gives, bit for bit.
"""

from __future__ import annotations

import logging
from functools import cache
from threading import Lock
from typing import Any

import numba
import torch
from torch import Tensor

from ..common.tracing import traced
from . import on_cpu, on_gpu
from .llvm_code import Compiled, compiled
from .on_cpu import Rows
from .steps import Tables, interval, tally_type

_LOG = logging.getLogger(__name__)
_PLAIN = (Tensor, torch.nn.Parameter)
_FULL = (torch.float32, torch.float64)
# Elements for each thread in a block of the loop in torch: its buffers stay in the cache.
_TORCH_BLOCK = 131072
# Machine code is made once the loop in torch has done this many steps of single values, some
# twenty milliseconds, which is what it takes to make it.
WORTH_COMPILING = 50_000_000

# Steps done without a compiled function so far, by what the function depends on.
_waiting: dict[tuple[Any, ...], int] = {}
_ready: set[tuple[Any, ...]] = set()
_lock = Lock()


def usable(x: Tensor) -> bool:
    """Whether a fused pass can stand in: a plain tensor in memory that nobody follows.

    Compilers, tracers and transforms of `torch.func` must see the steps themselves.
    """
    return (
        not traced()
        and type(x) in _PLAIN
        and (x.is_cpu or x.is_cuda)
        and (x.dtype in _FULL or (x.dtype in on_gpu.HALF and on_gpu.ready(x.device)))
        and not (x.requires_grad and torch.is_grad_enabled())
        and not x.is_neg()
        and not x._is_zerotensor()
        and x.layout is torch.strided
    )


def casts(x: Tensor) -> bool:
    """Whether a fused pass takes values as they are, and its potentials in the type of T."""
    return usable(x) and on_gpu.ready(x.device)


def readable(tables: Tables, dtype: torch.dtype) -> bool:
    """Whether compiled code may read a neuron's numbers where they lie.

    Args:
        tables: of the neuron.
        dtype: of the membrane potential.
    """
    for t in tables:
        if t is not None and (t.dtype is not dtype or type(t) not in _PLAIN or t.is_neg()):
            return False
    return True


def run(
    x: Tensor,
    tables: Tables,
    counting: bool,
    *,
    steps: int | None = None,
    in_place: bool = False,
    addend: Tensor | None = None,
    kept: Rows | None = None,
    tallying: bool = False,
) -> tuple[Tensor, int | Tensor, Tensor | None]:
    """Output of a neuron and, if asked for, its events and those of each value.

    All are bit for bit what the steps give in torch. From a GPU's kernel the number of events is a
    tensor there, int64 without dimensions, so that nothing waits.

    Args:
        x: input ``[...]`` of the type of T, or of any where the pass `casts`; see `usable`.
        tables: T, h, d, y0 and gates.
        counting: counts spikes, and with gates the constants that aren't 0.
        steps: runs only the first so many steps; the compiled function is that of K all the same.
        in_place: the output may take the memory of x.
        addend: added to x first, of the same shape and dtype; both must be `usable`.
        kept: the neuron's rows from earlier calls.
        tallying: tells the events of each value, and so counts them, too.
    """
    kind = tally_type(tables.thresholds.shape[-1]) if tallying else None
    steps = tables.thresholds.shape[-1] if steps is None else steps
    function = None
    if x.requires_grad:
        x = x.detach()
    if addend is not None and not (_dense(x) and addend.stride() == x.stride()):
        x, addend, in_place = _sum(x, addend, in_place), None, True
    if on_gpu.ready(x.device):
        return _on_gpu(x, addend, tables, counting, steps, in_place, kind)
    if addend is not None:
        function = _compiled(x, tables, counting, True, steps, kind)
        if function is None:
            x, addend, in_place = _sum(x, addend, in_place), None, True
    x, y = _memory(x, in_place)
    function = function or _compiled(x, tables, counting, False, steps, kind)
    tally = None if kind is None else _tally_like(y, kind, function)
    if not x.numel():
        return y, 0, tally
    if function is not None:
        rows = (Rows() if kept is None else kept).of(tables, x, function.lanes)
        return y, on_cpu.run(x, addend, y, rows, steps, function, tally), tally
    # In the order of memory, whatever the layout.
    flat_x, flat_y = _flat(x), _flat(y)
    told = None if tally is None else _flat(tally)
    if tables.gates is not None:
        return y, gated_in_blocks(flat_x, flat_y, tables, steps, counting, told), tally
    parameters = torch.cat((*tables[:3], tables.offset.view(1))).detach().to(x.dtype)
    return y, in_blocks(flat_x, flat_y, parameters, steps, counting, told), tally


def _on_gpu(
    x: Tensor, addend: Tensor | None, tables: Tables, counting: bool, steps: int, in_place: bool,
    kind: torch.dtype | None,
) -> tuple[Tensor, int | Tensor, Tensor | None]:  # fmt: skip
    """As `run`, where a GPU's kernel is ready; without it from the first time on that it fails."""
    given = x
    x, y = _memory(x, in_place)
    tally = None if kind is None else _tally_like(y, kind, None)
    done, count = on_gpu.run(x, addend, y, tables, steps, tally, counting)
    if done:
        return y, 0 if count is None else count, tally
    x = given if addend is None else given + addend
    y, events, tally = run(
        x.to(tables.thresholds.dtype), tables, counting, steps=steps, tallying=kind is not None
    )
    return y.to(x.dtype), events, tally


def _sum(x: Tensor, addend: Tensor, in_place: bool) -> Tensor:
    return x.add_(addend) if in_place else x + addend


def _memory(x: Tensor, in_place: bool) -> tuple[Tensor, Tensor]:
    """Values one after the other, and memory of the same layout for the output."""
    if not _dense(x):
        x, in_place = x.contiguous(), True
    return x, x if in_place else torch.empty_like(x)


def _tally_like(y: Tensor, kind: torch.dtype, function: Compiled | None) -> Tensor:
    """Memory for a tally in the order of y; machine code writes whole groups into it."""
    group = 1 if function is None else function.group
    size = -(-y.numel() // group) * group
    return torch.empty(size, dtype=kind, device=y.device).as_strided(y.shape, y.stride())


def _dense(x: Tensor) -> bool:
    """Whether the values lie in memory one after the other, in the usual order of axes or NHWC."""
    return x.is_contiguous() or (
        x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)
    )


def _flat(x: Tensor) -> Tensor:
    return x.as_strided((x.numel(),), (1,))


def _worth(key: tuple[Any, ...], work: int, enough: int) -> bool:
    """Whether a compiled function is there, or is worth its compilation by now."""
    if key in _ready:
        return True
    with _lock:
        _waiting[key] = _waiting.get(key, 0) + work
        if _waiting[key] >= enough:
            _ready.add(key)
    return key in _ready


def _compiled(
    x: Tensor, tables: Tables, counting: bool, adding: bool, steps: int, tally: torch.dtype | None
) -> Compiled | None:
    """The machine code for such values; None where there is none, or it isn't worth it yet."""
    intervals = 1 if tables.gates is None else len(tables.thresholds)
    if not x.is_cpu or not x.numel() or getattr(numba.config, "DISABLE_JIT", False):
        return None
    key = (x.dtype, counting, adding, intervals, tally)
    if not _worth(key, x.numel() * steps, WORTH_COMPILING):
        return None
    try:
        bits = 0 if tally is None else 8 * tally.itemsize
        return compiled(x.dtype == torch.float64, counting, adding, intervals, bits)
    except (RuntimeError, OSError) as error:
        _warn_once(str(error).partition("\n")[0])
        return None


def _parts(parameters: Tensor) -> tuple[Tensor, Tensor]:
    """T, h, d ``[3, K]`` and y0."""
    return parameters[:-1].view(3, -1), parameters[-1]


def in_blocks(
    x: Tensor, y: Tensor, parameters: Tensor, steps: int, counting: bool, tally: Tensor | None
) -> int:
    """The steps in torch over blocks of ``x [n]`` into ``y [n]``; returns the spikes if counted.

    A `tally` ``[n]`` is filled with the spikes of each value, which are counted, too.
    """
    table, y0 = _parts(parameters)
    T, h, d = table[:, :steps].tolist()
    size = x.numel()
    if x.device.type == "cpu":
        size = min(size, _TORCH_BLOCK * torch.get_num_threads())
    buffers = [torch.empty(size, dtype=x.dtype, device=x.device) for _ in range(2)]
    start = torch.full((), 0.0 + float(y0), dtype=x.dtype, device=x.device)
    count = torch.zeros((), dtype=torch.float64, device=x.device)
    for first in range(0, x.numel(), size):
        given, out = (a[first : first + size] for a in (x, y))
        v, s = (buffer[: given.numel()] for buffer in buffers)
        # A sum is cheaper than a search for NaN; infinities of both signs make one as well.
        kept = given.clone() if given.sum().isnan() else None
        events = None if tally is None else torch.zeros_like(given)
        for t in range(len(T)):
            # The first step reads x alone, which y may overwrite from then on.
            potential = v if t else given
            torch.gt(potential, T[t], out=s)
            if events is not None:
                events += s
            elif counting:
                # A sum of zeros and ones is exact in float32 up to 2^24 of them, and their product
                # with themselves is the quickest sum.
                count += s.sum(dtype=torch.float64) if size > 2**24 else s.dot(s)
            if t + 1 < len(T):
                torch.sub(potential, s, alpha=h[t], out=v)
            torch.add(out if t else start, s, alpha=d[t], out=out)
        if tally is not None and events is not None:
            tally[first : first + size] = events
            count += events.sum(dtype=torch.float64)
        if kept is not None:
            torch.where(kept != kept, kept, out, out=out)
    return int(count)


def gated_in_blocks(
    x: Tensor, y: Tensor, tables: Tables, steps: int, counting: bool, tally: Tensor | None
) -> int:
    """As `in_blocks`, for a neuron with gates."""
    assert tables.gates is not None
    wanted = counting or tally is not None
    T, h, d, offset = (t.detach().to(x.dtype) for t in tables[:4])
    size = x.numel()
    if x.device.type == "cpu":
        size = min(size, _TORCH_BLOCK * torch.get_num_threads())
    count = torch.zeros((), dtype=torch.float64, device=x.device)
    for first in range(0, x.numel(), size):
        given, out = (a[first : first + size] for a in (x, y))
        kept = given.clone() if given.sum().isnan() else None
        index = interval(given, tables.gates)
        v = given.clone()
        start = 0.0 + offset[index]
        # A constant is an event, but for NaN.
        events = ((start != 0) & (given == given)).to(x.dtype) if wanted else None
        out.copy_(start)
        s = torch.empty_like(v)
        for t in range(steps):
            torch.gt(v, T[:, t][index], out=s)
            if events is not None:
                events += s
            # Products with 0 and 1 are exact: one rounding, as in the sum alone.
            out.addcmul_(s, d[:, t][index])
            v.addcmul_(s, h[:, t][index], value=-1)
        if events is not None:
            count += events.sum(dtype=torch.float64)
        if events is not None and tally is not None:
            tally[first : first + size] = events
        if kept is not None:
            torch.where(kept != kept, kept, out, out=out)
    return int(count)


@cache
def _warn_once(error: str) -> None:
    _LOG.warning("no compiled neuron, time steps run one by one: %s", error)
