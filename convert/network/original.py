"""The exact network that a spiking one came from."""

from __future__ import annotations

import copy
from typing import Any

import torch

from ..errors import InputError
from ..graph.call_signature import Signature
from .from_file import errors_named
from .input_types import check_types


class OriginalModel(torch.nn.Module):
    """A captured network with its exact functions, called like the model it came from.

    Args:
        network: the graph; flat inputs and outputs.
        signature: how it is called.
        from_file: whether a file held it.
    """

    def __init__(
        self, network: torch.nn.Module, signature: Signature, from_file: bool = False
    ) -> None:
        super().__init__()
        self.network = network
        self.signature = signature
        self.from_file = from_file

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Outputs in the form in which the model returned them."""
        leaves = self.signature.flatten(args, kwargs)
        check_types(leaves, self.signature, self.network)
        if not self.from_file or torch.compiler.is_compiling():
            return self.signature.unflatten(self.network(*leaves))
        with errors_named():
            return self.signature.unflatten(self.network(*leaves))

    def __reduce__(self) -> Any:
        raise InputError(
            "the original of a network can't be pickled; pickle or save the network, and call "
            ".original() where it is loaded"
        )

    def __deepcopy__(self, memo: dict[int, Any]) -> OriginalModel:
        copied = type(self).__new__(type(self))
        memo[id(self)] = copied
        copied.__dict__.update({k: copy.deepcopy(v, memo) for k, v in self.__dict__.items()})
        return copied
