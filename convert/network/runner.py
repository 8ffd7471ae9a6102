"""Executes a plan on a graph: by the program that saves memory, or node by node."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.fx import GraphModule

from ..common.tracing import traced
from ..graph.region_function import ExactFunction, may_alias
from ..graph.run import walk
from ..neuron.few_spikes import FewSpikesNeuron
from .buffer_reuse import Places, Program, frugal, in_two
from .run_plan import Calls, Kept

_PLAIN = (Tensor, torch.nn.Parameter)


class Runner:
    """Runs one graph; keeps the programs that were made of it.

    Args:
        network: the graph.
        names: path of each site's module by the name of the site.
        exact: exact function of each site by its name.
        replaceable: paths of tensors that a plan may replace.
    """

    def __init__(
        self,
        network: GraphModule,
        names: Mapping[str, str],
        exact: Mapping[str, torch.nn.Module],
        replaceable: Collection[str],
    ) -> None:
        called = {str(n.target) for n in network.graph.nodes if n.op == "call_module"}
        read = {str(n.target) for n in network.graph.nodes if n.op == "get_attr"}
        # Names of the sites that the graph calls, and the paths of their modules.
        self.sites = [name for name, path in names.items() if path in called]
        self._places = Places(
            tuple(names[name] for name in self.sites),
            frozenset(names[name] for name in self.sites if may_alias(exact[name])),
            frozenset(path for path in replaceable if path in read),
        )
        self._made_of = network._code, replaceable
        self._program: Program | None = None
        self._parts: tuple[Callable[..., tuple[Any, ...]], Program] | None = None

    def fits(self, network: GraphModule, replaceable: Collection[str]) -> bool:
        """Whether the graph and what may be replaced are still those that this was made of."""
        code, before = self._made_of
        return code is network._code and before is replaceable

    def run(
        self,
        network: GraphModule,
        leaves: list[Any],
        calls: Calls,
        tensors: Mapping[str, Tensor] | None,
        *,
        plain: bool,
        kept: Kept | None = None,
    ) -> Any:
        """The graph's flat outputs.

        With gradients an operation may have kept what it gave; a hook may keep what it sees; a
        tracer must see every operation; a module that isn't ours may do anything. Then the graph
        runs as it is.

        Args:
            network: the graph, which hooks may listen to.
            leaves: its flat inputs.
            calls: what is called for its sites, in the order of `sites`.
            tensors: what is read in place of a tensor, by its path.
            plain: `calls` are the graph's own modules as they are, and `tensors` its own.
            kept: what runs with the same inputs share.
        """
        others = [] if plain else [call.module for call in calls]
        known = all(type(call.module) in (FewSpikesNeuron, ExactFunction) for call in calls)
        if known and not _followed(network, leaves, others):
            if kept is None:
                if self._program is None:
                    self._program = frugal(network.graph, self._places)
                return self._program(network, calls, tensors, *leaves)
            if self._parts is None:
                self._parts = in_two(network.graph, self._places)
            head, rest = self._parts
            values = kept.values(lambda: head(network, *leaves))
            return rest(network, calls, tensors, *leaves, *values)
        if plain:
            return network(*leaves)
        modules = dict(zip(self._places.sites, calls, strict=True))

        def planned(*given: Any) -> Any:
            return walk(network, given, modules=modules, tensors=tensors)

        # The hooks of the network itself run as they do when it is called.
        called = torch.nn.Module.__new__(torch.nn.Module)
        called.__dict__ = {**network.__dict__, "forward": planned}
        return called(*leaves)


def _followed(network: GraphModule, leaves: list[Any], called: list[torch.nn.Module]) -> bool:
    """Whether somebody follows the run: autograd, a compiler, a tracer, a transform, a hook."""
    return (
        traced()
        # Somebody put another forward in the graph's place.
        or "forward" in network.__dict__
        # The parameters of a replica of `nn.DataParallel` are attributes, which take gradients.
        or getattr(network, "_is_replica", False)
        or forward_ad._current_level >= 0
        or any(isinstance(leaf, Tensor) and type(leaf) not in _PLAIN for leaf in leaves)
        or bool(torch.nn.modules.module._global_forward_hooks)
        or bool(torch.nn.modules.module._global_forward_pre_hooks)
        or (torch.is_grad_enabled() and any(_learns(leaf) for leaf in leaves))
        or any(map(_listened_to, _modules([network, *called])))
    )


def _learns(value: Any) -> bool:
    return isinstance(value, Tensor) and value.requires_grad


def _modules(roots: list[torch.nn.Module]) -> Iterator[torch.nn.Module]:
    """Every module below; quicker than `Module.modules`, and one may come twice."""
    waiting: list[torch.nn.Module | None] = list(roots)
    while waiting:
        module = waiting.pop()
        if module is not None:
            yield module
            waiting += module._modules.values()


def _listened_to(module: torch.nn.Module) -> bool:
    """Whether a module has a hook, or a tensor that takes a gradient."""
    if module._forward_hooks or module._forward_pre_hooks:
        return True
    if module._backward_hooks or module._backward_pre_hooks:
        return True
    if not torch.is_grad_enabled():
        return False
    tensors = (*module._parameters.values(), *module._buffers.values())
    return any(tensor is not None and tensor.requires_grad for tensor in tensors)
