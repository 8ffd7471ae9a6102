"""The neuron's time steps fused into one pass over memory.

On the CPU a function compiled by numba takes each value through all steps in registers; until it
has been compiled, and where it can't be, a loop over blocks does the same in torch. On CUDA
`torch.compile` fuses the steps. All give what the plain loop in `neuron` gives, bit for bit.
"""

from __future__ import annotations

import ctypes
import logging
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from threading import Lock
from typing import Any

import numba
import numpy as np
import torch
from numba import carray, types
from numba.core import cgutils
from numba.extending import intrinsic
from numba.np.unsafe.ndarray import to_fixed_tuple
from torch import Tensor

from . import openmp

_LOG = logging.getLogger(__name__)
# Elements in whose counts the first-level cache suffices.
_BLOCK = 4096
# Elements for each thread in a block of the loop in torch: its three buffers stay in the cache.
_TORCH_BLOCK = 65536
# Below this many elements a second thread costs more than it saves.
_WORTH_A_THREAD = 32768
# Steps whose parameters fit in vector registers beside the state.
_CHUNK = 8
# Beyond this many steps the unrolled code takes long to compile, and the loop in torch stays.
_MOST_STEPS = 3 * _CHUNK
# A function is compiled once the loop in torch has done this many steps of single values, about
# a quarter of a second: a small job never waits for a compiler.
WORTH_COMPILING = 500_000_000

# Steps done without a compiled function so far, by number of steps, type and counting.
_waiting: dict[tuple[int, torch.dtype, bool], int] = {}
_ready: set[tuple[int, torch.dtype, bool]] = set()
_lock = Lock()


def _to_pointer(_: Any, address: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.inttoptr(args[0], cgutils.voidptr_t)

    return types.voidptr(types.int64), generate


# An address as a pointer, the array there, and that as a tuple, inside compiled code.
_pointer: Any = intrinsic(_to_pointer)
_array: Any = carray
_tuple: Any = to_fixed_tuple


# What a job holds, as int64: addresses of x, y, the parameters and the counts; values, threads,
# and the number of the thread, or -1 to ask OpenMP.
_X, _Y, _PARAMETERS, _COUNTS, _SIZE, _THREADS, _NUMBER, _FIELDS = range(8)
_SIGNATURE = types.void(types.CPointer(types.int64))


# Without fast-math every operation rounds as in torch. The steps come as tuples, whose length is
# part of the type: the loops over them are unrolled, and LLVM vectorises the loop over values.
@numba.njit(error_model="numpy")
def _steps(x: Any, parts: Any, offset: Any, missing: Any) -> None:
    zero = x.dtype.type(0)
    for i in range(x.size):
        given = x[i]
        v, out = given, offset
        for part in numba.literal_unroll(parts):
            T, h, d = part
            for t in range(len(T)):
                fires = v > T[t]
                out += d[t] if fires else zero
                v -= h[t] if fires else zero
        x[i] = given if given != given else out + missing


@numba.njit(error_model="numpy")
def _steps_counting(x: Any, counts: Any, parts: Any, offset: Any, missing: Any) -> None:
    zero = x.dtype.type(0)
    for i in range(x.size):
        given = x[i]
        v, out, fired = given, offset, 0
        for part in numba.literal_unroll(parts):
            T, h, d = part
            for t in range(len(T)):
                fires = v > T[t]
                out += d[t] if fires else zero
                v -= h[t] if fires else zero
                fired += fires
        x[i] = given if given != given else out + missing
        counts[i] = fired


@numba.njit(error_model="numpy")
def _share(job: Any, x: Any, y: Any, parts: Any, ends: Any, counting: Any) -> None:
    """One thread's part of the values, in place on blocks that fit the first-level cache."""
    number, threads, n = job[_NUMBER], job[_THREADS], x.size
    if number < 0:
        number = openmp.THREAD()
    counts = np.zeros(_BLOCK if counting else 1, np.int32)
    total = 0
    end = n * (number + 1) // threads
    for first in range(n * number // threads, end, _BLOCK):
        last = min(first + _BLOCK, end)
        if job[_X] != job[_Y]:
            y[first:last] = x[first:last]
        if counting:
            _steps_counting(y[first:last], counts, parts, ends[0], ends[1])
            for i in range(last - first):
                total += counts[i]
        else:
            _steps(y[first:last], parts, ends[0], ends[1])
    _array(_pointer(job[_COUNTS]), (threads,), np.int64)[number] = total


@numba.njit(inline="always")
def _opened(address: Any, kind: Any, steps: Any) -> Any:
    """A job's fields, and the arrays x, y, T, h, d and ends that they point to."""
    job = _array(address, (_FIELDS,))
    x = _array(_pointer(job[_X]), (job[_SIZE],), kind)
    y = _array(_pointer(job[_Y]), (job[_SIZE],), kind)
    p = _array(_pointer(job[_PARAMETERS]), (3 * steps + 2,), kind)
    return job, x, y, p[:steps], p[steps : 2 * steps], p[2 * steps : 3 * steps], p[3 * steps :]


@cache
def _function(size: int, chunks: int, kind: Any, counting: bool) -> Any:
    """A C function that takes one thread's share of a job through ``size * chunks`` steps.

    Its constants are whole numbers and types only: so numba finds it again on disk.
    """
    two, three, steps = 2 * size, 3 * size, size * chunks

    def one_chunk(address: Any) -> None:
        job, x, y, T, h, d, ends = _opened(address, kind, steps)
        first = (_tuple(T, size), _tuple(h, size), _tuple(d, size))
        _share(job, x, y, (first,), ends, counting)

    def two_chunks(address: Any) -> None:
        job, x, y, T, h, d, ends = _opened(address, kind, steps)
        first = (_tuple(T[:size], size), _tuple(h[:size], size), _tuple(d[:size], size))
        second = (_tuple(T[size:], size), _tuple(h[size:], size), _tuple(d[size:], size))
        _share(job, x, y, (first, second), ends, counting)

    def three_chunks(address: Any) -> None:
        job, x, y, T, h, d, ends = _opened(address, kind, steps)
        first = (_tuple(T[:size], size), _tuple(h[:size], size), _tuple(d[:size], size))
        second = (
            _tuple(T[size:two], size),
            _tuple(h[size:two], size),
            _tuple(d[size:two], size),
        )
        third = (
            _tuple(T[two:three], size),
            _tuple(h[two:three], size),
            _tuple(d[two:three], size),
        )
        _share(job, x, y, (first, second, third), ends, counting)

    body = (one_chunk, two_chunks, three_chunks)[chunks - 1]
    return numba.cfunc(_SIGNATURE, cache=True, error_model="numpy")(body)


def usable(x: Tensor) -> bool:
    """Whether a fused pass can stand in: a plain tensor that needs no gradient."""
    return (
        type(x) in (Tensor, torch.nn.Parameter)
        and x.device.type in ("cpu", "cuda")
        and x.dtype in (torch.float32, torch.float64)
        and not (torch.is_grad_enabled() and x.requires_grad)
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()
    )


def run(
    x: Tensor,
    thresholds: Tensor,
    resets: Tensor,
    weights: Tensor,
    offset: Tensor,
    missing: Tensor | None,
    counting: bool,
    *,
    steps: int | None = None,
    in_place: bool = False,
) -> tuple[Tensor, int]:
    """Output of a neuron and, if asked for, its spikes; bit for bit what the steps give in torch.

    Args:
        x: input, float32 or float64 ``[...]``, see `usable`.
        thresholds, resets, weights: T, h, d ``[K]``.
        offset: y0.
        missing: what is added after the last step, or None.
        counting: counts spikes.
        steps: runs only the first so many steps; the compiled function is that of K all the same.
        in_place: the output may take the memory of x.
    """
    dense = x.is_contiguous() or (
        x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)
    )
    in_place = in_place or not dense
    x = x.detach() if dense else x.detach().contiguous()
    y = x if in_place else torch.empty_like(x)
    if not x.numel():
        return y, 0
    # In the order of memory, whatever the layout.
    flat_x, flat_y = (a.as_strided((a.numel(),), (1,)) for a in (x, y))
    table = torch.stack([a.detach().to(x.dtype) for a in (thresholds, resets, weights)])
    ends = torch.stack([offset.detach().to(x.dtype), torch.zeros_like(offset, dtype=x.dtype)])
    if missing is not None:
        ends[1] = missing
    steps = table.shape[1] if steps is None else steps
    if x.device.type == "cuda":
        table[0, steps:] = torch.inf
        count = _on_cuda(flat_x, flat_y, table, ends, counting)
    elif _compiled(table.shape[1], x.dtype, counting, flat_x.numel() * steps):
        table[0, steps:] = torch.inf
        # A cut neuron needs no function for every number of steps; half of them is worth one.
        half = -(-table.shape[1] // 2)
        table = table[:, :half] if steps <= half else table
        count = _on_cpu(flat_x.numpy(), flat_y.numpy(), table.numpy(), ends.numpy(), counting)
    else:
        count = in_blocks(flat_x, flat_y, table[:, :steps], ends, counting)
    return y, count


def _compiled(steps: int, dtype: torch.dtype, counting: bool, work: int) -> bool:
    """Whether the compiled function is there, or is worth its compilation by now."""
    key = (steps, dtype, counting)
    if key in _ready:
        return True
    if getattr(numba.config, "DISABLE_JIT", False) or steps > _MOST_STEPS:
        return False
    with _lock:
        _waiting[key] = _waiting.get(key, 0) + work
        if _waiting[key] >= WORTH_COMPILING:
            _ready.add(key)
    return key in _ready


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(os.cpu_count() or 1, "few-spikes")


# Threads don't survive a fork: a worker process makes a pool of its own.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)


def _on_cpu(x: Any, y: Any, table: Any, ends: Any, counting: bool) -> int:
    """The compiled function over parts of memory, on as many threads as torch may use."""
    steps = table.shape[1]
    chunks = -(-steps // _CHUNK)
    size = -(-steps // chunks)
    # Numba unrolls a loop over tuples of one length only: mute steps fill the last.
    parameters = np.zeros(3 * size * chunks + 2, x.dtype)
    padded = parameters[:-2].reshape(3, -1)
    padded[0] = np.inf
    padded[:, :steps] = table
    # -0.0 becomes 0.0, as in a sum that starts with 0.
    parameters[-2:] += ends
    threads = max(1, min(torch.get_num_threads(), x.size // _WORTH_A_THREAD))
    counts = np.zeros(threads, np.int64)
    addresses = [a.ctypes.data for a in (x, y, parameters, counts)]
    job = np.array([*addresses, x.size, threads, -1], np.int64)
    # Finding the library also tells the compiler where its function is.
    threaded = openmp.loaded() is not None
    function = _function(size, chunks, x.dtype.type, counting)
    if threaded:
        openmp.run(function.address, job.ctypes.data, threads)
    else:
        call = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(function.address)
        jobs = np.repeat(job[None], threads, 0)
        jobs[:, _NUMBER] = range(threads)
        others = [_pool().submit(call, one.ctypes.data) for one in jobs[1:]]
        call(jobs[0].ctypes.data)
        for other in others:
            other.result()
    return int(counts.sum())


def in_blocks(x: Tensor, y: Tensor, table: Tensor, ends: Tensor, counting: bool) -> int:
    """The steps in torch over blocks of ``x [n]`` into ``y [n]``; returns the spikes if counted."""
    T, h, d = table.tolist()
    offset, missing = (0.0 + end for end in ends.tolist())
    size = x.numel()
    if x.device.type == "cpu":
        size = min(size, _TORCH_BLOCK * torch.get_num_threads())
    buffers = [torch.empty(size, dtype=x.dtype, device=x.device) for _ in range(3)]
    count = torch.zeros((), dtype=torch.float64, device=x.device)
    for first in range(0, x.numel(), size):
        given = x[first : first + size]
        v, out, s = (buffer[: given.numel()] for buffer in buffers)
        v.copy_(given)
        out.fill_(offset)
        for t in range(len(T)):
            torch.gt(v, T[t], out=s)
            if counting:
                # A sum of zeros and ones is exact in float32 up to 2^24 of them.
                count += s.sum(dtype=torch.float64 if size > 2**24 else None)
            out.add_(s, alpha=d[t])
            if t + 1 < len(T):
                v.sub_(s, alpha=h[t])
        out.add_(missing)
        # A sum is cheaper than a search for NaN; infinities of both signs make one as well.
        if given.sum().isnan():
            torch.where(given != given, given, out, out=out)
        y[first : first + size] = out
    return int(count)


def fused(
    x: Tensor, thresholds: Sequence[Tensor], resets: Sequence[Tensor], weights: Sequence[Tensor],
    offset: Tensor, missing: Tensor, counting: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """The steps on ``x [n]`` for `torch.compile`, which makes one kernel of them."""
    v, out = x, torch.zeros_like(x) + offset
    fired = torch.zeros_like(x, dtype=torch.int32)
    for T, h, d in zip(thresholds, resets, weights, strict=True):
        s = (v > T).to(x.dtype)
        out = out + d * s
        v = v - h * s
        if counting:
            fired = fired + s.to(torch.int32)
    return torch.where(x != x, x, out + missing), fired.sum(dtype=torch.int64)


@cache
def _fused_compiled() -> Any:
    return torch.compile(fused, dynamic=True, fullgraph=True)


@cache
def _warn_once(error: str) -> None:
    _LOG.warning("no compiled neuron, time steps run one by one: %s", error)


def _on_cuda(x: Tensor, y: Tensor, table: Tensor, ends: Tensor, counting: bool) -> int:
    rows = [list(row.unbind()) for row in table]
    # A GPU does in a second what a core takes a minute for.
    if _compiled(table.shape[1], x.dtype, counting, x.numel() * table.shape[1] // 64):
        try:
            out, fired = _fused_compiled()(x, *rows, ends[0], ends[1], counting)
            y.copy_(out)
            return int(fired) if counting else 0
        except Exception as error:  # whatever a missing or broken compiler raises
            _warn_once(str(error).splitlines()[0])
    return in_blocks(x, y, table, ends, counting)
