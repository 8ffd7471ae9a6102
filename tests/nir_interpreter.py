"""Runs a graph of NIR in numpy, from NIR's specification alone: nothing of the package is read.

A node with several edges coming in takes their sum. Values are float64 ``[N, ...]``, N images that
are all there at the same time step. Source: https://neuroir.org/docs/primitives.html.
"""

from collections import deque
from typing import Any

import nir
import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

Array = Any


def run(graph: nir.NIRGraph, **inputs: Array) -> dict[str, Array]:
    """What every node gives.

    Args:
        graph: without circles.
        inputs: one array ``[N, ...]`` for each of its inputs.
    """
    before: dict[str, list[str]] = {name: [] for name in graph.nodes}
    behind: dict[str, list[str]] = {name: [] for name in graph.nodes}
    for source, target in graph.edges:
        before[target].append(source)
        behind[source].append(target)
    missing = {name: len(sources) for name, sources in before.items()}
    ready = deque(name for name, count in missing.items() if not count)
    values: dict[str, Array] = {}
    while ready:
        name = ready.popleft()
        node = graph.nodes[name]
        if isinstance(node, nir.Input):
            values[name] = np.asarray(inputs[name], np.float64)
        else:
            given = sum(values[source] for source in before[name])
            values[name] = _KINDS[type(node)](node, given)
        shape = tuple(int(n) for n in next(iter(node.output_type.values())))
        assert values[name].shape[1:] == shape, (name, values[name].shape, shape)
        for target in behind[name]:
            missing[target] -= 1
            if not missing[target]:
                ready.append(target)
    assert len(values) == len(graph.nodes), "the graph has a circle"
    return values


def _threshold(node: nir.Threshold, x: Array) -> Array:
    return (x > node.threshold.astype(np.float64)).astype(np.float64)


def _scale(node: nir.Scale, x: Array) -> Array:
    return x * node.scale.astype(np.float64)


def _affine(node: nir.Affine, x: Array) -> Array:
    return x @ node.weight.astype(np.float64).T + node.bias.astype(np.float64)


def _linear(node: nir.Linear, x: Array) -> Array:
    return x @ node.weight.astype(np.float64).T


def _pair(value: Any) -> tuple[int, int]:
    values = np.atleast_1d(value)
    return (int(values[0]), int(values[-1]))


def _windows(x: Array, kernel: Any, stride: Any, padding: Any, dilation: Any = 1) -> Array:
    """Windows ``[N, C, H, W, KH, KW]`` of ``x [N, C, ...]`` with zeros around it."""
    (kh, kw), (sh, sw), (dh, dw) = _pair(kernel), _pair(stride), _pair(dilation)
    ph, pw = _pair(padding)
    x = np.pad(x, ((0, 0), (0, 0), (ph, ph), (pw, pw)))
    found = sliding_window_view(x, ((kh - 1) * dh + 1, (kw - 1) * dw + 1), axis=(2, 3))
    return found[:, :, ::sh, ::sw, ::dh, ::dw]


def _conv2d(node: nir.Conv2d, x: Array) -> Array:
    assert int(node.groups) == 1
    weight = node.weight.astype(np.float64)
    windows = _windows(x, weight.shape[2:], node.stride, node.padding, node.dilation)
    made = np.tensordot(windows, weight, ((1, 4, 5), (1, 2, 3)))
    return np.moveaxis(made, -1, 1) + node.bias.astype(np.float64)[:, None, None]


def _conv1d(node: nir.Conv1d, x: Array) -> Array:
    assert int(node.groups) == 1
    weight = node.weight.astype(np.float64)[:, :, None]
    span = int(node.dilation) * (weight.shape[-1] - 1)
    padding = node.padding
    if isinstance(padding, str):
        padding = span // 2 if padding == "same" else 0
        assert span % 2 == 0
    windows = _windows(
        x[:, :, None], weight.shape[2:], (1, int(node.stride)), (0, int(padding)),
        (1, int(node.dilation)),
    )  # fmt: skip
    made = np.tensordot(windows, weight, ((1, 4, 5), (1, 2, 3)))
    return np.moveaxis(made, -1, 1)[:, :, 0] + node.bias.astype(np.float64)[:, None]


def _sum_pool(node: nir.SumPool2d, x: Array) -> Array:
    return _windows(x, node.kernel_size, node.stride, node.padding).sum((4, 5))


def _avg_pool(node: nir.AvgPool2d, x: Array) -> Array:
    assert not np.any(node.padding)
    return _windows(x, node.kernel_size, node.stride, node.padding).mean((4, 5))


def _flatten(node: nir.Flatten, x: Array) -> Array:
    shape = list(x.shape[1:])
    start, end = int(node.start_dim), int(node.end_dim) % len(shape)
    return x.reshape(len(x), *shape[:start], -1, *shape[end + 1 :])


_KINDS: dict[type, Any] = {
    nir.Affine: _affine,
    nir.AvgPool2d: _avg_pool,
    nir.Conv1d: _conv1d,
    nir.Conv2d: _conv2d,
    nir.Flatten: _flatten,
    nir.Linear: _linear,
    nir.Output: lambda _, x: x,
    nir.Scale: _scale,
    nir.SumPool2d: _sum_pool,
    nir.Threshold: _threshold,
}


def spikes_of(graph: nir.NIRGraph, values: dict[str, Array], site: str) -> Array:
    """Spikes of a site, bool ``[K, N, ...]``, those of all tables together.

    The metadata of its thresholds says which they are.
    """
    steps: dict[int, Array] = {}
    for name, node in graph.nodes.items():
        told = node.metadata
        if told.get("site") in (site, site.encode()) and "step" in told:
            step = int(told["step"])
            steps[step] = steps.get(step, 0) + values[name]
    found = np.stack([steps[t] for t in sorted(steps)])
    assert found.max(initial=0) <= 1, "two tables fired at once"
    return found.astype(bool)
