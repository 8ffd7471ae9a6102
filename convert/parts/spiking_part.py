"""A converted part in its place inside the model: one network for each form of its calls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from ..capture.isolate import for_inference
from ..errors import InputError
from ..network.model import SpikingModel
from ..network.original import OriginalModel
from .chosen import Chosen
from .stand_in import StandIn, owners, place


class SpikingPart(StandIn):
    """Runs the network that was converted for the way in which the model calls it.

    Args:
        replaced: the module in whose place it stands; its attributes are this one's, too.
        name: of that module in the model.
        networks: one for each form of its arguments.
    """

    def __init__(
        self,
        replaced: nn.Module,
        name: str,
        networks: Sequence[SpikingModel | OriginalModel],
    ) -> None:
        super().__init__(replaced)
        self.name = name
        self.networks = nn.ModuleList(networks)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the module gives, by its neurons; on nothing, as the module itself.

        Raises:
            InputError: for arguments in a form in which the part wasn't called at conversion.
        """
        call = self.call_of(args, kwargs)
        tensors = call.tensors
        if tensors and any(not t.numel() for t in tensors):
            return self.replaced(*args, **kwargs)
        for network in self.networks:
            if call.fits(network.signature):  # type: ignore[arg-type]
                fitting = call.spread(network.signature)  # type: ignore[arg-type]
                try:
                    return network(*fitting.args, **fitting.kwargs)
                except InputError as error:
                    raise InputError(f"the part {self.name}: {error}") from error
        known = self.networks[0].signature
        raise InputError(
            f"the part {self.name} is called in another form than at conversion: "
            f"{call.differences(known)}; convert with data on which it is called so"  # type: ignore[arg-type]
            + _without_cache(call.opaque())
        )

    def extra_repr(self) -> str:
        """Its name."""
        return self.name


def put_in(
    module: nn.Module,
    parts: Sequence[Chosen],
    networks: Mapping[str, SpikingModel],
    *,
    caches: bool = True,
) -> nn.Module:
    """Puts networks in the places of a model's parts.

    Args:
        module: a copy of the user's model; changed.
        parts: which parts.
        networks: by name; parts without one stay as they are.
        caches: False switches off that a language model keeps keys and values.
    """
    if not caches:
        for_inference(module)
    module.eval().requires_grad_(False)
    for part in parts:
        if part.name not in networks:
            continue
        own = [network for name, network in networks.items() if name.partition("#")[0] == part.name]
        stands = SpikingPart(owners(module, part.paths)[0], part.name, own)
        place(module, part.paths, stands.eval())
    return module


def _without_cache(opaque: tuple[str, Any] | None) -> str:
    if opaque is None or "Cache" not in type(opaque[1]).__name__:
        return ""
    return (
        ", or call the model with use_cache=False: a part that gets the cache of keys and values "
        "can't be run with it (parts that don't get it can, such as MLPs)"
    )
