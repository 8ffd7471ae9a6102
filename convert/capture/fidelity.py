"""Whether a captured graph reproduces its model, and how much of a difference is rounding."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ..calls.batch_parts import listed
from ..calls.own_classes import check_outputs, register
from ..common.messages import first_line, users_line
from ..errors import CaptureError

# Enough to see a difference, and not as many as are exported.
CHECKED_ROWS = 3
# Layers round too, not the inputs alone; a gap above the second is no rounding in any network.
_AMPLIFIED, _MOST_AMPLIFIED = 10.0, 0.02
# Largest difference that counts as rounding, over the output's largest magnitude.
ROUNDING = {torch.float64: 1e-9, torch.float32: 1e-4, torch.float16: 3e-2, torch.bfloat16: 0.2}

Inputs = tuple[tuple[Any, ...], dict[str, Any]]


def deterministic(
    model: nn.Module, inputs: Inputs, others: Inputs, restore: Callable[[], None]
) -> list[Tensor]:
    """The floating-point outputs of a model that gives the same ones twice.

    They are those of its first call, and have to be those of a call after another one as well: what
    a model keeps of its first batch would else be part of the network.

    Args:
        model: a model in eval mode.
        inputs: of which the outputs are wanted.
        others: other inputs that it takes.
        restore: makes the model what it was before a call.

    Raises:
        CaptureError: if it gives others or none, or refuses the inputs.
    """
    restore()
    first = _called(model, inputs)
    if not first:
        raise CaptureError("the model returns no floating-point tensor; there is nothing to spike")
    if any(leaf.is_meta for leaf in first):
        raise CaptureError("the model returns tensors on the meta device, which have no values")
    restore()
    _called(model, others)
    try:
        second = _called(model, inputs)
    except CaptureError as error:
        raise CaptureError(
            "the model takes the calibration batch at its first call, and not after another "
            f"({first_line(error.__cause__ or error)}); remove the state that forward keeps"
        ) from error.__cause__
    gap = gap_between(first, second)
    if gap > 0:
        raise CaptureError(
            "the model gives different outputs for the same input in eval mode (largest "
            f"difference {gap:.3g} of the output's magnitude); remove the randomness or the "
            "state that forward keeps"
        )
    return first


def _called(model: nn.Module, inputs: Inputs) -> list[Tensor]:
    try:
        result = model(*inputs[0], **inputs[1])
    except Exception as error:
        shapes = [tuple(t.shape) for t in pytree.tree_leaves(inputs) if is_tensor(t)]
        line = users_line(error)
        where = f" at {line}" if line else ""
        advice = _beyond_tables(model, inputs) if isinstance(error, IndexError) else ""
        raise CaptureError(
            f"the model refuses the calibration batch {shapes}{where}: {first_line(error)}; "
            f"{advice or _advice(model, inputs)}"
        ) from error
    register(result)
    check_outputs(result)
    return floats(result)


def _advice(model: nn.Module, inputs: Inputs) -> str:
    """What to check of inputs that a model refuses."""
    takes = list(inspect.signature(model.forward).parameters)
    images = any(is_float(t) for t in pytree.tree_leaves(inputs))
    if not inputs[1] or (images and set(inputs[1]) <= set(takes)):
        return "check the image size, the data type and the number of inputs"
    return (
        f"the batch gives {', '.join(inputs[1])}, forward takes {listed(takes)}: check which of "
        "them are given, and that no text is longer than the model's positions"
    )


def _beyond_tables(model: nn.Module, inputs: Inputs) -> str:
    """Which table a whole number lies beyond; empty if none is found."""
    found: list[str] = []

    def check(name: str, table: nn.Embedding, numbers: Tensor) -> None:
        most = int(numbers.max()) if numbers.numel() else 0
        if not found and (most >= table.num_embeddings or int(numbers.min()) < 0):
            found.append(
                f"{name} has {table.num_embeddings} rows, and is asked for numbers from "
                f"{int(numbers.min())} to {most}: check the token ids, and that no text is longer "
                "than the model's positions"
            )

    tables = [(n, m) for n, m in model.named_modules() if isinstance(m, nn.Embedding)]
    handles = [
        table.register_forward_pre_hook(lambda m, given, name=name: check(name, m, given[0]))
        for name, table in tables
    ]
    try:
        model(*inputs[0], **inputs[1])
    except Exception:
        pass  # it is known to fail
    finally:
        for handle in handles:
            handle.remove()
    return "".join(found)


def dimmed(inputs: Inputs) -> Inputs:
    """The inputs with other floating-point values, unevenly nearer to 0: what came from the values
    that were exported shows."""
    factors = torch.tensor([1.0, 0.87123, 0.74391])

    def moved(leaf: Any) -> Any:
        if not is_float(leaf) or not leaf.numel():
            return leaf
        scale = factors[torch.arange(leaf.numel()) % len(factors)].reshape(leaf.shape)
        return leaf * scale.to(leaf)

    found: Inputs = pytree.tree_map(moved, inputs)
    return found


def sensitivity(model: nn.Module, inputs: Inputs) -> float:
    """How far rounding may move the outputs of a network that amplifies small differences.

    That is a multiple of what the last bits of the inputs do: a deep network with random weights
    makes much of them.
    """
    generator = torch.Generator().manual_seed(0)

    def moved(leaf: Any) -> Any:
        if not is_float(leaf):
            return leaf
        noise = torch.randn(leaf.shape, generator=generator).to(leaf)
        return leaf * (1 + torch.finfo(leaf.dtype).eps * noise)

    args, kwargs = pytree.tree_map(moved, inputs)
    expected, found = floats(model(*inputs[0], **inputs[1])), floats(model(*args, **kwargs))
    gaps = [largest_gap(a, b) for a, b in zip(expected, found, strict=True)]
    return min(_AMPLIFIED * max(g if math.isfinite(g) else 0.0 for g in gaps), _MOST_AMPLIFIED)


def difference(expected: list[Tensor], found: Iterable[Any], least: float = 0.0) -> float:
    """Largest difference of the outputs, over the largest magnitude.

    Args:
        expected: the model's floating-point outputs.
        found: all outputs of the graph.
        least: differences up to this count as rounding in any case.

    Raises:
        CaptureError: if it is more than rounding, or the outputs have another form.
    """
    floats = [leaf for leaf in found if is_float(leaf)]
    if len(floats) != len(expected):
        raise CaptureError(
            f"the captured graph returns {len(floats)} tensors, the model {len(expected)}; return "
            "the same outputs whatever the batch size"
        )
    worst = 0.0
    for a, b in zip(expected, floats, strict=True):
        if a.shape != b.shape:
            raise CaptureError(
                f"on a batch of {CHECKED_ROWS} the captured graph returns {tuple(b.shape)}, the "
                f"model {tuple(a.shape)}; forward fixes the batch size, use x.shape[0] instead"
            )
        gap = largest_gap(a, b)
        # `not <=` refuses NaN too.
        if not gap <= max(ROUNDING.get(a.dtype, 1e-4), least):
            raise CaptureError(
                "the captured graph doesn't reproduce the model: largest difference "
                f"{gap:.3g} of the output's magnitude on a batch of {CHECKED_ROWS}; forward "
                "probably depends on the batch size or on values"
            )
        worst = max(worst, gap)
    return worst


def largest_gap(a: Tensor, b: Tensor) -> float:
    """Largest difference over the largest magnitude; equal NaN and infinities count as equal."""
    a, b = a.double(), b.double()
    same = (a == b) | (a.isnan() & b.isnan())
    if bool(same.all()):
        return 0.0
    finite = a[a.isfinite()].abs()
    scale = float(finite.max()) if finite.numel() else 1.0
    return float((a - b)[~same].abs().max()) / max(scale, 1e-30)


def gap_between(expected: list[Tensor], found: list[Tensor]) -> float:
    """The largest of the outputs' gaps; infinite if their number or a shape differs."""
    if [leaf.shape for leaf in expected] != [leaf.shape for leaf in found]:
        return math.inf
    return max(map(largest_gap, expected, found), default=0.0)


def agree(expected: list[Tensor], found: list[Tensor]) -> bool:
    """Whether outputs are the same but for rounding."""
    least = min((ROUNDING.get(a.dtype, 1e-4) for a in expected), default=0.0)
    return gap_between(expected, found) <= least


def floats(outputs: Any) -> list[Tensor]:
    """The floating-point tensors of what a model returns."""
    return [leaf.detach() for leaf in pytree.tree_leaves(outputs) if is_float(leaf)]


def is_tensor(value: Any) -> TypeGuard[Tensor]:
    """Whether a leaf of the inputs or outputs is a tensor."""
    return isinstance(value, Tensor)


def is_float(value: Any) -> TypeGuard[Tensor]:
    """Whether it is a floating-point tensor."""
    return isinstance(value, Tensor) and value.is_floating_point()
