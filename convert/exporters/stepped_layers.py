"""Layers of SpikingJelly for the linear operations that it has: convolutions, linear layers, pools.

They run in multi-step mode. A bias stays in its layer where the input comes in one step; of several
steps it is added in the first alone.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from spikingjelly.activation_based import base, layer
from torch import Tensor, nn
from torch.fx import Node

from ..graph.node_facts import read
from .stepped_graph import SteppedGraph, Steps
from .subject import arguments, op_name, rank

_POOLS = {f"avg_pool{n}d": getattr(layer, f"AvgPool{n}d") for n in (1, 2, 3)}
_ADAPTIVE = {f"adaptive_avg_pool{n}d": getattr(layer, f"AdaptiveAvgPool{n}d") for n in (1, 2, 3)}
_ADAPTIVE["_adaptive_avg_pool2d"] = layer.AdaptiveAvgPool2d
# The name of the weight's owner is the layer's.
_WEIGHT = ".weight"


def multi_step(module: nn.Module) -> nn.Module:
    """A layer in multi-step mode, which refuses any other: this network has no single steps."""
    assert isinstance(module, base.StepModule)
    module.step_mode = "m"
    # Of the standard library, so that a file with it needs nothing of this package.
    module.supported_step_mode = partial(tuple, ("m",))
    return module


def layer_behind(g: SteppedGraph, node: Node) -> Steps | None:
    """The currents behind a layer of SpikingJelly; None where it has none for an operation."""
    name, given = op_name(node), arguments(node)
    if name.startswith("conv") and name[-1:] == "d":
        return _weighted(g, node, given, "transpose" in name, int(name[-2]))
    if name == "linear":
        return _weighted(g, node, given, False, 0)
    x = given.get("self")
    if name not in (*_POOLS, *_ADAPTIVE) or not isinstance(x, Node) or not g.is_signal(x):
        return None
    if rank(x) != int(name[-2]) + 2 or any(isinstance(v, Node) for v in _flat(node.args[1:])):
        return None
    pool = _adaptive(name, given) if name in _ADAPTIVE else _pool(name, given)
    return _called(g, name, pool, g.over_steps(x))


def _flat(values: Any) -> list[Any]:
    return [w for v in values for w in (v if isinstance(v, list | tuple) else [v])]


def _called(g: SteppedGraph, path: str, module: nn.Module, steps: Steps) -> Steps:
    placed = g.module(path, multi_step(module))
    return Steps(g.call_module(placed, steps.node), steps.count)


def _adaptive(name: str, given: dict[str, Any]) -> nn.Module:
    made: nn.Module = _ADAPTIVE[name](given["output_size"])
    return made


def _pool(name: str, given: dict[str, Any]) -> nn.Module:
    kernel = given["kernel_size"]
    options: dict[str, Any] = {
        "stride": given["stride"] or kernel,
        "padding": given["padding"],
        "ceil_mode": given["ceil_mode"],
        "count_include_pad": given["count_include_pad"],
    }
    if name == "avg_pool1d":
        kernel, options["stride"] = kernel[0], options["stride"][0]
        options["padding"] = given["padding"][0]
    else:
        options["divisor_override"] = given["divisor_override"]
    made: nn.Module = _POOLS[name](kernel, **options)
    return made


def _weighted(
    g: SteppedGraph, node: Node, given: dict[str, Any], transposed: bool, dims: int
) -> Steps | None:
    """A layer with weights: a convolution over `dims` axes, or a linear layer."""
    x, weight, bias = given["input"], given["weight"], given.get("bias")
    held = [w for w in (weight, bias) if w is not None]
    if not g.is_signal(x) or any(not isinstance(w, Node) or w.op != "get_attr" for w in held):
        return None
    if dims and rank(x) != dims + 2:
        return None
    weights: Tensor = read(g.subject.network, weight)
    steps = g.over_steps(x)
    inside = bias is not None and steps.count == 1
    make = partial(_convolution, given, weights, transposed, dims) if dims else None
    module = make(inside) if make else _linear(weights, inside)
    path = str(weight.target)
    path = path.removesuffix(_WEIGHT) if path.endswith(_WEIGHT) else op_name(node)
    made = _called(g, path, module, steps)
    placed = str(made.node.target)
    module.weight = g.parameter(str(weight.target), weights)
    if bias is None:
        return made
    kept: Tensor = read(g.subject.network, bias)
    if inside:
        module.bias = g.parameter(str(bias.target), kept)
        return made
    current = g.hold(f"{placed}_bias", g.parameter(str(bias.target), kept))
    index = (slice(None), *[None] * dims)
    first = g.at_first(current, rank(node), made.count, index)
    return Steps(g.call(torch.add, made.node, first), made.count)


def _linear(weights: Tensor, bias: bool) -> nn.Module:
    outputs, inputs = weights.shape
    with torch.device("meta"):  # its weights come from elsewhere
        made: nn.Module = layer.Linear(inputs, outputs, bias)
    return made


def _convolution(
    given: dict[str, Any], weights: Tensor, transposed: bool, dims: int, bias: bool
) -> nn.Module:
    groups, padding = given["groups"], given["padding"]
    first, second, *kernel = weights.shape
    options = {
        "stride": _several(given["stride"], dims),
        "padding": padding if isinstance(padding, str) else _several(padding, dims),
        "dilation": _several(given["dilation"], dims),
        "groups": groups,
        "bias": bias,
    }
    sizes = (second * groups, first)
    if transposed:
        options["output_padding"] = _several(given["output_padding"], dims)
        sizes = (first, second * groups)
    kind: Callable[..., nn.Module] = getattr(
        layer, f"ConvTranspose{dims}d" if transposed else f"Conv{dims}d"
    )
    with torch.device("meta"):  # its weights come from elsewhere
        return kind(*sizes, tuple(kernel), **options)


def _several(value: Any, dims: int) -> tuple[int, ...]:
    """One number for each axis."""
    values = list(value) if isinstance(value, list | tuple) else [value]
    return tuple(values * dims if len(values) == 1 else values)
