"""The user's model and a copy of it: what the model computes, and a copy that gives the same."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.utils import _pytree as pytree

from ..errors import CaptureError
from . import hooks
from .copying import copy_of
from .export_failures import operator_without_fake
from .fidelity import Inputs, agree, deterministic, dimmed, floats, gap_between, is_tensor
from .forward_state import forget
from .kept_state import KeptState, left_as_it_was
from .model_kinds import eager_module, holds_all, is_program


class Isolated:
    """A model, which is left as it was, and the copy of it that is captured.

    Args:
        model: the user's own.
        copied: a deep copy.
        kept: what the model and its hooks hold.
        fused: whether torch's fused attention was allowed.
    """

    def __init__(self, model: nn.Module, copied: nn.Module, kept: KeptState, fused: bool) -> None:
        self.copied = copied
        self._model, self._kept, self._fused = model, kept, fused
        # What became of hooks: for the report, and no matter for a warning.
        self.hook_notes: list[str] = []
        self._captured: list[hooks.Hook] = []
        self._global_hooks = hooks.global_hooks()

    def reference(self, checked: Inputs, others: Inputs) -> tuple[list[Tensor], Inputs]:
        """What the user's own model returns as they call it, and for which inputs.

        The inputs are `checked` with other values, or `checked` itself if the model refuses those.
        In between it is called on `others`.

        Raises:
            CaptureError: if it refuses the inputs, returns nothing to spike, or doesn't return the
                same twice.
        """
        model = self._model

        def restore() -> None:
            self._kept.put_back()
            for_inference(model)

        try:
            inputs, found = dimmed(checked), None
            with contextlib.suppress(CaptureError):
                found = deterministic(model, inputs, others, restore)
            if found is None:
                inputs = checked
                found = deterministic(model, inputs, others, restore)
        except CaptureError as error:
            self._kept.put_back()
            raise self._blamed(checked, error) from error.__cause__
        self._kept.put_back()
        # Closures of the copy may still call the model's own modules.
        for module in model.modules():
            module.training = False
        return found, inputs

    @contextmanager
    def model_in_use(self) -> Iterator[nn.Module]:
        """The user's own model, to be called in eval mode inside the block to see what it does.

        The copy must stay as it is until it has been compared: what the model holds is put back
        from it.
        """
        for_inference(self._model)
        try:
            yield self._model
        finally:
            self._kept.put_back()

    def settle(
        self, inputs: Inputs, checked: Inputs, expected: list[Tensor], notes: list[str]
    ) -> None:
        """Makes the copy one that gives the model's outputs, without hooks that only look.

        Raises:
            CaptureError: if the copy gives other outputs; the message has the difference.
        """
        copied = self.copied

        def outputs() -> list[Tensor]:
            return floats(copied(*checked[0], **checked[1]))

        def agrees() -> bool:
            try:
                return agree(expected, outputs())
            except Exception:
                return False

        with hooks.without_global_hooks():
            for_inference(copied, self.hook_notes)
            copied.requires_grad_(False)
            hooks.drop_other_hooks(copied)
            _fix_recurrent_weights(copied)
            self._captured = hooks.settle(
                copied, agrees, lambda: copied(*inputs[0], **inputs[1]), self.hook_notes
            )
            if not forget(copied, agrees):
                raise CaptureError(self._disagreement(gap_between(expected, outputs())))
            if self._fused and _fused_attention_differs(copied, checked, expected):
                notes.append(
                    "torch's fused attention layers give this model other values at padded "
                    "positions; it is converted as it computes without them "
                    "(torch.backends.mha.set_fastpath_enabled(False))"
                )

    @contextmanager
    def explaining(self) -> Iterator[None]:
        """A block whose `CaptureError` says what of the model it may be due to."""
        try:
            with hooks.without_global_hooks():
                yield
        except CaptureError as error:
            if (operator := operator_without_fake(error.__cause__)) is not None:
                raise CaptureError(operator) from error.__cause__
            part = f"; part of it is {hooks.named(self._captured)}" if self._captured else ""
            raise CaptureError(f"{error}{part}{self._advice()}") from error.__cause__

    def _advice(self) -> str:
        """What else to give in place of a model that can't be captured; empty if nothing."""
        if is_program(self._model):
            return (
                "; the model is an exported program, so export it in eval mode and with a batch "
                'that may vary: dynamic_shapes with {0: torch.export.Dim("batch")}'
            )
        if holds_all(self._model):
            return f"; or convert its .model ({type(self._model.model).__name__})"
        return ""

    def _blamed(self, checked: Inputs, error: CaptureError) -> CaptureError:
        """The error of a call of the model, or a better one that names the hook it is due to."""
        error = CaptureError(f"{error}{self._advice()}")
        found = hooks.forward_hooks(self.copied)
        if not found or is_program(self._model):
            return error
        for_inference(self.copied)
        try:
            with hooks.without_global_hooks():
                hooks.watch(found, lambda: self.copied(*checked[0], **checked[1]))
        except CaptureError as better:
            return better
        except Exception:
            pass  # what the model itself raises is said already
        changing = [hook for hook in found if hook.changes]
        return CaptureError(f"{error}; it has {hooks.named(changing)}") if changing else error

    def _disagreement(self, gap: float) -> str:
        if self._global_hooks:
            name = hooks.name_of(self._global_hooks[0])
            return (
                f"the global hook {name}, which torch calls for every module, "
                f"changes the outputs (largest difference {gap:.3g} of their magnitude) and would "
                "act on the converted network, too; register it on the modules that it is meant for"
            )
        found = hooks.named(hooks.forward_hooks(self.copied))
        return (
            f"a deep copy of the model gives other outputs: largest difference {gap:.3g} of their "
            "magnitude; forward or a hook reads what isn't copied with the model"
            + (f"; it has {found}" if found else "")
        )


@contextmanager
def isolated(model: Any, notes: list[str]) -> Iterator[Isolated]:
    """A copy of a model in eval mode; at the end of the block the model is as it was.

    Gradients and torch's fused attention layers, which `torch.export` can't see, are off inside.
    They return other values, and sometimes fewer positions, where a padding mask hides positions.

    Args:
        model: the user's own.
        notes: gets what the user should know.

    Raises:
        CaptureError: for what isn't an eager module, or can't be copied.
    """
    user = eager_module(model)
    if user.training and not is_program(user):
        notes.append("the model was in training mode; it is converted in eval mode")
    copied, copies = copy_of(user)
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad(), left_as_it_was([user, *hooks.global_hooks()], copies) as kept:
            yield Isolated(user, copied, kept, fused)
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)


def for_inference(model: nn.Module, notes: list[str] | None = None) -> None:
    """Switches a model to eval mode, and language models to outputs without a cache."""
    if any(module.training for module in model.modules()):
        with contextlib.suppress(NotImplementedError):  # an exported program has but one mode
            model.eval()
    configs = [getattr(module, "config", None) for module in model.modules()]
    caching = [config for config in configs if getattr(config, "use_cache", False) is True]
    for config in caching:
        # Keys and values kept for a next token are state, not an output of the network.
        config.use_cache = False  # type: ignore[union-attr]
    if caching and notes is not None:
        notes.append("the model's config.use_cache was switched off in the conversion")


def _fix_recurrent_weights(model: nn.Module) -> None:
    """Gives recurrent layers their parametrised weights as they are now.

    torch.export can't follow their list of weights while some of them are computed. Torch's own
    removal would take the weight from the class, which the copy shares with the user's model.
    """
    for module in model.modules():
        if isinstance(module, nn.RNNBase) and parametrize.is_parametrized(module):
            held = module._modules.pop("parametrizations")
            assert isinstance(held, nn.ModuleDict)
            values = {name: weight() for name, weight in held.items()}
            module.__class__ = type(module).__bases__[0]
            for name, value in values.items():
                setattr(module, name, nn.Parameter(value.detach().clone(), requires_grad=False))


def warn_of(notes: list[str], *, stacklevel: int = 6) -> None:
    """Shows the notes before the conversion ends."""
    for note in notes:
        warnings.warn(note, stacklevel=stacklevel)


def device_of_model(model: nn.Module) -> torch.device:
    """Where a model lies: the CPU if it has no tensor."""
    for tensor in _tensors(model):
        return tensor.device
    return torch.device("cpu")


def on_device(values: Any, device: torch.device) -> Any:
    """The values with every tensor on a device."""
    return pytree.tree_map(lambda leaf: leaf.to(device) if is_tensor(leaf) else leaf, values)


def _tensors(model: nn.Module) -> Iterator[Tensor]:
    yield from model.parameters()
    yield from model.buffers()


def _fused_attention_differs(model: nn.Module, inputs: Inputs, plain: list[Tensor]) -> bool:
    """Whether torch's fused attention layers would give a model other outputs."""
    layers = (nn.TransformerEncoder, nn.TransformerEncoderLayer, nn.MultiheadAttention)
    if not any(isinstance(module, layers) for module in model.modules()):
        return False
    try:
        torch.backends.mha.set_fastpath_enabled(True)
        return not agree(floats(model(*inputs[0], **inputs[1])), plain)
    except Exception:
        return False
    finally:
        torch.backends.mha.set_fastpath_enabled(False)
