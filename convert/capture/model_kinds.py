"""What was given as a model: its eager module, or one line that says what to give instead."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn
from torch.fx import GraphModule
from torch.nn.parameter import is_lazy
from torch.nn.utils.rnn import PackedSequence

from ..calls.call_signature import Signature
from ..errors import CaptureError, InputError
from ..neuron.few_spikes import FewSpikesNeuron

_QUANTISED = ("torch.ao.nn.quantized", "torch.ao.nn.intrinsic.quantized", "torch.nn.quantized")
_PLACEHOLDER = nn.Module().forward


def eager_module(model: Any) -> nn.Module:
    """The user's module without wrappers of torch.compile and parallel training.

    Raises:
        CaptureError: for what isn't an eager module of floating-point layers.
    """
    if not isinstance(model, nn.Module):
        raise CaptureError(_not_a_module(model))
    while (inner := _wrapped(model)) is not None:
        if model._forward_hooks or model._forward_pre_hooks:
            raise CaptureError(
                f"hooks are registered on the wrapper {type(model).__name__} itself; register "
                "them on the module inside"
            )
        model = inner
    if _calls_something_else(model):
        raise CaptureError(
            f"{type(model).__name__} is a wrapper that isn't called like a network; give its "
            f".model ({type(model.model).__name__})"
        )
    for path, module in model.named_modules():
        reason = _unfit(module)
        if reason is not None:
            place = f"the model's part {path}" if path else "the model"
            raise CaptureError(f"{place} {reason}")
    return model


def refuse_packed(batch: Any) -> None:
    """Refuses packed sequences, whose numbers torch.export can't follow.

    Raises:
        InputError: if there is one in the batch.
    """
    if isinstance(batch, PackedSequence):
        raise InputError(
            "a batch holds a PackedSequence; give padded sequences [N, T, F], and let the model "
            "mask its outputs or gather the last step of each"
        )
    if isinstance(batch, tuple | list | Mapping):
        for part in batch.values() if isinstance(batch, Mapping) else batch:
            refuse_packed(part)


def _not_a_module(model: Any) -> str:
    kind = type(model).__name__
    if isinstance(model, torch.export.ExportedProgram):
        return "the model is an ExportedProgram; give its .module()"
    if isinstance(model, type):
        return f"the model is the class {model.__name__}; give an instance of it"
    if isinstance(model, torch.jit.ScriptFunction):
        return f"the model is a {kind} (TorchScript); give a module that calls the function"
    if isinstance(model, dict) and any(isinstance(v, torch.Tensor) for v in model.values()):
        return (
            f"the model is of type {kind} and holds tensors; build the network, load them by "
            "load_state_dict, and give the network"
        )
    for name in ("model", "module"):
        inner = getattr(model, name, None)
        if isinstance(inner, nn.Module):
            return f"the model is of type {kind}; give its .{name} ({type(inner).__name__})"
    return (
        f"the model is of type {kind}; give a torch.nn.Module (wrap a function in a module whose "
        "forward calls it)"
    )


def _wrapped(model: nn.Module) -> nn.Module | None:
    """The module inside torch.compile's wrapper or a parallel one; None for any other."""
    parallel = nn.DataParallel | nn.parallel.DistributedDataParallel
    inner = model.module if isinstance(model, parallel) else getattr(model, "_orig_mod", None)
    return inner if isinstance(inner, nn.Module) else None


def _calls_something_else(model: nn.Module) -> bool:
    """Whether a module holds the network as `.model`, and a call of it does other work."""
    if not isinstance(getattr(model, "model", None), nn.Module):
        return False
    called = type(model).__call__ is not nn.Module.__call__
    return called or getattr(model.forward, "__func__", None) is _PLACEHOLDER.__func__  # type: ignore[attr-defined]


def is_program(model: nn.Module) -> bool:
    """Whether a module is a program made by torch.export, which has but one mode."""
    return isinstance(model, GraphModule) and "_guards_fn" in model._modules


def as_program_takes(
    model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The inputs of a call, by position and by name as they were when a program was exported.

    A program takes them in no other way, unlike a network; other models' inputs stay as they are.
    """
    spec = getattr(getattr(model, "graph", None), "_codegen", None)
    tree = getattr(getattr(spec, "pytree_info", None), "in_spec", None)
    if not is_program(model) or tree is None:
        return args, kwargs
    by_position, by_name = tree.children()
    names = list(inspect.signature(model.forward).parameters)
    values = dict(zip(names, args, strict=False)) | kwargs
    wanted = [*names[: by_position.num_children], *(by_name.context or ())]
    if len(args) > len(names) or set(values) != set(wanted):
        return args, kwargs
    count = by_position.num_children
    return tuple(values[n] for n in wanted[:count]), {n: values[n] for n in wanted[count:]}


def holds_all(model: nn.Module) -> bool:
    """Whether `.model` holds everything that a model has learned."""
    inner = getattr(model, "model", None)
    if not isinstance(inner, nn.Module):
        return False
    held = {id(parameter) for parameter in inner.parameters()}
    return bool(held) and held == {id(parameter) for parameter in model.parameters()}


def _unfit(module: nn.Module) -> str | None:
    """What keeps a module from being captured, as the end of a sentence."""
    kind = type(module).__name__
    if isinstance(module, torch.jit.ScriptModule):
        return "is TorchScript (scripted, traced or loaded); give the eager module it was made from"
    if isinstance(getattr(module, "signature", None), Signature) or isinstance(
        module, FewSpikesNeuron
    ):
        return (
            f"is converted already ({kind}); use refit to fit it anew, or convert the network it "
            "came from"
        )
    if type(module).__module__.startswith(_QUANTISED):
        kind = f"{type(module).__module__}.{kind}"
        return (
            f"is quantised to whole numbers ({kind}); give the network with floating-point weights"
        )
    for name, parameter in _own(module):
        if is_lazy(parameter):
            return f"is lazy ({kind}) and has no {name} yet; call the model once on a batch"
        if parameter.is_meta:
            return f"has no values in {name}, which lies on the meta device; load the weights first"
    return None


def _own(module: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    for held in (module._parameters, module._buffers):
        yield from ((name, tensor) for name, tensor in held.items() if tensor is not None)
