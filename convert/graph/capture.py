"""A model and an example batch in, a functional ATen graph out. The model is left as it was."""

from __future__ import annotations

import copy
import inspect
import math
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Graph, GraphModule
from torch.fx.graph import CodeGen
from torch.utils import _pytree as pytree

from ..errors import CaptureError
from . import fold
from . import origins as layers
from . import recognise_norms as norms
from .call_signature import Signature, inputs_needed, rows, split_batch
from .decompositions import table
from .passes import Fact, Pass, check, run

# Layers round too, not the inputs alone; a gap above the second is no rounding in any network.
_AMPLIFIED, _MOST_AMPLIFIED = 10.0, 0.02
# Three images are enough to see a difference and differ from the batch that is exported.
_EXPORTED_ROWS, _CHECKED_ROWS = 5, 3
# Largest difference that counts as rounding, over the output's largest magnitude.
_ROUNDING = {torch.float64: 1e-9, torch.float32: 1e-4, torch.float16: 3e-2, torch.bfloat16: 0.2}

# What is true of an exported graph; what is done then, and what once the graph has been checked.
GIVEN = frozenset({Fact.PLAIN})
_FOLDING: tuple[Pass[GraphModule], ...] = (
    Pass("fold constants", GIVEN, frozenset({Fact.CONSTANTS}), fold.constants),
    Pass(
        "fold batch norms",
        frozenset({Fact.CONSTANTS}),
        frozenset({Fact.NO_BATCH_NORM}),
        fold.batch_norms,
    ),
)
_READING: tuple[Pass[GraphModule], ...] = (
    Pass(
        "recognise norms",
        frozenset({Fact.CONSTANTS, Fact.NO_BATCH_NORM}),
        frozenset({Fact.NORMS}),
        norms.recognise,
    ),
    Pass(
        "mark layers",
        frozenset({Fact.NORMS}),
        frozenset({Fact.LAYERS}),
        lambda graph_module: layers.mark(graph_module.graph),
    ),
)
PASSES = _FOLDING + _READING


@dataclass
class Captured:
    """A network as a graph.

    Args:
        graph_module: flat placeholders in, a flat tuple out; ATen operations only; eval mode.
        signature: how the model is called and what it returns.
        difference: largest difference from the model's own output, over its largest magnitude.
        notes: what the user should know of how it was captured.
    """

    graph_module: GraphModule
    signature: Signature
    difference: float
    notes: list[str] = field(default_factory=list)


def capture(model: nn.Module, batch: Any, *, device: torch.device | str | None = None) -> Captured:
    """Captures `model` in eval mode, decomposed, batch norm and constants folded.

    Args:
        model: any module that `torch.export` takes; neither it nor its weights are touched.
        batch: one calibration batch: a tensor ``[N, ...]``, ``(inputs, label)``, ``(x, t)`` for a
            model that can't do without two inputs, or a dict of keyword inputs.
        device: where the result lives; the model's own device if None.

    Raises:
        CaptureError: if the model can't be exported, gives other outputs from call to call, or
            isn't reproduced by its graph to rounding.
    """
    notes: list[str] = []
    copied = _isolated(model, notes)
    target = torch.device(device) if device is not None else _device(copied)
    copied.to(target)
    args, kwargs = split_batch(batch, target, takes=inputs_needed(copied))
    args, kwargs = rows((args, kwargs), _EXPORTED_ROWS)
    checked = rows((args, kwargs), _CHECKED_ROWS)
    with torch.no_grad(), _slow_attention(copied, checked, notes):
        expected = _deterministic(copied, *checked)
        exported, size = _export(copied, args, kwargs)
        module = exported.module(check_guards=False)
        graph_module = _plain(module)
        signature = Signature.of(copied, args, kwargs, exported.call_spec.out_spec, size)
        flat = signature.flatten(*checked)
        run(_FOLDING, graph_module, GIVEN)
        least = _sensitivity(copied, checked, expected)
        _difference(expected, graph_module(*flat), least)
        run(_READING, graph_module, check(_FOLDING, GIVEN))
        # An epsilon may move from outside a norm's root to inside, which double precision sees.
        least = max(least, _ROUNDING[torch.float32])
        difference = _difference(expected, graph_module(*flat), least)
    return Captured(graph_module, signature, difference, notes)


def _isolated(model: nn.Module, notes: list[str]) -> nn.Module:
    """A deep copy in eval mode without wrappers and hooks."""
    if not isinstance(model, nn.Module):
        raise CaptureError(
            f"the model is a {type(model).__name__}; give a torch.nn.Module (wrap a function in "
            "a module whose forward calls it)"
        )
    while (inner := _wrapped(model)) is not None:
        model = inner
    try:
        copied = copy.deepcopy(model)
    except Exception as error:
        raise CaptureError(
            f"the model can't be copied ({_first_line(error)}); remove attributes that don't "
            "deep-copy, such as tensors kept from a forward pass or open files"
        ) from error
    hooked = 0
    for module in copied.modules():
        for name, value in vars(module).items():
            if name.endswith("_hooks") and isinstance(value, dict | OrderedDict) and value:
                hooked += len(value)
                value.clear()
    if hooked:
        notes.append(f"{hooked} hooks of the model were left out of the conversion")
    config = getattr(copied, "config", None)
    if config is not None and getattr(config, "use_cache", False) is True:
        # Keys and values kept for a next token are state, not an output of the network.
        config.use_cache = False
        notes.append("the model's config.use_cache was switched off in the conversion")
    if model.training:
        notes.append("the model was in training mode; it is converted in eval mode")
    for note in notes:
        warnings.warn(note, stacklevel=4)
    return copied.eval().requires_grad_(False)


def _wrapped(model: nn.Module) -> nn.Module | None:
    """The module inside torch.compile's wrapper or a parallel one; None for any other."""
    parallel = nn.DataParallel | nn.parallel.DistributedDataParallel
    inner = model.module if isinstance(model, parallel) else getattr(model, "_orig_mod", None)
    return inner if isinstance(inner, nn.Module) else None


def _device(model: nn.Module) -> torch.device:
    for tensor in _tensors(model):
        return tensor.device
    return torch.device("cpu")


def _tensors(model: nn.Module) -> Iterator[Tensor]:
    yield from model.parameters()
    yield from model.buffers()


@contextmanager
def _slow_attention(model: nn.Module, inputs: Any, notes: list[str]) -> Iterator[None]:
    """Keeps torch's fused attention layers, which `torch.export` can't see, out of the block.

    They return other values, and sometimes fewer positions, where a padding mask hides positions.
    """
    layers = (nn.TransformerEncoder, nn.TransformerEncoderLayer, nn.MultiheadAttention)
    enabled = torch.backends.mha.get_fastpath_enabled()
    fused = _floats(model, inputs) if any(isinstance(m, layers) for m in model.modules()) else []
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        for a, b in zip(fused, _floats(model, inputs) if fused else [], strict=False):
            if a.shape != b.shape or not _gap(a, b) <= _ROUNDING.get(a.dtype, 1e-4):
                notes.append(
                    "torch's fused attention layers give this model other values at padded "
                    "positions; it is converted as it computes without them "
                    "(torch.backends.mha.set_fastpath_enabled(False))"
                )
                warnings.warn(notes[-1], stacklevel=5)
                break
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(enabled)


def _floats(model: nn.Module, inputs: Any) -> list[Tensor]:
    """Floating-point outputs, none if the model refuses the inputs."""
    try:
        return [
            leaf for leaf in pytree.tree_leaves(model(*inputs[0], **inputs[1])) if _is_float(leaf)
        ]
    except Exception:
        return []


def _deterministic(model: nn.Module, args: Any, kwargs: Any) -> list[Tensor]:
    try:
        first, second = (
            [leaf for leaf in pytree.tree_leaves(model(*args, **kwargs)) if _is_float(leaf)]
            for _ in range(2)
        )
    except Exception as error:
        shapes = [tuple(t.shape) for t in pytree.tree_leaves((args, kwargs)) if _is_tensor(t)]
        raise CaptureError(
            f"the model refuses the calibration batch {shapes}: {_first_line(error)}; check the "
            "image size, the data type and the number of inputs"
        ) from error
    if not first:
        raise CaptureError("the model returns no floating-point tensor; there is nothing to spike")
    for a, b in zip(first, second, strict=True):
        gap = _gap(a, b)
        if gap > 0:
            raise CaptureError(
                "the model gives different outputs for the same input in eval mode (largest "
                f"difference {gap:.3g} of the output's magnitude); remove the randomness or the "
                "state that forward keeps"
            )
    return first


def _export(
    model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[torch.export.ExportedProgram, int]:
    size = _EXPORTED_ROWS
    batch = torch.export.Dim("batch", min=1)

    def dynamic(leaf: Any) -> dict[int, Any] | None:
        batched = _is_tensor(leaf) and leaf.dim() > 0 and leaf.shape[0] == size
        return {0: batch} if batched else None

    shapes = pytree.tree_map(dynamic, (args, kwargs))
    names = list(inspect.signature(model.forward).parameters)
    try:
        by_name = dict(zip(names, shapes[0], strict=False)) | shapes[1]
        variadic = any(
            parameter.kind is parameter.VAR_POSITIONAL
            for parameter in inspect.signature(model.forward).parameters.values()
        )
        exported = torch.export.export(
            model,
            args,
            kwargs,
            dynamic_shapes=(shapes[0],) if variadic else by_name,
        )
        return exported.run_decompositions(table()), size
    except Exception as error:
        raise CaptureError(
            f"{type(model).__name__} can't be captured by torch.export: {_first_line(error)}; "
            "forward must not branch on tensor values, nor on the batch size: use torch.where, "
            "or convert the part that is free of such branches"
        ) from error


def _plain(module: nn.Module) -> GraphModule:
    """A GraphModule without guards, hooks, input trees or assertions; flat inputs and outputs."""
    source = module.graph
    assert isinstance(source, Graph)
    source.set_codegen(CodeGen())
    for node in list(source.nodes):
        if node.op == "call_module" and node.target == "_guards_fn":
            source.erase_node(node)
        elif node.op == "call_function" and _is_assertion(node.target):
            source.erase_node(node)
        elif node.target is torch.ops.aten.copy_.default:
            # State that forward would write back; the check of the outputs decides if it matters.
            node.replace_all_uses_with(node.args[1])
            source.erase_node(node)
    output = next(iter(reversed(source.nodes)))
    leaves = output.args[0]
    output.args = (tuple(leaves) if isinstance(leaves, tuple | list) else (leaves,),)
    source.eliminate_dead_code()
    graph_module = GraphModule(module, source, class_name="Captured")
    return graph_module.eval()


def _is_assertion(target: Callable[..., Any] | str) -> bool:
    name = str(target)
    return "_assert" in name or "sym_constrain" in name


def _sensitivity(model: nn.Module, inputs: tuple[Any, Any], expected: list[Tensor]) -> float:
    """How far rounding may move the outputs of a network that amplifies small differences.

    That is a multiple of what the last bits of the inputs do: a deep network with random weights
    makes much of them.
    """
    generator = torch.Generator().manual_seed(0)

    def moved(leaf: Any) -> Any:
        if not _is_float(leaf):
            return leaf
        noise = torch.randn(leaf.shape, generator=generator).to(leaf)
        return leaf * (1 + torch.finfo(leaf.dtype).eps * noise)

    args, kwargs = pytree.tree_map(moved, inputs)
    found = [leaf for leaf in pytree.tree_leaves(model(*args, **kwargs)) if _is_float(leaf)]
    gaps = [_gap(a, b) for a, b in zip(expected, found, strict=True)]
    return min(_AMPLIFIED * max(g if math.isfinite(g) else 0.0 for g in gaps), _MOST_AMPLIFIED)


def _difference(expected: list[Tensor], found: Iterable[Any], least: float = 0.0) -> float:
    floats = [leaf for leaf in found if _is_float(leaf)]
    if len(floats) != len(expected):
        raise CaptureError(
            f"the captured graph returns {len(floats)} tensors, the model {len(expected)}; return "
            "the same outputs whatever the batch size"
        )
    worst = 0.0
    for a, b in zip(expected, floats, strict=True):
        if a.shape != b.shape:
            raise CaptureError(
                f"on a batch of {_CHECKED_ROWS} the captured graph returns {tuple(b.shape)}, the "
                f"model {tuple(a.shape)}; forward fixes the batch size, use x.shape[0] instead"
            )
        gap = _gap(a, b)
        # `not <=` refuses NaN too.
        if not gap <= max(_ROUNDING.get(a.dtype, 1e-4), least):
            raise CaptureError(
                "the captured graph doesn't reproduce the model: largest difference "
                f"{gap:.3g} of the output's magnitude on a batch of {_CHECKED_ROWS}; forward "
                "probably depends on the batch size or on values"
            )
        worst = max(worst, gap)
    return worst


def _gap(a: Tensor, b: Tensor) -> float:
    """Largest difference over the largest magnitude; equal NaN and infinities count as equal."""
    a, b = a.double(), b.double()
    same = (a == b) | (a.isnan() & b.isnan())
    if bool(same.all()):
        return 0.0
    finite = a[a.isfinite()].abs()
    scale = float(finite.max()) if finite.numel() else 1.0
    return float((a - b)[~same].abs().max()) / max(scale, 1e-30)


def _is_tensor(value: Any) -> bool:
    return isinstance(value, Tensor)


def _is_float(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__
