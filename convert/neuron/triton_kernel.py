"""The neuron's time steps as a Triton kernel for GPUs: imported only where Triton is there.

It gives the bits of the steps in torch (`steps`). Nothing in it is multiplied, so no compiler can
fuse a product and a sum into one rounding: d s is d or nothing, and h s is exact.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

# Values that one program takes through all steps.
BLOCK = 1024
_STATES = {torch.float32: tl.float32, torch.float64: tl.float64}


@triton.jit
def _rounded(y, TYPE: tl.constexpr):  # type: ignore[no-untyped-def]
    """The nearest values of another type, to even where two are; by way of float32, as in torch."""
    if tl.bfloat16 == TYPE:
        # In whole numbers: older GPUs have no instruction for it, and Triton's interpreter cuts.
        y = y.to(tl.float32)
        bits = y.to(tl.uint32, bitcast=True)
        bits = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
        bits = tl.where(y != y, 0x7FC0, bits)
        result = bits.to(tl.uint16).to(TYPE, bitcast=True)
    elif tl.float16 == TYPE:
        result = y.to(tl.float32).to(TYPE)
    else:
        result = y.to(TYPE)
    return result


# One kernel for every number of steps and tables: they are read when it runs.
@triton.jit(do_not_specialize=["steps", "row", "gates"])
def _steps(  # type: ignore[no-untyped-def]
    x_ptr, addend_ptr, y_ptr, T_ptr, h_ptr, d_ptr, y0_ptr, gates_ptr, tally_ptr, count_ptr,
    size, steps, row, gates,
    STATE: tl.constexpr, ADDS: tl.constexpr, GATED: tl.constexpr, TALLIES: tl.constexpr,
    COUNTS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    # Tensors may have more values than 32 bits can number.
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = place < size
    given = tl.load(x_ptr + place, mask=inside, other=0.0)
    if ADDS:
        addend = tl.load(addend_ptr + place, mask=inside, other=0.0)
        if given.dtype.primitive_bitwidth == 16:
            # As in torch: the sum in float32, rounded to the input's type.
            given = _rounded(given.to(tl.float32) + addend.to(tl.float32), given.dtype)
        else:
            given = given + addend
    x = given.to(STATE)
    events = tl.zeros([BLOCK], tl.int32)
    if GATED:
        # As many gates as lie below a value number its table.
        index = tl.zeros([BLOCK], tl.int32)
        for r in range(gates):
            index += (x > tl.load(gates_ptr + r)).to(tl.int32)
        # -0.0 becomes 0.0, as in a sum that starts with 0.
        y = tl.load(y0_ptr + index) + 0.0
        # A constant is an event; NaN has none.
        events += ((y != 0.0) & (x == x)).to(tl.int32)
        first = index * row
    else:
        y = tl.zeros([BLOCK], STATE) + tl.load(y0_ptr)
        first = 0
    v = x
    for t in range(steps):
        T = tl.load(T_ptr + first + t)
        h = tl.load(h_ptr + first + t)
        d = tl.load(d_ptr + first + t)
        fires = v > T
        y = tl.where(fires, y + d, y)
        v = tl.where(fires, v - h, v)
        if COUNTS:
            events += fires.to(tl.int32)
    y = tl.where(x != x, x, y)
    tl.store(y_ptr + place, _rounded(y, given.dtype), mask=inside)
    if TALLIES:
        tl.store(tally_ptr + place, events.to(tally_ptr.dtype.element_ty), mask=inside)
    if COUNTS:
        fired = tl.sum(tl.where(inside, events, 0), axis=0)
        tl.atomic_add(count_ptr, fired.to(tl.int64), sem="relaxed")


def launch(
    x: Tensor, addend: Tensor | None, y: Tensor, numbers: list[Tensor], gates: Tensor | None,
    steps: int, tally: Tensor | None, count: Tensor | None,
) -> None:  # fmt: skip
    """Starts the kernel on the current device; nothing waits for it.

    Args:
        x: values one after the other in memory ``[...]``, at least one, float16, bfloat16,
            float32 or float64.
        addend: added to x first, of its type and layout; None for nothing.
        y: takes the output, of x's type and layout; it may be x itself.
        numbers: T, h and d, ``[K]`` or ``[G, K]``, and y0, ``[1]`` or ``[G]``; all contiguous, of
            the type of the membrane potential.
        gates: ``[G - 1]``; None for one table.
        steps: how many of the K are done.
        tally: takes the events of each value in that order, uint8 or int32; None if nobody asks.
        count: the number of events is added to it, int64 without dimensions; None if nobody asks.
    """
    T, size = numbers[0], x.numel()
    given = (
        x, addend, y, *numbers, gates, tally, count,
        size, steps, T.shape[-1], 0 if gates is None else gates.numel(),
        _STATES[T.dtype], addend is not None, gates is not None, tally is not None,
        tally is not None or count is not None, BLOCK,
    )  # fmt: skip
    # Triton's own launch, which looks at every argument: a handle called directly is faster, but a
    # run on an H200 with such handles ended in a launch failure.
    _steps[(triton.cdiv(size, BLOCK),)](*given, num_warps=4, enable_fp_fusion=False)
