"""Types of the numbers that a converted network takes as it is now: it may have been cast."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ..errors import InputError
from ..graph.batch_reading import BatchReader
from ..graph.call_signature import Signature
from ..graph.forward_parameters import Range
from ..neuron.few_spikes import FewSpikesNeuron


def check_types(leaves: Sequence[Any], signature: Signature, network: nn.Module) -> None:
    """Refuses floating-point inputs of a type that the network has no weights of.

    Args:
        leaves: the flat inputs of a call.
        signature: how the network is called.
        network: its graph; after ``.half()`` it takes half precision, whatever it was converted
            for.

    Raises:
        InputError: naming both types.
    """
    for leaf, expected in zip(leaves, signature.inputs, strict=True):
        if expected is None or leaf.dtype is expected.dtype or not leaf.is_floating_point():
            continue
        if torch.is_autocast_enabled(leaf.device.type):
            continue
        own = _types(network)
        if own and leaf.dtype not in own:
            wanted = expected.dtype if expected.dtype in own else own[0]
            raise InputError(
                f"{expected.name} is {leaf.dtype}; the network takes {wanted}: give it "
                f"{expected.name}.to({wanted}), or cast the network"
            )


def reader_of(
    network: nn.Module, signature: Signature, ranges: Sequence[Range] = ()
) -> BatchReader:
    """What reads batches for a converted network, in the types that it takes now.

    Args:
        network: its graph.
        signature: how it is called.
        ranges: calibrated ranges of its flat inputs, if they are known.
    """
    own, parameters = _types(network), signature.parameters

    def now(dtype: torch.dtype | None) -> torch.dtype | None:
        floats = dtype is not None and dtype.is_floating_point
        return own[0] if floats and own and dtype not in own else dtype

    known = tuple(ranges) if len(ranges) == len(parameters.dtypes) else ()
    return BatchReader(replace(parameters, dtypes=tuple(map(now, parameters.dtypes)), ranges=known))


def cast_for(model: nn.Module, inputs: Any) -> Any:
    """A tree of inputs in a model's one floating-point type; as they are if it has none or more.

    Args:
        model: a converted network's original, which may have been left in another type.
        inputs: of a call.
    """
    own = _types(model)
    if len(own) != 1:
        return inputs
    return pytree.tree_map_only(
        Tensor, lambda leaf: leaf.to(own[0]) if leaf.is_floating_point() else leaf, inputs
    )


def _types(network: nn.Module) -> list[torch.dtype]:
    """Floating-point types of a network's tensors but the neurons', which keep their own."""
    tensors: list[Tensor] = []
    for module in network.modules():
        if not isinstance(module, FewSpikesNeuron):
            tensors += module.parameters(recurse=False)
            tensors += module.buffers(recurse=False)
    return list(dict.fromkeys(t.dtype for t in tensors if t.is_floating_point()))
