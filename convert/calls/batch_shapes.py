"""The shapes of batches, by the names of their inputs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ..errors import InputError
from .batch_forms import Given, read_batch
from .call_signature import named
from .forward_parameters import Parameters
from .sizes import Shapes


def shapes_of(batches: Iterable[Any], parameters: Parameters, model: nn.Module) -> Iterator[Shapes]:
    """The shapes of some batches; one that can't be read is left out, and refused when it runs.

    Args:
        batches: in any form.
        parameters: what the network takes.
        model: that is called with them.
    """
    for batch in batches:
        try:
            given = batch if isinstance(batch, Given) else read_batch(batch, parameters)
        except InputError:
            continue
        owners = named(model, given.args, given.kwargs)[1]
        leaves = pytree.tree_leaves((given.args, given.kwargs))
        yield {
            owner: tuple(leaf.shape)
            for owner, leaf in zip(owners, leaves, strict=True)
            if isinstance(leaf, Tensor)
        }
