"""Calls a neuron's machine code (`llvm_code`) on the memory of tensors on the CPU.

A small tensor takes microseconds, so nothing is made here that a call can do without: addresses
are handed over, and no views of tensors.
"""

from __future__ import annotations

import ctypes
import os
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import torch
from torch import Tensor

from ..common import torch_threads as openmp
from .llvm_code import Compiled
from .llvm_program import Job
from .steps import Tables

# Below this many elements a second thread costs more than it saves.
_WORTH_A_THREAD = 32768
_JOB = ctypes.c_int64 * (Job.COUNTS + 1)


class Rows:
    """A neuron's numbers as machine code reads them, made anew when one of them has changed.

    With gates, T, h and d have a row for each step, and a row has a value for each interval, and
    more where a register has more lanes. So have y0 and the gates. They are compared byte for
    byte: through `.data` and numpy, memory is written to without a trace.
    """

    def __init__(self) -> None:
        self._kept: tuple[tuple[Any, ...], list[Tensor]] | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> Rows:
        return Rows()

    def __reduce__(self) -> Any:
        return Rows, ()

    def of(self, tables: Tables, x: Tensor, lanes: int) -> list[Tensor]:
        """Rows T, h, d, y0 and the gates for values like x.

        Args:
            tables: of the neuron.
            x: the input.
            lanes: values in a row, with gates.
        """
        tables.check_device(x)
        T, h, d, offset, gates = tables
        if gates is None:
            T, h, d, y0 = _as_read(T, x), _as_read(h, x), _as_read(d, x), _as_read(offset, x)
            return [T, h, d, y0, y0]
        given = [T, h, d, offset, gates]
        key = lanes, x.dtype, tables.thresholds.shape, *map(_bytes, given)
        kept = self._kept
        # One attribute, read and written once: threads may share the neuron.
        if kept is None or kept[0] != key:
            kept = self._kept = key, _gated_rows(tables, gates, x, lanes)
        return kept[1]


def _as_read(tensor: Tensor, x: Tensor) -> Tensor:
    """Numbers in the type of x, one after the other."""
    if tensor.dtype is not x.dtype:
        tensor = tensor.to(x.dtype)
    return tensor if tensor.is_contiguous() else tensor.contiguous()


def _bytes(tensor: Tensor) -> bytes:
    """What a tensor on the CPU holds."""
    tensor = tensor if tensor.is_contiguous() else tensor.contiguous()
    return ctypes.string_at(tensor.data_ptr(), tensor.nbytes)


def _gated_rows(tables: Tables, gates: Tensor, x: Tensor, lanes: int) -> list[Tensor]:
    """T, h, d ``[K, lanes]``, y0 and gates ``[lanes]``; gates behind the last are infinite."""
    T, h, d, offset = (t.detach() for t in tables[:4])
    intervals, steps = T.shape
    result = []
    for table in (T, h, d):
        row = x.new_zeros(steps, lanes)
        row[:, :intervals] = table.t()
        result.append(row)
    y0, bounds = x.new_zeros(lanes), x.new_full((lanes,), torch.inf)
    y0[:intervals], bounds[: intervals - 1] = offset, gates.detach()
    return [*result, y0, bounds]


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(os.cpu_count() or 1, "few-spikes")


# Threads don't survive a fork: a worker process makes a pool of its own.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)


def run(
    x: Tensor, addend: Tensor | None, y: Tensor, rows: list[Tensor], steps: int,
    function: Compiled, tally: Tensor | None,
) -> int:  # fmt: skip
    """Takes values through a neuron's steps, in as many threads as torch may use; the events.

    Args:
        x: values one after the other in memory, float32 or float64 ``[...]``; at least one.
        addend: added to x first, of its type and layout; None for nothing.
        y: takes the output, of that type and layout; it may be x itself.
        rows: T, h, d, y0 and the gates; see `Rows`.
        steps: how many of the K are done.
        function: the machine code.
        tally: takes the events of each value; room for whole groups. None if nobody asks.
    """
    size, given, out = x.numel(), x.data_ptr(), y.data_ptr()
    added = given if addend is None else addend.data_ptr()
    left, rest, behind = size % function.group, None, 0
    beyond = given
    if left:
        # The last values and their addends, in groups of their own that are filled up with NaN.
        behind = (size - left) * x.element_size()
        rest = function.blank()
        beyond = ctypes.addressof(rest)
        ctypes.memmove(beyond, given + behind, left * x.element_size())
        if addend is not None:
            second = beyond + function.group * x.element_size()
            ctypes.memmove(second, added + behind, left * x.element_size())
    T, h, d, offset, gates = rows
    fields = (
        given, added, out, T.data_ptr(), h.data_ptr(), d.data_ptr(), offset.data_ptr(),
        gates.data_ptr(), beyond, size, steps,
    )  # fmt: skip
    told = 0 if tally is None else tally.data_ptr()
    threads = 1
    if size >= 2 * _WORTH_A_THREAD:
        threads = max(1, min(torch.get_num_threads(), size // _WORTH_A_THREAD))
    if threads == 1:
        job = _JOB(*fields, 1, 0, 0, told)
        function.call(job)
        events: int = job[Job.COUNTS]
    else:
        events = _in_threads(fields, threads, told, function)
    if left:
        ctypes.memmove(out + behind, beyond, left * x.element_size())
    return events


def _in_threads(fields: tuple[int, ...], threads: int, told: int, function: Compiled) -> int:
    """A job's events, done by several threads: torch's own where they can be asked for."""
    kind = ctypes.c_int64 * (Job.COUNTS + threads)
    if openmp.loaded() is not None:
        jobs = [kind(*fields, threads, -1, openmp.asked(), told)]
        openmp.run(function.address, ctypes.addressof(jobs[0]), threads)
    else:
        jobs = [kind(*fields, threads, number, 0, told) for number in range(threads)]
        others = [_pool().submit(function.call, one) for one in jobs[1:]]
        function.call(jobs[0])
        for other in others:
            other.result()
    return sum(sum(one[Job.COUNTS :]) for one in jobs)
