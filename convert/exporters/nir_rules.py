"""Linear operations as NIR's nodes.

A rule takes the graph that is built, the call and its signals, and returns what comes out; None
where NIR has no nodes for it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor
from torch.fx import Node

from .nir_convolutions import Axis, convolve, dense, moved
from .nir_graph import Array, NirGraph, NirSignal, Shape
from .subject import op_name


@dataclass(frozen=True)
class NirCall:
    """One operation of the network.

    Args:
        node: it.
        name: of the nodes that it becomes.
        given: its arguments by name: signals as `NirSignal`, constants as tensors or numbers.
        shape: of one image's result.
    """

    node: Node
    name: str
    given: Mapping[str, Any]
    shape: Shape

    def array(self, name: str) -> Array | None:
        """A constant argument as an array; None where there is none."""
        value = self.given.get(name)
        if not isinstance(value, Tensor):
            return None
        found: Array = value.detach().cpu().numpy()
        return found

    @property
    def x(self) -> NirSignal:
        """The signal that comes in."""
        found: NirSignal = self.given.get("self", self.given.get("input"))
        return found


Rule = Callable[[NirGraph, NirCall], NirSignal | None]


# Weights.


def _conv(g: NirGraph, call: NirCall) -> NirSignal | None:
    weight, dims = call.array("weight"), int(op_name(call.node)[-2])
    if weight is None or len(call.x.shape) != dims + 1 or dims == 3:
        return None
    axes = []
    for i, (length, kernel) in enumerate(zip(call.x.shape[1:], weight.shape[2:], strict=True)):
        stride, dilation = (_pair(call.given[n])[i] for n in ("stride", "dilation"))
        total = dilation * (kernel - 1)
        padding = call.given["padding"]
        if padding == "same":
            first, last = total // 2, total - total // 2
        else:
            first = last = 0 if padding == "valid" else _pair(padding)[i]
        axes.append(Axis(length, kernel, stride, dilation, first, last))
    weight = dense(weight, int(call.given["groups"]))
    return convolve(g, call.name, call.x, weight, axes, call.array("bias"))


def _pair(value: Any) -> Shape:
    values = list(value) if isinstance(value, list | tuple) else [value]
    return tuple(values * 2 if len(values) == 1 else values)


def _linear(g: NirGraph, call: NirCall) -> NirSignal | None:
    weight, bias = call.array("weight"), call.array("bias")
    if weight is None or len(call.x.shape) != 1:
        return None
    if bias is None:
        return g.add("Linear", call.name, call.x, call.shape, weight=weight.astype(g.dtype))
    return g.add(
        "Affine", call.name, call.x, call.shape,
        weight=weight.astype(g.dtype), bias=bias.astype(g.dtype),
    )  # fmt: skip


def _matmul(g: NirGraph, call: NirCall) -> NirSignal | None:
    weight = call.array("mat2") if "mat2" in call.given else call.array("other")
    if weight is None or weight.ndim != 2 or len(call.x.shape) != 1:
        return None
    return g.add("Linear", call.name, call.x, call.shape, weight=weight.T.astype(g.dtype))


def _batch_norm(g: NirGraph, call: NirCall) -> NirSignal | None:
    mean, var = call.array("running_mean"), call.array("running_var")
    if mean is None or var is None or call.given.get("training"):
        return None
    factor = 1 / np.sqrt(var.astype(np.float64) + call.given["eps"])
    weight, bias = call.array("weight"), call.array("bias")
    factor = factor if weight is None else factor * weight
    shift = -mean * factor if bias is None else bias - mean * factor
    axes = (-1, *[1] * (len(call.x.shape) - 1))
    scaled = g.scaled(call.name, call.x, factor.reshape(axes))
    return g.sum(call.name, [scaled, g.constant(f"{call.name}.bias", scaled, shift.reshape(axes))])


# Sums and factors.


def _sum(g: NirGraph, call: NirCall) -> NirSignal | None:
    alpha = call.given.get("alpha", 1)
    factors = {"add": (1, alpha), "sub": (1, -alpha), "rsub": (-alpha, 1)}[op_name(call.node)]
    parts = list(zip((call.given["self"], call.given["other"]), factors, strict=True))
    signals = []
    for value, factor in parts:
        if isinstance(value, NirSignal):
            if value.shape != call.shape:
                return None
            made = value if factor == 1 else g.scaled(f"{call.name}.factor", value, factor)
            signals.append(made)
    for value, factor in parts:
        if not isinstance(value, NirSignal):
            found = _spread(value, call.shape)
            if found is None:
                return None
            signals.append(g.constant(f"{call.name}.constant", signals[0], found * factor))
    return g.sum(call.name, signals)


def _times(g: NirGraph, call: NirCall) -> NirSignal | None:
    x, other = call.given["self"], call.given["other"]
    divides = op_name(call.node) == "div"
    if not isinstance(x, NirSignal) and not divides:
        x, other = other, x
    factor = _spread(other, call.shape)
    if not isinstance(x, NirSignal) or factor is None or x.shape != call.shape:
        return None
    if call.given.get("rounding_mode"):
        return None
    return g.scaled(call.name, x, 1 / factor if divides else factor)


def _spread(value: Any, shape: Shape) -> Array | None:
    """A constant that is the same for all images, float64; None for any other."""
    if isinstance(value, NirSignal) or value is None:
        return None
    array = value.detach().cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)
    if array.ndim > len(shape):
        if not np.array_equal(array, np.broadcast_to(array[:1], array.shape), equal_nan=True):
            return None
        array = array[0]
    return array.astype(np.float64) if array.ndim <= len(shape) else None


def _neg(g: NirGraph, call: NirCall) -> NirSignal | None:
    return g.scaled(call.name, call.x, -1)


# Pools.


def _mean(g: NirGraph, call: NirCall) -> NirSignal | None:
    """Means or sums over the last two axes of three."""
    axes, x = call.given.get("dim"), call.x
    if len(x.shape) != 3 or axes is None or sorted(a % 4 for a in axes) != [2, 3]:
        return None
    kind = "AvgPool2d" if op_name(call.node) == "mean" else "SumPool2d"
    pooled = _pooled(g, kind, call.name, x, x.shape[1:], x.shape[1:], (0, 0), (x.shape[0], 1, 1))
    return pooled if call.given.get("keepdim") else _flat(g, call.name, pooled, 0, -1, call.shape)


def _avg_pool(g: NirGraph, call: NirCall) -> NirSignal | None:
    given, x = call.given, call.x
    kernel = _pair(given["kernel_size"])
    stride = _pair(given["stride"]) if given["stride"] else kernel
    padding = _pair(given["padding"])
    sizes = zip(x.shape[1:], kernel, stride, padding, strict=True)
    whole = tuple((n + 2 * p - k) // s + 1 for n, k, s, p in sizes)
    if len(x.shape) != 3 or call.shape[1:] != whole:
        return None
    divisor = given.get("divisor_override")
    if padding == (0, 0) and not divisor:
        return _pooled(g, "AvgPool2d", call.name, x, kernel, stride, padding, call.shape)
    sums = _pooled(g, "SumPool2d", f"{call.name}.sum", x, kernel, stride, padding, call.shape)
    count: Any = divisor or kernel[0] * kernel[1]
    if not divisor and not given["count_include_pad"]:
        rows, columns = (
            _places(n, k, s, p)
            for n, k, s, p in zip(x.shape[1:], kernel, stride, padding, strict=True)
        )
        count = np.outer(rows, columns)
    return g.scaled(call.name, sums, 1 / np.asarray(count, np.float64))


def _places(length: int, kernel: int, stride: int, padding: int) -> Array:
    """How many places of each window are no padding."""
    starts = np.arange((length + 2 * padding - kernel) // stride + 1) * stride - padding
    found: Array = np.minimum(starts + kernel, length) - np.maximum(starts, 0)
    return found


def _adaptive_pool(g: NirGraph, call: NirCall) -> NirSignal | None:
    x = call.x
    if len(x.shape) != 3 or any(n % m for n, m in zip(x.shape[1:], call.shape[1:], strict=True)):
        return None
    kernel = tuple(n // m for n, m in zip(x.shape[1:], call.shape[1:], strict=True))
    return _pooled(g, "AvgPool2d", call.name, x, kernel, kernel, (0, 0), call.shape)


def _pooled(
    g: NirGraph, kind: str, name: str, x: NirSignal, kernel: Shape, stride: Shape, padding: Shape,
    shape: Shape,
) -> NirSignal:  # fmt: skip
    return g.add(
        kind, name, x, shape,
        kernel_size=np.array(kernel), stride=np.array(stride), padding=np.array(padding),
    )  # fmt: skip


# Layouts.


def _reshape(g: NirGraph, call: NirCall) -> NirSignal | None:
    """Axes that follow each other become one, or nothing changes."""
    old, new = call.x.shape, call.shape
    if old == new:
        return call.x
    for start in range(len(old)):
        for end in range(start, len(old)):
            merged = int(np.prod(old[start : end + 1]))
            if (*old[:start], merged, *old[end + 1 :]) == new:
                last = -1 if end == len(old) - 1 else end
                return _flat(g, call.name, call.x, start, last, new)
    return None


def _flat(g: NirGraph, name: str, x: NirSignal, start: int, end: int, shape: Shape) -> NirSignal:
    input_type = {"input": np.array(x.shape)}
    return g.add(
        "Flatten", f"{name}.flat", x, shape, input_type=input_type, start_dim=start, end_dim=end
    )


def _slice(g: NirGraph, call: NirCall) -> NirSignal | None:
    axis, step = call.given.get("dim", 0) % (len(call.x.shape) + 1), call.given.get("step", 1)
    if call.shape == call.x.shape:
        return call.x
    if axis == 0 or any(isinstance(call.given.get(n), NirSignal) for n in ("start", "end")):
        return None
    length, kept = call.x.shape[axis - 1], call.shape[axis - 1]
    start = call.given.get("start") or 0
    start = max(0, start + length if start < 0 else start)
    if axis == 1:
        return g.mixed(call.name, call.x, np.eye(length)[start : start + step * kept : step])
    behind = length - start - ((kept - 1) * step + 1)
    return moved(g, call.name, call.x, axis - 1, -start, -behind, step)


def _pad(g: NirGraph, call: NirCall) -> NirSignal | None:
    """Zeros before and behind each axis; a negative number of them takes values away."""
    if call.given.get("value") or call.given.get("mode", "constant") != "constant":
        return None
    pads, signal = list(call.given["pad"]), call.x
    for i in range(0, len(pads), 2):
        axis, first, last = len(signal.shape) - 1 - i // 2, pads[i], pads[i + 1]
        if (first, last) == (0, 0):
            continue
        if axis < 0:
            return None
        length = signal.shape[axis]
        if axis == 0:
            chosen = np.eye(length + first + last, length, -first)
            signal = g.mixed(call.name, signal, chosen)
            continue
        made = moved(g, call.name, signal, axis, first, last)
        if made is None:
            return None
        signal = made
    return signal


def _cat(g: NirGraph, call: NirCall) -> NirSignal | None:
    """Signals behind each other along their first axis."""
    tensors = call.given["tensors"]
    if not all(isinstance(x, NirSignal) for x in tensors):
        return None
    if call.given.get("dim", 0) % (len(call.shape) + 1) != 1 or len(call.shape) > 3:
        return None
    parts, done = [], 0
    for i, x in enumerate(tensors):
        length = x.shape[0]
        matrix = np.eye(call.shape[0], length, -done)
        parts.append(g.mixed(f"{call.name}.part{i + 1}", x, matrix))
        done += length
    return g.sum(call.name, parts)


def _same(g: NirGraph, call: NirCall) -> NirSignal | None:
    return call.x


RULES: dict[str, Rule] = {
    **dict.fromkeys(("conv1d", "conv2d"), _conv),
    "linear": _linear,
    **dict.fromkeys(("mm", "matmul"), _matmul),
    **dict.fromkeys(("batch_norm", "_native_batch_norm_legit_no_training"), _batch_norm),
    **dict.fromkeys(("add", "sub", "rsub"), _sum),
    **dict.fromkeys(("mul", "div"), _times),
    "neg": _neg,
    **dict.fromkeys(("mean", "sum"), _mean),
    "avg_pool2d": _avg_pool,
    **dict.fromkeys(("adaptive_avg_pool2d", "_adaptive_avg_pool2d"), _adaptive_pool),
    **dict.fromkeys(
        "view reshape _unsafe_view view_copy flatten squeeze unsqueeze".split(), _reshape
    ),
    "slice": _slice,
    **dict.fromkeys(("constant_pad_nd", "pad"), _pad),
    "cat": _cat,
    **dict.fromkeys(
        "alias clone contiguous detach lift_fresh_copy positive _to_copy".split(), _same
    ),
}
