"""Which model parts belong to: its class and its weights, by their checksums."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..common.messages import shortened
from ..errors import InputError
from .stand_in import StandIn


@dataclass(frozen=True)
class Origin:
    """A model without its values.

    Args:
        kind: the name of its class.
        tensors: the shape of each tensor of its state, and the checksum of its type and values.
    """

    kind: str
    tensors: Mapping[str, tuple[tuple[int, ...], str]]

    @classmethod
    def of(cls, model: nn.Module) -> Origin:
        """That of a model; of one with parts, as it is without them."""
        found = {name: (tuple(t.shape), _digest(t)) for name, t in _state(model)}
        return cls(type(model).__qualname__, found)

    def check(self, model: nn.Module, paths: Iterable[str]) -> None:
        """Refuses a model that parts don't belong to.

        Args:
            model: a user's.
            paths: where its parts are.

        Raises:
            InputError: with the first difference, and what to do.
        """
        kind = type(model).__qualname__
        if kind != self.kind:
            raise InputError(
                f"the parts are those of a {shortened(self.kind, 60)}, the model is a {kind}; give "
                "the model that was converted"
            )
        there = {path for path, _ in model.named_modules(remove_duplicate=False)}
        for path in paths:
            if path not in there:
                raise InputError(
                    f"the model has no module {path}, where a part belongs; give the model that "
                    "was converted"
                )
        own = Origin.of(model).tensors
        for name in (*self.tensors, *own):
            if name not in own or name not in self.tensors:
                where = "isn't in the model" if name not in own else "isn't in the one converted"
                raise InputError(
                    f"the weight {shortened(name, 80)} {where}; give the model that was converted"
                )
        for name, (shape, digest) in self.tensors.items():
            if own[name][0] != shape:
                raise InputError(
                    f"the weight {name} is {list(own[name][0])} in the model and was "
                    f"{list(shape)}; give the model that was converted"
                )
            if own[name][1] != digest:
                raise InputError(
                    f"the weight {name} of the model has other values than that of the one that "
                    "was converted; load its weights first (model.load_state_dict)"
                )


def _state(model: nn.Module) -> Iterable[tuple[str, Tensor]]:
    """The tensors of a model's state by their names in the user's model."""
    stands = {
        path: module
        for path, module in model.named_modules(remove_duplicate=False)
        if isinstance(module, StandIn)
    }
    for name, tensor in model.state_dict(keep_vars=True).items():
        outer = next((path for path in stands if name.startswith(f"{path}.")), None)
        if outer is None:
            yield name, tensor
            continue
        inner = name[len(outer) + 1 :]
        if inner.startswith("replaced."):
            yield f"{outer}.{inner.removeprefix('replaced.')}", tensor


def _digest(tensor: Tensor) -> str:
    if tensor.is_meta:
        return "meta"
    plain = tensor.detach().to("cpu").contiguous()
    state = hashlib.sha256(str(plain.dtype).encode())
    if plain.numel():
        state.update(plain.view(-1).view(torch.uint8).numpy().tobytes())
    return state.hexdigest()
