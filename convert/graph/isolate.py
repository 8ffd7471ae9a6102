"""A copy of the user's model without what wraps and hooks it, and without fused attention."""

from __future__ import annotations

import copy
import warnings
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ..common.messages import first_line
from ..errors import CaptureError
from .fidelity import ROUNDING, is_float, largest_gap


def isolated(model: nn.Module, notes: list[str]) -> nn.Module:
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
            f"the model can't be copied ({first_line(error)}); remove attributes that don't "
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
    configs: list[Any] = [getattr(module, "config", None) for module in copied.modules()]
    caching = [config for config in configs if getattr(config, "use_cache", False) is True]
    for config in caching:
        # Keys and values kept for a next token are state, not an output of the network.
        config.use_cache = False
    if caching:
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


def device_of_model(model: nn.Module) -> torch.device:
    """Where a model lies: the CPU if it has no tensor."""
    for tensor in _tensors(model):
        return tensor.device
    return torch.device("cpu")


def _tensors(model: nn.Module) -> Iterator[Tensor]:
    yield from model.parameters()
    yield from model.buffers()


@contextmanager
def slow_attention(model: nn.Module, inputs: Any, notes: list[str]) -> Iterator[None]:
    """Keeps torch's fused attention layers, which `torch.export` can't see, out of the block.

    They return other values, and sometimes fewer positions, where a padding mask hides positions.
    """
    layers = (nn.TransformerEncoder, nn.TransformerEncoderLayer, nn.MultiheadAttention)
    enabled = torch.backends.mha.get_fastpath_enabled()
    fused = _floats(model, inputs) if any(isinstance(m, layers) for m in model.modules()) else []
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        for a, b in zip(fused, _floats(model, inputs) if fused else [], strict=False):
            if a.shape != b.shape or not largest_gap(a, b) <= ROUNDING.get(a.dtype, 1e-4):
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
            leaf for leaf in pytree.tree_leaves(model(*inputs[0], **inputs[1])) if is_float(leaf)
        ]
    except Exception:
        return []
