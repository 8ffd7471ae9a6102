"""A converted part in its place inside the model: one network for each form of its calls."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from torch import nn

from ..calls.call_signature import Signature
from ..calls.sizes import NewShape
from ..capture.isolate import for_inference
from ..errors import InputError
from ..network.model import SpikingModel
from ..network.original import OriginalModel
from .chosen import Chosen
from .part_calls import single
from .stand_in import StandIn, owners, place


class SpikingPart(StandIn):
    """Runs the network that was converted for the way in which the model calls it.

    Args:
        replaced: the module in whose place it stands; its attributes are this one's, too.
        name: of that module in the model.
        networks: one for each form of its arguments.
        alone: the places of those whose calls have no batch, and are each a batch of one.
    """

    def __init__(
        self,
        replaced: nn.Module,
        name: str,
        networks: Sequence[SpikingModel | OriginalModel],
        alone: Collection[int] = (),
    ) -> None:
        super().__init__(replaced)
        self.name = name
        self.networks = nn.ModuleList(networks)
        self.alone = frozenset(alone)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the module gives, by its neurons; on nothing, as the module itself.

        Raises:
            InputError: for arguments in a form in which the part wasn't called at conversion.
        """
        call = self.call_of(args, kwargs)
        tensors = call.tensors
        if tensors and any(not t.numel() for t in tensors):
            return self.replaced(*args, **kwargs)
        for index, network in enumerate(self.networks):
            signature: Signature = network.signature  # type: ignore[assignment]
            alone = index in self.alone
            fitting = call.batched() if alone else call
            if fitting.fits(signature):
                fitting = fitting.spread(signature)
                try:
                    result = network(*fitting.args, **fitting.kwargs)
                except NewShape as error:
                    raise InputError(f"the part {self.name}: {_other_shape(error)}") from error
                except InputError as error:
                    raise InputError(f"the part {self.name}: {error}") from error
                return single(result) if alone else result
        opaque = call.opaque()
        if opaque is not None and "Cache" in type(opaque[1]).__name__:
            raise InputError(
                f"the part {self.name} gets {opaque[0]}, a {type(opaque[1]).__name__} of keys and "
                "values, which no graph can hold; call the model with use_cache=False, or convert "
                "parts that don't get it, such as MLPs"
            )
        known: Signature = self.networks[0].signature  # type: ignore[assignment]
        raise InputError(
            f"the part {self.name} is called in another form than at conversion: "
            f"{call.differences(known)}; convert with data on which it is called so"
        )

    def extra_repr(self) -> str:
        """Its name."""
        return self.name


def put_in(
    module: nn.Module,
    parts: Sequence[Chosen],
    networks: Mapping[str, SpikingModel],
    *,
    alone: Collection[str] = (),
    caches: bool = True,
) -> nn.Module:
    """Puts networks in the places of a model's parts.

    Args:
        module: a copy of the user's model; changed.
        parts: which parts.
        networks: by name; parts without one stay as they are.
        alone: the names of those whose calls have no batch.
        caches: False switches off that a language model keeps keys and values.
    """
    if not caches:
        for_inference(module)
    module.eval().requires_grad_(False)
    for part in parts:
        if part.name not in networks:
            continue
        names = [name for name in networks if name.partition("#")[0] == part.name]
        stands = SpikingPart(
            owners(module, part.paths)[0],
            part.name,
            [networks[name] for name in names],
            [i for i, name in enumerate(names) if name in alone],
        )
        place(module, part.paths, stands.eval())
    return module


def _other_shape(error: NewShape) -> str:
    """What is said of a shape that the part wasn't captured for."""
    shapes = ", ".join(f"{name} {list(shape)}" for name, shape in error.shapes.items())
    return (
        f"it gets {shapes}, of a length that was always the same at conversion; convert with data "
        "of several such lengths, or name the axes of the model's own inputs, as in "
        'dynamic={"input_ids": {1: "length"}}'
    )
