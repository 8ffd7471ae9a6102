"""Executes a plan on a graph: by the program that saves memory, or node by node."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
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
from .module_tree import ModuleTree, TensorReader
from .run_plan import Calls, Kept

_PLAIN = (Tensor, torch.nn.Parameter)
_KNOWN = (FewSpikesNeuron, ExactFunction)


class _Called:
    """What a run calls for its sites, and whether all of it may run in the program."""

    def __init__(self, calls: Calls) -> None:
        self.calls = calls
        self.known = all(type(call.module) in _KNOWN for call in calls)


class _Found:
    """What is known of a graph's modules, as long as they are the same ones."""

    def __init__(self, network: GraphModule) -> None:
        self.network, self.tree = network, ModuleTree(network)
        self._calls: _Called | None = None
        self._readers: dict[int, TensorReader] = {}

    def calls(self, make: Callable[[], Calls]) -> _Called:
        """The calls of a plain run."""
        if self._calls is None:
            self._calls = _Called(make())
        return self._calls

    def reader(self, program: Program) -> TensorReader:
        """Reads the tensors of a program of the graph."""
        reader = self._readers.get(id(program))
        if reader is None:
            reader = self._readers[id(program)] = TensorReader(self.network, program.paths)
        return reader


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
        self._found: _Found | None = None

    def fits(self, network: GraphModule, replaceable: Collection[str]) -> bool:
        """Whether the graph and what may be replaced are still those that this was made of."""
        code, before = self._made_of
        return code is network._code and before is replaceable

    def _of(self, network: GraphModule) -> _Found:
        """What is known of the graph's modules as they are now."""
        found = self._found
        # One attribute, read and written once: threads may share the network.
        if found is None or found.network is not network or not found.tree.same():
            found = self._found = _Found(network)
        return found

    def run(
        self,
        network: GraphModule,
        leaves: list[Any],
        calls: Callable[[], Calls],
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
            calls: makes what is called for its sites, in the order of `sites`; asked once for all
                plain runs.
            tensors: what is read in place of a tensor, by its path.
            plain: `calls` are the graph's own modules, and `tensors` its own.
            kept: what runs with the same inputs share.
        """
        found = self._of(network)
        made = found.calls(calls) if plain else _Called(calls())
        others = [] if plain else [call.module for call in made.calls]
        if made.known and not _followed(network, found.tree, leaves, others):
            if kept is None:
                if self._program is None:
                    self._program = frugal(network.graph, self._places)
                return self._program(found.reader(self._program), made.calls, tensors, *leaves)
            if self._parts is None:
                self._parts = in_two(network.graph, self._places)
            head, rest = self._parts
            values = kept.values(lambda: head(network, *leaves))
            return rest(found.reader(rest), made.calls, tensors, *leaves, *values)
        plain = plain and all(call.decodes for call in made.calls)
        if plain:
            return network(*leaves)
        placed = dict(zip(self._places.sites, made.calls, strict=True))

        def planned(*given: Any) -> Any:
            return walk(network, given, modules=placed, tensors=tensors)

        # The hooks of the network itself run as they do when it is called.
        called = torch.nn.Module.__new__(torch.nn.Module)
        called.__dict__ = {**network.__dict__, "forward": planned}
        return called(*leaves)


def _followed(
    network: GraphModule,
    tree: ModuleTree,
    leaves: list[Any],
    called: list[torch.nn.Module],
) -> bool:
    """Whether somebody follows the run: autograd, a compiler, a tracer, a transform, a hook.

    Args:
        network: the graph.
        tree: all of its modules.
        leaves: its flat inputs.
        called: other modules that the run calls.
    """
    learning = torch.is_grad_enabled()
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
        or (learning and any(_learns(leaf) for leaf in leaves))
        or tree.followed(learning)
        or (bool(called) and ModuleTree(*called).followed(learning))
    )


def _learns(value: Any) -> bool:
    return isinstance(value, Tensor) and value.requires_grad
