"""The neuron's time steps fused into one pass over memory, for tensors on the CPU."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor

# Elements whose potential and output stay in the first-level cache during all steps.
_BLOCK = 2048
# Below this many elements a second thread costs more than it saves.
_WORTH_A_THREAD = 32768


# Compiled lazily and kept on disk; without fast-math every operation rounds as in torch.
@numba.njit(nogil=True, cache=True, error_model="numpy")
def _run(x: Any, y: Any, T: Any, h: Any, d: Any, offset: Any, missing: Any, counting: bool) -> int:
    count = 0
    zero = x.dtype.type(0)
    v = np.empty(_BLOCK, x.dtype)
    for begin in range(0, x.size, _BLOCK):
        size = min(_BLOCK, x.size - begin)
        block, out = x[begin : begin + size], y[begin : begin + size]
        for i in range(size):
            v[i] = block[i]
            out[i] = offset
        for t in range(T.size):
            threshold, reset, weight = T[t], h[t], d[t]
            if counting:
                fired = 0
                for i in range(size):
                    fired += v[i] > threshold
                count += fired
            for i in range(size):
                fires = v[i] > threshold
                out[i] += weight if fires else zero
                v[i] -= reset if fires else zero
        for i in range(size):
            out[i] = block[i] if block[i] != block[i] else out[i] + missing
    return count


def usable(x: Tensor) -> bool:
    """Whether the fused pass can stand in: a plain CPU tensor that needs no gradient."""
    return (
        type(x) in (Tensor, torch.nn.Parameter)
        and x.device.type == "cpu"
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
) -> tuple[Tensor, int]:
    """Output of a neuron and, if asked for, its spikes; bit for bit what the steps give in torch.

    Args:
        x: input, float32 or float64 ``[...]``, see `usable`.
        thresholds, resets, weights: T, h, d ``[t]`` of the steps to run.
        offset: y0.
        missing: what is added after the last step, or None.
        counting: counts spikes.
    """
    dense = x.is_contiguous() or (
        x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)
    )
    x = x.detach() if dense else x.detach().contiguous()
    y = torch.empty_like(x)
    # In the order of memory, whatever the layout.
    flat_x, flat_y = (a.as_strided((a.numel(),), (1,)).numpy() for a in (x, y))
    kind = flat_x.dtype.type
    parameters = [a.detach().to(x.dtype).numpy() for a in (thresholds, resets, weights)]
    scalars = (kind(offset.item()), kind(0.0 if missing is None else missing.item()))
    threads = max(1, min(torch.get_num_threads(), flat_x.size // _WORTH_A_THREAD))
    bounds = np.linspace(0, flat_x.size, threads + 1).astype(int)
    parts = [slice(a, b) for a, b in pairwise(bounds)]

    def part(piece: slice) -> int:
        arguments: tuple[Any, ...] = (*parameters, *scalars, counting)
        return int(_run(flat_x[piece], flat_y[piece], *arguments))

    if threads == 1:
        return y, part(parts[0])
    with ThreadPoolExecutor(threads) as pool:
        return y, sum(pool.map(part, parts))
