"""Runs a captured network over calibration batches and shows chosen values as they pass by."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Interpreter, Node
from tqdm import tqdm

from .call_signature import Signature, batch_size

Seen = Callable[[Tensor], None]


class _Watch(Interpreter):
    def __init__(self, graph_module: GraphModule, seen: Mapping[Node, Sequence[Seen]]) -> None:
        super().__init__(graph_module)
        self.seen = seen

    def run_node(self, n: Node) -> Any:
        """Computes a node and shows its value."""
        result = super().run_node(n)
        for show in self.seen.get(n, ()):
            show(result)
        return result


def watch(
    graph_module: GraphModule,
    signature: Signature,
    seen: Mapping[Node, Sequence[Seen]],
    batches: Iterable[Any],
    *,
    device: torch.device | str | None = None,
    progress: bool = False,
) -> int:
    """One pass over the batches; the number of images.

    Args:
        graph_module: a captured network.
        signature: how it is called.
        seen: what is called with the values of which nodes.
        batches: as for `calibrate`.
        device: where the network lives.
        progress: shows a bar on stderr.
    """
    network, images = _Watch(graph_module, seen), 0
    with torch.no_grad():
        for batch in tqdm(batches, "scales", disable=None if progress else True):
            args, kwargs = signature.split(batch, device)
            if size := batch_size((args, kwargs)):
                network.run(*signature.flatten(args, kwargs))
                images += size
    return images
